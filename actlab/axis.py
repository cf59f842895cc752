"""The two axes: `FloatAxis` to record on, `LinearAxis` to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actlab.errors import AxisError

__all__ = ["MAX_BINS", "FloatAxis", "LinearAxis"]

MAX_BINS = 1_000_000


def _integer(name: str, value: object, low: int, high: int) -> int:
    """Return `value` as an int within [low, high], or raise `AxisError`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise AxisError(f"{name} must be a whole number, got {value!r}")
    if not low <= int(value) <= high:
        raise AxisError(f"{name} must be within {low} and {high}, got {value!r}")
    return int(value)


def _finite(name: str, value: object) -> float:
    """Return `value` as a finite float, or raise `AxisError`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise AxisError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise AxisError(f"{name} must be finite, got {value!r}")
    return float(value)


@dataclass(frozen=True)
class LinearAxis:
    """Equal bins between two values: the seeds' hMin, hMax, nBins.

    Bins follow `numpy.histogram` with values and edges in float64: [lower, upper), the last
    one closed.

    Parameters
    ----------
    h_min, h_max : float
        Range of the histogram, in units of the activation; h_min < h_max.
    n_bins : int
        Number of bins, 1 to 10^6.

    Raises
    ------
    AxisError
        If a value is not finite, the range is empty, or float64 cannot tell the edges apart.
    """

    h_min: float
    h_max: float
    n_bins: int

    def __post_init__(self) -> None:
        """Check the range once, so that every later use can trust it."""
        object.__setattr__(self, "h_min", _finite("h_min", self.h_min))
        object.__setattr__(self, "h_max", _finite("h_max", self.h_max))
        object.__setattr__(self, "n_bins", _integer("n_bins", self.n_bins, 1, MAX_BINS))
        if self.h_min >= self.h_max:
            raise AxisError(f"h_min must be below h_max, got h_min={self.h_min:g} and h_max={self.h_max:g}")
        if not math.isfinite(self.h_max - self.h_min) or not bool(np.all(np.diff(self.edges) > 0)):
            raise AxisError(
                f"{self.n_bins} bins between {self.h_min!r} and {self.h_max!r} are too narrow for float64"
            )

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        """Edges of the bins [n_bins + 1], ascending."""
        return np.linspace(self.h_min, self.h_max, self.n_bins + 1)

    @property
    def lower(self) -> NDArray[np.float64]:
        """Lower edge of each bin [n_bins], part of the bin."""
        return self.edges[:-1]

    @property
    def upper(self) -> NDArray[np.float64]:
        """Upper edge of each bin [n_bins], part of the last bin only."""
        return self.edges[1:]

    @property
    def centers(self) -> NDArray[np.float64]:
        """Middle of each bin [n_bins]."""
        return (self.lower + self.upper) / 2

    def index(self, values: ArrayLike) -> NDArray[np.int64]:
        """Find the bin of each value.

        Parameters
        ----------
        values : array_like
            Any real numbers, any shape.

        Returns
        -------
        numpy.ndarray
            int64, shape of `values`: 0 to n_bins - 1, -1 below the range, n_bins above it,
            n_bins + 1 for NaN.
        """
        data = np.asarray(values, dtype=np.float64)
        found = np.searchsorted(self.edges, data, side="right") - 1
        found = np.where(data == self.h_max, self.n_bins - 1, found)
        return np.where(np.isnan(data), self.n_bins + 1, found)


@dataclass(frozen=True)
class FloatAxis:
    """The recording axis: a value's own floating-point code, so no range is needed.

    A bucket is the sign, the exponent and the top `mantissa_bits` of the mantissa. In value
    order: neg_inf, underflow (at or below -2^(max_exponent + 1)), negatives, neg_tiny (smaller
    than 2^min_exponent), zero, pos_tiny, positives, overflow, pos_inf, nan. Negative buckets are
    (lower, upper], positive ones [lower, upper). Dropping mantissa bits merges neighbours.

    Parameters
    ----------
    mantissa_bits : int
        1 to 10; half a bucket is at most 2^-(mantissa_bits + 1) of the value (1.6 % at 5); 7
        counts bfloat16 without loss.
    min_exponent, max_exponent : int
        Smallest and largest binary exponent with buckets of its own, within [-126, 127].

    Raises
    ------
    AxisError
        If a parameter is outside its limits or the exponents are reversed.
    """

    mantissa_bits: int = 5
    min_exponent: int = -24
    max_exponent: int = 31

    def __post_init__(self) -> None:
        """Check the layout once."""
        object.__setattr__(self, "mantissa_bits", _integer("mantissa_bits", self.mantissa_bits, 1, 10))
        object.__setattr__(self, "min_exponent", _integer("min_exponent", self.min_exponent, -126, 127))
        object.__setattr__(self, "max_exponent", _integer("max_exponent", self.max_exponent, -126, 127))
        if self.min_exponent > self.max_exponent:
            raise AxisError(
                f"min_exponent must not exceed max_exponent, got {self.min_exponent} and {self.max_exponent}"
            )

    @property
    def n_side(self) -> int:
        """Number of ordinary buckets of each sign."""
        return (self.max_exponent - self.min_exponent + 1) << self.mantissa_bits

    @property
    def n_buckets(self) -> int:
        """Number of all buckets: both signs, and the eight special ones."""
        return 2 * self.n_side + 8

    @property
    def zero(self) -> int:
        """Index of the zero bucket, the middle of symmetry of the finite ones."""
        return self.n_side + 3

    @cached_property
    def _magnitudes(self) -> NDArray[np.float64]:
        """Edges of the ordinary positive buckets [n_side + 1]."""
        code = np.arange(self.n_side + 1)
        mantissa = 1 + (code & ((1 << self.mantissa_bits) - 1)) / (1 << self.mantissa_bits)
        edges: NDArray[np.float64] = np.ldexp(mantissa, self.min_exponent + (code >> self.mantissa_bits))
        return edges

    @property
    def lower(self) -> NDArray[np.float64]:
        """Lower end of each bucket [n_buckets]; infinite buckets are points, NaN for nan."""
        edges = self._magnitudes
        parts = ([-np.inf, -np.inf], -edges[:0:-1], [-edges[0], 0.0, 0.0], edges, [np.inf, np.nan])
        return np.concatenate(parts)

    @property
    def upper(self) -> NDArray[np.float64]:
        """Upper end of each bucket [n_buckets]."""
        edges = self._magnitudes
        parts = ([-np.inf], -edges[::-1], [0.0, 0.0], edges, [np.inf, np.inf, np.nan])
        return np.concatenate(parts)

    def index(self, values: ArrayLike) -> NDArray[np.int64]:
        """Find the bucket of each value; every value has exactly one.

        Parameters
        ----------
        values : array_like
            Real numbers of any float or integer dtype, any shape.

        Returns
        -------
        numpy.ndarray
            int64, shape of `values`: 0 to n_buckets - 1.
        """
        # Every narrower float converts to float64 exactly, so one pattern serves all.
        pattern = np.asarray(values, dtype=np.float64).view(np.int64)
        magnitude = pattern & np.int64(0x7FFF_FFFF_FFFF_FFFF)
        code = (magnitude >> (52 - self.mantissa_bits)) - ((1023 + self.min_exponent) << self.mantissa_bits)
        infinite = np.int64(0x7FF0_0000_0000_0000)
        steps = np.clip(code, -1, self.n_side) + 2
        steps = np.where(magnitude == 0, 0, np.where(magnitude == infinite, self.n_side + 3, steps))
        found = np.where(pattern < 0, self.zero - steps, self.zero + steps)
        return np.where(magnitude > infinite, self.n_buckets - 1, found)
