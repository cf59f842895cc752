"""Counters in the memory of a GPU: tensors are counted where they are, and nobody waits for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.recording.histogram import torch_ops, trial
from actlab.recording.histogram.moments import Moments
from actlab.recording.histogram.transfer import Transfer

try:
    from actlab.recording.histogram import triton_kernel

    kernel: Any = triton_kernel
except ImportError:  # no Triton: PyTorch's own operations count
    kernel = None

__all__ = ["CudaCounters", "Pending"]

_NOTHING: AbstractContextManager[object] = nullcontext()
_SLOTS = 64  # rows of state allocated at once, about 1.8 MB at the default axis
_N_MOMENTS = 4  # sum, sum of squares, smallest, largest: float64, in the same row as the counts


class CudaCounters:
    """Counts and moments of many layers, kept on one device until they are taken.

    Nothing here waits for the device, whatever the stream, grad mode or autocast, but for the trial of
    the kernel before its first use on a device, axis and dtype. Work on another stream than the last
    one is ordered after it.

    Parameters
    ----------
    axis : FloatAxis
        The recording axis.
    device : torch.device or str
        A CUDA (or ROCm) device. On "cpu" the same code runs, without streams.

    Attributes
    ----------
    has_captured : bool
        A CUDA graph holds additions to these counters: each of its replays counts, wanted or not,
        so `clear` belongs at the start of a batch.

    Notes
    -----
    Sums are taken in float32 over 16 or 32 values, about their mean, and in float64 across these, about
    zero: the standard deviation of float32 values is good to
    1e-6 + 2e-16 (mean / std)^2 of itself, the mean to 1e-8 of the deviation. float64 tensors are summed
    in float64 throughout.
    """

    def __init__(self, axis: FloatAxis, device: torch.device | str) -> None:
        self.has_captured = False
        self._axis = axis
        self._device = torch.empty(0, device=device).device  # with its index
        self._is_cuda = self._device.type == "cuda"
        self._programs = 2
        self._has_kernel = kernel is not None and kernel.serves(axis, self._device)
        if self._is_cuda and self._has_kernel:
            multiprocessors = torch.cuda.get_device_properties(self._device).multi_processor_count
            self._programs = kernel.PROGRAMS * multiprocessors
        self._is_right: dict[torch.dtype, bool] = {}
        # What is made here is made on this stream; the first values may come on another.
        self._stream = torch.cuda.current_stream(self._device) if self._is_cuda else None
        self._blocks: list[torch.Tensor] = []
        self._rows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        # Tensors that are born in inference mode could not be added to outside of it.
        with torch.inference_mode(False):
            self._fresh = torch.zeros(_SLOTS, axis.n_buckets + _N_MOMENTS, dtype=torch.int64, device=device)
            extremes = self._fresh[:, -2:].view(torch.float64)
            extremes[:, 0].fill_(torch.inf)
            extremes[:, 1].fill_(-torch.inf)

    def add(self, slot: int, tensor: torch.Tensor) -> None:
        """Count a tensor.

        Parameters
        ----------
        slot : int
            Where to: a small number, 0 or more.
        tensor : torch.Tensor
            Floating-point values on this device, of any dtype, shape and memory layout; may be empty.

        Raises
        ------
        RuntimeError
            If a CUDA graph is being captured and the slot is new: its memory would be the graph's.
        """
        with self._enter():
            counts, moments = self._row(slot)
            if tensor.numel() == 0:
                return
            flat = torch_ops.flatten(tensor)
            if self._has_kernel and flat.dtype != torch.float64 and flat.dtype not in kernel.DTYPES:
                flat = flat.to(torch.float32)
            if self._trusts_kernel(flat.dtype):
                kernel.launch(flat, self._axis, counts, moments, self._programs)
            else:
                torch_ops.accumulate(flat, self._axis, counts, moments)

    def add_zeros(self, slot: int, number: int) -> None:
        """Count so many exact zeros: the implicit ones of a sparse tensor.

        Raises
        ------
        RuntimeError
            As `add` does.
        """
        with self._enter():
            counts, moments = self._row(slot)
            if number > 0:
                counts[self._axis.zero].add_(number)
                moments[2].clamp_(max=0.0)
                moments[3].clamp_(min=0.0)

    def take(self) -> Pending:
        """Start the way of everything counted since the last time to the host, and count from zero."""
        with self._enter():
            if self._is_cuda:
                self._follow()
            n_slots = max(self._rows, default=-1) + 1
            used = [
                block[: n_slots - start]
                for start, block in zip(range(0, n_slots, _SLOTS), self._blocks, strict=False)
            ]
            # On a GPU the transfer itself takes the snapshot.
            transfer = Transfer(used if self._is_cuda else [block.clone() for block in used])
            self._reset()
        return Pending(transfer)

    def clear(self) -> None:
        """Forget what was counted since the last time."""
        with self._enter():
            if self._is_cuda:
                self._follow()
            self._reset()

    def _enter(self) -> AbstractContextManager[object]:
        """Make the device the current one, if it is not."""
        is_current = self._device.type != "cuda" or torch.cuda.current_device() == self._device.index
        return _NOTHING if is_current else torch.cuda.device(self._device)

    def _trusts_kernel(self, dtype: torch.dtype) -> bool:
        """Whether the kernel counts this dtype, and has passed its trial."""
        if not self._has_kernel or dtype not in kernel.DTYPES:
            return False
        if dtype not in self._is_right:
            if self._is_cuda and torch.cuda.is_current_stream_capturing():
                return False  # a trial waits for the device, which a capture forbids
            self._is_right[dtype] = trial.passes(kernel.launch, self._axis, dtype, self._device)
        return self._is_right[dtype]

    def _reset(self) -> None:
        for block in self._blocks:
            block.copy_(self._fresh)

    def _row(self, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the counts [bucket] and the moments [4] of a slot, ready to be added to."""
        is_capturing = self._is_cuda and torch.cuda.is_current_stream_capturing()
        if is_capturing:
            self.has_captured = True
        elif self._is_cuda:
            self._follow()
        if slot not in self._rows:
            if is_capturing:
                raise RuntimeError(
                    "a layer is counted for the first time while a CUDA graph is captured: "
                    "run one batch before capture, with the recorder on"
                )
            self._allocate(slot)
        return self._rows[slot]

    def _allocate(self, slot: int) -> None:
        with torch.inference_mode(False):
            # Blocks never move: graphs hold their addresses.
            while slot >= len(self._blocks) * _SLOTS:
                self._blocks.append(self._fresh.clone())
            row = self._blocks[slot // _SLOTS][slot % _SLOTS]
            self._rows[slot] = (row[:-_N_MOMENTS], row[-_N_MOMENTS:].view(torch.float64))

    def _follow(self) -> None:
        """Order what comes now on the current stream after what was done on another."""
        # Asked for every tensor: the number alone costs a tenth of what the stream does.
        number = torch._C._cuda_getCurrentRawStream(self._device.index)
        if self._stream is None or self._stream.cuda_stream == number:
            return
        stream = torch.cuda.current_stream()
        stream.wait_stream(self._stream)
        for block in self._blocks:
            block.record_stream(stream)
        self._stream = stream


class Pending:
    """Counts on their way to the host.

    Parameters
    ----------
    transfer : Transfer
        Blocks of rows, int64 [slot, bucket and moments].
    """

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    def is_ready(self) -> bool:
        """Tell whether they have arrived; never waits."""
        return self._transfer.is_ready()

    def result(self) -> dict[int, tuple[NDArray[np.unsignedinteger[Any]], Moments]]:
        """Return what was counted; waits for this copy alone.

        Returns
        -------
        dict
            Slot to counts, uint32 [bucket], or uint64 where that is too small, and `Moments`; slots
            without values are absent.
        """
        result = {}
        for number, block in enumerate(self._transfer.result()):
            rows = block.numpy()
            counts: NDArray[np.unsignedinteger[Any]] = rows[:, :-_N_MOMENTS].view(np.uint64)
            sums = rows[:, -_N_MOMENTS:].view(np.float64)
            n = counts.sum(axis=1)
            finite = n - counts[:, [0, -2, -1]].sum(axis=1)
            if n.max(initial=0) <= np.iinfo(np.uint32).max:
                counts = counts.astype(np.uint32)
            for row in np.flatnonzero(n).tolist():
                moments = _moments(int(n[row]), int(finite[row]), sums[row].tolist())
                result[number * _SLOTS + row] = (counts[row], moments)
        return result


def _moments(n: int, finite: int, sums: list[float]) -> Moments:
    if finite == 0:
        return Moments(n)
    total, squares, low, high = sums
    mean = total / finite
    return Moments(n, finite, mean, max(squares - total * mean, 0.0), low, high)
