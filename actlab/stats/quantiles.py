"""Quantiles read off counts, and the ends between which those of the values lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import ArrayLike, NDArray

from actlab.errors import AxisError
from actlab.rebinning import Buckets, buckets_of, cubic
from actlab.stats.rows import per_row

__all__ = ["quantile", "quantile_bounds"]


@njit(cache=True, nogil=True)
def _solve(mass: NDArray[np.float64], width: NDArray[np.float64], interval: int, wanted: float) -> float:
    """Find the part of an interval (0 to 1) that has the wanted mass below it, by bisection."""
    if wanted >= mass[interval]:
        return 1.0
    a, b, c = cubic(mass, width, interval)
    low, high = 0.0, 1.0
    for _ in range(53):  # the mantissa of float64
        middle = (low + high) / 2
        if middle * (a + middle * (b + middle * c)) < wanted:
            low = middle
        else:
            high = middle
    return high if wanted > 0 else 0.0


@njit(cache=True, nogil=True)
def _quantile(mass: NDArray[np.float64], point: float, buckets: Buckets, q: float) -> float:
    """Return the smallest value with the share q of the mass at or below it."""
    total = mass.sum() + point
    wanted = q * total
    if abs(wanted - round(wanted)) <= 1e-12 * total:  # k / n * n need not be k
        wanted = round(wanted)
    below: float = 0.0
    last: float = np.nan
    for interval in range(mass.size):
        if interval == mass.size // 2 and point > 0:  # zero lies between the two halves
            below += point
            last = 0.0
            if below >= wanted:
                return 0.0
        if mass[interval] > 0:
            part = _solve(mass, buckets.width, interval, wanted - below)
            below += mass[interval]
            last = buckets.ends[interval + 1]
            if part < 1:
                last = buckets.ends[interval] + part * buckets.width[interval]
            if part < 1 or below >= wanted:
                return last
    return last


@njit(cache=True, nogil=True)
def _quantile_rows(counts: NDArray[Any], buckets: Buckets, q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles [row, quantile] of rows of counts [row, bucket]."""
    found = np.empty((counts.shape[0], q.size))
    mass = np.empty(buckets.bucket.size)
    for row in range(counts.shape[0]):
        for interval in range(mass.size):
            mass[interval] = counts[row, buckets.bucket[interval]]
        for column in range(q.size):
            found[row, column] = _quantile(mass, counts[row, buckets.zero], buckets, q[column])
    return found


@njit(cache=True, nogil=True)
def _holder(counts: NDArray[Any], rank: float) -> int:
    """Return the finite bucket of the value with a rank (from 0) among the finite ones; -1 without any."""
    reached: float = 0.0
    for bucket in range(1, counts.size - 2):
        reached += counts[bucket]
        if reached > rank and counts[bucket] > 0:
            return bucket
    return -1


@njit(cache=True, nogil=True)
def _bound_rows(
    counts: NDArray[Any], lower: NDArray[np.float64], upper: NDArray[np.float64], q: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bounds [row, quantile, end] of the quantiles of rows of counts [row, bucket]."""
    found = np.empty((counts.shape[0], q.size, 2))
    for row in range(counts.shape[0]):
        finite = float(counts[row, 1:-2].sum())
        for column in range(q.size):
            rank = (finite - 1) * q[column]
            found[row, column, 0] = lower[_holder(counts[row], np.floor(rank))]  # of bucket -1: NaN
            found[row, column, 1] = upper[_holder(counts[row], np.ceil(rank))]
    return found


def quantile(counts: xr.DataArray, q: ArrayLike) -> xr.DataArray:
    """Return quantiles of the finite values, read off the cumulative counts that `rebin` uses.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts [..., bucket] with the coordinates `lower` and `upper` of a `FloatAxis`.
    q : array_like
        Shares, each 0 to 1.

    Returns
    -------
    xarray.DataArray
        [..., quantile]: the smallest value with the share q of the finite mass at or below it, exact
        where that share ends with a bucket; NaN without finite values.

    Raises
    ------
    AxisError
        If a share lies outside 0 to 1, or `counts` are not on a `FloatAxis`.
    """
    buckets, shares = buckets_of(counts), _shares(q)
    found = per_row(lambda rows: _quantile_rows(rows, buckets, shares), counts, {"quantile": shares.size})
    labelled: xr.DataArray = found.assign_coords(quantile=shares).rename("value")
    return labelled


def quantile_bounds(counts: xr.DataArray, q: ArrayLike) -> xr.Dataset:
    """Return the ends between which quantiles of the values themselves surely lie.

    The quantile q of n finite values lies between those of the ranks floor(q (n - 1)) and
    ceil(q (n - 1)), counted from 0, whichever way it is interpolated; the bounds are the outer ends of
    the buckets that hold these two, mostly one bucket. So they hold for `numpy.quantile` with the
    methods "linear" (its default), "lower", "higher", "nearest", "midpoint" and "inverted_cdf"
    (Hyndman and Fan, The American Statistician 50, 1996), and for `quantile`.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts [..., bucket] with the coordinates `lower` and `upper` of a `FloatAxis`; whole numbers,
        for shares do not tell n.
    q : array_like
        Shares, each 0 to 1.

    Returns
    -------
    xarray.Dataset
        lower, upper [..., quantile]: infinite where underflow or overflow hold the value, NaN without
        finite values.

    Raises
    ------
    AxisError
        If a share lies outside 0 to 1, or `counts` are not on a `FloatAxis`.
    """
    buckets_of(counts)
    lower, upper, shares = counts["lower"].values, counts["upper"].values, _shares(q)
    found = per_row(
        lambda rows: _bound_rows(rows, lower, upper, shares), counts, {"quantile": shares.size, "end": 2}
    )
    ends = {name: found.isel(end=end) for end, name in enumerate(("lower", "upper"))}
    return xr.Dataset(ends, {"quantile": shares})


def _shares(q: ArrayLike) -> NDArray[np.float64]:
    """Return shares [quantile], each 0 to 1, or raise `AxisError`."""
    shares = np.atleast_1d(np.asarray(q, np.float64))
    if not np.all((shares >= 0) & (shares <= 1)):
        raise AxisError(f"quantiles must lie within 0 and 1, got {shares.tolist()}")
    return shares
