"""The buckets of a recording axis as the intervals that are interpolated."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actlab.errors import AxisError

__all__ = ["LARGEST", "Buckets", "middles"]

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


def middles(lower: ArrayLike, upper: ArrayLike) -> NDArray[np.float64]:
    """Return the middle of each bucket [bucket]; of one that goes on for ever, the end it has.

    Parameters
    ----------
    lower, upper : array_like
        Ends of the buckets [bucket], as `FloatAxis` has them.

    Returns
    -------
    numpy.ndarray
        float64 [bucket]: the points of infinite values are infinite, that of NaN is NaN.
    """
    low, high = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    inner: NDArray[np.float64] = np.where(np.isfinite(low), low, high) + np.where(
        np.isfinite(high), high, low
    )
    return inner / 2
