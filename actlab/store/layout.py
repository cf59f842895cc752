"""Zarr v3 as actlab writes it: metadata, chunk grid, chunk bytes. Pure, no disk, no zarr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final, Self

import google_crc32c
import numpy as np
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

from actlab.errors import StoreError
from actlab.store.blosc import blosc_decode, blosc_encode, blosc_items

__all__ = [
    "CHANNEL_COORDINATES",
    "COORDINATES",
    "RAW_COORDINATES",
    "ROOT",
    "ROW_COORDINATES",
    "ArrayLayout",
    "chunk_key",
    "chunk_length",
    "group_node",
    "root_record",
    "to_json",
    "unsealed",
]

ROOT: Final = "zarr.json"
COORDINATES: Final = "epoch batch train_step attempt time lower upper"
RAW_COORDINATES: Final = "sample_step attempt"
ROW_COORDINATES: Final = "row_step row_attempt"
CHANNEL_COORDINATES: Final = "row_step row_attempt channel_layer channel_index"
_CRC32C: Final = {"name": "crc32c", "configuration": {}}
_VLEN: Final = {"name": "vlen-utf8", "configuration": {}}
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class ArrayLayout:
    """One array on disk: all that its `zarr.json` says, but for its shape.

    Parameters
    ----------
    dims : tuple of str
        Dimension names.
    dtype : str
        Zarr data type; ``"string"`` for text.
    fill : float, int or str
        Fill value as JSON: ``"NaN"`` for the float.
    chunks : tuple of int
        Shape of every chunk; the last one along each dimension is padded with the fill value.
    attributes : dict
        Attributes of the array.
    codecs : tuple of dict
        The codec chain; by default that of this version of the format.
    """

    dims: tuple[str, ...]
    dtype: str
    fill: float | int | str
    chunks: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    codecs: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.codecs:
            object.__setattr__(self, "codecs", _codecs(self.dims, self.dtype, self.chunks))

    @classmethod
    def from_node(cls, node: Mapping[str, Any]) -> Self | None:
        """Read the metadata document of an array, checked by itself; None if no actlab wrote its codecs."""
        dims, dtype = tuple(node["dimension_names"]), node["data_type"]
        chunks = tuple(node["chunk_grid"]["configuration"]["chunk_shape"])
        separator = node["chunk_key_encoding"]["configuration"]["separator"]
        # Who edits attributes by zarr leaves out what is empty.
        codecs = tuple({"configuration": {}} | codec for codec in node["codecs"])
        if codecs not in (_codecs(dims, dtype, chunks), _codecs_of_1_1(dims, dtype)) or separator != ".":
            return None
        return cls(dims, dtype, node["fill_value"], chunks, dict(node.get("attributes", {})), codecs)

    @property
    def is_text(self) -> bool:
        """Whether the array holds strings."""
        return self.dtype == "string"

    @property
    def is_by_column(self) -> bool:
        """Whether a chunk holds the entries of its second dim one after the other: `decode_columns` works."""
        name: str = self.codecs[0]["name"]
        return name == "transpose"

    def filled(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an array of `shape` that holds the fill value everywhere."""
        fill = float(self.fill) if self.fill == "NaN" else self.fill
        return np.full(shape, fill, dtype=object if self.is_text else self.dtype)

    def node(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the metadata document of the array at this shape (Zarr v3 core, section 4)."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunks)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": self.fill,
            "codecs": list(self.codecs),
            "attributes": self.attributes,
            "dimension_names": list(self.dims),
            "storage_transformers": [],
        }

    def encode(self, chunk: NDArray[Any]) -> bytes:
        """Return the bytes of one chunk, of exactly the chunk shape, under `codecs`."""
        if self.is_text:
            content: Any = bytes(VLenUTF8().encode(chunk))
        else:
            content = np.ascontiguousarray(self._as_stored(chunk), self._stored_dtype)
        data: bytes = content if self._blosc is None else blosc_encode(content, self._blosc)
        checksum: int = google_crc32c.value(data)
        return data + checksum.to_bytes(4, "little")

    def decode(self, data: bytes) -> NDArray[Any]:
        """Return the chunk [chunk shape] that `encode` made bytes of.

        Raises
        ------
        StoreError
            If the bytes are damaged, or say that they are another amount of data; the reason only.
        """
        content = unsealed(data)
        if self.is_text:
            return self._texts(content)
        values = np.frombuffer(blosc_decode(content, self._nbytes), self._stored_dtype)
        return self._as_read(values.reshape(self._stored_shape))

    def decode_columns(self, data: bytes, columns: NDArray[np.int64]) -> NDArray[Any]:
        """Return `decode(data)[:, columns]` of a chunk that is stored by column, at the cost of these alone.

        Raises
        ------
        StoreError
            As `decode`.
        """
        held, *rest = self._stored_shape
        parts = blosc_items(unsealed(data), self._nbytes, self._nbytes // held, columns)
        return self._as_read(parts.view(self._stored_dtype).reshape(columns.size, *rest))

    @property
    def _blosc(self) -> dict[str, Any] | None:
        """The configuration of the compression; text before format 1.2 has none."""
        found = (codec["configuration"] for codec in self.codecs if codec["name"] == "blosc")
        return next(found, None)

    @property
    def _stored_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        """Shape of a chunk in the order of its bytes."""
        return (*self.chunks[1:], self.chunks[0]) if self.is_by_column else self.chunks

    @property
    def _nbytes(self) -> int:
        """Bytes of a chunk of numbers before compression."""
        return prod(self.chunks) * self._stored_dtype.itemsize

    def _as_stored(self, chunk: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a chunk in the order of its bytes."""
        return np.moveaxis(chunk, 0, -1) if self.is_by_column else chunk

    def _as_read(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return a view of stored values in the order of the dims."""
        return np.moveaxis(stored, -1, 0) if self.is_by_column else stored

    def _texts(self, content: bytes) -> NDArray[Any]:
        """Return a chunk of strings."""
        if self._blosc is not None:
            content = blosc_decode(content, None)
        count = prod(self.chunks)
        if not _are_texts(content, count):
            raise StoreError(f"it does not hold {count} strings")
        try:
            texts: NDArray[Any] = np.asarray(VLenUTF8().decode(content), object).reshape(self.chunks)
        except ValueError as error:
            raise StoreError(f"it does not hold {count} strings: {error}") from error
        return texts


def _codecs(dims: tuple[str, ...], dtype: str, chunks: tuple[int, ...]) -> tuple[dict[str, Any], ...]:
    """Return the codec chain of an array: a checksum always comes last."""
    if dtype == "string":
        blosc = {"typesize": 1, "cname": "zstd", "clevel": 1, "shuffle": "noshuffle", "blocksize": 0}
        return _VLEN, {"name": "blosc", "configuration": blosc}, _CRC32C
    if not _is_counts(dims, dtype):
        return _codecs_of_1_1(dims, dtype)
    # Rows side by side in each bucket compress best; blocks of whole columns can be read alone.
    order = {"name": "transpose", "configuration": {"order": [*range(1, len(dims)), 0]}}
    column = prod(chunks) // chunks[1] * np.dtype(dtype).itemsize
    block = column * max(1, _BLOCK // column)
    return order, *_codecs_of_1_1(dims, dtype, block)


def _codecs_of_1_1(dims: tuple[str, ...], dtype: str, block: int = 0) -> tuple[dict[str, Any], ...]:
    """Return the codec chain that format 1.1 gave every array, in blocks of so many bytes."""
    if dtype == "string":
        return _VLEN, _CRC32C
    blosc = {
        "typesize": np.dtype(dtype).itemsize,
        "cname": "zstd",
        "clevel": 1,
        # Bits rather than bytes: better for many small integers.
        "shuffle": "bitshuffle" if _is_counts(dims, dtype) else "shuffle",
        "blocksize": block,
    }
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    return little, {"name": "blosc", "configuration": blosc}, _CRC32C


def _is_counts(dims: tuple[str, ...], dtype: str) -> bool:
    """Whether an array holds counts by bucket."""
    return len(dims) > 2 and "bucket" in dims and np.dtype(dtype).kind == "u"


def chunk_length(entry: tuple[int, ...], itemsize: int, limit: int, most: int) -> int:
    """Return how many entries share a chunk: the largest power of two within the limits.

    Parameters
    ----------
    entry : tuple of int
        Shape of one entry, padded as in the chunk.
    itemsize : int
        Bytes of one element.
    limit : int
        Bytes of an uncompressed chunk, unless one entry alone is larger.
    most : int
        Largest number of entries, a power of two.
    """
    fitting = max(1, min(most, limit // (prod(entry) * itemsize)))
    return 1 << (fitting.bit_length() - 1)


def chunk_key(index: tuple[int, ...]) -> str:
    """Return the file name of a chunk within its array: ``c.0.1``."""
    return ".".join(("c", *map(str, index)))


def group_node(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata document of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def root_record(attributes: Mapping[str, Any], nodes: Mapping[str, dict[str, Any]]) -> bytes:
    """Return the root `zarr.json`, the commit record: attributes and every node below it.

    Parameters
    ----------
    attributes : mapping
        The root attribute ``actlab``.
    nodes : mapping of str to dict
        Path below the root -> metadata document.
    """
    # Zarr finds the children of a group only where those of one depth stand side by side.
    ordered = dict(sorted(nodes.items(), key=lambda item: item[0].rpartition("/")[0]))
    consolidated = {"kind": "inline", "must_understand": False, "metadata": ordered}
    return to_json(group_node({"actlab": attributes}) | {"consolidated_metadata": consolidated})


def to_json(document: Mapping[str, Any]) -> bytes:
    """Return a metadata document as strict JSON."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def unsealed(data: bytes) -> bytes:
    """Return the content of a chunk before its checksum.

    Raises
    ------
    StoreError
        If the checksum does not match.
    """
    content = data[:-4]
    if len(data) < 4 or google_crc32c.value(content) != int.from_bytes(data[-4:], "little"):
        raise StoreError("its checksum does not match")
    return content


def _are_texts(content: bytes, count: int) -> bool:
    """Whether bytes are so many strings, each after its length, as `vlen-utf8` writes them."""
    if len(content) < 4 or int.from_bytes(content[:4], "little") != count or count > len(content):
        return False
    place = 4
    for _ in range(count):
        place += 4 + int.from_bytes(content[place : place + 4], "little")
    return place == len(content)
