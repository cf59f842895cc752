"""An OSError at every file-system primitive of a scripted life: once, five in a row, and for ever.

The training must not notice: `append`, `flush` and `close` never raise. What was refused is tried
again, and in the end nothing is missing; where the disk never recovers, all that was told is there,
and a later process goes on.
"""

from __future__ import annotations

import errno
import math
import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from unittest.mock import patch

from tests.torture.common import Checker, Result, as_row, axis, main, scratch
from tests.torture.crash_points import count_primitives, draw
from tests.torture.lives import Child, Report, last_steps
from tests.torture.primitives import Fault, watched
from tests.torture.rows import events
from tests.torture.scripts import (
    SCRIPTS,
    Phase,
    Plan,
    Script,
    finish,
    look,
    look_at_end,
    small_chunks,
)

CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
TIMES = {"once": 1, "5 in a row": 5, "for ever": math.inf}
SCRIPT = Script("a rewind", (Phase({}, (1, 4)), Phase({"resume_step": 1}, (1, 1))))
_TRIES = 12


def open_writer(path: Path, how: dict, **options):
    """Open a writer, again where the disk refused; None if it always did."""
    from actlab.errors import StoreError
    from actlab.store.writer import RunWriter

    for _ in range(_TRIES):
        try:
            return RunWriter(path, axis=axis(), **options, **how)
        except StoreError:
            how = how or {"resume": True}  # what failed after its commit is there
    return None


def play_on(report: Report, path: Path, plan: Plan, fault: Fault) -> None:
    """Be the process of a script on a failing disk; report each state that was told to be reached."""
    from actlab.store import writer as writer_module

    index = 0
    with ExitStack() as stack:
        for name, seconds in (("_FIRST_PAUSE", 0.001), ("_LONGEST_PAUSE", 0.002), ("_PATIENCE", 0.02)):
            stack.enter_context(patch.object(writer_module, name, seconds))
        stack.enter_context(small_chunks(plan.script))
        told = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        stack.enter_context(watched(fault))
        for phase, (seed, number, start) in zip(plan.script.phases, plan.writers, strict=True):
            writer = open_writer(
                path, phase.how, attributes={"seed": seed}, flush_every=3600, fsync=plan.script.fsync
            )
            if writer is None:
                return
            index += 1 + bool(phase.how.get("overwrite"))
            report(index)
            rows, sent, taken = events(start.train, start.valid), 0, True
            for size in phase.batches:
                for split, step in islice(rows, size):
                    assert writer.append(as_row(seed, number, step, split))
                sent, index = sent + size, index + 1
                taken = any(writer.flush() == last_steps(start, sent) for _ in range(_TRIES))
                if taken:
                    report(index)
            writer.close()
            index += 1
            if not taken:
                break
    texts = [str(each.message) for each in told]
    assert all("cannot write" in text for text in texts), texts
    assert sum("tried again" in text for text in texts) <= len(plan.script.phases), texts


def fail(checker: Checker, path: Path, plan: Plan, point: int, times: float) -> tuple[str, str]:
    """Let the disk fail at a point, look, and resume; return what is bad (a field of `Result`) and how."""
    child = Child(lambda report: play_on(report, path, plan, Fault(point, times, CODES[point % len(CODES)])))
    told = max(child.reports(), default=0)
    if child.status != 0:
        return "lost", "the training noticed"
    allowed = plan.states[told : told + 3] if math.isinf(times) else plan.states[-1:]
    kind, problem, state = look(checker, path, plan, allowed)
    if not kind:
        ending = Child(lambda report: finish(report, path, plan, state))
        if ending.reports() != ["done"]:
            return "lost", f"the resume from {state} failed"
        kind, problem = look_at_end(checker, path, plan, state)
    return kind, problem


def fail_everywhere(script: Script, how_often: str, seed: int, most: int | None = None) -> Result:
    """Fail at every point of a script, or at some that the seed draws."""
    result = Result(f"OSError {how_often}, {script.name}", 0, seed=seed)
    plan = Plan(script, seed)
    with scratch() as folder, Checker() as checker:
        points = count_primitives(folder / "run.zarr", plan)
        for point in draw(points, most, random.Random(f"{seed} {how_often}")):
            where = folder / str(point)
            where.mkdir()
            result.tried += 1
            result.blame(*fail(checker, where / "run.zarr", plan, point, TIMES[how_often]), f"point {point}")
            shutil.rmtree(where)
    result.notes = "; ".join(filter(None, [f"{points} points", result.notes]))
    return result


def run(*, long: bool, seed: int) -> Iterator[Result]:
    """Yield the results of all ways to fail."""
    import actlab.store.writer  # noqa: F401 - before the forks, which then cost no start

    yield fail_everywhere(SCRIPT, "once", seed, 600 if long else 4)
    for how_often in ("5 in a row", "for ever"):
        yield fail_everywhere(SCRIPT, how_often, seed, 100 if long else 3)
    for script in SCRIPTS[1:]:
        yield fail_everywhere(script, "once", seed, 150 if long else 2)


if __name__ == "__main__":
    main(run)
