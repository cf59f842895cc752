"""Sums of recorded counts in few columns, however long the training; nothing is read twice."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import FloatAxis, LinearAxis
from actlab.rebinning import rebin_array

__all__ = ["Binned", "Columns"]

_MOST: Final = 384
_LEAST: Final = 48
_MOST_CELLS: Final = 24_000
"""Columns of all layers together: some 200 MB."""


class Columns:
    """The counts of all layers in columns of k rows; k doubles when there are too many of them.

    Parameters
    ----------
    n_layers : int
        Number of layers.
    axis : FloatAxis
        The buckets.

    Attributes
    ----------
    k, n_rows : int
        Rows in a column, and in all.
    """

    def __init__(self, n_layers: int, axis: FloatAxis) -> None:
        self.axis, self.k, self.n_rows = axis, 1, 0
        self.most = min(max(_MOST_CELLS // max(n_layers, 1), _LEAST), _MOST) // 2 * 2
        self._first = 0
        # Exact up to 2^24, then to seven digits; buckets at the ends that never held a value are left out.
        self._sums = np.zeros((n_layers, self.most, 0), np.float32)

    @property
    def n_columns(self) -> int:
        """Columns so far; the last one may hold fewer than k rows."""
        return -(-self.n_rows // self.k)

    @property
    def starts(self) -> NDArray[np.intp]:
        """First row of each column [column]."""
        return np.arange(0, self.n_rows, self.k)

    def add(self, block: NDArray[np.unsignedinteger[Any]]) -> None:
        """Take in the counts [row, layer, bucket] of the next rows."""
        while self.n_rows + len(block) > self.k * self.most:
            self._sums[:, : self.most // 2] = self._sums[:, 0::2] + self._sums[:, 1::2]
            self._sums[:, self.most // 2 :] = 0
            self.k *= 2
        filled = np.flatnonzero(block.any(axis=(0, 1)))
        if filled.size:
            self._widen(int(filled[0]), int(filled[-1]) + 1)
        used = slice(self._first, self._first + self._sums.shape[2])
        for start in range(0, len(block), self.k):
            # A block may begin within a column.
            column, behind = divmod(self.n_rows + start, self.k)
            rows = block[start : start + self.k, :, used]
            self._sums[:, column] += rows[: self.k - behind].sum(axis=0, dtype=np.float32)
            if len(rows) > self.k - behind:
                self._sums[:, column + 1] += rows[self.k - behind :].sum(axis=0, dtype=np.float32)
        self.n_rows += len(block)

    def _widen(self, first: int, stop: int) -> None:
        """Make room for the buckets from `first` to `stop`."""
        size = self._sums.shape[2]
        if size and first >= self._first and stop <= self._first + size:
            return
        if size:
            first, stop = min(first, self._first), max(stop, self._first + size)
        wider = np.zeros((*self._sums.shape[:2], stop - first), np.float32)
        wider[..., self._first - first : self._first - first + size] = self._sums
        self._first, self._sums = first, wider

    def sums(self, layers: NDArray[np.intp], columns: slice) -> NDArray[np.float32]:
        """Return the sums of some columns of some layers [layer, column, bucket]."""
        chosen = self._sums[layers, columns]
        whole = np.zeros((*chosen.shape[:2], self.axis.n_buckets), np.float32)
        whole[..., self._first : self._first + chosen.shape[2]] = chosen
        return whole


class Binned:
    """Columns of some layers on bins, pooled to few enough; complete ones are brought onto their bins once.

    Parameters
    ----------
    names : sequence of str
        All layers.
    layers : sequence of int
        Which of them.
    most : int
        At most so many columns.
    """

    def __init__(self, names: list[str], layers: list[int], most: int) -> None:
        self._names, self._layers, self._most = [names[layer] for layer in layers], np.array(layers), most
        self._done = 0  # columns that will not change
        self._shape: tuple[Any, ...] = ()
        self._counts = np.zeros((0, 0, 0), np.float32)

    def dataset(self, columns: Columns, n: NDArray[np.float64], axis: LinearAxis) -> xr.Dataset:
        """Return mean counts per batch.

        Parameters
        ----------
        columns : Columns
            The sums.
        n : numpy.ndarray
            Values of each row [row, layer], of all layers.
        axis : LinearAxis
            The bins.

        Returns
        -------
        xarray.Dataset
            counts [layer, column, bin], n_per_batch [layer, column], first_row and n_rows [column],
            coordinates lower and upper [bin]; attributes h_min, h_max, batches_per_column: as of
            `charts.columns.columns`.
        """
        m = -(-columns.n_columns // self._most)
        k = m * columns.k
        starts = np.arange(0, columns.n_rows, k)
        n_rows = np.diff(starts, append=columns.n_rows)
        if self._shape != (columns, k, axis):
            self._shape, self._done = (columns, k, axis), 0
            self._counts = np.zeros((len(self._layers), self._most, axis.n_bins), np.float32)
        for first in range(self._done, starts.size):
            total = columns.sums(self._layers, slice(first * m, (first + 1) * m)).sum(axis=1)
            binned = rebin_array(total, columns.axis.lower, columns.axis.upper, axis)
            self._counts[:, first] = binned.counts / n_rows[first]
        self._done = columns.n_rows // k
        per_batch = np.add.reduceat(n[:, self._layers], starts).T / n_rows
        return xr.Dataset(
            {
                "counts": (("layer", "column", "bin"), self._counts[:, : starts.size]),
                "n_per_batch": (("layer", "column"), per_batch),
                "first_row": ("column", starts),
                "n_rows": ("column", n_rows),
            },
            {"layer": self._names, "lower": ("bin", axis.lower), "upper": ("bin", axis.upper)},
            {"h_min": axis.h_min, "h_max": axis.h_max, "batches_per_column": k},
        )
