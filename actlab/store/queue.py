"""Rows on their way to the disk, and the gaps where there was no room for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from actlab.store.row import Row

__all__ = ["RowQueue"]


class RowQueue:
    """Whole rows, bounded in bytes, held until they are committed. The writer locks it.

    Parameters
    ----------
    limit : int
        Bytes of all rows not yet committed; a single larger row is taken when nothing else is held.
    gaps : mapping, optional
        The gaps so far.

    Attributes
    ----------
    gaps : dict
        Split -> [[first, last], ...], the steps of rows that were dropped, ends included.
    held : int
        Bytes of all rows not yet committed, those already taken included.
    """

    def __init__(self, limit: int, gaps: Mapping[str, Sequence[Sequence[int]]] | None = None) -> None:
        self.gaps = {split: [list(gap) for gap in spans] for split, spans in (gaps or {}).items()}
        self.held = 0
        self._limit = limit
        self._taken = 0
        self._rows: list[Row] = []
        self._open_gaps: set[str] = set()

    @property
    def crowded(self) -> bool:
        """Whether the waiting rows fill a quarter of the bound."""
        return 4 * (self.held - self._taken) > self._limit

    def has_room(self, row: Row) -> bool:
        """Whether a row fits."""
        return self.held == 0 or self.held + row.nbytes <= self._limit

    def put(self, row: Row) -> bool:
        """Take a row, if it fits."""
        if not self.has_room(row):
            return False
        self.held += row.nbytes
        self._rows.append(row)
        self._open_gaps.discard(row.split)
        return True

    def drop(self, row: Row) -> None:
        """Record the gap that a missing row leaves; neighbours share one."""
        gaps = self.gaps.setdefault(row.split, [])
        if row.split in self._open_gaps:
            gaps[-1][1] = row.step
        else:
            gaps.append([row.step, row.step])
            self._open_gaps.add(row.split)

    def take(self) -> Iterator[Row]:
        """Hand over all waiting rows, one by one and for good; their bytes count until `release`."""
        rows, self._rows = self._rows, []
        self._taken = self.held
        rows.reverse()
        # Whoever turns them into something else must not find them still here.
        return (rows.pop() for _ in range(len(rows)))

    def release(self) -> None:
        """All rows taken so far are on disk."""
        self.held -= self._taken
        self._taken = 0
