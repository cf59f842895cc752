"""The Triton kernel: one pass over a tensor in GPU memory adds its counts and sums into a slot.

A few programs per multiprocessor walk over the tensor in tiles. Each keeps a histogram of its own
and merges it into the slot's at the end, by atomic addition, so that calls and programs add up in
any order. Nothing waits for the device.

From Triton 3.8 on `tl.histogram` adds in shared memory, by atomic additions; before, each value costs
it a popcount for every 32 bins. There, on NVIDIA's cards, the kernel keeps a table in shared memory
itself, by a few lines of their assembly. On AMD's it has no other way than `tl.histogram`.
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

__all__ = ["DTYPES", "PROGRAMS", "constants", "has_table", "launch", "serves"]

DTYPES = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
_NANS = {torch.float32: 0x7FC00000, torch.bfloat16: 0x7FC0, torch.float16: 0x7E00}
_IS_AMD = torch.version.hip is not None
_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
_IS_OLD = _VERSION < (3, 8)
# A table of its own may take 48 KiB; tl.histogram's 64, but beyond 16 AMD's compiler takes half a minute.
_MOST_BINS = 1 << 12 if _IS_AMD else 1 << 13 if _IS_OLD else 1 << 14
# Warps of a program, the most registers of a thread, and how many programs then fit on a multiprocessor;
# AMD's compiler sees to the registers by itself.
_WARPS, _REGISTERS, PROGRAMS = (4, 128, 4) if _IS_OLD and not _IS_AMD else (8, 128, 2)
_TILE = 1024 * _WARPS
_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}
_LEAST = 8192  # values of a program, so that merging costs less than counting


def has_table() -> bool:
    """Tell whether the kernel keeps a table of its own; Triton's interpreter knows no assembly."""
    return _IS_OLD and not _IS_AMD and isinstance(_count, triton.runtime.JITFunction)


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
    n, dtype = flat.numel(), flat.dtype
    grid = (min(-(-n // _LEAST), programs), 1, 1)
    addresses = flat.data_ptr(), counts.data_ptr(), moments.data_ptr()
    # All that Triton compiles for, beside what is fixed, is where pointers are aligned and how large n is.
    alignments = addresses[0] % 16, addresses[1] % 16, addresses[2] % 16
    key = (axis, dtype, flat.device, n >= 1 << 31, alignments)
    if key in _compiled:
        compiled, fixed = _compiled[key]
        compiled[grid](*addresses, n, *fixed)  # Triton looks at no argument again
        return
    named = constants(axis, dtype, has_table())
    options = {"num_warps": _WARPS} | ({} if _IS_AMD else {"maxnreg": _REGISTERS})
    launcher: Any = _count[grid]
    compiled = launcher(flat.view(DTYPES[dtype]), counts, moments, n, **named, **options)
    if compiled is not None and _VERSION >= (3, 6):  # earlier ones are launched with other arguments
        _compiled[key] = compiled, tuple(named.values())


@cache
def constants(axis: FloatAxis, dtype: torch.dtype, with_table: bool) -> dict[str, Any]:
    """Return what is compiled into the kernel for an axis and a dtype of `DTYPES`."""
    bins = triton.next_power_of_2(axis.n_buckets)
    # Without braces around it a second copy of the declaration would not compile.
    declaration = f".shared .align 16 .b8 actlab_table[{4 * bins}]; mov.u32 $0, actlab_table;"
    return {
        "kind": str(dtype).removeprefix("torch."),
        "nan": _NANS[dtype],
        "shift": 24 - axis.mantissa_bits,
        "tiny": ((127 + axis.min_exponent) << axis.mantissa_bits) - 1,
        "n_side": axis.n_side,
        "bins": bins,
        "tile": _TILE,
        "threads": (64 if _IS_AMD else 32) * _WARPS,
        "together": 16 // dtype.itemsize,  # values that a thread reads at once
        "declaration": declaration if with_table else None,
    }


@triton.jit
def _load(values, start, n, nan: tl.constexpr, tile: tl.constexpr):
    """Read the patterns of a tile, NaN beyond the end."""
    lane = tl.arange(0, tile)
    rest = tl.minimum(n - start, tile).to(tl.int32)
    if rest == tile:
        raw = tl.load(values + start + lane)
    else:
        raw = tl.load(values + start + lane, mask=lane < rest, other=nan)
    return raw


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
def _find(bits, shift: tl.constexpr, tiny: tl.constexpr, n_side: tl.constexpr):
    """Find the buckets of float32 patterns; infinities and NaN overflow."""
    twice = (bits << 1).to(tl.uint32, bitcast=True)  # without the sign
    least: tl.constexpr = tiny << shift
    most: tl.constexpr = (tiny + n_side + 1) << shift
    code = tl.minimum(tl.maximum(twice, least), most) >> shift
    # Steps from the zero bucket: 0 for zero, 1 for tiny, n_side + 2 for overflow.
    steps = tl.minimum(code - (tiny - 1), twice).to(tl.int32, bitcast=True)
    return steps * ((bits >> 31) | 1) + (n_side + 3)


@triton.jit
def _open_table(declaration: tl.constexpr, bins: tl.constexpr):
    """Clear a table in shared memory, int32 [bins], and return its address there."""
    table = tl.inline_asm_elementwise(declaration, "=r,r", [tl.program_id(0)], tl.int32, False, 1)
    entries = table + 4 * tl.arange(0, bins)
    tl.inline_asm_elementwise("st.shared.b32 [$1], 0;", "=r,r", [entries], tl.int32, False, 1)
    tl.debug_barrier()
    return table


@triton.jit
def _add_to_table(table, found):
    """Add 1 for each value; values must not be fewer than threads, which would share them."""
    entries = table + 4 * found
    tl.inline_asm_elementwise("red.shared.add.u32 [$1], 1;", "=r,r", [entries], tl.int32, False, 1)


@triton.jit
def _read_table(table, bins: tl.constexpr):
    """Return the entries of the table once every thread has added its values."""
    tl.debug_barrier()
    entries = table + 4 * tl.arange(0, bins)
    return tl.inline_asm_elementwise("ld.shared.b32 $0, [$1];", "=r,r", [entries], tl.int32, False, 1)


@triton.jit
def _sum(part):
    """Add up what each thread has, [turn, thread, value]."""
    return tl.sum(tl.sum(part, 2), 0)


@triton.jit
def _min(part):
    """Find the smallest of what each thread has, [turn, thread, value]."""
    return tl.min(tl.min(part, 2), 0)


@triton.jit
def _max(part):
    """Find the largest of what each thread has, [turn, thread, value]."""
    return tl.max(tl.max(part, 2), 0)


@triton.jit(do_not_specialize=["n"])
def _count(  # noqa: PLR0913, PLR0915, PLR0917  # one kernel is one function
    values,
    counts,
    moments,
    n,
    kind: tl.constexpr,
    nan: tl.constexpr,
    shift: tl.constexpr,
    tiny: tl.constexpr,
    n_side: tl.constexpr,
    bins: tl.constexpr,
    tile: tl.constexpr,
    threads: tl.constexpr,
    together: tl.constexpr,
    declaration: tl.constexpr,
):
    """Count `n` patterns into a slot; see `launch`.

    Each thread sums up its own values of a tile in float32, as deviations from their mean, scaled where
    squares would leave float32; across tiles its sums are float64. Threads meet once a tile, to agree
    whether all is tame, and at the end.
    """
    n_buckets: tl.constexpr = 2 * n_side + 8
    if declaration is not None:
        table = _open_table(declaration, bins)
    else:
        histogram = tl.full([bins], 0, tl.int32)
    total = tl.full([threads], 0.0, tl.float64)
    squares = tl.full([threads], 0.0, tl.float64)
    low = tl.full([threads], float("inf"), tl.float32)
    high = tl.full([threads], float("-inf"), tl.float32)
    first = tl.program_id(0).to(tl.int64) * tile
    raw = _load(values, first, n, nan, tile)
    for start in range(first, n, tl.num_programs(0) * tile):
        rest = tl.minimum(n - start, tile).to(tl.int32)
        flat = _widen(raw, kind)
        raw = _load(values, start + tl.num_programs(0) * tile, n, nan, tile)  # on its way meanwhile
        found = _find(flat.to(tl.int32, bitcast=True), shift, tiny, n_side)
        if declaration is not None:
            _add_to_table(table, found)
        else:
            histogram += tl.histogram(found, bins)
        value = tl.reshape(flat, [tile // (threads * together), threads, together])
        number = tl.full([threads], tile // threads, tl.float32)
        tile_low, tile_high = _min(value), _max(value)
        pivot = _sum(value) * (1.0 / (tile // threads))
        unscale = tl.full([threads], 1.0, tl.float32)
        reach = tl.maximum(tile_high, -tile_low)
        # With a NaN the sum is one.
        is_tame = (tl.abs(pivot) < float("inf")) & (reach < 1e15) & ((reach > 1e-12) | (reach == 0))
        if tl.min(is_tame.to(tl.int32), 0) == 0:
            is_finite = tl.abs(flat) < float("inf")
            finite = tl.sum(is_finite.to(tl.int32), 0)
            is_negative = flat.to(tl.int32, bitcast=True) < 0
            below = tl.sum((~is_finite & is_negative).to(tl.int32), 0)
            infinite = tl.sum((flat == float("inf")).to(tl.int32), 0)
            infinite_below = tl.sum((flat == float("-inf")).to(tl.int32), 0)
            nans = rest - finite - infinite - infinite_below
            # All these, and the NaN beyond the end, are in the overflow buckets, and leave them.
            tl.atomic_add(counts, infinite_below.to(tl.int64), sem="relaxed")
            tl.atomic_add(counts + 1, -below.to(tl.int64), sem="relaxed")
            tl.atomic_add(counts + (n_buckets - 3), (finite + below - tile).to(tl.int64), sem="relaxed")
            tl.atomic_add(counts + (n_buckets - 2), infinite.to(tl.int64), sem="relaxed")
            tl.atomic_add(counts + (n_buckets - 1), nans.to(tl.int64), sem="relaxed")
            is_kept = tl.abs(value) < float("inf")
            number = _sum(tl.where(is_kept, 1.0, 0.0))
            tile_low = _min(tl.where(is_kept, value, float("inf")))
            tile_high = _max(tl.where(is_kept, value, float("-inf")))
            reach = tl.maximum(tile_high, -tile_low)
            unscale = tl.where(reach > 1e15, 2.0**80, tl.where(reach < 1e-12, 2.0**-80, 1.0))
            scaled = value * (1.0 / unscale)[None, :, None]
            pivot = _sum(tl.where(is_kept, scaled, 0.0)) / tl.maximum(number, 1.0)
            value = tl.where(is_kept, scaled, pivot[None, :, None])  # what is left out does not deviate
        low, high = tl.minimum(low, tile_low), tl.maximum(high, tile_high)
        deviation = value - pivot[None, :, None]
        unit = unscale.to(tl.float64)
        tile_total = _sum(deviation).to(tl.float64) * unit
        tile_squares = _sum(deviation * deviation).to(tl.float64) * unit * unit
        wide = pivot.to(tl.float64) * unit
        total += tile_total + number * wide
        squares += tile_squares + wide * (2 * tile_total + number * wide)
    bucket = tl.arange(0, bins)
    if declaration is not None:
        histogram = _read_table(table, bins)
    is_used = (histogram != 0) & (bucket < n_buckets)
    tl.atomic_add(counts + bucket, histogram.to(tl.int64), mask=is_used, sem="relaxed")
    tl.atomic_add(moments, tl.sum(total, 0), sem="relaxed")
    tl.atomic_add(moments + 1, tl.sum(squares, 0), sem="relaxed")
    tl.atomic_min(moments + 2, tl.min(low, 0).to(tl.float64), sem="relaxed")
    tl.atomic_max(moments + 3, tl.max(high, 0).to(tl.float64), sem="relaxed")
