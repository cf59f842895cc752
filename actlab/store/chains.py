"""`Chain`: the codecs of an array, and whether a chunk holds what they say before it is decoded. No zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, Self

import numpy as np
from numcodecs.zstd import Zstd

from actlab.errors import StoreError
from actlab.store.blosc import LARGEST_CHUNK, blosc_decode, blosc_header
from actlab.store.layout import unsealed

__all__ = ["ITEMSIZES", "Chain"]

_INTEGERS: Final = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
ITEMSIZES: Final = {"string": 8} | {
    name: np.dtype(name).itemsize for name in ("bool", *_INTEGERS, "float16", "float32", "float64")
}
"""Data types that an array may have -> bytes of an item; a string is taken as its pointer."""

_LARGEST_TEXT = 64 << 20
_ROOM = 64 << 10  # for what is larger compressed than before
_ENTRY = 16  # bytes of the index of a shard for each of its chunks
_ABSENT = 2**64 - 1
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_COMPRESSIONS = ("lz4", "lz4hc", "blosclz", "zstd", "snappy", "zlib")
_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")


@dataclass(frozen=True)
class Chain:
    """What the bytes of one chunk must be.

    Parameters
    ----------
    shape : tuple of int
        Shape of a chunk.
    itemsize : int or None
        Bytes of a value; None for text.
    compression : str or None
        `blosc`, `zstd` or nothing.
    is_sealed : bool
        Whether a CRC-32C comes last.
    inner : Chain or None
        What a shard is made of.
    """

    shape: tuple[int, ...]
    itemsize: int | None
    compression: str | None
    is_sealed: bool
    inner: Chain | None = None

    @classmethod
    def from_node(cls, node: Mapping[str, Any], *, may_shard: bool) -> Self | None:
        """Read the codecs of an array, whose dtype and chunks are sound; None if they are not allowed.

        Parameters
        ----------
        node : mapping
            Its metadata document.
        may_shard : bool
            Whether the run is closed, so that an array may be sharded.
        """
        chunks = node["chunk_grid"]["configuration"]["chunk_shape"]
        return cls._read(node["codecs"], tuple(chunks), node["data_type"], may_shard=may_shard)

    @classmethod
    def _read(
        cls, codecs: Sequence[Any], shape: tuple[int, ...], dtype: str, *, may_shard: bool
    ) -> Self | None:
        """Read a chain of codecs, of a chunk or within a shard."""
        if not all(map(_is_codec, codecs)):
            return None
        names = [codec["name"] for codec in codecs]
        found = [codec.get("configuration", {}) for codec in codecs]
        itemsize = None if dtype == "string" else ITEMSIZES[dtype]
        if names == ["sharding_indexed"]:
            inner = cls._inner(found[0], shape, dtype) if may_shard else None
            return None if inner is None else cls(shape, itemsize, None, is_sealed=False, inner=inner)
        if names[:1] == ["transpose"]:
            if not _is_order(found[0], len(shape)):
                return None
            names, found = names[1:], found[1:]
        is_sealed = names[-1:] == ["crc32c"]
        packing = names[1 : len(names) - is_sealed]
        serializer = "vlen-utf8" if dtype == "string" else "bytes"
        if names[:1] != [serializer] or packing not in ([], ["blosc"], ["zstd"]):
            return None
        checks = {"bytes": _is_bytes, "blosc": _is_blosc, "zstd": _is_zstd}
        if not all(checks.get(name, _is_empty)(each) for name, each in zip(names, found, strict=True)):
            return None
        return cls(shape, itemsize, packing[0] if packing else None, is_sealed)

    @classmethod
    def _inner(cls, configuration: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> Self | None:
        """Read what a shard is made of."""
        match configuration:
            case {
                "chunk_shape": [*chunks],
                "codecs": [*codecs],
                "index_codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "crc32c"},
                ],
                **rest,
            } if rest.get("index_location", "end") == "end" and len(chunks) == len(shape):
                is_sound = all(type(size) is int and size > 0 for size in chunks)
                if is_sound and not any(size % part for size, part in zip(shape, chunks, strict=True)):
                    return cls._read(codecs, tuple(chunks), dtype, may_shard=False)
        return None

    @property
    def nbytes(self) -> int:
        """Bytes of the values that are decoded together; of text, those of the pointers."""
        unit = self if self.inner is None else self.inner
        return prod(unit.shape) * (unit.itemsize or ITEMSIZES["string"])

    @property
    def most(self) -> int:
        """Bytes that a file can have at most."""
        if self.inner is not None:
            return self.index_size + prod(self._parts) * self.inner.most
        return _ROOM + (_LARGEST_TEXT if self.itemsize is None else self.nbytes)

    @property
    def index_size(self) -> int:
        """Bytes of the index at the end of a shard."""
        return _ENTRY * prod(self._parts) + 4

    @property
    def _parts(self) -> tuple[int, ...]:
        """How many chunks lie in a shard, along each dim."""
        assert self.inner is not None
        return tuple(size // part for size, part in zip(self.shape, self.inner.shape, strict=True))

    def check(self, data: bytes) -> None:
        """Check that a chunk is whole and holds as much as it must, before it is decoded.

        Raises
        ------
        StoreError
            If it is damaged, or says that it holds another amount of data; the reason only.
        """
        content = unsealed(data) if self.is_sealed else data
        size = None if self.itemsize is None else self.nbytes
        if self.compression == "blosc":
            held = blosc_header(content, size).nbytes
        else:
            held = len(content) if self.compression is None else _zstd_size(content)
        if size is None:
            self._check_text(content, held)
        elif held != size:
            raise StoreError(f"it says that it holds {held} bytes, expected {size}")

    def _check_text(self, content: bytes, held: int) -> None:
        """Check a chunk of strings: each must lie within it."""
        if held > _LARGEST_TEXT:
            raise StoreError(f"it says that it holds {held} bytes of text, expected {_LARGEST_TEXT} at most")
        if self.compression == "blosc":
            content = blosc_decode(content, held)
        elif self.compression == "zstd":
            content = _inflate(content)
        count, place = prod(self.shape), 4
        if content[:4] == count.to_bytes(4, "little") and 4 + 4 * count <= len(content):
            for _ in range(count):
                place += 4 + int.from_bytes(content[place : place + 4], "little")
            if place == len(content):
                return
        raise StoreError(f"it does not hold {count} strings")

    def check_index(self, data: bytes, first: Sequence[int], shape: Sequence[int]) -> list[tuple[int, int]]:
        """Check the index of a shard: a chunk that is missing would read as fill values.

        Parameters
        ----------
        data : bytes
            The index.
        first : sequence of int
            Index of the first value of the shard, along each dim.
        shape : sequence of int
            Shape of the array; a chunk that lies outside of it may be missing.

        Returns
        -------
        list of tuple
            First byte of each chunk that is there, and the one after its last.

        Raises
        ------
        StoreError
            If it is damaged, or a chunk is missing; the reason only.
        """
        assert self.inner is not None
        if len(data) != self.index_size:
            raise StoreError("it is too short to be a shard")
        entries = np.frombuffer(unsealed(data), "<u8").reshape(-1, 2)
        corners = np.indices(self._parts).reshape(len(shape), len(entries)).T * self.inner.shape + first
        is_there = (entries != _ABSENT).any(axis=1)
        if ((corners < shape).all(axis=1) & ~is_there).any():
            raise StoreError("half a run: a chunk of the shard is missing")
        return [(start, start + size) for start, size in entries[is_there].tolist()]

    def check_shard(self, data: bytes, first: Sequence[int], shape: Sequence[int]) -> None:
        """Check a whole shard; see `check_index` and `check`."""
        assert self.inner is not None
        for start, stop in self.check_index(data[-self.index_size :], first, shape):
            self.inner.check(data[start:stop])


def _zstd_size(data: bytes) -> int:
    """Return how much a frame of zstd says that it holds (RFC 8878, 3.1.1.1)."""
    if len(data) < 6 or data[:4] != _ZSTD_MAGIC:
        raise StoreError("it is no compressed data")
    is_single, flag = bool(data[4] & 0x20), data[4] >> 6
    width = (int(is_single), 2, 4, 8)[flag]
    place = 5 + (not is_single) + (0, 1, 2, 4)[data[4] & 3]
    field = data[place : place + width]
    if width == 0 or len(field) < width:
        raise StoreError("it does not say how much it holds")
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)


def _inflate(data: bytes) -> bytes:
    """Decompress what says how much it holds."""
    try:
        return bytes(Zstd().decode(data))
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"it cannot be decompressed: {error}") from error


def _is_codec(codec: Any) -> bool:
    match codec:
        case {"name": str(), **rest}:
            return isinstance(rest.get("configuration", {}), dict) and set(rest) <= {"configuration"}
    return False


def _is_order(configuration: Mapping[str, Any], ndim: int) -> bool:
    """Whether a transpose names every dim once."""
    match configuration:
        case {"order": [*order]}:
            return all(type(place) is int for place in order) and sorted(order) == list(range(ndim))
    return False


def _is_bytes(configuration: Mapping[str, Any]) -> bool:
    return configuration.get("endian", "little") in ("little", "big")


def _is_blosc(configuration: Mapping[str, Any]) -> bool:
    match configuration:
        case {"cname": str(name), "clevel": int(level), "shuffle": str(shuffle), "blocksize": int(block)}:
            is_known = name in _COMPRESSIONS and shuffle in _SHUFFLES
            return is_known and 0 <= level <= 9 and 0 <= block <= LARGEST_CHUNK
    return False


def _is_zstd(configuration: Mapping[str, Any]) -> bool:
    level, checksum = configuration.get("level", 0), configuration.get("checksum", False)
    return type(level) is int and -131072 <= level <= 22 and isinstance(checksum, bool)


def _is_empty(configuration: Mapping[str, Any]) -> bool:
    return not configuration
