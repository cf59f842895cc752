"""Columns of whole batches, and epochs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.errors import SelectionError
from actlab.steps.grouping import Merge, add, by_group
from actlab.steps.moments import EXTREMES, POOLED, moment_table, pool

__all__ = ["by_column", "by_epoch", "check_rows", "check_whole", "in_order", "last_quarter", "place_groups"]

_MERGED: Final = ("counts", "n", "mean", "std", "min", "max")


def by_column(ds: xr.Dataset, k: int | None = None, *, max_columns: int | None = None) -> xr.Dataset:
    """Merge rows into columns of k batches; the last column may hold fewer.

    Columns start at multiples of k rows, whatever the epoch: one may hold the end of an epoch and the
    start of the next.

    Parameters
    ----------
    ds : xarray.Dataset
        Rows of a split: counts [step, ..., bucket], n, mean, std, min, max [step, ...].
    k : int, optional
        Batches per column.
    max_columns : int, optional
        Instead of `k`: the smallest k that gives at most so many columns.

    Returns
    -------
    xarray.Dataset
        - counts [column, ..., bucket]: sums, uint64;
        - n, finite [column, ...]: number of values, and of the finite ones, uint64;
        - mean, std, min, max [column, ...]: of all finite values of the column, as
          `stats.pool_moments`; NaN where there are none;
        - mean_min, mean_max, std_min, std_max [column, ...]: extremes of its single batches.

        Coordinates first_row and n_rows [column], rows being counted from 0 in `ds`, step and epoch
        [column] of the first row, and those of `ds` without `step`.

    Raises
    ------
    SelectionError
        If `ds` has no rows, or they are not those of a split.
    ValueError
        If not exactly one of `k` and `max_columns` is given, or it is not a whole number from 1.
    """
    n_rows = check_rows(ds, *_MERGED)
    if (k is None) == (max_columns is None):
        raise ValueError("give either k, the batches per column, or max_columns")
    if k is None:
        k = -(-n_rows // check_whole("max_columns", max_columns))
    return _merged(ds, np.arange(n_rows) // check_whole("k", k), "column")


def by_epoch(ds: xr.Dataset, *, last_quarter: bool = False) -> xr.Dataset:
    """Merge the rows of each epoch; counts / n_rows is its mean batch.

    Rows of an epoch that comes again, as after a resume, are merged with those before.

    Parameters
    ----------
    ds : xarray.Dataset
        Rows of a split, as for `by_column`, with the coordinate epoch [step].
    last_quarter : bool
        Only the last ceil(n/4) rows of each epoch.

    Returns
    -------
    xarray.Dataset
        As `by_column`, with `epoch` in place of `column`: the labels, in the order of their first row.

    Raises
    ------
    SelectionError
        If `ds` has no rows, or they are not those of a split.
    """
    check_rows(ds, *_MERGED, "epoch")
    _, number = in_order(ds["epoch"].values)
    if not last_quarter:
        return _merged(ds, number, "epoch")
    rows = _quarters(number)
    merged = _merged(ds.isel(step=rows), number[rows], "epoch")
    return merged.assign_coords(first_row=("epoch", rows[merged["first_row"].values]))


def in_order(labels: NDArray[np.integer[Any]]) -> tuple[list[int], NDArray[np.intp]]:
    """Count labels through in the order of their first row.

    Parameters
    ----------
    labels : numpy.ndarray
        Label of each row [row].

    Returns
    -------
    known : list of int
        The labels.
    number : numpy.ndarray
        Position in `known` of each row's [row].
    """
    known, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return [int(label) for label in known[order]], rank[inverse]


def last_quarter(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the last ceil(n/4) of the rows of an epoch [row]."""
    return rows[rows.size - -(-rows.size // 4) :]


def _quarters(number: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the rows of the last quarter of each group [row], ascending, given the group of each row."""
    groups = (np.flatnonzero(number == group) for group in range(int(number.max()) + 1))
    return np.sort(np.concatenate([last_quarter(rows) for rows in groups]))


def check_rows(ds: xr.Dataset, *wanted: str) -> int:
    """Return the number of rows of a split; refuse what is none, or has not the variables wanted."""
    expected = "expected rows of a split, such as run['train']"
    if not isinstance(ds, xr.Dataset):
        raise SelectionError(f"{expected}, got a {type(ds).__name__}")
    missing = [name for name in (*wanted, "step") if name not in ds.variables]
    # Rows that were merged have their `step` along another dim, re-binned ones have no buckets.
    missing = missing or [f"the dim {dim!r}" for dim in ("step", "bucket") if dim not in ds.dims]
    if missing:
        raise SelectionError(f"{expected}, but they lack {', '.join(missing)}")
    if not ds.sizes["step"]:
        raise SelectionError("no rows to merge: the selection is empty")
    return ds.sizes["step"]


def check_whole(name: str, value: Any) -> int:
    """Return `value` as a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
    return int(value)


def place_groups(ds: xr.Dataset, number: NDArray[np.intp], dim: str) -> dict[Hashable, xr.DataArray]:
    """Return the coordinates of groups, given the group of each row [row]; those of the first row."""
    first, n_rows = np.unique(number, return_index=True, return_counts=True)[1:]
    of_first = {name: ds[name].values[first] for name in ("step", "epoch") if name in ds.coords}
    places = {"first_row": first, "n_rows": n_rows, **of_first}
    kept = {name: coordinate for name, coordinate in ds.coords.items() if "step" not in coordinate.dims}
    return {**kept, **{name: xr.DataArray(values, dims=dim) for name, values in places.items()}}


def _merged(ds: xr.Dataset, number: NDArray[np.intp], dim: str) -> xr.Dataset:
    """Merge the rows of each group, given the group of each row [row], counted from 0."""

    def merge(values: xr.DataArray, how: Merge, dtype: Any = np.float64) -> xr.Variable:
        rows = values.variable.transpose("step", ...)
        return xr.Variable((dim, *rows.dims[1:]), by_group(rows.data, number, how, dtype))

    pooled = merge(moment_table(ds), pool)
    moments = {name: pooled.isel(moment=slot) for slot, name in enumerate(POOLED)}
    variables = {
        "counts": merge(ds["counts"].transpose(..., "bucket"), add, np.uint64),
        "n": merge(ds["n"], add, np.uint64),
        **moments,
        "finite": moments["finite"].astype(np.uint64),
        **{name: merge(ds[source], extreme.reduceat) for name, (source, extreme) in EXTREMES.items()},
    }
    return xr.Dataset(variables, place_groups(ds, number, dim), ds.attrs)
