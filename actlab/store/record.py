"""The root record of a run: read once, checked whole before anything else is read. No zarr."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from re import compile as pattern
from typing import Any, Final, TypeAlias

import numpy as np

from actlab.errors import StoreError
from actlab.schema import FORMAT_VERSION, HEAD_GROUP, SPLITS, axis_from_attributes
from actlab.store.blosc import LARGEST_CHUNK
from actlab.store.chains import ITEMSIZES, Chain
from actlab.store.groups import as_mapping, check_split
from actlab.store.layout import ROOT, to_json
from actlab.store.sources import Source

__all__ = ["LARGEST_STEP", "Record", "check_record", "read_record", "too_much"]

LARGEST_STEP: Final = 1 << 40
"""Largest step, length, and any other whole number of a root record."""

_LARGEST_RECORD, _DEEPEST, _MOST_NODES = 16 << 20, 32, 10_000
# Brackets, commas and colons: a small JSON of many empty lists would fill the memory.
_MOST_PARTS = 1 << 19
_MOST_VALUES = 1 << 48
_NODE_NAME: Final = pattern(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127})*")
# Attributes by which xarray would change values.
_DECODED: Final = {"scale_factor", "add_offset", "missing_value", "_FillValue", "_Unsigned", "dtype"}

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
    chains : dict
        Path below the root -> codecs of every array.
    """

    data: bytes
    attributes: dict[str, Any]
    nodes: dict[str, dict[str, Any]]
    chains: dict[str, Chain]

    @property
    def arrays(self) -> dict[str, dict[str, Any]]:
        """The metadata documents of the arrays alone."""
        return {name: node for name, node in self.nodes.items() if node["node_type"] == "array"}


def read_record(source: Source) -> Record:
    """Read and check the root record of what may not be a run at all.

    Parameters
    ----------
    source : Source
        Where the run is.

    Raises
    ------
    StoreError
        If there is none, or it is not as `docs/format.md` has it; the reason only, where is left to
        the caller.
    """
    return check_record(_read(source))


def check_record(data: bytes) -> Record:
    """Check a root record.

    Parameters
    ----------
    data : bytes
        The root `zarr.json`.

    Raises
    ------
    StoreError
        As `read_record`.
    """
    try:
        document = _parse(data)
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
    chains = _chains(nodes, may_shard=True in (attributes.get("closed"), attributes.get("compacted")))
    if foreign := [name for name, node in nodes.items() if _is_foreign_index(name, node)]:
        for name in foreign:
            del nodes[name], chains[name]
        data = to_json(document)
    return Record(data, attributes, nodes, chains)


def too_much(data: bytes, nodes: int) -> str | None:
    """Say what of a root record that is to be written is more than readers take, None if nothing is."""
    limits = {"bytes": (len(data), _LARGEST_RECORD), "values": (_parts(data), _MOST_PARTS)}
    for thing, (found, most) in (limits | {"groups and arrays": (nodes, _MOST_NODES)}).items():
        if found > most:
            return f"{found:,} {thing}, more than {most:,}"
    return None


def _read(source: Source) -> bytes:
    """Read the file."""
    try:
        data = source.read(ROOT, stop=_LARGEST_RECORD + 1)
    except FileNotFoundError:
        reason = f"is no run, it has no {ROOT}" if source.exists() else "no such run"
        raise StoreError(reason) from None
    except NotADirectoryError:
        raise StoreError("is a file, expected the directory of a run") from None
    except StoreError as error:
        raise StoreError(f"is no run, its {error}") from error
    except OSError as error:
        raise StoreError(f"{ROOT} cannot be read: {error.strerror or error}") from error
    if len(data) > _LARGEST_RECORD:
        raise StoreError(f"{ROOT} is larger than {_LARGEST_RECORD >> 20} MiB, which no run needs")
    return data


def _parse(data: bytes) -> Any:
    """Parse strict JSON: no key twice, no numbers that are none.

    Raises
    ------
    ValueError
        If it is not, or would take far more memory than its size.
    """
    if (parts := _parts(data)) > _MOST_PARTS:
        raise ValueError(f"it has {parts} values, which no run needs")
    return json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)


def _parts(data: bytes) -> int:
    """Count brackets, commas and colons."""
    return sum(map(data.count, b"[{,:"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, whose keys must differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has a key twice")
    return found


def _finite(text: str) -> float:
    """Return a number that is not too large for a float."""
    if not isfinite(number := float(text)):
        raise ValueError(f"it has the number {text:.20}, which is too large")
    return number


def _refuse_constant(name: str) -> Any:
    """Refuse the constants that JSON does not have."""
    raise ValueError(f"it has {name}, which is no JSON")


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
    return type(value) is int and 0 <= value <= LARGEST_STEP


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
    "attempts": (lambda value: _list_of(_is_whole)(value) and bool(value), "a list of steps"),
    "gaps": (_PAIRS, "lists of [first, last] for each split"),
    "steps": (_each(_is_whole), "a number for each split"),
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
    "compacted": (lambda value: isinstance(value, bool), "true or false"),
    "parent": (_or_null(lambda value: isinstance(value, dict)), "what the run was branched from"),
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
    names = Counter(layer["name"] for layer in layers)
    if twice := [name for name, count in names.items() if count > 1]:
        raise StoreError(f"the table of layers is damaged: {_shown(twice[0])} is there twice")


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
    """Check that the shape of a node is sound, and within bounds, whatever it is for."""
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
            sound = dtype in ITEMSIZES and len(shape) == len(chunks) and bool(codecs)
            sound = sound and all(map(_is_whole, [*shape, *chunks])) and min(chunks, default=1) > 0
            if sound and prod(shape) > _MOST_VALUES:
                raise StoreError(f"{ROOT} is damaged: {name!r} has absurd shape {shape}")
        case _:
            sound = False
    if not sound or _NODE_NAME.fullmatch(name) is None:
        raise StoreError(f"{ROOT} is damaged: metadata of {_shown(name)}: {_shown(node)}")


def _chains(nodes: Mapping[str, Any], *, may_shard: bool) -> dict[str, Chain]:
    """Check all that says how values are read, of every node; return the codecs of the arrays."""
    chains: dict[str, Chain] = {}
    for name, node in nodes.items():
        attributes = node.get("attributes", {})
        if not isinstance(attributes, dict) or _DECODED & attributes.keys():
            raise StoreError(f"{ROOT} is damaged: attributes of {name!r}: {_shown(attributes)}")
        if type(node.get("zarr_format")) is not int or node["zarr_format"] != 3:
            raise StoreError(
                f"{ROOT} is damaged: {name!r} is of Zarr format {_shown(node.get('zarr_format'))}"
            )
        if node["node_type"] == "array":
            chains[name] = _chain(name, node, may_shard=may_shard)
    return chains


def _chain(name: str, node: Mapping[str, Any], *, may_shard: bool) -> Chain:
    """Check all that says how the values of an array are read; return its codecs."""
    dims, fill = node.get("dimension_names"), node.get("fill_value")
    kinds = [node[each].get("name") for each in ("chunk_grid", "chunk_key_encoding")]
    has_dims = isinstance(dims, list) and all(map(_is_text, dims)) and len(set(dims)) == len(node["shape"])
    is_plain = kinds == ["regular", "default"] and node.get("storage_transformers", []) == []
    if not (has_dims and is_plain and _is_fill(node["data_type"], fill)):
        raise StoreError(
            f"{ROOT} is damaged: metadata of {name!r}: {_shown({'fill_value': fill} | dict(node))}"
        )
    chain = Chain.from_node(node, may_shard=may_shard)
    if chain is None:
        raise StoreError(f"{ROOT} is damaged: codecs of {name!r}, which no run has: {_shown(node['codecs'])}")
    if chain.nbytes > LARGEST_CHUNK:
        shape, largest = list(chain.shape), f"{LARGEST_CHUNK >> 20} MiB"
        raise StoreError(f"{ROOT} is damaged: a chunk {shape} of {name!r} is larger than {largest}")
    return chain


def _is_foreign_index(name: str, node: Mapping[str, Any]) -> bool:
    """Whether an array that the format does not know would be loaded by xarray at once, as an index."""
    key = name.rpartition("/")[2]
    known = [f"{split}/{each}" for split in SPLITS for each in ("step", "layer", f"{HEAD_GROUP}/truth")]
    return node["node_type"] == "array" and node["dimension_names"] == [key] and name not in known


def _is_fill(dtype: str, fill: Any) -> bool:
    """Whether a value is a fill value of a data type."""
    if dtype in ("bool", "string"):
        return isinstance(fill, bool if dtype == "bool" else str)
    if np.dtype(dtype).kind == "f":
        return fill in ("NaN", "Infinity", "-Infinity") or type(fill) in (int, float)
    limits = np.iinfo(dtype)
    return type(fill) is int and limits.min <= fill <= limits.max


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
