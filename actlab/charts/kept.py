"""The rows of one layer in memory, and sums of them on any bins: recorded counts, or raw outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.charts.raster import mean_cells
from actlab.rebinning import Rebinned, bin_array, rebin_array
from actlab.run import Run
from actlab.steps.blocks import row_blocks
from actlab.store.splits import places

__all__ = ["Kept", "Pooled", "keep"]

_Floats = NDArray[np.float64]

_BAND: Final = 1024
"""Rows summed at once."""

Pooled = Callable[[LinearAxis], Rebinned]
"""Columns of rows; called with bins it returns their means per row, [column, bin] and [column]."""


def keep(run: Run, layer: str, split: str, rows: NDArray[np.int64]) -> Kept:
    """Read some rows of a layer: raw outputs where every one was kept, else the counts.

    Parameters
    ----------
    run : Run
        The recorded training.
    layer, split : str
        What was recorded where.
    rows : numpy.ndarray
        Numbers of the rows wanted [row], ascending.

    Returns
    -------
    Kept
        As many bytes as the largest count needs, 1 to 8, for each row and each bucket that ever held a
        value; or the raw outputs.
    """
    recorded = run[split].sel(layer=[layer])
    found = run.values(layer, split, rows)
    if found is None:
        return _Buckets(recorded, rows)
    head, chosen = found["head"].values, recorded.isel(step=rows)
    row = places(chosen["step"], chosen["attempt"]).get_indexer(places(found["step"], found["attempt"]))
    return _Values(head.ravel(), np.repeat(row, math.prod(head.shape[1:])), rows.size)


class Kept(Protocol):
    """Rows of a layer, in memory."""

    nonfinite: _Floats
    """Infinite and NaN values of each row [row]."""

    def pool(self, rows: NDArray[np.int64], k: int) -> Pooled:
        """Take the mean of each k of some rows, given in ascending order."""
        ...

    def classes(self, axis: LinearAxis) -> NDArray[np.unsignedinteger[Any]]:
        """Count the values of all rows by the bin that they lie in, or nearly so [row, class]."""
        ...


class _Buckets:
    """Recorded counts, without the buckets that never held a value.

    Parameters
    ----------
    recorded : xarray.Dataset
        A split of a `Run`, with a single layer.
    numbers : numpy.ndarray
        Numbers of the rows wanted [row], ascending.
    """

    def __init__(self, recorded: xr.Dataset, numbers: NDArray[np.int64]) -> None:
        self._ends = recorded.lower.values, recorded.upper.values
        parts: list[tuple[slice, NDArray[np.intp], NDArray[Any]]] = []
        used = np.zeros(self._ends[0].size, np.bool_)
        for where, block in row_blocks(recorded["counts"], numbers):
            filled = np.flatnonzero(block.any(axis=(0, 1)))
            used[filled] = True
            part = block[:, 0, filled]
            parts.append((where, filled, part.astype(np.min_scalar_type(part.max(initial=0)))))
        self._used, place = np.flatnonzero(used), np.cumsum(used) - 1
        kind = np.result_type(np.uint8, *(part.dtype for _, _, part in parts))
        self._counts = np.zeros((numbers.size, self._used.size), kind)
        while parts:  # a part is forgotten once it is copied
            where, filled, part = parts.pop()
            self._counts[where, place[filled]] = part
        ends = np.isin(self._used, [0, used.size - 2, used.size - 1])
        self.nonfinite = self._counts[:, ends].sum(axis=1, dtype=np.float64)

    def pool(self, rows: NDArray[np.int64], k: int) -> Pooled:
        """Pool now, interpolate later: see `rebinning.rebin`."""
        pooled = np.zeros((-(-rows.size // k), self._ends[0].size))
        if self._used.size:
            neighbours = int(rows[-1] - rows[0]) == rows.size - 1  # then a view will do
            chosen = self._counts[rows[0] : rows[-1] + 1] if neighbours else self._counts[rows]
            is_one = rows.size <= k  # a single column needs no raster, and none of its copies
            pooled[:, self._used] = (
                chosen.mean(axis=0, dtype=np.float64) if is_one else mean_cells(chosen, k, 1)
            )
        return partial(rebin_array, pooled, *self._ends)

    def classes(self, axis: LinearAxis) -> NDArray[np.unsignedinteger[Any]]:
        """Judge a bucket by its middle."""
        lower, upper = (ends[self._used] for ends in self._ends)
        with np.errstate(invalid="ignore"):
            code = axis.index((lower + upper) / 2)
        code[np.isneginf(upper)] = -2
        code[np.isposinf(lower)] = axis.n_bins + 1
        code[np.isnan(lower)] = axis.n_bins + 2
        starts = np.flatnonzero(np.diff(code, prepend=-3))
        if not starts.size:  # never called
            return np.zeros((len(self._counts), 1), np.uint64)
        found = np.empty((len(self._counts), starts.size), np.uint64)
        for first in range(0, len(found), _BAND):  # numpy makes a copy in 8 bytes of what it sums
            band = slice(first, first + _BAND)
            np.add.reduceat(self._counts[band], starts, axis=1, dtype=np.uint64, out=found[band])
        return found


class _Values:
    """Raw outputs, which are exact on any bins.

    Parameters
    ----------
    values : numpy.ndarray
        The outputs [value].
    row : numpy.ndarray
        Row of each [value].
    n_rows : int
        Number of rows.
    """

    def __init__(self, values: NDArray[np.floating[Any]], row: NDArray[np.int64], n_rows: int) -> None:
        self._values, self._row = values, row
        self.nonfinite = np.bincount(row[~np.isfinite(values)], minlength=n_rows).astype(np.float64)

    def pool(self, rows: NDArray[np.int64], k: int) -> Pooled:
        """Count later, then divide by the rows of each column."""
        place = np.minimum(np.searchsorted(rows, self._row), rows.size - 1)
        chosen = rows[place] == self._row
        values, column = self._values[chosen], place[chosen] // k
        sizes = np.diff(np.arange(0, rows.size, k), append=rows.size)

        def bin_mean(axis: LinearAxis) -> Rebinned:
            found = bin_array(values, column, sizes.size, axis)
            means = {name: (getattr(found, name).T / sizes).T for name in Rebinned._fields[:-1]}
            return found._replace(**means)

        return bin_mean

    def classes(self, axis: LinearAxis) -> NDArray[np.unsignedinteger[Any]]:
        """Take the bins, and what lies around them."""
        *found, _, _ = bin_array(self._values, self._row, self.nonfinite.size, axis)
        return np.column_stack(found).astype(np.uint32)
