"""Moments merged exactly over groups of rows."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["EXTREMES", "POOLED", "moment_table", "pool", "pool_groups"]

_Floats = NDArray[np.float64]

POOLED: Final = ("finite", "mean", "std")
"""Moments that are pooled together."""

EXTREMES: Final = {
    "min": ("min", np.fmin),
    "max": ("max", np.fmax),
    "mean_min": ("mean", np.fmin),
    "mean_max": ("mean", np.fmax),
    "std_min": ("std", np.fmin),
    "std_max": ("std", np.fmax),
}
"""Extremes of a group: of which moment of its rows, and which one."""


def pool_groups(rows: xr.Dataset, finite: _Floats, starts: NDArray[np.intp]) -> dict[str, _Floats]:
    """Pool the moments of consecutive rows: `stats.pool_moments` for many groups at once.

    Parameters
    ----------
    rows : xarray.Dataset
        mean, std, min, max [step, layer].
    finite : numpy.ndarray
        Finite values of each row [step, layer].
    starts : numpy.ndarray
        First row of each group [group].

    Returns
    -------
    dict of str to numpy.ndarray
        finite, mean, std, min, max of all values of a group, and mean_min, mean_max, std_min, std_max of
        its rows, each [layer, group]; NaN where there is no finite value.
    """
    pooled = pool(_tabulate(finite, rows["mean"].values, rows["std"].values), starts)
    extremes = {
        name: extreme.reduceat(rows[source].values, starts).T for name, (source, extreme) in EXTREMES.items()
    }
    return {name: pooled[..., slot].T for slot, name in enumerate(POOLED)} | extremes


def moment_table(ds: xr.Dataset) -> xr.DataArray:
    """Gather `POOLED` of each row [step, ..., moment], in the chunks of `n`: they are small."""
    infinite = xr.apply_ufunc(
        _nonfinite,
        ds["counts"],
        input_core_dims=[["bucket"]],
        dask="parallelized",
        output_dtypes=[np.uint64],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )
    finite = ds["n"] - infinite.chunk(ds["n"].chunksizes)
    table: xr.DataArray = xr.apply_ufunc(
        _tabulate,
        *(each.drop_vars(each.coords) for each in (finite, ds["mean"], ds["std"])),
        output_core_dims=[["moment"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"moment": len(POOLED)}},
    )
    return table.transpose("step", ..., "moment")


def _nonfinite(counts: NDArray[Any]) -> NDArray[np.uint64]:
    """Count what is not finite [...] in counts [..., bucket]."""
    nonfinite: NDArray[np.uint64] = counts[..., [0, -2, -1]].sum(axis=-1, dtype=np.uint64)
    return nonfinite


def _tabulate(finite: NDArray[Any], mean: NDArray[Any], std: NDArray[Any]) -> _Floats:
    """Stack the moments of single rows [row, ..., moment]."""
    return np.stack([finite, mean, std], axis=-1, dtype=np.float64)


def pool(table: _Floats, starts: NDArray[np.intp]) -> _Floats:
    """Pool moments [row, ..., moment] over groups of rows; what comes out can be pooled again.

    The formula is that of `stats.pool_moments`.
    """
    finite, mean, std = np.moveaxis(table, -1, 0)
    group = np.repeat(np.arange(starts.size), np.diff(starts, append=len(table)))
    weight = np.add.reduceat(finite, starts)
    with np.errstate(invalid="ignore"):  # groups without finite values have no moments
        pooled = np.add.reduceat(np.where(finite > 0, finite * mean, 0), starts) / weight
        squares = finite * (std**2 + (mean - pooled[group]) ** 2)
        variance = np.add.reduceat(np.where(finite > 0, squares, 0), starts) / weight
    return np.stack([weight, pooled, np.sqrt(variance)], axis=-1)
