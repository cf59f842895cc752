"""A crash before every file-system primitive of scripted lives of a run, then a resume.

Each crash happens in a process of its own, which ends without a word at the k-th primitive. What it
leaves must be exactly a state that was committed, the last one told or the one in flight.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.torture import controls
from tests.torture.common import Checker, Result, main, scratch
from tests.torture.lives import Child
from tests.torture.primitives import Counter, Killer, watched
from tests.torture.scripts import SCRIPTS, Plan, Script, finish, look, look_at_end, play


def count_primitives(path: Path, plan: Plan) -> int:
    """Return how many primitives a script has."""

    def job(report):
        with watched(counter := Counter()):
            play(lambda _: None, path, plan)
        report(counter.calls)

    child = Child(job)
    reports = child.reports()
    assert child.status == 0, f"{plan.script.name}: the script itself failed"
    shutil.rmtree(path)
    return reports[0]


def crash(checker: Checker, path: Path, plan: Plan, point: int, *, control: bool = False) -> tuple[str, str]:
    """Crash at a point, look, resume, look again; return what is bad (a field of `Result`) and how."""

    def job(report):
        with watched(Killer(point)):
            if control:
                with controls.commit_before_chunks():
                    play(report, path, plan)
            play(report, path, plan)

    child = Child(job)
    told = max(child.reports(), default=0)
    if child.status not in (0, 9):  # 0: this time there was one commit less, and the end came first
        return "lost", f"ended with status {child.status}, and not at the crash"
    kind, problem, state = look(checker, path, plan, plan.states[told : told + 3])
    if not kind:
        ending = Child(lambda report: finish(report, path, plan, state))
        if ending.reports() != ["done"]:
            return "lost", f"the resume from {state} failed"
        kind, problem = look_at_end(checker, path, plan, state)
    return kind, problem


def draw(points: int, most: int | None, chance: random.Random) -> list[int]:
    """Return all points, or as many as are wanted, drawn by chance."""
    return sorted(chance.sample(range(points), points if most is None else min(most, points)))


def crash_everywhere(script: Script, seed: int, most: int | None = None, *, control: bool = False) -> Result:
    """Crash at every point of a script, or at some that the seed draws."""
    name = f"crash points, {script.name}{', fsync' if script.fsync else ''}"
    result = Result(name + ", commit before chunks" * control, 0, seed=seed, control=control)
    plan = Plan(script, seed)
    with scratch() as folder, Checker() as checker:
        points = count_primitives(folder / "run.zarr", plan)
        for point in draw(points, most, random.Random(seed)):
            where = folder / str(point)
            where.mkdir()
            result.tried += 1
            result.blame(*crash(checker, where / "run.zarr", plan, point, control=control), f"point {point}")
            shutil.rmtree(where)
    result.notes = "; ".join(filter(None, [f"{points} points", result.notes]))
    return result


def run(*, long: bool, seed: int) -> Iterator[Result]:
    """Yield the results of every script, and of a writer that must fail."""
    import actlab.store.writer  # noqa: F401 - before the forks, which then cost no start

    first, *others = SCRIPTS
    yield crash_everywhere(first, seed, None if long else 5)
    for script in others:
        yield crash_everywhere(script, seed, 250 if long else 5)
    yield crash_everywhere(replace(SCRIPTS[1], fsync=False), seed, 100 if long else 8, control=True)


if __name__ == "__main__":
    main(run)
