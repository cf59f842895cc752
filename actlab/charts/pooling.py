"""Sums over groups of rows, as the rows stream by; plain arrays, no selection and no picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from actlab.charts.sources import Counts

__all__ = ["Pool"]


class Pool:
    """Sums the rows of each group; a group is handed on, and forgotten, with its last row.

    Parameters
    ----------
    groups : numpy.ndarray
        Group of each row [row], -1 for none.
    finish : callable
        Called with the group and its sum [layer, slot], uint64.
    """

    def __init__(self, groups: NDArray[np.int64], finish: Callable[[int, Counts], None]) -> None:
        self._groups = groups
        self._last = {int(group): row for row, group in enumerate(groups)}
        self._finish = finish
        self._open: dict[int, Counts] = {}

    def add(self, where: slice, block: Counts) -> None:
        """Take in some consecutive rows.

        Parameters
        ----------
        where : slice
            Which rows.
        block : numpy.ndarray
            Their counts [row, layer, slot].
        """
        groups = self._groups[where]
        starts = np.flatnonzero(np.diff(groups, prepend=-2))
        for start, stop in zip(starts, [*starts[1:], len(block)], strict=True):
            group = int(groups[start])
            if group < 0:
                continue
            total = block[start:stop].sum(axis=0, dtype=np.uint64)
            if group in self._open:
                total += self._open.pop(group)
            if self._last[group] < where.start + stop:
                self._finish(group, total)
            else:
                self._open[group] = total
