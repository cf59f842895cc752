"""The parts of the harnesses do what their figures rest on."""

import errno
import os
from itertools import islice

import numpy as np
import pytest

from actlab.store.row import row_checksum
from actlab.store.writer import RunWriter
from tests.torture import __main__ as torture
from tests.torture import tensors
from tests.torture.common import Checker, Result, as_row, axis, check
from tests.torture.lives import Attempt, Child, History, last_steps
from tests.torture.primitives import Counter, Fault, Killer, watched
from tests.torture.rows import checksum_of, events, expected_row
from tests.torture.scripts import SCRIPTS, Plan


@pytest.fixture
def run(tmp_path):
    """A run of 60 rows of one attempt, of seed 3."""
    writer = RunWriter(tmp_path / "run.zarr", axis=axis(), attributes={}, flush_every=60, fsync=False)
    for split, step in islice(events(), 60):
        assert writer.append(as_row(3, 0, step, split))
    writer.close()
    return tmp_path / "run.zarr"


class TestChecker:
    def test_finds_nothing_wrong_with_a_sound_run(self, run):
        found = check(str(run), 3)
        assert (found["error"], found["torn"], found["wrong"]) == (None, [], [])
        assert History([Attempt(rows=60)]).missing(found) == 0

    def test_lives_in_a_process_without_actlab(self, run):
        with Checker() as checker:
            assert checker.check(run, 3)["rows"] == check(str(run), 3)["rows"]
            assert checker.check(run.parent / "none", 3)["error"]

    @pytest.mark.parametrize(
        "name", ["counts/c.0.0.0", "step/c.0", "log_loss/c.0", "raw/head/c.0.0", "zarr.json"]
    )
    def test_finds_a_file_of_another_run(self, run, name, tmp_path):
        writer = RunWriter(tmp_path / "other.zarr", axis=axis(), attributes={}, flush_every=60, fsync=False)
        for split, step in islice(events(), 50):
            writer.append(as_row(4, 0, step, split))
        writer.close()
        where = name if name == "zarr.json" else f"train/{name}"
        (run / where).write_bytes((tmp_path / "other.zarr" / where).read_bytes())
        found = check(str(run), 3)
        assert found["error"] or found["torn"] or found["wrong"] or History([Attempt(rows=60)]).missing(found)

    def test_finds_missing_and_surplus_rows(self, run):
        found = check(str(run), 3)
        assert History([Attempt(rows=61)]).missing(found) > 0
        assert History([Attempt(rows=9), Attempt(3, 2)]).missing(found) == 0
        assert History([Attempt(1, 0)]).missing(found) > 0
        assert History([]).missing(found) > 0


@pytest.mark.parametrize("step", range(12))
def test_the_two_checksums_of_a_row_are_equal(step):
    assert row_checksum(as_row(1, 2, step), 2) == checksum_of(expected_row(1, 2, step))


def test_every_value_is_counted_once_by_the_other_check():
    lower, upper = axis().lower, axis().upper
    values = np.array([0, -0.0, 1, -1, 1.5, -1.5, 4, -4, 1e-9, -1e-9, np.inf, -np.inf, np.nan], np.float32)
    expected = np.bincount(axis().index(values), minlength=len(lower))
    assert tensors._count(values, lower, upper).tolist() == expected.tolist()


def test_an_attempt_goes_on_where_the_last_one_ended():
    history = History()
    assert history.next() == (0, Attempt())
    history.took(0, Attempt(), 15)  # 2 valid, 8 train, 2 valid, 3 train
    assert history.attempts[0].end() == (11, 4)
    assert last_steps(Attempt(), 15) == {"train": 10, "valid": 3}
    assert history.next(4) == (1, Attempt(4, 2))
    history.took(1, Attempt(4, 2), 0)
    assert history.next() == (1, Attempt(4, 2))
    assert history.next(2) == (1, Attempt(2, 2))


def test_a_plan_tells_the_states_of_a_script():
    plan = Plan(SCRIPTS[0], 1)
    counts = [None if state is None else (state[1], state[2]) for state in plan.states]
    assert counts[:6] == [None, ((0,), False), ((1,), False), ((8,), False), ((8,), True), ((8, 0), False)]
    assert counts[-1] == ((8, 1, 1), True)


class TestPrimitives:
    def test_are_all_counted(self, tmp_path):
        with watched(counter := Counter()):
            (tmp_path / "a").mkdir()
            with (tmp_path / "a" / "b").open("wb") as file:
                file.write(b"123")
                os.fsync(file.fileno())
            (tmp_path / "a" / "b").replace(tmp_path / "c")
            assert (tmp_path / "c").read_bytes() == b"123"
            (tmp_path / "c").unlink()
            (tmp_path / "a").rmdir()
        halves = {"first half": 1, "second half": 1}
        assert (
            counter.kinds
            == {"mkdir": 1, "open": 1, "fsync": 1, "replace": 1, "unlink": 1, "rmdir": 1} | halves
        )
        assert counter.calls == 8

    def test_fail_as_often_as_asked(self, tmp_path):
        with watched(Fault(1, 2, errno.EIO)):
            (tmp_path / "a").mkdir()
            for name in ("b", "c"):
                with pytest.raises(OSError, match="Input/output error"):
                    (tmp_path / name).mkdir()
            (tmp_path / "d").mkdir()
        assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "d"]

    def test_end_the_process_between_the_halves_of_a_write(self, tmp_path):
        def job(report):
            report("begun")
            with watched(Killer(2)):
                (tmp_path / "a").write_bytes(b"12345678")

        child = Child(job)
        assert (child.reports(), child.status) == (["begun"], 9)
        assert (tmp_path / "a").read_bytes() == b"1234"


def test_the_counts_are_published_between_their_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{torture._BEGIN}old\n{torture._END}after\n")
    results = [Result("a", 1000, notes="x|y\nz", seed=7), Result("b", 9, torn=3, control=True)]
    torture.publish(page, results, 2)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| a | 1,000 | 0 | 0 | 0 | 0 | 0.3 % | 7 | x/y z |" in text
    assert "1 of 1 did" in text


@pytest.mark.parametrize(
    ("result", "passed"),
    [
        (Result("sound", 5), True),
        (Result("sound", 5, lost=1), False),
        (Result("nothing tried", 0), False),
        (Result("control", 5, control=True), False),
        (Result("control", 5, wrong=1, control=True), True),
    ],
)
def test_a_result_passes_as_it_must(result, passed):
    assert result.passed is passed
