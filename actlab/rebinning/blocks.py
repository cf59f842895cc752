"""A compiled kernel over the blocks of lazy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import dask.array
import xarray as xr

__all__ = ["over_blocks"]

_dask: Any = dask  # it has no annotations


def over_blocks(kernel: Callable[..., Any], first: xr.DataArray, *others: xr.DataArray) -> tuple[Any, ...]:
    """Return the arguments of `xarray.apply_ufunc` that call a kernel, which may hold large tables.

    On dask every task refers to the one kernel of the graph, so a cluster sends it to a worker once, not
    with each block.

    Parameters
    ----------
    kernel : callable
        Takes the blocks of the arrays.
    first, *others : xarray.DataArray
        The arrays; the kernel is lazy if the first one is.

    Returns
    -------
    tuple
        A function, the kernel as an argument without dims of its own, and the arrays.
    """
    if first.chunks is None:
        return _call, kernel, first, *others
    node = _dask.delayed(kernel, traverse=False)
    return _call, xr.DataArray(_dask.array.from_delayed(node, (), object)), first, *others


def _call(kernel: Callable[..., Any], *blocks: Any) -> Any:
    """Call a kernel."""
    return kernel(*blocks)
