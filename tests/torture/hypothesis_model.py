"""A state machine against a list: whatever a writer is made to go through, the run holds what it said.

Rules append, flush under injected faults, crash at any primitive, resume with a rewind and under faults,
send a second writer, branch, pack, compact and repair. After each of them the run is a committed state
with every acked row, bit by bit, and `open_run` shows the rows that the model says are live.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actlab import branch, compact, open_run, pack, repair
from actlab.errors import StoreError
from actlab.store.writer import RunWriter
from tests.torture import plain
from tests.torture.common import Result, check, compare, main
from tests.torture.crashes import abandon, crash
from tests.torture.primitives import Fault, watched
from tests.torture.rows import as_row, axis, events, place_of

QUICK, LONG = (40, 30), (120, 30)  # examples, steps in each
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where fsync costs nothing
SEED = 7  # of the rows

COUNTS = st.integers(1, 9)
PLACES = st.integers(0, 300)
TIMES = st.sampled_from([1, 2, 5, 10**9])
done: Counter[str] = Counter()  # what all examples did, for the published counts


class Recording(RuleBasedStateMachine):
    """One run, and what it must hold: `acked` rows, then perhaps some of `pending`."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="actlab-torture-", dir=FOLDER))
        self.path = self.folder / "run.zarr"
        self.acked: list[tuple[str, int, int]] = []  # split, attempt, step
        self.pending: list[tuple[str, int, int]] = []
        self.dropped: set[tuple[str, int, int]] = set()  # by crashes; chunks may hold them
        self.starts = [0]  # of the attempts that are known to be committed
        self.root = b""
        self.found: dict[str, list[tuple[int, int]]] = {}  # what the run holds by that root record
        self.looks = self.copies = 0
        self.writer = None
        done["examples"] += 1
        self.open(None)

    # The writer.

    def open(self, start: int | None) -> None:
        """Open a writer, and compare where it goes on with where it must."""
        starts = self.expected_starts(start)
        options = {"resume": True, "resume_step": start}
        self.writer = RunWriter(
            self.path, axis=axis(), attributes={"model": "Net"}, flush_every=3600, **options
        )
        self.starts = starts
        self.hold()
        resumed = self.writer.resumed
        steps = resumed.steps if resumed else {}
        assert (resumed.attempt if resumed else 0) == self.attempt
        assert steps.get("train", 0) == self.starts[-1]
        alive = self.live(self.acked)
        assert steps.get("valid", 0) > max((step for split, _, step in alive if split == "valid"), default=-1)
        self.events = events(self.starts[-1], steps.get("valid", 0))

    @property
    def attempt(self) -> int:
        return len(self.starts) - 1

    def expected_starts(self, start: int | None) -> list[int]:
        """Return the attempts after a resume."""
        if all(attempt < self.attempt for _, attempt, _ in self.acked):  # an idle attempt is taken back
            return [*self.starts[:-1], self.starts[-1] if start is None else start]
        return [*self.starts, self.next_train() if start is None else start]

    def hold(self) -> None:
        """Let the writer commit only when it is told to, so that examples repeat."""
        with self.writer._wake:
            self.writer._next_commit = monotonic() + 3600

    def live(self, rows: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
        """Return the rows that no later attempt has replaced."""
        found = []
        for split, attempt, step in rows:
            at = place_of(split, step)[2]
            later = self.starts[attempt + 1 :]
            if split == "train":
                is_dead = any(start <= at for start in later)
            else:
                again = any(
                    each == split and n > attempt and place_of(split, s)[2] == at for each, n, s in rows
                )
                is_dead = any(start < at or (start == at and again) for start in later)
            if not is_dead:
                found.append((split, attempt, step))
        return found

    # What is done to it. Each example begins with an open writer.

    is_open = precondition(lambda self: self.writer is not None)
    is_closed = precondition(lambda self: self.writer is None)

    @is_open
    @rule(count=COUNTS, skipped=st.sampled_from([0, 0, 0, 2]))
    def append_some(self, count, skipped):
        self.append(count, skipped)

    def append(self, count, skipped=0):
        for split, step in islice(self.events, skipped, skipped + count):
            assert self.writer.append(as_row(SEED, self.attempt, step, split))
            self.pending.append((split, self.attempt, step))

    @is_open
    @rule()
    def flush(self):
        told = self.writer.flush()
        self.hold()
        self.acked, self.pending = self.acked + self.pending, []
        assert told == self.last_steps(self.acked)

    @is_open
    @rule(count=COUNTS, place=PLACES, times=TIMES)
    def flush_with_fault(self, count, place, times):
        self.append(count)
        fault = Fault(place, times)
        with quiet(), watched(fault):
            told = self.writer.flush()
            self.hold()
        done["faults"] += fault.calls > place
        if told == self.last_steps(self.acked + self.pending):
            self.acked, self.pending = self.acked + self.pending, []
        assert told == self.last_steps(self.acked)

    @is_open
    @rule(count=COUNTS, place=PLACES)
    def crash_in_flush(self, count, place):
        self.append(count)
        done["crashes"] += 1
        crash(self.writer, place, quietly(self.writer.flush))
        self.writer = None
        self.settle()

    @is_open
    @rule()
    def crash(self):
        done["crashes"] += 1
        abandon(self.writer)
        self.writer = None
        self.dropped.update(self.pending)
        self.pending = []

    @is_open
    @rule()
    def close(self):
        self.writer.close()
        self.writer = None
        self.acked, self.pending = self.acked + self.pending, []

    @is_closed
    @rule(back=st.none() | st.integers(-3, 20))
    def resume(self, back):
        done["resumes"] += 1
        self.open(self.rewound(back))

    @is_closed
    @rule(back=st.none() | st.integers(-3, 20), place=PLACES, times=TIMES)
    def resume_with_fault(self, back, place, times):
        start = self.rewound(back)
        fault = Fault(place, times)
        after = self.expected_starts(start)
        with suppress(StoreError), quiet(), watched(fault):
            self.open(start)
        done["faults"] += fault.calls > place
        if self.writer is None and plain.load(self.path)[1]["attempts"] == after:
            self.starts = after

    def rewound(self, back: int | None) -> int | None:
        """Return a step to resume at, `back` before where the training is."""
        return None if back is None else max(self.next_train() - back, 0)

    def next_train(self) -> int:
        """Return the step after the last live row of the training."""
        return max((step + 1 for split, _, step in self.live(self.acked) if split == "train"), default=0)

    @is_open
    @rule(options=st.sampled_from([{}, {"resume": True}, {"resume_step": 0}, {"overwrite": True}]))
    def second_writer(self, options):
        done["second writers"] += 1
        with pytest.raises(StoreError, match="is being written"):
            RunWriter(self.path, axis=axis(), attributes={}, **options)

    @is_closed
    @rule()
    def repair(self):
        repair(self.path)
        assert not list(self.path.rglob(".*.partial"))
        # It takes back whole rows whose commit was cut short.
        for split, places in self.look().items():
            known = sum(row[0] == split for row in self.acked)
            more = [(split, *place) for place in places[known:]]
            assert self.dropped.issuperset(more)
            self.acked += more

    # These cost most, so that each example has few of them.

    @precondition(lambda self: self.looks < 2)
    @rule(options=st.sampled_from([{}, {"verify": "rows"}, {"verify": False}, {"all_attempts": True}]))
    def read(self, options):
        self.looks += 1
        done["opens"] += 1
        rows = self.visible()
        rows = rows if options == {"all_attempts": True} else self.live(rows)
        run = open_run(self.path, **options)
        assert self.places(run) == self.by_split(rows)
        for split in run.splits:
            assert (run[split].counts.sum("bucket") == run[split].n).all().compute()

    @precondition(lambda self: not self.copies)
    @rule(tool=st.sampled_from([None, None, None, None, pack, compact]))
    def copy(self, tool):
        if tool is None:
            return
        self.copies += 1
        done["copies"] += 1
        target = self.folder / ("packed.zarr.zip" if tool is pack else "compact.zarr")
        tool(self.path, target)
        found = self.places(open_run(target, verify="rows", all_attempts=True))
        assert found == self.by_split(self.visible())

    @precondition(lambda self: not self.copies and len(self.acked) > 12)
    @rule(back=st.none() | st.integers(0, 20))
    def branch(self, back):
        self.copies += 1
        done["copies"] += 1
        start = self.rewound(back)
        rows = self.live(self.visible())
        if start is not None:
            rows = [row for row in rows if place_of(row[0], row[2])[2] < start + (row[0] != "train")]
        branch(self.path, self.folder / "branch.zarr", step=start)
        found = self.places(open_run(self.folder / "branch.zarr", verify="rows", all_attempts=True))
        assert found == self.by_split([(split, 0, step) for split, _, step in rows])

    # What must hold.

    def visible(self) -> list[tuple[str, int, int]]:
        """Return the rows that the run holds by its root record: those acked, and the first pending ones."""
        found = self.look()
        count = sum(map(len, found.values()))
        rows = (self.acked + self.pending)[:count]
        assert count >= len(self.acked), "acked rows are lost"
        assert found == self.by_split(rows)
        return rows

    def look(self) -> dict[str, list[tuple[int, int]]]:
        """Return (attempt, step) of all rows, compared bit by bit; anew only if there was a commit."""
        root = (self.path / "zarr.json").read_bytes()
        if root != self.root:
            self.root = root
            done["commits"] += 1
            found = compare(*plain.load(self.path), SEED)
            assert not found["torn"] + found["wrong"]
            assert found["attributes"]["attempts"] == self.starts
            rows = found["rows"]
            self.found = {split: [tuple(row) for row in rows[split]] for split in sorted(rows)}
        return self.found

    @invariant()
    def holds_what_it_said(self):
        self.visible()

    def settle(self) -> None:
        """After a crash: what the run holds is what there is."""
        self.dropped.update(self.pending)
        self.acked, self.pending = self.visible(), []

    def teardown(self) -> None:
        if self.writer is not None:
            abandon(self.writer)
        found = check(str(self.path), SEED)
        shutil.rmtree(self.folder)
        assert not found["error"]
        assert not found["torn"] + found["wrong"]

    def last_steps(self, rows: list[tuple[str, int, int]]) -> dict[str, int]:
        return {split: step for split, _, step in self.live(rows)}

    @staticmethod
    def by_split(rows: list[tuple[str, int, int]]) -> dict[str, list[tuple[int, int]]]:
        splits = sorted({split for split, _, _ in rows})
        return {split: [(attempt, step) for each, attempt, step in rows if each == split] for split in splits}

    @staticmethod
    def places(run) -> dict[str, list[tuple[int, int]]]:
        """Return (attempt, step) of the rows that a run shows."""
        return {
            split: list(zip(run[split].attempt.values.tolist(), run[split].step.values.tolist(), strict=True))
            for split in sorted(run.splits)
        }


@contextmanager
def quiet():
    """A disk that fails is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def quietly(call):
    """Return a call that warns of nothing."""

    def called():
        with quiet():
            call()

    return called


def run(*, long: bool, seed: int) -> list[Result]:
    """Run the machine for as many examples as the form has."""
    examples, steps = LONG if long else QUICK
    done.clear()
    options = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    problem = ""
    try:
        run_state_machine_as_test(with_seed(seed)(Recording), settings=options)
    except Exception as error:  # noqa: BLE001 - whatever it is, the machine found it
        problem = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
    counts = ", ".join(f"{count} {what}" for what, count in sorted(done.items()))
    return [
        Result(
            "state machine",
            tried=done["examples"],
            wrong=int(bool(problem)),
            notes="; ".join(filter(None, [counts, problem[-3000:]])),
            seed=seed,
        )
    ]


if __name__ == "__main__":
    main(run)
