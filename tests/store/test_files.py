"""Taking hold of a directory: what is replaced, what is refused, who may write."""

import pytest

from actlab.errors import StoreError
from actlab.store.files import RunDirectory
from actlab.store.layout import ROOT, root_record


def take(path, overwrite=False):
    return RunDirectory(path, overwrite=overwrite, fsync=False)


@pytest.fixture
def old_run(tmp_path):
    """An actlab run with a chunk, not being written."""
    directory = take(tmp_path / "run.zarr")
    directory.write("train/step/c.0", b"old")
    directory.write(ROOT, root_record({}, {}))
    directory.release()
    return directory.path


def test_missing_parents_are_made(tmp_path):
    directory = take(tmp_path / "a" / "b" / "run.zarr")
    directory.write("x/y", b"1")
    assert (tmp_path / "a" / "b" / "run.zarr" / "x" / "y").read_bytes() == b"1"
    directory.release()


def test_an_empty_directory_is_as_good_as_none(tmp_path):
    (tmp_path / ".0a1b2c3d.partial").write_bytes(b"what a killed writer left")
    take(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_a_run_is_replaced_only_on_request(old_run):
    with pytest.raises(StoreError, match="holds a run already; overwrite=True replaces it"):
        take(old_run)
    assert (old_run / "train" / "step" / "c.0").read_bytes() == b"old"
    take(old_run, overwrite=True).release()
    assert not list(old_run.iterdir())
    assert [path.name for path in old_run.parent.iterdir()] == ["run.zarr"]


def test_a_link_to_a_run_stays_a_link(old_run, tmp_path):
    link = tmp_path / "link.zarr"
    link.symlink_to(old_run)
    take(link, overwrite=True).release()
    assert link.is_symlink()
    assert not list(old_run.iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
class TestWhatIsNoRunIsNeverRemoved:
    def refuse(self, path, overwrite, reason):
        before = {item: item.read_bytes() for item in path.parent.rglob("*") if item.is_file()}
        with pytest.raises(StoreError, match=reason) as error:
            take(path, overwrite=overwrite)
        assert "\n" not in str(error.value)
        assert before == {item: item.read_bytes() for item in path.parent.rglob("*") if item.is_file()}

    def test_a_file(self, tmp_path, overwrite):
        (tmp_path / "thesis.tex").write_text("three years of work")
        self.refuse(tmp_path / "thesis.tex", overwrite, "is a file")

    def test_below_a_file(self, tmp_path, overwrite):
        (tmp_path / "file").write_text("x")
        with pytest.raises(StoreError, match="a parent of it is a file"):
            take(tmp_path / "file" / "run.zarr", overwrite=overwrite)

    def test_a_directory_of_other_things(self, tmp_path, overwrite):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "me.jpg").write_text("x")
        self.refuse(tmp_path / "photos", overwrite, "is no actlab run")

    @pytest.mark.parametrize("record", ["{", "[]", '{"attributes": null}', '{"attributes": {"other": 1}}'])
    def test_another_zarr_group(self, tmp_path, overwrite, record):
        (tmp_path / "data.zarr").mkdir()
        (tmp_path / "data.zarr" / ROOT).write_text(record)
        self.refuse(tmp_path / "data.zarr", overwrite, "is no actlab run")

    def test_a_run_with_something_else_in_it(self, old_run, overwrite):
        (old_run / "notes.txt").write_text("x")
        self.refuse(old_run, overwrite, r"holds 'notes\.txt', which is no part of a run")

    def test_a_run_that_is_being_written(self, tmp_path, overwrite):
        directory = take(tmp_path / "run.zarr")
        directory.write(ROOT, root_record({}, {}))
        self.refuse(tmp_path / "run.zarr", overwrite, "is being written by another recorder")
        directory.release()


def test_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = RunDirectory("~/runs/a.zarr", overwrite=False, fsync=False)
    directory.release()
    assert directory.path == tmp_path / "runs" / "a.zarr"
    assert directory.path.is_dir()
