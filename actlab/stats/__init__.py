"""Statistics of recorded counts: moments, quantiles, shares, distances, ranges that show them."""

from actlab.stats.distance import (
    distances,
    jensen_shannon,
    kolmogorov_smirnov,
    psi,
    total_variation,
    wasserstein,
)
from actlab.stats.moments import count_moments, pool_moments
from actlab.stats.quantiles import quantile, quantile_bounds
from actlab.stats.ranges import OUTSIDE, default_range, fit_axis, symmetric_range
from actlab.stats.shares import entropy, out_of_range, zero_share

__all__ = [
    "OUTSIDE",
    "count_moments",
    "default_range",
    "distances",
    "entropy",
    "fit_axis",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "out_of_range",
    "pool_moments",
    "psi",
    "quantile",
    "quantile_bounds",
    "symmetric_range",
    "total_variation",
    "wasserstein",
    "zero_share",
]
