"""Scripted lives of a run, whose states on disk can all be told in advance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from unittest.mock import patch

from tests.torture.common import Checker, as_row, axis
from tests.torture.lives import Attempt, History, Report, last_steps, leftovers
from tests.torture.rows import LEAN, events

State = tuple[int, tuple[int, ...], bool] | None
"""Seed of the run, committed rows of each attempt, whether it is closed; None: there is no run."""


@dataclass(frozen=True)
class Phase:
    """One writer: how it opens, how many rows it appends before each flush; then it is closed."""

    how: dict
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Script:
    """Writers, one after the other."""

    name: str
    phases: tuple[Phase, ...]
    fsync: bool = True
    is_lean: bool = True  # without side data
    every_child: bool = False  # bring the children's metadata up at every commit
    ending: dict = field(default_factory=lambda: {"resume": True})  # how the one after the crash opens it


SCRIPTS = (
    Script(
        "resume and two rewinds",
        (Phase({}, (1, 7)), Phase({"resume_step": 4}, (1,)), Phase({"resume_step": 2}, (1,))),
    ),
    Script("layers, logs and side data grow", (Phase({}, (1, 14)),), is_lean=False, every_child=True),
    Script("overwrite", (Phase({}, (1,)), Phase({"overwrite": True}, (1, 3))), ending={"overwrite": True}),
)


@dataclass
class Plan:
    """A script with its writers' places and the states it goes through, in order."""

    script: Script
    number: int
    writers: list[tuple[int, int, Attempt]] = field(default_factory=list)  # seed, number, start
    states: list[State] = field(default_factory=lambda: [None])

    @property
    def seed(self) -> int:
        """Seed of the rows."""
        return self.number + (LEAN if self.script.is_lean else 0)

    def __post_init__(self) -> None:
        history, seed = History(), self.seed
        for phase in self.script.phases:
            if phase.how.get("overwrite"):
                history, seed = History(), seed + 1
                self.states.append(None)
            number, start = history.next(phase.how.get("resume_step"))
            history.took(number, start, 0)
            self.writers.append((seed, number, start))
            counts = [sum(phase.batches[:index]) for index in range(len(phase.batches) + 1)]
            before = tuple(attempt.rows for attempt in history.attempts[:number])
            self.states += [(seed, (*before, count), False) for count in counts]
            self.states.append((seed, (*before, counts[-1]), True))
            history.took(number, start, counts[-1])


@contextmanager
def small_chunks(script: Script) -> Iterator[None]:
    """Let a few rows fill several chunks."""
    from actlab.store import arrays, commit

    with ExitStack() as stack:
        stack.enter_context(patch.object(arrays, "_MOST_ROWS", 4))
        stack.enter_context(patch.object(arrays, "_MOST_SAMPLES", 8))
        if script.every_child:
            stack.enter_context(patch.object(commit, "_CHILDREN_EVERY", 0.0))
        yield


def play(report: Report, path: Path, plan: Plan) -> None:
    """Be the process of a script; report the index of each state that was told to be reached."""
    from actlab.store.writer import RunWriter

    index = 0
    with small_chunks(plan.script):
        for phase, (seed, number, start) in zip(plan.script.phases, plan.writers, strict=True):
            options = {"attributes": {"seed": seed}, "flush_every": 3600, "fsync": plan.script.fsync}
            writer = RunWriter(path, axis=axis(), **options, **phase.how)
            index += 1 + bool(phase.how.get("overwrite"))
            report(index)
            rows, sent = events(start.train, start.valid), 0
            for size in phase.batches:
                for split, step in islice(rows, size):
                    assert writer.append(as_row(seed, number, step, split))
                sent += size
                assert writer.flush() == last_steps(start, sent)
                report(index := index + 1)
            writer.close()
            report(index := index + 1)


def state_of(found: dict) -> State:
    """Return the state in which the checker found a run."""
    said = found["attributes"]
    counts = [0] * len(said["attempts"])
    for rows in found["rows"].values():
        for number, _ in rows:
            counts[number] += 1
    return said["seed"], tuple(counts), said["closed"]


def look(checker: Checker, path: Path, plan: Plan, allowed: list[State]) -> tuple[str, str, State]:
    """Say what is bad about a store (a field of `Result`) and how, and its state; "" if nothing is."""
    if not (path / "zarr.json").exists():
        return ("", "", None) if None in allowed else ("lost", "the run is not there", None)
    found = checker.check(path, plan.seed)
    for kind, problem in (("unopenable", found["error"]), ("torn", found["torn"]), ("wrong", found["wrong"])):
        if problem:
            return kind, str(problem), None
    state = state_of(found)
    if state not in allowed:
        return "lost", f"found {state}, expected one of {allowed}", state
    history = history_of(plan, state)
    if missing := history.missing(found):
        return "lost", f"{missing} rows are not at their place in {state}", state
    return "", "", state


def history_of(plan: Plan, state: State) -> History:
    """Return the attempts of a run in one of the states of a script."""
    history = History()
    if state is not None:
        for number, rows in enumerate(state[1]):
            starts = [start for seed, each, start in plan.writers if (seed, each) == (state[0], number)]
            history.took(number, starts[0], rows)
    return history


def ending_of(plan: Plan, state: State) -> tuple[int, int, Attempt, tuple[int, ...]]:
    """Return seed, attempt and start of the writer after a crash, and the committed rows it finds."""
    if plan.script.ending.get("overwrite"):
        return plan.seed + 9, 0, Attempt(), ()
    number, start = history_of(plan, state).next()
    return (plan.seed, 0, start, ()) if state is None else (state[0], number, start, state[1][:number])


def finish(report: Report, path: Path, plan: Plan, state: State) -> None:
    """Be the process that goes on with what was left, records four rows and closes."""
    from actlab.store.writer import RunWriter

    seed, number, start, _ = ending_of(plan, state)
    options = {"attributes": {"seed": seed}, "flush_every": 3600, "fsync": plan.script.fsync}
    with small_chunks(plan.script):
        writer = RunWriter(path, axis=axis(), **options, **plan.script.ending)
        for split, step in islice(events(start.train, start.valid), 4):
            assert writer.append(as_row(seed, number, step, split))
        assert writer.flush() == last_steps(start, 4)
        writer.close()
    report("done")


def look_at_end(checker: Checker, path: Path, plan: Plan, state: State) -> tuple[str, str]:
    """Say what is bad about the store that `finish` left."""
    seed, number, start, counts = ending_of(plan, state)
    found = checker.check(path, seed)
    for kind, problem in (("unopenable", found["error"]), ("torn", found["torn"]), ("wrong", found["wrong"])):
        if problem:
            return kind, f"after the resume: {problem}"
    history = history_of(plan, state) if counts else History()
    history.took(number, start, 4)
    if (end := state_of(found)) != (seed, (*counts, 4), True) or history.missing(found):
        return "lost", f"after the resume: found {end}, expected {(*counts, 4)}"
    if left := leftovers(path):
        return "lost", f"after the resume: left {left}"
    return "", ""
