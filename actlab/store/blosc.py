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
from numpy.typing import NDArray

from actlab.errors import StoreError

__all__ = ["LARGEST_CHUNK", "blosc_decode", "blosc_encode", "blosc_header", "blosc_items"]

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


def blosc_items(data: bytes, nbytes: int, size: int, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Decompress items of `size` bytes of a buffer, and of the rest only what shares their blocks.

    Parameters
    ----------
    data : bytes
        The buffer.
    nbytes : int
        Bytes it must hold.
    size : int
        Bytes of an item.
    numbers : numpy.ndarray
        int64 [item]: which ones, at least one, in any order.

    Returns
    -------
    numpy.ndarray
        uint8 [item, byte].

    Raises
    ------
    StoreError
        As `blosc_decode`.
    """
    header = blosc_header(data, nbytes)
    starts = numbers * size
    if header.is_copy:
        found = memoryview(data)[_HEADER.size :]
    elif not header.flags & _NOT_SPLIT:
        found = memoryview(blosc_decode(data, nbytes))
    else:
        is_needed = np.zeros(header.n_blocks + 1, np.int64)
        np.add.at(is_needed, starts // header.blocksize, 1)
        np.add.at(is_needed, (starts + size - 1) // header.blocksize + 1, -1)
        blocks = np.flatnonzero(np.cumsum(is_needed)[:-1])
        found = memoryview(_decode_blocks(data, header, blocks))
        first = starts // header.blocksize
        starts = starts + (np.searchsorted(blocks, first) - first) * header.blocksize
    octets = np.frombuffer(found, np.uint8)
    if (np.diff(starts) == size).all():
        return octets[starts[0] : starts[0] + numbers.size * size].reshape(-1, size)
    return np.stack([octets[start : start + size] for start in starts])


def _decode_blocks(data: bytes, header: _Header, blocks: NDArray[np.int64]) -> bytes:
    """Decompress some blocks of a buffer, ascending: alone they make a buffer, too."""
    starts = np.frombuffer(data, "<u4", header.n_blocks, _HEADER.size)[blocks].tolist()
    sizes = [4 + int.from_bytes(data[start : start + 4], "little") for start in starts]
    places = _HEADER.size + 4 * len(starts) + np.cumsum([0, *sizes])
    missing = max(0, (int(blocks[-1]) + 1) * header.blocksize - header.nbytes)  # of the last block of all
    held = len(starts) * header.blocksize - missing
    alone = header._replace(nbytes=held, blocksize=min(held, header.blocksize), size=int(places[-1]))
    parts = (data[start : start + size] for start, size in zip(starts, sizes, strict=True))
    return blosc_decode(b"".join((_HEADER.pack(*alone), places[:-1].astype("<u4").tobytes(), *parts)), held)


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
