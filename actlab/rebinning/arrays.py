"""Re-binning and binning of plain arrays."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actlab.axis import LinearAxis
from actlab.errors import AxisError
from actlab.rebinning.buckets import Buckets
from actlab.rebinning.kernel import Plan, make_plan, rebin_rows

__all__ = ["Rebinned", "bin_array", "check_dtype", "rebin_array", "rebin_planned"]


class Rebinned(NamedTuple):
    """Counts on a `LinearAxis` as plain arrays; see `rebin` for the meaning."""

    counts: NDArray[np.float64]
    underflow: NDArray[np.float64]
    overflow: NDArray[np.float64]
    neg_inf: NDArray[np.float64]
    pos_inf: NDArray[np.float64]
    nan: NDArray[np.float64]
    bound: NDArray[np.float64]
    exact: NDArray[np.bool_]


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse counts that are no real numbers."""
    if dtype.kind not in "uif":
        raise AxisError(f"counts to re-bin must be integers or floats, got {dtype}")


def rebin_planned(
    counts: NDArray[Any], which: NDArray[np.int64], *, buckets: Buckets, plan: Plan
) -> Rebinned:
    """Re-bin counts [..., bucket] by a plan made once, each row on its axis `which` [...] of the plan."""
    leading, n_bins = counts.shape[:-1], plan.interval.shape[1] - 1
    rows = counts.reshape(math.prod(leading), counts.shape[-1])
    if rows.dtype.kind != "u" and not (rows.min(initial=0) >= 0 and rows.max(initial=0) < np.inf):
        raise AxisError("counts to re-bin must be finite and not negative")
    if rows.dtype != np.uint32:  # as recorded: one compiled form for that, and one for all others
        rows = rows.astype(np.float64)
    axis_of_row = np.ascontiguousarray(np.broadcast_to(which, leading)).ravel()
    binned, bound, flow, exact = rebin_rows(np.ascontiguousarray(rows), axis_of_row, buckets, plan)
    neg_inf, pos_inf, nan = (counts[..., slot].astype(np.float64) for slot in (0, -2, -1))
    return Rebinned(
        counts=binned.reshape(*leading, n_bins),
        underflow=flow[:, 0].reshape(leading),
        overflow=flow[:, 1].reshape(leading),
        neg_inf=neg_inf,
        pos_inf=pos_inf,
        nan=nan,
        bound=bound.reshape(*leading, n_bins),
        exact=exact.reshape(leading),
    )


def rebin_array(counts: NDArray[Any], lower: ArrayLike, upper: ArrayLike, axis: LinearAxis) -> Rebinned:
    """Re-bin plain arrays: `rebin` without labels.

    Parameters
    ----------
    counts : numpy.ndarray
        Counts [..., bucket], integers or floats, finite and not negative.
    lower, upper : array_like
        Ends of the buckets [bucket].
    axis : LinearAxis
        The bins wanted.

    Returns
    -------
    Rebinned
        Named tuple of arrays: counts and bound [..., bin] and the rest [...], float64; exact bool.

    Raises
    ------
    AxisError
        If `lower` and `upper` are not those of a `FloatAxis` of the same number of buckets, or the
        counts are none.
    """
    buckets = Buckets.of(lower, upper)
    if counts.ndim == 0 or counts.shape[-1] != np.size(lower):
        raise AxisError(f"counts of shape {counts.shape} do not end with {np.size(lower)} buckets")
    check_dtype(counts.dtype)
    return rebin_planned(counts, np.zeros((), np.int64), buckets=buckets, plan=make_plan(buckets, [axis]))


def bin_array(values: NDArray[Any], group: NDArray[np.int64], n_groups: int, axis: LinearAxis) -> Rebinned:
    """Count the values of several groups exactly.

    Parameters
    ----------
    values : numpy.ndarray
        Real values [value].
    group : numpy.ndarray
        Group of each value, 0 to n_groups - 1 [value].
    n_groups : int
        Number of groups.
    axis : LinearAxis
        The bins wanted.

    Returns
    -------
    Rebinned
        As `rebin_array`, with the leading dim [group], `bound` 0 and `exact` True.
    """
    data = np.asarray(values, np.float64)
    slots = axis.n_bins + 3  # below the range, the bins, above it, NaN
    cell = group * slots + axis.index(data) + 1
    found = np.bincount(cell, minlength=n_groups * slots).reshape(n_groups, slots).astype(np.float64)
    neg_inf, pos_inf = (
        np.bincount(group[data == end], minlength=n_groups).astype(np.float64) for end in (-np.inf, np.inf)
    )
    return Rebinned(
        counts=found[:, 1:-2],
        underflow=found[:, 0] - neg_inf,
        overflow=found[:, -2] - pos_inf,
        neg_inf=neg_inf,
        pos_inf=pos_inf,
        nan=found[:, -1],
        bound=np.zeros((n_groups, axis.n_bins)),
        exact=np.ones(n_groups, np.bool_),
    )
