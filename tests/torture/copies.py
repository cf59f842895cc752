"""A crash before every file-system primitive of `compact`, `branch` and `pack`: all of a copy, or none."""

from __future__ import annotations

import random
import shutil
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tests.torture.common import Checker, Result, as_row, axis, main, scratch
from tests.torture.crash_points import draw
from tests.torture.lives import Attempt, Child, History
from tests.torture.primitives import Counter, Killer, watched
from tests.torture.rows import events

TOOLS = {"compact": "copy.zarr", "branch": "copy.zarr", "pack": "copy.zarr.zip"}
_ROWS = 24


def record(path: Path, seed: int) -> None:
    """Record the run that is copied."""
    from actlab.store.writer import RunWriter

    writer = RunWriter(path, axis=axis(), attributes={}, flush_every=3600, fsync=False)
    for split, step in islice(events(), _ROWS):
        assert writer.append(as_row(seed, 0, step, split))
    writer.close()


def copy(tool: str, path: Path, out: Path, **options) -> None:
    """Make a copy."""
    import actlab

    getattr(actlab, tool)(path, out, **options)


def contents(path: Path) -> dict[str, bytes]:
    """Return all files of a run."""
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def problem_of(checker: Checker, out: Path, seed: int) -> tuple[str, str]:
    """Say what a copy lacks (a field of `Result`) and how."""
    with scratch() as folder:
        if out.suffix == ".zip":
            try:
                zipfile.ZipFile(out).extractall(folder)
            except zipfile.BadZipFile as error:
                return "unopenable", str(error)
            out = folder
        found = checker.check(out, seed)
    for kind, problem in (("unopenable", found["error"]), ("torn", found["torn"]), ("wrong", found["wrong"])):
        if problem:
            return kind, str(problem)
    return ("lost", str(found["rows"])) if History([Attempt(rows=_ROWS)]).missing(found) else ("", "")


def crash(checker: Checker, tool: str, path: Path, seed: int, point: int) -> tuple[str, str]:
    """Crash at a point, look, copy again, look again; return what is bad (a field of `Result`) and how."""
    before, folder = contents(path), path.parent
    out = folder / TOOLS[tool]

    def job(_):
        with watched(Killer(point)):
            copy(tool, path, out)

    child = Child(job)
    child.reports()
    if child.status not in (0, 9):
        return "lost", f"ended with status {child.status}, and not at the crash"
    kind, problem = problem_of(checker, out, seed) if out.exists() else ("", "")
    if not kind:
        again = Child(lambda _: copy(tool, path, out, overwrite=True))
        again.reports()
        kind, problem = problem_of(checker, out, seed) if again.status == 0 else ("lost", "no second copy")
    if not kind and contents(path) != before:
        kind, problem = "wrong", "the run itself was changed"
    left = sorted(each.name for each in folder.iterdir() if each not in (path, out))
    return ("lost", f"left {left}") if left and not kind else (kind, problem)


def crash_everywhere(tool: str, seed: int, most: int | None) -> Result:
    """Crash at every point of a tool, or at some that the seed draws."""
    result = Result(f"crash points, {tool}", 0, seed=seed)
    with scratch() as folder, Checker() as checker:
        Child(lambda _: record(folder / "run.zarr", seed)).reports()

        def count(report):
            with watched(counter := Counter()):
                copy(tool, folder / "run.zarr", folder / TOOLS[tool])
            report(counter.calls)

        points = Child(count).reports()[0]
        for point in draw(points, most, random.Random(seed)):
            where = folder / str(point)
            where.mkdir()
            shutil.copytree(folder / "run.zarr", where / "run.zarr")
            result.tried += 1
            result.blame(*crash(checker, tool, where / "run.zarr", seed, point), f"point {point}")
            shutil.rmtree(where)
    result.notes = "; ".join(filter(None, [f"{points} points", result.notes]))
    return result


def run(*, long: bool, seed: int) -> Iterator[Result]:
    """Yield the results of every tool."""
    # Before the forks, which then cost no start.
    import actlab.store.branching
    import actlab.store.compacting
    import actlab.store.packing  # noqa: F401

    for tool in TOOLS:
        yield crash_everywhere(tool, seed, 150 if long else 1)


if __name__ == "__main__":
    main(run)
