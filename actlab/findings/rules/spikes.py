"""The rule about spikes: single batches unlike their neighbours."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import median_filter

from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule

__all__ = ["spike"]

_AFTER: Final = 2  # normal rows there have to be after a spike
_LONGEST: Final = 3  # rows; what lasts longer is a change, no spike
_SIGMA: Final = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
# Least noise of the mean, in standard deviations, and of their logarithm, times the root of the samples: half
# of what it is where the values of a sample are alike. By chance the neighbours may show less.
_MEAN_NOISE: Final = 0.5
_SPREAD_NOISE: Final = 0.5 / math.sqrt(2)
_FEW: Final = 8  # values of a sample
_SAMPLES: Final = 16  # of a batch, where unknown
_FAINT: Final = 0.05  # share of the largest usual standard deviation up to which a layer says nothing


class SpikeLimits(Limits):
    """Thresholds of `spike`."""

    score: float = Field(
        10.0, gt=0, description="distance from the median of the neighbours, in standard deviations of theirs"
    )
    mean: float = Field(
        1.0, gt=0, description="distance of the mean from theirs, in standard deviations of the values"
    )
    factor: float = Field(2.0, gt=1, description="factor between the standard deviation and theirs")
    window: int = Field(
        17, ge=9, description="rows of the window of neighbours, the row itself in the middle"
    )
    share: float = Field(0.05, gt=0, lt=1, description="share of odd rows above which they are no spikes")


@rule(
    name="Spike",
    level="warning",
    limits=SpikeLimits,
    looks_at="mean and standard deviation of each batch against those of the 8 batches before and after it "
    "(median and median absolute deviation)",
    needs="17 batches of a split, recorded one after the other",
    why="A batch unlike all others is a fault in the data, or a step that threw the weights off; one such "
    "step can undo what was learned.",
    remedy="Look at the batch of this step: samples that are broken, not normalised, or in another unit. If "
    "the inputs are like those of other batches, clip the gradients and lower the learning rate of {layer}.",
    source="neural-observatory calls more than 5 standard deviations of the history a spike; over many "
    "layers and steps that is too often. Ours is 10, and a mean off by a standard deviation or twice the "
    "spread.",
)
def spike(facts: Facts, limits: SpikeLimits) -> list[Sign] | Lacking:
    """Find single batches, or up to three, unlike those before and after."""
    signs: list[Sign] = []
    is_told = False
    kinds = facts.families
    # How sharp a softmax is, is no scale: where data or weights are odd, other layers are.
    layers = kinds.index[~kinds.str.contains("softm")]
    for split, rows in facts.rows.items():
        # Between two evaluations the network is trained: batches of the same one are compared.
        epochs = rows["epoch"].values
        ends = np.flatnonzero(np.diff(epochs)) + 1 if split != "train" else np.array([], int)
        for part in np.split(np.arange(epochs.size), ends):
            for layer in layers if part.size >= limits.window else ():
                own = _usual_batches(rows[["n", "mean", "std", "samples"]].isel(step=part).sel(layer=layer))
                if own.sizes["step"] >= limits.window:
                    is_told = True
                    signs += _spikes(split, layer, own, limits)
    return signs if is_told else Lacking(f"needs {limits.window} batches of a split, one after the other")


def _usual_batches(rows: xr.Dataset) -> xr.Dataset:
    """Return the rows in which a layer was called, without small batches, such as the last of an epoch."""
    n = np.where(np.isfinite(rows["mean"].values), rows["n"].values, 0)
    return rows.isel(step=np.flatnonzero(n >= max(1, np.median(n[n > 0]) / 2) if n.any() else n))


def _spikes(split: str, layer: str, rows: xr.Dataset, limits: SpikeLimits) -> list[Sign]:
    """Find the spikes of a layer."""
    mean, std = rows["mean"].values, rows["std"].values
    samples = float(np.median(rows["samples"].values)) or _SAMPLES
    root = math.sqrt(samples)
    if np.median(rows["n"].values) < _FEW * samples:  # the classes of a batch decide what it answers
        root /= 2
    faint = _FAINT * float(median_filter(std, limits.window, mode="reflect").max())
    if not faint:
        return []
    spread = np.log(np.maximum(std, faint))
    typical = median_filter(spread, limits.window, mode="reflect")
    size, limit = mean / np.exp(typical), math.log(limits.factor)
    shift, shift_score = _compare(size, _MEAN_NOISE / root, limits.window)
    change, change_score = _compare(spread, _SPREAD_NOISE / root, limits.window)
    is_odd = (shift >= limits.mean) & (shift_score >= limits.score)
    is_odd |= (change >= limit) & (change_score >= limits.score)
    is_odd &= typical > math.log(faint)  # what was silent before and after has no usual batches
    if not is_odd.any() or is_odd.sum() > max(limits.share * is_odd.size, 1):
        return []
    score = np.maximum(shift_score, change_score)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_odd, [False]]).astype(int))).reshape(-1, 2)
    lone = [
        range(start, stop)
        for start, stop in edges
        if stop - start <= _LONGEST
        and start >= limits.window // 2
        and stop + _AFTER <= is_odd.size
        and is_odd[start - _AFTER : stop + _AFTER].sum() == stop - start
    ]
    return [
        _sign(split, layer, rows, odd, score, limits)
        for odd in lone
        if _is_sudden(size, odd, limits.mean) or _is_sudden(spread, odd, limit)
    ]


def _is_sudden(values: NDArray[np.float64], odd: range, limit: float) -> bool:
    """Tell whether odd rows differ from the ones next to them; in the trough of a wave they do not."""
    before = abs(values[odd.start] - values[odd.start - 1])
    after = abs(values[odd.stop - 1] - values[odd.stop])
    return bool(before >= limit and after >= limit / 2)


def _compare(
    values: NDArray[np.float64], least: float, window: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far values [row] are off the median around them, and the same in units of noise."""
    off = np.abs(values - median_filter(values, window, mode="reflect"))
    noise = _SIGMA * median_filter(off, window, mode="reflect")
    return off, off / np.maximum(noise, least)


def _sign(
    split: str, layer: str, rows: xr.Dataset, odd: range, score: NDArray[np.float64], limits: SpikeLimits
) -> Sign:
    """Tell a spike, given the places of its rows."""
    mean, std, step = (rows[name].values for name in ("mean", "std", "step"))
    worst = odd.start + int(np.argmax(score[odd.start : odd.stop]))
    half = limits.window // 2
    around = [*range(odd.start - half, odd.start), *range(odd.stop, min(odd.stop + half, step.size))]
    return Sign(
        layer,
        split,
        (int(step[odd.start]), int(step[odd.stop - 1])),
        float(score[worst]),
        limits.score,
        f"mean {mean[worst]:.3g} and standard deviation {std[worst]:.3g} in step {step[worst]:,}; in the "
        f"batches before and after {np.median(mean[around]):.3g} and {np.median(std[around]):.3g} (medians): "
        f"{score[worst]:,.3g} times their noise",
    )
