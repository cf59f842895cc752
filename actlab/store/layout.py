"""Zarr v3 as actlab writes it: metadata, chunk grid, chunk bytes. Pure, no disk, no zarr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

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
]

ROOT: Final = "zarr.json"
COORDINATES: Final = "epoch batch train_step attempt time lower upper"
RAW_COORDINATES: Final = "sample_step attempt"
ROW_COORDINATES: Final = "row_step row_attempt"
CHANNEL_COORDINATES: Final = "row_step row_attempt channel_layer channel_index"
_CRC32C: Final = {"name": "crc32c", "configuration": {}}


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
    """

    dims: tuple[str, ...]
    dtype: str
    fill: float | int | str
    chunks: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """Whether the array holds strings."""
        return self.dtype == "string"

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
            "codecs": self._codecs(),
            "attributes": self.attributes,
            "dimension_names": list(self.dims),
            "storage_transformers": [],
        }

    def encode(self, chunk: NDArray[Any]) -> bytes:
        """Return the bytes of one chunk, of exactly the chunk shape, under `_codecs`."""
        if self.is_text:
            data = bytes(VLenUTF8().encode(chunk))
        else:
            packed = np.ascontiguousarray(chunk, dtype=np.dtype(self.dtype).newbyteorder("<"))
            shuffle = Blosc.BITSHUFFLE if self._bitwise else Blosc.SHUFFLE
            data = bytes(Blosc("zstd", 1, shuffle).encode(packed))
        checksum: int = google_crc32c.value(data)
        return data + checksum.to_bytes(4, "little")

    @property
    def _bitwise(self) -> bool:
        """Whether bits rather than bytes are shuffled: better for many small integers."""
        return "bucket" in self.dims and np.dtype(self.dtype).kind == "u"

    def _codecs(self) -> list[dict[str, Any]]:
        """Return the codec chain: a checksum always comes last."""
        if self.is_text:
            return [{"name": "vlen-utf8", "configuration": {}}, _CRC32C]
        blosc = {
            "typesize": np.dtype(self.dtype).itemsize,
            "cname": "zstd",
            "clevel": 1,
            "shuffle": "bitshuffle" if self._bitwise else "shuffle",
            "blocksize": 0,
        }
        return [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": blosc},
            _CRC32C,
        ]


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
    consolidated = {"kind": "inline", "must_understand": False, "metadata": nodes}
    return to_json(group_node({"actlab": attributes}) | {"consolidated_metadata": consolidated})


def to_json(document: Mapping[str, Any]) -> bytes:
    """Return a metadata document as strict JSON."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
