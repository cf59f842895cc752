"""Rules about half precision: values that it cannot hold."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule
from actlab.findings.rules.layers import NO_ROWS, broken, largest, late, layer_rows, span
from actlab.findings.spans import since

__all__ = ["fp16_overflow", "fp16_underflow"]

_LARGEST: Final = float(np.finfo(np.float16).max)
_WHOLE: Final = 2048  # up to here float16 holds all whole numbers
_FAR_FROM_FLOAT32: Final = 1e12
_SOON: Final = 3  # rows between a value too large and the first that is not finite
_NEARLY: Final = 0.1  # share of subnormal numbers, of those that are not 0
_LEAST_ENDS: Final = 3  # extremes of a layer that tell that it is computed in float16
# Tiny values are what these are meant to give.
_TAILS: Final = r"gelu|silu|mish|softplus|elu|selu|celu|\w*sigmoid|\w*softm\w*|rnn\w*|lstm\w*|gru\w*"


class Fp16OverflowLimits(Limits):
    """Thresholds of `fp16_overflow`."""

    largest: float = Field(
        32752.0, gt=0, description="size from which on a value is close to the largest of float16"
    )
    share: float = Field(
        0.05, gt=0, le=1, description="share of the batches that hold such a value, at least"
    )


@rule(
    name="Overflow of float16",
    level="warning",
    limits=Fp16OverflowLimits,
    looks_at="the largest value of every layer in every batch",
    needs="a batch",
    why="What is larger than 65,504 is infinite in half precision, and makes the loss NaN a little later.",
    remedy="Compute {layer} in bfloat16 or float32, scale down what enters it, or put a normalisation in "
    "front of it.",
    source="The largest float16 is 65,504; half of it as the margin is ours (Hugging Face's debug_utils "
    "show 62.7 K one step before inf).",
)
def fp16_overflow(facts: Facts, limits: Fp16OverflowLimits) -> list[Sign] | Lacking:
    """Find layers whose values come close to what half precision can hold."""
    half = _half(facts)
    signs = []
    for layer in map(str, facts.layers.index):
        known = layer_rows(facts, layer, 1)
        # Inputs and the answers of a regression have the scale of the data, whatever the network does.
        is_data = facts.families[layer] == "input" or (
            layer == facts.head and facts.targets in ("float", None)
        )
        if known is None or (is_data and layer not in half):
            continue
        split, rows = known
        size = largest(rows)
        infinite = (rows["pos_inf"] + rows["neg_inf"]).values > 0
        hit = np.flatnonzero(size >= limits.largest)
        n_finite = int(np.isfinite(size).sum())
        if hit.size >= max(3, limits.share * n_finite) or (layer in half and _breaks(rows, hit)):
            evidence = (
                f"values of up to {np.nanmax(size):,.5g} in size, and at least {limits.largest:,.5g} in "
                f"{hit.size:,} of {n_finite:,} batches; float16 ends at {_LARGEST:,.0f}"
            )
            if layer in half:
                evidence += f"; the layer is computed in float16, {infinite.sum():,} batches held infinities"
            steps = int(rows["step"][hit[0]]), int(rows["step"][hit[-1]])
            signs.append(Sign(layer, split, steps, float(np.nanmax(size)), limits.largest, evidence))
        elif (made := _made_infinite(facts, layer, is_half=layer in half)) is not None:
            split, steps, n = made
            evidence = (
                f"{n:,} values were infinite or NaN in step {steps[0]:,}, where all layers before were "
                f"finite, which float32 would hold; float16 ends at {_LARGEST:,.0f}"
            )
            signs.append(Sign(layer, split, steps, np.inf, limits.largest, evidence))
    return signs


def _made_infinite(facts: Facts, layer: str, *, is_half: bool) -> tuple[str, tuple[int, int], int] | None:
    """Return where a layer makes infinities, or at once NaN, of finite values: split, steps, how many.

    Of a layer that is not known to be computed in float16 only what float32 cannot make: infinities of
    initial weights and inputs that are far from its end.
    """
    place, weighs = facts.order(layer), bool(re.match("linear|conv", facts.families[layer]))
    for split, rows in facts.rows.items():
        own, is_first = rows.isel(layer=place), rows["train_step"].values == 0
        infinite = (own["pos_inf"] + own["neg_inf"] + own["nan"] * is_first).values
        # A mask gives negative infinities, and all after it stays finite.
        goes_on = broken(rows.isel(layer=slice(place + 1, None))).any(axis=1)
        is_mask = (own["neg_inf"].values == infinite) & ~goes_on
        hit = np.flatnonzero((infinite > 0) & ~is_mask)
        before = rows.isel(step=hit, layer=slice(place))
        is_far = np.nan_to_num(largest(before)).max(axis=1, initial=0) < _FAR_FROM_FLOAT32
        is_made = (broken(before).sum(axis=1) == 0) & (is_half | (is_first[hit] & weighs & is_far))
        if is_made.any():
            made = hit[is_made]
            steps = rows["step"].values[made]
            return split, (int(steps[0]), int(steps[-1])), int(infinite[made[0]])
    return None


def _breaks(rows: xr.Dataset, hit: NDArray[np.int64]) -> bool:
    """Tell whether values are no longer finite in, or soon after, one of the rows that were hit."""
    lost = np.flatnonzero(broken(rows))
    return bool(lost.size) and bool(((hit <= lost[0]) & (hit >= lost[0] - _SOON)).any())


def _half(facts: Facts) -> set[str]:
    """Return the layers that are computed in float16: all their extremes are such numbers.

    Few or no extremes of a layer tell nothing, unless those of all that autocast chooses together do.
    """
    telling: dict[str, int] = {}
    is_finer = False  # than bfloat16, whose numbers of usual size are all in float16
    cast = facts.layers.index[facts.families.str.match("linear|conv")]
    extremes = [table[name].values for table in facts.rows.values() for name in ("min", "max")]
    for layer in map(str, facts.layers.index):
        place = facts.order(layer)
        ends = np.unique(np.concatenate([values[:, place] for values in extremes]))
        ends = ends[np.isfinite(ends) & (ends != 0)]
        if layer not in cast:  # small whole numbers, such as codes, are float16 by chance
            ends = ends[(ends != np.round(ends)) | (np.abs(ends) > _WHOLE)]
        if (ends.clip(-_LARGEST, _LARGEST).astype(np.float16) == ends).all():
            telling[layer] = ends.size
            is_finer |= bool((ends.astype(np.float32).view(np.uint32) & 0xFFFF).any())
    inner = facts.layers.index[facts.families != "input"]
    is_whole = any(
        all(layer in telling for layer in layers) and sum(telling[layer] for layer in layers) >= _LEAST_ENDS
        for layers in (inner, cast)
    )
    found = {layer for layer, n in telling.items() if n >= _LEAST_ENDS}
    return set(telling) if (found or is_whole) and is_finer else set()


class Fp16UnderflowLimits(Limits):
    """Thresholds of `fp16_underflow`."""

    share: float = Field(
        0.1, gt=0, le=1, description="share of the values that are not 0 which float16 cannot hold"
    )


@rule(
    name="Underflow of float16",
    level="warning",
    limits=Fp16UnderflowLimits,
    looks_at="the share of values below 2^-24 in size, of those that are not 0; in layers computed in "
    "float16 that of zeros, where many others are below 2^-14",
    needs="10 batches, recorded with buckets down to 2^-24",
    why="In half precision these values are 0: what they carry is lost, forward and backward.",
    remedy="Scale up what enters {layer}, put a normalisation in front of it, or compute it in bfloat16; "
    "scale the loss (`torch.amp.GradScaler`).",
    source="Micikevicius et al., arXiv 1710.03740: values below 2^-24 (5.96e-8) become 0; the share is ours.",
)
def fp16_underflow(facts: Facts, limits: Fp16UnderflowLimits) -> list[Sign] | Lacking:
    """Find layers whose values half precision would lose."""
    if facts.run.axis.min_exponent > -24:
        return Lacking(f"needs buckets down to 2^-24 (they end at 2^{facts.run.axis.min_exponent})")
    kind, half = facts.families, _half(facts)
    left_out = kind.str.fullmatch(_TAILS + ("" if half else "|input"))
    known = {str(layer): layer_rows(facts, str(layer)) for layer in kind.index[~left_out]}
    if not any(known.values()):
        return Lacking(NO_ROWS)
    signs = []
    for layer, found in known.items():
        if found is None:
            continue
        split, rows = found
        is_half = layer in half
        share = _lost(rows, is_half=is_half)
        value, first = float(late(share).mean()), since(share >= limits.share)
        if first is None or value < limits.share:
            continue
        what = "became 0 in float16" if is_half else "that are not 0 are smaller than 2^-24"
        step = int(rows["step"][first])
        evidence = f"{100 * value:.3g} % of the values {what} in the last batches, since step {step:,}"
        signs.append(Sign(layer, split, span(rows, first), value, limits.share, evidence))
    return signs


def _lost(rows: xr.Dataset, *, is_half: bool) -> NDArray[np.float64]:
    """Return the share of values [row] that are too small, or were: those are 0 by now."""
    held = rows["n"].values - broken(rows)
    zeros, subnormal = rows["zeros"].values, rows["subnormal"].values
    if is_half:
        # Where many of the others nearly became 0, those that are 0 did; else something else made them.
        lost = np.where(subnormal > _NEARLY * (held - zeros), zeros, 0)
        share: NDArray[np.float64] = lost / np.maximum(held, 1)
    else:
        share = rows["tiny"].values / np.maximum(held - zeros, 1)
    return share
