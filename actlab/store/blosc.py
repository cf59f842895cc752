"""Blosc buffers: made by numcodecs, their headers read before anything is decompressed.

The header is that of c-blosc 1 (README_HEADER.rst): version, version of the codec, flags, size of
an item, then as uint32 the bytes before compression, those of a block, and those of the buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numcodecs.blosc import Blosc

from actlab.errors import StoreError

__all__ = ["LARGEST_CHUNK", "blosc_decode", "blosc_encode", "blosc_header", "blosc_part"]

LARGEST_CHUNK: Final = 256 << 20
"""Bytes of a chunk before compression."""

_HEADER: Final = struct.Struct("<BBBBIII")
_SHUFFLES: Final = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
_FORMAT_VERSION: Final = 2
_MEMCPYED, _NOT_SPLIT = 0x02, 0x10


class _Header(NamedTuple):
    version: int
    codec_version: int
    flags: int
    itemsize: int
    nbytes: int
    blocksize: int
    size: int

    @property
    def is_copy(self) -> bool:
        """Whether the values follow the header as they are."""
        return bool(self.flags & _MEMCPYED)

    @property
    def n_blocks(self) -> int:
        return -(-self.nbytes // self.blocksize)


def blosc_encode(data: Any, configuration: Mapping[str, Any]) -> bytes:
    """Compress an array or bytes as the configuration of the codec in Zarr's metadata says."""
    shuffle = _SHUFFLES[configuration["shuffle"]]
    codec = Blosc(configuration["cname"], configuration["clevel"], shuffle, configuration["blocksize"])
    return bytes(codec.encode(data))


def blosc_decode(data: bytes, nbytes: int | None) -> bytes:
    """Decompress a buffer that must hold so many bytes, up to 256 MiB where that is not known.

    Raises
    ------
    StoreError
        If it says that it holds another amount, or cannot be decompressed.
    """
    blosc_header(data, nbytes)
    try:
        return bytes(Blosc().decode(data))
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"it cannot be decompressed: {error}") from error


def blosc_part(data: bytes, nbytes: int, first: int, stop: int) -> memoryview:
    """Decompress the bytes [first, stop) of a buffer, and of the rest only what shares their blocks.

    Raises
    ------
    StoreError
        As `blosc_decode`.
    """
    header = blosc_header(data, nbytes)
    if header.is_copy:
        return memoryview(data)[_HEADER.size + first : _HEADER.size + stop]
    if not header.flags & _NOT_SPLIT:
        return memoryview(blosc_decode(data, nbytes))[first:stop]
    begin, end = first // header.blocksize, -(-stop // header.blocksize)
    starts = np.frombuffer(data, "<u4", header.n_blocks, _HEADER.size)[begin:end].tolist()
    sizes = [4 + int.from_bytes(data[start : start + 4], "little") for start in starts]
    # A buffer of these blocks alone: each one was compressed for itself.
    held = min(nbytes, end * header.blocksize) - begin * header.blocksize
    offset = _HEADER.size + 4 * len(starts)
    places = offset + np.cumsum([0, *sizes[:-1]], dtype="<u4")
    alone = header._replace(nbytes=held, blocksize=min(held, header.blocksize), size=offset + sum(sizes))
    blocks = (data[start : start + size] for start, size in zip(starts, sizes, strict=True))
    found = blosc_decode(b"".join((_HEADER.pack(*alone), places.astype("<u4").tobytes(), *blocks)), held)
    skipped = begin * header.blocksize
    return memoryview(found)[first - skipped : stop - skipped]


def blosc_header(data: bytes, nbytes: int | None) -> _Header:
    """Read the header of a buffer that is as long as it says and holds what is expected."""
    if len(data) < _HEADER.size:
        raise StoreError("it is too short to be compressed data")
    header = _Header(*_HEADER.unpack_from(data))
    if header.version != _FORMAT_VERSION or header.size != len(data):
        raise StoreError("it is no compressed data")
    if header.nbytes > LARGEST_CHUNK or header.nbytes != (header.nbytes if nbytes is None else nbytes):
        raise StoreError(f"it says that it holds {header.nbytes} bytes, expected {nbytes or LARGEST_CHUNK}")
    if header.nbytes and not 0 < header.blocksize <= header.nbytes:
        raise StoreError(f"its blocks are of {header.blocksize} bytes, it holds {header.nbytes}")
    if header.is_copy:
        sound = header.size == _HEADER.size + header.nbytes
    else:
        sound = header.nbytes > 0 and _are_blocks(data, header)
    if not sound:
        raise StoreError("its blocks do not lie within it")
    return header


def _are_blocks(data: bytes, header: _Header) -> bool:
    """Whether all blocks begin behind the header, and their first parts end within the buffer."""
    offset = _HEADER.size + 4 * header.n_blocks
    if offset > header.size:
        return False
    starts = np.frombuffer(data, "<u4", header.n_blocks, _HEADER.size).astype(np.int64)
    if starts.min() < offset or starts.max() > header.size - 4:
        return False
    octets = np.frombuffer(data, np.uint8)
    sizes = (octets[starts[:, None] + np.arange(4)].astype(np.int64) << (8 * np.arange(4))).sum(axis=1)
    return bool((starts + 4 + sizes <= header.size).all())
