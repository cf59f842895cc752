"""`StoredRun`: the arrays and rows of a run as they lie on disk, of every attempt and each rank alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from actlab.errors import StoreError
from actlab.store.decoding import SnapshotStore
from actlab.store.merging import spans_of
from actlab.store.ranks import open_merged
from actlab.store.record import Record
from actlab.store.rows import SplitRows
from actlab.store.sources import Source

__all__ = ["StoredRun", "open_ranks"]


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

    def damage(self) -> Iterator[str]:
        """Read every row, and say which ones are not as they were recorded: one line for each piece."""
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
            for group, (step, _) in rows.strays():
                yield f"{group} has data of step {step}, which is no row of {split}"

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
