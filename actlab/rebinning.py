"""Counts on the recording axis -> counts on the axis of a picture, with the error stated.

The mass of a bucket goes to the bins it overlaps by monotone cubic interpolation (PCHIP) of the
cumulative counts. Interpolation is not additive: pool counts first, then re-bin.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import ArrayLike, NDArray

from actlab.axis import LinearAxis
from actlab.errors import AxisError

__all__ = ["LARGEST", "Buckets", "Rebinned", "bin_values", "cubic", "rebin", "rebin_array"]

LARGEST: Final = float(np.finfo(np.float32).max)
"""Mass of the underflow and overflow bucket is spread evenly out to this magnitude."""


class Buckets(NamedTuple):
    """The finite, nonzero buckets of a recording axis as intervals that join; zero is a point.

    The first interval is underflow, the last one overflow; the ends between them are the knots of
    the interpolation.
    """

    bucket: NDArray[np.int64]
    """Index of the bucket behind each interval [interval]."""
    ends: NDArray[np.float64]
    """Ends of the intervals [interval + 1], ascending, 0 in the middle."""
    width: NDArray[np.float64]
    """Width of each interval [interval]."""
    zero: int
    """Index of the bucket that holds exactly 0."""

    @classmethod
    def of(cls, lower: ArrayLike, upper: ArrayLike) -> Buckets:
        """Read the layout from the ends of the buckets.

        Parameters
        ----------
        lower, upper : array_like
            Ends of the buckets [bucket], as `FloatAxis` has them.

        Raises
        ------
        AxisError
            If these are not the ends of a `FloatAxis`.
        """
        low, high = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        if low.shape != high.shape or low.ndim != 1 or low.size < 12 or low.size % 2:
            raise AxisError(f"not the buckets of a FloatAxis: lower {low.shape}, upper {high.shape}")
        zero = low.size // 2 - 1
        bucket = np.delete(np.arange(1, low.size - 2), zero - 1)
        knots = low[bucket[1:]]
        points = [low[0], high[0], low[1], low[zero], high[zero], high[-3], low[-2], high[-2]]
        if (
            points != [-np.inf, -np.inf, -np.inf, 0, 0, np.inf, np.inf, np.inf]
            or not (np.isnan(low[-1]) and np.isnan(high[-1]))
            or not (np.array_equal(high[bucket[:-1]], knots) and np.all(np.diff(knots) > 0))
        ):
            raise AxisError("not the buckets of a FloatAxis: lower and upper do not join in value order")
        # An axis may reach as far as float32 itself; what lies beyond gets one more power of two.
        outermost = LARGEST if knots[-1] < LARGEST else 2 * knots[-1]
        ends = np.concatenate([[-outermost], knots, [outermost]])
        return cls(bucket, ends, np.diff(ends), zero)


class Rebinned(NamedTuple):
    """What `rebin_array` returns; see `rebin` for the meaning."""

    counts: NDArray[np.float64]
    underflow: NDArray[np.float64]
    overflow: NDArray[np.float64]
    neg_inf: NDArray[np.float64]
    pos_inf: NDArray[np.float64]
    nan: NDArray[np.float64]
    bound: NDArray[np.float64]
    exact: NDArray[np.bool_]


class _Plan(NamedTuple):
    """Where the edges of one axis fall among the buckets: the same for every row."""

    interval: NDArray[np.int64]  # [edge] the interval that holds the edge
    part: NDArray[np.float64]  # [edge] how far into it, 0 on its lower end, at most 1
    cut: NDArray[np.int64]  # [edge] the interval the edge cuts, -1 for none
    zero_bin: int  # the bin that holds 0; -1 below the range, n_bins above it


def _plan(buckets: Buckets, axis: LinearAxis) -> _Plan:
    """Place the edges of `axis` among the buckets."""
    edges = axis.edges
    interval = np.searchsorted(buckets.ends[1:-1], edges, side="right")
    part = (edges - buckets.ends[interval]) / buckets.width[interval]

    on_knot = (edges == buckets.ends[interval]) & (interval > 0)
    cut = np.where(on_knot, -1, interval)
    inner = on_knot[:-1] & (edges[:-1] < 0)  # negative buckets end with their edge, bins start with it
    cut[:-1][inner] = interval[:-1][inner] - 1
    if on_knot[-1] and edges[-1] > 0:  # the last bin ends with its edge, a positive bucket starts with it
        cut[-1] = interval[-1]
    return _Plan(interval, np.clip(part, 0, 1), cut, int(axis.index(0.0)))


@njit(cache=True, nogil=True)
def _end_slope(near: float, far: float, slope: float, next_slope: float) -> float:
    """Slope at the outermost knot: the three-point formula, kept monotone."""
    return max(((2 * near + far) * slope - near * next_slope) / (near + far), 0.0)


@njit(cache=True, nogil=True)
def _slope(mass: NDArray[np.float64], width: NDArray[np.float64], upper: int) -> float:
    """Slope of the cumulative counts at the knot below the interval `upper`."""
    lower = upper - 1
    left: float = mass[lower] / width[lower]
    right: float = mass[upper] / width[upper]
    if lower == 0:
        return _end_slope(width[1], width[2], right, mass[2] / width[2])
    if upper == mass.size - 1:
        return _end_slope(width[-2], width[-3], left, mass[-3] / width[-3])
    if left <= 0 or right <= 0:
        return 0.0
    w_left: float = 2 * width[upper] + width[lower]
    w_right: float = width[upper] + 2 * width[lower]
    return (w_left + w_right) / (w_left / left + w_right / right)


@njit(cache=True, nogil=True)
def cubic(mass: NDArray[np.float64], width: NDArray[np.float64], interval: int) -> tuple[float, float, float]:
    """Coefficients of the cumulative counts within an interval of `Buckets`.

    The mass below the part u (0 to 1) of the interval is u (a + u (b + u c)). Slopes at the knots
    are weighted harmonic means after Fritsch and Butland (SIAM J. Sci. Stat. Comput. 5, 1984), as in
    `scipy.interpolate.PchipInterpolator`; the outermost intervals are straight.

    Parameters
    ----------
    mass, width : numpy.ndarray
        Counts and widths of the intervals [interval], float64.
    interval : int
        Which interval.

    Returns
    -------
    a, b, c : float
        In counts.
    """
    whole = mass[interval]
    if interval in (0, mass.size - 1) or whole <= 0:
        return whole, 0.0, 0.0
    first = _slope(mass, width, interval) * width[interval]
    last = _slope(mass, width, interval + 1) * width[interval]
    return first, 3 * whole - 2 * first - last, first + last - 2 * whole


@njit(cache=True, nogil=True)
def _cumulate(
    mass: NDArray[np.float64], width: NDArray[np.float64], plan: _Plan, below: NDArray[np.float64]
) -> float:
    """Write the mass below each edge into `below` [edge]; return the mass above the last."""
    total, reached, last = 0.0, -1, 0.0
    a, b, c = 0.0, 0.0, 0.0
    for edge in range(below.size):
        interval, u = plan.interval[edge], plan.part[edge]
        if interval != reached:
            for passed in range(max(reached, 0), interval):
                total += mass[passed]
            reached = interval
            a, b, c = cubic(mass, width, interval)
        inside = min(u * (a + u * (b + u * c)), mass[interval])
        last = max(last, total, total + inside)  # rounding must not make a bin negative
        below[edge] = last
    for rest in range(reached, mass.size):
        total += mass[rest]
    return total - last


@njit(cache=True, nogil=True)
def _rebin_rows(
    counts: NDArray[Any], buckets: Buckets, plan: _Plan
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Re-bin rows [row, bucket]: bins [row, bin], bound [row, bin], flow [row, 2], exact [row]."""
    rows, n_edges = counts.shape[0], plan.interval.size
    binned = np.empty((rows, n_edges - 1))
    bound = np.empty((rows, n_edges - 1))
    flow = np.zeros((rows, 2))
    exact = np.ones(rows, np.bool_)
    mass = np.empty(buckets.bucket.size)
    below = np.empty(n_edges)
    for row in range(rows):
        for interval in range(mass.size):
            mass[interval] = counts[row, buckets.bucket[interval]]
        flow[row, 1] = _cumulate(mass, buckets.width, plan, below)
        flow[row, 0] = below[0]
        before = -1
        for edge in range(n_edges):
            cut = plan.cut[edge]
            cut_mass = mass[cut] if cut >= 0 else 0.0
            if cut_mass > 0:
                exact[row] = False
            if edge < n_edges - 1:
                binned[row, edge] = below[edge + 1] - below[edge]
                bound[row, edge] = cut_mass
            if edge > 0 and cut != before:  # a bucket cut by both edges can err by its mass only once
                bound[row, edge - 1] += cut_mass
            before = cut
        point = counts[row, buckets.zero]
        if plan.zero_bin < 0:
            flow[row, 0] += point
        elif plan.zero_bin == n_edges - 1:
            flow[row, 1] += point
        else:
            binned[row, plan.zero_bin] += point
    return binned, bound, flow, exact


def _rebin(counts: NDArray[Any], buckets: Buckets, plan: _Plan) -> Rebinned:
    """Re-bin counts [..., bucket] by a plan made once."""
    leading, n_bins = counts.shape[:-1], plan.interval.size - 1
    rows = np.ascontiguousarray(counts).reshape(math.prod(leading), counts.shape[-1])
    binned, bound, flow, exact = _rebin_rows(rows, buckets, plan)
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
        Counts [..., bucket], integers or floats, not negative.
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
        If `lower` and `upper` are not those of a `FloatAxis` of the same number of buckets.
    """
    buckets = Buckets.of(lower, upper)
    if counts.ndim == 0 or counts.shape[-1] != np.size(lower):
        raise AxisError(f"counts of shape {counts.shape} do not end with {np.size(lower)} buckets")
    return _rebin(counts, buckets, _plan(buckets, axis))


def rebin(counts: xr.DataArray, axis: LinearAxis) -> xr.Dataset:
    """Bring counts onto the bins of a picture.

    The mass below an edge is the monotone cubic interpolation (PCHIP) of the cumulative counts over
    the finite, nonzero buckets; zero is a point mass in the bin that holds 0; underflow and overflow
    buckets are spread evenly out to the largest float32. Counts whose edges the axis meets come out
    as the very integers. Interpolation is not additive: pool first, then re-bin.

    A bucket is cut by an edge strictly inside it; by one on its closed end where that is an edge
    below zero (but the last edge); and by a last edge above zero on which it starts.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts [..., bucket] with the coordinates `lower` and `upper` [bucket] of a `FloatAxis`;
        numpy, or dask, which stays lazy in its chunks over the leading dims.
    axis : LinearAxis
        The bins wanted.

    Returns
    -------
    xarray.Dataset
        - counts [..., bin]: float64;
        - underflow, overflow [...]: finite values below and above the range;
        - neg_inf, pos_inf, nan [...]: as recorded; all six add up to n;
        - bound [..., bin]: mass of the buckets cut at the bin's two edges: no count is further from
          that of `numpy.histogram` over the values themselves;
        - exact [...]: bool, no edge cuts any mass.

        Coordinates `bin` (centers), `lower` and `upper` [bin]; attributes h_min, h_max, n_bins.

    Raises
    ------
    AxisError
        If `counts` has no dim `bucket` or no coordinates of a `FloatAxis` on it.
    """
    if "bucket" not in counts.dims or not {"lower", "upper"} <= counts.coords.keys():
        raise AxisError(
            "counts to re-bin need the dim 'bucket' with the coordinates 'lower' and 'upper', "
            f"got the dims {[*counts.dims]} with the coordinates {[*counts.coords]}"
        )
    buckets = Buckets.of(counts.lower.values, counts.upper.values)
    if counts.chunks is not None:
        counts = counts.chunk(bucket=-1)
    variables = xr.apply_ufunc(
        _rebin,
        counts.drop_vars(("lower", "upper")),
        kwargs={"buckets": buckets, "plan": _plan(buckets, axis)},
        input_core_dims=[["bucket"]],
        output_core_dims=[["bin"] if name in ("counts", "bound") else [] for name in Rebinned._fields],
        dask="parallelized",
        output_dtypes=[np.bool_ if name == "exact" else np.float64 for name in Rebinned._fields],
        dask_gufunc_kwargs={"output_sizes": {"bin": axis.n_bins}},
    )
    return _label_bins(xr.Dataset(dict(zip(Rebinned._fields, variables, strict=True))), axis)


def bin_values(values: NDArray[Any], axis: LinearAxis) -> xr.Dataset:
    """Count values exactly: what `rebin` returns, without its error.

    Parameters
    ----------
    values : numpy.ndarray
        Real values of any shape, pooled.
    axis : LinearAxis
        The bins wanted.

    Returns
    -------
    xarray.Dataset
        The variables of `rebin`, `bound` 0 and `exact` True.
    """
    data = np.asarray(values, np.float64).ravel()
    finite = np.bincount(axis.index(data[np.isfinite(data)]) + 1, minlength=axis.n_bins + 2).astype(
        np.float64
    )
    infinite = {"neg_inf": data == -np.inf, "pos_inf": data == np.inf, "nan": np.isnan(data)}
    variables = {
        "counts": ("bin", finite[1:-1]),
        "underflow": finite[0],
        "overflow": finite[-1],
        **{name: float(np.count_nonzero(chosen)) for name, chosen in infinite.items()},
        "bound": ("bin", np.zeros(axis.n_bins)),
        "exact": True,
    }
    return _label_bins(xr.Dataset(variables), axis)


def _label_bins(dataset: xr.Dataset, axis: LinearAxis) -> xr.Dataset:
    """Attach the coordinates `bin`, `lower` and `upper` [bin] of an axis, and its attributes."""
    labelled = dataset.assign_coords(bin=axis.centers, lower=("bin", axis.lower), upper=("bin", axis.upper))
    return labelled.assign_attrs(h_min=axis.h_min, h_max=axis.h_max, n_bins=axis.n_bins)
