"""Smoothed histograms: their modes, and how far two of them are apart."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.errors import AxisError
from actlab.peaks.samples import Sample
from actlab.stats import total_variation

__all__ = ["FLOW", "Distance", "distance", "fine_axis", "modes"]

SIGMA: Final = 3.0
"""A dip between two modes is deeper than so many standard deviations of its counts."""

PILOT: Final = 2.0
"""So deep is a dip of the first smoothing at which the counts are parted for the second one."""

SHAPE_BINS: Final = 512
"""Shapes are compared in so many bins over the middle 99.8 % of the values, whatever the view."""

FLOW: Final = ("underflow", "overflow", "neg_inf", "pos_inf", "nan")


def modes(counts: NDArray[Any], centers: NDArray[np.float64]) -> xr.Dataset:
    """Find the peaks of a histogram that its counts can tell apart.

    The counts are smoothed by a Gaussian of bandwidth 0.9 min(std, IQR / 1.34) n^(-1/5) (Silverman,
    Density Estimation, 1986, eq. 3.31). That oversmooths what has several modes, as their distance is
    part of the spread: where dips are deeper than 2 sigma the counts are parted there, and smoothed again
    by the geometric mean of the bandwidth of all and the largest of a part. A smoothed count s = sum(k c)
    has the Poisson variance v = sum(k^2 c); between two adjacent peaks the dip is deeper than 3 sigma if
    the lower peak p and the bottom of the dip d have s_p - s_d > 3 sqrt(v_p + v_d). The least significant
    dip is filled, its lower peak dropped, until every dip left is that deep.

    Simulated with 60 to 200,000 values: a second mode in none of 6,750 samples of a normal, Laplace or
    exponential; heavy tails and flat tops offer more places for one (of samples of 2,000 and of 200,000
    values: Student t3 0 and 1 %, uniform 1 and 9 %, log-normal 0.3 and 10 %, Cauchy 0.2 and 31 %). Two
    equal normals 6 std apart are told apart from 100 values on, 4 std apart from 320 on; in shares of 1
    to 9, 6 std apart, from 500 on.

    Parameters
    ----------
    counts : numpy.ndarray
        Counts [bin], not negative.
    centers : numpy.ndarray
        Middles of equally wide bins [bin], ascending.

    Returns
    -------
    xarray.Dataset
        Dims mode and valley, by ascending position; both empty without counts, valley with one mode.

        - position, height [mode]: center and smoothed count per bin;
        - prominence [mode]: how far the height is above the higher of the two lowest places between the
          mode and a higher one, or the end of the histogram, to either side;
        - valley_position, valley_height [valley]: the bottom of the dip between two adjacent modes;
        - significance [valley]: its depth in sigma, as above, more than 3.
    """
    width = _bandwidth(counts, centers)
    _, dips, _ = _peaks(*_smooth(counts, width), PILOT)
    if dips.size:
        parts = zip(np.split(counts, dips), np.split(centers, dips), strict=True)
        width = min(width, math.sqrt(width * max(_bandwidth(part, middles) for part, middles in parts)))
    smooth, variance = _smooth(counts, width)
    found, dips, depth = _peaks(smooth, variance, SIGMA)
    return xr.Dataset(
        {
            "position": ("mode", centers[found]),
            "height": ("mode", smooth[found]),
            "prominence": ("mode", np.array([_prominence(smooth, peak) for peak in found], np.float64)),
            "valley_position": ("valley", centers[dips]),
            "valley_height": ("valley", smooth[dips]),
            "significance": ("valley", depth),
        },
        {"mode": np.arange(len(found)), "valley": np.arange(dips.size)},
    )


def _peaks(
    smooth: NDArray[np.float64], variance: NDArray[np.float64], sigma: float
) -> tuple[list[int], NDArray[np.int64], NDArray[np.float64]]:
    """Return the bins of the peaks [mode] and of the dips between them [valley], and their depth in sigma."""
    found = _maxima(smooth)
    while len(found) > 1:
        pairs = list(pairwise(found))
        lower = np.array([min(pair, key=lambda peak: smooth[peak]) for pair in pairs])
        dips = np.array([left + np.argmin(smooth[left : right + 1]) for left, right in pairs])
        depth = (smooth[lower] - smooth[dips]) / np.sqrt(variance[lower] + variance[dips])
        weakest = int(np.argmin(depth))
        if depth[weakest] > sigma:
            return found, dips, depth
        found.remove(int(lower[weakest]))
    return found, np.empty(0, np.int64), np.empty(0)


def _bandwidth(counts: NDArray[Any], centers: NDArray[np.float64]) -> float:
    """Return Silverman's bandwidth in bins, at least 0.1; nothing is smoothed below a quarter."""
    n = float(counts.sum())
    if n <= 0 or counts.size < 2:
        return 0.1
    width = float(centers[1] - centers[0])
    mean = float(counts @ centers) / n
    spread = math.sqrt(float(counts @ (centers - mean) ** 2) / n)
    edges = np.append(centers - width / 2, centers[-1] + width / 2)
    first, third = np.interp((0.25, 0.75), np.append(0, np.cumsum(counts)) / n, edges)
    if third - first > width:  # else one bin holds half of the values, and says nothing of the rest
        spread = min(spread, float(third - first) / 1.34)
    return max(0.9 * spread * math.pow(n, -0.2) / width, 0.1)


def _kernel(bandwidth: float) -> NDArray[np.float64]:
    """Return a Gaussian, its bandwidth in bins, cut at 4 std."""
    reach = math.ceil(4 * bandwidth)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / bandwidth) ** 2)
    normalised: NDArray[np.float64] = kernel / kernel.sum()
    return normalised


def _smooth(counts: NDArray[Any], bandwidth: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return smoothed counts and their Poisson variance [bin]."""
    kernel = _kernel(bandwidth)
    return _same(counts, kernel), _same(counts, kernel**2)


def _same(counts: NDArray[Any], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolve counts with a kernel of odd length, and keep their bins."""
    reach = kernel.size // 2
    return np.convolve(counts, kernel)[reach : reach + counts.size]


def _maxima(smooth: NDArray[np.float64]) -> list[int]:
    """Return the bins of all local maxima, the middle of a plateau for it, ascending."""
    starts = np.flatnonzero(np.diff(smooth, prepend=np.nan) != 0)
    ends = np.append(starts[1:], smooth.size) - 1
    rises = np.diff(smooth[starts], prepend=0, append=0)
    tops = (rises[:-1] > 0) & (rises[1:] < 0)
    return [int(middle) for middle in (starts[tops] + ends[tops]) // 2]


def _prominence(smooth: NDArray[np.float64], peak: int) -> float:
    """Return how far a peak rises above its surroundings, as `scipy.signal.peak_prominences`."""
    higher = np.flatnonzero(smooth > smooth[peak])  # scipy.signal takes a second to import
    left = int(higher[higher < peak].max(initial=-1)) + 1
    right = int(higher[higher > peak].min(initial=smooth.size))
    return float(smooth[peak] - max(smooth[left : peak + 1].min(), smooth[peak:right].min()))


def fine_axis(low: float, high: float) -> LinearAxis | None:
    """Return the bins in which shapes are compared; None where there are no finite values."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    try:
        return LinearAxis(low, high, SHAPE_BINS)
    except AxisError:  # (nearly) all values are one number: any range around it shows one mode
        margin = max(abs(low), abs(high), 1.0)
        return LinearAxis(low - margin, high + margin, SHAPE_BINS)


class Distance(NamedTuple):
    """How far two smoothed histograms are apart."""

    value: float
    """Total variation, 0 to 1."""
    noise: float
    """What two samples of one distribution, as large as these, are expected to differ by."""


def distance(a: Sample, b: Sample, flow: tuple[str, ...] = FLOW) -> Distance:
    """Return the total variation of two samples, each smoothed by its Silverman bandwidth.

    Two samples of 300 values of one distribution differ by 0.4 in 200 bins, smoothed by 0.05. The noise
    is half the sum over the bins of sqrt(2 / pi) sqrt(v_a + v_b), the expected size of a normal difference
    with the Poisson variances v of the smoothed shares, as if all values were independent of each other.

    Parameters
    ----------
    a, b : Sample
        Of one kind, both exact or both counted.
    flow : tuple of str
        Which values outside the bins take part, each as a bin of its own.

    Returns
    -------
    Distance
        NaN where one of them has no finite values.
    """
    ends = np.stack([a.middle, b.middle])
    axis = fine_axis(ends[:, 0].min(), ends[:, 1].max())
    if axis is None:
        return Distance(math.nan, math.nan)
    views = [sample.histogram(axis) for sample in (a, b)]
    kernels = [_kernel(_bandwidth(view["counts"].values, axis.centers)) for view in views]
    reach = max(kernel.size for kernel in kernels) // 2
    parts, variance = [], np.zeros(1)
    for view, kernel in zip(views, kernels, strict=True):
        outside = np.array([view[name] for name in flow])
        smooth, square = (
            np.append(np.pad(np.convolve(view["counts"], each), reach - kernel.size // 2), outside)
            for each in (kernel, kernel**2)
        )
        parts.append(xr.DataArray(smooth, dims="part"))
        variance = variance + square / smooth.sum() ** 2
    noise = math.sqrt(0.5 / math.pi) * float(np.sqrt(variance).sum())
    return Distance(float(total_variation(parts[0], parts[1], "part")), noise)
