"""A kernel on trial: before it counts anything on a device, it must agree there with PyTorch's operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from actlab.axis import FloatAxis
from actlab.recording.guard import Guard
from actlab.recording.histogram import torch_ops

__all__ = ["passes"]

_N_PATTERNS = 1 << 13
_N_NORMAL = 32_775  # several tiles and a tail
_PROGRAMS = 2  # so that each walks over more than one tile


@cache
def passes(launch: Callable[..., None], axis: FloatAxis, dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether a kernel counts right; warn where it does not. Waits for the device, the first time.

    Two small tensors are counted: patterns of every sign and exponent, of infinities and NaN; and the
    outputs of a ReLU, half of them equal. Counts must be equal, the sums so to 1e-5.

    Parameters
    ----------
    launch : callable
        Takes what `triton_kernel.launch` takes.
    axis : FloatAxis
        The recording axis.
    dtype : torch.dtype
        float32, bfloat16 or float16.
    device : torch.device
        The current device. Not to be called while a CUDA graph is captured.
    """
    try:
        with _may_wait(device), torch.inference_mode(False), torch.no_grad():
            fault = _fault(launch, axis, dtype, device)
    except Exception as error:  # noqa: BLE001  # whatever a compiler or a driver may raise
        fault = f"{type(error).__name__}: {error}"
    if fault:
        message = f"the kernel fails its trial on {device} for {dtype} ({fault}); PyTorch's operations count"
        Guard("warn").warn("trial", message)
    return not fault


@contextmanager
def _may_wait(device: torch.device) -> Iterator[None]:
    """Put `torch.cuda.set_sync_debug_mode` aside, where it is on."""
    mode = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    if not mode:  # whatever the setter is asked for, it warns that it is a prototype
        yield
        return
    torch.cuda.set_sync_debug_mode("default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _fault(launch: Callable[..., None], axis: FloatAxis, dtype: torch.dtype, device: torch.device) -> str:
    """Say what a kernel does wrong, nothing if all is right."""
    for values in _samples(dtype):
        state = (
            torch.zeros(axis.n_buckets, dtype=torch.int64, device="cpu"),
            torch.tensor([0, 0, torch.inf, -torch.inf], dtype=torch.float64, device="cpu"),
        )
        counts, moments = (each.to(device, copy=True) for each in state)
        launch(values.to(device), axis, counts, moments, _PROGRAMS)
        torch_ops.accumulate(values, axis, *state)
        if not torch.equal(counts.cpu(), state[0]):
            return f"{int((counts.cpu() - state[0]).abs().sum())} of {values.numel()} values miscounted"
        (total, squares, *ends), right = moments.tolist(), state[1].tolist()
        reach = (values.numel() * right[1]) ** 0.5  # no less than the sum of magnitudes
        is_close = abs(total - right[0]) <= 1e-5 * reach and abs(squares - right[1]) <= 1e-5 * right[1]
        if not is_close or ends != right[2:]:
            return f"moments {moments.tolist()} instead of {right}"
    return ""


def _samples(dtype: torch.dtype) -> list[torch.Tensor]:
    """Return flat tensors in CPU memory, the same every time."""
    integer = torch.int16 if dtype.itemsize == 2 else torch.int32
    patterns = torch.arange(_N_PATTERNS, dtype=torch.int64, device="cpu") << (8 * dtype.itemsize - 13)
    generator = torch.Generator("cpu").manual_seed(0)
    normal = torch.randn(_N_NORMAL, generator=generator, dtype=torch.float32, device="cpu")
    return [patterns.to(integer).view(dtype), normal.relu().to(dtype)]
