"""Where the tools put what they make: nothing is lost, nothing is left half."""

import resource
from contextlib import contextmanager

import pytest
import xarray as xr

import actlab
from actlab.axis import FloatAxis
from actlab.errors import StoreError
from actlab.store.branching import branch
from actlab.store.compacting import compact
from actlab.store.merging import rank_path
from actlab.store.packing import pack
from actlab.store.repairing import repair
from actlab.store.writer import RunWriter

TOOLS = [compact, pack, branch]


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(params=TOOLS, ids=lambda tool: tool.__name__)
def refuse(request, record, path):
    """Return a function that runs a tool which must be refused in one line, and change nothing."""
    record()

    def call(out, source=path, **options):
        before = files(path.parent)
        with pytest.raises(StoreError) as refused:
            request.param(source, out, **options)
        assert "\n" not in str(refused.value)
        assert files(path.parent) == before
        assert not list(path.parent.glob(".*"))
        return str(refused.value)

    return call


@contextmanager
def full_disk():
    """Let no file grow beyond 300 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_output_that_exists_is_refused(refuse, path):
    (path.parent / "there").write_text("precious")
    assert "exists already; overwrite=True or --overwrite replaces it" in refuse(path.parent / "there")
    assert "is no actlab run; nothing was changed" in refuse(path.parent / "there", overwrite=True)
    (path.parent / "mine").mkdir()
    (path.parent / "mine" / "notes").write_text("precious")
    assert "is no actlab run; nothing was changed" in refuse(path.parent / "mine", overwrite=True)


def test_the_run_itself_is_never_the_output(refuse, path):
    for overwrite in (False, True):
        assert "is the run itself" in refuse(path, overwrite=overwrite)
        assert "lies in the run or around it" in refuse(path / "train" / "new.zarr", overwrite=overwrite)
        assert "lies in the run or around it" in refuse(path.parent, overwrite=overwrite)
    (path.parent / "link").symlink_to(path)
    assert "is the run itself" in refuse(path.parent / "link", overwrite=True)


def test_an_output_elsewhere_or_nowhere_is_refused(refuse, path):
    assert "expected a path on this machine" in refuse("s3://bucket/new.zarr")
    (path.parent / "file").write_text("in the way")
    assert "a parent of it is a file" in refuse(path.parent / "file" / "new.zarr")
    assert "no such run" in refuse(path.parent / "new.zarr", path.parent / "none.zarr")


def test_a_full_disk_leaves_what_was_there(refuse, path):
    with full_disk():
        assert "new: cannot be written: File too large" in refuse(path.parent / "new")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_run_at_the_output_is_replaced_at_the_end(tool, record, path, tmp_path):
    record()
    out = tmp_path / "some" / "where" / "new"
    assert tool(path, out) == str(out)
    before = files(out) if out.is_dir() else out.read_bytes()
    with full_disk(), pytest.raises(StoreError, match="cannot be written"):
        tool(path, out, overwrite=True)
    assert (files(out) if out.is_dir() else out.read_bytes()) == before
    assert tool(path, out, overwrite=True) == str(out)
    assert [entry.name for entry in out.parent.iterdir()] == ["new"]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_run_that_is_being_recorded_is_not_replaced(tool, record, path, tmp_path):
    compact(_closed(record, path), tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="is being written"):
        tool(tmp_path / "other.zarr", path, overwrite=True)


@pytest.mark.parametrize("tool", TOOLS)
def test_what_a_crash_left_beside_is_swept_unless_it_is_held(tool, record, path, tmp_path):
    _closed(record, path)
    out = tmp_path / "out.zarr"
    (tmp_path / ".out.zarr.0a1b2c3d.partial").write_bytes(b"half an archive")
    held, foreign = (tmp_path / f".out.zarr.{name}" for name in ("00000000.partial", "note"))
    foreign.touch()
    other = RunWriter(held, axis=FloatAxis(), attributes={}, fsync=False)
    tool(path, out)
    other.close()
    assert sorted(each.name for each in tmp_path.glob(".*")) == [held.name, foreign.name]


def _closed(record, path):
    record(close=False)
    return path


@pytest.fixture
def ranks(path, small_axis, later):
    """Record a run by two ranks."""
    for rank in range(2):
        said = {"ranks": {"rank": rank, "world_size": 2, "job": "a1"}, "epochs": "given"}
        writer = RunWriter(rank_path(path, rank), axis=small_axis, attributes=said, fsync=False)
        for step in range(5):
            writer.append(later(step, samples=2 + rank))
        writer.close()


def test_the_stores_of_all_ranks_are_taken(ranks, path, tmp_path):
    merged = actlab.open_run(path)
    assert merged.attributes["ranks"]["merged"] == [0, 1]
    for tool in TOOLS:
        out = tmp_path / tool.__name__ / "new.zarr"
        tool(path, out)
        again = actlab.open_run(out, verify="rows")
        xr.testing.assert_identical(again["train"].load(), merged["train"].load())
        xr.testing.assert_identical(again.raw("train").load(), merged.raw("train").load())
        names = {"new.zarr"} if tool is pack else {"new.zarr", "new.rank1.zarr"}
        assert {entry.name for entry in out.parent.iterdir()} == names
        with pytest.raises(StoreError, match="exists already"):
            tool(path, out)


def test_one_rank_alone_is_taken_alone(ranks, path, tmp_path):
    for rank in range(2):
        compact(path.with_name(f"run.rank{rank}.zarr"), tmp_path / f"one{rank}" / "new.zarr")
        assert [entry.name for entry in (tmp_path / f"one{rank}").iterdir()] == ["new.zarr"]


def test_a_rank_that_is_missing_is_said(ranks, path, tmp_path):
    rank_path(path, 1).rename(tmp_path / "away")
    for tool in TOOLS:
        with pytest.raises(StoreError, match="the store of rank 1 is missing"):
            tool(path, tmp_path / "new")
    assert {entry.name for entry in tmp_path.iterdir()} == {"run.zarr", "away"}


def test_the_stores_of_all_ranks_are_repaired(ranks, path):
    assert repair(path).done == ()
    (rank_path(path, 1) / "train" / "zarr.json").unlink()
    assert repair(path).done == ("run.rank1.zarr: brought 1 zarr.json below the root up to it",)
