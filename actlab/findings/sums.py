"""One pass over counts: sums over the buckets that rules ask for, row by row, and epochs pooled."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from actlab.axis import FloatAxis

__all__ = ["SUMS", "regions", "sum_rows"]

SUMS: Final = (
    "zeros",
    "nan",
    "pos_inf",
    "neg_inf",
    "tiny",
    "subnormal",
    "near_zero",
    "low",
    "high",
    "same",
    "alike",
    "occupied",
)
"""What is summed of each row and layer, see `Facts`."""

_ZEROS, _TINIES, _SUBNORMALS, _NEAR_ZERO, _SAME, _ALIKE, _OCCUPIED = (
    SUMS.index(name) for name in ("zeros", "tiny", "subnormal", "near_zero", "same", "alike", "occupied")
)

_TINY: Final = 2.0**-24  # the smallest number of float16: what is less in size becomes 0, or that
_NORMAL: Final = 2.0**-14  # the smallest that float16 holds with all its digits
_NEAR, _RAIL = 1 / 64, 63 / 64


def regions(axis: FloatAxis) -> NDArray[np.int64]:
    """Return the place in `SUMS` of each bucket's counts [bucket], -1 for those that are not summed.

    A bucket belongs to a region if all of it does; each to the narrowest.
    """
    lower, upper = axis.lower, axis.upper
    place = np.full(axis.n_buckets, -1, np.int64)
    with np.errstate(invalid="ignore"):  # the ends of NaN's bucket
        place[(lower >= -_NEAR) & (upper <= _NEAR)] = SUMS.index("near_zero")
        place[(lower >= -_NORMAL) & (upper <= _NORMAL)] = SUMS.index("subnormal")
        place[(lower >= -_TINY) & (upper <= _TINY)] = SUMS.index("tiny")
        place[(lower == 0) & (upper == 0)] = SUMS.index("zeros")
        place[upper <= -_RAIL] = SUMS.index("low")
        place[lower >= _RAIL] = SUMS.index("high")
    for bucket, name in ((0, "neg_inf"), (-2, "pos_inf"), (-1, "nan")):
        place[bucket] = SUMS.index(name)
    return place


@njit(cache=True, nogil=True)
def sum_rows(
    counts: NDArray[Any],
    place: NDArray[np.int64],
    samples: NDArray[np.int64],
    units: NDArray[np.int64],
    pooled: NDArray[np.uint64],
) -> NDArray[np.float64]:
    """Sum up rows of counts, and add them to those of their epoch.

    Parameters
    ----------
    counts : numpy.ndarray
        Counts [row, layer, bucket].
    place : numpy.ndarray
        What `regions` returned.
    samples : numpy.ndarray
        Samples of the batch [row, layer], 0 where unknown.
    units : numpy.ndarray
        Units of the layer [layer], 0 where unknown.
    pooled : numpy.ndarray
        Counts [layer, bucket] to which the rows are added.

    Returns
    -------
    numpy.ndarray
        `SUMS` [row, layer, sum].
    """
    n_rows, n_layers, n_buckets = counts.shape
    found = np.zeros((n_rows, n_layers, len(SUMS)))
    for row in range(n_rows):
        for layer in range(n_layers):
            line, sums, total = counts[row, layer], found[row, layer], pooled[layer]
            size, width = max(samples[row, layer], 1), max(units[layer], 1)
            for bucket in range(n_buckets):
                count = np.int64(line[bucket])
                if count == 0:
                    continue
                total[bucket] += np.uint64(count)
                if place[bucket] >= 0:
                    sums[place[bucket]] += count
                if 0 < bucket < n_buckets - 2:
                    sums[_OCCUPIED] += 1
                if 1 < bucket < n_buckets - 3:  # what lies beyond the axis differs, if in one bucket
                    sums[_SAME] += count * (count % size == 0)
                    sums[_ALIKE] += count * (count % width == 0)
            sums[_NEAR_ZERO] += sums[_ZEROS] + sums[_TINIES] + sums[_SUBNORMALS]
            sums[_SAME] *= samples[row, layer] > 0
            sums[_ALIKE] *= units[layer] > 0
    return found
