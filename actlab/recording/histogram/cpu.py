"""One pass over a tensor in CPU memory: counts on the recording axis, and the moments.

Each block of values goes through two stages that the processor likes: a vectorised one turns
values into bucket numbers and sums, a scalar one adds the numbers into eight private tables, so
that equal neighbours (the zeros of a ReLU) do not wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]  # it ships no types
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.recording.histogram.moments import Moments

__all__ = ["count"]

_BLOCK = 2048  # values between the two stages: index buffer and tables stay in the fastest caches
_TABLES = 8
_PIECE = 1 << 18  # values of a narrow dtype widened at once
_Array = NDArray[Any]
_REORDER = {"reassoc", "contract", "nsz", "arcp"}  # not "nnan": the kernel must see NaN


def count(values: torch.Tensor | NDArray[Any], axis: FloatAxis, out: NDArray[np.uint64]) -> Moments:
    """Add the counts of a tensor into `out` and return its moments.

    Parameters
    ----------
    values : torch.Tensor or numpy.ndarray
        Floating-point values of any shape, memory layout and device; never changed. A dense
        float32 or float64 tensor is read in place.
    axis : FloatAxis
        The recording axis.
    out : numpy.ndarray
        uint64 [bucket], contiguous; added to.

    Returns
    -------
    Moments
        Of these values alone.
    """
    moments = Moments()
    for piece in _pieces(torch.as_tensor(values).detach()):
        layout = _layout(axis, piece.itemsize)
        finite, mean, m2, low, high = _count(piece, piece.view(layout.dtype), layout, out)
        if not math.isfinite(m2):
            # Squares beyond 1e154 overflow in float64; the mean can still be had.
            mean, m2 = float(np.mean(piece[np.isfinite(piece)] * 2.0**-64)) * 2.0**64, math.inf
        moments += Moments(piece.size, finite, mean, m2, low, high)
    return moments


def _pieces(tensor: torch.Tensor) -> Iterator[NDArray[Any]]:
    """Yield all values as flat float32 or float64 arrays, without a copy where memory allows."""
    if not tensor.is_contiguous():
        # Dims sorted by stride make channels-last, transposed and permuted tensors contiguous views.
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        tensor = tensor.permute(order).resolve_neg()
    flat = tensor.reshape(-1)
    if flat.dtype in (torch.float32, torch.float64):
        yield flat.numpy(force=True)
    else:
        # Every narrower float is exact in float32, so it falls into the same bucket.
        for start in range(0, flat.numel(), _PIECE):
            yield flat[start : start + _PIECE].to("cpu", torch.float32).numpy()


@cache
def _layout(axis: FloatAxis, itemsize: int) -> NDArray[Any]:
    """Return the axis in terms of a float's pattern.

    Shift that leaves exponent and upper mantissa, the codes just below and just above those with
    buckets of their own, the zero bucket, the pattern of infinity, the mask of the magnitude.
    """
    mantissa, bias, dtype = (23, 127, np.uint32) if itemsize == 4 else (52, 1023, np.uint64)
    magnitude = np.iinfo(dtype).max >> 1
    infinity = magnitude >> mantissa << mantissa
    tiny = ((bias + axis.min_exponent) << axis.mantissa_bits) - 1
    return np.array(
        [mantissa - axis.mantissa_bits, tiny, tiny + axis.n_side + 1, axis.zero, infinity, magnitude], dtype
    )


def _fetch_line(_: Any, array: Any, position: Any) -> Any:
    """Type and code of `_prefetch(array, position)`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        line = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [line.type, flag, flag, flag])
        # LLVM's arguments: for reading, to be kept in all caches, data rather than code.
        insert: Any = cgutils.get_or_insert_function
        function = insert(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [line, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, position), codegen


# Asks for the cache line of `array[position]`, harmless beyond the end.
_prefetch: Any = intrinsic(_fetch_line)


@njit(cache=True, nogil=True, fastmath=_REORDER)
def _find(values: _Array, bits: _Array, layout: _Array, index: _Array) -> Any:
    """Write the bucket of each value of a block; return pivot, sum, squares, ordered min and max.

    The sums are of deviations from the pivot, the block's first value, so that a large mean costs
    no digits. numba widens integers to 64 bits, which halves the speed: hence the casts.
    """
    integer = bits.dtype.type
    shift, tiny, huge, zero, infinity, magnitude = layout
    last_bit = integer(np.iinfo(bits.dtype).bits - 1)
    nan = integer(zero + zero + integer(1))
    to_infinity = integer(huge - tiny + integer(2))
    low, high = integer(~integer(0)), integer(0)
    for i in range(values.size):
        pattern = bits[i]
        size = integer(pattern & magnitude)
        ordered = integer(~pattern) if pattern > magnitude else integer(pattern | integer(~magnitude))
        low, high = min(low, ordered), max(high, ordered)
        code = integer(size >> integer(shift & last_bit))  # masked: no guard against a wide shift
        steps = integer(integer(min(max(code, tiny), huge) - tiny) + integer(1))
        steps = integer(0) if size == integer(0) else steps
        steps = to_infinity if size == infinity else steps
        bucket = integer(zero - steps) if pattern > magnitude else integer(zero + steps)
        index[i] = nan if size > infinity else bucket
    pivot = np.float64(values[0])
    total = squares = 0.0
    # A loop of its own: the doubles would halve the width of the integers' vectors.
    for i in range(values.size):
        deviation = np.float64(values[i]) - pivot
        total += deviation
        squares += deviation * deviation
    return pivot, total, squares, low, high


@njit(cache=True, nogil=True, fastmath=_REORDER)
def _find_finite(values: _Array, bits: _Array, layout: _Array) -> Any:
    """Return what `_find` returns, over the finite values of a block only, and their number."""
    integer = bits.dtype.type
    infinity, magnitude = layout[4], layout[5]
    pivot = total = squares = 0.0
    low, high = integer(~integer(0)), integer(0)
    finite = 0
    for i in range(values.size):
        pattern = bits[i]
        if integer(pattern & magnitude) >= infinity:
            continue
        ordered = integer(~pattern) if pattern > magnitude else integer(pattern | integer(~magnitude))
        low, high = min(low, ordered), max(high, ordered)
        pivot = np.float64(values[i]) if finite == 0 else pivot
        deviation = np.float64(values[i]) - pivot
        total += deviation
        squares += deviation * deviation
        finite += 1
    return finite, pivot, total, squares, low, high


@njit(cache=True, nogil=True)
def _scatter(values: _Array, stop: int, index: _Array, size: int, tables: _Array) -> None:
    """Add the buckets of a block into the tables in turn, fetching the next block meanwhile."""
    one = np.uint32(1)
    whole = size // 16 * 16
    for i in range(0, whole, 16):
        _prefetch(values, stop + i)
        for k in range(16):
            tables[k & 7, index[i + k]] += one
    for i in range(whole, size):
        tables[0, index[i]] += one


@njit(cache=True, nogil=True)
def _pour(tables: _Array, out: _Array) -> None:
    """Add the private tables into `out`."""
    for table in range(tables.shape[0]):
        for bucket in range(out.size):
            out[bucket] += np.uint64(tables[table, bucket])


@njit(cache=True, nogil=True)
def _from_order(low: Any, high: Any, layout: _Array, values: _Array) -> Any:
    """Turn ordered integers back into floats."""
    magnitude = layout[5]
    ends = np.array([low, high], layout.dtype)
    for i in range(2):
        ends[i] = ends[i] & magnitude if ends[i] > magnitude else ~ends[i]
    least, most = ends.view(values.dtype)
    return np.float64(least), np.float64(most)


@njit(cache=True, nogil=True, fastmath=_REORDER)
def _count(values: _Array, bits: _Array, layout: _Array, out: _Array) -> Any:
    """Count a flat array into `out`; return finite, mean, m2, min, max."""
    integer = bits.dtype.type
    infinity, magnitude = layout[4], layout[5]
    largest, smallest = integer(infinity | integer(~magnitude)), integer(~infinity & magnitude)
    index = np.empty(_BLOCK, np.uint32)
    is_small = values.size < 4 * out.size
    # Rows are padded by 16, so that equal buckets of two tables never share a page offset.
    tables = np.zeros((0 if is_small else _TABLES, out.size + 16), np.uint32)
    finite, mean, m2 = 0, 0.0, 0.0
    low, high = integer(~integer(0)), integer(0)
    for start in range(0, values.size, _BLOCK):
        stop = min(start + _BLOCK, values.size)
        block, block_bits = values[start:stop], bits[start:stop]
        number = stop - start
        pivot, total, squares, block_low, block_high = _find(block, block_bits, layout, index)
        if block_high >= largest or block_low <= smallest:
            number, pivot, total, squares, block_low, block_high = _find_finite(block, block_bits, layout)
        if is_small:
            for i in range(stop - start):
                out[index[i]] += np.uint64(1)
        else:
            _scatter(values, stop, index, stop - start, tables)
        if number > 0:
            low, high = min(low, block_low), max(high, block_high)
            delta = pivot + total / number - mean
            m2 += squares - total * total / number + delta * delta * finite * number / (finite + number)
            mean += delta * number / (finite + number)
            finite += number
    _pour(tables, out)
    if finite == 0:
        return finite, np.nan, m2, np.nan, np.nan
    least, most = _from_order(low, high, layout, values)
    return finite, mean, m2, least, most
