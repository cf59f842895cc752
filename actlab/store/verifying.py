"""`verify_snapshot`: every row of a run against the checksum that it was recorded with."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import numpy as np

from actlab.errors import StoreError
from actlab.schema import CHANNEL_TABLE, CHANNELS_GROUP, RAW_GROUP, axis_from_attributes
from actlab.store.reader import Snapshot
from actlab.store.stored import StoredRun

__all__ = ["verify_snapshot"]


def verify_snapshot(snapshot: Snapshot) -> dict[str, int]:
    """Read every row of a run, of every attempt and rank, and make sure that it is as it was recorded.

    A few rows at a time are held in memory.

    Parameters
    ----------
    snapshot : Snapshot
        The run.

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
    for store in snapshot.stores:
        run = StoredRun(store.source, store.record)
        for split in run.splits:
            _check_axis(run, split)
            _check_channels(run, split)
            verified[split] += _verify_rows(run, split)
    return dict(verified)


def _check_axis(run: StoredRun, split: str) -> None:
    """Check that the buckets are those of the axis."""
    axis = axis_from_attributes(run.record.attributes["axis"])
    for name in ("lower", "upper"):
        if not np.array_equal(run.read(f"{split}/{name}", slice(None)), getattr(axis, name), equal_nan=True):
            raise StoreError(f"{run.label}: '{split}/{name}' is damaged, it is not that of the axis")


def _check_channels(run: StoredRun, split: str) -> None:
    """Check that the channels of each layer stand side by side, counted from 0: no checksum covers that."""
    group = f"{split}/{CHANNELS_GROUP}"
    if group not in run.record.nodes:
        return
    layer, index = (run.read(f"{group}/{each.name}", slice(None)).tolist() for each in CHANNEL_TABLE)
    counted = [number for _, channels in groupby(layer) for number, _ in enumerate(channels)]
    if index != counted or len(list(groupby(layer))) != len(set(layer)):
        raise StoreError(f"{run.label}: {group!r} is damaged, it is no table of layers and their channels")


def _verify_rows(run: StoredRun, split: str) -> int:
    """Check every row of a split, and return how many there are."""
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
    raw = f"{split}/{RAW_GROUP}"
    if raw in run.record.nodes and not _are_same(run, f"{raw}/step", f"{raw}/sample_step"):
        raise StoreError(f"{run.label}: '{raw}/step' is damaged, it is not the same as 'sample_step'")
    for group, (step, attempt) in rows.strays():
        raise StoreError(
            f"{run.label}: {group!r} has data of step {step}, attempt {attempt}, which is no row of its own"
        )
    return len(rows)


def _are_same(run: StoredRun, first: str, second: str) -> bool:
    """Whether two arrays are the same."""
    return np.array_equal(run.read(first), run.read(second))
