"""Every point where a commit can break off."""

import itertools
import os
import shutil

import pytest

from actlab.errors import StoreError
from actlab.store import arrays
from actlab.store.beginning import begin
from actlab.store.commit import Committer
from actlab.store.files import RunDirectory

# Three commits: a new run, then a partial chunk again, then new layers, a late log and a second split.
PLAN = (
    ({"step": 0}, {"step": 1}, {"step": 2}),
    ({"step": 3},),
    ({"step": 4, "layers": 11, "logs": ("late", "loss")}, {"step": 0, "split": "valid", "layers": 11}),
)


@pytest.fixture
def steps(make_row, monkeypatch):
    """Return the rows of each commit, over chunks so small that a commit touches several."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # counted as a call, but not waited for
    monkeypatch.setattr(arrays, "_MOST_ROWS", 2)
    monkeypatch.setattr(arrays, "_MOST_SAMPLES", 4)
    return [[make_row(**options) for options in rows] for rows in PLAN]


def committed(steps, number):
    """Return the rows of the first commits, in the order plain xarray shows them."""
    rows = list(itertools.chain.from_iterable(steps[:number]))
    return sorted(rows, key=lambda row: (row.split, row.step))


def prepare(path, axis, steps, number):
    """Make a run with the first commits done and the rows of the next one added."""
    committer = Committer(RunDirectory(path, mode="new", fsync=True), begin(axis))
    committer.commit({})
    for rows in steps[:number]:
        committer.add(rows)
        committer.commit({})
        committer.write_children(closing=False)
    committer.add(steps[number])
    return committer


def finish(committer, steps, number):
    """Do what is left to do."""
    committer.commit({})
    committer.write_children(closing=False)
    for rows in steps[number + 1 :]:
        committer.add(rows)
        committer.commit({})
    committer.write_children(closing=True)
    committer.release()


def succeeds(committer):
    """Try to commit; say whether the disk let it."""
    try:
        committer.commit({})
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", range(len(PLAN)))
def test_a_crash_at_any_point_leaves_a_committed_state(
    number, tmp_path, small_axis, steps, failing_disk, fingerprint, stored_rows
):
    with failing_disk() as disk:
        committer = prepare(tmp_path / "count", small_axis, steps, number)
        before = disk.calls
        finish(committer, steps, number)
    points = range(1, disk.calls - before + 1)
    assert len(points) > 100
    seen = set()
    # Every one would take a minute; a stride that is coprime to the calls per file meets each kind.
    for point in points[number::31]:
        path = tmp_path / str(point)
        committer = prepare(path, small_axis, steps, number)
        with failing_disk(point, times=10**9), pytest.raises(OSError, match="No space left"):
            finish(committer, steps, number)
        found = [fingerprint(row) for row, *_ in stored_rows(path)]
        states = [[fingerprint(row) for row in committed(steps, n)] for n in range(number, len(PLAN) + 1)]
        assert found in states
        seen.add(states.index(found))
        committer.release()
    assert seen >= {0, 1}


def test_a_commit_repeated_after_an_error_loses_nothing(
    tmp_path, small_axis, steps, failing_disk, fingerprint, stored_rows
):
    for point, times in zip(range(1, 400, 37), itertools.cycle([1, 5]), strict=False):
        path = tmp_path / str(point)
        committer = prepare(path, small_axis, steps, 0)
        with failing_disk(point, times=times):
            for rows in [[], *steps[1:]]:
                committer.add(rows)
                while not succeeds(committer):
                    pass
        committer.write_children(closing=True)
        committer.release()
        expected = [fingerprint(row) for row in committed(steps, len(PLAN))]
        assert [fingerprint(row) for row, *_ in stored_rows(path)] == expected
        assert [fingerprint(row) for row, *_ in stored_rows(path, consolidated=False)] == expected
        assert not list(path.rglob("*.partial"))


def test_another_writers_run_is_left_alone(tmp_path, small_axis, steps):
    committer = prepare(tmp_path / "run", small_axis, steps, 0)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(StoreError, match="was removed while it was being recorded"):
        committer.commit({})
    other = prepare(tmp_path / "run", small_axis, steps, 0)
    other.commit({})
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match="another writer took over"):
        committer.commit({})
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_children_alone_show_the_closed_run(tmp_path, small_axis, steps, fingerprint, stored_rows):
    committer = prepare(tmp_path / "run", small_axis, steps, 0)
    finish(committer, steps, 0)
    alone = stored_rows(tmp_path / "run", consolidated=False)
    assert [fingerprint(row) for row, *_ in alone] == [fingerprint(row) for row in committed(steps, 3)]


def test_a_row_taken_in_part_is_never_committed(tmp_path, small_axis, make_row, monkeypatch):
    committer = Committer(RunDirectory(tmp_path / "run", mode="new", fsync=False), begin(small_axis))
    committer.add([make_row(0)])
    committer.commit({})
    before = (tmp_path / "run" / "zarr.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(arrays.GrowingArray, "extend_filled", lambda array, count: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            committer.add([make_row(1, logs=())])  # breaks off at the log it does not have
    committer.add([make_row(2)])
    with pytest.raises(StoreError, match="a row was taken in part only, nothing more can be committed"):
        committer.commit({})
    committer.release()
    assert (tmp_path / "run" / "zarr.json").read_bytes() == before
