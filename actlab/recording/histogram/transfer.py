"""From the device to the host without waiting: copies into pinned memory on a stream of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import torch

__all__ = ["Transfer"]


class Transfer:
    """Tensors on their way to the host; training goes on meanwhile.

    Tensors on a CUDA device arrive as they are now: what changes them in place later does not show.
    Those in CPU memory pass through as they are, without a copy. Those on other devices are copied
    at once.

    Parameters
    ----------
    tensors : sequence of torch.Tensor
        Dense tensors of any dtypes and devices. Not to be called while a CUDA graph is captured.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        groups: defaultdict[torch.device, list[int]] = defaultdict(list)
        for position, tensor in enumerate(tensors):
            if tensor.is_cuda:
                groups[tensor.device].append(position)
        # Buffers that are born in inference mode could not be filled again outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self._tensors = [each.detach() if each.is_cuda else each.detach().cpu() for each in tensors]
            self._events: list[torch.cuda.Event] = []
            for device, positions in groups.items():
                with torch.cuda.device(device):
                    buffers, event = _start(
                        [self._tensors[position] for position in positions],
                        torch.cuda.current_stream(),
                        _side_stream(device),
                    )
                for position, buffer in zip(positions, buffers, strict=True):
                    self._tensors[position] = buffer
                self._events.append(event)

    def is_ready(self) -> bool:
        """Tell whether everything has arrived; never waits."""
        return all(event.query() for event in self._events)  # type: ignore[no-untyped-call]

    def result(self) -> list[torch.Tensor]:
        """Return the tensors in CPU memory, in the order given; waits for these copies alone."""
        for event in self._events:
            event.synchronize()
        return self._tensors


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _start(
    tensors: Sequence[torch.Tensor], current: torch.cuda.Stream, side: torch.cuda.Stream
) -> tuple[list[torch.Tensor], torch.cuda.Event]:
    """Start copying tensors of one device; return their buffers, and the event of the last copy."""
    snapshots = [tensor.resolve_neg().clone(memory_format=torch.contiguous_format) for tensor in tensors]
    side.wait_stream(current)
    buffers = []
    with torch.cuda.stream(side):
        for snapshot in snapshots:
            # PyTorch keeps pinned memory for the next call once the buffer and its copy are done.
            buffer = torch.empty(snapshot.shape, dtype=snapshot.dtype, device="cpu", pin_memory=True)
            buffers.append(buffer.copy_(snapshot, non_blocking=True))
            snapshot.record_stream(side)  # so that its memory is not handed out while it is read
    return buffers, side.record_event()
