"""Statistics of recorded counts: pooled moments, quantiles, distances, the default range."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import ArrayLike, NDArray

from actlab.errors import AxisError
from actlab.rebinning import Buckets, cubic
from actlab.run import Run

__all__ = ["default_range", "pool_moments", "quantile", "symmetric_range", "total_variation"]

OUTSIDE: Final = 0.001
"""Share of the finite mass that a default range may leave out on each side."""

NICE: Final = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
"""Mantissas of a range that reads well."""


def pool_moments(ds: xr.Dataset, dim: str = "step") -> xr.Dataset:
    """Merge moments over a dim, as if they had been taken of all the values at once.

    With the finite values f_i of each part: mean = sum(f_i mean_i) / f and std^2 =
    sum(f_i (std_i^2 + (mean_i - mean)^2)) / f (Chan, Golub and LeVeque, The American Statistician
    37, 1983, eq. 2.1).

    Parameters
    ----------
    ds : xarray.Dataset
        n, mean, std, min, max [..., dim], and counts [..., dim, bucket] or finite [..., dim].
    dim : str
        The dim to pool.

    Returns
    -------
    xarray.Dataset
        n and finite (uint64), mean, std (ddof 0), min, max [...] of the finite values, NaN where
        there are none; can be pooled again.
    """
    if "finite" not in ds:
        ds = ds.assign(finite=ds["n"] - ds["counts"].isel(bucket=[0, -2, -1]).sum("bucket"))
    finite = ds["finite"]
    weight = finite.astype(np.float64)
    total = weight.sum(dim)
    total = total.where(total > 0)
    mean = (weight * ds["mean"]).sum(dim) / total
    square = (weight * (ds["std"] ** 2 + (ds["mean"] - mean) ** 2)).sum(dim) / total
    return xr.Dataset(
        {
            "n": ds["n"].sum(dim),
            "finite": finite.sum(dim),
            "mean": mean,
            "std": np.sqrt(square),
            "min": ds["min"].min(dim),
            "max": ds["max"].max(dim),
        }
    )


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
    shares = np.atleast_1d(np.asarray(q, np.float64))
    if not np.all((shares >= 0) & (shares <= 1)):
        raise AxisError(f"quantiles must lie within 0 and 1, got {shares.tolist()}")
    buckets = Buckets.of(counts["lower"].values, counts["upper"].values)

    def read(block: NDArray[Any]) -> NDArray[np.float64]:
        leading = block.shape[:-1]
        rows = np.ascontiguousarray(block).reshape(math.prod(leading), block.shape[-1])
        return _quantile_rows(rows, buckets, shares).reshape(*leading, shares.size)

    found = xr.apply_ufunc(
        read,
        counts.drop_vars(("lower", "upper")),
        input_core_dims=[["bucket"]],
        output_core_dims=[["quantile"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"quantile": shares.size}, "allow_rechunk": True},
    )
    labelled: xr.DataArray = found.assign_coords(quantile=shares)
    return labelled


def total_variation(a: xr.DataArray, b: xr.DataArray, dim: str | Sequence[Hashable]) -> xr.DataArray:
    """Return half the summed difference of two histograms, each taken as shares.

    0 for equal shapes, 1 for histograms that share no bin; NaN where one of them is empty.

    Parameters
    ----------
    a, b : xarray.DataArray
        Counts or shares, not negative.
    dim : str or sequence of str
        The dims over which each adds up to one.
    """
    difference: xr.DataArray = abs(a / a.sum(dim) - b / b.sum(dim))
    return difference.sum(dim, skipna=False) / 2


def symmetric_range(counts: xr.DataArray) -> tuple[float, float]:
    """Return the smallest nice range (-R, R) that leaves out little of any row of counts.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts [..., bucket]; no row may have more than 0.1 % of its finite mass below -R or above R.

    Returns
    -------
    h_min, h_max : float
        R is 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times a power of ten; 1 if all values are zero.
    """
    ends = np.abs(quantile(counts, (OUTSIDE, 1 - OUTSIDE)).values)
    reach = np.max(ends, initial=0.0, where=np.isfinite(ends))
    if reach == 0:
        return -1.0, 1.0
    exponent = math.floor(math.log10(reach))
    # The decimal literal, not a product: 3 * 0.1 is not 0.3.
    reach = next(nice for step in NICE if (nice := float(f"{step}e{exponent}")) >= reach)
    return -reach, reach


def default_range(run: Run, layers: str | Sequence[str] | None = None) -> tuple[float, float]:
    """Return one range for all layers of a run: all but 0.1 % of the finite mass on each side.

    The larger of two readings, all values pooled and every layer weighing the same, over the train
    split (over the others where there is none).

    Parameters
    ----------
    run : Run
        The run.
    layers : str or sequence of str, optional
        Patterns as in `Run.select_layers`; all layers by default.

    Returns
    -------
    h_min, h_max : float
        As `symmetric_range`.

    Raises
    ------
    SelectionError
        If a pattern matches no layer.
    """
    names = run.select_layers(layers)
    splits = ("train",) if "train" in run.splits else run.splits
    if not splits or not names:
        return -1.0, 1.0
    totals = [run.totals(split).sel(layer=names) for split in splits]
    counts = sum(totals[1:], totals[0])
    finite = counts.isel(bucket=slice(1, -2)).sum("bucket")
    pooled = counts.sum("layer").astype(np.float64)
    alike: xr.DataArray = (counts / finite.where(finite > 0)).sum("layer")
    return symmetric_range(xr.concat([pooled, alike], "reading", coords="minimal", compat="override"))
