"""The rule about answers that are the same for every sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule
from actlab.findings.rules.layers import LEAST_ROWS, late, layer_rows, span
from actlab.findings.rules.sizes import is_regression, sizes
from actlab.findings.spans import since

__all__ = ["collapsed_representation"]

_LEAST_SAMPLES: Final = 8  # of a batch, below which outputs agree by chance
_MOST_ROWS: Final = 256  # whose outputs are read
_MANY: Final = 8  # outputs that hardly share an offset
_CLOSE: Final = 0.3  # buckets for each sample and unit
_Known = dict[str, tuple[str, xr.Dataset]]  # of each layer the split, and its rows
_NOT_MADE: Final = r"input|embedding|.*dropout"  # what they give says nothing of the network


class CollapsedRepresentationLimits(Limits):
    """Thresholds of `collapsed_representation`."""

    spread: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="spread of the answers over samples, divided by their size, at most (root mean squares)",
    )
    regression: float = Field(
        0.0005,
        gt=0,
        lt=1,
        description="the same for float targets, which may lie far from 0 and close together",
    )
    many: float = Field(
        0.04,
        gt=0,
        lt=1,
        description="the same for 8 outputs and more that are no classes, such as pictures and embeddings",
    )
    same: float = Field(
        0.9,
        gt=0,
        le=1,
        description="share of the values of a layer that are the same for every sample, at least",
    )


@rule(
    name="Collapsed representation",
    level="error",
    limits=CollapsedRepresentationLimits,
    looks_at="how much the answers of the network differ between samples, and which layers give all samples "
    "the same",
    needs="10 batches of 8 samples, and the head: its outputs as they were, or counted",
    why="Whatever the network is shown, it says the same: nothing of the sample arrives at its end.",
    remedy="Look at what feeds {layer}, the first layer that is the same for all samples: dead units, "
    "saturation or a penalty that is too strong kill the signal there; lower the learning rate or weight "
    "decay, begin with He or Xavier initialisation, put a normalisation or a residual connection in; "
    "contrastive losses need negatives.",
    source="Chen & He, arXiv 2011.10566, watch the deviation of outputs over samples fall to 0; the limits "
    "are ours: answers of trainings that go well spread by 0.05 and more.",
)
def collapsed_representation(facts: Facts, limits: CollapsedRepresentationLimits) -> list[Sign] | Lacking:
    """Find networks that give every sample the same answer, and the layers in which the samples get lost."""
    head, tables = facts.head or "", [_rows_of_samples(facts, split) for split in facts.rows]
    tables = [table for table in tables if head in table]
    if not tables:
        return Lacking("needs 10 batches of at least 8 samples, and the head in them")
    # Train may hold noise, as dropout or that of a variational model, which evaluation does not.
    for known in tables:
        end = _answers(facts, head, *known[head], limits)
        if end is not None:
            return _collapsed(facts, known, end, limits)
        behind = [layer for layer in known if facts.order(layer) > facts.order(head)]
        if signs := [sign for layer in behind if (sign := _constant(layer, *known[layer]))]:
            return signs
    return []


def _constant(layer: str, split: str, rows: xr.Dataset) -> Sign | None:
    """Tell whether a layer behind the head gives one value whatever the answers, as a softmax of one unit."""
    first = since((rows["occupied"] == 1).values)
    if first is None or len(rows["step"]) - first < LEAST_ROWS:
        return None
    evidence = (
        f"all its values are {float(rows['mean'][-1]):.3g}, whatever the answers, since step "
        f"{int(rows['step'][first]):,}: a softmax needs an output for each class, one output a sigmoid"
    )
    return Sign(layer, split, span(rows, first), 1.0, 1.0, evidence)


def _collapsed(facts: Facts, known: _Known, end: Sign, limits: CollapsedRepresentationLimits) -> list[Sign]:
    """Tell the layers in which the samples get lost, and the head, of which it is known."""
    made = ~facts.families.str.match(_NOT_MADE)
    signs = [
        _same(layer, *found, limits) for layer, found in known.items() if layer != facts.head and made[layer]
    ]
    inputs = [
        _same(layer, *found, limits) for layer, found in known.items() if facts.families[layer] == "input"
    ]
    more = "; the inputs themselves are (nearly) the same" if any(inputs) else ""
    return [replace(sign, evidence=sign.evidence + more) for sign in (*signs, end) if sign]


def _rows_of_samples(facts: Facts, split: str) -> _Known:
    """Return the rows of a split, of layers whose batches are large enough and told apart into samples."""
    known = {str(layer): layer_rows(facts, str(layer), splits=[split]) for layer in facts.layers.index}
    return {
        layer: rows
        for layer, rows in known.items()
        if rows is not None and np.median(rows[1]["samples"].values) >= _LEAST_SAMPLES
    }


def _same(layer: str, split: str, rows: xr.Dataset, limits: CollapsedRepresentationLimits) -> Sign | None:
    """Tell whether a layer gives (nearly) the same for every sample, by its counts."""
    share = (rows["same"] / rows["n"]).values
    first, value = since(share >= limits.same), float(late(share).mean())
    if first is None or value < limits.same:
        return None
    step = int(rows["step"][first])
    evidence = (
        f"{100 * value:.0f} % of its values are the same for every sample of a batch, since step {step:,}"
    )
    return Sign(layer, split, span(rows, first), value, limits.same, evidence)


def _answers(
    facts: Facts, head: str, split: str, rows: xr.Dataset, limits: CollapsedRepresentationLimits
) -> Sign | None:
    """Tell whether the answers are (nearly) the same for every sample, by themselves if they were kept."""
    samples = np.maximum(rows["samples"].values, 1)
    per_sample = rows["n"].values / samples
    # Answers that are close to each other lie in few buckets: most trainings are told by that alone.
    if np.median(late(rows["occupied"].values / per_sample / samples)) > _CLOSE:
        return None
    limit = limits.regression if facts.targets == "float" else limits.spread
    if is_regression(facts) and per_sample.max() >= _MANY:
        limit = limits.many
    kept = _spread(facts, head, split, rows["step"].values)
    if kept is None and per_sample.max() > 1:
        return _same(head, split, rows, limits)
    if kept is None:  # of a single unit the deviation over its values is that over samples
        size = sizes(rows)
        kept = np.arange(size.size), rows["std"].values / np.maximum(size, np.finfo(float).tiny)
    place, spread = kept
    first, value = since(spread <= limit), float(np.median(late(spread)))
    if first is None or value > limit:
        return None
    steps = span(rows, int(place[first]))
    evidence = (
        f"the answers differ between samples by {value:.2g} of their size in the last batches, "
        f"by {spread[0]:.2g} in the first one; since step {steps[0]:,}"
    )
    return Sign(head, split, steps, value, limit, evidence)


def _spread(
    facts: Facts, head: str, split: str, steps: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Return places [place] of some rows, and the deviation over samples by their size [place]."""
    raw = facts.run.raw(split) if head == facts.run.head else None
    if raw is None or "head" not in raw:
        return None
    of_sample = raw["step"].values
    kept = np.flatnonzero(np.isin(steps, of_sample))
    if kept.size < _LEAST_SAMPLES:
        return None
    place = kept[np.unique(np.linspace(0, kept.size - 1, _MOST_ROWS).astype(int))]
    chosen = np.flatnonzero(np.isin(of_sample, steps[place]))
    values = raw["head"].isel(sample=chosen).values.reshape(chosen.size, -1).astype(np.float64)
    found = [_relative(values[of_sample[chosen] == step]) for step in steps[place]]
    return place, np.array(found)


def _relative(values: NDArray[np.float64]) -> float:
    """Return the deviation over samples of values [sample, unit] by their size."""
    with np.errstate(invalid="ignore"):
        size = float(np.sqrt((values**2).mean()))
        return float(np.sqrt(values.var(axis=0).mean())) / size if size else 0.0
