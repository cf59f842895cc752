"""Moments of a tensor, mergeable: what every kernel returns beside the counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments:
    """Moments of a tensor, mergeable without loss of precision.

    Parameters
    ----------
    n : int
        Number of values, non-finite ones included.
    finite : int
        Number of finite values; the moments are over these.
    mean : float
        Their mean, NaN without any.
    m2 : float
        Sum of their squared deviations from the mean.
    min, max : float
        Smallest and largest finite value, NaN without any.
    """

    n: int = 0
    finite: int = 0
    mean: float = math.nan
    m2: float = 0.0
    min: float = math.nan
    max: float = math.nan

    @property
    def std(self) -> float:
        """Standard deviation of the finite values, ddof 0; NaN without any."""
        return math.sqrt(self.m2 / self.finite) if self.finite else math.nan

    def __add__(self, other: Moments) -> Moments:
        """Merge two parts exactly (Chan, Golub, LeVeque 1979, eq. 2.1)."""
        n, finite = self.n + other.n, self.finite + other.finite
        if self.finite == 0 or other.finite == 0:
            part = other if self.finite == 0 else self
            return Moments(n, finite, part.mean, part.m2, part.min, part.max)
        delta = other.mean - self.mean
        return Moments(
            n,
            finite,
            self.mean + delta * (other.finite / finite),
            self.m2 + other.m2 + delta * delta * (self.finite / finite * other.finite),
            min(self.min, other.min),
            max(self.max, other.max),
        )
