"""Rules about values: those that are no numbers, and those at the ends of an activation."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import xarray as xr
from pydantic import Field

from actlab.findings.answers import trained
from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule
from actlab.findings.rules.layers import HAS_WEIGHTS, NO_ROWS, largest, late, layer_rows, span
from actlab.findings.spans import since

__all__ = ["nan_inf", "saturation"]

_WORDS: Final = {"nan": "NaN", "pos_inf": "+inf", "neg_inf": "-inf"}
_SOFTMAX: Final = "softmax|softmin"
# The sums that hold the values at the ends, by family.
_ENDS: Final = dict.fromkeys(
    ("tanh", "hardtanh", "softsign", "rnn", "lstm", "gru", "rnncell", "lstmcell", "grucell"), ("low", "high")
) | dict.fromkeys(("sigmoid", "hardsigmoid"), ("near_zero", "high"))


class NanInfLimits(Limits):
    """Thresholds of `nan_inf`."""

    values: int = Field(
        1, ge=1, description="NaN and infinite values of a layer in a batch, from which on it counts"
    )


@rule(
    name="NaN or infinity",
    level="error",
    limits=NanInfLimits,
    looks_at="the numbers of NaN, +inf and -inf of every layer in every batch",
    needs="a batch",
    why="From there on nothing that the network says or learns means anything.",
    remedy="Look at what {layer} computes there: a division by 0, the logarithm or the root of 0 or less, "
    "an overflow. Lower the learning rate or clip gradients if its values grew before; check its inputs if "
    "they did not.",
    source="Amazon SageMaker Debugger, rule ExplodingTensor: any NaN or infinity.",
)
def nan_inf(facts: Facts, limits: NanInfLimits) -> list[Sign] | Lacking:
    """Find the layers that hold NaN or infinite values, and since when."""
    found = [_first_bad(facts, str(layer), limits) for layer in facts.layers.index]
    hit = sorted((each for each in found if each), key=lambda each: each[0])
    if [sign.layer for _, sign in hit] == ["input"] and len(facts.layers) > 1:
        return []  # values that are missing, and which the network copes with
    return [
        replace(sign, evidence=f"{sign.evidence}; {_before(facts, sign, place == 0)}")
        for place, (_, sign) in enumerate(hit)
    ]


def _first_bad(facts: Facts, layer: str, limits: NanInfLimits) -> tuple[tuple[int, int, int], Sign] | None:
    """Return the sign of a layer and when it was: batches trained before, splits that learn last, place."""
    found, has_weights = [], bool(facts.families.str.contains(HAS_WEIGHTS)[layer])
    for split, table in facts.rows.items():
        rows = table.sel(layer=layer)
        counts = {word: rows[name].values.astype(float) for name, word in _WORDS.items()}
        if not has_weights and _is_mask(rows):
            counts["-inf"] *= 0
        bad = np.sum([*counts.values()], axis=0)
        if not (bad >= limits.values).any():
            continue
        steps = span(rows.isel(step=bad >= limits.values))
        at = rows.sel(step=steps[0])
        first = int(np.searchsorted(rows["step"].values, steps[0]))
        held = ", ".join(f"{values[first]:,.0f} {word}" for word, values in counts.items() if values[first])
        evidence = (
            f"{held} among {int(at['n']):,} values at step {steps[0]:,} (epoch {int(at['epoch'])}), "
            f"and in {(bad >= limits.values).sum():,} of {bad.size:,} batches in all"
        )
        worst = float((bad / np.maximum(rows["n"].values, 1)).max())
        sign = Sign(layer, split, steps, worst, 0.0, evidence)
        found.append(((int(at["train_step"]), int(split == "train"), facts.order(layer)), sign))
    return min(found, key=lambda each: each[0]) if found else None


def _is_mask(rows: xr.Dataset) -> bool:
    """Tell whether -inf is there from the first batch on: a mask, as of the scores of attention."""
    called = rows["n"].values > 0
    return bool((rows["neg_inf"].values[called] > 0).all())


def _before(facts: Facts, sign: Sign, is_first: bool) -> str:
    """Say what came before: whether it was the first layer, and how large its values were."""
    rows = facts.rows[sign.split].sel(layer=sign.layer)
    place = int(np.searchsorted(rows["step"].values, sign.steps[0]))
    sizes = largest(rows)[: place + 1]
    sizes = sizes[np.isfinite(sizes)]
    words = "the first layer of the model in which it was seen" if is_first else "after other layers"
    # The input of a later model of several may be what an earlier one gave.
    if facts.families[sign.layer] == "input" and (is_first or sign.layer == "input"):
        words = "the data themselves hold it"
    if not sizes.size:
        return words
    grown = sizes[-1] > 100 * np.median(sizes) and sizes.size > 1
    size = f"its other values reached {sizes[-1]:.3g}"
    return f"{words}; {size}" + (f", up from {np.median(sizes):.3g} as usual before" if grown else "")


class SaturationLimits(Limits):
    """Thresholds of `saturation`."""

    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of saturated values from which on it counts, early in the training",
    )
    late: float = Field(0.85, gt=0, le=1, description="the same later on: learning saturates layers a little")
    early: float = Field(0.2, gt=0, le=1, description="share of the batches that counts as early")
    output: float = Field(
        0.02,
        gt=0,
        le=1,
        description="the same for outputs, and for softmax where something is learned: later they are sure",
    )


@rule(
    name="Saturation",
    level="warning",
    limits=SaturationLimits,
    looks_at="the share of values of tanh, sigmoid and softmax at their ends, where the slope is below 0.03",
    needs="10 batches",
    why="Where an activation is flat no gradient passes: what lies before it learns slowly or not at all.",
    remedy="Make what enters {layer} smaller: normalise the inputs, begin with Xavier initialisation, put a "
    "normalisation in front of it (attention: divide the scores by the root of the width), lower the "
    "learning rate.",
    source="Amazon SageMaker Debugger, rule SaturatedActivation: half of a layer; TheDeepChecker: 0.85 of "
    "its own measure; Glorot & Bengio 2010 on where it comes from.",
)
def saturation(facts: Facts, limits: SaturationLimits) -> list[Sign] | Lacking:
    """Find activations most values of which lie at their ends."""
    kind = facts.families
    layers = [str(layer) for layer in kind.index[kind.isin(_ENDS) | kind.str.contains(_SOFTMAX)]]
    known = {layer: rows for layer in layers if (rows := layer_rows(facts, layer)) is not None}
    if layers and not known:
        return Lacking(NO_ROWS)
    signs = [_saturated(facts, layer, split, rows, limits) for layer, (split, rows) in known.items()]
    return [sign for sign in signs if sign]


def _saturated(
    facts: Facts, layer: str, split: str, rows: xr.Dataset, limits: SaturationLimits
) -> Sign | None:
    """Measure a layer."""
    if float(rows["min"].min()) < -1.001 or float(rows["max"].max()) > 1.001:
        return None  # the state of an LSTM, other ends
    ends = _ENDS.get(facts.families[layer])
    if ends is None:
        # The mean of a softmax is one over the number of its members.
        share, what = (
            rows["high"] / rows["n"] / np.maximum(rows["mean"], 1e-9),
            "of all times one member takes it all",
        )
    else:
        share, what = sum(rows[name] for name in ends) / rows["n"], "of its values lie at its ends"
    first, value = since(share.values >= limits.share), float(late(share.values).mean())
    if first is None:
        return None
    # Outputs become sure of their answers, and attention of where to look.
    is_output = _is_output(facts, layer) or (ends is None and _learns(facts))
    is_early = first <= share.size * (limits.output if is_output else limits.early)
    limit = limits.share if is_early else limits.late
    # Outputs that are sure, and yet wrong, do not learn.
    is_stuck = facts.loss("train") is not None and facts.targets in (None, "float") and not _learns(facts)
    if value < limit or (is_output and not is_early and not is_stuck):
        return None
    evidence = (
        f"{100 * value:.0f} % {what} in the last batches, {100 * float(share[0]):.0f} % in the first one; "
        f"{100 * limits.share:g} % and more since step {int(rows['step'][first]):,}"
    )
    return Sign(layer, split, span(rows, first), value, limit, evidence)


def _learns(facts: Facts) -> bool:
    """Tell whether the loss has fallen by half, or the classes are told apart."""
    loss = facts.loss("train")
    if loss is not None:
        return bool(np.median(late(loss)) < np.median(loss[: late(loss).size]) / 2)
    if isinstance(facts.answers, Lacking):
        return False
    auc = trained(facts.answers, "train")["mean_auc"].values
    return bool(auc.size) and bool(auc[-1] >= 0.9)


def _is_output(facts: Facts, layer: str) -> bool:
    """Tell whether a layer is the head, or no layer with weights comes after it."""
    after = facts.families.iloc[list(facts.layers.index).index(layer) + 1 :]
    return layer == facts.head or not after.str.contains(HAS_WEIGHTS).any()
