"""Columns and epochs without a range: sums over merged buckets, for a page that re-bins them itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import DTypeLike, NDArray

from actlab.axis import FloatAxis
from actlab.charts.sources import Counts
from actlab.rebinning import Slots, middles, octave

__all__ = ["CURVES", "LayerSlots", "SlotSums"]

CURVES: Final = ("epoch", "quarter", "valid")
"""Histograms of an epoch: all its batches, the last quarter of them, its validation."""

_CLASS_BITS: Final = 3
_CLASS_DEPTH: Final = 5


@dataclass(frozen=True)
class LayerSlots:
    """The counts of one layer over the slots that may hold any.

    Parameters
    ----------
    slots : Slots
        All slots.
    first : int
        The first one kept.
    columns : numpy.ndarray
        Sums over the batches of each column [kept slot, column], unsigned.
    epochs : numpy.ndarray
        Sums of each epoch [curve, kept slot, epoch], unsigned, in the order of `CURVES`.
    """

    slots: Slots
    first: int
    columns: NDArray[Any]
    epochs: NDArray[Any]

    def coarser(self, bits: int, floor: int) -> LayerSlots:
        """Return the same counts on slots of at most so many mantissa bits and at least 2^floor wide.

        Neighbours are merged, so no count is changed.
        """
        slots = replace(self.slots, bits=min(bits, self.slots.bits), floor=max(floor, self.slots.floor))
        if slots == self.slots:
            return self
        kept = np.arange(self.first, self.first + len(self.columns))
        target = slots.slot_of[self.slots.starts[kept]]
        starts = np.flatnonzero(np.diff(target, prepend=-1))
        return LayerSlots(
            slots,
            int(target[0]),
            np.add.reduceat(self.columns, starts, axis=0),
            np.add.reduceat(self.epochs, starts, axis=1),
        )


class SlotSums:
    """Sums of rows over the slots of each layer, filled column by column and epoch by epoch.

    Parameters
    ----------
    layouts : mapping of str to Slots
        The slots of each layer.
    totals : xarray.DataArray
        Counts [layer, bucket] of all that may come: slots that lie outside of it are not kept.
    axis : FloatAxis
        The axis of those counts.
    n_columns, n_epochs : int
        How many there will be.
    """

    def __init__(
        self,
        layouts: Mapping[str, Slots],
        totals: xr.DataArray,
        axis: FloatAxis,
        *,
        n_columns: int,
        n_epochs: int,
    ) -> None:
        lower, upper = axis.lower, axis.upper
        self._middles = middles(lower, upper)
        self.layers: dict[str, LayerSlots] = {}
        self._classes: dict[str, NDArray[np.intp]] = {}
        for name, slots in layouts.items():
            total = totals.sel(layer=name).values
            filled = np.flatnonzero(total[1:-2]) + 1
            low, high = (lower[filled[0]], upper[filled[-1]]) if filled.size else (0.0, 0.0)
            span = slots.span(low, high)
            size, dtype = span.stop - span.start, np.uint32 if total.sum() < 2**32 else np.uint64
            self.layers[name] = LayerSlots(
                slots,
                span.start,
                np.zeros((size, n_columns), dtype),
                np.zeros((len(CURVES), size, n_epochs), dtype),
            )
            floor = min(octave(total, axis) - _CLASS_DEPTH, axis.max_exponent - 1)
            self._classes[name] = Slots(axis, min(_CLASS_BITS, axis.mantissa_bits), floor).slot_of

    def add(self, what: str, names: Sequence[str], number: int, total: Counts) -> None:
        """Keep the sum [layer, bucket] of a "column", or one of `CURVES` of an epoch, of some layers."""
        for name, each in zip(names, total, strict=True):
            slots = self.layers[name].slots
            if each.size == slots.axis.n_buckets:
                self.put(what, name, number, slots.merge(each))
            else:  # raw outputs are kept of the training only: the middles of buckets stand for the others
                place = slots.slot_of[slots.axis.index(self._middles)]
                merged = np.bincount(place, each, slots.starts.size)
                self.put(what, name, number, merged.astype(np.uint64))

    def put(self, what: str, name: str, number: int, total: Counts) -> None:
        """Keep the sum [slot] of a column, or one of `CURVES` of an epoch, of a layer."""
        part = self.layers[name]
        target = part.columns if what == "column" else part.epochs[CURVES.index(what)]
        target[:, number] = total[part.first : part.first + len(part.columns)]

    def classes(self, block: Counts, names: Sequence[str], dtype: DTypeLike) -> Counts:
        """Merge counts [row, layer, bucket] to some hundred slots of each layer [row, layer, slot].

        Batches are compared on these: they are no finer than the layer's own size asks for.
        """
        slot_of = np.stack([self._classes[name] for name in names])
        out = np.zeros((*block.shape[:2], int(slot_of.max()) + 1), dtype)
        _classify(np.ascontiguousarray(block), slot_of, out)
        return out


@njit(cache=True, nogil=True)
def _classify(block: Counts, slot_of: NDArray[np.intp], out: Counts) -> None:
    """Add the counts [row, layer, bucket] of each slot to `out` [row, layer, slot]."""
    for row in range(block.shape[0]):
        for layer in range(block.shape[1]):
            for bucket in range(block.shape[2]):
                out[row, layer, slot_of[layer, bucket]] += block[row, layer, bucket]
