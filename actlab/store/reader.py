"""`open_snapshot`: one consistent commit of a run, checked, as a lazy `xarray.DataTree`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.errors import StoreError
from actlab.store.attempts import index_names, live_entries
from actlab.store.decoding import Blocks, SnapshotStore
from actlab.store.layout import ROOT, chunk_key
from actlab.store.lazy import lazy_array
from actlab.store.record import Record, read_record
from actlab.store.sources import Source, find_source

__all__ = ["Snapshot", "open_snapshot", "read_snapshot"]

_CHECKSUM: Final = "row_crc32c"


@dataclass(frozen=True)
class Snapshot:
    """A run as one commit left it; later commits do not show.

    Parameters
    ----------
    path : str
        Where it lies: path or URL.
    attributes : dict
        The root attribute ``actlab``.
    tree : xarray.DataTree
        One group per split, arrays loaded lazily (dask). A chunk that is missing or damaged
        when it is needed raises `StoreError`.
    stores : tuple of SnapshotStore
        What it is read from: one store, or that of each rank.
    is_live : bool
        Whether rows that a later attempt has replaced are left out.
    """

    path: str
    attributes: dict[str, Any]
    tree: xr.DataTree
    stores: tuple[SnapshotStore, ...] = ()
    is_live: bool = False

    def is_current(self) -> bool:
        """Whether nothing was committed since."""
        try:
            return all(store.source.read(ROOT) == store.record.data for store in self.stores)
        except OSError:  # whoever opens it again says what is wrong
            return False


def open_snapshot(
    path: str | os.PathLike[str], *, check_files: bool = True, all_attempts: bool = True
) -> Snapshot:
    """Open one store as its last commit left it.

    Parameters
    ----------
    path : str or path-like
        Directory of the run, archive, or URL; ``~`` for the home directory. It may be growing.
    check_files : bool
        Make sure that all chunks are there; else a missing one is an error when it is read.
    all_attempts : bool
        Show the rows, too, that a later attempt has replaced. Without them the root attribute `rows`
        counts live rows, and `layer_growth`, which tells how to check all of them, is left out.

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
    return read_snapshot(find_source(path), check_files=check_files, all_attempts=all_attempts)


def read_snapshot(source: Source, *, check_files: bool = True, all_attempts: bool = True) -> Snapshot:
    """Read a store from where its files are; see `open_snapshot`."""
    try:
        record = read_record(source)
        _check_files(source, record, everything=check_files)
    except OSError as error:  # StoreError is one
        raise StoreError(f"{source.label}: {error}") from error
    store = SnapshotStore(source, record)
    attributes = dict(record.attributes)
    try:
        groups = _open_groups(store)
        starts = attributes.get("attempts", [0])
        live = {} if all_attempts or len(starts) == 1 else live_entries(starts, groups)
        groups = {
            path: _lazy(store, path, data, live.get(path))
            for path, data in groups.items()
            if len(live.get(f"/{path.split('/')[1]}", path)) > 0  # a split without live rows is none
        }
        tree = xr.DataTree.from_dict(groups)
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"{source.label}: cannot be read: {_one_line(error)}") from error
    if live:
        attributes["rows"] = {split: node.sizes["step"] for split, node in tree.children.items()}
        attributes.pop("layer_growth", None)
    return Snapshot(source.label, attributes, tree, (store,), not all_attempts)


def _open_groups(store: SnapshotStore) -> dict[str, xr.Dataset]:
    """Return all groups by path, checked as far as their indexes tell; nothing else is read."""
    # xarray takes any Zarr store here, its annotation does not say so.
    zarr_store: Any = store
    tree = xr.open_datatree(zarr_store, engine="zarr", zarr_format=3, consolidated=True, chunks=None)
    groups = {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
    for path, group in groups.items():
        for key, variable in group.variables.items():
            _check_decoded(store, _name(path, key), variable.dtype)
    for split in store.record.attributes["rows"]:
        _check_layers(store, split, groups[f"/{split}"])
        _check_steps(store, split, groups[f"/{split}"])
    return groups


def _check_files(source: Source, record: Record, *, everything: bool) -> None:
    """Check that chunks are there, and no more rows than could be in them."""
    checksums = {split: f"{split}/{_CHECKSUM}/" for split in record.attributes["rows"]}
    if everything:
        sizes = source.sizes()
        for name, node in record.arrays.items():
            _check_chunks(source, record, name, node, sizes)
    else:
        sizes = {
            prefix + name: size
            for prefix in checksums.values()
            for name, size in source.sizes(prefix).items()
        }
    for split, prefix in checksums.items():
        rows = record.attributes["rows"][split]
        held = sum(size for name, size in sizes.items() if name.startswith(prefix))
        # Checksums cannot be compressed: so many rows need four bytes each, and no absurd `step` is loaded.
        if rows > held // 2:
            raise StoreError(f"half a run: {rows} rows of {split!r} cannot lie in {held} bytes of checksums")


def _check_chunks(
    source: Source, record: Record, name: str, node: Mapping[str, Any], sizes: Mapping[str, int]
) -> None:
    """Check that every chunk of an array is a file: a missing one would read as fill values."""
    separator = node["chunk_key_encoding"]["configuration"]["separator"]
    lengths = zip(node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"], strict=True)
    # Where more chunks are due than there are files, one of the first of them is missing already.
    grid = [range(min(-(-size // length), len(sizes) + 1)) for size, length in lengths]
    most = record.chains[name].most
    for index in product(*grid):
        key = f"{name}/{chunk_key(index).replace('.', separator)}"
        size = sizes.get(key)
        if size is None and not _is_there(source, key):
            raise StoreError(f"half a run: the chunk {key!r} is missing")
        if size is not None and size > most:
            raise StoreError(f"{key!r} is no chunk, but something else or too large")


def _is_there(source: Source, key: str) -> bool:
    """Whether there is a file; a list of files that change meanwhile may lack one."""
    try:
        source.read(key, 0, 1)
    except OSError:
        return False
    return True


def _lazy(
    store: SnapshotStore, path: str, group: xr.Dataset, live: NDArray[np.int64] | None = None
) -> xr.Dataset:
    """Return a group, or its live entries, in dask chunks as on disk; none raises but `StoreError`."""
    chosen = {} if live is None else {index_names(group)[0]: live}
    lazy = {}
    for key, variable in group.variables.items():
        if key not in group.indexes:
            places = chosen.get(str(variable.dims[0])) if variable.dims else None
            blocks = Blocks(store, _name(path, key), variable, places)
            lazy[key] = xr.Variable(variable.dims, lazy_array(blocks), variable.attrs, variable.encoding)
    return group.isel(chosen).assign(lazy)  # all at once: xarray looks through the whole group each time


def _name(path: str, key: Any) -> str:
    """Return the path of an array below the root."""
    return f"{path}/{key}".lstrip("/")


def _check_decoded(store: SnapshotStore, name: str, found: np.dtype[Any]) -> None:
    """Check that no attribute makes xarray decode an array into something else, but time into dates."""
    stored = store.record.nodes[name]["data_type"]
    if stored == "string":
        fits = found.kind in "OTU"
    else:
        fits = found.kind == "M" if name.rpartition("/")[2] == "time" else found == np.dtype(stored)
    if not fits:
        raise StoreError(
            f"{store.source.label}: {ROOT} is damaged: {name!r} reads as {found} for its attributes"
        )


def _check_layers(store: SnapshotStore, split: str, rows: xr.Dataset) -> None:
    """Check that the layers of a split are those of the table."""
    names = [layer["name"] for layer in store.record.attributes["layers"]]
    wrong = [pair for pair in zip(rows.indexes["layer"], names, strict=True) if pair[0] != pair[1]]
    if wrong:
        stored, said = wrong[0]
        raise StoreError(
            f"{store.source.label}: the table of layers is damaged: "
            f"{said!r} is {stored!r} in the layers of {split!r}"
        )


def _check_steps(store: SnapshotStore, split: str, rows: xr.Dataset) -> None:
    """Check that steps increase within an attempt, and that there are so many attempts."""
    n_attempts = len(store.record.attributes.get("attempts", [0]))
    step = rows["step"].values
    attempt = rows["attempt"].values if n_attempts > 1 else np.zeros(len(step), np.int64)
    is_next = (np.diff(attempt) > 0) | ((np.diff(attempt) == 0) & (np.diff(step) > 0))
    if step[0] < 0 or not is_next.all():
        place = 0 if step[0] < 0 else int(np.argmin(is_next)) + 1
        raise StoreError(
            f"{store.source.label}: {split!r} is damaged: step {step[place]} in row {place} is out of order"
        )
    if attempt[0] < 0 or attempt[-1] >= n_attempts:
        raise StoreError(
            f"{store.source.label}: {split!r} is damaged: "
            f"its attempts are {attempt[0]} to {attempt[-1]}, expected 0 to {n_attempts - 1}"
        )


def _one_line(error: Exception) -> str:
    """Say what an error of someone else is about."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
