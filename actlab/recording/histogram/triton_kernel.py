"""The Triton kernel: one pass over a tensor in GPU memory adds its counts and sums into a slot.

A few programs per multiprocessor walk over the tensor in tiles. Each keeps a histogram of its own
and merges it into the slot's at the end, by atomic addition, so that calls and programs add up in
any order. Nothing waits for the device.
"""

# A kernel's arguments have types of their own, and Triton's decorators have none.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import os
import shutil
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from actlab.axis import FloatAxis

__all__ = ["DTYPES", "constants", "launch", "serves"]

DTYPES = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
_TILE = 8192
_IS_AMD = torch.version.hip is not None
# 64 KiB of shared memory; beyond 16 KiB AMD's compiler takes half a minute.
_MOST_BINS = 1 << 12 if _IS_AMD else 1 << 14
# Before 3.8 tl.histogram works by ballots: each value costs a popcount for every 32 bins. Then a tile
# has a histogram of 512 bins, and the few values outside of it are added one by one.
_HAS_SHARED_ATOMICS = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 8)


def serves(axis: FloatAxis, device: torch.device) -> bool:
    """Tell whether the kernel can count on this axis and device."""
    if axis.n_buckets > _MOST_BINS:
        return False
    if not isinstance(_count, triton.runtime.JITFunction):
        return True  # Triton's interpreter runs anywhere
    # Triton starts its kernels by a few lines of C that it compiles where it runs.
    compilers = (os.environ.get("CC"), "gcc", "clang")
    return device.type == "cuda" and any(name and shutil.which(name) for name in compilers)


def launch(
    flat: torch.Tensor, axis: FloatAxis, counts: torch.Tensor, moments: torch.Tensor, programs: int
) -> None:
    """Add counts and sums of a tensor into a slot, on the current stream of the current device.

    Parameters
    ----------
    flat : torch.Tensor
        At least one value of a dtype in `DTYPES`, one dense dim.
    axis : FloatAxis
        The recording axis.
    counts : torch.Tensor
        int64 [bucket]; added to.
    moments : torch.Tensor
        float64 [4]: sum, sum of squares, smallest and largest of the finite values; brought up to date.
    programs : int
        At most so many programs run at once.
    """
    grid = (min(triton.cdiv(flat.numel(), _TILE), programs),)
    launcher: Any = _count[grid]
    # So two programs fit on one multiprocessor; AMD's compiler sees to it by itself.
    registers = {} if _IS_AMD else {"maxnreg": 128}
    launcher(
        flat.view(DTYPES[flat.dtype]),
        counts,
        moments,
        flat.numel(),
        is_shared=_HAS_SHARED_ATOMICS,
        num_warps=8,
        **constants(axis, flat.dtype),
        **registers,
    )


@cache
def constants(axis: FloatAxis, dtype: torch.dtype) -> dict[str, Any]:
    """Return what is compiled into the kernel for an axis and a dtype of `DTYPES`."""
    return {
        "kind": str(dtype).removeprefix("torch."),
        "shift": 23 - axis.mantissa_bits,
        "tiny": ((127 + axis.min_exponent) << axis.mantissa_bits) - 1,
        "n_side": axis.n_side,
        "bins": triton.next_power_of_2(axis.n_buckets),
        "tile": _TILE,
    }


@triton.jit
def _widen(raw, kind: tl.constexpr):
    """Turn patterns into float32: exact, so a value falls into the same bucket."""
    if kind == "bfloat16":
        return (raw.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif kind == "float16":  # noqa: RET505  # Triton compiles only the branch that is taken
        return raw.to(tl.float16, bitcast=True).to(tl.float32)
    else:
        return raw.to(tl.float32, bitcast=True)


@triton.jit
def _find(bits, size, shift: tl.constexpr, tiny: tl.constexpr, n_side: tl.constexpr):
    """Find the buckets of float32 patterns; those of NaN are the infinite ones of their sign."""
    # Steps from the zero bucket: 0 for zero, 1 for tiny, n_side + 2 for overflow, one more beyond.
    steps = tl.minimum(tl.maximum(size >> shift, tiny), tiny + n_side + 1) - (tiny - 1)
    steps = tl.minimum(steps - ((size + 0x800000) >> 31), size)
    sign = bits >> 31  # -1 or 0
    return (steps ^ sign) - sign + (n_side + 3)


@triton.jit
def _add_tile(counts, found, bits, size, n_side: tl.constexpr):
    """Add the values of a tile that are not zero, with a small histogram: see `_HAS_SHARED_ATOMICS`.

    It covers the largest magnitude of the tile and the 254 buckets below it, of either sign.
    """
    zero: tl.constexpr = n_side + 3
    steps = tl.abs(found - zero)
    largest = tl.max(steps, 0)
    depth = largest - steps
    is_near = (depth < 255) & (size != 0)
    near = tl.histogram(tl.where(is_near, 2 * depth + (bits < 0).to(tl.int32), 511), 512)
    place = tl.arange(0, 512)
    distance = largest - (place >> 1)
    bucket = zero + tl.where((place & 1) == 1, -distance, distance)
    tl.atomic_add(counts + bucket, near.to(tl.int64), mask=(near != 0) & (place < 510), sem="relaxed")
    one = tl.full(found.shape, 1, tl.int64)
    tl.atomic_add(counts + found, one, mask=(depth >= 255) & (size != 0), sem="relaxed")


@triton.jit
def _scale(low, high):
    """Choose a power of two by which the squares of a tile fit into float32."""
    reach = tl.maximum(high, -low)
    return tl.where(reach > 1e15, 2.0**-80, tl.where(reach < 1e-12, 2.0**80, 1.0))


@triton.jit(do_not_specialize=["n"])
def _count(  # noqa: PLR0913, PLR0915, PLR0917  # one kernel is one function
    values,
    counts,
    moments,
    n,
    kind: tl.constexpr,
    shift: tl.constexpr,
    tiny: tl.constexpr,
    n_side: tl.constexpr,
    bins: tl.constexpr,
    tile: tl.constexpr,
    is_shared: tl.constexpr,
):
    """Count `n` patterns into a slot; see `launch`.

    The sums of a tile are float32, of deviations from its mean, scaled where squares would leave
    float32. Across tiles they are float64.
    """
    lane = tl.arange(0, tile)
    bucket = tl.arange(0, bins)
    histogram = tl.full([bins], 0, tl.int32)
    zeros = tl.full([], 0, tl.int32)
    nans = tl.full([], 0, tl.int32)
    negative_nans = tl.full([], 0, tl.int32)
    total = tl.full([], 0.0, tl.float64)
    squares = tl.full([], 0.0, tl.float64)
    low = tl.full([], float("inf"), tl.float32)
    high = tl.full([], float("-inf"), tl.float32)
    first = tl.program_id(0).to(tl.int64) * tile
    for start in range(first, n, tl.num_programs(0) * tile):
        rest = tl.minimum(n - start, tile).to(tl.int32)
        if rest == tile:
            raw = tl.load(values + start + lane)
        else:
            raw = tl.load(values + start + lane, mask=lane < rest, other=0)
            zeros -= tile - rest
        value = _widen(raw, kind)
        bits = value.to(tl.int32, bitcast=True)
        size = bits & 0x7FFFFFFF
        found = _find(bits, size, shift, tiny, n_side)
        if is_shared:
            histogram += tl.histogram(found, bins)
        else:
            zeros += tl.sum((size == 0).to(tl.int32), 0)
            _add_tile(counts, found, bits, size, n_side)
        # From here on only the values are needed: the patterns have left their registers.
        number = tl.full([], tile, tl.int32)
        tile_low, tile_high = tl.min(value, 0), tl.max(value, 0)
        scale = _scale(tile_low, tile_high)
        scaled = value * scale
        rough = tl.sum(scaled, 0)
        # The sum of what is not finite is neither.
        is_whole = (tl.abs(rough) < float("inf")) & (rest == tile)
        if not is_whole:
            is_kept = (tl.abs(value) < float("inf")) & (lane < rest)
            number = tl.sum(is_kept.to(tl.int32), 0)
            tile_low = tl.min(tl.where(is_kept, value, float("inf")), 0)
            tile_high = tl.max(tl.where(is_kept, value, float("-inf")), 0)
            scale = _scale(tile_low, tile_high)
            scaled = tl.where(is_kept, value * scale, 0.0)
            rough = tl.sum(scaled, 0)
            is_nan = value != value  # noqa: PLR0124  # true for NaN alone
            nans += tl.sum(is_nan.to(tl.int32), 0)
            is_negative = value.to(tl.int32, bitcast=True) < 0
            negative_nans += tl.sum((is_nan & is_negative).to(tl.int32), 0)
        low, high = tl.minimum(low, tile_low), tl.maximum(high, tile_high)
        pivot = rough / tl.maximum(number, 1)
        deviation = scaled - pivot
        if not is_whole:
            deviation = tl.where((tl.abs(value) < float("inf")) & (lane < rest), deviation, 0.0)
        unscale = 1.0 / scale.to(tl.float64)
        tile_total = tl.sum(deviation, 0).to(tl.float64) * unscale
        tile_squares = tl.sum(deviation * deviation, 0).to(tl.float64) * unscale * unscale
        wide = pivot.to(tl.float64) * unscale
        total += tile_total + number * wide
        squares += tile_squares + wide * (2 * tile_total + number * wide)
    n_buckets: tl.constexpr = 2 * n_side + 8
    if is_shared:
        is_used = (histogram != 0) & (bucket < n_buckets)
        tl.atomic_add(counts + bucket, histogram.to(tl.int64), mask=is_used, sem="relaxed")
    tl.atomic_add(counts + (n_side + 3), zeros.to(tl.int64), sem="relaxed")
    if nans > 0:
        tl.atomic_add(counts, -negative_nans.to(tl.int64), sem="relaxed")
        tl.atomic_add(counts + (n_buckets - 2), (negative_nans - nans).to(tl.int64), sem="relaxed")
        tl.atomic_add(counts + (n_buckets - 1), nans.to(tl.int64), sem="relaxed")
    tl.atomic_add(moments, total, sem="relaxed")
    tl.atomic_add(moments + 1, squares, sem="relaxed")
    tl.atomic_min(moments + 2, low.to(tl.float64), sem="relaxed")
    tl.atomic_max(moments + 3, high.to(tl.float64), sem="relaxed")
