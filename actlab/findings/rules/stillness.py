"""The rule about frozen layers: those that answer the same data in the same way, epoch after epoch."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule
from actlab.findings.rules.layers import HAS_WEIGHTS, LEAST_ROWS

__all__ = ["frozen_layer"]

_LEARNS: Final = rf"{HAS_WEIGHTS}|prelu"

_LEAST_VALUES: Final = 500  # of an epoch; the histogram of fewer may stay the same by chance
_DEAD: Final = 0.99  # share of zeros, or of values that all samples share, from which no gradient passes
_ALIVE: Final = 0.01  # how far a layer has to have moved before, to have come to rest at once
_STUCK: Final = 0.5  # share of layers above which not they were frozen: the training is stuck
_LEAST_SAMPLES: Final = 8  # of a batch; fewer may share a value by chance

_ALL: Final = (
    "No layer learns: call `optimizer.step()`, give the optimizer the parameters of this very model, and a "
    "learning rate above 0; do not train under `torch.no_grad()` or on detached outputs."
)


class FrozenLayerLimits(Limits):
    """Thresholds of `frozen_layer`."""

    moved: float = Field(
        1e-5,
        ge=0,
        le=1,
        description="total variation distance of the histograms of two epochs up to which they are the same",
    )
    epochs: int = Field(2, ge=1, description="number of trained epochs in a row that change nothing")


@rule(
    name="Frozen layer",
    level="warning",
    limits=FrozenLayerLimits,
    looks_at="the histograms of layers with parameters over the same valid (or test) data, from epoch to "
    "epoch",
    needs="3 evaluations on the same data with training between them",
    why="The outputs for the same data do not change while the training goes on: the layer does not learn.",
    remedy="If {layer} is to learn: set `requires_grad` of its parameters, pass them to the optimizer (after "
    "the layer was made), and look for `detach()` or `no_grad()` on the way to the loss. If it is frozen on "
    "purpose, as in fine-tuning, all is well.",
    source="Identical histograms need no threshold; 1e-5 leaves room for rounding.",
)
def frozen_layer(facts: Facts, limits: FrozenLayerLimits) -> list[Sign] | Lacking:
    """Find layers that no training moves, up to the end."""
    if not facts.families.str.contains(_LEARNS).any():
        return Lacking("needs layers with parameters")
    for split in ("valid", "test"):
        if split in facts.epochs:
            trained = _trained(facts, split)
            if trained.size > limits.epochs:
                return _frozen(facts, split, trained, limits)
    return Lacking(f"needs {limits.epochs + 1} evaluations on the same data with training between them")


def _trained(facts: Facts, split: str) -> NDArray[np.int64]:
    """Return the places of the first epoch of a split, and of those with training before them."""
    rows, epochs = facts.rows[split], facts.epochs[split]
    first = np.searchsorted(rows["step"].values, epochs["first_step"].values)
    done = rows["train_step"].values[first]
    return np.flatnonzero(np.diff(done, prepend=-1) > 0)


def _frozen(facts: Facts, split: str, trained: NDArray[np.int64], limits: FrozenLayerLimits) -> list[Sign]:
    """Find the layers that stay the same in the last trained epochs."""
    kinds = facts.families
    layers = [*kinds.index[kinds.str.contains(_LEARNS)]]
    moved = facts.epochs[split]["moved"].sel(layer=layers).values[trained[1:]]
    still = np.cumprod(moved[::-1] <= limits.moved, axis=0).sum(axis=0)  # epochs in a row, up to the end
    moving = np.nan_to_num(moved[-limits.epochs :]).min(axis=0)
    learns_nothing = bool((still == len(moved)).all())
    if not learns_nothing and moving.max() <= limits.moved:
        return []  # what was learned is learned: the whole network came to rest
    sudden = np.array(
        [run == len(moved) or moved[-run - 1, place] >= _ALIVE for place, run in enumerate(still)]
    )
    is_found = (still >= limits.epochs) & sudden
    if not learns_nothing and (is_found & (still < len(moved))).mean() > _STUCK:
        return []  # stuck, most of it, after it moved: no matter of single layers
    enough = facts.latest[split].sel(layer=layers).sum("bucket").values >= _LEAST_VALUES
    blocked = -1 if learns_nothing else _last_dead(facts, split)
    fastest = int(moving.argmax())
    signs = []
    for place in np.flatnonzero(is_found & enough):
        if facts.order(layers[place]) < blocked:
            continue
        since = facts.epochs[split].isel(epoch=trained[-still[place]])
        last = int(facts.epochs[split]["last_step"].values[-1])
        beside = (
            "as in all other layers"
            if learns_nothing
            else f"while those of {layers[fastest]} moved by at "
            f"least {moving[fastest]:.2%} from epoch to epoch"
        )
        signs.append(
            Sign(
                layers[place],
                split,
                (int(since["first_step"]), last),
                float(np.max(moved[-still[place] :, place])),
                limits.moved,
                f"the outputs for the same {split} data have stayed the same through {still[place]} epochs "
                f"of training, since epoch {int(since['epoch'])} ({beside})",
                _ALL if learns_nothing else None,
            )
        )
    return signs


def _last_dead(facts: Facts, split: str) -> int:
    """Return the place in the model of the last layer that lets no gradient pass, -1 without one."""
    rows = facts.rows[split].isel(step=slice(-LEAST_ROWS, None))
    kinds = facts.families
    layers = [*kinds.index[~kinds.str.match("embedding|input")]]
    chosen = rows[["n", "zeros", "same", "samples"]].sel(layer=layers).sum("step")
    with np.errstate(invalid="ignore", divide="ignore"):
        is_dead = chosen["zeros"].values / chosen["n"].values >= _DEAD
        is_same = chosen["same"].values / chosen["n"].values >= _DEAD
    is_dead |= is_same & (rows["samples"].sel(layer=layers).max("step").values >= _LEAST_SAMPLES)
    return max((facts.order(layer) for layer, dead in zip(layers, is_dead, strict=True) if dead), default=-1)
