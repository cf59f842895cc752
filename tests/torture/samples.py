"""Finished runs to be damaged, and all that a run shows, as digests to be compared."""

from __future__ import annotations

import shutil
from dataclasses import replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.common import check
from tests.torture.rows import as_row, axis, events

_NO_SIDE = {"channels": None, "samples": {}, "head_counts": None, "label_moments": None}
ROWS = 26  # in an attempt: two evaluations, two epochs and a piece of the third


def record_sample(path: Path, seed: int, attempts: int = 1, *, side: bool = True) -> list[dict[str, bytes]]:
    """Record a closed run and return its files after each of its commits, three an attempt.

    Every further attempt begins 5 training batches before the end of the last. Without `side` data there
    are half as many arrays.
    """
    from actlab.store.writer import RunWriter

    history = []
    start = 0
    for number in range(attempts):
        options = {"resume_step": start} if number else {}
        writer = RunWriter(
            path, axis=axis(), attributes={"model": "Net"}, fsync=False, flush_every=3600, **options
        )
        steps = writer.resumed.steps if number else {}
        begin = (steps.get("train", 0), steps.get("valid", 0))
        for done, (split, step) in enumerate(islice(events(*begin), ROWS)):
            row = as_row(seed, number, step, split)
            assert writer.append(row if side else replace(row, **_NO_SIDE))
            start = step - 5 if split == "train" else start
            if done % 10 == 8:
                writer.flush()
                writer.update_attributes()
                writer.flush()  # the metadata of the children has been written by now
                history.append(files_of(path))
        writer.close()
        history.append(files_of(path))
    found = check(str(path), seed)
    assert not side or (found["error"] is None and not found["torn"] + found["wrong"]), found
    return history


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its relative path."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def lay_out(folder: Path, files: dict[str, bytes]) -> None:
    """Make a folder hold these files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def contents(run: Any) -> dict[str, str]:
    """Read all that a run shows of its rows: {view/variable: digest}."""
    found: dict[str, str] = {"names": repr(run.names)}
    for split in run.splits:
        views = {"": run[split], "raw": run.raw(split), "channels": run.channels(split)}
        views |= {"head": run.head_counts(split), "labels": run.label_moments(split)}
        views |= {f"samples/{name}": run.samples(split, name) for name in run.names}
        for view, data in views.items():
            if data is not None:
                found |= {
                    f"{split}/{view}/{name}": digest(variable.values)
                    for name, variable in data.compute().variables.items()
                }
    return found


def digest(values: np.ndarray) -> str:
    """Return what two arrays have in common only if they are the same, bit by bit."""
    data = repr(values.tolist()).encode() if values.dtype.kind in "OTU" else values.tobytes()
    return f"{values.dtype} {values.shape} {blake2b(data, digest_size=8).hexdigest()}"
