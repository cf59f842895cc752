"""A sample of outputs, whether its values were kept or only counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.rebinning import bin_values, middles, rebin
from actlab.stats import OUTSIDE, quantile

__all__ = ["Moments", "Sample"]

_MIDDLE: Final = (OUTSIDE, 1 - OUTSIDE)


class Moments(NamedTuple):
    """Number, mean and standard deviation (ddof 0) of finite values; NaN without any."""

    n: float
    mean: float
    std: float

    @classmethod
    def of(cls, points: NDArray[np.float64], weights: NDArray[np.float64]) -> Moments:
        """Take the moments of points [point] with weights [point]."""
        n = float(weights.sum())
        if not n:
            return cls(n, math.nan, math.nan)
        mean = float(points @ weights) / n
        return cls(n, mean, math.sqrt(float((points - mean) ** 2 @ weights) / n))

    @classmethod
    def merge(cls, n: NDArray[Any], mean: NDArray[np.float64], std: NDArray[np.float64]) -> Moments:
        """Merge the moments of parts [part]; see `stats.pool_moments`."""
        filled = n > 0
        weights, mean, std = n[filled].astype(np.float64), mean[filled], std[filled]
        whole = cls.of(mean, weights)
        within = float(std**2 @ weights) / whole.n if whole.n else math.nan
        return whole._replace(std=math.sqrt(whole.std**2 + within))

    def separation(self, other: Moments) -> float:
        """Return d' of two samples: the difference of the means in units of their pooled std."""
        spread = math.sqrt((self.std**2 + other.std**2) / 2)
        return (self.mean - other.mean) / spread if spread > 0 else math.nan


@dataclass(frozen=True)
class Sample:
    """Values of the head, pooled: points with weights, exact or the middles of buckets.

    Parameters
    ----------
    points : numpy.ndarray
        Distinct places or single values [point], finite; all values of a bucket are at its middle.
    weights : numpy.ndarray
        Values at each point [point].
    widths : numpy.ndarray
        Width of the bucket behind each point [point]; 0 where the point is exact.
    n : int
        Number of values, non-finite ones included.
    middle : numpy.ndarray
        The two ends of the middle 99.8 % of the finite values; NaN where there are none.
    histogram : callable
        What `rebin` returns, for any axis.
    recorded : Moments, optional
        The moments of the finite values, where they were recorded beside their counts.
    """

    points: NDArray[np.float64]
    weights: NDArray[np.float64]
    widths: NDArray[np.float64]
    n: int
    middle: NDArray[np.float64]
    histogram: Callable[[LinearAxis], xr.Dataset]
    recorded: Moments | None = None

    @classmethod
    def of_values(cls, values: NDArray[Any]) -> Sample:
        """Take values as they are, of any shape."""
        data = values.astype(np.float64).ravel()
        finite = data[np.isfinite(data)]
        middle = np.quantile(finite, _MIDDLE) if finite.size else np.full(2, np.nan)
        ones, zeros = np.ones(finite.size), np.zeros(finite.size)
        return cls(finite, ones, zeros, data.size, middle, partial(bin_values, data))

    @classmethod
    def of_counts(cls, counts: xr.DataArray) -> Sample:
        """Take counts [bucket] of a `FloatAxis`; the middle of a bucket without end is its end."""
        lower, upper = counts["lower"].values[1:-2], counts["upper"].values[1:-2]
        weights = counts.values[1:-2].astype(np.float64)
        filled = weights > 0
        return cls(
            middles(lower, upper)[filled],
            weights[filled],
            (upper - lower)[filled],
            int(counts.sum()),
            quantile(counts, _MIDDLE).values,
            partial(rebin, counts),
        )

    @cached_property
    def moments(self) -> Moments:
        """Number, mean and std of the finite values."""
        return self.recorded or Moments.of(self.points, self.weights)

    def exceeds(self, other: Sample) -> tuple[float, float]:
        """Return the probability that a value exceeds one of the other sample, ties half, and its bound.

        That is the area under the ROC curve, the Mann-Whitney U over the number of pairs (Hanley and
        McNeil, Radiology 143, 1982). Two values of one bucket count as a tie: the bound is half the share
        of such pairs, 0 where values are exact.
        """
        pairs = self.moments.n * other.moments.n
        if not pairs:
            return math.nan, math.nan
        order = np.argsort(other.points)
        points, total = other.points[order], np.append(0, np.cumsum(other.weights[order]))
        below, upto = (total[np.searchsorted(points, self.points, side)] for side in ("left", "right"))
        bound = float((self.weights * (self.widths > 0)) @ (upto - below)) / 2 / pairs
        return float(self.weights @ (below + upto)) / 2 / pairs, bound

    def wasserstein(self, other: Sample) -> float:
        """Return the Wasserstein-1 distance of the finite values, in units of the value; NaN without any."""
        if not (self.points.size and other.points.size):
            return math.nan
        points = np.sort(np.concatenate([self.points, other.points]))
        mine, theirs = (each._share_upto(points[:-1]) for each in (self, other))
        return float(np.abs(mine - theirs) @ np.diff(points))

    def _share_upto(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the share of the finite values that is not above each point [point]."""
        order = np.argsort(self.points)
        total = np.append(0, np.cumsum(self.weights[order])) / self.moments.n
        shares: NDArray[np.float64] = total[np.searchsorted(self.points[order], points, side="right")]
        return shares
