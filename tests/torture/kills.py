"""kill -9 at random times, again and again on the same stores, with resumes and rewinds.

The parent keeps what `flush` returned; another process compares every row, bit by bit, by plain xarray.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.torture import controls
from tests.torture.common import Checker, Result, as_row, axis, main, scratch
from tests.torture.lives import Attempt, Child, History, Report, last_steps, leftovers
from tests.torture.rows import EPOCH, events, place_of

LIVES = 9  # one new run and eight resumes
Life = Callable[[Report, Path, int, int, Attempt, dict, random.Random], None]


def write_rows(
    report: Report, path: Path, seed: int, number: int, start: Attempt, how: dict, chance: random.Random
) -> None:
    """Be a training that appends rows as fast as it can."""
    from actlab.store.writer import RunWriter

    options = {"flush_every": chance.choice([0, 0.003, 0.03]), "fsync": chance.random() < 0.2}
    writer = RunWriter(path, axis=axis(), attributes={}, **options, **how)
    if writer.resumed is not None:
        found = (
            writer.resumed.attempt,
            *(writer.resumed.steps.get(split, 0) for split in ("train", "valid")),
        )
        assert found == (number, start.train, start.valid), (found, number, start)
    report(0)
    rows = chance.choice([1, 2, 5, 16])
    for count, (split, step) in enumerate(events(start.train, start.valid), 1):
        writer.append(as_row(seed, number, step, split))
        if count % rows == 0:
            assert (found := writer.flush()) == last_steps(start, count), found
            report(count)


def record_tensors(
    report: Report, path: Path, seed: int, number: int, start: Attempt, how: dict, chance: random.Random
) -> None:
    """Be a training that is recorded by the public API."""
    import torch

    import actlab
    from tests.torture import tensors

    torch.set_num_threads(1)
    model = tensors.make_model()
    recorder = actlab.Recorder(model, path, flush_every=chance.choice([0, 0.003, 0.03]), **how)
    report(0)
    rows = chance.choice([1, 3, 9])
    for count, (split, step) in enumerate(events(start.train, start.valid), 1):
        values, label = tensors.values_of(seed, number, split, step)
        with recorder.batch(split, epoch=place_of(split, step)[0], labels=torch.from_numpy(label)):
            model(torch.from_numpy(values))
        if split == "train":
            recorder.log(loss=tensors.loss_of(seed, number, step))
        # A flush before an evaluation says that it comes again after a resume; here it goes on within one.
        ends_epoch = split == "train" and (step + 1) % EPOCH == 0
        if count % rows == 0 and not ends_epoch:
            assert (found := recorder.flush()) == last_steps(start, count), found
            report(count)


class Tally:
    """Counts what the kills of one kind of writer did to its stores."""

    def __init__(self, name: str, seed: int, *, control: bool = False, kind: str = "rows") -> None:
        self.result = Result(name, 0, seed=seed, control=control)
        self.hit = self.beyond = self.failed = 0
        self._kind = kind

    def verify(self, checker: Checker, path: Path, seed: int, history: History, acked: int) -> bool:
        """Look at a store after a kill; return whether it goes on."""
        self.result.tried += 1
        self.hit += bool(leftovers(path))
        if not history.attempts and not (path / "zarr.json").exists():
            return True  # killed before anything was promised
        found = checker.check(path, seed, self._kind)
        if found["error"]:
            self.result.unopenable += 1
            self.note(f"{path}: {found['error']}")
            return False
        before = history.attempts[-1].rows if history.attempts else 0
        missing = history.missing(found)
        self.beyond += bool(history.attempts) and max(before, acked) < history.attempts[-1].rows
        self.result.lost += bool(missing)
        self.result.wrong += bool(found["wrong"])
        self.result.torn += bool(found["torn"])
        for problem in (*found["wrong"], *found["torn"]):
            self.note(f"{path}: {problem}")
        if missing:
            self.note(
                f"{path}: {missing} rows not as they must be, of {history}, found {found['rows']}"[:2000]
            )
        return not (missing or found["wrong"] or found["torn"])

    def note(self, text: str) -> None:
        """Keep the first thing that went wrong."""
        self.result.notes = self.result.notes or text

    def done(self) -> Result:
        """Return the result, with how many kills hit a write."""
        tried = max(self.result.tried, 1)
        shares = (
            f"{self.hit / tried:.0%} left a temporary file, {self.beyond / tried:.0%} went past the last ack"
        )
        self.result.notes = "; ".join(filter(None, [shares, self.result.notes]))
        return self.result


def kill_store(
    tally: Tally,
    checker: Checker,
    path: Path,
    seed: int,
    life: Life,
    chance: random.Random,
    lives: int = LIVES,
) -> None:
    """Kill the writers of one store, one after the other."""
    history = History()
    for _ in range(lives):
        how: dict = {"resume": True} if history.attempts or chance.random() < 0.5 else {}
        if history.attempts and chance.random() < 0.5:
            how = {"resume_step": chance.randint(0, history.attempts[-1].end()[0])}
        number, start = history.next(how.get("resume_step"))
        own = random.Random(chance.random())

        def job(report, number=number, start=start, how=how, own=own):
            life(report, path, seed, number, start, how, own)

        child = Child(job)
        if chance.random() < 0.8:
            child.await_report()  # the other lives may end before their run is open
        is_alive = child.wait(chance.uniform(0.005, 0.3 if life is controls.append_naively else 0.15))
        reports = child.kill()
        if tally.result.control and not reports:
            return  # what plain Zarr leaves of a creation would be no fair comparison
        if not is_alive and child.status != -9:
            tally.result.lost += 1
            tally.note(f"{path}: the training failed in life {number}, status {child.status}")
            return
        if reports or has_attempt(path, number, start):
            history.took(number, start, max(reports, default=0))
        if not tally.verify(checker, path, seed, history, max(reports, default=0)):
            return


def has_attempt(path: Path, number: int, start: Attempt) -> bool:
    """Whether a life that was killed before it could say so has begun its attempt."""
    import json

    try:
        starts = json.loads((path / "zarr.json").read_bytes())["attributes"]["actlab"]["attempts"]
    except FileNotFoundError:
        return False
    return starts[number:] == [start.train]


def kill(name: str, life: Life, most: int, seed: int, *, kind: str = "rows", control: int = 0) -> Result:
    """Kill a kind of writer so often, or until something is found; a control at least `control` times."""
    chance = random.Random(seed)
    tally = Tally(name, seed, kind=kind, control=control > 0)
    # On a disk: in memory, hardly a kill would hit a write.
    with scratch(tempfile.gettempdir()) as folder, Checker() as checker:
        while tally.result.tried < most and (tally.result.tried < control or not tally.result.bad):
            path = folder / f"run{tally.result.tried}.zarr"
            lives = 1 if life is controls.append_naively else min(LIVES, most - tally.result.tried)
            kill_store(tally, checker, path, chance.randrange(1 << 30), life, chance, lives)
            shutil.rmtree(path, ignore_errors=True)
    return tally.done()


def write_rows_out_of_order(*what) -> None:
    """Be the training that appends rows, with a writer that commits before the chunks are there."""
    with controls.commit_before_chunks():
        write_rows(*what)


def warm_up() -> None:
    """Import, before the forks, what their processes need, so that a life costs no start."""
    import torch
    import zarr  # noqa: F401

    from actlab.axis import FloatAxis
    from actlab.recording.counters import CpuCounters
    from actlab.recording.recorder import Recorder  # noqa: F401
    from actlab.store.writer import RunWriter  # noqa: F401

    torch.set_num_threads(1)
    CpuCounters(FloatAxis()).add(0, torch.zeros(1))


def run(*, long: bool, seed: int) -> Iterator[Result]:
    """Yield the results of all kinds of writers, and of those that must fail."""
    warm_up()
    yield kill("kill -9, RunWriter", write_rows, 600 if long else 18, seed)
    yield kill("kill -9, Recorder", record_tensors, 200 if long else 9, seed + 1, kind="tensors")
    least = 100 if long else 1
    yield kill("kill -9, commit before chunks", write_rows_out_of_order, 100, seed, control=least)
    yield kill("kill -9, zarr append", controls.append_naively, 100, seed, kind="bare", control=least)


if __name__ == "__main__":
    main(run)
