"""The running row: counts and moments of every layer, summed over the calls of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.recording.histogram.cpu import count
from actlab.recording.histogram.moments import Moments
from actlab.recording.hooks import Site
from actlab.schema import LayerInfo

__all__ = ["Tallies", "Totals"]


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


@dataclass
class _Tally:
    """One layer of the table, and what it has counted since the last row."""

    site: Site
    info: LayerInfo
    counts: NDArray[np.uint64]
    moments: Moments = field(default_factory=Moments)
    calls: int = 0


class Tallies:
    """The layer table and its counters.

    The table holds one entry per site; where the output of a site has members, they take the place
    of its entry, and an input without floating-point values has none. After the first row the
    table only grows at its end.

    Parameters
    ----------
    sites : sequence of Site
        In the order of the layer axis.
    axis : FloatAxis
        The recording axis.
    """

    def __init__(self, sites: Sequence[Site], axis: FloatAxis) -> None:
        self._axis = axis
        self._order = {site: position for position, site in enumerate(sites)}
        self._table = [self._entry(site, "") for site in sites]
        self._by_name = {tally.info.name: tally for tally in self._table}
        self._is_fixed = False

    def add(self, site: Site, suffix: str, tensor: torch.Tensor) -> None:
        """Count one output (or the member `suffix` of it) of a site."""
        tally = self._by_name.get(site.name + suffix)
        if tally is None:
            tally = self._by_name[site.name + suffix] = self._entry(site, suffix)
            self._table.append(tally)
        if not tally.info.calls and not tally.calls:
            tally.info = replace(tally.info, shape=tuple(tensor.shape))
        tally.moments += count(tensor, self._axis, tally.counts)
        tally.calls += 1

    def take(self) -> Totals:
        """Return what was counted since the last time, and start again from zero."""
        if not self._is_fixed:
            self._fix()
        for tally in self._table:
            # A site whose members came late keeps an entry of its own, which was called with them.
            for entry in (tally, self._by_name.get(tally.site.name, tally)):
                if tally.calls and not entry.info.calls:
                    entry.info = replace(entry.info, calls=tally.calls)
        moments = [tally.moments for tally in self._table]
        n = np.array([each.n for each in moments], np.uint64)
        width = np.uint32 if n.max(initial=0) <= np.iinfo(np.uint32).max else np.uint64
        totals = Totals(
            layers=tuple(tally.info for tally in self._table),
            counts=np.array([tally.counts for tally in self._table], width),
            n=n,
            mean=np.array([each.mean for each in moments]),
            std=np.array([each.std for each in moments]),
            min=np.array([each.min for each in moments]),
            max=np.array([each.max for each in moments]),
        )
        self.clear()
        return totals

    def clear(self) -> None:
        """Forget what was counted since the last row."""
        for tally in self._table:
            if tally.calls:
                tally.counts.fill(0)
                tally.moments, tally.calls = Moments(), 0

    def _entry(self, site: Site, suffix: str) -> _Tally:
        info = LayerInfo(site.name + suffix, site.kind, site.description)
        return _Tally(site, info, np.zeros(self._axis.n_buckets, np.uint64))

    def _fix(self) -> None:
        """Settle the table at the first row: members replace the entry of their site."""
        called = {tally.site for tally in self._table if tally.calls}
        self._table = [
            tally
            for tally in self._table
            if tally.calls or (tally.site not in called and tally.info.name == tally.site.name)
            # Layers were called, but not with floating-point values: token ids are no input to count.
            if tally.calls or tally.site.module is not None or not called
        ]
        self._table.sort(key=lambda tally: self._order[tally.site])
        self._by_name = {tally.info.name: tally for tally in self._table}
        self._is_fixed = True
