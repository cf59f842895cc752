"""Readers that look again and again at a run that grows and is rewound, while the writer runs flat out.

As a program it is one of these processes: a writer of some kind, or a reader of some kind. Two writers are
controls: one that commits before its chunks are in place, one that rewinds by truncating in place.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from actlab.store.files import RunDirectory
from tests.torture.common import ROOT, Result, check, main, scratch
from tests.torture.controls import commit_before_chunks
from tests.torture.crashes import abandon
from tests.torture.rows import as_row, axis, events, expected_row
from tests.torture.samples import contents, digest

_MOST_ROUNDS = 20
QUICK, LONG = 6.0, 120.0  # seconds of reading
ATTEMPTS, ROWS, COMMIT = 6, 26, 5  # of a run; rows of an attempt; rows between commits
RECORD = "zarr.json"


# The writers.


def grow(path: Path, seed: int, announce: Callable[[], None], end: float) -> None:
    """Record one run in several attempts, each of which begins some steps before the last one ended."""
    from actlab.store.writer import RunWriter

    start, rewinds = None, random.Random(seed)
    for attempt in range(ATTEMPTS):
        writer = RunWriter(path, axis=axis(), attributes={}, fsync=False, resume=True, resume_step=start)
        announce()
        steps = writer.resumed.steps if writer.resumed else {}
        begin = (steps.get("train", 0), steps.get("valid", 0))
        for done, (split, step) in enumerate(islice(events(*begin), ROWS), 1):
            writer.append(as_row(seed, attempt, step, split))
            start = max(step - rewinds.randrange(8), 0) if split == "train" else start
            if done % COMMIT == 0:
                writer.flush()
            if time.monotonic() > end:
                break
        abandon(writer) if attempt % 2 else writer.close()
        if time.monotonic() > end:
            return


def grow_in_place(path: Path, seed: int, announce: Callable[[], None], end: float) -> None:
    """Record one run whose rewinds cut its chunks: each commit of another run is copied over it."""
    from actlab.store.writer import RunWriter

    rewinds = random.Random(seed)
    for attempt in range(2 * ATTEMPTS):
        beside = path.with_name(f"{path.name}-{attempt}")
        writer = RunWriter(beside, axis=axis(), attributes={}, fsync=False, flush_every=3600)
        for done, (split, step) in enumerate(islice(events(), 12 + rewinds.randrange(30)), 1):
            writer.append(as_row(seed, 0, step, split))
            if done % COMMIT == 0 and done >= 10:
                writer.flush()
                names = [file.relative_to(beside) for file in beside.rglob("*") if file.is_file()]
                for name in sorted(names, key=lambda name: str(name) == RECORD):  # the root record last
                    (path / name).parent.mkdir(parents=True, exist_ok=True)
                    _copy(beside / name, path / name)
                announce()
        writer.close()
        if time.monotonic() > end:
            return


def _copy(source: Path, target: Path) -> None:
    """Replace a file by another one, at once."""
    partial = target.with_name(f".{target.name}.partial")
    partial.write_bytes(source.read_bytes())
    partial.replace(target)


@contextmanager
def slow_commit_first() -> Iterator[None]:
    """Let a writer commit before its chunks, each of which takes a while: a few opens must see that."""
    write = RunDirectory.write

    def write_slowly(directory: RunDirectory, name: str, data: bytes) -> None:
        time.sleep(0.003)
        write(directory, name, data)

    with patch.object(RunDirectory, "write", write_slowly), commit_before_chunks():
        yield


def write_runs(folder: Path, seed: int, kind: str, seconds: float) -> None:
    """Record one run after the other; the file `current` names the one that grows."""
    end = time.monotonic() + seconds
    write = grow_in_place if kind == "in place" else grow
    with slow_commit_first() if kind == "commit first" else nullcontext():
        for number in count():
            path = folder / f"run-{number}.zarr"

            def announce(name: str = path.name) -> None:
                (folder / "current.new").write_text(name)
                (folder / "current.new").replace(folder / "current")

            write(path, seed, announce, end)
            if time.monotonic() > end:
                return


# The readers. Each yields what it finds: opens, rows, torn, changed, errors.


def read_plain(path: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Open by plain xarray and compare every row."""
    found = check(str(path), seed)
    rows = sum(len(each) for each in found["rows"].values())
    problems = [*found["torn"], *found["wrong"]]
    errors = [found["error"]] if found["error"] else []
    yield {"opens": 1, "rows": rows, "torn": problems, "errors": errors}


def read_held(path: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Open by plain xarray, read, and read the same again while the run goes on."""
    import xarray as xr

    def look(tree: Any) -> dict[str, str]:
        return {
            f"{node.path}/{name}": digest(variable.values)
            for node in tree.subtree
            for name, variable in node.to_dataset(inherit=False).variables.items()
        }

    try:
        tree = xr.open_datatree(path, engine="zarr", chunks=None, cache=False)
        first = look(tree)
        torn = [
            f"{split} has a row of fill values" for split, node in tree.children.items() if _has_hole(node)
        ]
        yield {"opens": 1, "torn": torn}
        for _ in range(3):
            time.sleep(0.3)
            again = look(tree)
            yield {"changed": [name for name in first if first[name] != again[name]]}
    except Exception as error:  # noqa: BLE001 - whatever it is, the run did not open
        yield {"opens": 1, "errors": [f"{type(error).__name__}: {error}"[:200]]}


def _has_hole(node: Any) -> bool:
    return bool((node["step"].values < 0).any() or (node["attempt"].values < 0).any())


def read_run(path: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Open by `open_run`, refresh, and compare live rows; what was handed out before must not change."""
    from actlab.errors import StoreError
    from actlab.run import open_run

    try:
        run = open_run(path)
        before = contents(run)
        held = {split: run[split] for split in run.splits}
        kept = {split: digest(data["counts"].values) for split, data in held.items()}
        yield {"opens": 1}
        for _ in range(5):
            run.refresh()
            torn = [problem for split in run.splits for problem in _wrong_rows(run[split], split, seed)]
            changed = [split for split, data in held.items() if digest(data["counts"].values) != kept[split]]
            yield {"opens": 1, "rows": sum(run[split].sizes["step"] for split in run.splits)}
            yield {"torn": torn, "changed": changed}
        if before.keys() - contents(run).keys():
            yield {"changed": ["a view has gone"]}
    except StoreError as error:
        yield {"opens": 1, "errors": [str(error)[-200:]]}


def _wrong_rows(data: Any, split: str, seed: int) -> Iterator[str]:
    """Yield what is wrong with the live rows of a split, the values of some of them included."""
    step, attempt = data["step"].values, data["attempt"].values
    if (np.diff(step) <= 0).any() or (np.diff(attempt) < 0).any():
        yield f"{split}: live rows do not increase: {step.tolist()} of {attempt.tolist()}"
    for place in sorted({0, len(step) // 2, len(step) - 1}):
        row = expected_row(seed, int(attempt[place]), int(step[place]), split)[""]
        counts = data["counts"].isel(step=place).values[: row["counts"].shape[1]]
        if counts.tobytes() != row["counts"].tobytes():
            yield f"{split}: live row {place} differs"


READERS = {"plain": read_plain, "held": read_held, "run": read_run}


def read_runs(folder: Path, seed: int, kind: str, seconds: float) -> None:
    """Read the run that grows until the time is over; print what was found as one JSON line."""
    end = time.monotonic() + seconds
    total: dict[str, Any] = {"opens": 0, "rows": 0, "torn": [], "changed": [], "errors": []}
    while time.monotonic() < end:
        with suppress(FileNotFoundError):
            path = folder / (folder / "current").read_text()
            for found in READERS[kind](path, seed):
                total = {key: value + found.get(key, type(value)()) for key, value in total.items()}
    sys.stdout.write(json.dumps(total))


# The harness.


def watch(folder: Path, seed: int, writer: str, readers: list[str], seconds: float) -> dict[str, Any]:
    """Let readers look at a writer for some seconds; return the sums of what they found."""

    def start(role: str, kind: str, time_s: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.torture.live_readers"]
        command += [role, kind, str(folder), str(seed), str(time_s)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    with start("write", writer, seconds + 4) as writing:
        while not (folder / "current").exists() and writing.poll() is None:
            time.sleep(0.01)
        watching = [start("read", kind, seconds) for kind in readers]
        found = [json.loads(each.communicate()[0]) for each in watching]
        writing.kill()
    return {key: sum((each[key] for each in found[1:]), found[0][key]) for key in found[0]}


def run(*, long: bool, seed: int) -> list[Result]:
    """Watch the writer, and the two that must fail."""
    seconds = LONG if long else QUICK
    readers = ["plain", "held", "run", "plain"] if long else ["held", "run"]
    forms = [("sound", readers, seconds, False)]
    forms += [
        (kind, ["plain", "held"], seconds / (10 if long else 2), True)
        for kind in ("commit first", "in place")
    ]
    results = []
    for writer, kinds, duration, control in forms:
        found: dict[str, Any] = {}
        problems: list[str] = []
        # Chance decides when readers meet a control that errs: it is given time.
        for _ in range(_MOST_ROUNDS if control else 1):
            with scratch() as folder:
                seen = watch(folder, seed, writer, kinds, duration)
            found = {key: value + found[key] if found else value for key, value in seen.items()}
            problems = [*found["torn"], *found["changed"], *found["errors"]]
            if problems:
                break
        notes = f"{found['opens']} opens, {found['rows']} rows, {len(found['changed'])} changed"
        results.append(
            Result(
                f"live readers, {writer} writer",
                tried=found["opens"],
                wrong=len(found["changed"]),
                torn=len(found["torn"]),
                unopenable=len(found["errors"]),
                notes="; ".join([notes, *problems[:5]]),
                seed=seed,
                control=control,
            )
        )
    return results


if __name__ == "__main__":
    if sys.argv[1:2] in (["read"], ["write"]):
        role, kind, folder_, seed_, seconds_ = sys.argv[1:]
        {"read": read_runs, "write": write_runs}[role](Path(folder_), int(seed_), kind, float(seconds_))
    else:
        main(run)
