"""`open_snapshot`: one consistent commit of a run, checked, as a lazy `xarray.DataTree`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import google_crc32c
import xarray as xr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

from actlab.errors import StoreError
from actlab.schema import (
    COUNTS,
    FORMAT_VERSION,
    HEAD,
    LAYER_COORDINATES,
    MOMENTS,
    RAW_GROUP,
    RAW_INDEX,
    ROWS,
    Variable,
    axis_from_attributes,
)
from actlab.store.layout import ROOT

__all__ = ["Snapshot", "open_snapshot"]

_LARGEST_RECORD: Final = 64 << 20


@dataclass(frozen=True)
class Snapshot:
    """A run as one commit left it; later commits do not show.

    Parameters
    ----------
    path : str
        Where it lies.
    attributes : dict
        The root attribute ``actlab``.
    tree : xarray.DataTree
        One group per split, arrays loaded lazily (dask). A chunk that is missing or damaged
        when it is needed raises `StoreError`.
    """

    path: str
    attributes: dict[str, Any]
    tree: xr.DataTree


class _SnapshotStore(LocalStore):
    """The files of a run under one root record; a chunk that is missing or damaged is an error.

    Parameters
    ----------
    root : pathlib.Path
        Directory of the run.
    record : bytes
        The root record, read once.
    sealed : frozenset of str
        Arrays whose chunks end with their CRC-32C.
    """

    def __init__(self, root: Path, record: bytes, sealed: frozenset[str]) -> None:
        super().__init__(root, read_only=True)
        self._record = record
        self._sealed = sealed

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a file; see `get`."""
        if key == ROOT:
            return (prototype or default_buffer_prototype()).buffer.from_bytes(self._record)
        return self._checked(key, super().get_sync(key, prototype=prototype, byte_range=byte_range))

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a file, the root record as it was; zarr would read fill values for a missing chunk."""
        if key == ROOT:
            return (prototype or default_buffer_prototype()).buffer.from_bytes(self._record)
        return self._checked(key, await super().get(key, prototype, byte_range))

    def _checked(self, key: str, found: Buffer | None) -> Buffer | None:
        """Pass on the content of a file, unless it is a chunk that is missing or damaged."""
        array, _, name = key.rpartition("/")
        if name == ROOT:
            return found
        if found is None:
            raise StoreError(f"{self.root}: half a run: the chunk {key!r} is missing")
        if array in self._sealed:
            data = found.to_bytes()
            if len(data) < 4 or google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
                raise StoreError(f"{self.root}: the chunk {key!r} is damaged, its checksum does not match")
        return found


def open_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Open a run as its last commit left it.

    Parameters
    ----------
    path : str or path-like
        Directory of the run; it may be growing.

    Returns
    -------
    Snapshot
        Its attributes and its data, lazily.

    Raises
    ------
    StoreError
        In one line: if nothing is there, it is no run, it is damaged or incomplete, or a newer
        actlab is needed.
    """
    root = Path(path)
    record = _read_record(root)
    try:
        document = json.loads(record)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{root}: {ROOT} is damaged: {error}") from error
    attributes, nodes = _split_record(root, document)
    _check_version(root, attributes)
    _check_nodes(root, attributes, nodes)
    try:
        # xarray takes any Zarr store here, its annotation does not say so.
        store: Any = _SnapshotStore(root, record, _sealed(nodes))
        tree = xr.open_datatree(store, engine="zarr", zarr_format=3, consolidated=True, chunks={})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{root}: cannot be read: {' '.join(str(error).split())}") from error
    return Snapshot(str(path), attributes, tree)


def _read_record(root: Path) -> bytes:
    """Read the root record of what may not be a run at all."""
    if not root.exists():
        raise StoreError(f"{root}: no such run")
    if not root.is_dir():
        raise StoreError(f"{root}: is a file, expected the directory of a run")
    record = root / ROOT
    if not record.is_file():
        raise StoreError(f"{root}: is no run, it has no {ROOT}")
    if record.stat().st_size > _LARGEST_RECORD:
        raise StoreError(f"{root}: {ROOT} is larger than {_LARGEST_RECORD >> 20} MiB, which no run needs")
    try:
        return record.read_bytes()
    except OSError as error:
        raise StoreError(f"{root}: {ROOT} cannot be read: {error.strerror}") from error


def _split_record(root: Path, document: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the root attribute and the metadata of all nodes."""
    if not isinstance(document, dict) or document.get("node_type") != "group":
        raise StoreError(f"{root}: is no run, its {ROOT} describes no Zarr v3 group")
    attributes = _mapping(document.get("attributes")).get("actlab")
    if not isinstance(attributes, dict) or attributes.get("format", "actlab") != "actlab":
        raise StoreError(f"{root}: is a Zarr group, but no actlab run")
    nodes = _mapping(document.get("consolidated_metadata")).get("metadata")
    if not isinstance(nodes, dict):
        raise StoreError(f"{root}: {ROOT} is damaged: it lists no arrays (consolidated metadata)")
    return attributes, nodes


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def _check_version(root: Path, attributes: Mapping[str, Any]) -> None:
    """Refuse a format that this version cannot understand."""
    match attributes.get("format_version"):
        case [int(major), int(minor)] if major >= 1:
            pass
        case other:
            raise StoreError(f"{root}: {ROOT} is damaged: format_version is {other!r}")
    if major > FORMAT_VERSION[0]:
        ours = ".".join(map(str, FORMAT_VERSION))
        raise StoreError(f"{root}: has format {major}.{minor}, this actlab reads up to {ours}: update it")
    if unknown := attributes.get("incompat", []):
        raise StoreError(f"{root}: needs {unknown!r}, which this actlab does not know: update it")


def _check_nodes(root: Path, attributes: Mapping[str, Any], nodes: Mapping[str, Any]) -> None:
    """Check that every array is there as the format has it, and every chunk of it."""
    rows, layers = attributes.get("rows"), attributes.get("layers")
    if not isinstance(rows, dict) or not isinstance(layers, list):
        raise StoreError(f"{root}: {ROOT} is damaged: it does not say how many rows and layers there are")
    try:
        n_buckets = axis_from_attributes(attributes.get("axis", {})).n_buckets
    except StoreError as error:
        raise StoreError(f"{root}: {error}") from error
    for split, count in rows.items():
        sizes = {"step": count, "layer": len(layers), "bucket": n_buckets}
        for variable in (*ROWS, *MOMENTS, COUNTS, *LAYER_COORDINATES):
            _check_array(root, f"{split}/{variable.name}", variable, nodes, sizes)
        if f"{split}/{RAW_GROUP}" in nodes:
            for variable in (HEAD, *RAW_INDEX):
                _check_array(root, f"{split}/{RAW_GROUP}/{variable.name}", variable, nodes, {})
    for name, node in nodes.items():
        if _mapping(node).get("node_type") == "array":
            _check_chunks(root, name, node)


def _check_array(
    root: Path, name: str, variable: Variable, nodes: Mapping[str, Any], sizes: Mapping[str, int]
) -> None:
    """Check that an array is there, with its dims, dtype and lengths."""
    node = _mapping(nodes.get(name))
    if not node:
        raise StoreError(f"{root}: half a run: the array {name!r} is missing")
    found = (node.get("dimension_names"), node.get("data_type"))
    if found != (list(variable.dims), variable.dtype):
        raise StoreError(f"{root}: {name!r} is {found}, expected {(list(variable.dims), variable.dtype)}")
    for dim, size in zip(variable.dims, node.get("shape", ()), strict=False):
        if dim in sizes and size != sizes[dim]:
            raise StoreError(f"{root}: {name!r} has {size} along {dim!r}, expected {sizes[dim]}")


def _check_chunks(root: Path, name: str, node: Mapping[str, Any]) -> None:
    """Check that every chunk of an array is a file: a missing one would read as fill values."""
    try:
        chunks = node["chunk_grid"]["configuration"]["chunk_shape"]
        separator = node["chunk_key_encoding"]["configuration"]["separator"]
        grid = [range(-(-size // length)) for size, length in zip(node["shape"], chunks, strict=True)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise StoreError(f"{root}: {ROOT} is damaged: metadata of {name!r}: {error!r}") from error
    there = set(_files(root / name))
    for index in product(*grid):
        key = separator.join(("c", *map(str, index)))
        if key not in there:
            raise StoreError(f"{root}: half a run: the chunk '{name}/{key}' is missing")


def _sealed(nodes: Mapping[str, Any]) -> frozenset[str]:
    """Name the arrays with one file per chunk, side by side, that ends with its CRC-32C."""
    return frozenset(
        name
        for name, node in nodes.items()
        if node.get("codecs", [{}])[-1].get("name") == "crc32c"
        and node["chunk_key_encoding"]["configuration"]["separator"] == "."
    )


def _files(directory: Path, prefix: str = "") -> Iterator[str]:
    """Yield the regular files below a directory, by their relative paths."""
    if not directory.is_dir():
        return
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path), f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield prefix + entry.name
