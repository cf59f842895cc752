"""Rows of a resumed model, brought onto the layers and channels of the rows before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actlab.schema import CHANNELS, COUNTS, MOMENTS, LayerInfo, Variable
from actlab.store.row import ChannelStats, Row

__all__ = ["LayerMap"]


class LayerMap:
    """Finds the place of every layer by its name; new ones go to the end, missing ones were not called.

    Parameters
    ----------
    layers : sequence of LayerInfo
        The table of the rows before.
    channels : mapping
        Split -> layers that have channels, and how many each, in their order.
    """

    def __init__(
        self, layers: Sequence[LayerInfo], channels: Mapping[str, Sequence[tuple[str, int]]]
    ) -> None:
        self._known = {layer.name: layer for layer in layers}
        self._channels = {split: dict(table) for split, table in channels.items()}
        self._seen: tuple[LayerInfo, ...] | None = None
        self._table: tuple[LayerInfo, ...] = ()
        self._place: NDArray[np.intp] | None = None

    def apply(self, row: Row) -> Row:
        """Return the row over the whole table; one whose shapes do not fit as it is, to be refused."""
        if row.layers is not self._seen:
            self._learn(row.layers)
        channels = None if row.channels is None else self._on_channels(row.split, row.channels)
        changes: dict[str, Any] = {}
        if self._table is not row.layers:
            changes["layers"] = self._table
        if channels is not row.channels:
            changes["channels"] = channels
        if self._place is not None:
            arrays = {each: getattr(row, each.name) for each in (*MOMENTS, COUNTS)}
            if any(values.shape[:1] != (len(row.layers),) for values in arrays.values()):
                return row
            for each, values in arrays.items():
                changes[each.name] = _spread(each, values, self._place, len(self._table))
        return replace(row, **changes) if changes else row

    def _learn(self, layers: tuple[LayerInfo, ...]) -> None:
        """Take note of a new table of the model's layers."""
        for layer in layers:
            if layer.calls or layer.name not in self._known:
                self._known[layer.name] = layer
        table = tuple(self._known.values())
        self._seen, self._table = layers, layers if table == layers else table
        positions = {name: place for place, name in enumerate(self._known)}
        place = np.array([positions[layer.name] for layer in layers], np.intp)
        self._place = None if np.array_equal(place, np.arange(len(table))) else place

    def _on_channels(self, split: str, block: ChannelStats) -> ChannelStats:
        """Return channels over the whole table of them."""
        known, mine = self._channels.setdefault(split, {}), dict(zip(block.layers, block.sizes, strict=False))
        total = (sum(block.sizes),)
        fits = len(mine) == len(block.layers) == len(block.sizes)
        fits = fits and all(getattr(block, each.name).shape == total for each in CHANNELS)
        if not fits or any(known.get(layer, size) != size for layer, size in mine.items()):
            return block
        table = known | mine
        self._channels[split] = table
        if tuple(table) == block.layers:
            return block
        starts = dict(zip(table, np.cumsum([0, *table.values()]), strict=False))
        place = np.concatenate([starts[layer] + np.arange(size) for layer, size in mine.items()])
        size = sum(table.values())
        spread = {each.name: _spread(each, getattr(block, each.name), place, size) for each in CHANNELS}
        return ChannelStats(tuple(table), tuple(table.values()), **spread)


def _spread(variable: Variable, values: NDArray[Any], place: NDArray[np.intp], size: int) -> NDArray[Any]:
    """Return an array of `size` entries that holds `values` at their places, and the fill value elsewhere."""
    spread = np.full((size, *values.shape[1:]), float(variable.fill), values.dtype)
    spread[place] = values
    return spread
