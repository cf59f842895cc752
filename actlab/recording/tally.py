"""The running row: counts and moments of every layer, summed over the calls of one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.recording.counters import Counters, Pending, make_counters
from actlab.recording.histogram.moments import Moments
from actlab.recording.outputs import Part
from actlab.recording.sites import Site
from actlab.schema import LayerInfo

__all__ = ["Key", "PendingTotals", "Tallies", "Totals"]


MOST_MEMBERS = 256
"""Tensors of one output that are layers: a dict with ever new keys must not let the table grow for ever."""

Key: TypeAlias = tuple[Site, int, str]
"""Site, call (1 unless calls are told apart) and suffix of an output."""


_Part: TypeAlias = tuple[NDArray[np.unsignedinteger[Any]], Moments]


@dataclass(frozen=True)
class Totals:
    """Everything counted in one batch: arrays [layer], counts [layer, bucket]."""

    layers: tuple[LayerInfo, ...]
    counts: NDArray[np.unsignedinteger]
    n: NDArray[np.uint64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]


@dataclass(frozen=True)
class PendingTotals:
    """The totals of a batch, perhaps still on their way from a device."""

    layers: tuple[LayerInfo, ...]
    n_buckets: int
    slots: tuple[int, ...]
    devices: tuple[Pending, ...]

    def is_ready(self) -> bool:
        """Say whether `result` would not have to wait."""
        return all(pending.is_ready() for pending in self.devices)

    def result(self) -> Totals:
        """Return the totals, those of all devices added."""
        counted = [pending.result() for pending in self.devices]
        nothing = np.zeros(self.n_buckets, np.uint32), Moments()
        joined = [
            _joined([found[slot] for found in counted if slot in found], nothing) for slot in self.slots
        ]
        moments = [each for _, each in joined]
        return Totals(
            layers=self.layers,
            counts=np.stack([counts for counts, _ in joined] or [nothing[0]])[: len(joined)],
            n=np.array([each.n for each in moments], np.uint64),
            mean=np.array([each.mean for each in moments]),
            std=np.array([each.std for each in moments]),
            min=np.array([each.min for each in moments]),
            max=np.array([each.max for each in moments]),
        )


def _joined(parts: Sequence[_Part], nothing: _Part) -> _Part:
    """Add what the devices have of a slot."""
    if len(parts) < 2:
        return parts[0] if parts else nothing
    counts: NDArray[np.uint64] = np.sum([counts for counts, _ in parts], axis=0, dtype=np.uint64)
    return counts, sum((moments for _, moments in parts), Moments())


@dataclass
class _Tally:
    """One layer of the table: its slot in the counters, and its calls since the last row."""

    site: Site
    info: LayerInfo
    slot: int
    call: int = 1
    calls: int = 0


class Tallies:
    """The layer table and its counters.

    The table holds one entry per site; where the output of a site has members, they take the place
    of its entry, and an input without floating-point values has none. Where calls are told apart, a
    site called more than once in the first row has the entries `relu#1`, `relu#2`. After the first
    row the table only grows at its end.

    Parameters
    ----------
    sites : sequence of Site
        In the order of the layer axis.
    axis : FloatAxis
        The recording axis.
    """

    def __init__(self, sites: Sequence[Site], axis: FloatAxis) -> None:
        self._axis = axis
        self._order = {site: float(position) for position, site in enumerate(sites)}
        self._table: list[_Tally] = []
        self._by_key: dict[Key, _Tally] = {}
        self._counters: dict[torch.device, Counters] = {}
        self._layers: tuple[LayerInfo, ...] = ()
        self._slots = count()
        self._names: set[str] = set()
        self._n_members: dict[Site, int] = {}
        self._is_fixed = self._is_news = False
        for site in sites:
            self._enter(site, 1, "")

    def warm_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Load, or compile, what counts on the devices and dtypes of these, before training begins."""
        for device, dtype in {(tensor.device, tensor.dtype) for tensor in tensors}:
            if dtype.is_floating_point and device.type != "meta":
                self._counters_of(device).add(0, torch.zeros(1, dtype=dtype, device=device))
        self.clear()

    def add(self, site: Site, call: int, part: Part) -> None:
        """Count one part of an output of a site; `call` is 1 unless calls are told apart."""
        values = part.values
        if values is None:
            return
        tally = self._by_key.get((site, call, part.suffix))
        if tally is None:
            if self._n_members.get(site, 0) >= MOST_MEMBERS:
                raise ValueError(f"it has more than {MOST_MEMBERS} tensors of different names")
            tally = self._enter(site, call, part.suffix)
        if not tally.info.calls and not tally.calls:
            # A lazy module knows only now what it is.
            shape = tuple(part.shape or values.shape)
            tally.info = replace(tally.info, kind=site.kind, description=site.description, shape=shape)
        counters = self._counters_of(values.device)
        counters.add(tally.slot, values)
        if part.zeros:
            counters.add_zeros(tally.slot, part.zeros)
        tally.calls += 1

    def place_after(self, site: Site, other: Site | None) -> None:
        """Give a site that is called for the first time its place in the first row: behind another."""
        if site not in self._order:
            place = -1.0 if other is None else self._order.get(other, -1.0)
            self._order[site] = place + 1e-6 * len(self._order)

    def take(self) -> PendingTotals:
        """Return what was counted since the last time, and start again from zero."""
        if not self._is_fixed:
            self._fix()
        for tally in self._table:
            # A site whose members came late keeps an entry of its own, which was called with them.
            for entry in (tally, self._by_key.get((tally.site, 1, ""), tally)):
                if tally.calls and not entry.info.calls:
                    entry.info = replace(entry.info, calls=tally.calls)
                    self._is_news = True
            tally.calls = 0
        if self._is_news:
            self._layers = tuple(tally.info for tally in self._table)
            self._is_news = False
        slots = tuple(tally.slot for tally in self._table)
        devices = tuple(counters.take() for counters in self._counters.values())
        return PendingTotals(self._layers, self._axis.n_buckets, slots, devices)

    def begin(self) -> None:
        """Start a batch from zero, whatever a captured CUDA graph counted in between."""
        for counters in self._counters.values():
            if counters.has_captured:
                counters.clear()

    def clear(self) -> None:
        """Forget what was counted since the last row."""
        for tally in self._table:
            tally.calls = 0
        for counters in self._counters.values():
            counters.clear()

    def name_of(self, key: Key) -> str:
        """Return the name that the table has for an output."""
        site, call, suffix = key
        tally = self._by_key.get(key)
        return site.name + _mark(call) + suffix if tally is None else tally.info.name

    def _counters_of(self, device: torch.device) -> Counters:
        """Return the counters of a device."""
        if device not in self._counters:
            self._counters[device] = make_counters(device, self._axis)
        return self._counters[device]

    def _enter(self, site: Site, call: int, suffix: str) -> _Tally:
        """Add an entry to the table."""
        info = LayerInfo(self._free(site.name + _mark(call) + suffix), site.kind, site.description)
        tally = _Tally(site, info, next(self._slots), call)
        self._by_key[site, call, suffix] = tally
        self._n_members[site] = self._n_members.get(site, 0) + 1
        self._table.append(tally)
        self._is_news = True
        return tally

    def _free(self, name: str) -> str:
        """Return a name that no other entry has: a module may be named "lstm:0" beside an "lstm"."""
        while name in self._names:
            name = f"({name})"
        self._names.add(name)
        return name

    def _fix(self) -> None:
        """Settle the table at the first row: members replace the entry of their site."""
        called = {tally.site for tally in self._table if tally.calls}
        repeated = {tally.site for tally in self._table if tally.call > 1}
        self._table = [
            tally
            for tally in self._table
            if tally.calls or (tally.site not in called and tally.info.name == tally.site.name)
            # Layers were called, but not with floating-point values: token ids are no input to count.
            if tally.calls or not tally.site.is_input or not called
        ]
        for tally in self._table:
            if tally.call == 1 and tally.site in repeated:
                suffix = tally.info.name.removeprefix(tally.site.name)
                tally.info = replace(tally.info, name=self._free(f"{tally.site.name}#1{suffix}"))
        self._table.sort(key=lambda tally: (self._order[tally.site], tally.call))
        kept = {id(tally) for tally in self._table}
        self._by_key = {key: tally for key, tally in self._by_key.items() if id(tally) in kept}
        self._is_fixed = self._is_news = True


def _mark(call: int) -> str:
    """Return what tells a further call of a module from its first, where calls are told apart."""
    return f"#{call}" if call > 1 else ""
