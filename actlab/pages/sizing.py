"""How many columns and slots fit into a page of a given size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.charts.paged import slot_axis, sum_totals
from actlab.charts.slotted import CURVES
from actlab.pages.payload import LEVELS, SERIES
from actlab.rebinning import Slots, octave
from actlab.run import Run

__all__ = ["LADDER", "MOST_BINS", "SINGLE", "Plan", "Rung", "coarser_rungs", "plan_page"]

MOST_BINS: Final = 4096
"""No screen has more rows, and memory is layers x columns x bins."""

SINGLE: Final = 0.06
"""Share of the page that single batches may take, where a column holds more than one."""

_WHOLE: Final = 2 * math.pi * math.e  # of the entropy of a normal distribution
_BASE64: Final = 4 / 3
_SERIES_BYTES: Final = 0.6  # of a number, deflated
_DEFLATED: Final = 1.45  # measured against that estimate of the entropy
_MOST_CELLS: Final = 4_000_000  # of a layer: what a browser unpacks without a halt
_SPARSE: Final = 8  # slots for each value
_OTHER_BYTES: Final = 1_750_000  # BokehJS, scripts, styles, Twin Peaks
_LAYER_BYTES: Final = 6_000  # a tile, a row of the table


class Rung(NamedTuple):
    """Slots of a layer, and how many columns go with them."""

    bits: int
    """Mantissa bits kept, at most those recorded."""
    depth: int | None
    """Slots are at least 2^-depth of the layer's octave wide; None for buckets as recorded."""
    most: int
    """Columns, at most."""
    fewest: int
    """Columns before the next rung is better."""


LADDER: Final = (
    Rung(7, None, 20_000, 600),
    Rung(7, 13, 700, 500),
    Rung(7, 11, 600, 420),
    Rung(7, 10, 450, 300),
    Rung(4, 9, 400, 250),
    Rung(4, 8, 300, 200),
    Rung(3, 7, 250, 150),
    Rung(3, 6, 200, 100),
    Rung(2, 5, 120, 40),
)
"""From the finest to the coarsest."""


@dataclass(frozen=True)
class Plan:
    """What a page holds of each layer.

    Parameters
    ----------
    k : int
        Batches per column.
    layouts : dict of str to Slots
        The slots of each layer.
    octaves : dict of str to int
        The octave of each layer.
    rung : int
        Which rung of `LADDER` that is.
    """

    k: int
    layouts: dict[str, Slots]
    octaves: dict[str, int]
    rung: int


def plan_page(run: Run, names: list[str], n_rows: int, n_epochs: int, most: int, size: float) -> Plan:
    """Find the finest slots, and with them the most columns, that will fit.

    Parameters
    ----------
    run : Run
        The run.
    names : list of str
        Layers of the page.
    n_rows, n_epochs : int
        Training batches and epochs of the page.
    most : int
        At most so many columns.
    size : float
        Bytes of the page.

    Returns
    -------
    Plan
        The coarsest one where none fits; the size is an estimate.
    """
    totals = sum_totals(run, names)
    layers = {name: (slot_axis(run, name), totals.sel(layer=name).values) for name in names}
    octaves = {name: octave(total, run.axis) for name, (_, total) in layers.items()}
    room = size - _OTHER_BYTES - _LAYER_BYTES * len(names)
    plan = None
    for number, rung in enumerate(LADDER):
        layouts = {name: _slots_on(rung, axis, octaves[name]) for name, (axis, _) in layers.items()}
        masses = [_masses(layouts[name], run.axis, total) for name, (_, total) in layers.items()]
        first = -(-n_rows // min(most, rung.most))
        last = max(first, -(-n_rows // min(most, rung.fewest)))
        for k in range(first, last + 1):
            n_columns = -(-n_rows // k)
            plan = Plan(k, layouts | _fine(run, n_columns, octaves), octaves, number)
            if sum(_layer_bytes(mass, n_columns, n_epochs) for mass in masses) <= room - SINGLE * size * (
                k > 1
            ):
                return plan
    assert plan is not None
    return plan


def coarser_rungs(number: int) -> list[tuple[int, int]]:
    """Return mantissa bits and depth of all that is coarser than a rung of `LADDER`, in small steps."""
    steps: list[tuple[int, int]] = []
    for finer, coarser in pairwise(LADDER[number:]):
        assert coarser.depth is not None
        if finer.depth is not None:
            steps += [(finer.bits, depth) for depth in range(finer.depth - 1, coarser.depth - 1, -1)]
        if finer.depth is None or coarser.bits < finer.bits:
            steps.append((coarser.bits, coarser.depth))
    return steps


def _fine(run: Run, n_columns: int, octaves: Mapping[str, int]) -> dict[str, Slots]:
    """Return slots so fine that few values of a head are cut by an edge, where it has few values a column.

    They are equally wide, and cost little: nearly all of them are empty.
    """
    head = run.head
    if head is None or head not in octaves or slot_axis(run, head) == run.axis:
        return {}
    most = _MOST_CELLS / n_columns
    if _SPARSE * int(run.totals("train").sel(layer=head).sum()) / n_columns > most:
        return {}
    axis, depth = slot_axis(run, head), math.floor(math.log2(most)) - 2
    return {head: Slots(axis, axis.mantissa_bits, min(octaves[head] - depth, axis.max_exponent - 1))}


def _slots_on(rung: Rung, axis: FloatAxis, octave_of: int) -> Slots:
    """Return the slots of a layer on a rung."""
    bits = min(rung.bits, axis.mantissa_bits)
    if rung.depth is None:
        return Slots(axis, bits, axis.min_exponent - bits)
    return Slots(axis, bits, min(octave_of - rung.depth, axis.max_exponent - 1))


def _masses(slots: Slots, axis: FloatAxis, total: NDArray[Any]) -> NDArray[np.float64]:
    """Return about how many values each slot in use holds [slot], given counts [bucket] on `axis`."""
    if slots.axis == axis:
        merged = slots.merge(total)[1:-2]
    else:  # finer than the buckets: each bucket has its share in the slots it was parted into
        finer = slots.axis.mantissa_bits - axis.mantissa_bits
        parts = np.full(slots.axis.n_buckets, 2.0**-finer)
        parts[[0, 1, slots.axis.zero - 1, slots.axis.zero, slots.axis.zero + 1, -3, -2, -1]] = 1
        middle = (slots.axis.lower + slots.axis.upper) / 2
        with np.errstate(invalid="ignore"):
            merged = slots.merge(total[axis.index(middle)] * parts)[1:-2]
    filled = np.flatnonzero(merged)
    return merged[filled[0] : filled[-1] + 1].astype(np.float64) if filled.size else np.zeros(1)


def _layer_bytes(mass: NDArray[np.float64], n_columns: int, n_epochs: int) -> float:
    """Estimate the packed bytes of a layer, given the values in each slot [slot]."""
    bits = n_columns * _entropy(mass / n_columns) + len(CURVES) * n_epochs * _entropy(mass / n_epochs)
    return _BASE64 * (_DEFLATED * bits / 8 + _SERIES_BYTES * len(SERIES) * n_columns)


def _entropy(expected: NDArray[np.float64]) -> float:
    """Estimate the bits of the codes of all slots of a column, given the counts expected [slot].

    Those of a Poisson count as long as codes tell counts apart, and of its noise in codes beyond.
    """
    step = math.log(max(float(expected.max()), 2.0)) / (LEVELS - 2)
    with np.errstate(divide="ignore"):
        in_codes = np.log2(1 + 2 * _WHOLE / np.maximum(expected * step**2, 1e-12)) / 2
    return float(np.minimum(np.log2(1 + _WHOLE * expected) / 2, in_codes).sum())
