"""The compiled part of the CPU kernel.

Adding to a table of counts is bound by the processor's stores, finding the buckets by its
arithmetic. So each turn of the inner loop does both: it adds the buckets found one block ago and
finds the next ones. A vectoriser would not mix the two, hence LLVM's own vectors by hand; LLVM fits
them to the processor. All that is compiled stands in this one file, because numba's cache on disk
looks at the file of the outermost function only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numba.core.cgutils
import numba.np.numpy_support
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # it ships no types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["JOB", "RESULTS", "add_to_groups", "count", "worker"]

_LANES = 16  # values of one turn
_SIZE = 2048  # values of a block: buckets and tables stay in the fastest cache
_TABLES = 4  # for tensors with many equal neighbours, such as saturated units
_FEW = 1 << 14  # values from which that many tables pay
_LOOK, _SAMPLE = 32, 128  # every so many blocks, so many values show whether there are
JOB, RESULTS = 9, 5  # numbers at the head of a shared job, and of each part beside its counts
_Array = NDArray[Any]
cgutils: Any = numba.core.cgutils
types: Any = numba.types
carray: Any = numba.np.numpy_support.carray

_SHORT, _INT, _LONG = (ir.IntType(bits) for bits in (16, 32, 64))
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()

# How a pattern is to be read. numba compiles for the type of its arguments, so each format is
# named by a type: bfloat16 and float16, which numba does not know, by the two 16-bit integers.
_FORMATS = {
    types.float64: "float64",
    types.float32: "float32",
    types.uint16: "bfloat16",
    types.int16: "float16",
}


class _Code:
    """Writes vector code for one format of floats.

    Parameters
    ----------
    context : numba target context
        Whom the code is for.
    builder : llvmlite.ir.IRBuilder
        Where it goes.
    kind : numba type
        A key of `_FORMATS`.
    lanes : int
        Values in a vector.
    """

    def __init__(self, context: Any, builder: Any, kind: Any, lanes: int) -> None:
        self.builder, self.format, self.lanes = builder, _FORMATS[kind], lanes
        self.width = 64 if self.format == "float64" else 32  # bits, once widened
        self.magnitude = (1 << self.width - 1) - 1  # a pattern without its sign
        self.pattern = ir.VectorType(_LONG if self.width == 64 else _INT, lanes)
        self.real = ir.VectorType(_DOUBLE if self.width == 64 else _FLOAT, lanes)
        self.double = ir.VectorType(_DOUBLE, lanes)
        machine, _, features = context.codegen().magic_tuple()
        # Elsewhere LLVM would call a function that is not there, and end the process.
        self.has_half = "+f16c" in features.split(",") or machine.startswith(("aarch64", "arm64"))

    def fill(self, value: float, kind: Any = None) -> Any:
        """Return a constant vector."""
        kind = kind or self.pattern
        return ir.Constant(kind, [ir.Constant(kind.element, value)] * self.lanes)

    def spread(self, scalar: Any, kind: Any = None) -> Any:
        """Return a vector of one value, narrowed where an integer is too wide."""
        builder, kind = self.builder, kind or self.pattern
        if isinstance(scalar.type, ir.IntType) and scalar.type.width > kind.element.width:
            scalar = builder.trunc(scalar, kind.element)
        nothing = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(nothing, scalar, _INT(0))
        return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INT, self.lanes), None))

    def read(self, address: Any, kind: Any) -> Any:
        """Return the vector at an address, which need not be aligned to more than its elements."""
        size = {_SHORT: 2, _INT: 4, _LONG: 8}[kind.element]
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=size)

    def load(self, address: Any, position: Any) -> Any:
        """Return the patterns of the values from `position` on, widened exactly to float32 or float64."""
        builder = self.builder
        is_narrow = self.format in ("bfloat16", "float16")
        bytes_each = 2 if is_narrow else self.width // 8
        place = builder.add(address, builder.mul(position, _LONG(bytes_each)))
        if not is_narrow:
            return self.read(place, self.pattern)
        narrow = self.read(place, ir.VectorType(_SHORT, self.lanes))
        if self.format == "bfloat16":
            return builder.shl(builder.zext(narrow, self.pattern), self.fill(16))
        if self.has_half:
            half = builder.bitcast(narrow, ir.VectorType(ir.HalfType(), self.lanes))
            return builder.bitcast(builder.fpext(half, self.real), self.pattern)
        return self.widen(builder.sext(narrow, self.pattern))

    def widen(self, narrow: Any) -> Any:
        """Return patterns of float16 as those of float32, where the processor cannot convert."""
        builder, size = self.builder, self.builder.and_(narrow, self.fill(0x7FFF))
        wide = builder.add(builder.shl(size, self.fill(13)), self.fill(127 - 15 << 23))  # the two biases
        is_special = builder.icmp_signed(">=", size, self.fill(0x7C00))
        wide = builder.select(is_special, builder.or_(wide, self.fill(0x7F80_0000)), wide)
        # A denormal is a whole number of 2^-24.
        tiny = builder.fmul(builder.sitofp(size, self.real), self.fill(2.0**-24, self.real))
        is_tiny = builder.icmp_signed("<", size, self.fill(0x400))
        wide = builder.select(is_tiny, builder.bitcast(tiny, self.pattern), wide)
        return builder.or_(wide, builder.and_(narrow, self.fill(-(1 << 31))))

    def to_double(self, pattern: Any) -> Any:
        """Return patterns as float64 values."""
        value = self.builder.bitcast(pattern, self.real)
        return value if self.width == 64 else self.builder.fpext(value, self.double)

    def from_order(self, ordered: Any) -> Any:
        """Return the float64 whose place in the order of all floats is known."""
        builder = self.builder
        last_bit, magnitude = (ir.Constant(ordered.type, each) for each in (self.width - 1, self.magnitude))
        negative = builder.and_(builder.ashr(ordered, last_bit), magnitude)
        pattern = builder.bitcast(builder.xor(ordered, negative), self.pattern)
        return builder.extract_element(self.to_double(pattern), _INT(0))

    def steps(self, size: Any, sign: Any, limits: tuple[Any, Any, Any]) -> Any:
        """Return how many buckets from zero each value is, and of negative ones the complement; int32.

        Of zero itself it makes a tiny value, of infinity and NaN an overflow.
        """
        builder = self.builder
        shift, tiny, huge = (self.spread(limit) for limit in limits)
        code = builder.lshr(size, shift)
        code = builder.select(builder.icmp_signed("<", code, tiny), tiny, code)
        code = builder.select(builder.icmp_signed(">", code, huge), huge, code)
        steps = builder.xor(builder.sub(code, builder.sub(tiny, self.fill(1))), sign)
        return builder.trunc(steps, ir.VectorType(_INT, self.lanes)) if self.width == 64 else steps

    def unpack(self, ring: Any) -> Iterator[Any]:
        """Yield the integers of a vector in memory, two from each load: loads are what is short."""
        builder = self.builder
        if self.lanes == 1:
            yield builder.zext(builder.load(ring), _LONG)
            return
        pairs = builder.bitcast(ring, _LONG.as_pointer())
        for pair in range(self.lanes // 2):
            both = builder.load(builder.gep(pairs, [_LONG(pair)]), align=4)
            yield builder.and_(both, _LONG(0xFFFF_FFFF))
            yield builder.lshr(both, _LONG(32))

    def reduce(self, vector: Any, name: str) -> Any:
        """Return sum, smallest or largest of a vector."""
        kind = vector.type.element
        start = [ir.Constant(kind, 0.0)] if name == "fadd" else []
        inputs = [each.type for each in (*start, vector)]
        label = {_INT: "i32", _LONG: "i64", _DOUBLE: "f64"}[kind]
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(kind, inputs),
            f"llvm.vector.reduce.{name}.v{self.lanes}{label}",
        )
        flags = ("reassoc",) if start else ()
        return self.builder.call(function, [*start, vector], fastmath=flags)


def _block(lanes: int) -> Callable[..., Any]:
    """Return type and code of a block in vectors of so many lanes.

    `(kind, address, start, stop, pivot, limits, places, index, tables)` gives the sum of the
    deviations from the pivot, of their squares, the smallest and the largest value.
    """

    def block(  # noqa: PLR0913, PLR0917 - numba binds the arguments by these names
        _: Any,
        kind: Any,
        address: Any,
        start: Any,
        stop: Any,
        pivot: Any,
        limits: Any,
        places: Any,
        index: Any,
        tables: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = _Code(context, builder, kind, lanes)
            _, address, start, stop, pivot, limits, places, index, tables = args
            place, ring, table = (
                context.make_array(signature.args[position])(context, builder, array).data
                for position, array in ((6, places), (7, index), (8, tables))
            )
            numbers = ir.VectorType(_INT, lanes)
            of_zero, base = (
                builder.load(builder.bitcast(builder.gep(place, [_LONG(at)]), numbers.as_pointer()), align=4)
                for at in (0, _LANES)
            )
            limits = cgutils.unpack_tuple(builder, limits)
            magnitude, last_bit = code.fill(code.magnitude), code.fill(code.width - 1)
            middle = code.spread(pivot, code.double)
            nothing = code.fill(0.0, code.double)
            total, squares, low, high = (
                cgutils.alloca_once_value(builder, start)
                for start in (nothing, nothing, magnitude, code.fill(~code.magnitude))
            )
            with cgutils.for_range_slice(builder, start, stop, _LONG(lanes), _LONG) as (position, _):
                at = builder.sub(position, start)
                for bucket in code.unpack(builder.gep(ring, [at])):
                    cell = builder.gep(table, [bucket])
                    builder.store(builder.add(builder.load(cell), _INT(1)), cell)
                pattern = code.load(address, position)
                size, sign = builder.and_(pattern, magnitude), builder.ashr(pattern, last_bit)
                # As integers, floats are in order but for the negative ones, which run backwards.
                ordered = builder.xor(pattern, builder.and_(sign, magnitude))
                for extreme, sense in ((low, "<"), (high, ">")):
                    known = builder.load(extreme)
                    is_new = builder.icmp_signed(sense, ordered, known)
                    builder.store(builder.select(is_new, ordered, known), extreme)
                found = builder.add(code.steps(size, sign, limits), base)
                found = builder.select(builder.icmp_signed("==", size, code.fill(0)), of_zero, found)
                buckets = builder.bitcast(builder.gep(ring, [at]), numbers.as_pointer())
                builder.store(found, buckets, align=4)
                deviation = builder.fsub(code.to_double(pattern), middle)
                square = builder.fmul(deviation, deviation, flags=("contract",))
                for sum_, term in ((total, deviation), (squares, square)):
                    builder.store(builder.fadd(builder.load(sum_), term, flags=("contract",)), sum_)
            sums = [code.reduce(builder.load(vector), "fadd") for vector in (total, squares)]
            lone = _Code(context, builder, kind, 1)
            ends = [
                lone.from_order(code.reduce(builder.load(vector), name))
                for vector, name in ((low, "smin"), (high, "smax"))
            ]
            return context.make_tuple(builder, signature.return_type, [*sums, *ends])

        return types.UniTuple(types.float64, 4)(
            kind, address, start, stop, pivot, limits, places, index, tables
        ), codegen

    return block


def _value_at(_: Any, kind: Any, address: Any, position: Any) -> Any:
    """Type and code of `_value(kind, address, position)`."""

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        code = _Code(context, builder, kind, 1)
        value = code.to_double(code.load(args[1], args[2]))
        return builder.extract_element(value, _INT(0))

    return types.float64(kind, address, position), codegen


def _call_at(_: Any, address: Any) -> Any:
    """Type and code of `_call(address)`: the int a C function without arguments returns."""

    def codegen(_: Any, builder: Any, __: Any, args: Any) -> Any:
        function = builder.inttoptr(args[0], ir.FunctionType(_INT, []).as_pointer())
        return builder.sext(builder.call(function, []), _LONG)

    return types.int64(address), codegen


_many: Any = intrinsic(_block(_LANES))
_one: Any = intrinsic(_block(1))
_value: Any = intrinsic(_value_at)
_call: Any = intrinsic(_call_at)


def _compiled(decorate: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return a decorator that compiles, and keeps on disk where numba finds a folder it may write to."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return decorate(cache=True, **options)(function)
        except RuntimeError:
            return decorate(**options)(function)

    return compiled


_fast = _compiled(numba.njit, nogil=True)


@_fast
def _ring(n: int, bucket: int) -> _Array:
    """Return a bucket for each value of a block, at a whole vector: across cache lines they are slower."""
    size = min(n, _SIZE)
    ring = np.full(size + _LANES, bucket, np.uint32)
    first = -int(ring.ctypes.data) // ring.itemsize % _LANES
    return ring[first : first + size]


@_fast
def _read(
    kind: Any, address: int, start: int, n: int, limits: Any, places: _Array, index: _Array, tables: _Array
) -> Any:
    """Read a block, or what is left beyond whole turns; return its end, its pivot and what `_many` does."""
    stop = min(start + _SIZE, n)
    pivot = _value(kind, address, start)
    if stop - start >= _LANES:
        stop -= (stop - start) % _LANES
        found = _many(kind, address, start, stop, pivot, limits, places, index, tables)
    else:
        found = _one(kind, address, start, stop, pivot, limits, places, index, tables)
    total, squares, low, high = found
    return stop, pivot, total, squares, low, high


@_fast
def _read_finite(kind: Any, address: int, start: int, stop: int, out: _Array) -> Any:
    """Return number and moments of the finite values of a block; put the others into their buckets.

    `_read` takes infinity and NaN for overflows: they are taken out of there.
    """
    last = out.size - 1
    finite = 0
    pivot = total = squares = 0.0
    low, high = np.inf, -np.inf
    for i in range(start, stop):
        value = _value(kind, address, i)
        if np.isfinite(value):
            pivot = value if finite == 0 else pivot
            total += value - pivot
            squares += (value - pivot) ** 2
            low, high = min(low, value), max(high, value)
            finite += 1
        else:
            out[1 if np.copysign(1.0, value) < 0 else last - 2] -= np.uint64(1)
            out[last if np.isnan(value) else 0 if value < 0 else last - 1] += np.uint64(1)
    return finite, pivot, total, squares, low, high


@_fast
def _part_neighbours(index: _Array, end: int, step: int, places: _Array) -> None:
    """Give each lane another table if a block begins with many equal neighbours, zeros aside.

    In one table an equal neighbour waits for the one before, but different ones share cache lines.
    """
    repeats = 0
    for i in range(_SAMPLE):
        repeats += int(index[i] == index[i + 1] and index[i] < end)
    if repeats > _SAMPLE // 8:
        for lane in range(_LANES):
            places[_LANES + lane] = places[_LANES] + lane % _TABLES * step


@_fast
def _pour(tables: _Array, step: int, end: int, out: _Array) -> None:
    """Add the tables into `out`."""
    zero = out.size // 2 - 1
    for first in range(0, end, step):
        table = tables[first : first + step]
        for bucket in range(zero):
            out[bucket] += np.uint64(table[bucket])
        # A complement is one too low, so the positive side of a table begins one further up.
        above, counts = out[zero + 1 :], table[zero + 2 :]
        for i in range(above.size):
            above[i] += np.uint64(counts[i])
    for lane in range(_LANES):
        out[zero] += np.uint64(tables[end + lane])


@_fast
def count(kind: Any, address: int, n: int, limits: Any, out: _Array) -> Any:
    """Count the values at an address into `out`; return finite, mean, m2, min, max."""
    step = out.size + 16
    end = step * (1 if n < _FEW else _TABLES)
    # One flat array: the tables, a slot for the zeros of each lane (ReLU has many), a slot for nothing.
    tables = np.zeros(end + _LANES + 1, np.uint32)
    places = np.empty(2 * _LANES, np.uint32)
    for lane in range(_LANES):
        places[lane], places[_LANES + lane] = end + lane, out.size // 2
    index = _ring(n, end + _LANES)
    finite, mean, m2, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    start = 0
    while start < n:
        stop, pivot, total, squares, least, most = _read(
            kind, address, start, n, limits, places, index, tables
        )
        number = stop - start
        if not (least > -np.inf and most < np.inf):
            number, pivot, total, squares, least, most = _read_finite(kind, address, start, stop, out)
        if number > 0:
            low, high = min(low, least), max(high, most)
            delta = pivot + total / number - mean
            m2 += squares - total * total / number + delta * delta * finite * number / (finite + number)
            mean += delta * number / (finite + number)
            finite += number
        if end > step and start % (_LOOK * _SIZE) == 0:
            _part_neighbours(index, end, step, places)
        start = stop
    for i in range(index.size):
        tables[index[i]] += np.uint32(1)
    _pour(tables, step, end, out)
    if finite == 0:
        return finite, np.nan, m2, np.nan, np.nan
    return finite, mean, m2, low, high


@_fast
def add_to_groups(kind: Any, address: int, groups: _Array, limits: Any, out: _Array) -> None:
    """Add each value at an address to the counts of its group, out [group, bucket]; none below 0."""
    n, last = groups.size, out.shape[1] - 1
    zero = out.shape[1] // 2 - 1
    tables = np.zeros(out.shape[1] + 1, np.uint32)  # only to find the buckets
    places, index = np.empty(2 * _LANES, np.uint32), _ring(n, 0)
    places[:_LANES], places[_LANES:] = zero, zero + 1
    start = 0
    while start < n:
        stop, _, _, _, low, high = _read(kind, address, start, n, limits, places, index, tables)
        is_finite = low > -np.inf and high < np.inf
        for i in range(start, stop):
            bucket = int(index[i - start])
            bucket -= int(bucket > zero)
            if not is_finite:
                value = _value(kind, address, i)
                if not np.isfinite(value):
                    bucket = last if np.isnan(value) else 0 if value < 0 else last - 1
            if groups[i] >= 0:
                out[groups[i], bucket] += np.uint64(1)
        start = stop


@cache
def worker(dtype: np.dtype[Any]) -> Any:
    """Return the C function that does the calling thread's share of a job, for a dtype of `kind`.

    A job is an int64 array: address, number of values, the three limits, number of buckets, number
    of parts, the C functions that say which thread this is and of how many. Then for each part its
    counts and the bits of what `count` returned.
    """
    kind, itemsize = dtype.type(0), dtype.itemsize

    def work(pointer: Any) -> None:
        address, n, shift, tiny, huge, n_buckets, n_parts, thread, n_threads = carray(pointer, JOB, np.int64)
        step = n_buckets + RESULTS
        job = carray(pointer, JOB + n_parts * step, np.int64)
        for part in range(_call(thread), n_parts, _call(n_threads)):
            start, stop = n * part // n_parts, n * (part + 1) // n_parts
            place = JOB + part * step
            counts = job[place : place + n_buckets].view(np.uint64)
            results = job[place + n_buckets : place + step].view(np.float64)
            found = count(kind, address + start * itemsize, stop - start, (shift, tiny, huge), counts)
            results[0], results[1], results[2], results[3], results[4] = found

    return _compiled(partial(numba.cfunc, types.void(types.voidptr)))(work)
