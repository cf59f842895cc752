"""`StoredRun`: the arrays and rows of a run as they lie on disk, of every attempt and each rank alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from actlab.errors import StoreError
from actlab.schema import (
    CHANNEL_TABLE,
    CHANNELS_GROUP,
    HEAD_GROUP,
    RAW_GROUP,
    TRUTH,
    TRUTHS,
    axis_from_attributes,
)
from actlab.store.decoding import SnapshotStore
from actlab.store.merging import spans_of
from actlab.store.ranks import open_merged
from actlab.store.record import Record
from actlab.store.rows import SplitRows
from actlab.store.sources import Source

__all__ = ["StoredRun", "are_same", "open_ranks"]


class StoredRun:
    """One store as its last commit left it.

    Parameters
    ----------
    source : Source
        Its files.
    record : Record
        Its root record.
    """

    def __init__(self, source: Source, record: Record) -> None:
        self.source, self.record = source, record
        store = SnapshotStore(source, record)
        self._group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)

    @property
    def label(self) -> str:
        """Path or URL, for messages."""
        return self.source.label

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have rows."""
        return list(self.record.attributes["rows"])

    def read(self, name: str, *part: slice) -> NDArray[Any]:
        """Read a part of an array, by its path below the root.

        Raises
        ------
        StoreError
            If it is damaged.
        """
        array: Any = self._group[name]
        try:
            return np.asarray(array[part])
        except StoreError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            where = f"{self.label}: {name!r}"
            raise StoreError(f"{where} cannot be read: {type(error).__name__}: {reason}") from error

    def file(self, name: str) -> bytes:
        """Return a file as it is.

        Raises
        ------
        StoreError
            If it is missing or cannot be read.
        """
        try:
            return self.source.read(name)
        except FileNotFoundError:
            raise StoreError(f"{self.label}: half a run: the chunk {name!r} is missing") from None
        except OSError as error:  # StoreError is one
            raise StoreError(f"{self.label}: {name!r} cannot be read: {error}") from error

    def rows(self, split: str) -> SplitRows:
        """Return the rows of a split.

        Raises
        ------
        StoreError
            If it cannot be read where they are.
        """
        return SplitRows(split, self.record.attributes, self.record.nodes, self.read)

    def check_tables(self, split: str) -> None:
        """Check what the checksum of no row covers: layers, buckets, truths, channels, steps of raw samples.

        Raises
        ------
        StoreError
            If one of them is damaged.
        """
        said, nodes = self.record.attributes, self.record.nodes
        axis = axis_from_attributes(said["axis"])
        expected: dict[str, tuple[Any, str]] = {
            "layer": ([layer["name"] for layer in said["layers"]], "the root record"),
            "lower": (axis.lower, "the axis"),
            "upper": (axis.upper, "the axis"),
        }
        if f"{split}/{HEAD_GROUP}" in nodes:
            expected[f"{HEAD_GROUP}/{TRUTH.name}"] = TRUTHS, "the format"
        if f"{split}/{RAW_GROUP}" in nodes:
            expected[f"{RAW_GROUP}/step"] = self.read(f"{split}/{RAW_GROUP}/sample_step"), "'sample_step'"
        for name, (values, where) in expected.items():
            if not are_same(self.read(f"{split}/{name}"), np.asarray(values)):
                raise StoreError(f"{self.label}: '{split}/{name}' is damaged, it is not that of {where}")
        group = f"{split}/{CHANNELS_GROUP}"
        if group in nodes:
            layer, index = (self.read(f"{group}/{each.name}").tolist() for each in CHANNEL_TABLE)
            counted = [number for _, channels in groupby(layer) for number, _ in enumerate(channels)]
            if index != counted or len(list(groupby(layer))) != len(set(layer)):  # side by side, from 0
                raise StoreError(
                    f"{self.label}: {group!r} is damaged, it is no table of layers and their channels"
                )

    def damage(self, progress: Callable[[str, int, int], None]) -> Iterator[str]:
        """Read all, and say what is not as it was recorded: one line for each piece."""
        done, total = 0, sum(self.record.attributes["rows"].values())
        for split in self.splits:
            try:
                rows = self.rows(split)
            except StoreError as error:
                yield f"all rows of {split}: {self._reason(error)}"
                continue
            for block in rows.blocks():
                steps = rows.columns["step"][block.start : block.stop]
                try:
                    stored = rows.read(block)
                except StoreError as error:
                    yield f"steps {steps[0]} to {steps[-1]} of {split}: {self._reason(error)}"
                else:
                    for first, last in spans_of(steps, np.array([not each.is_sound for each in stored])):
                        which = f"step {first}" if first == last else f"steps {first} to {last}"
                        yield f"{which} of {split}: not as recorded (row_crc32c)"
                done += len(block)
                progress("Checking", done, total)
            for group, (step, _) in rows.strays():
                yield f"{group} has data of step {step}, which is no row of {split}"
            try:
                self.check_tables(split)
            except StoreError as error:
                yield self._reason(error)

    def _reason(self, error: StoreError) -> str:
        """Say what is wrong, without the path of the run."""
        return str(error).removeprefix(f"{self.label}: ")


def open_ranks(path: str | os.PathLike[str]) -> list[StoredRun]:
    """Open a run; of one that several ranks recorded, the store of each, rank 0 first.

    Raises
    ------
    StoreError
        As `open_merged`.
    """
    return [StoredRun(store.source, store.record) for store in open_merged(path).stores]


def are_same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays are equal, NaN and NaN, too."""
    return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
