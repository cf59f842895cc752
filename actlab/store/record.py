"""The root record of a run: read once, checked whole before anything else is read. No zarr."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from re import compile as pattern
from typing import Any, Final, TypeAlias

import numpy as np

from actlab.errors import StoreError
from actlab.schema import FORMAT_VERSION, SPLITS, axis_from_attributes
from actlab.store.groups import as_mapping, check_split
from actlab.store.layout import ROOT

__all__ = ["LARGEST_CHUNK", "Record", "read_record"]

LARGEST_CHUNK: Final = 256 << 20
_LARGEST_RECORD, _DEEPEST, _MOST_NODES = 16 << 20, 32, 10_000
_LONGEST_DIM, _MOST_VALUES = 1 << 40, 1 << 48
_NODE_NAME: Final = pattern(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127})*")
_INTEGERS: Final = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
_ITEMSIZES: Final = {"string": 8} | {
    name: np.dtype(name).itemsize for name in ("bool", *_INTEGERS, "float16", "float32", "float64")
}

_Check: TypeAlias = Callable[[Any], bool]


@dataclass(frozen=True)
class Record:
    """One commit of a run, as its root record states it.

    Parameters
    ----------
    data : bytes
        The root `zarr.json`.
    attributes : dict
        The root attribute ``actlab``.
    nodes : dict
        Path below the root -> metadata document of every group and array.
    """

    data: bytes
    attributes: dict[str, Any]
    nodes: dict[str, dict[str, Any]]

    @property
    def arrays(self) -> dict[str, dict[str, Any]]:
        """The metadata documents of the arrays alone."""
        return {name: node for name, node in self.nodes.items() if node["node_type"] == "array"}


def read_record(root: Path) -> Record:
    """Read and check the root record of what may not be a run at all.

    Parameters
    ----------
    root : pathlib.Path
        Directory of the run.

    Raises
    ------
    StoreError
        If there is none, or it is not as `docs/format.md` has it; the path is left to the caller.
    """
    data = _read(root)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{ROOT} is damaged: {error}") from error
    _check_depth(document)
    attributes, nodes = _split(document)
    _check_version(attributes)
    _check_attributes(attributes)
    if len(nodes) > _MOST_NODES:
        raise StoreError(f"{ROOT} is damaged: it lists {len(nodes)} arrays and groups, which no run needs")
    for name, node in nodes.items():
        _check_node(name, node)
    _check_splits(attributes, nodes)
    _check_head(attributes)
    return Record(data, attributes, nodes)


def _read(root: Path) -> bytes:
    """Read the file, which must be one: a pipe would never end."""
    record = root / ROOT
    if not root.exists():
        raise StoreError("no such run")
    if not root.is_dir():
        raise StoreError("is a file, expected the directory of a run")
    try:
        found = record.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"is no run, its {ROOT} is no regular file")
        if found.st_size > _LARGEST_RECORD:
            raise StoreError(f"{ROOT} is larger than {_LARGEST_RECORD >> 20} MiB, which no run needs")
        return record.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"is no run, it has no {ROOT}") from None
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{ROOT} cannot be read: {error.strerror}") from error


def _check_depth(document: Any) -> None:
    """Refuse what is nested so deep that others who walk through it would fail."""
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(_DEEPEST):
        inner = [node.values() if isinstance(node, dict) else node for node in level]
        level = [child for node in inner for child in node if isinstance(child, dict | list)]
        if not level:
            return
    raise StoreError(f"{ROOT} is damaged: it is nested more than {_DEEPEST} deep")


def _split(document: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the root attribute and the metadata of all nodes."""
    if not isinstance(document, dict) or document.get("node_type") != "group":
        raise StoreError(f"is no run, its {ROOT} describes no Zarr v3 group")
    attributes = as_mapping(document.get("attributes")).get("actlab")
    if not isinstance(attributes, dict) or attributes.get("format", "actlab") != "actlab":
        raise StoreError("is a Zarr group, but no actlab run")
    nodes = as_mapping(document.get("consolidated_metadata")).get("metadata")
    if not isinstance(nodes, dict):
        raise StoreError(f"{ROOT} is damaged: it lists no arrays (consolidated metadata)")
    return attributes, nodes


def _check_version(attributes: Mapping[str, Any]) -> None:
    """Refuse a format that this version cannot understand."""
    match attributes.get("format_version"):
        case [major, minor] if _is_whole(major) and _is_whole(minor) and major >= 1:
            pass
        case other:
            raise StoreError(f"{ROOT} is damaged: format_version is {_shown(other)}")
    if major > FORMAT_VERSION[0]:
        ours = ".".join(map(str, FORMAT_VERSION))
        raise StoreError(f"has format {major}.{minor}, this actlab reads up to {ours}: update it")
    if unknown := attributes.get("incompat", []):
        raise StoreError(f"needs {_shown(unknown)}, which this actlab does not know: update it")


def _is_whole(value: Any) -> bool:
    """Whether a JSON value is a length, a number or a step: true is none of them."""
    return type(value) is int and 0 <= value <= _LONGEST_DIM


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_layer(value: Any) -> bool:
    match value:
        case {"name": str(), "kind": str(), "description": str(), "shape": [*shape], "calls": calls}:
            return all(map(_is_whole, [*shape, calls]))
    return False


def _is_rank(value: Any) -> bool:
    match value:
        case {"rank": rank, "world_size": size, "job": str(), **more}:
            sound = _is_whole(rank) and _is_whole(size) and rank < size
            return sound and _PAIRS(more.get("dropped", {}))
    return False


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _each(check: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _or_null(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


_PAIRS: Final = _each(_list_of(lambda value: _list_of(_is_whole)(value) and len(value) == 2))
_ATTRIBUTES: Final[dict[str, tuple[_Check, str]]] = {
    "rows": (lambda value: _each(_is_whole)(value) and set(value) <= set(SPLITS), "a number for each split"),
    "axis": (lambda value: isinstance(value, dict), "a recording axis"),
    "attempts": (_list_of(_is_whole), "a list of steps"),
    "gaps": (_PAIRS, "lists of [first, last] for each split"),
    "layer_growth": (_PAIRS, "lists of [first_row, layers] for each split"),
    "head": (_or_null(_is_text), "the name of a layer or null"),
    "head_unit_dim": (_or_null(lambda value: type(value) is int), "a dimension or null"),
    "epochs": (_or_null(_is_text), "'given' or 'inferred'"),
    "model": (_or_null(_is_text), "a name"),
    "versions": (_each(_or_null(_is_text)), "a version for each package"),
    "skipped": (_each(_is_text), "a reason for each layer"),
    "ranks": (_or_null(_is_rank), "a rank below a world_size, and a job"),
    "run_id": (_is_text, "text"),
    "created": (_is_text, "text"),
    "writer": (_is_text, "text"),
    "commit": (_is_whole, "a whole number"),
    "closed": (lambda value: isinstance(value, bool), "true or false"),
}


def _check_attributes(attributes: Mapping[str, Any]) -> None:
    """Check the values of the root attribute; what a run says of itself besides is its own affair."""
    if missing := [key for key in ("rows", "axis", "layers") if key not in attributes]:
        raise StoreError(f"{ROOT} is damaged: the attribute {missing[0]!r} is missing")
    for key, (check, expected) in _ATTRIBUTES.items():
        if key in attributes and not check(attributes[key]):
            raise StoreError(f"{ROOT} is damaged: {key} is {_shown(attributes[key])}, expected {expected}")
    layers = attributes["layers"]
    wrong = [entry for entry in layers if not _is_layer(entry)] if isinstance(layers, list) else [layers]
    if wrong:
        raise StoreError(f"the table of layers is damaged: {_shown(wrong[0])}")


def _check_head(attributes: Mapping[str, Any]) -> None:
    """Check that the head is a layer; a live run may know its head before the first row that has it."""
    head = attributes.get("head")
    is_complete = attributes["rows"] and attributes.get("closed")
    if head is not None and is_complete and head not in {layer["name"] for layer in attributes["layers"]}:
        raise StoreError(f"{ROOT} is damaged: head is {_shown(head)}, which is no layer")


def _shown(value: Any) -> str:
    """Return a JSON value for a message of one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_node(name: str, node: Any) -> None:
    """Check that a node can be read at all, and within bounds, whatever it is for."""
    match node:
        case {"node_type": "group"}:
            sound = True
        case {
            "node_type": "array",
            "shape": [*shape],
            "data_type": str(dtype),
            "codecs": [*codecs],
            "chunk_grid": {"configuration": {"chunk_shape": [*chunks]}},
            "chunk_key_encoding": {"configuration": {"separator": "." | "/"}},
        }:
            sound = dtype in _ITEMSIZES and len(shape) == len(chunks) and bool(codecs)
            sound = sound and all(map(_is_whole, [*shape, *chunks])) and min(chunks, default=1) > 0
            sound = sound and all(isinstance(codec, dict) and _is_text(codec.get("name")) for codec in codecs)
            if sound and prod(shape) > _MOST_VALUES:
                raise StoreError(f"{ROOT} is damaged: {name!r} has absurd shape {shape}")
            if sound and prod(chunks) * _ITEMSIZES[dtype] > LARGEST_CHUNK:
                largest = f"{LARGEST_CHUNK >> 20} MiB"
                raise StoreError(f"{ROOT} is damaged: a chunk {chunks} of {name!r} is larger than {largest}")
        case _:
            sound = False
    if not sound or _NODE_NAME.fullmatch(name) is None:
        raise StoreError(f"{ROOT} is damaged: metadata of {_shown(name)}: {_shown(node)}")


def _check_splits(attributes: Mapping[str, Any], nodes: Mapping[str, Any]) -> None:
    """Check that every array is there, and is as the format has it."""
    n_buckets = axis_from_attributes(attributes["axis"]).n_buckets
    layers = [layer["name"] for layer in attributes["layers"]]
    for split, count in attributes["rows"].items():
        check_split(split, count, layers, n_buckets, nodes)
        if count == 0:
            raise StoreError(f"{ROOT} is damaged: it lists {split!r}, which has no rows")
    if unknown := [split for split in SPLITS if split in nodes and split not in attributes["rows"]]:
        raise StoreError(f"{ROOT} is damaged: it does not say how many rows {unknown[0]!r} has")
