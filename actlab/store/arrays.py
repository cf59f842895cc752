"""Arrays that grow: chunks in memory until they are written, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actlab.errors import StoreError
from actlab.schema import COUNTS, HEAD, HEAD_COUNTS, VALUES, Variable
from actlab.store.layout import ArrayLayout, chunk_key, chunk_length, group_node

__all__ = ["ArrayGroup", "GrowingArray", "Read", "cut", "read_column", "roomy"]

Read: TypeAlias = Callable[[str], bytes]
"""Returns a file of the run, by its path below the root."""

# A partial chunk is written again by every commit, so the many small arrays get small chunks.
# Counts compress the better the more rows share a chunk: 8 of 64 layers.
_LARGEST_CHUNK, _BIG_CHUNK, _SMALL_CHUNK = 8 << 20, 4 << 20, 256 << 10
_BIG = (HEAD_COUNTS.name, HEAD.name, VALUES.name)
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

    @classmethod
    def load(cls, name: str, node: Mapping[str, Any], read: Read) -> Self:
        """Return an array as it was committed; what was written behind its last entry is left out.

        Parameters
        ----------
        name : str
            Path of the array below the root.
        node : mapping
            Its metadata document, checked by itself.
        read : callable
            Returns its files.

        Raises
        ------
        StoreError
            If its last chunk is missing or damaged, or its layout is one that is only read.
        OSError
            If the disk refuses.
        """
        layout, shape = _layout(name, node), tuple(node["shape"])
        if any(size > chunk for size, chunk in zip(shape[2:], layout.chunks[2:], strict=True)):
            raise StoreError(f"{name!r} is cut into chunks {layout.chunks}, which can only be read")
        array = cls(layout, (0, *shape[1:]))
        array.shape = shape
        number, kept = divmod(shape[0], layout.chunks[0])
        if kept > 0:
            for column in range(array._columns):
                chunk = _chunk(f"{name}/{array._key(number, column)}", layout, read)
                array._column(column)[:kept] = chunk[:kept]
        return array

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
    attributes : mapping
        Attributes of the group.
    sizes : dict
        The lengths now.
    """

    def __init__(
        self, attributes: Mapping[str, str], sizes: Mapping[str, int], widths: Mapping[str, int] | None = None
    ) -> None:
        self.arrays: dict[str, GrowingArray] = {}
        self.sizes = dict(sizes)
        self._widths = dict(sizes) | dict(widths or {})
        self.attributes = attributes

    @classmethod
    def load(cls, path: str, nodes: Mapping[str, Mapping[str, Any]], read: Read) -> Self:
        """Return a group as it was committed.

        Parameters
        ----------
        path : str
            Path of the group below the root.
        nodes : mapping
            Path below the root -> metadata document of every group and array.
        read : callable
            Returns the files of the run.

        Raises
        ------
        StoreError, OSError
            As `GrowingArray.load`.
        """
        group = cls(dict(nodes[path].get("attributes", {})), {})
        for name, node in nodes.items():
            parent, _, own = name.rpartition("/")
            if parent == path and node["node_type"] == "array":
                array = group.arrays[own] = GrowingArray.load(name, node, read)
                group.sizes |= zip(array.layout.dims[1:], array.shape[1:], strict=True)
                group._widths |= zip(array.layout.dims[1:], array.layout.chunks[1:], strict=True)
        return group

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
            limit = _LARGEST_CHUNK if variable == COUNTS else limit
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
        return {path: group_node(self.attributes)} | arrays


def read_column(name: str, node: Mapping[str, Any], read: Read) -> NDArray[Any]:
    """Return a whole array of one dim [k].

    Parameters
    ----------
    name : str
        Path of the array below the root.
    node : mapping
        Its metadata document, checked by itself.
    read : callable
        Returns its files.

    Raises
    ------
    StoreError, OSError
        As `GrowingArray.load`.
    """
    layout, (size,) = _layout(name, node), node["shape"]
    numbers = range(-(-size // layout.chunks[0]))
    chunks = [_chunk(f"{name}/{chunk_key((number,))}", layout, read) for number in numbers]
    return np.concatenate([layout.filled((0,)), *chunks])[:size]


def _layout(name: str, node: Mapping[str, Any]) -> ArrayLayout:
    """Return the layout of an array that is to grow on."""
    if (layout := ArrayLayout.from_node(node)) is None:
        raise StoreError(f"{name!r} is stored in a way that can only be read, not gone on with")
    return layout


def _chunk(name: str, layout: ArrayLayout, read: Read) -> NDArray[Any]:
    """Read a chunk."""
    try:
        return layout.decode(read(name))
    except FileNotFoundError:
        raise StoreError(f"half a run: the chunk {name!r} is missing") from None
    except StoreError as error:
        raise StoreError(f"the chunk {name!r} is damaged: {error}") from error


def cut(shape: tuple[int, ...], itemsize: int) -> int:
    """Return the length of a chunk along the first dim of an entry, so that it stays within 4 MiB."""
    return min(shape[0], chunk_length(shape[1:], itemsize, _BIG_CHUNK, 1 << shape[0].bit_length()))


def roomy(size: int) -> int:
    """Return the length of a chunk along a dim that may grow later: with an eighth to spare."""
    return max(-(-(size + size // 8) // 8) * 8, 8)
