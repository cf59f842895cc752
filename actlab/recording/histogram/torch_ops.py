"""Counting with nothing but PyTorch: where numba or Triton is missing, and float64 on a GPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.recording.histogram.moments import Moments

__all__ = ["accumulate", "bucket_index", "count", "flatten"]

_CHUNK = 1 << 16  # values at once on a CPU: every intermediate stays in its cache
_DEVICE_CHUNK = 1 << 22  # values at once on a GPU: an intermediate takes 32 MiB
_TABLES = 64  # private tables on a GPU, so that equal values (the zeros of a ReLU) seldom collide


def flatten(tensor: torch.Tensor) -> torch.Tensor:
    """Return all values of a tensor as one dense dim, in the order in which they lie in memory.

    A view where memory allows, channels-last and permuted tensors included; else a copy on the
    tensor's device.
    """
    tensor = tensor.detach().resolve_neg()
    if not tensor.is_contiguous():
        strides = tensor.stride()
        tensor = tensor.permute(sorted(range(tensor.dim()), key=strides.__getitem__, reverse=True))
    # Every second value of a tensor, or one value repeated, is a view of one dim that is not dense.
    return tensor.reshape(-1).contiguous()


def bucket_index(tensor: torch.Tensor, axis: FloatAxis) -> torch.Tensor:
    """Find the bucket of each value: `FloatAxis.index`, on the tensor's device.

    Parameters
    ----------
    tensor : torch.Tensor
        Floating-point values of any dtype (float8 included), shape and device.
    axis : FloatAxis
        The recording axis.

    Returns
    -------
    torch.Tensor
        int64, shape of `tensor`: 0 to n_buckets - 1. On a GPU nothing waits for the device.
    """
    tensor = tensor.detach().resolve_neg()
    # Every narrower float is exact in float32, so it falls into the same bucket.
    wide = tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
    integer, mantissa, bias = (torch.int64, 52, 1023) if wide.itemsize == 8 else (torch.int32, 23, 127)
    magnitude = torch.iinfo(integer).max
    infinity = magnitude >> mantissa << mantissa
    pattern = wide.view(integer)
    size = pattern & magnitude
    code = (size >> (mantissa - axis.mantissa_bits)) - ((bias + axis.min_exponent) << axis.mantissa_bits)
    steps = code.clamp_(-1, axis.n_side).add_(2)
    steps = steps.masked_fill_(size == 0, 0).masked_fill_(size == infinity, axis.n_side + 3)
    found = torch.where(pattern < 0, axis.zero - steps, axis.zero + steps)
    return found.masked_fill_(size > infinity, axis.n_buckets - 1).to(torch.int64)


def count(values: torch.Tensor | NDArray[Any], axis: FloatAxis, out: NDArray[np.uint64]) -> Moments:
    """Add the counts of a tensor into `out` and return its moments.

    Parameters
    ----------
    values : torch.Tensor or numpy.ndarray
        Floating-point values of any shape, memory layout and device; never changed.
    axis : FloatAxis
        The recording axis.
    out : numpy.ndarray
        uint64 [bucket], contiguous; added to.

    Returns
    -------
    Moments
        Of these values alone.
    """
    total = torch.from_numpy(out.view(np.int64))
    moments = Moments()
    for part in torch.split(flatten(torch.as_tensor(values)).cpu(), _CHUNK):
        total += torch.bincount(bucket_index(part, axis), minlength=axis.n_buckets)
        moments += _moments(part)
    return moments


def _moments(part: torch.Tensor) -> Moments:
    """Return the moments of a flat tensor in CPU memory."""
    wide = part.to(torch.float64)
    finite = wide[wide.isfinite()]
    if finite.numel() == 0:
        return Moments(wide.numel())
    mean = finite.mean()
    variance, offset = torch.var_mean(finite - mean, correction=0)  # with one thread torch rounds a lot
    mean, m2 = mean + offset, float(variance) * finite.numel()
    if not math.isfinite(m2):
        # Squares beyond 1e154 overflow in float64; the mean can still be had.
        m2, mean = math.inf, (finite * 2.0**-64).mean() * 2.0**64
    low, high = finite.aminmax()
    return Moments(wide.numel(), finite.numel(), float(mean), m2, float(low), float(high))


def accumulate(flat: torch.Tensor, axis: FloatAxis, counts: torch.Tensor, moments: torch.Tensor) -> None:
    """Add counts and sums of a tensor into tensors on its own device, which is not waited for.

    Parameters
    ----------
    flat : torch.Tensor
        At least one floating-point value, one dim, any dtype.
    axis : FloatAxis
        The recording axis.
    counts : torch.Tensor
        int64 [bucket]; added to.
    moments : torch.Tensor
        float64 [4]: sum, sum of squares, smallest and largest of the finite values; brought up to date.
    """
    total, squares, low, high = moments.unbind()
    for part in torch.split(flat, _DEVICE_CHUNK):
        table = torch.arange(part.numel(), device=part.device).remainder_(_TABLES).mul_(axis.n_buckets)
        tables = counts.new_zeros(_TABLES * axis.n_buckets)
        # bincount would wait for the device to learn the largest index.
        tables.scatter_add_(0, table.add_(bucket_index(part, axis)), counts.new_ones(1).expand(part.numel()))
        counts += tables.view(_TABLES, axis.n_buckets).sum(0)
        wide = part.to(torch.float64)
        is_finite = wide.isfinite()
        kept = wide.where(is_finite, 0.0)
        total += kept.sum()
        squares += kept.square().sum()
        low.copy_(torch.minimum(low, wide.where(is_finite, math.inf).amin()))
        high.copy_(torch.maximum(high, wide.where(is_finite, -math.inf).amax()))
