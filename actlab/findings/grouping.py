"""What belongs together is told together: one cause, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from actlab.findings.facts import Facts
from actlab.findings.finding import LEVELS, Finding

__all__ = ["CAUSES", "group", "merge", "train_step"]

_START: Final = ("input_normalisation", "bad_initialisation")
_UNREST: Final = (*_START, "lr_too_high", "rise_and_collapse", "exploding", "spike")
_BROKEN: Final = (*_UNREST, "nan_inf")
_SILENT: Final = (*_BROKEN, "dead_relu", "dying_channels", "saturation", "vanishing")
_SICK: Final = (*_SILENT, "collapsed_representation", "dormant_channels", "frozen_layer")

CAUSES: Final[dict[str, tuple[str, ...]]] = {
    "lr_too_high": _START,
    "rise_and_collapse": _UNREST[:3],
    "exploding": _UNREST[:4],
    "spike": _UNREST[:5],
    "fp16_overflow": _UNREST,
    "nan_inf": (*_UNREST, "fp16_overflow"),
    "out_of_view": (*_BROKEN, "fp16_overflow"),
    "saturation": _UNREST,
    "dead_relu": _BROKEN,
    "dying_channels": (*_BROKEN, "dead_relu"),
    "vanishing": (*_BROKEN, "dead_relu", "dying_channels", "saturation"),
    "dormant_channels": _SILENT,
    "fp16_underflow": (*_SILENT, "dormant_channels"),
    "collapsed_representation": (*_SILENT, "dormant_channels"),
    "frozen_layer": (*_SILENT, "collapsed_representation"),
    "overfit": ("input_normalisation", "spike", "distribution_shift"),
    "no_class_separation": (*_SICK, "overfit"),
    "no_yes_ratio": (*_SICK, "no_class_separation", "distribution_shift"),
    "class_never_yes": (*_SICK, "no_class_separation", "no_yes_ratio"),
    "distribution_shift": _BROKEN,
}
"""For each rule those that can bring it about, the deepest cause first."""

_ANYWHERE: Final = {"lr_too_high", "exploding", "nan_inf", "rise_and_collapse", "spike", "bad_initialisation"}
"""Causes that reach every layer through the gradients; others act on the layers behind them."""

_OUTCOMES: Final = {"overfit", "no_class_separation", "no_yes_ratio", "distribution_shift"}
"""What a training comes to: judged by its last epochs, whenever it began."""

_SLACK: Final = 10
"""Training steps by which a cause may seem to begin later than what it brings about."""


def merge(findings: Sequence[Finding], facts: Facts) -> list[Finding]:
    """Make one finding of all that one rule saw, but for odd batches, where each is one of its own.

    Parameters
    ----------
    findings : sequence of Finding
        Of one rule, each of one layer.
    facts : Facts
        The run.

    Returns
    -------
    list of Finding
        The first one, in time and in the model's order, with the layers of all and the others as followers.
    """
    parts: dict[object, list[Finding]] = {}
    for finding in sorted(findings, key=lambda each: _begin(each, facts)):
        key = (finding.split, finding.steps[0]) if finding.rule == "spike" else finding.rule
        parts.setdefault(key, []).append(finding)
    merged = []
    for first, *others in parts.values():
        layers = dict.fromkeys(layer for each in (first, *others) for layer in each.layers)
        elsewhere = tuple(each for each in others if each.layers != first.layers)
        merged.append(replace(first, layers=tuple(layers), followers=elsewhere))
    return merged


def group(findings: Iterable[Finding], facts: Facts) -> list[Finding]:
    """Put findings under their causes; the worst groups come first, of equals the earliest.

    A finding joins the deepest cause in `CAUSES` that began no later and reaches its layers.

    Parameters
    ----------
    findings : iterable of Finding
        What `merge` returned, of all rules.
    facts : Facts
        The run.
    """
    known = sorted(findings, key=lambda each: _begin(each, facts))
    above: dict[int, int] = {}
    for number, finding in enumerate(known):
        fitting = [
            (CAUSES[finding.rule].index(cause.rule), place)
            for place, cause in enumerate(known)
            if cause.rule in CAUSES.get(finding.rule, ()) and _explains(cause, finding, facts)
        ]
        if fitting:
            above[number] = min(fitting)[1]
    roots = [number for number in range(len(known)) if number not in above]
    children = {number: [each for each in above if above[each] == number] for number in range(len(known))}

    def whole(number: int) -> Finding:
        below = tuple(whole(child) for child in children[number])
        return replace(known[number], followers=(*known[number].followers, *below))

    groups = [whole(number) for number in roots]
    return sorted(groups, key=lambda each: (LEVELS.index(each.worst), *_begin(each, facts)))


def train_step(finding: Finding, facts: Facts) -> int:
    """Return how many training batches were completed before the first row a finding speaks of."""
    rows = facts.rows[finding.split]
    place = min(int(np.searchsorted(rows["step"].values, finding.steps[0])), rows.sizes["step"] - 1)
    return int(rows["train_step"].values[place])


def _begin(finding: Finding, facts: Facts) -> tuple[int, int]:
    """Return when and where a finding begins, to sort by."""
    return train_step(finding, facts), facts.order(finding.layers[0])


def _explains(cause: Finding, effect: Finding, facts: Facts) -> bool:
    """Tell whether a finding can have brought another one about: it was there, and reaches its layers."""
    is_judged_at_the_end = cause.rule in _OUTCOMES
    if train_step(cause, facts) > train_step(effect, facts) + _SLACK and not is_judged_at_the_end:
        return False
    first = min(map(facts.order, cause.layers))
    return cause.rule in _ANYWHERE or first <= max(map(facts.order, effect.layers))
