"""The chunks of a run as zarr and dask read them: checked before they are decoded, and one layer alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from copy import copy
from itertools import product
from math import prod
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from actlab.errors import StoreError
from actlab.store.layout import ROOT, ArrayLayout, chunk_key
from actlab.store.record import Record
from actlab.store.sources import Source

__all__ = ["Blocks", "SnapshotStore"]

_Numbers: TypeAlias = NDArray[np.int64]

# Bytes that dask reads as one: what it does with smaller blocks would cost more than to read them, and
# malloc may give their memory back after each, so that every page is mapped anew: twice the time.
_TASK = 30 << 20
_CHUNK, _NUMBER = re.compile(r"(.+?)/c((?:[./]\d+)*)"), re.compile(r"\d+")


class SnapshotStore(Store):
    """The chunks of a run under one root record, read only: one that is missing or damaged is an error.

    Parameters
    ----------
    source : Source
        Where the run is.
    record : Record
        Its root record, read once.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, source: Source, record: Record) -> None:
        super().__init__(read_only=True)
        self.source, self.record = source, record

    def __eq__(self, other: object) -> bool:
        """Whether both show the same commit."""
        if not isinstance(other, SnapshotStore):
            return False
        return (other.source.label, other.record.data) == (self.source.label, self.record.data)

    def __hash__(self) -> int:
        return hash((self.source.label, self.record.data))

    def chunk(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read a chunk or a part of a shard, and check what it says that it holds.

        Parameters
        ----------
        key : str
            Path of the chunk below the root.
        start, stop : int, optional
            As of `Source.read`.

        Raises
        ------
        StoreError
            With the path of the run: if it is missing, no chunk, or damaged.
        """
        name, index = _place(key)
        node, chain = self.record.nodes[name], self.record.chains[name]
        first = [number * size for number, size in zip(index, chain.shape, strict=True)]
        end = start + chain.most + 1 if stop is None and start >= 0 else stop
        try:
            data = self.source.read(key, start, end)
        except FileNotFoundError:
            raise StoreError(f"{self.source.label}: half a run: the chunk {key!r} is missing") from None
        except StoreError as error:
            raise self._no_chunk(key) from error
        except OSError as error:
            raise StoreError(f"{self.source.label}: the chunk {key!r} cannot be read: {error}") from error
        if len(data) > chain.most:
            raise self._no_chunk(key)
        try:
            if chain.inner is None:
                chain.check(data)
            elif (start, stop) == (0, None):
                chain.check_shard(data, first, node["shape"])
            elif start < 0:
                chain.check_index(data, first, node["shape"])
            else:
                chain.inner.check(data)
        except StoreError as error:
            raise self.damage(key, error) from error
        return data

    def damage(self, key: str, reason: Exception) -> StoreError:
        """Say that a chunk is damaged."""
        return StoreError(f"{self.source.label}: the chunk {key!r} is damaged, {reason}")

    def _no_chunk(self, key: str) -> StoreError:
        """Say that a file is something else."""
        return StoreError(f"{self.source.label}: {key!r} is no chunk, but something else or too large")

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a chunk, or the root record as it was; whatever else there is does not count."""
        if key == ROOT:
            data = self.record.data
        elif _place(key)[0] not in self.record.chains:  # other metadata: all of it is in the root record
            return None
        else:
            match byte_range:
                case RangeByteRequest(start, end):
                    data = self.chunk(key, start, end)
                case OffsetByteRequest(offset):
                    data = self.chunk(key, offset)
                case SuffixByteRequest(suffix):
                    data = self.chunk(key, -suffix)
                case _:
                    data = self.chunk(key)
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a chunk; see `get_sync`."""
        return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read parts of chunks, one after the other."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        return key == ROOT or key in await asyncio.to_thread(self.source.sizes)

    async def list(self) -> AsyncIterator[str]:
        """Yield all files."""
        for name in await asyncio.to_thread(self.source.sizes):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the files whose path starts with a prefix."""
        async for name in self.list():
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names right below a prefix."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        below = [name.removeprefix(start) async for name in self.list_prefix(start)]
        for name in dict.fromkeys(name.partition("/")[0] for name in below):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        raise TypeError(f"{key!r}, {len(value)} bytes: a run that was opened is read only")

    async def delete(self, key: str) -> None:
        """Refuse."""
        raise TypeError(f"{key!r}: a run that was opened is read only")


class Blocks:
    """An array as dask reads it: whatever fails on the way is a `StoreError`.

    What one actlab wrote is decoded without zarr, and of chunks that hold one column after the other
    only the columns that are asked for.

    Parameters
    ----------
    store : SnapshotStore
        The chunks.
    name : str
        Path of the array.
    variable : xarray.Variable
        Its data, not read yet.
    places : numpy.ndarray, optional
        int64, ascending: the entries along the first dim that are shown; all by default.

    Attributes
    ----------
    chunks : tuple of tuple of int
        Lengths of what one task reads along each dim: whole chunks, several of small ones.
    """

    def __init__(
        self,
        store: SnapshotStore,
        name: str,
        variable: xr.Variable,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        self._store, self._name, self._variable, self._places = store, name, variable, places
        self._columns: NDArray[np.int64] | None = None
        layout = ArrayLayout.from_node(store.record.nodes[name])
        self._layout = layout if layout is not None and layout.is_by_column else None
        # Of shards, too, the files: what is wanted of them is read alone, but all of it at once.
        lengths = store.record.chains[name].shape
        held = prod(map(min, variable.shape[1:], lengths[1:])) * variable.dtype.itemsize
        lengths = (*(each * max(1, _TASK // (each * held or 1)) for each in lengths[:1]), *lengths[1:])
        self.chunks = tuple(
            _lengths(size, length) for size, length in zip(variable.shape, lengths, strict=True)
        )
        if places is not None:
            rows = np.bincount(places // lengths[0])
            self.chunks = (tuple(rows[rows > 0].tolist()) or (0,), *self.chunks[1:])
        self.ndim, self.dtype = variable.ndim, variable.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dims."""
        return tuple(map(sum, self.chunks))

    def take(self, columns: NDArray[np.int64]) -> Blocks:
        """Return the array of some entries along the second dim, in this order, in one chunk there."""
        taken = copy(self)
        taken._columns = columns if self._columns is None else self._columns[columns]
        taken.chunks = (self.chunks[0], (columns.size,), *self.chunks[2:])
        return taken

    def __getitem__(self, key: Any) -> Any:
        """Read a block: whole numbers and ranges along each dim."""
        if self._columns is not None:
            key = (key[0], self._columns[key[1]], *key[2:])
        if self._places is None:
            return self._checked(key)
        first, *rest = key
        rows = self._places[first]
        if np.ndim(rows) == 0:
            return self._checked((int(rows), *rest))
        if rows.size == 0:
            return self._checked((slice(0, 0), *rest))
        return self._checked((slice(int(rows[0]), int(rows[-1]) + 1), *rest))[rows - rows[0]]

    def _checked(self, key: tuple[Any, ...]) -> Any:
        """Read a block of all entries."""
        try:
            if self._layout is not None and _is_plain(key):
                return self._read(self._layout, key)
            if self._columns is None or not (isinstance(key[1], np.ndarray) and key[1].size):
                return self._variable[key].values
            # Zarr takes longer for a list than for each by itself.
            parts = [self._variable[key[0], column, *key[2:]].values for column in key[1]]
            return np.stack(parts, axis=int(isinstance(key[0], slice)))
        except StoreError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            where = f"{self._store.source.label}: {self._name!r}"
            raise StoreError(f"{where} cannot be read: {type(error).__name__}: {reason}") from error

    def _read(self, layout: ArrayLayout, key: tuple[Any, ...]) -> NDArray[Any]:
        """Read whole numbers and ranges along each dim, along the second a list of them, too."""
        wanted = [_numbers(each, size) for each, size in zip(key, self._variable.shape, strict=True)]
        found = np.empty([each.size for each in wanted], self.dtype)
        parts = [list(_parts(each, size)) for each, size in zip(wanted, layout.chunks, strict=True)]
        for chosen in product(*parts):
            index, inside, out = zip(*chosen, strict=True)
            file = f"{self._name}/{chunk_key(index)}"
            data = self._store.chunk(file)
            try:
                part = layout.decode_columns(data, inside[1])
            except StoreError as error:
                raise self._store.damage(file, error) from error
            rows, _, *others = map(_as_range, inside)
            found[tuple(map(_as_range, out))] = part[rows, :, *others]
        return found[tuple(0 if isinstance(each, int | np.integer) else slice(None) for each in key)]


def _place(key: str) -> tuple[str, list[int]]:
    """Return the array that a chunk belongs to, and the chunk's number along each dim."""
    found = _CHUNK.fullmatch(key)
    return ("", []) if found is None else (found[1], [int(number) for number in _NUMBER.findall(found[2])])


def _lengths(size: int, length: int) -> tuple[int, ...]:
    """Return the lengths of the chunks of a dim."""
    whole, rest = divmod(size, length)
    return (length,) * whole + (rest,) * (rest > 0 or size == 0)


def _is_plain(key: tuple[Any, ...]) -> bool:
    """Whether a key is made of whole numbers from 0 and of ranges without steps, second also of a list."""
    return all(
        (each.step in (None, 1) and min(each.start or 0, each.stop or 0) >= 0)
        if isinstance(each, slice)
        else isinstance(each, int | np.integer) and each >= 0
        for dim, each in enumerate(key)
        if not (dim == 1 and isinstance(each, np.ndarray))
    )


def _numbers(key: Any, size: int) -> _Numbers:
    """Return the entries along a dim that a part of a key selects."""
    if isinstance(key, slice):
        return np.arange(*key.indices(size))
    numbers = np.atleast_1d(key)
    if (numbers >= size).any():
        raise IndexError(f"{numbers.max()} is beyond {size}")
    return numbers


def _parts(wanted: _Numbers, size: int) -> Iterator[tuple[int, _Numbers, _Numbers]]:
    """Yield for each chunk of a dim its number, the entries wanted of it, and their places among all."""
    chunk = wanted // size
    for number in np.unique(chunk).tolist():
        places = np.flatnonzero(chunk == number)
        yield number, wanted[places] - number * size, places


def _as_range(numbers: _Numbers) -> slice | _Numbers:
    """Return numbers as a slice where they are one: numpy copies it much faster."""
    first, stop = int(numbers[0]), int(numbers[0]) + numbers.size
    return slice(first, stop) if (np.diff(numbers) == 1).all() else numbers
