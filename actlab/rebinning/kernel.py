"""The compiled loops: cumulative counts, interpolated at the edges of bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.rebinning.buckets import Buckets

__all__ = ["Plan", "cubic", "make_plan", "rebin_rows"]

_Floats = NDArray[np.float64]


class Plan(NamedTuple):
    """Where the edges of some axes fall among the buckets: the same for every row.

    With the masses m of the interval that holds an edge, m_below and m_above of its neighbours, the mass
    of the interval below the edge is m (straight + first m_below / (a m + b m_below) + last m_above /
    (c m_above + d m)): what `cubic` says, with one division for each slope.
    """

    interval: NDArray[np.int64]  # [axis, edge] the interval that holds the edge
    part: _Floats  # [axis, edge] how far into it, 0 on its lower end, at most 1
    weights: _Floats  # [axis, 7, edge] straight, first, a, b, last, c, d
    cut: NDArray[np.int64]  # [axis, edge] the interval the edge cuts, the number of intervals for none
    zero_bin: NDArray[np.int64]  # [axis] the bin that holds 0; -1 below the range, n_bins above it


def make_plan(buckets: Buckets, axes: Sequence[LinearAxis]) -> Plan:
    """Place the edges of axes with equally many bins among the buckets."""
    interval, part, cut = zip(*(_place(buckets, axis.edges) for axis in axes), strict=True)
    zero_bin = np.array([int(axis.index(0.0)) for axis in axes])
    where, u = np.stack(interval), np.stack(part)
    return Plan(where, u, _weigh(buckets.width, where, u), np.stack(cut), zero_bin)


def _place(buckets: Buckets, edges: _Floats) -> tuple[NDArray[np.int64], _Floats, NDArray[np.int64]]:
    """Find interval, part and cut of each edge [edge]."""
    interval = np.searchsorted(buckets.ends[1:-1], edges, side="right")
    part = (edges - buckets.ends[interval]) / buckets.width[interval]

    on_knot = (edges == buckets.ends[interval]) & (interval > 0)
    cut = np.where(on_knot, buckets.width.size, interval)
    inner = on_knot[:-1] & (edges[:-1] < 0)  # negative buckets end with their edge, bins start with it
    cut[:-1][inner] = interval[:-1][inner] - 1
    if on_knot[-1] and edges[-1] > 0:  # the last bin ends with its edge, a positive bucket starts with it
        cut[-1] = interval[-1]
    return interval, np.clip(part, 0, 1), cut


def _weigh(width: _Floats, interval: NDArray[np.int64], u: _Floats) -> _Floats:
    """Return the weights of `Plan`; the outermost intervals are straight."""
    outermost = (interval == 0) | (interval == width.size - 1)
    inner = np.clip(interval, 1, width.size - 2)
    below, own, above = width[inner - 1], width[inner], width[inner + 1]
    first = 3 * (below + own) * own * u * (1 - u) ** 2  # the cubic Hermite basis
    last = -3 * (own + above) * own * u**2 * (1 - u)
    return np.stack(
        [
            np.where(outermost, u, u**2 * (3 - 2 * u)),
            np.where(outermost, 0, first),
            (2 * own + below) * below,
            (own + 2 * below) * own,
            np.where(outermost, 0, last),
            (2 * above + own) * own,
            (above + 2 * own) * above,
        ],
        axis=1,
    )


@njit(cache=True, nogil=True)
def _end_slope(near: float, far: float, slope: float, next_slope: float) -> float:
    """Slope at the outermost knot: the three-point formula, kept monotone."""
    return max(((2 * near + far) * slope - near * next_slope) / (near + far), 0.0)


@njit(cache=True, nogil=True)
def _slope(mass: _Floats, width: _Floats, upper: int) -> float:
    """Slope of the cumulative counts at the knot below the interval `upper`."""
    lower = upper - 1
    left: float = mass[lower] / width[lower]
    right: float = mass[upper] / width[upper]
    if lower == 0:
        return _end_slope(width[1], width[2], right, mass[2] / width[2])
    if upper == width.size - 1:
        return _end_slope(width[-2], width[-3], left, mass[upper - 2] / width[-3])
    if left <= 0 or right <= 0:
        return 0.0
    w_left: float = 2 * width[upper] + width[lower]
    w_right: float = width[upper] + 2 * width[lower]
    return (w_left + w_right) / (w_left / left + w_right / right)


@njit(cache=True, nogil=True)
def cubic(mass: _Floats, width: _Floats, interval: int) -> tuple[float, float, float]:
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
    if interval in (0, width.size - 1) or whole <= 0:
        return whole, 0.0, 0.0
    first = _slope(mass, width, interval) * width[interval]
    last = _slope(mass, width, interval + 1) * width[interval]
    return first, 3 * whole - 2 * first - last, first + last - 2 * whole


@njit(cache=True, nogil=True, fastmath={"reassoc"})  # any order: sums of counts are exact in float64
def _sum(mass: _Floats, start: int, stop: int) -> float:
    """Add up the masses of some intervals."""
    total = 0.0
    for interval in range(start, stop):
        total += mass[interval]
    return total


@njit(cache=True, nogil=True, error_model="numpy")  # a check of each division would halve the speed
def _measure(mass: _Floats, interval: NDArray[np.int64], weights: _Floats, inside: _Floats) -> None:
    """Write the mass between the lower end of its interval and each edge into `inside` [edge]."""
    n_intervals = mass.size - 1
    for edge in range(inside.size):
        own = interval[edge]
        m, below, above = mass[own], mass[max(own - 1, 0)], mass[min(own + 1, n_intervals - 1)]
        left = weights[2, edge] * m + weights[3, edge] * below
        right = weights[5, edge] * above + weights[6, edge] * m
        share = weights[0, edge]
        share += weights[1, edge] * below / left if left > 0 else 0.0
        share += weights[4, edge] * above / right if right > 0 else 0.0
        inside[edge] = min(m * share, m)


@njit(cache=True, nogil=True)
def _cumulate(
    mass: _Floats, width: _Floats, interval: NDArray[np.int64], part: _Floats, below: _Floats
) -> float:
    """Turn the mass within its interval into all mass below each edge [edge]; return that above the last."""
    total, reached, last = 0.0, 0, 0.0
    for edge in range(below.size):
        own, inside = interval[edge], below[edge]
        total += _sum(mass, reached, own)
        reached = own
        if own in (1, width.size - 2):  # next to the outermost, whose knots have slopes of their own
            a, b, c = cubic(mass, width, own)
            u = part[edge]
            inside = min(u * (a + u * (b + u * c)), mass[own])
        last = max(last, total, total + inside)  # rounding must not make a bin negative
        below[edge] = last
    return total + _sum(mass, reached, width.size) - last


@njit(cache=True, nogil=True)
def rebin_rows(
    counts: NDArray[Any], which: NDArray[np.int64], buckets: Buckets, plan: Plan
) -> tuple[_Floats, _Floats, _Floats, NDArray[np.bool_]]:
    """Re-bin rows of counts, each onto one of the axes of a plan.

    Parameters
    ----------
    counts : numpy.ndarray
        Counts [row, bucket], not negative.
    which : numpy.ndarray
        Axis of each row [row].
    buckets, plan
        Intervals, and where the edges fall among them.

    Returns
    -------
    binned, bound : numpy.ndarray
        [row, bin].
    flow : numpy.ndarray
        Finite mass below and above the range [row, 2].
    exact : numpy.ndarray
        Whether no edge cuts any mass [row].
    """
    rows, n_edges = counts.shape[0], plan.interval.shape[1]
    binned = np.empty((rows, n_edges - 1))
    bound = np.empty((rows, n_edges - 1))
    flow = np.zeros((rows, 2))
    exact = np.ones(rows, np.bool_)
    half = buckets.width.size // 2
    mass = np.zeros(2 * half + 1)  # the last one is that of an edge that cuts nothing
    below = np.empty(n_edges)
    for row in range(rows):
        for interval in range(half):  # two plain loops, as an index would cost more than the rest
            mass[interval] = counts[row, interval + 1]
        for interval in range(half):
            mass[half + interval] = counts[row, buckets.zero + 1 + interval]
        axis = which[row]
        edges, cuts = plan.interval[axis], plan.cut[axis]
        _measure(mass, edges, plan.weights[axis], below)
        flow[row, 1] = _cumulate(mass, buckets.width, edges, plan.part[axis], below)
        flow[row, 0] = below[0]
        for edge in range(n_edges):
            exact[row] &= mass[cuts[edge]] <= 0
        for edge in range(n_edges - 1):
            cut, following = cuts[edge], cuts[edge + 1]
            binned[row, edge] = below[edge + 1] - below[edge]
            # A bucket cut by both edges can err by its mass only once.
            bound[row, edge] = mass[cut] + (mass[following] if following != cut else 0.0)
        point, zero_bin = counts[row, buckets.zero], plan.zero_bin[axis]
        if zero_bin < 0:
            flow[row, 0] += point
        elif zero_bin == n_edges - 1:
            flow[row, 1] += point
        else:
            binned[row, zero_bin] += point
    return binned, bound, flow, exact
