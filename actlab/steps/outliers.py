"""The batch of a column that is least like the rest of it."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from actlab.steps.merging import check_rows, check_whole, place_groups

__all__ = ["find_oddest", "oddest"]

_Floats = NDArray[np.float64]

_BLOCK_BYTES: Final = 256 << 20


def oddest(ds: xr.Dataset, k: int) -> xr.Dataset:
    """Find the batch of each column of k batches that is least like the rest of it.

    The batches of a column are held in memory together, those of other columns are not.

    Parameters
    ----------
    ds : xarray.Dataset
        Rows of a split: counts [step, ..., bucket].
    k : int
        Batches per column; the last column may hold fewer.

    Returns
    -------
    xarray.Dataset
        - distance [column, ...]: total variation distance (0 to 1) of that batch to the others of its
          column, pooled; 0 without others;
        - step [column, ...]: `step` of that batch, the first of equally odd ones.

        Coordinates as `by_column`, but for step.

    Raises
    ------
    SelectionError
        If `ds` has no rows, or they are not those of a split.
    ValueError
        If `k` is not a whole number from 1.
    """
    n_rows, k = check_rows(ds, "counts"), check_whole("k", k)
    counts = ds["counts"].transpose("step", ..., "bucket")
    coords = place_groups(ds, np.arange(n_rows) // k, "column")
    place = _by_blocks(counts.data, k)
    dims = ("column", *counts.dims[1:-1])
    step, first_row = ds["step"].values, coords["first_row"].values

    def step_of(row: _Floats) -> NDArray[Any]:
        return step[row.astype(np.intp)]

    row = xr.DataArray(place[..., 1], dims=dims) + xr.DataArray(first_row, dims="column")
    found = {
        "distance": xr.DataArray(place[..., 0], dims=dims),
        "step": xr.apply_ufunc(step_of, row, dask="parallelized", output_dtypes=[step.dtype]),
    }
    kept = {name: coords[name] for name in coords if name != "step" and "bucket" not in coords[name].dims}
    return xr.Dataset(found, kept)


def find_oddest(counts: NDArray[Any], k: int) -> tuple[_Floats, NDArray[np.int64]]:
    """Find the oddest batch of each column in plain arrays: `oddest` without labels.

    Parameters
    ----------
    counts : numpy.ndarray
        Counts [row, ..., bucket], from the first row of a column on; or of classes of buckets.
    k : int
        Rows per column; the last column may have fewer.

    Returns
    -------
    distance : numpy.ndarray
        Total variation distance [column, ...] of that batch to the others, pooled; 0 without others.
    row : numpy.ndarray
        Its row within the column [column, ...].
    """
    n_rows, *cells, n_buckets = counts.shape
    distance, row = _find_oddest(np.ascontiguousarray(counts).reshape(n_rows, -1, n_buckets), k)
    return distance.reshape(len(distance), *cells), row.reshape(len(row), *cells)


@njit(cache=True, nogil=True)
def _find_oddest(counts: NDArray[Any], k: int) -> tuple[_Floats, NDArray[np.int64]]:
    """Find distance and row [column, cell] of the oddest row in counts [row, cell, bucket]."""
    n_rows, n_cells, n_buckets = counts.shape
    n_columns = -(-n_rows // k)
    distance = np.zeros((n_columns, n_cells))
    found = np.zeros((n_columns, n_cells), np.int64)
    total = np.empty(n_buckets)
    for column in range(n_columns):
        start, stop = column * k, min((column + 1) * k, n_rows)
        for cell in range(n_cells):
            total[:] = 0
            for row in range(start, stop):
                total += counts[row, cell]
            n = total.sum()
            for row in range(start, stop):
                batch = counts[row, cell]
                n_batch = np.float64(batch.sum())
                scale = 2 * n_batch * (n - n_batch)
                if scale > 0:
                    # |c / n_batch - (t - c) / n_rest| times both: whole numbers, no rounding.
                    apart = 0.0
                    for bucket in range(n_buckets):
                        apart += abs(batch[bucket] * n - total[bucket] * n_batch)
                    if apart / scale > distance[column, cell]:
                        distance[column, cell] = apart / scale
                        found[column, cell] = row - start
    return distance, found


def _by_blocks(counts: Any, k: int) -> Any:
    """Find distance and row [column, ..., 2] of the oddest batches, whole columns at a time on dask."""
    if isinstance(counts, np.ndarray):
        return _find_block(counts, k)
    n_rows, chunk = counts.shape[0], max(counts.chunks[0])
    # Where chunks end with columns none is cut: the pieces of those that are would wait for the others.
    height = math.lcm(chunk, k)
    if height * counts.nbytes > _BLOCK_BYTES * n_rows:
        height = -(-chunk // k) * k
    heights = [min(height, n_rows - start) for start in range(0, n_rows, height)]
    whole = counts.rechunk({0: tuple(heights), -1: -1})
    chunks = (tuple(-(-rows // k) for rows in heights), *whole.chunks[1:-1], (2,))
    return whole.map_blocks(
        _find_block, k, dtype=np.float64, chunks=chunks, meta=np.empty((0,) * counts.ndim)
    )


def _find_block(counts: NDArray[Any], k: int) -> _Floats:
    """Return what `find_oddest` finds as one array [column, ..., 2]."""
    return np.stack(find_oddest(counts, k), axis=-1)
