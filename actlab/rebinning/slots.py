"""Merged buckets: fewer of them than were recorded, and still no range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actlab.axis import FloatAxis

__all__ = ["Slots", "octave"]

_MOST: Final = 0.999  # of the values: the few largest ones say nothing about the scale of a layer


@dataclass(frozen=True)
class Slots:
    """The buckets of a `FloatAxis`, neighbours merged so that none is narrower than need be.

    Within an octave from 2^e the slots are equally wide: as wide as the mantissa `bits` make them, but
    2^floor at least. All that is smaller than 2^floor is one slot a sign. Slots come in the order of the
    buckets, with the same special ones, so what takes the ends of buckets takes those of slots, too.

    Parameters
    ----------
    axis : FloatAxis
        The buckets.
    bits : int
        Mantissa bits kept, 0 to those of the axis.
    floor : int
        Binary exponent of the least width; below the axis' `max_exponent`.
    """

    axis: FloatAxis
    bits: int
    floor: int

    @classmethod
    def recorded(cls, axis: FloatAxis) -> Slots:
        """Return the buckets as they are."""
        return cls(axis, axis.mantissa_bits, axis.min_exponent - axis.mantissa_bits)

    @cached_property
    def magnitudes(self) -> NDArray[np.float64]:
        """Ends of the slots above zero [knot], ascending: from the least to the overflow."""
        octaves = range(max(self.floor, self.axis.min_exponent), self.axis.max_exponent + 1)
        parts = [np.ldexp(1 + np.arange(n := self._parts(octave)) / n, octave) for octave in octaves]
        return np.append(np.concatenate(parts), 2.0 ** (self.axis.max_exponent + 1))

    def _parts(self, octave: int) -> int:
        """Return the number of slots of an octave."""
        return int(2 ** min(self.bits, octave - self.floor))

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """First bucket of each slot [slot], for `numpy.add.reduceat`."""
        lower, upper, zero = self.axis.lower, self.axis.upper, self.axis.zero
        above = np.searchsorted(lower[zero + 1 : -2], self.magnitudes) + zero + 1
        below = np.searchsorted(upper[1:zero], -self.magnitudes[::-1], side="right") + 1
        return np.concatenate([[0, 1], below, [zero, zero + 1], above, [lower.size - 2, lower.size - 1]])

    @property
    def lower(self) -> NDArray[np.float64]:
        """Lower end of each slot [slot]."""
        ends: NDArray[np.float64] = self.axis.lower[self.starts]
        return ends

    @property
    def upper(self) -> NDArray[np.float64]:
        """Upper end of each slot [slot]."""
        ends: NDArray[np.float64] = self.axis.upper[np.append(self.starts[1:] - 1, self.axis.n_buckets - 1)]
        return ends

    @property
    def zero(self) -> int:
        """The slot of exactly 0."""
        return self.starts.size // 2 - 1

    @cached_property
    def slot_of(self) -> NDArray[np.intp]:
        """Slot of each bucket [bucket]."""
        sizes = np.diff(self.starts, append=self.axis.n_buckets)
        return np.repeat(np.arange(self.starts.size), sizes)

    def merge(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Add up the counts [..., bucket] of each slot [..., slot]."""
        merged: NDArray[Any] = np.add.reduceat(counts, self.starts, axis=-1)
        return merged

    def span(self, low: float, high: float) -> slice:
        """Return the finite slots that may hold a value from `low` to `high`."""
        lower, upper = self.lower[1:-2], self.upper[1:-2]
        touched = np.flatnonzero((upper >= low) & (lower <= high))
        return slice(int(touched[0]) + 1, int(touched[-1]) + 2)


def octave(counts: NDArray[Any], axis: FloatAxis) -> int:
    """Return the binary exponent of the size that all but 0.1 % of the values stay below.

    Parameters
    ----------
    counts : numpy.ndarray
        Counts [bucket].
    axis : FloatAxis
        The buckets.
    """
    size = np.maximum(np.abs(axis.lower[1:-2]), np.abs(axis.upper[1:-2]))
    order = np.argsort(size)
    total = np.cumsum(counts[1:-2][order], dtype=np.float64)
    if not total[-1]:
        return 0
    found = float(size[order][np.searchsorted(total, _MOST * total[-1])])
    top = float(axis.max_exponent)
    return math.floor(min(math.log2(found), top)) if found > 0 else axis.min_exponent
