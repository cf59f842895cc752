"""`verify_snapshot`: every row of a run against the checksum that it was recorded with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from actlab.errors import StoreError
from actlab.store.reader import Snapshot
from actlab.store.stored import StoredRun

__all__ = ["verify_snapshot"]


def verify_snapshot(
    snapshot: Snapshot, progress: Callable[[str, int, int], None] = lambda *_: None
) -> dict[str, int]:
    """Read every row of a run, of every attempt and rank, and make sure that it is as it was recorded.

    A few rows at a time are held in memory.

    Parameters
    ----------
    snapshot : Snapshot
        The run.
    progress : callable
        Is told ``progress(stage, done, total)`` as the work goes on.

    Returns
    -------
    dict of str to int
        Split -> number of rows.

    Raises
    ------
    StoreError
        In one line: if a chunk is missing or damaged; or the split, step and attempt of the first row
        whose checksum does not match, or whose counts do not add up to its numbers of values.
    """
    verified: Counter[str] = Counter()
    total = sum(sum(store.record.attributes["rows"].values()) for store in snapshot.stores)
    for store in snapshot.stores:
        run = StoredRun(store.source, store.record)
        for split in run.splits:
            run.check_tables(split)
            for rows in _verify_rows(run, split):
                verified[split] += rows
                progress("Verifying", verified.total(), total)
    return dict(verified)


def _verify_rows(run: StoredRun, split: str) -> Iterator[int]:
    """Check every row of a split, some at a time, and yield how many."""
    rows = run.rows(split)
    starts = np.array(run.record.attributes.get("attempts", [0]))
    is_early = rows.columns["train_step"] < starts[rows.columns["attempt"]]
    for block in rows.blocks():
        for number, stored in zip(block, rows.read(block), strict=True):
            if is_early[number] or not stored.is_sound:
                raise StoreError(
                    f"{run.label}: the row of {split!r} at step {stored.row.step}, attempt {stored.attempt}, "
                    "is not as it was recorded, its checksum does not match"
                )
        yield len(block)
    for group, (step, attempt) in rows.strays():
        raise StoreError(
            f"{run.label}: {group!r} has data of step {step}, attempt {attempt}, which is no row of its own"
        )
