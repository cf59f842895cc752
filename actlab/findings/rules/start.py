"""Rules about what a training starts from: the initial weights, and the inputs."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from pydantic import Field

from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule
from actlab.findings.rules.layers import IS_NORM, span
from actlab.findings.rules.sizes import (
    IS_RECURRENT,
    IS_WEIGHTED,
    differences,
    faded,
    is_regression,
    least_faded,
    middle,
    passed,
    sizes,
    unit_size,
)

__all__ = ["bad_initialisation", "input_normalisation"]

_FIRST_STEPS: Final = 10  # of training, after which weights are no longer the initial ones
_LEAST_UNITS: Final = 8
_IS_SIGMOID: Final = r"^(?:hard)?sigmoid$"
_IS_TANH: Final = r"^(?:(?:hard)?tanh|softsign|rnn|lstm|gru)$"
_SMALLER: Final = "Draw smaller weights for what feeds {layer}, such as Xavier's, and its biases near 0."
_BY_FAN_IN: Final = (
    "Draw the weights of {layer} by fan-in: He for ReLU, Xavier for tanh and sigmoid; biases 0."
)
_ALL_OFF: Final = (
    "Begin with smaller or positive biases in {layer}: they put all of its outputs where the activation is 0."
)


class InitialLimits(Limits):
    """Thresholds of `bad_initialisation`."""

    gain: float = Field(
        3,
        gt=1,
        description="standard deviation of a layer's outputs, divided by the largest size before it (at "
        "least 1)",
    )
    depth: float = Field(30, gt=1, description="the same, divided by the size of the input (at least 1)")
    share: float = Field(
        2e-3,
        gt=0,
        lt=1,
        description="share of the difference between samples below which it is lost, as in vanishing",
    )
    alike: float = Field(
        0.9, gt=0, le=1, description="share of values that all units of a layer have in common"
    )
    saturated: float = Field(0.5, gt=0, le=1, description="share of values at the ends of tanh or sigmoid")


@rule(
    name="Bad initialisation",
    level="warning",
    looks_at="the first batch: outputs of layers with weights against what comes before them",
    needs="a batch from the first 10 steps of training",
    why="Weights far too large, too small or alike spoil the first gradients and the later ones.",
    remedy=_BY_FAN_IN,
    source="He et al., ICCV 2015, Glorot & Bengio, AISTATS 2010: variance is kept over layers. Own limits: "
    "healthy trainings (default, He, Xavier, orthogonal, GPT-2) multiply by 1.5 at most and keep 0.02 over "
    "depth; SageMaker Debugger: ratio of variances > 10 in 10 steps.",
    limits=InitialLimits,
)
def bad_initialisation(facts: Facts, limits: InitialLimits) -> list[Sign] | Lacking:
    """Find layers whose weights are far too large, too small or alike before they have learned."""
    rows = facts.rows.get("train")
    if rows is None or facts.layers.empty or int(rows["train_step"][0]) > _FIRST_STEPS:
        return Lacking(f"needs a batch from the first {_FIRST_STEPS} steps of training")
    first = rows.isel(step=[0])
    found: dict[str, Sign] = {}
    for look in (_too_large, _faded, _alike, _saturated):
        for sign in look(facts, first, limits):
            found.setdefault(sign.layer, sign)
    return list(found.values())


def _sign(
    first: xr.Dataset, layer: str, measured: tuple[float, float], words: str, remedy: str | None = None
) -> Sign:
    """Return what was seen in a layer in the first batch."""
    step = int(first["step"][0])
    return Sign(layer, "train", (step, step), *measured, f"in the first batch, {words}", remedy)


def _too_large(facts: Facts, first: xr.Dataset, limits: InitialLimits) -> list[Sign]:
    """Find layers that multiply what comes in, their norm apart."""
    kinds = facts.families
    names = list(kinds.index)
    one = first.sel(layer=names)
    size, std = pd.Series(sizes(one)[0], names), one["std"].values[0]
    is_norm = kinds.str.contains(IS_NORM)
    judged = kinds.str.contains(IS_WEIGHTED) & ~is_norm.shift(-1, fill_value=False)
    behind_norm = size.groupby(is_norm.cumsum())  # a norm undoes the size of what comes before it
    before = behind_norm.cummax().groupby(is_norm.cumsum()).shift().clip(lower=1).fillna(1)
    if is_regression(facts):
        judged &= kinds.index != facts.head
    unit = float(unit_size(facts, first)[0])
    signs = []
    for place in np.flatnonzero(judged):
        gain, depth = std[place] / before.iloc[place], std[place] / unit
        if gain > limits.gain or depth > limits.depth:
            is_gain = gain > limits.gain
            times = (float(gain), limits.gain) if is_gain else (float(depth), limits.depth)
            words = (
                f"outputs have the standard deviation {std[place]:.3g}, {times[0]:.3g} times the size of "
                f"{'all before' if is_gain else 'the input'}"
            )
            signs.append(_sign(first, names[place], times, words))
    return signs


def _faded(facts: Facts, first: xr.Dataset, limits: InitialLimits) -> list[Sign]:
    """Find layers from which on no sample differs from another."""
    names = passed(facts)
    difference = differences(first)[:, [facts.order(name) for name in names]]
    count = int(faded(difference, limits.share)[0]) if len(names) > 2 else 0
    # The end of the last residual branch may begin at zero, as the head may.
    hidden = 1 if difference[0, len(names) - count :].any() else 2
    if not count or count < least_faded(facts, names, hidden):
        return []
    most = float(np.nanmax(difference[0, :-count]))
    if silenced := _silenced(facts, first, names[-count - 1], names[-count]):
        words = f"{silenced} gives 0 for every sample, and what comes behind it is the same for all"
        return [_sign(first, names[-count - 1], (0.0, limits.share), words, _ALL_OFF)]
    return [
        _sign(
            first,
            name,
            (float(held) / most, limits.share),
            f"outputs differ from sample to sample by {held:.2g} at most, in layers before by {most:.2g}",
        )
        for name, held in zip(names[-count:], difference[0, -count:], strict=True)
    ]


def _silenced(facts: Facts, first: xr.Dataset, before: str, faded: str) -> str | None:
    """Return the activation between two layers that is all zeros, if there is one."""
    between = first.isel(step=0, layer=slice(facts.order(before) + 1, facts.order(faded)))
    silent = between["layer"].values[(between["n"] > 0) & (between["zeros"] == between["n"])]
    return str(silent[0]) if silent.size else None


def _alike(facts: Facts, first: xr.Dataset, limits: InitialLimits) -> list[Sign]:
    """Find hidden layers all of whose units give the same outputs, but 0."""
    kinds = facts.families
    signs = []
    inputs = first.isel(step=0).sel(layer=kinds.index[kinds == "input"])
    # Of samples that are all the same, counts say nothing of units.
    is_given = bool(((inputs["samples"] > 1) & (inputs["same"] == inputs["n"])).any())
    for layer in kinds.index[kinds.str.contains(IS_WEIGHTED) & (kinds.index != facts.head)]:
        one, shape = first.sel(layer=layer).isel(step=0), facts.layers["shape"][layer]
        units = shape[1 if kinds[layer].startswith("conv") else -1] if len(shape) > 1 else 0
        n = max(int(one["n"]), 1)
        alike, zeros = float(one["alike"]) / n, float(one["zeros"]) / n
        if units >= _LEAST_UNITS and alike >= limits.alike and zeros < 0.5 and not is_given:
            words = f"{alike:.0%} of the values are the same in all {units} units"
            remedy = "Draw the weights of {layer} at random, by fan-in: units that begin alike stay alike."
            signs.append(_sign(first, str(layer), (alike, limits.alike), words, remedy))
    return signs


def _saturated(facts: Facts, first: xr.Dataset, limits: InitialLimits) -> list[Sign]:
    """Find tanh, sigmoid and recurrent layers before the head that are at their ends, but by large inputs."""
    kinds = facts.families
    hidden = kinds[: facts.head] if facts.head in kinds.index else kinds
    if unit_size(facts, first)[0] > limits.gain:
        return []
    signs = []
    for layer, kind in hidden.items():
        one = first.sel(layer=layer).isel(step=0)
        is_sigmoid = bool(re.search(_IS_SIGMOID, kind))
        is_bounded = float(one["max"]) <= 1 and float(one["min"]) >= -1  # states of cells and ReLU are not
        if is_sigmoid or (is_bounded and re.search(_IS_TANH, kind)):
            ends = float((one["near_zero" if is_sigmoid else "low"] + one["high"]) / max(int(one["n"]), 1))
            if ends >= limits.saturated:
                words = f"{ends:.0%} of the values are at the ends of the range"
                signs.append(_sign(first, str(layer), (ends, limits.saturated), words, _SMALLER))
    return signs


class InputLimits(Limits):
    """Thresholds of `input_normalisation`."""

    large: float = Field(6, gt=1, description="root mean square, at most")
    small: float = Field(0.01, gt=0, lt=1, description="root mean square, at least")
    offset: float = Field(3, gt=0, description="|mean| / std, at most, where |mean| > 1")
    features: float = Field(30, gt=1, description="largest feature over the median one, at most")
    shift: float = Field(
        0.5, gt=0, description="|mean of another split - mean of train| / std of train, at most"
    )
    scale: float = Field(
        2, gt=1, description="std of another split over std of train, or the inverse, at most"
    )


@rule(
    name="Inputs not normalised",
    level="warning",
    looks_at="mean, standard deviation and single features of `input`, and how train and other splits "
    "differ in them",
    needs="the layer `input` (the first floating-point argument of the model)",
    why="First layers are made for inputs around 0 of size 1; others slow or saturate them.",
    remedy="Subtract the mean of the training data and divide by its deviation, once, in every split.",
    source="LeCun et al., Efficient BackProp (1998): mean 0, equal variances. Own limits: inputs in 0..1 or "
    "divided by their deviation pass, pixels in 0..16 or 0..255 and tables as measured do not.",
    limits=InputLimits,
)
def input_normalisation(facts: Facts, limits: InputLimits) -> list[Sign] | Lacking:
    """Tell whether inputs are of a size that layers are made for, the same in every split."""
    if "input" not in facts.layers.index:
        return Lacking("the layer `input` was not recorded, or the model was given no floating-point tensor")
    rows = {split: each.sel(layer="input") for split, each in facts.rows.items()}
    split = "train" if "train" in rows else next(iter(rows))
    seen = {split: _uneven(facts, split, limits) or _off(rows[split], limits)}
    if _is_normalised_inside(facts, split):
        seen = {}
    if split == "train":
        seen |= {other: _otherwise(rows["train"], rows[other], limits) for other in rows if other != "train"}
    return [
        Sign("input", each, span(rows[each]), *found) for each, found in seen.items() if found is not None
    ]


_Seen = tuple[float, float, str, str]  # value, limit, evidence, remedy


def _usual(rows: xr.Dataset) -> tuple[float, float]:
    """Return mean and standard deviation of the usual batch of rows [step], odd ones left out."""
    return float(middle(rows["mean"].values)), float(middle(rows["std"].values))


def _off(rows: xr.Dataset, limits: InputLimits) -> _Seen | None:
    """Tell whether inputs are too large, too small, or all on one side."""
    mean, std = _usual(rows)
    size = float(np.hypot(mean, std))
    low, high = (float(middle(rows[name].values)) for name in ("min", "max"))
    words = f"values from {low:.3g} to {high:.3g}, mean {mean:.3g}, standard deviation {std:.3g}"
    sign = "-" if mean >= 0 else "+"
    remedy = f"Give the model (x {sign} {abs(mean):.3g}) / {std:.3g}, by the training data, in every split."
    if size > limits.large:
        return size, limits.large, f"{words}: root mean square {size:.3g}", remedy
    if 0 < size < limits.small:
        remedy += " They may have been divided twice."
        return size, limits.small, f"{words}: root mean square {size:.3g}", remedy
    if abs(mean) > max(1, limits.offset * std):
        return abs(mean) / std if std else np.inf, limits.offset, words, remedy
    return None


def _uneven(facts: Facts, split: str, limits: InputLimits) -> _Seen | None:
    """Tell whether some features of a table are much larger than most, exact zeros left out."""
    shape = facts.layers["shape"]["input"]
    if len(shape) != 2 or split not in facts.channels:
        return None
    table = facts.channels[split]
    table = table.isel(channel=(table["layer"] == "input").values)
    called = (table["n"] - table["zeros"]).values
    with np.errstate(invalid="ignore", divide="ignore"):
        size = (table["mean_abs"] * table["n"]).values.sum(0) / called.sum(0)
    known = size[np.isfinite(size)]
    if known.size < 2:
        return None
    times, largest = float(known.max() / np.median(known)), int(np.nanargmax(size))
    words = (
        f"feature {largest} (counted from 0) has a mean size of {known.max():.3g}, the median feature "
        f"{np.median(known):.3g}"
    )
    remedy = (
        "Subtract the mean of each feature of the training data and divide by its deviation, in every split."
    )
    return (times, limits.features, words, remedy) if times > limits.features else None


def _is_normalised_inside(facts: Facts, split: str) -> bool:
    """Tell whether the model itself brings inputs to a scale, by a norm or a factor in its code."""
    kinds = facts.families
    on_the_way = [name for name in passed(facts) if name != "input"]
    if not on_the_way:
        return False
    first = facts.rows[split].isel(step=[0])
    size = sizes(first)[0]
    kind = kinds[on_the_way[0]]
    if re.search(IS_NORM, kind):
        return True
    # A recurrent layer is never above 1, whatever it is given.
    shrunk = size[facts.order(on_the_way[0])] < 0.02 * size[facts.order("input")]
    return bool(shrunk) and not re.search(IS_RECURRENT, kind)


def _otherwise(train: xr.Dataset, other: xr.Dataset, limits: InputLimits) -> _Seen | None:
    """Tell whether the inputs of another split have another mean or scale than those of train."""
    (mean, std), (other_mean, other_std) = _usual(train), _usual(other)
    if not std or not other_std:
        return None
    # What means of so few values differ by chance, from how those of batches do.
    spread = pd.Series(train["mean"].values).std()
    noise = float(spread * np.sqrt(train["n"].values.mean() / other["n"].values.sum()))
    words = f"mean {other_mean:.3g} and standard deviation {other_std:.3g}, in train {mean:.3g} and {std:.3g}"
    remedy = "Normalise all splits in the same way, by mean and deviation of the training data."
    shift, scale = abs(other_mean - mean) / std, max(other_std / std, std / other_std)
    if scale > limits.scale:
        return scale, limits.scale, words, remedy
    return (shift, limits.shift, words, remedy) if shift > max(limits.shift, 4 * noise / std) else None
