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
from actlab.charts.paged import read_sample, slot_axis, sum_totals
from actlab.pages.payload import LEVELS, SERIES, log_codes
from actlab.rebinning import Slots, octave
from actlab.run import Run

__all__ = ["LADDER", "MOST_BINS", "SINGLE", "Plan", "Rung", "coarser_rungs", "plan_page"]

MOST_BINS: Final = 4096
"""No screen has more rows, and memory is layers x columns x bins."""

SINGLE: Final = 0.06
"""Share of the page that single batches may take, where a column holds more than one."""

_BASE64: Final = 4 / 3
_SERIES_BYTES: Final = 1.1  # of a number, deflated
_ALONE_BYTES: Final = 0.6  # where a column is a batch, so the extremes are the means
_BLOCK: Final = 16_384  # codes that deflate gives a table of their own
_TABLE_BITS: Final = 640  # of such a table
_FIRST_BITS: Final = 6  # of a code that has none before it
_PLACES: Final = 5  # of the training that are looked at, two columns each
_ALIKE: Final = 1.25  # so much larger columns cost as much each
_MOST_CELLS: Final = 4_000_000  # of a layer: what a browser unpacks without a halt
_SPARSE: Final = 8  # slots for each value
_OTHER_BYTES: Final = 1_630_000  # BokehJS, scripts, styles, Twin Peaks
_LAYER_BYTES: Final = 4_200  # a tile, a row of the table


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
    needed : float
        Bytes that the packed layers will take, an estimate.
    """

    k: int
    layouts: dict[str, Slots]
    octaves: dict[str, int]
    rung: int
    needed: float


def plan_page(
    run: Run, names: list[str], rows: NDArray[np.int64], n_epochs: int, most: int, size: float
) -> Plan:
    """Find the finest slots, and with them the most columns, that will fit.

    A few columns of the run are read and coded as on the page: what they cost, all will cost.

    Parameters
    ----------
    run : Run
        The run.
    names : list of str
        Layers of the page.
    rows : numpy.ndarray
        Numbers of the training rows of the page [row], ascending.
    n_epochs : int
        Epochs of the page.
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
    axes = {name: slot_axis(run, name) for name in names}
    octaves = {name: octave(totals.sel(layer=name).values, run.axis) for name in names}
    room = size - _OTHER_BYTES - _LAYER_BYTES * len(names)
    curves = 2 + ("valid" in run.splits)
    sample, plan = None, None
    for number, rung in enumerate(LADDER):
        k = -(-rows.size // min(most, rung.most))
        last = max(k, -(-rows.size // min(most, rung.fewest)))
        coarse = {name: _slots_on(rung, axes[name], octaves[name]) for name in names}
        while k <= last:
            n_columns = -(-rows.size // k)
            layouts = coarse | _fine(run, n_columns, octaves)
            if sample is None or not sample.k <= k <= _ALIKE * sample.k:
                sample = read_sample(run, names, rows, k=k, places=_PLACES)
            left = room - SINGLE * size * (k > 1)
            counts = [
                _count_bytes(sample.sums(*each), n_columns, curves, n_epochs) for each in layouts.items()
            ]
            numbers = len(names) * len(SERIES) * n_columns
            needed = sum(counts) + _BASE64 * numbers * (_SERIES_BYTES if k > 1 else _ALONE_BYTES)
            plan = Plan(k, layouts, octaves, number, needed)
            if needed <= left:
                return plan
            further = k * needed / left if left > 0 else math.inf
            if further > _ALIKE * last and rung is not LADDER[-1]:
                break
            k = max(k + 1, math.floor(min(further, last)))
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


def _count_bytes(sums: NDArray[np.unsignedinteger[Any]], n_columns: int, curves: int, n_epochs: int) -> float:
    """Estimate the packed bytes of a layer's counts, given sums of pairs of columns [slot, pair, 2]."""
    pooled = sums.sum(axis=1, keepdims=True)  # as much like two epochs as can be had
    bits = _bits(sums, n_columns) + curves * _bits(pooled, n_epochs)
    return _BASE64 * bits / 8


def _bits(sums: NDArray[np.unsignedinteger[Any]], n_columns: int) -> float:
    """Estimate the bits of all columns, given the sums of some pairs [slot, pair, 2]."""
    codes = log_codes(sums, 1, max(float(sums.max(initial=0)), 2.0))
    steps = codes[..., 1] - codes[..., 0]  # wraps, as in the payload
    height = max(1, _BLOCK // n_columns)
    blocks = [steps[start : start + height] for start in range(0, len(steps), height)]
    changed, used = (np.count_nonzero(each, axis=0).mean() for each in (steps, codes))  # slots
    each = sum(_entropy(block) * len(block) for block in blocks) + changed / _BLOCK * _TABLE_BITS
    return float(n_columns * each + used * _FIRST_BITS)


def _entropy(codes: NDArray[np.uint8]) -> float:
    """Estimate the entropy of codes, bits, of a small sample (Miller and Madow's correction)."""
    counts = np.bincount(codes.ravel(), minlength=LEVELS)
    share = counts[counts > 0] / codes.size
    return float(-np.sum(share * np.log2(share)) + (share.size - 1) / (2 * math.log(2) * codes.size))
