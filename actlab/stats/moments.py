"""Moments: merged exactly from parts, or read off counts with a bound."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from actlab.errors import AxisError
from actlab.rebinning import buckets_of, middles
from actlab.stats.rows import per_row

__all__ = ["count_moments", "pool_moments"]


def pool_moments(ds: xr.Dataset, dim: str | Sequence[Hashable] = "step") -> xr.Dataset:
    """Merge moments over some dims, as if they had been taken of all the values at once.

    With the finite values f_i of each part: mean = sum(f_i mean_i) / f and std^2 =
    sum(f_i (std_i^2 + (mean_i - mean)^2)) / f (Chan, Golub and LeVeque, The American Statistician
    37, 1983, eq. 2.1). A second pass takes the rounding out of the mean, as in their corrected two-pass
    algorithm, so that a mean far larger than the std does no harm. Steps and ranks may be pooled in any
    order and grouping.

    Parameters
    ----------
    ds : xarray.Dataset
        n, mean, std, min, max [..., dim], and counts [..., dim, bucket] or finite [..., dim].
    dim : str or sequence of str
        The dims to pool.

    Returns
    -------
    xarray.Dataset
        n and finite (uint64), mean, std (ddof 0), min, max [...] of the finite values, NaN where
        there are none; can be pooled again.

    Raises
    ------
    AxisError
        If `ds` is no Dataset.
    """
    if not isinstance(ds, xr.Dataset):
        raise AxisError(f"moments are pooled of a Dataset, such as run['train'], got a {type(ds).__name__}")
    if "finite" not in ds:
        ds = ds.assign(finite=ds["n"] - ds["counts"].isel(bucket=[0, -2, -1]).sum("bucket"))
    finite = ds["finite"]
    total = finite.sum(dim)
    share = finite / total.where(total > 0)
    about = (share * ds["mean"]).sum(dim)
    offset = ds["mean"] - about
    shift = (share * offset).sum(dim)
    square = (share * (ds["std"] ** 2 + (offset - shift) ** 2)).sum(dim)
    return xr.Dataset(
        {
            "n": ds["n"].sum(dim),
            "finite": total,
            "mean": (about + shift).where(total > 0),
            "std": (square**0.5).where(total > 0),
            "min": ds["min"].min(dim),
            "max": ds["max"].max(dim),
        }
    )


@njit(cache=True, nogil=True)
def _moment_rows(
    counts: NDArray[Any], middle: NDArray[np.float64], half: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Moments [row, (mean, std, mean_bound, std_bound)] of rows of finite counts [row, bucket]."""
    found = np.empty((counts.shape[0], 4))
    for row in range(counts.shape[0]):
        total, mean, reach = 0.0, 0.0, 0.0
        for bucket in range(middle.size):
            count = float(counts[row, bucket])
            if count > 0:
                total += count
                mean += count * middle[bucket]
                reach += count * half[bucket]
        if total <= 0:
            found[row] = np.nan
            continue
        mean /= total
        square, reach_square = 0.0, 0.0
        for bucket in range(middle.size):
            count = float(counts[row, bucket])
            if count > 0:
                square += count * (middle[bucket] - mean) ** 2
                reach_square += count * half[bucket] ** 2
        found[row] = (mean, np.sqrt(square / total), reach / total, np.sqrt(reach_square / total))
    return found


def count_moments(counts: xr.DataArray) -> xr.Dataset:
    """Read mean and std off counts, every value taken for the middle of its bucket.

    A value is at most half the width h of its bucket away from the middle. So the mean errs by at most
    the mean of h over the values, and the std by at most the root mean square of h, for the std is a
    seminorm: |std(x) - std(y)| <= std(x - y) <= rms(x - y). On the default axis both are at most 1.6 %
    of the mean and the root mean square of |value|, and 2^-25. Recorded runs hold the exact `mean` and
    `std` of each row: `pool_moments` merges them.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts [..., bucket] with the coordinates `lower` and `upper` of a `FloatAxis`.

    Returns
    -------
    xarray.Dataset
        - n, finite [...]: how many values, how many of them finite;
        - mean, std [...]: of the finite values (ddof 0), in their units; underflow and overflow, buckets
          without an end, are taken for their inner end;
        - mean_bound, std_bound [...]: how far they can be from those of the values themselves; infinite
          where underflow or overflow hold any.

        NaN where there are no finite values.

    Raises
    ------
    AxisError
        If `counts` are not on a `FloatAxis`.
    """
    buckets_of(counts)
    counts = counts.drop_attrs(deep=False)
    finite = counts.isel(bucket=slice(1, -2))
    lower, upper = finite["lower"].values, finite["upper"].values
    middle, half = middles(lower, upper), (upper - lower) / 2
    names = ("mean", "std", "mean_bound", "std_bound")
    found = per_row(lambda rows: _moment_rows(rows, middle, half), finite, {"moment": len(names)})
    return xr.Dataset(
        {
            "n": counts.sum("bucket"),
            "finite": finite.sum("bucket"),
            **{name: found.isel(moment=position) for position, name in enumerate(names)},
        }
    )
