"""Shares of the values: exact zeros, those out of a range; and the entropy of all shares."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import entr

from actlab.axis import LinearAxis
from actlab.rebinning import buckets_of, check_array, rebin
from actlab.stats.rows import in_slots

__all__ = ["entropy", "out_of_range", "zero_share"]


def zero_share(counts: xr.DataArray) -> xr.DataArray:
    """Return the share of values that are exactly 0.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts [..., bucket] with the coordinates `lower` and `upper` of a `FloatAxis`.

    Returns
    -------
    xarray.DataArray
        [...], 0 to 1, of all n values, non-finite ones included; NaN without values.

    Raises
    ------
    AxisError
        If `counts` are not on a `FloatAxis`.
    """
    place = buckets_of(counts).zero
    counts = counts.drop_attrs(deep=False)
    zeros = counts.isel(bucket=place, drop=True)
    n = counts.sum("bucket")
    share: xr.DataArray = zeros / n.where(n > 0)
    return share.rename("zero_share")


def out_of_range(counts: xr.DataArray, h_min: float, h_max: float) -> xr.Dataset:
    """Return the shares of values that a range leaves out.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts [..., bucket] with the coordinates `lower` and `upper` of a `FloatAxis`.
    h_min, h_max : float
        The range, both ends within it; h_min < h_max.

    Returns
    -------
    xarray.Dataset
        Shares of all n values, [...]; NaN without values.

        - below, above: finite values below h_min and above h_max, as `rebin` has them in `underflow` and
          `overflow`;
        - nonfinite: infinite values and NaN;
        - bound: the buckets cut by the ends: `below` and `above` are no further from the shares of the
          values themselves, and exact where it is 0.

    Raises
    ------
    AxisError
        If there is no such range, or `counts` are not on a `FloatAxis`.
    """
    check_array(counts)  # a whole Dataset has more than shares
    counts = counts.drop_attrs(deep=False)
    view = rebin(counts, LinearAxis(h_min, h_max, 1))
    n = counts.sum("bucket")
    found = xr.Dataset(
        {
            "below": view["underflow"],
            "above": view["overflow"],
            "nonfinite": view["neg_inf"] + view["pos_inf"] + view["nan"],
            "bound": view["bound"].isel(bin=0, drop=True),
        }
    )
    return (found / n.where(n > 0)).assign_attrs(h_min=h_min, h_max=h_max)


def entropy(counts: xr.DataArray, dim: str | Sequence[Hashable] = "bucket") -> xr.DataArray:
    """Return the entropy of a histogram.

    -sum(p log2 p) over the shares p, 0 log 0 = 0 (Shannon, Bell Syst. Tech. J. 27, 1948).

    Parameters
    ----------
    counts : xarray.DataArray
        Counts or shares, not negative.
    dim : str or sequence of str
        The dims over which they add up to one, every slot counted: on buckets also those of
        non-finite values.

    Returns
    -------
    xarray.DataArray
        [...] in bits, 0 (all values in one slot) to log2 of the number of slots; NaN without values.

    Raises
    ------
    AxisError
        If `counts` lack a dim.
    """

    def over_block(block: NDArray[Any]) -> NDArray[np.float64]:
        total = block.sum(axis=-1, keepdims=True)
        bits: NDArray[np.float64] = entr(block / np.where(total > 0, total, np.nan)).sum(axis=-1) / np.log(2)
        return bits

    found: xr.DataArray = xr.apply_ufunc(
        over_block,
        in_slots(counts, dim),
        input_core_dims=[["slot"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )
    return found.rename("entropy")
