"""Rules about how the outputs of layers move over the training: thrown up by the steps, or up and down."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import median_filter

from actlab.findings.answers import trained
from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule
from actlab.findings.rules.layers import late
from actlab.findings.rules.sizes import IS_WEIGHTED
from actlab.findings.rules.sizes import sizes as sizes_of

__all__ = ["lr_too_high", "rise_and_collapse"]

_IS_BOUNDED: Final = "rnn|lstm|gru"
"""Matches families whose outputs cannot grow, however large the weights: recurrent layers and cells."""

_IS_SCALED: Final = rf"{IS_WEIGHTED}|{_IS_BOUNDED}|multiheadattention"
"""Matches families whose outputs are as large as their weights make them."""

_FELT: Final = 2.0  # factor from which on a change of size counts as its beginning
_LASTING: Final = 5  # rows over which a layer has to stay as large as it got
_SMALL: Final = 0.05  # sizes below it count as it: what grows out of nothing is no explosion
_ENOUGH: Final = 30  # batches in which cycles can show, or that something is learned
_LAST_LOSSES: Final = 5  # finite ones, before it breaks
_LEAST_STD: Final = 1e-6  # standard deviation below which outputs count as constant


class _Sizes(NamedTuple):
    """How large the outputs of layers are in the rows of the training.

    step, done [row]: the row, and batches of training before it; size [row, layer]: logarithm of the root
    mean square, where there is none that of the row before.
    """

    layers: list[str]
    step: NDArray[np.int64]
    done: NDArray[np.int64]
    size: NDArray[np.float64]

    def rise(self, within: int) -> NDArray[np.float64]:
        """Return by how much [row, layer] it grows within so many batches after a row, to stay as large."""
        later = np.searchsorted(self.done, self.done + within, side="right") - 1
        rise: NDArray[np.float64] = _lasting(self.size)[later] - _before(self.size)
        return rise

    def leap(self, loss: NDArray[np.float64], within: int) -> NDArray[np.float64]:
        """Return how far [row, layer] it rises for some rows, as far as the loss [row] rises with it."""
        known = np.log(np.maximum(np.where(np.isfinite(loss), loss, 0), np.finfo(float).tiny))[:, None]
        rows = max(1, int(within // max(np.diff(self.done).min(initial=within), 1)))
        tops = []
        for values in (self.size, known):
            ahead = pd.DataFrame(_lasting(values)[::-1]).rolling(rows, min_periods=1).max().to_numpy()[::-1]
            tops.append(ahead - _before(values))
        leap: NDArray[np.float64] = np.minimum(*tops)
        return leap


def _lasting(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least [row, layer] of some rows from each on."""
    least: NDArray[np.float64] = pd.DataFrame(values[::-1]).rolling(_LASTING, min_periods=1).min().to_numpy()
    return least[::-1]


def _before(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest [row, layer] of each row and the two before it."""
    most: NDArray[np.float64] = pd.DataFrame(values).rolling(3, min_periods=1).max().to_numpy()
    return most


def _sizes(facts: Facts, layers: list[str]) -> _Sizes:
    """Return the sizes of layers, which are called in the first row, in the training."""
    rows = facts.rows["train"]
    size = sizes_of(rows[["mean", "std"]].sel(layer=layers))
    known = pd.DataFrame(np.log(np.maximum(size, _SMALL))).where(np.isfinite(size)).ffill()
    return _Sizes(layers, rows["step"].values, rows["train_step"].values, known.bfill().to_numpy())


class LrTooHighLimits(Limits):
    """Thresholds of `lr_too_high`."""

    batches: int = Field(10, ge=1, description="number of training batches within which layers are thrown up")
    thrown: float = Field(
        20.0, gt=1, description="factor by which outputs grow within these batches, whatever the loss does"
    )
    thrown_head: float = Field(
        30.0, gt=1, description="the same of the head, where all layers below it are recurrent, so bounded"
    )
    leap: float = Field(
        10.0, gt=1, description="the same for five batches at least, while the loss rises as far"
    )
    felt: float = Field(
        2.5, gt=1, description="the same at the beginning of a training that does not learn, or diverges"
    )
    grown: float = Field(
        10.0, gt=1, description="factor by which outputs have grown late in a training that does not learn"
    )
    loss: float = Field(
        0.9, gt=0, description="late loss over the first one, from which on nothing is learned"
    )
    diverged: float = Field(2.0, gt=1, description="late loss over the first one, from which on it diverges")
    auc: float = Field(
        0.65,
        ge=0.5,
        le=1,
        description="area under the ROC curve of YES against NO in the last epoch, below which nothing is "
        "learned",
    )


class _Learning(NamedTuple):
    """A training that does not learn: in words, and whether it even diverges."""

    words: str
    diverges: bool


@rule(
    name="Learning rate too high",
    level="error",
    limits=LrTooHighLimits,
    looks_at="how fast the outputs of layers with weights grow (root mean square; the median of the layers "
    "below the head decides), and whether the loss falls, or YES and NO answers move apart",
    needs="6 training batches, recorded at least every 10th; to find rates that are less extreme, 30 of "
    "them and the loss (`recorder.log(loss=...)`) or labels",
    why="Steps that are too long throw the weights far beyond where the gradient means anything: mean and "
    "standard deviation jump, units die or saturate, and the loss stays where it began or grows.",
    remedy="Divide the learning rate by 10 to 100 (1e-3 is a safe start for Adam, 1e-2 for SGD with "
    "momentum), and check that it is what you meant: 1e2 is easily written for 1e-2. Warm it up, clip the "
    "gradients, and see whether {layer} still jumps.",
    source="Mean and standard deviation that jump: the case of 1e2 for 1e-2 on a ResNet-18. Measured for "
    "the factors: 27 networks at 0.3 to 10,000 times a good rate. Those that learned, at up to 10 times "
    "that rate, grew at most 13-fold within 10 batches; at 100 times that rate they grew 20-fold and more, "
    "or 3-fold without learning.",
)
def lr_too_high(facts: Facts, limits: LrTooHighLimits) -> list[Sign] | Lacking:
    """Find layers whose outputs are thrown up by single steps, or grow while nothing is learned."""
    rows = facts.rows.get("train")
    if rows is None or rows.sizes["step"] <= _LASTING:
        return Lacking(f"needs {_LASTING + 1} training batches")
    kinds = facts.families
    sizes = _sizes(facts, [*kinds.index[kinds.str.contains(_IS_SCALED)]])
    if not sizes.layers:
        return Lacking("needs layers with weights (linear, convolution, recurrent)")
    is_sparse = np.diff(sizes.done).min() > limits.batches
    if is_sparse and facts.loss("train") is None and facts.targets != "classes":
        return Lacking(
            f"needs every {limits.batches}th training batch at least, or the loss, or classes as labels"
        )
    is_hidden = np.array([layer != facts.head for layer in sizes.layers])
    is_hidden |= not is_hidden.any()  # of a linear model the head tells
    rise = sizes.rise(limits.batches)
    ways = [(rise, rise[:, is_hidden], limits.thrown, "")]
    if kinds[sizes.layers][is_hidden].str.contains(_IS_BOUNDED).all() and not is_hidden.all():
        ways.append((rise, rise[:, ~is_hidden], limits.thrown_head, ""))
    if (loss := facts.loss("train")) is not None:
        leap = sizes.leap(loss, limits.batches)
        ways.append((leap, leap[:, is_hidden], limits.leap, ", and the loss rose as far"))
    for way, telling, limit, words in ways:
        typical = np.median(telling, axis=1)
        if typical.max() >= math.log(limit):
            return _thrown(sizes, way, typical, limits, limit, words)
    is_long = sizes.done[-1] - sizes.done[0] >= _ENOUGH - 1
    return _unlearned(facts, sizes, rise, is_hidden, limits) if is_long else []


def _unlearned(
    facts: Facts,
    sizes: _Sizes,
    rise: NDArray[np.float64],
    is_hidden: NDArray[np.bool_],
    limits: LrTooHighLimits,
) -> list[Sign]:
    """Find layers that grew less suddenly, in a training that does not learn."""
    typical = np.median(rise[:, is_hidden], axis=1)
    grown = np.median(late(sizes.size), axis=0) - sizes.size[0]
    has_grown = np.median(grown[is_hidden]) >= math.log(limits.grown)
    if not has_grown and typical.max() < math.log(limits.felt):
        return []
    learning = _not_learning(facts, limits)
    if learning is None:
        return []
    if not learning.diverges:
        typical = typical[sizes.done <= sizes.done[0] + limits.batches]
    if typical.max() >= math.log(limits.felt):
        return _thrown(sizes, rise, typical, limits, limits.felt, learning.words)
    return _grown(sizes, grown, limits.grown, learning.words) if has_grown else []


def _thrown(
    sizes: _Sizes,
    rise: NDArray[np.float64],
    typical: NDArray[np.float64],
    limits: LrTooHighLimits,
    limit: float,
    words: str = "",
) -> list[Sign]:
    """Tell the layers that were thrown up where the typical one was, first."""
    start = int(np.argmax(typical >= math.log(limit)))
    signs = []
    for place in np.flatnonzero(rise[start] >= math.log(limit)):
        base = float(sizes.size[max(0, start - 2) : start + 1, place].max())
        factor = math.exp(rise[start, place])
        text = (
            f"the root mean square of the outputs grew {factor:,.3g}-fold within {limits.batches} batches, "
            f"from {math.exp(base):.3g} to {math.exp(base) * factor:.3g}"
        )
        signs.append(_sign(sizes, int(place), start, base, (factor, limit), text + words))
    return signs


def _grown(sizes: _Sizes, grown: NDArray[np.float64], limit: float, words: str) -> list[Sign]:
    """Tell the layers that grew far while nothing was learned."""
    signs = []
    for place in np.flatnonzero(grown >= math.log(limit)):
        base, factor = float(sizes.size[0, place]), math.exp(grown[place])
        text = (
            f"the root mean square of the outputs grew {factor:,.3g}-fold, from {math.exp(base):.3g} in the "
            f"first batch to {math.exp(base) * factor:.3g} in the last quarter"
        )
        signs.append(_sign(sizes, int(place), 0, base, (factor, limit), text + words))
    return signs


def _sign(sizes: _Sizes, place: int, start: int, base: float, value: tuple[float, float], text: str) -> Sign:
    """Tell a layer from the row on in which its outputs are clearly larger than they were."""
    first = start + int(np.argmax(sizes.size[start:, place] - base >= math.log(_FELT)))
    steps = int(sizes.step[first]), int(sizes.step[-1])
    return Sign(sizes.layers[place], "train", steps, *value, f"since step {steps[0]:,} {text}")


def _not_learning(facts: Facts, limits: LrTooHighLimits) -> _Learning | None:
    """Tell by the loss or the answers that nothing is learned; None if something is, or unknown."""
    loss = facts.loss("train")
    if loss is not None:
        now = float(np.median(np.where(np.isfinite(late(loss)), late(loss), np.inf)))
        known = loss[np.isfinite(loss)]
        if math.isinf(now) and np.median(known[-_LAST_LOSSES:]) < limits.loss * loss[0]:
            return None  # it had learned until something else broke it at once
        if loss[0] > 0 and now >= limits.loss * loss[0]:
            words = f", and the loss went from {loss[0]:.3g} to {now:.3g}"
            return _Learning(words, now >= limits.diverged * loss[0])
    if not isinstance(facts.answers, Lacking):
        auc = trained(facts.answers, "train")["mean_auc"].dropna("epoch").values
        if auc.size and auc[-1] < limits.auc:
            words = f", and the answers hardly tell the classes apart (area under the curve {auc[-1]:.2f})"
            return _Learning(words, diverges=False)
    return None


class RiseAndCollapseLimits(Limits):
    """Thresholds of `rise_and_collapse`."""

    factor: float = Field(3.0, gt=1, description="factor by which outputs rise, and fall again")
    cycles: int = Field(2, ge=1, description="number of times that they rise and fall, in two layers or more")
    alone: int = Field(3, ge=1, description="the same, in a single layer")
    rows: int = Field(5, ge=1, description="rows over which they are smoothed: shorter jumps are no cycles")


@rule(
    name="Rise and collapse",
    level="warning",
    limits=RiseAndCollapseLimits,
    looks_at="the standard deviation of a layer's outputs, smoothed over 5 batches: how often it rises "
    "3-fold and falls as far again",
    needs="30 training batches",
    why="The outputs grow exponentially until the steps blow them away, and begin again: what was learned is "
    "lost each time.",
    remedy="Put a BatchNorm or another normalisation before or after {layer}; lower the learning rate, warm "
    "it up, and clip the gradients.",
    source="The picture: fastbook, chapter 13 (the share near zero falls, returns, repeats). No threshold is "
    "published; ours, a factor of 3 and two cycles, was met by none of 100 trainings at a healthy rate.",
)
def rise_and_collapse(facts: Facts, limits: RiseAndCollapseLimits) -> list[Sign] | Lacking:
    """Find layers whose outputs rise and collapse, again and again."""
    rows = facts.rows.get("train")
    if rows is None or rows.sizes["step"] < _ENOUGH:
        return Lacking(f"needs {_ENOUGH} training batches")
    signs = []
    for layer in facts.layers.index[facts.layers.index != "input"]:
        std = rows["std"].sel(layer=layer).values
        known = np.flatnonzero(np.isfinite(std))
        if known.size >= _ENOUGH:
            steps = rows["step"].values[known]
            signs += _cycles(layer, steps, std[known], limits)
    return signs if len(signs) > 1 else [sign for sign in signs if sign.value >= limits.alone]


def _cycles(
    layer: str, steps: NDArray[np.int64], std: NDArray[np.float64], limits: RiseAndCollapseLimits
) -> list[Sign]:
    """Tell the cycles of a layer, if it has enough of them."""
    size = median_filter(np.log(np.maximum(std, _LEAST_STD)), limits.rows, mode="nearest")
    turns = _turns(size, math.log(limits.factor))
    swings = np.diff(size[turns])
    peaks = np.flatnonzero((swings[:-1] > 0) & (swings[1:] < 0)) + 1
    if peaks.size < limits.cycles:
        return []
    first, second, last = (int(steps[turns[place]]) for place in (peaks[0] - 1, peaks[0] + 1, peaks[-1] + 1))
    text = (
        f"the standard deviation of the outputs rose and collapsed {peaks.size} times between steps "
        f"{first:,} and {last:,}, the first time until step {second:,}, by a factor of "
        f"{math.exp(np.median(np.abs(swings))):,.3g} (the median)"
    )
    return [Sign(layer, "train", (first, last), float(peaks.size), float(limits.cycles), text)]


@njit(cache=True, nogil=True)
def _turns(values: NDArray[np.float64], depth: float) -> NDArray[np.int64]:
    """Return the rows [turn] in which values [row] turn, each more than `depth` off the one before."""
    turns = np.zeros(values.size + 1, np.int64)
    found, low, high, heading = 0, 0, 0, 0
    for row in range(values.size):
        low = row if values[row] < values[low] else low
        high = row if values[row] > values[high] else high
        if heading <= 0 and values[row] - values[low] > depth:
            turns[found] = low
            found, high, heading = found + 1, row, 1
        elif heading >= 0 and values[high] - values[row] > depth:
            turns[found] = high
            found, low, heading = found + 1, row, -1
    if found:
        turns[found] = high if heading > 0 else low
        found += 1
    return turns[:found]
