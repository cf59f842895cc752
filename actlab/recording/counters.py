"""Counters of one device: counts and moments of many layers, taken once per batch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.recording.histogram.moments import Moments

__all__ = ["Counted", "Counters", "CpuCounters", "Pending", "make_counters"]

Counted: TypeAlias = dict[int, tuple[NDArray[np.unsignedinteger[Any]], Moments]]
"""Slot -> counts [bucket] and moments."""


class Pending(Protocol):
    """What was counted up to a `take`, perhaps still on its way from a device."""

    def is_ready(self) -> bool:
        """Say whether `result` would not have to wait."""

    def result(self) -> Counted:
        """Return what was counted, of the slots that received anything."""


class Counters(Protocol):
    """Counts and moments of numbered slots on one device; nothing but `Pending.result` waits for it."""

    has_captured: bool
    """Whether a captured CUDA graph counts into these whenever it is replayed."""

    def add(self, slot: int, tensor: torch.Tensor) -> None:
        """Count the values of a tensor."""

    def add_zeros(self, slot: int, number: int) -> None:
        """Count so many exact zeros."""

    def take(self) -> Pending:
        """Return what was counted since the last time, and start again from zero."""

    def clear(self) -> None:
        """Forget what was counted since the last time."""


_NONE = Moments()


@dataclass
class _Counted:
    """What was counted in CPU memory."""

    counted: Counted

    def is_ready(self) -> bool:
        """Say yes: it was counted at once."""
        return True

    def result(self) -> Counted:
        """Return it."""
        return self.counted


class CpuCounters:
    """Counters in CPU memory, for tensors of any device that has none of its own.

    Parameters
    ----------
    axis : FloatAxis
        The recording axis.
    """

    has_captured = False

    def __init__(self, axis: FloatAxis) -> None:
        self._axis = axis
        self._count: Any = import_module(_cpu_kernel()).count
        self._n_slots = 0
        self._counts = np.zeros((8, axis.n_buckets), np.uint64)
        self._moments: dict[int, Moments] = {}

    def add(self, slot: int, tensor: torch.Tensor) -> None:
        """Count the values of a tensor."""
        before = self._moments.setdefault(slot, _NONE)  # so that `clear` knows, if counting is cut short
        moments = self._count(tensor, self._axis, self._slot(slot))
        self._moments[slot] = moments if before is _NONE else before + moments

    def add_zeros(self, slot: int, number: int) -> None:
        """Count so many exact zeros."""
        self._slot(slot)[self._axis.zero] += np.uint64(number)
        moments = Moments(number, number, 0.0, 0.0, 0.0, 0.0) if number else Moments()
        self._moments[slot] = self._moments.get(slot, Moments()) + moments

    def take(self) -> _Counted:
        """Return what was counted since the last time, and start again from zero."""
        most = max((moments.n for moments in self._moments.values()), default=0)
        taken = self._counts[: self._n_slots].astype(
            np.uint32 if most <= np.iinfo(np.uint32).max else np.uint64
        )
        counted = {slot: (taken[slot], moments) for slot, moments in self._moments.items()}
        self.clear()
        return _Counted(counted)

    def clear(self) -> None:
        """Forget what was counted since the last time."""
        if self._moments:
            self._counts.fill(0)
            self._moments.clear()

    def _slot(self, slot: int) -> NDArray[np.uint64]:
        """Return the counts of a slot; room for it is made in blocks."""
        if slot >= self._n_slots:
            self._n_slots = slot + 1
            if slot >= len(self._counts):
                more = np.zeros((max(slot + 1, 2 * len(self._counts)), self._axis.n_buckets), np.uint64)
                more[: len(self._counts)] = self._counts
                self._counts = more
        row: NDArray[np.uint64] = self._counts[slot]
        return row


def _cpu_kernel() -> str:
    """Name the module that counts on the CPU: numba's, or where that is missing plain torch."""
    try:
        import_module("numba")
    except ImportError:
        return "actlab.recording.histogram.torch_ops"
    return "actlab.recording.histogram.cpu"


def make_counters(device: torch.device, axis: FloatAxis) -> Counters:
    """Return the counters for tensors of a device."""
    if device.type == "cuda":
        from actlab.recording.histogram.cuda import CudaCounters  # noqa: PLC0415 - not without a GPU

        return CudaCounters(axis, device)
    return CpuCounters(axis)
