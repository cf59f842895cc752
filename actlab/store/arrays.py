"""Arrays that grow: chunks in memory until they are written, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actlab.schema import COUNTS, HEAD, VALUES, Variable
from actlab.store.layout import ArrayLayout, chunk_key, chunk_length, group_node

__all__ = ["ArrayGroup", "GrowingArray", "cut", "roomy"]

# A partial chunk is written again by every commit, so the many small arrays get small chunks.
_BIG_CHUNK, _SMALL_CHUNK = 4 << 20, 256 << 10
_BIG = (COUNTS.name, HEAD.name, VALUES.name)
_MOST_ROWS, _MOST_SAMPLES = 1 << 10, 1 << 14
_TIME_UNITS = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}


class GrowingArray:
    """One array that grows along its first dimension, and may widen along its second.

    Only the last, partial chunk is kept, besides the encoded chunks in `files` (file name ->
    bytes), which whoever writes them removes one by one.

    Parameters
    ----------
    layout : ArrayLayout
        Dims, dtype, fill and chunks.
    shape : tuple of int
        Shape to begin with; what it spans holds the fill value.
    """

    def __init__(self, layout: ArrayLayout, shape: tuple[int, ...]) -> None:
        self.layout = layout
        self.shape = shape
        self.files: dict[str, bytes] = {}
        self._columns = self._columns_of(shape)
        self._tail = self._empty_tail()
        self._unsaved = shape[0] % layout.chunks[0] > 0
        self._write_filler(range(self._columns))

    def extend(self, block: NDArray[Any]) -> None:
        """Append entries [k, ...]; a block narrower than the array is padded with the fill value."""
        length = self.layout.chunks[0]
        while len(block) > 0:
            start = self.shape[0] % length
            part = block[: length - start]
            place = (slice(start, start + len(part)), *map(slice, part.shape[1:]))
            self._tail[place] = part
            self.shape = (self.shape[0] + len(part), *self.shape[1:])
            self._unsaved = True
            if start + len(part) == length:
                self._encode(self.shape[0] // length - 1)
                self._tail = self._empty_tail()
            block = block[len(part) :]

    def extend_filled(self, count: int) -> None:
        """Append `count` entries of the fill value."""
        self.extend(self.layout.filled((count, *self.shape[1:])))

    def widen(self, size: int) -> None:
        """Let the second dimension grow to `size`; earlier entries read the fill value there."""
        self.shape = (self.shape[0], size, *self.shape[2:])
        before, self._columns = self._columns, self._columns_of(self.shape)
        if self._columns == before:
            return
        old, self._tail = self._tail, self._empty_tail()
        self._tail[:, : old.shape[1]] = old
        self._unsaved = self.shape[0] % self.layout.chunks[0] > 0
        self._write_filler(range(before, self._columns))

    def encode(self) -> dict[str, bytes]:
        """Encode the partial chunk, if it changed, and return all files to be written."""
        if self._unsaved:
            self._encode(self.shape[0] // self.layout.chunks[0])
        return self.files

    def _columns_of(self, shape: tuple[int, ...]) -> int:
        """Count the chunks along the second dimension; every further one has a single chunk."""
        return -(-shape[1] // self.layout.chunks[1]) if len(shape) > 1 else 1

    def _empty_tail(self) -> NDArray[Any]:
        """Return the partial chunks of all columns side by side, filled."""
        length, *rest = self.layout.chunks
        if rest:
            rest[0] *= self._columns
        return self.layout.filled((length, *rest))

    def _encode(self, number: int) -> None:
        """Encode the tail as the chunks with this number along the first dimension."""
        for column in range(self._columns):
            self.files[self._key(number, column)] = self.layout.encode(self._column(column))
        self._unsaved = False

    def _column(self, column: int) -> NDArray[Any]:
        """Return the part of the tail that is one chunk."""
        if self._tail.ndim == 1:
            return self._tail
        width = self.layout.chunks[1]
        return self._tail[:, column * width : (column + 1) * width]

    def _write_filler(self, columns: range) -> None:
        """Write whole chunks of the fill value: a chunk is never missing."""
        full = self.shape[0] // self.layout.chunks[0]
        if full > 0 and len(columns) > 0:
            filler = self.layout.encode(self.layout.filled(self.layout.chunks))
            self.files |= {self._key(number, column): filler for number in range(full) for column in columns}

    def _key(self, number: int, column: int) -> str:
        """Return the file name of a chunk."""
        return chunk_key((number, column, *(0 for _ in self.layout.chunks[2:]))[: len(self.layout.chunks)])


class ArrayGroup:
    """The arrays of one group, which grow together.

    Parameters
    ----------
    attributes : mapping
        Attributes of the group.
    sizes : mapping of str to int
        Lengths of the dims that do not grow with the rows.
    widths : mapping of str to int, optional
        Lengths of a chunk along them, where they are not the sizes: room to grow, or a cut.

    Attributes
    ----------
    arrays : dict
        Name -> array.
    sizes : dict
        The lengths now.
    """

    def __init__(
        self, attributes: Mapping[str, str], sizes: Mapping[str, int], widths: Mapping[str, int] | None = None
    ) -> None:
        self.arrays: dict[str, GrowingArray] = {}
        self.sizes = dict(sizes)
        self._widths = dict(sizes) | dict(widths or {})
        self._attributes = attributes

    def create(
        self, variable: Variable, length: int = 0, attributes: Mapping[str, str] | None = None
    ) -> None:
        """Create an array with `length` entries of its fill value."""
        first, *others = variable.dims
        entry = tuple(self._widths[dim] for dim in others)
        if first in self._widths:
            longest = self._widths[first]
        else:
            limit = _BIG_CHUNK if variable.name in _BIG else _SMALL_CHUNK
            most = _MOST_ROWS if variable.name == COUNTS.name else _MOST_SAMPLES
            longest = chunk_length(entry, np.dtype(variable.dtype).itemsize, limit, most)
        attributes = {"long_name": variable.description} | (_TIME_UNITS if variable.name == "time" else {})
        layout = ArrayLayout(variable.dims, variable.dtype, variable.fill, (longest, *entry), attributes)
        shape = (length, *(self.sizes[dim] for dim in others))
        self.arrays[variable.name] = GrowingArray(layout, shape)

    def add_sizes(self, sizes: Mapping[str, int]) -> None:
        """Tell the lengths of dims that are new."""
        self.sizes |= sizes
        self._widths |= sizes

    def extend(self, blocks: Mapping[str, Any]) -> None:
        """Append a block of entries [k, ...] to each of the arrays named."""
        for name, block in blocks.items():
            self.arrays[name].extend(np.asarray(block))

    def widen(self, dim: str, size: int) -> None:
        """Let a dim grow to `size`, in every array that has it second."""
        self.sizes[dim] = size
        for array in self.arrays.values():
            if array.layout.dims[1:2] == (dim,):
                array.widen(size)

    def nodes(self, path: str) -> dict[str, dict[str, Any]]:
        """Return the metadata documents of the group and its arrays, by path."""
        arrays = {f"{path}/{name}": array.layout.node(array.shape) for name, array in self.arrays.items()}
        return {path: group_node(self._attributes)} | arrays


def cut(shape: tuple[int, ...], itemsize: int) -> int:
    """Return the length of a chunk along the first dim of an entry, so that it stays within 4 MiB."""
    return min(shape[0], chunk_length(shape[1:], itemsize, _BIG_CHUNK, 1 << shape[0].bit_length()))


def roomy(size: int) -> int:
    """Return the length of a chunk along a dim that may grow later: with an eighth to spare."""
    return max(-(-(size + size // 8) // 8) * 8, 8)
