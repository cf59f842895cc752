"""Rules about the scale of values: over time, over depth, behind a BatchNorm, and in the view."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule
from actlab.findings.rules.layers import broken, late, span
from actlab.findings.rules.sizes import (
    IS_RECURRENT,
    IS_WEIGHTED,
    differences,
    faded,
    first_known,
    is_regression,
    least_faded,
    middle,
    passed,
    sizes,
    unit_size,
)
from actlab.findings.spans import since
from actlab.stats import fit_axis, out_of_range

__all__ = ["batchnorm_recentres", "exploding", "out_of_view", "vanishing"]

_LEAST: Final = 5
_SMALLER_AT_FIRST: Final = (
    "Draw the weights of {layer} and of what feeds it by fan-in (He, Xavier), scale residual branches by "
    "1 / sqrt(depth), or put a normalisation before {layer}."
)
_TOO_SHORT: Final = Lacking(f"needs {_LEAST} batches of training")

_NO_BOTTOM: Final = 10  # how many times its first size a loss is below 0, if it has no least value


class ExplodingLimits(Limits):
    """Thresholds of `exploding`."""

    times: float = Field(
        50, gt=1, description="size of a layer, as a multiple of the input's size and of its own at first"
    )
    going_on: float = Field(20, gt=1, description="the same, while the last quarter grows by half or more")
    unknown: float = Field(
        1e6, gt=1, description="the same, in a regression whose logged loss falls, or is not logged"
    )


@rule(
    name="Exploding activations",
    level="error",
    looks_at="the root mean square of each layer, against that of the input and its own at first",
    needs="5 batches of training",
    why="Values far too large make gradients far too large: the training diverges, and often ends in NaN.",
    remedy="Lower the learning rate or warm it up, clip gradients, and put a normalisation before {layer}.",
    source="Own limits, set on trainings: healthy layers reach 17 times at most. Published: growth > 2 over "
    "5 windows or 1e6 (TheDeepChecker), variance > 10 (SageMaker Debugger), mean >= 10 (AUTOTRAINER).",
    limits=ExplodingLimits,
)
def exploding(facts: Facts, limits: ExplodingLimits) -> list[Sign] | Lacking:
    """Find layers that are, or become, far larger than what the model is given."""
    rows = facts.rows.get("train")
    if rows is None or rows.sizes["step"] < _LEAST or facts.layers.empty:
        return _TOO_SHORT
    size = sizes(rows) / unit_size(facts, rows)[:, None]  # a batch of odd input is no growth
    kinds = facts.families
    multiplies = kinds.str.contains(IS_WEIGHTED) | kinds.str.contains(IS_RECURRENT)
    most, going_on = _growth_limits(facts, limits)
    signs = []
    for layer in facts.layers.index.drop("input", errors="ignore"):
        one = rows.sel(layer=layer)
        called = (one["n"] > 0).values
        one, times = one.isel(step=called), size[called, facts.order(layer)]
        first = first_known(times)
        limit, remedy = going_on if _goes_on(times) else most, None
        if multiplies[layer] and first > limits.times:
            # The head of a regression may begin at the mean of its targets.
            limit = np.inf if is_regression(facts) and layer == facts.head else limits.times
            remedy = _SMALLER_AT_FIRST
        else:
            times = times / np.fmax(1, first)
        row = _outgrown(times, one, limit)
        if row is not None:
            value, words = float(np.nanmax(times)), _growth_words(one, times)
            signs.append(Sign(layer, "train", span(one, row), value, limit, words, remedy))
    return signs


def _growth_limits(facts: Facts, limits: ExplodingLimits) -> tuple[float, float]:
    """Return the limits of growth, and of growth that goes on: a regression grows to its targets' scale."""
    if not is_regression(facts):
        return limits.times, limits.going_on
    loss = facts.loss("train")
    if loss is None:
        return limits.unknown, limits.unknown
    tail = late(loss)
    now = float(np.median(tail))
    fell = bool(np.isfinite(tail).all()) and now < middle(loss[: len(tail)])
    falls_forever = now < -_NO_BOTTOM * abs(middle(loss[:1]))  # as with a sign that is wrong
    return (limits.unknown, limits.unknown) if fell and not falls_forever else (limits.times, limits.going_on)


def _goes_on(times: NDArray[np.float64]) -> bool:
    """Tell whether a layer is larger by half in the last quarter [step] than in the one before."""
    tail = late(times)
    before = times[: -len(tail)][-len(tail) :]
    return len(before) > 0 and bool(np.median(tail) >= 1.5 * middle(before))


def _outgrown(times: NDArray[np.float64], rows: xr.Dataset, limit: float) -> int | None:
    """Return the row [step] from which a layer is beyond the limit to the end, or far beyond it in three."""
    beyond = times > limit
    holds = beyond | ((broken(rows) > 0) & np.logical_or.accumulate(beyond))
    far = np.flatnonzero(times > 20 * limit)
    if holds.sum() < 3:
        return None
    row = since(holds)
    return int(far[0]) if row is None and far.size >= 3 else row


def _growth_words(rows: xr.Dataset, times: NDArray[np.float64]) -> str:
    """Say how large a layer was at first, and at worst."""
    size, step = sizes(rows), rows["step"].values
    worst, lost = int(np.nanargmax(times)), np.flatnonzero(broken(rows))
    words = f"root mean square {first_known(size):.3g} at first"
    words += f", {size[worst]:.3g} at step {step[worst]:,}" if worst else ""
    return words + (f", values not finite from step {step[lost[0]]:,} on" if lost.size else "")


class VanishingLimits(Limits):
    """Thresholds of `vanishing`."""

    share: float = Field(
        5e-3, gt=0, lt=1, description="difference between samples, divided by that in the layers before"
    )


@rule(
    name="Vanishing signal",
    level="warning",
    looks_at="how far the outputs of layers with weights differ from sample to sample, over depth",
    needs="5 batches of training or validation, two layers with weights",
    why="What tells samples apart is lost on the way: layers behind learn nothing but a constant.",
    remedy="Put a normalisation before {layer} or a residual path around it, draw the weights up to it by "
    "fan-in (He, Xavier), replace sigmoids by ReLU or GELU. If it began later, lower weight decay.",
    source="Glorot & Bengio, AISTATS 2010, show the effect. Own limit: healthy trainings keep 0.1 and more. "
    "Others look at gradients: mean < 1e-7 (SageMaker Debugger, DeepDiagnosis), ratio < 1e-3 (AUTOTRAINER).",
    limits=VanishingLimits,
)
def vanishing(facts: Facts, limits: VanishingLimits) -> list[Sign] | Lacking:
    """Find the layer from which on next to nothing differs from sample to sample."""
    names = passed(facts)
    splits = [split for split in ("train", "valid") if split in facts.rows]
    splits = [split for split in splits if facts.rows[split].sizes["step"] >= _LEAST]
    if not splits:
        return _TOO_SHORT
    if len(names) < 3:
        return Lacking("needs two layers with weights, and what comes before them")
    for split in splits:
        signs = _vanished(facts, split, names, limits.share)
        if signs:
            return signs
    return []


def _vanished(facts: Facts, split: str, names: list[str], share: float) -> list[Sign]:
    """Return the signs of the layers in which the signal has vanished in a split."""
    rows = facts.rows[split]
    difference = differences(rows)[:, [facts.order(name) for name in names]]
    lasting = faded(difference, share)
    row = since(lasting >= least_faded(facts, names))
    if row is None or len(lasting) - row < _LEAST:
        return []
    first = len(names) - int(np.median(lasting[row:]))
    held = middle(late(difference))
    # A dead ReLU before it is another matter.
    before = facts.run.names[facts.order(names[first - 1]) + 1 : facts.order(names[first]) + 1]
    zeros = late((rows["zeros"] / rows["n"]).sel(layer=before).values)
    if (middle(zeros) > 0.99).any():
        return []
    source = int(np.nanargmax(held[:first]))
    return [
        Sign(
            name,
            split,
            span(rows, row),
            float(held[place] / held[source]),
            share,
            f"outputs differ from sample to sample by {held[place]:.2g} at most, in {names[source]} by "
            f"{held[source]:.2g}",
        )
        for place, name in enumerate(names)
        if place >= first
    ]


class OutOfViewLimits(Limits):
    """Thresholds of `out_of_view`."""

    share: float = Field(
        0.01, gt=0, lt=1, description="share of the values of an epoch that lie outside a range asked for"
    )
    found: float = Field(
        0.25, gt=0, lt=1, description="the same, outside the range that the page finds for all layers"
    )


@rule(
    name="Out of view",
    level="advice",
    looks_at="the share of the values of the last epoch that lie outside the range of the page",
    needs="one epoch of any split",
    why="What lies outside is not in the picture; it is recorded all the same.",
    remedy="Draw {layer} in a range of its own.",
    source="Convention: what is asked for should hold all but the tails. The range that a page finds "
    "leaves out 0.1 % of all values at either end, which may be much of one wide layer; the wall names each "
    "with 1 %.",
    limits=OutOfViewLimits,
)
def out_of_view(facts: Facts, limits: OutOfViewLimits) -> list[Sign] | Lacking:
    """Find layers of which a good part lies beyond the ends of the view."""
    if not facts.latest:
        return Lacking("needs an epoch of any split")
    split = "train" if "train" in facts.latest else next(iter(facts.latest))
    view, epochs = facts.view, facts.epochs[split]
    limit = limits.share if facts.is_view_asked else limits.found
    shares = out_of_range(facts.latest[split], view.h_min, view.h_max)
    outside = shares["below"] + shares["above"]
    signs = []
    for layer in facts.layers.index[(outside.sel(layer=facts.layers.index) > limit).values]:
        ends, value = epochs["quantile"].sel(layer=layer), float(outside.sel(layer=layer))
        beyond = (ends.sel(q=0.01) < view.h_min) | (ends.sel(q=0.99) > view.h_max)
        first = since(beyond.values)
        steps = int(epochs["first_step"][-1 if first is None else first]), int(epochs["last_step"][-1])
        fitting = fit_axis(facts.latest[split].sel(layer=layer))
        words = (
            f"{value:.1%} of the values of epoch {int(epochs['epoch'][-1])} lie outside {view.h_min:g} to "
            f"{view.h_max:g}, where {fitting.h_min:g} to {fitting.h_max:g} would hold 99.8 %"
        )
        remedy = (
            f"Draw {{layer}} with --h-min {fitting.h_min:g} --h-max {fitting.h_max:g}, "
            "or every layer in a range of its own."
        )
        signs.append(Sign(layer, split, steps, value, limit, words, remedy))
    return signs


class RecentresLimits(Limits):
    """Thresholds of `batchnorm_recentres`."""

    centred: float = Field(0.3, gt=0, description="|mean| / std behind the norm, at most")
    off: float = Field(0.25, gt=0, description="|mean| / std before it, at least; or")
    scale: float = Field(1.5, gt=1, description="std before it over std behind it, or the inverse, at least")


@rule(
    name="BatchNorm re-centres",
    level="healthy",
    looks_at="mean and standard deviation of a BatchNorm's outputs, and of the layer before it",
    needs="5 batches of training, a BatchNorm",
    why="It undoes shifts and scales of what comes before, which allows larger learning rates.",
    remedy="Nothing to do: {layer} does its work.",
    source="Bjorck et al., NeurIPS 2018: behind it means stay near 0 and deviations near 1. Own limits.",
    limits=RecentresLimits,
)
def batchnorm_recentres(facts: Facts, limits: RecentresLimits) -> list[Sign] | Lacking:
    """Find BatchNorms behind which values are centred while those before are not."""
    rows = facts.rows.get("train")
    norms = np.flatnonzero(facts.families.str.contains("batchnorm"))
    norms = norms[norms > 0]
    if not norms.size:
        return Lacking("the model has no BatchNorm")
    if rows is None or rows.sizes["step"] < _LEAST:
        return _TOO_SHORT
    names = [str(name) for name in facts.layers.index]
    rows = rows.sel(layer=names)
    mean, std = rows["mean"].values, rows["std"].values
    with np.errstate(invalid="ignore", divide="ignore"):
        shift, scale = np.abs(mean) / std, std[:, norms - 1] / std[:, norms]
        does = (shift[:, norms] < limits.centred) & (std[:, norms] > 0.1) & (std[:, norms] < 10)
        does &= (shift[:, norms - 1] > limits.off) | (np.abs(np.log(scale)) > np.log(limits.scale))
    signs = []
    for place, norm in enumerate(norms):
        row = since(does[:, place])
        if row is not None and len(does) - row >= _LEAST:
            layer, before = names[norm], names[norm - 1]
            centre, width = (middle(each[row:, norm - 1 : norm + 1]) for each in (mean, std))
            words = (
                f"mean {centre[1]:.2g} and standard deviation {width[1]:.2g}, where {before} before it has "
                f"{centre[0]:.2g} and {width[0]:.2g}"
            )
            value = float(middle(shift[row:, norm]))
            signs.append(Sign(layer, "train", span(rows, row), value, limits.centred, words))
    return signs
