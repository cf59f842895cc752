"""`open_snapshot`: one consistent commit of a run, checked, as a lazy `xarray.DataTree`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import dask.array
import google_crc32c
import numpy as np
import xarray as xr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

from actlab.errors import StoreError
from actlab.store.files import expand
from actlab.store.layout import ROOT
from actlab.store.record import LARGEST_CHUNK, Record, read_record

__all__ = ["Snapshot", "open_snapshot"]

_from_array: Any = dask.array.from_array  # it has no annotations


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
    record : Record
        The root record, read once.
    """

    def __init__(self, root: Path, record: Record) -> None:
        super().__init__(root, read_only=True)
        self._record = record.data
        self._sealed = _sealed(record)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a file; see `get`."""
        if key == ROOT:
            return (prototype or default_buffer_prototype()).buffer.from_bytes(self._record)
        self._refuse(key)
        return self._checked(key, super().get_sync(key, prototype=prototype, byte_range=byte_range))

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a file, the root record as it was; zarr would read fill values for a missing chunk."""
        if key == ROOT:
            return (prototype or default_buffer_prototype()).buffer.from_bytes(self._record)
        self._refuse(key)
        return self._checked(key, await super().get(key, prototype, byte_range))

    def _refuse(self, key: str) -> None:
        """Refuse to read what is no file or too large: a pipe would hang, a link may lead anywhere."""
        with suppress(FileNotFoundError):
            found = (self.root / key).lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > 2 * LARGEST_CHUNK:
                raise StoreError(f"{self.root}: {key!r} is no chunk, but something else or too large")

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
        Directory of the run, ``~`` for the home directory; it may be growing.

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
    root = expand(path)
    try:
        record = read_record(root)
        for name, node in record.arrays.items():
            _check_chunks(root, name, node)
    except OSError as error:  # StoreError is one
        raise StoreError(f"{root}: {error}") from error
    try:
        # xarray takes any Zarr store here, its annotation does not say so.
        store: Any = _SnapshotStore(root, record)
        found = xr.open_datatree(store, engine="zarr", zarr_format=3, consolidated=True, chunks=None)
        groups = {node.path: _guarded(root, record, node) for node in found.subtree}
        tree = xr.DataTree.from_dict(groups)
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"{root}: cannot be read: {_one_line(error)}") from error
    _check_layers(root, record, tree)
    return Snapshot(str(root), record.attributes, tree)


def _check_chunks(root: Path, name: str, node: Mapping[str, Any]) -> None:
    """Check that every chunk of an array is a file: a missing one would read as fill values."""
    there = set(_files(root / name))
    separator = node["chunk_key_encoding"]["configuration"]["separator"]
    lengths = zip(node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"], strict=True)
    # Where more chunks are due than there are files, one of the first of them is missing already.
    grid = [range(min(-(-size // length), len(there) + 1)) for size, length in lengths]
    for index in product(*grid):
        key = separator.join(("c", *map(str, index)))
        if key not in there:
            raise StoreError(f"half a run: the chunk '{name}/{key}' is missing")


def _sealed(record: Record) -> frozenset[str]:
    """Name the arrays with one file per chunk, side by side, that ends with its CRC-32C."""
    return frozenset(
        name
        for name, node in record.arrays.items()
        if node["codecs"][-1]["name"] == "crc32c"
        and node["chunk_key_encoding"]["configuration"]["separator"] == "."
    )


def _guarded(root: Path, record: Record, node: xr.DataTree) -> xr.Dataset:
    """Return a group with its arrays in dask chunks as on disk; none raises but `StoreError`."""
    data = node.to_dataset(inherit=False)
    for key, variable in data.variables.items():
        name = f"{node.path}/{key}".lstrip("/")
        _check_decoded(root, name, record.nodes[name]["data_type"], variable.dtype)
        if key not in data.indexes:
            preferred = variable.encoding["preferred_chunks"]
            chunks = tuple(preferred[dim] for dim in variable.dims)
            block = _Blocks(f"{root}: {name!r}", variable)
            lazy = _from_array(block, chunks=chunks, name=False, fancy=False)
            data[key] = variable.copy(deep=False, data=lazy)
    return data


class _Blocks:
    """An array as dask reads it: whatever fails on the way is a `StoreError`.

    Parameters
    ----------
    where : str
        Run and name of the array.
    variable : xarray.Variable
        Its data, not read yet.
    """

    def __init__(self, where: str, variable: xr.Variable) -> None:
        self.shape, self.ndim, self.dtype = variable.shape, variable.ndim, variable.dtype
        self._where = where
        self._variable = variable

    def __getitem__(self, key: Any) -> Any:
        """Read a block."""
        try:
            return self._variable[key].values
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"{self._where} cannot be read: {_one_line(error)}") from error


def _check_decoded(root: Path, name: str, stored: str, found: np.dtype[Any]) -> None:
    """Check that no attribute makes xarray decode an array into something else, but time into dates."""
    is_time = name.rpartition("/")[2] == "time"
    if stored == "string":
        fits = found.kind in "OTU"
    else:
        fits = found.kind == "M" if is_time else found == np.dtype(stored)
    if not fits:
        raise StoreError(f"{root}: {ROOT} is damaged: {name!r} reads as {found} for its attributes")


def _check_layers(root: Path, record: Record, tree: xr.DataTree) -> None:
    """Check that the layers of all splits are those of the table."""
    names = [layer["name"] for layer in record.attributes["layers"]]
    for split in record.attributes["rows"]:
        found = tree.children[split].indexes["layer"].tolist()
        if wrong := [pair for pair in zip(found, names, strict=True) if pair[0] != pair[1]]:
            stored, said = wrong[0]
            raise StoreError(
                f"{root}: the table of layers is damaged: {said!r} is {stored!r} in the layers of {split!r}"
            )


def _one_line(error: Exception) -> str:
    """Say what an error of someone else is about."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


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
