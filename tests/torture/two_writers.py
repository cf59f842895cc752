"""Two processes that open one run at the same moment: one is refused; without the lock they spoil it."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from tests.torture import controls
from tests.torture.common import Checker, Result, as_row, axis, main, scratch
from tests.torture.lives import Attempt, Child, History, Report
from tests.torture.rows import events


def make_run(path: Path) -> None:
    """Make a run without rows, so that its first attempt is gone on with."""
    from actlab.store.writer import RunWriter

    RunWriter(path, axis=axis(), attributes={}, fsync=False).close()


def record(report: Report, path: Path, seed: int, batch: int, gate: int, *, is_free: bool) -> None:
    """Wait for the gate, open the run and append rows until killed; report None if refused."""
    from actlab.errors import StoreError
    from actlab.store.writer import RunWriter

    warnings.simplefilter("ignore")
    os.read(gate, 1)
    with controls.without_lock() if is_free else nullcontext():
        try:
            writer = RunWriter(path, axis=axis(), attributes={}, flush_every=0, fsync=False, resume=True)
        except StoreError as error:
            if not is_free and "is being written by another recorder" not in str(error):
                raise
            report(None)
            return
        report(0)
        for count, (split, step) in enumerate(events(), 1):
            writer.append(as_row(seed, 0, step, split))
            if count % batch == 0:
                writer.flush()
                report(count)


def race(checker: Checker, path: Path, seed: int, chance: random.Random, result: Result) -> None:
    """Let two processes open a run, kill them after a while, and look at what they leave."""
    Child(lambda _: make_run(path)).reports()
    read, write = os.pipe()
    is_free = result.control
    children = [
        Child(lambda report, batch=batch: record(report, path, seed, batch, read, is_free=is_free))
        for batch in (1, 3)
    ]
    os.write(write, b"go")
    seconds = chance.uniform(0.1, 0.3)
    for child in children:
        child.await_report()  # that it could open the run, or not
    for child in children:
        child.wait(seconds)
    told = [child.kill() for child in children]
    os.close(read)
    os.close(write)
    result.tried += 1
    counts = [max(each) for each in told if each and each[0] is not None]
    if not is_free and len(counts) != 1:
        result.lost += 1
        result.notes = result.notes or f"{len(counts)} of the two could open the run"
        return
    found = checker.check(path, seed)
    history = History([Attempt(rows=max(counts, default=0))])
    result.unopenable += bool(found["error"])
    result.torn += bool(found["torn"])
    result.wrong += bool(found["wrong"])
    result.lost += not found["error"] and history.missing(found) > 0
    problems = [found["error"], *found["torn"], *found["wrong"]]
    result.notes = result.notes or next((text for text in problems if text), "")[:200]


def races(name: str, most: int, seed: int, control: int = 0) -> Result:
    """Hold so many races, or until something is found; a control at least `control` of them."""
    result, chance = Result(name, 0, seed=seed, control=control > 0), random.Random(seed)
    with scratch() as folder, Checker() as checker:
        while result.tried < most and (result.tried < control or not result.bad):
            path = folder / f"run{result.tried}.zarr"
            race(checker, path, chance.randrange(1 << 30), chance, result)
            shutil.rmtree(path)
    return result


def run(*, long: bool, seed: int) -> Iterator[Result]:
    """Yield the results with and without the lock; the latter must fail."""
    import actlab.store.writer  # noqa: F401 - before the forks, which then cost no start

    yield races("two writers", 100 if long else 4, seed)
    yield races("two writers, no lock", 30, seed, control=30 if long else 1)


if __name__ == "__main__":
    main(run)
