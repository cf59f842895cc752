"""Counts and moments of a tensor in CPU memory, in one pass over it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.recording.histogram import cpu_kernel, openmp
from actlab.recording.histogram.moments import Moments

__all__ = ["KINDS", "address_of", "count", "limits", "pieces"]

_PIECE = 1 << 20  # bytes: the most that is copied at once
_MOST = 1 << 31  # values of one pass: its tables count to 2^32
_LARGE = 1 << 18  # values that more than one thread pays for
_SHARE = 1 << 14  # beyond the root of so many, adding up their tables costs more than a thread saves

# The type of the number tells the kernel how a pattern is to be read.
KINDS: dict[torch.dtype, np.generic] = {
    torch.float32: np.float32(0),
    torch.float64: np.float64(0),
    torch.bfloat16: np.uint16(0),
    torch.float16: np.int16(0),
}


def count(values: torch.Tensor | NDArray[Any], axis: FloatAxis, out: NDArray[np.uint64]) -> Moments:
    """Add the counts of a tensor into `out` and return its moments.

    Parameters
    ----------
    values : torch.Tensor or numpy.ndarray
        Floating-point values of any shape, memory layout and device; never changed. Dense float64,
        float32, float16 and bfloat16 tensors in CPU memory are read in place, whatever the order of
        their dims; what must be copied, is copied in pieces of at most 1 MiB. Large tensors are
        shared out among as many threads as torch uses.
    axis : FloatAxis
        The recording axis.
    out : numpy.ndarray
        uint64 [bucket], contiguous; added to.

    Returns
    -------
    Moments
        Of these values alone; the sums are in float64.

    Raises
    ------
    TypeError
        If the tensor has no memory of its own, see `address_of`.
    """
    tensor = values if isinstance(values, torch.Tensor) else torch.as_tensor(values)
    if _is_readable(tensor):
        return _count_dense(tensor, axis, out)
    tensor, repeats = tensor.detach(), 1
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor, repeats = tensor.narrow(dim, 0, 1), repeats * size
    # Dims sorted by stride make channels-last, transposed and permuted tensors contiguous views.
    tensor = tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    counts = out if repeats == 1 else np.zeros_like(out)
    moments = Moments()
    for piece in pieces(tensor):
        moments += _count_dense(piece, axis, counts)
    if repeats == 1:
        return moments
    out += counts * np.uint64(repeats)
    n, finite, m2 = (repeats * each for each in (moments.n, moments.finite, moments.m2))
    return Moments(int(n), int(finite), moments.mean, m2, moments.min, moments.max)


def pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Cut a tensor into contiguous tensors the kernel can read, in place where memory allows.

    Parameters
    ----------
    tensor : torch.Tensor
        Any layout, floating dtype and device.

    Yields
    ------
    torch.Tensor
        Consecutive values, in C order.
    """
    if _is_readable(tensor):
        yield tensor
    elif tensor.numel() * 8 <= _PIECE:
        # Every narrower float is exact in float32, so it falls into the same bucket.
        dtype = tensor.dtype if tensor.dtype in KINDS else torch.float32
        yield tensor.to("cpu", dtype).resolve_neg().contiguous()
    elif tensor.size(0) == 1:
        yield from pieces(tensor[0])
    else:
        for half in tensor.tensor_split(2):
            yield from pieces(half)


@cache
def limits(axis: FloatAxis, dtype: torch.dtype) -> tuple[int, int, int]:
    """Return the axis in terms of a widened pattern.

    Parameters
    ----------
    axis : FloatAxis
        The recording axis.
    dtype : torch.dtype
        A key of `KINDS`.

    Returns
    -------
    tuple of int
        Shift that leaves exponent and upper mantissa, and the codes just below and just above those
        with buckets of their own.
    """
    mantissa, bias = (52, 1023) if dtype == torch.float64 else (23, 127)
    tiny = ((bias + axis.min_exponent) << axis.mantissa_bits) - 1
    return mantissa - axis.mantissa_bits, tiny, tiny + axis.n_side + 1


def address_of(tensor: torch.Tensor) -> int:
    """Return where a tensor's values begin.

    Parameters
    ----------
    tensor : torch.Tensor
        A tensor in CPU memory.

    Returns
    -------
    int
        The address; 0 only for a tensor without values.

    Raises
    ------
    TypeError
        If the tensor only stands for others (DTensor, jagged), or its memory has been freed.
    """
    address = tensor.data_ptr()
    if address == 0 and tensor.numel():
        raise TypeError(f"a {type(tensor).__name__} without memory of its own cannot be counted")
    return address


def _is_readable(tensor: torch.Tensor) -> bool:
    """Whether the kernel can read the memory of a tensor as it stands."""
    return tensor.dtype in KINDS and tensor.is_cpu and tensor.is_contiguous() and not tensor.is_neg()


def _count_dense(tensor: torch.Tensor, axis: FloatAxis, out: NDArray[np.uint64]) -> Moments:
    """Count a tensor that `_is_readable`."""
    n, kind, address = tensor.numel(), KINDS[tensor.dtype], address_of(tensor)
    if n > _MOST:
        flat = tensor.detach().view(-1)
        return _count_dense(flat[:_MOST], axis, out) + _count_dense(flat[_MOST:], axis, out)
    edges = limits(axis, tensor.dtype)
    n_parts = min(torch.get_num_threads(), math.isqrt(n // _SHARE)) if n >= _LARGE else 1
    if n_parts > 1 and (threads := openmp.functions()) is not None:
        moments = _share(kind.dtype, [address, n, *edges, out.size, n_parts, *threads], out)
    else:
        moments = Moments(n, *cpu_kernel.count(kind, address, n, edges, out))
    if math.isfinite(moments.m2):
        return moments
    # Squares beyond 1e154 overflow in float64; the mean can still be had.
    parts = torch.split(tensor.detach().view(-1), _PIECE // 8)
    scaled = sum(float((part[part.isfinite()] * 2.0**-64).sum()) for part in parts)
    return replace(moments, mean=scaled / moments.finite * 2.0**64, m2=math.inf)


def _share(dtype: np.dtype[Any], head: list[int], out: NDArray[np.uint64]) -> Moments:
    """Count in several threads; `head` is the beginning of a job for `cpu_kernel.worker`."""
    n, n_parts = head[1], head[6]
    job = np.zeros(cpu_kernel.JOB + n_parts * (out.size + cpu_kernel.RESULTS), np.int64)
    job[: cpu_kernel.JOB] = head
    openmp.run(cpu_kernel.worker(dtype).address, job.ctypes.data, n_parts)
    parts = job[cpu_kernel.JOB :].reshape(n_parts, -1)
    counts = parts[:, : out.size].view(np.uint64).sum(axis=0)
    if counts.sum() != n:
        raise MemoryError("no memory for the tables of counts")  # a thread cannot raise it itself
    out += counts
    moments = Moments()
    for part, (finite, *rest) in enumerate(parts[:, out.size :].view(np.float64).tolist()):
        size = n * (part + 1) // n_parts - n * part // n_parts
        moments += Moments(size, int(finite), *rest)
    return moments
