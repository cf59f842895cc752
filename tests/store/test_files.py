"""Taking hold of a directory: what is replaced, what is kept, what is refused, who may write."""

import os

import pytest

from actlab.errors import StoreError
from actlab.store import files
from actlab.store.files import RunDirectory, open_directory
from actlab.store.layout import ROOT, root_record

MODES = ["new", "replace", "resume"]


def take(path, mode="new", fsync=False):
    return RunDirectory(path, mode=mode, fsync=fsync)


def contents(path):
    return {item: item.read_bytes() for item in path.rglob("*") if item.is_file()}


@pytest.fixture
def old_run(tmp_path):
    """An actlab run with a chunk, not being written."""
    directory = take(tmp_path / "run.zarr")
    directory.write("train/step/c.0", b"old")
    directory.write(ROOT, root_record({}, {}))
    directory.release()
    return tmp_path / "run.zarr"


@pytest.mark.parametrize("mode", MODES)
def test_missing_parents_are_made(mode, tmp_path):
    directory = open_directory(tmp_path / "a" / "b" / "run.zarr", mode)
    assert directory.path == str(tmp_path / "a" / "b" / "run.zarr")
    directory.write("x/y", b"1")
    directory.sync()
    directory.release()
    assert (tmp_path / "a" / "b" / "run.zarr" / "x" / "y").read_bytes() == b"1"


def test_every_directory_with_a_new_name_in_it_is_synced(tmp_path, monkeypatch):
    synced, opened = [], os.open
    monkeypatch.setattr(
        os, "open", lambda path, *rest, **more: synced.append(path) or opened(path, *rest, **more)
    )
    directory = take(tmp_path / "a" / "run.zarr", fsync=True)
    directory.write("x/y", b"1")
    synced.clear()
    directory.sync()
    run = tmp_path / "a" / "run.zarr"
    assert set(synced) == {tmp_path, tmp_path / "a", run, run / "x"}
    synced.clear()
    directory.sync()
    directory.release()
    assert synced == []


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_directory_is_as_good_as_none(mode, tmp_path):
    (tmp_path / ".0a1b2c3d.partial").write_bytes(b"what a killed writer left")
    take(tmp_path, mode).release()
    assert not list(tmp_path.iterdir())


def test_what_nothing_was_written_to_is_removed_again(tmp_path):
    take(tmp_path / "run.zarr", "resume").release()
    assert not list(tmp_path.iterdir())


def test_a_run_is_replaced_only_on_request(old_run):
    with pytest.raises(StoreError, match="holds a run already; overwrite=True replaces it, resume=True goes"):
        take(old_run)
    assert (old_run / "train" / "step" / "c.0").read_bytes() == b"old"
    take(old_run, "replace").release()
    assert not list(old_run.iterdir())
    assert [path.name for path in old_run.parent.iterdir()] == ["run.zarr"]


def test_a_run_that_is_gone_on_with_is_kept_and_swept(old_run):
    before = contents(old_run)
    leftovers = [old_run / ".0a1b2c3d.partial", old_run / "train" / "step" / ".89abcdef.partial"]
    for leftover in leftovers:
        leftover.write_bytes(b"what a killed writer left")
    notes = old_run / ".notes.partial"
    notes.write_text("not the writer's")
    directory = take(old_run, "resume")
    assert contents(old_run) == before | {notes: b"not the writer's"}
    assert directory.read("train/step/c.0") == b"old"
    with pytest.raises(FileNotFoundError):
        directory.read("train/step/c.1")
    directory.release()


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_only_regular_files_are_read(kind, old_run):
    directory = take(old_run, "resume")
    target = old_run / "train" / "c.0"
    make = {"link": lambda: target.symlink_to("/etc/hosts"), "pipe": lambda: os.mkfifo(target)}
    make.get(kind, target.mkdir)()
    with pytest.raises(OSError, match=r"no regular file|symbolic link|Is a directory"):
        directory.read("train/c.0")
    directory.release()


class TestInterruptedReplacement:
    """A crash while a run is replaced leaves it under another name; only another replacement removes it."""

    @pytest.fixture
    def leftover(self, old_run):
        old = old_run.with_name(".run.zarr.0a1b2c3d.old")
        old_run.rename(old)
        return old

    @pytest.mark.parametrize("mode", ["new", "resume"])
    def test_stays_where_nothing_is_to_be_removed(self, mode, leftover):
        before = contents(leftover)
        take(leftover.with_name("run.zarr"), mode).release()
        assert contents(leftover) == before

    def test_is_removed_by_the_next_one(self, leftover):
        other = leftover.with_name(".other.zarr.0a1b2c3d.old")
        other.mkdir()
        take(leftover.with_name("run.zarr"), "replace").release()
        assert [path.name for path in leftover.parent.iterdir()] == [other.name]

    def test_is_left_to_who_is_at_it(self, leftover):
        lock = files._lock(leftover)
        take(leftover.with_name("run.zarr"), "replace").release()
        os.close(lock)
        assert leftover.exists()

    def test_the_run_stays_where_the_disk_refuses(self, old_run, failing_disk):
        before = contents(old_run)
        # The first `mkdir` finds the directory, the second one is to make a new one.
        with failing_disk(2), pytest.raises(StoreError, match="cannot be replaced: No space left"):
            take(old_run, "replace")
        assert contents(old_run) == before
        take(old_run, "replace").release()
        assert [path.name for path in old_run.parent.iterdir()] == ["run.zarr"]


def test_a_link_to_a_run_stays_a_link(old_run, tmp_path):
    link = tmp_path / "link.zarr"
    link.symlink_to(old_run)
    take(link, "replace").release()
    assert link.is_symlink()
    assert not list(old_run.iterdir())


@pytest.mark.parametrize("mode", MODES)
class TestWhatIsNoRunIsNeverTouched:
    def refuse(self, path, mode, reason):
        before = contents(path.parent)
        with pytest.raises(StoreError, match=reason) as error:
            take(path, mode)
        assert "\n" not in str(error.value)
        assert contents(path.parent) == before

    def test_a_file(self, tmp_path, mode):
        (tmp_path / "thesis.tex").write_text("three years of work")
        self.refuse(tmp_path / "thesis.tex", mode, "is a file")

    def test_below_a_file(self, tmp_path, mode):
        (tmp_path / "file").write_text("x")
        with pytest.raises(StoreError, match="a parent of it is a file"):
            take(tmp_path / "file" / "run.zarr", mode)

    def test_a_directory_of_other_things(self, tmp_path, mode):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "me.jpg").write_text("x")
        (tmp_path / "photos" / ".0a1b2c3d.partial").write_text("x")
        self.refuse(tmp_path / "photos", mode, "is no actlab run")

    @pytest.mark.parametrize("record", ["{", "[]", '{"attributes": null}', '{"attributes": {"other": 1}}'])
    def test_another_zarr_group(self, tmp_path, mode, record):
        (tmp_path / "data.zarr").mkdir()
        (tmp_path / "data.zarr" / ROOT).write_text(record)
        self.refuse(tmp_path / "data.zarr", mode, "is no actlab run")

    @pytest.mark.parametrize("record", ["", '{"zarr_format": 3, "attri', None])
    def test_a_run_whose_root_record_is_lost(self, tmp_path, mode, record):
        (tmp_path / "run.zarr" / "train").mkdir(parents=True)
        (tmp_path / "run.zarr" / "train" / ROOT).write_text("{}")
        if record is not None:
            (tmp_path / "run.zarr" / ROOT).write_text(record)
        self.refuse(tmp_path / "run.zarr", mode, "is missing or damaged, which `actlab repair` may mend")

    def test_a_run_that_is_being_written(self, tmp_path, mode):
        directory = take(tmp_path / "run.zarr")
        directory.write(ROOT, root_record({}, {}))
        self.refuse(tmp_path / "run.zarr", mode, "is being written by another recorder")
        directory.release()


@pytest.mark.parametrize("mode", ["new", "replace"])
def test_a_run_with_something_else_in_it_is_not_replaced(mode, old_run):
    (old_run / "notes.txt").write_text("x")
    before = contents(old_run)
    with pytest.raises(StoreError, match=r"holds 'notes\.txt', which is no part of a run"):
        take(old_run, mode)
    assert contents(old_run) == before
    take(old_run, "resume").release()
    assert contents(old_run) == before


def test_a_forked_child_does_not_keep_the_lock(old_run):
    directory = take(old_run, "resume")
    hold, let_go = os.pipe()
    if (child := os.fork()) == 0:  # by another thread, before the writer is known
        os.close(let_go)
        os.read(hold, 1)
        directory.release()
        os._exit(0)
    try:
        directory.release()
        again = take(old_run, "resume")
    finally:
        os.close(let_go)
        assert os.waitpid(child, 0)[1] == 0
        os.close(hold)
    with pytest.raises(StoreError, match="is being written by another recorder"):
        take(old_run, "resume")
    again.release()


def test_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = RunDirectory("~/runs/a.zarr", mode="new", fsync=False)
    assert directory.path == str(tmp_path / "runs" / "a.zarr")
    assert (tmp_path / "runs" / "a.zarr").is_dir()
    directory.release()
