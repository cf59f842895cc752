"""Writers that break one rule each: a harness that does not catch them proves nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np

from tests.torture.lives import Attempt, Report
from tests.torture.rows import BUCKETS, INDEX, events, expected_row

_CHUNK = 16


def append_naively(
    report: Report, path: Path, seed: int, number: int, start: Attempt, how: dict, chance: random.Random
) -> None:
    """Be a training that appends each step to plain Zarr arrays, as most tutorials do."""
    import zarr

    root = zarr.open_group(path, mode="a", zarr_format=3)
    root.attrs["actlab"] = {"attempts": [0]}
    arrays = {}
    for split in ("train", "valid"):
        for name, array in _own(expected_row(seed, 0, 0, split)).items():
            dims = ("step", "layer", "bucket")[: array.ndim]
            arrays[split, name] = root.require_group(split).create_array(
                name,
                shape=(0, *array.shape[1:]),
                chunks=(_CHUNK, *array.shape[1:]),
                dtype=array.dtype,
                dimension_names=dims,
            )
    report(0)
    for count, (split, step) in enumerate(events(start.train, start.valid), 1):
        for name, array in _own(expected_row(seed, number, step, split)).items():
            arrays[split, name].append(array)
        report(count)


def _own(row: dict) -> dict[str, np.ndarray]:
    """Return arrays of a row over five layers, as the checker expects those of a bare store."""
    found = {name: row[""][name] for name in INDEX}
    for name, shape in (("n", (1, 5)), ("counts", (1, 5, BUCKETS))):
        known = row[""][name]
        found[name] = np.zeros(shape, known.dtype)
        found[name][:, : known.shape[1]] = known
    return found


@contextmanager
def commit_before_chunks() -> Iterator[None]:
    """Let a writer put the root record in place first, and what it speaks of after."""
    from actlab.store.files import RunDirectory

    write, waiting = RunDirectory.write, []

    def write_late(self, name, data):
        if name != "zarr.json":
            waiting.append((name, data))
            return
        write(self, name, data)
        for late in waiting:
            write(self, *late)
        waiting.clear()

    with patch.object(RunDirectory, "write", write_late):
        yield


@contextmanager
def without_lock() -> Iterator[None]:
    """Let writers share a directory: no lock, and nobody looks whose run it is."""
    from actlab.store import files

    with (
        patch("fcntl.flock"),
        patch.object(files.RunDirectory, "check_writer", lambda *_: None),
    ):
        yield
