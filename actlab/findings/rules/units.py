"""Rules about units: those that are dead, that died, and that hardly say anything."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule
from actlab.findings.rules.layers import HAS_WEIGHTS, IS_NORM, late, layer_rows, span
from actlab.findings.spans import since

__all__ = ["dead_relu", "dormant_channels", "dying_channels"]

_RECTIFIERS: Final = frozenset({"relu", "relu6", "threshold"})
_ACTIVATIONS: Final = _RECTIFIERS | frozenset(
    {"leakyrelu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "softplus"}
    | {"tanh", "hardtanh", "softsign", "tanhshrink", "softshrink", "hardshrink"}
)
_POOLS: Final = r"(?:adaptive)?(?:max|avg|lp)pool"
# What they give 0 for is the data, chance, or a mask.
_NO_RECTIFIERS: Final = (
    r"input|(?:un)?flatten|identity|embedding|soft|gumbel|.*sigmoid|multihead|rnn|lstm|gru"
    rf"|.*dropout|{_POOLS}|.*pad|upsample|fold|unfold"
)

_LEAST_CASES: Final = 32  # values of a unit below which nothing is said of it
_END, _LEAST_ENDS = 0.6, 3  # part of the training from which on units count as dormant, and its rows
_CHANCE: Final = 0.01  # of a silence that is none
_LEAST_UNITS: Final = 8  # of a layer below which a share of them says little
_NO_UNITS: Final = (
    "needs counts of each unit (kept for layers of up to 8,192 units, every 32 batches) from the second half "
    "of the training"
)


class _Units(NamedTuple):
    """The units of a layer in all rows of all splits that have them, in order.

    done [row]: batches of training before it; progress [row]: the same as a share of the training, 1 where
    nothing was trained; n, zeros, mean_abs [row, unit].
    """

    done: NDArray[np.int64]
    progress: NDArray[np.float64]
    n: NDArray[np.float64]
    zeros: NDArray[np.float64]
    mean_abs: NDArray[np.float64]

    @property
    def is_late(self) -> NDArray[np.bool_]:
        """Tell which rows lie in the second half of the training."""
        return self.progress >= 0.5

    @property
    def has_both_ends(self) -> bool:
        """Tell whether there are rows both in the first half and in the last third of the training."""
        return bool((self.progress < 0.5).any() and (self.progress >= 2 / 3).any())

    def zero_share(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the share of zeros [unit] of some rows together; NaN where they hold too few values."""
        zeros, n = self.zeros[chosen].sum(axis=0), self.n[chosen].sum(axis=0)
        return np.where(n >= _LEAST_CASES, zeros / np.maximum(n, 1), np.nan)


def _units(facts: Facts, layer: str) -> _Units | None:
    """Return the units of a layer; None where there are none late in the training, or too few values."""
    parts: list[tuple[NDArray[np.float64], ...]] = []
    for split, table in facts.channels.items():
        own = table["layer"].values == layer
        values = [table[name].values[:, own].astype(float) for name in ("n", "zeros", "mean_abs")]
        called = values[0].all(axis=1) & own.any()
        rows = facts.rows[split]
        place = np.searchsorted(rows["step"].values, table["step"].values[called])
        place = place.clip(max=rows.sizes["step"] - 1)  # of a run that grew since its rows were read
        if called.any() and (not parts or values[0].shape[1] == parts[0][1].shape[1]):
            parts.append((rows["train_step"].values[place], *(each[called] for each in values)))
    if not parts:
        return None
    done, *arrays = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(done, kind="stable")
    end = max(int(rows["train_step"].values[-1]) for rows in facts.rows.values())
    progress = done[order] / end if end else np.ones(done.size)
    units = _Units(done[order], progress, *(each[order] for each in arrays))
    return None if np.isnan(units.zero_share(units.is_late)).any() else units


def _rectifiers(facts: Facts) -> list[str]:
    """Return the layers that give 0 for all of one side; a pool tells of a ReLU that is no layer."""
    kind = facts.families
    known = kind.isin(_RECTIFIERS)
    tables = facts.rows.values()
    lowest = np.fmin.reduce([table["min"].min("step").sel(layer=kind.index).values for table in tables])
    zeros = np.any([table["zeros"].any("step").sel(layer=kind.index).values for table in tables], axis=0)
    has_weights = kind.str.contains(HAS_WEIGHTS)
    seems = (lowest >= 0) & zeros & has_weights.cummax()
    found = known | (seems & ~has_weights & ~kind.str.match(_NO_RECTIFIERS))
    return [*kind.index[found if found.any() else seems & kind.str.match(_POOLS)]]


class DeadReluLimits(Limits):
    """Thresholds of `dead_relu`."""

    inactive: float = Field(0.99, gt=0, lt=1, description="share of zeros from which on a unit is inactive")
    units: float = Field(0.7, gt=0, lt=1, description="share of inactive units above which a layer is dead")


@rule(
    name="Dead ReLU",
    level="error",
    limits=DeadReluLimits,
    looks_at="the share of zeros of every unit of a ReLU, over the second half of the training",
    needs="counts of each unit from the second half of the training, or a layer that gives almost only 0",
    why="A unit that gives 0 for every sample gets no gradient: it does not learn again.",
    remedy="Lower the learning rate of what feeds {layer}, or warm it up; begin with He initialisation and "
    "biases of 0; put a normalisation in front of {layer}, or make it a LeakyReLU.",
    source="Amazon SageMaker Debugger, rule DeadRelu: a unit active in less than 1 % of cases is inactive. "
    "It fires at 50 % of inactive units; ours at 70 %, as dense layers that learn well with Adam lose up to "
    "60 % at once.",
)
def dead_relu(facts: Facts, limits: DeadReluLimits) -> list[Sign] | Lacking:
    """Find ReLUs most units of which give 0 for almost every sample."""
    layers = _rectifiers(facts)
    units = {layer: _units(facts, layer) for layer in layers}
    signs = [
        _silent(facts, layer, limits) if found is None else _dead(facts, layer, found, limits)
        for layer, found in units.items()
    ]
    found = [sign for sign in signs if sign]
    return found if found or not layers or any(units.values()) else Lacking(_NO_UNITS)


def _dead(facts: Facts, layer: str, units: _Units, limits: DeadReluLimits) -> Sign | None:
    """Tell dead units from resting ones by their own zeros."""
    inactive = units.zero_share(units.is_late) >= limits.inactive
    value, size = float(inactive.mean()), inactive.size
    # Of few units most are easily inactive; outputs that are, all of them, answer nothing.
    if value <= limits.units or (size < _LEAST_UNITS and not (layer == facts.head and value == 1)):
        return None
    shares = (units.zeros >= limits.inactive * units.n).mean(axis=1)
    split, steps, when = _steps(facts, layer, units, shares > limits.units)
    evidence = (
        f"{inactive.sum():,} of {size:,} units gave 0 in at least {100 * limits.inactive:g} % of cases "
        f"in the second half of the training, since {when}"
    )
    return Sign(layer, split, steps, value, limits.units, evidence)


def _silent(facts: Facts, layer: str, limits: DeadReluLimits) -> Sign | None:
    """Tell, without units, that so few values are not 0 that most units must be inactive."""
    known = layer_rows(facts, layer)
    if known is None:
        return None
    split, rows = known
    active = 1 - (rows["zeros"] / rows["n"]).values
    # As many values would not be 0 if all the other units were just active enough.
    value = 1 - float(late(active).mean()) / (1 - limits.inactive)
    first = since(1 - active / (1 - limits.inactive) > limits.units)
    if value <= limits.units or first is None:
        return None
    evidence = (
        f"{100 * late(active).mean():.2g} % of its last values were not 0, so that at least "
        f"{100 * value:.0f} % of its units are inactive, since step {rows['step'].values[first]:,}"
    )
    return Sign(layer, split, span(rows, first), value, limits.units, evidence)


def _steps(
    facts: Facts, layer: str, units: _Units, holds: NDArray[np.bool_], *, by_zeros: bool = True
) -> tuple[str, tuple[int, int], str]:
    """Return the split, the first step since when something holds and the last, and the first in words.

    Rows with units are far apart; in between the layer's share of zeros says from where on it was as later.
    """
    known = layer_rows(facts, layer, 1)
    assert known is not None, layer
    split, rows = known
    done = rows["train_step"].values
    first = since(holds)
    place = int(np.argmax(units.is_late)) if first is None else first
    before, at = np.searchsorted(done, units.done[[max(place - 1, 0), place]]).clip(max=done.size - 1)
    share = (rows["zeros"] / rows["n"]).values[before : at + 1]
    if by_zeros and share[-1] > share[0]:
        at = before + int(np.flatnonzero(share < (share[0] + share[-1]) / 2)[-1]) + 1
    steps = span(rows, int(at))
    return split, steps, f"step {steps[0]:,} (epoch {int(rows['epoch'].values[at])})"


class DyingChannelsLimits(Limits):
    """Thresholds of `dying_channels`."""

    inactive: float = Field(0.99, gt=0, lt=1, description="share of zeros below which a unit was alive")
    units: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="share of units from which on it is too many, if they die while it learns",
    )
    at_once: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="the same if they die in the first steps, for units with several values a sample",
    )


@rule(
    name="Dying channels",
    level="warning",
    limits=DyingChannelsLimits,
    looks_at="units of a ReLU that were active in the first half of the training and give only 0 in its "
    "last third",
    needs="counts of each unit from the first half and from the last third of the training",
    why="Units that die while the network learns are lost for good: it works with fewer than it has.",
    remedy="Lower the learning rate or the momentum of what feeds {layer}, or clip its gradients; make "
    "{layer} a LeakyReLU; weaken penalties on the weights and scales in front of it.",
    source="Lu et al., arXiv 1903.06733, on dying ReLUs; the limits are ours: trainings that go well lose "
    "up to 6 % of the units after the first tenth of their steps, and up to 30 % of those of convolutions "
    "in all.",
)
def dying_channels(facts: Facts, limits: DyingChannelsLimits) -> list[Sign] | Lacking:
    """Find layers that lose units while they train."""
    layers = _rectifiers(facts)
    known = {layer: units for layer in layers if (units := _units(facts, layer)) and units.has_both_ends}
    if layers and not known:
        return Lacking(
            "needs counts of each unit from the first half and from the last third of the training"
        )
    signs = [_died(facts, layer, units, limits) for layer, units in known.items()]
    return [sign for sign in signs if sign]


def _died(facts: Facts, layer: str, units: _Units, limits: DyingChannelsLimits) -> Sign | None:
    """Count the units that died."""
    progress = units.progress
    late_rows = progress >= 2 / 3
    is_silent, n = units.zero_share(late_rows) == 1, units.n[late_rows].sum(axis=0)
    # What dies in the first steps is much the same in trainings that go well, in dense layers above all.
    learnt, first = (progress >= 0.1) & (progress < 0.5), (units.done == units.done[0]) & (progress < 0.5)
    options = [(learnt, limits.units)]
    if len(facts.layers["shape"][layer]) > 2:
        options.append((first, limits.at_once))
    for rows, limit in options:
        before = units.zero_share(rows)
        # A unit that is seldom active is silent for a while by chance.
        died = is_silent & (before < limits.inactive) & (before**n < _CHANCE)
        value, size = float(died.mean()), died.size
        if value >= limit and size >= _LEAST_UNITS:
            gone = (units.zeros == units.n)[:, died].mean(axis=1)
            split, steps, when = _steps(facts, layer, units, gone >= 0.5)
            evidence = (
                f"{died.sum():,} of {size:,} units were active in the first half of the training and gave "
                f"only 0 in its last third; half of them were gone at {when}"
            )
            return Sign(layer, split, steps, value, limit, evidence)
    return None


class DormantChannelsLimits(Limits):
    """Thresholds of `dormant_channels`."""

    size: float = Field(
        0.025, gt=0, lt=1, description="mean |a| of a dormant unit, divided by that of its layer, at most"
    )
    units: float = Field(0.25, gt=0, lt=1, description="share of dormant units from which on it is too many")


@rule(
    name="Dormant channels",
    level="warning",
    limits=DormantChannelsLimits,
    looks_at="the mean size of the values of every unit against that of its layer, in the second half of "
    "the training",
    needs="counts of each unit from the second half of the training",
    why="Units that hardly say anything take no part in what the network does: it is smaller than it looks.",
    remedy="Initialise the dormant units of {layer} anew (ReDo), weaken weight decay or penalties on them, "
    "lower the learning rate, or make the layer narrower.",
    source="Sokar et al., arXiv 2302.12902: a unit is dormant if its mean |a| is at most 0.025 of its "
    "layer's (the value of their code); the share of units is ours.",
)
def dormant_channels(facts: Facts, limits: DormantChannelsLimits) -> list[Sign] | Lacking:
    """Find layers many units of which are much weaker than the others."""
    units = {layer: _units(facts, layer) for layer in _speaking(facts)}
    if units and not any(units.values()):
        return Lacking(_NO_UNITS)
    rectifiers = set(_rectifiers(facts))
    signs = [
        _dormant(facts, layer, found, limits, is_rectifier=layer in rectifiers)
        for layer, found in units.items()
        if found is not None
    ]
    return [sign for sign in signs if sign]


def _speaking(facts: Facts) -> list[str]:
    """Return layers that speak for themselves.

    Those are activations, layers with weights that neither an activation nor a normalisation follows, and
    modules of one's own that change the units of the layer before them one by one.
    """
    kind, shape = facts.families, facts.layers["shape"].astype(str)
    is_activation = kind.isin(_ACTIVATIONS)
    is_own = ~kind.str.match(_NO_RECTIFIERS) & ~kind.str.contains(HAS_WEIGHTS) & (shape == shape.shift())
    follows = (is_activation | kind.str.contains(IS_NORM)).shift(-1, fill_value=False)
    weighs = kind.str.match("linear|conv|embedding") & ~follows & (kind.index != facts.head)
    return [*kind.index[is_activation | weighs | is_own]]


def _dormant(
    facts: Facts, layer: str, units: _Units, limits: DormantChannelsLimits, *, is_rectifier: bool
) -> Sign | None:
    """Count the dormant units."""
    size = units.mean_abs
    # A few units that are much larger than all others do not make those dormant.
    typical = np.minimum(size.mean(axis=1), np.quantile(size, 0.9, axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = size / typical[:, None]
    lasting = (units.progress >= _END) & (typical > 0)
    if lasting.sum() < _LEAST_ENDS:
        lasting = units.is_late & (typical > 0)
    if not lasting.any() or size.shape[1] < _LEAST_UNITS:
        return None
    dormant = (ratio[lasting] <= limits.size).mean(axis=0) >= 0.9
    if is_rectifier:  # those that are 0 throughout are dead
        dormant &= units.zero_share(units.is_late) < 1
    value = float(dormant.mean())
    if value < limits.units:
        return None
    shares = (ratio[:, dormant] <= limits.size).sum(axis=1) / dormant.size
    split, steps, when = _steps(facts, layer, units, shares >= limits.units, by_zeros=False)
    strength = float(np.mean(ratio[lasting][:, dormant]))
    evidence = (
        f"{dormant.sum():,} of {dormant.size:,} units had at most {limits.size:g} of the layer's mean |a| in "
        f"the second half of the training ({strength:.2g} on average), since {when}"
    )
    return Sign(layer, split, steps, value, limits.units, evidence)
