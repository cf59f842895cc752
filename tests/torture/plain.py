"""A small Zarr v3 reader for the chunks that actlab writes: no zarr, no actlab, a few milliseconds a run."""

from __future__ import annotations

import json
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.vlen import VLenUTF8


def load(path: Path) -> tuple[dict[str, dict[str, dict[str, np.ndarray]]], dict[str, Any]]:
    """Return all arrays of a run, {split: {group: {name: array}}}, and its root attribute."""
    document = json.loads((path / "zarr.json").read_bytes())
    splits: dict[str, Any] = {}
    for name, node in document["consolidated_metadata"]["metadata"].items():
        split, _, below = name.partition("/")
        if node["node_type"] == "array":
            group, _, array = below.rpartition("/")
            splits[split].setdefault(group, {})[array] = _array(path / name, node)
        elif below != "samples":
            splits.setdefault(split, {}).setdefault(below, {})
    return splits, document["attributes"]["actlab"]


def _array(folder: Path, node: dict[str, Any]) -> np.ndarray:
    """Return an array whole."""
    shape, chunks = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    grid = [-(-size // length) for size, length in zip(shape, chunks, strict=True)]
    is_text = node["data_type"] == "string"
    dtype = np.dtype(object if is_text else node["data_type"])
    whole = np.empty([count * length for count, length in zip(grid, chunks, strict=True)], dtype)
    for index in product(*map(range, grid)):
        data = (folder / ".".join(("c", *map(str, index)))).read_bytes()
        place = tuple(slice(i * size, (i + 1) * size) for i, size in zip(index, chunks, strict=True))
        whole[place] = _chunk(data, node["codecs"], dtype, chunks)
    return whole[tuple(map(slice, shape))]


def _chunk(data: bytes, codecs: list[dict[str, Any]], dtype: np.dtype[Any], chunks: list[int]) -> np.ndarray:
    """Return a chunk, decoded from the last codec to the first."""
    order = list(range(len(chunks)))
    values = np.empty(0)
    for codec in reversed(codecs):
        match codec["name"]:
            case "crc32c":
                assert google_crc32c.value(data[:-4]) == int.from_bytes(data[-4:], "little"), "crc32c"
                data = data[:-4]
            case "blosc":
                data = bytes(Blosc().decode(data))
            case "bytes":
                values = np.frombuffer(data, dtype.newbyteorder("<"))
            case "vlen-utf8":
                values = VLenUTF8().decode(data)
            case "transpose":
                order = codec["configuration"]["order"]
            case other:
                raise ValueError(other)
    assert values.size == prod(chunks)
    return values.reshape([chunks[dim] for dim in order]).transpose(np.argsort(order))
