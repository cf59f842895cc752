"""What every harness shares: rows that are a pure function, a checker that knows no actlab, results.

Run as a program it is the checker: it reads stores by plain xarray only, in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from tests.torture.rows import INDEX, as_row, axis, channels_of, checksum_of, events, expected_row, n_layers

__all__ = ["ROOT", "Checker", "Result", "as_row", "axis", "events", "expected_row", "main", "scratch"]

ROOT = Path(__file__).resolve().parents[2]
_MEMORY = "/dev/shm"
_FILLS = {"n": 0, "zeros": 0, "counts": 0, "label": -100}  # NaN for the others
_GROWING = ("n", "zeros", "counts", "mean", "std", "min", "max", "mean_abs")  # along their second dim


@dataclass
class Result:
    """What one harness found; a control is a store that must fail."""

    name: str
    tried: int
    lost: int = 0
    wrong: int = 0
    torn: int = 0
    unopenable: int = 0
    notes: str = ""
    seed: int = 0
    control: bool = False

    @property
    def bad(self) -> int:
        return self.lost + self.wrong + self.torn + self.unopenable

    @property
    def passed(self) -> bool:
        return self.tried > 0 and (self.bad > 0) == self.control

    def blame(self, kind: str, problem: str, where: str) -> None:
        """Count a problem of a kind, one of the fields, if there is one; keep the first in the notes."""
        if kind:
            setattr(self, kind, getattr(self, kind) + 1)
            self.notes = self.notes or f"{where}: {problem}"[:500]

    def line(self) -> str:
        return json.dumps(asdict(self))


def main(run: Callable[..., Iterable[Result]]) -> None:
    """Run a harness `run(long=, seed=)`: one JSON line a result, exit status 1 if one is not as due."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--long", action="store_true", help="the form of make torture")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    passed = True
    for result in run(long=options.long, seed=options.seed):
        sys.stdout.write(result.line() + "\n")
        sys.stdout.flush()
        passed &= result.passed
    sys.exit(not passed)


# The checker.


class Checker:
    """A process of its own that opens stores by plain xarray and compares them with `expected_row`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.torture.common"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def check(self, path: str | Path, seed: int, kind: str = "rows") -> dict:
        """Return what `check` found of a store, or of a "bare" one, or `tensors.check` of "tensors"."""
        self._process.stdin.write(json.dumps([kind, str(path), seed]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def check(path: str, seed: int, *, is_bare: bool = False) -> dict:
    """Compare every row of a store with what it must be; `is_bare`: a control, with a few arrays only.

    The seed is the run's own attribute of that name, if it has one.

    Returns error (why it cannot be opened or read, or None), torn (what does not belong together), wrong
    (what has other values), rows {split: [[attempt, step], ...]} and the root attribute `attributes`.
    """
    import xarray as xr

    found = {"error": None, "torn": [], "wrong": [], "rows": {}, "attributes": {}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if is_bare:
                warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated")
            tree = xr.open_datatree(path, engine="zarr", decode_times=False, chunks=None)
            said = tree.attrs["actlab"]
            splits = {name: _loaded(node) for name, node in tree.children.items()}
    except Exception as error:  # noqa: BLE001 - whatever it is, the store does not open
        return found | {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    return compare(splits, said, said.get("seed", seed), is_bare=is_bare)


def compare(splits: dict[str, dict], said: dict, seed: int, *, is_bare: bool = False) -> dict:
    """Compare all arrays, {split: {group: {name: array}}}, with what they must be; see `check`."""
    found = {"error": None, "torn": [], "wrong": [], "rows": {}, "attributes": said}
    if any({"attempt", "step"} - groups[""].keys() for groups in splits.values()):
        return found | {"torn": ["a split without its index"]}
    places = {
        split: [groups[""][name].tolist() for name in ("attempt", "step")] for split, groups in splits.items()
    }
    found["rows"] = {
        split: [list(pair) for pair in zip(*columns, strict=True)] for split, columns in places.items()
    }
    if any(min(min(pair) for pair in rows) < 0 for rows in found["rows"].values() if rows):
        return found | {"torn": ["a row of fill values"]}
    lengths = {split: len(rows) for split, rows in found["rows"].items()}
    if not is_bare and lengths != said["rows"]:
        found["torn"].append(f"rows are {lengths}, the record says {said['rows']}")
    layers = [n_layers(seed, a, split, step) for split, rows in found["rows"].items() for a, step in rows]
    names = [f"layer{number}" for number in range(max(layers, default=0))]
    for split, rows in found["rows"].items():
        expected = [_known_row(seed, *row, split) for row in rows]
        if is_bare:
            expected = [{"": {name: row[""][name] for name in (*INDEX, "n", "counts")}} for row in expected]
        elif splits[split][""]["layer"].tolist() != names:
            found["wrong"].append(f"{split}/layer")
        _check_split(found, split, splits[split], expected)
    return found


@lru_cache(5_000)
def _known_row(seed: int, attempt: int, step: int, split: str) -> dict[str, dict[str, np.ndarray]]:
    """Return `expected_row` with the checksum of the row."""
    row = expected_row(seed, attempt, step, split)
    row[""]["row_crc32c"] = np.array([checksum_of(row)], np.uint32)
    return row


def _loaded(node) -> dict[str, dict[str, np.ndarray]]:
    """Return the arrays of a split and of the groups below it."""
    groups = {each.path.removeprefix(node.path).strip("/"): each for each in node.subtree}
    return {
        path: {name: each.values for name, each in group.to_dataset(inherit=False).variables.items()}
        for path, group in groups.items()
        if path != "samples"
    }


def _check_split(found: dict, split: str, groups: dict, rows: list[dict]) -> None:
    """Compare the arrays of a split with those of its rows, one after the other."""
    known = {group for row in rows for group in row}
    if known != groups.keys():
        found["torn"].append(f"{split} has groups {sorted(groups)}, its rows {sorted(known)}")
    for group in known & groups.keys():
        arrays, entries = groups[group], [row.get(group) for row in rows]
        names = {name for entry in entries if entry for name in entry}
        if missing := names - arrays.keys():
            found["torn"].append(f"{split}/{group} lacks {sorted(missing)}")
        for name in names & arrays.keys():
            problem, kind = _compare(arrays[name], name, entries)
            if problem:
                found[kind].append(f"{split}/{group}/{name}: {problem}")
    if "channels" in known & groups.keys():
        sizes = channels_of(max(int(row[""]["attempt"][0]) for row in rows if "channels" in row))
        layers = [layer for layer, size in sizes.items() for _ in range(size)]
        if groups["channels"]["channel_layer"].tolist() != layers:
            found["wrong"].append(f"{split}/channels/channel_layer")


def _compare(stored: np.ndarray, name: str, entries: list) -> tuple[str, str]:
    """Say where an array differs from its entries, and how."""
    parts = []
    for entry in entries:
        if entry is None:
            continue
        size = len(next(iter(entry.values())))
        shape = (size, *stored.shape[1:])
        part = np.full(shape, _FILLS.get(name, np.nan if stored.dtype.kind == "f" else 0), stored.dtype)
        if name in entry:
            block = entry[name]
            if block.dtype != stored.dtype or block.ndim != stored.ndim:
                return f"is {stored.dtype} {stored.shape}, expected {block.dtype} {block.shape}", "torn"
            if name in _GROWING and block.ndim > 1 and stored.shape[1] >= block.shape[1]:
                part[:, : block.shape[1]] = block
            else:
                part = block
        parts.append(part)
    lengths = [len(part) for part in parts]
    if sum(lengths) != len(stored):
        return f"has {len(stored)} entries, expected {sum(lengths)}", "torn"
    if len({part.shape[1:] for part in parts}) > 1:
        return f"has shape {stored.shape}, expected rows of several shapes", "torn"
    expected = np.concatenate(parts)
    if expected.shape != stored.shape:
        return f"has shape {stored.shape}, expected {expected.shape}", "torn"
    if expected.tobytes() == stored.tobytes():
        return "", ""
    differs = (expected.view(np.uint8) != stored.view(np.uint8)).reshape(len(stored), -1).any(axis=1)
    return f"{int(differs.sum())} of {len(stored)} entries differ, the first is {differs.argmax()}", "wrong"


def serve() -> None:
    """Answer the requests of `Checker`."""
    from tests.torture import tensors

    checks = {"rows": check, "bare": partial(check, is_bare=True), "tensors": tensors.check}
    for line in sys.stdin:
        kind, *what = json.loads(line)
        answer = checks[kind](*what)
        assert "actlab" not in sys.modules
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


@contextlib.contextmanager
def scratch(base: str | None = None) -> Iterator[Path]:
    """Make a folder for the stores of a harness, in memory where it can be, and remove it at the end."""
    if base is None and os.access(_MEMORY, os.W_OK):
        base = _MEMORY
    with tempfile.TemporaryDirectory(
        prefix="actlab-torture-", dir=base, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


if __name__ == "__main__":
    serve()
