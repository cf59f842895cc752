"""Counts row by row: the way of every compiled statistic, on numpy and dask alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.errors import AxisError
from actlab.rebinning import check_array, over_blocks

__all__ = ["in_slots", "per_row"]


def per_row(
    kernel: Callable[[NDArray[Any]], NDArray[Any]], counts: xr.DataArray, outputs: Mapping[str, int]
) -> xr.DataArray:
    """Turn every histogram into some numbers.

    Parameters
    ----------
    kernel : callable
        Turns rows of counts [row, bucket] into float64 [row, *outputs].
    counts : xarray.DataArray
        Counts [..., bucket].
    outputs : mapping of str to int
        Names and lengths of the dims that take the place of `bucket`.

    Returns
    -------
    xarray.DataArray
        [..., *outputs], lazy where `counts` are.
    """

    def over_block(block: NDArray[Any]) -> NDArray[Any]:
        leading = block.shape[:-1]
        rows = np.ascontiguousarray(block).reshape(math.prod(leading), block.shape[-1])
        return kernel(rows).reshape(*leading, *outputs.values())

    found: xr.DataArray = xr.apply_ufunc(
        *over_blocks(over_block, _bare(counts)),
        input_core_dims=[[], ["bucket"]],
        output_core_dims=[[*outputs]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": dict(outputs), "allow_rechunk": True},
    )
    return found


def in_slots(counts: xr.DataArray, dim: str | Sequence[Hashable]) -> xr.DataArray:
    """Lay the dims over which counts add up to one out as one dim, `slot`, without labels.

    Raises
    ------
    AxisError
        If `counts` lack such a dim.
    """
    check_array(counts)
    dims = [dim] if isinstance(dim, str) else [*dim]
    if missing := [name for name in dims if name not in counts.dims]:
        raise AxisError(f"no dim {missing[0]!r} to add counts up over, got the dims {[*counts.dims]}")
    bare = _bare(counts)
    if len(dims) > 1:
        return bare.stack(slot=dims, create_index=False)
    # dask cannot stack where nothing is selected.
    return bare.drop_vars(dims, errors="ignore").rename(dict.fromkeys(dims, "slot"))


def _bare(counts: xr.DataArray) -> xr.DataArray:
    """Take off what would be wrong of a statistic: the ends of buckets, and the description of counts."""
    return counts.drop_vars(("lower", "upper"), errors="ignore").drop_attrs(deep=False)
