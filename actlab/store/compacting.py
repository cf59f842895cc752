"""`compact`: a run as a new store, sharded so that one layer can be read alone."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from actlab.errors import StoreError
from actlab.schema import FORMAT_VERSION
from actlab.store.files import expand, open_directory
from actlab.store.layout import ROOT, chunk_length, root_record, to_json
from actlab.store.placing import placed_runs
from actlab.store.record import check_record
from actlab.store.sources import LocalSource
from actlab.store.stored import StoredRun, are_same

__all__ = ["compact"]

_ROWS, _MOST_ROWS = 64, 1 << 14  # entries that share a chunk: of counts, of anything
_SHARD, _CHUNK = 64 << 20, 1 << 20  # bytes before compression
_LEVEL: Final = 3


def compact(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> str:
    """Write a run once more, so that one layer is read without the others.

    Every row of every attempt is kept as it is, with its checksum, and read back before the new store
    is put in place. Rows recorded later do not appear in it, and it cannot be recorded into; the old
    one stays. Of a run of several ranks the store of each is compacted.

    Parameters
    ----------
    path : str or path-like
        The run; one that is being recorded is compacted as of its last commit.
    out : str or path-like
        The new store, on this machine.
    overwrite : bool
        Replace a run at `out`.
    progress : callable
        Is told ``progress(stage, done, total)`` as the work goes on.

    Returns
    -------
    str
        Where the new store is.

    Raises
    ------
    StoreError
        In one line: if the run cannot be read or is damaged, or `out` may not be, or cannot be, written.
        Nothing is left at `out` then but what was there.
    """
    with placed_runs(path, out, overwrite=overwrite) as places:
        for run, made in places:
            _write(run, made, progress)
    return str(expand(out).resolve())


def _write(run: StoredRun, made: Path, progress: Callable[[str, int, int], None]) -> None:
    """Write one store under its temporary name: the root record last, when all else was read back."""
    directory = open_directory(made, "new", fsync=False)  # all of it is synced at the end
    nodes = dict(run.record.nodes)
    total = sum(prod(node["shape"]) for node in run.record.arrays.values())
    done = 0
    try:
        for name, node in run.record.arrays.items():
            # Zarr makes the bytes, but does not write them: its threads would go on after an error.
            files: dict[str, Buffer] = {}
            array = _create(files, node)
            nodes[name] = json.loads(files.pop(ROOT).to_bytes())
            for part in _parts(array):
                values = run.read(name, *part)
                array[part] = values
                for key in list(files):
                    directory.write(f"{name}/{key}", files.pop(key).to_bytes())
                done += values.size
                progress("Compacting", done, total)
        for name, node in nodes.items():
            directory.write(f"{name}/{ROOT}", to_json(node))
        said = {"format_version": list(FORMAT_VERSION), "writer": uuid.uuid4().hex, "compacted": True}
        record = root_record(run.record.attributes | said, nodes)
        _check(run, StoredRun(LocalSource(made), check_record(record)), progress)
        directory.write(ROOT, record)
    finally:
        directory.release()


def _create(files: dict[str, Buffer], node: Mapping[str, Any]) -> Any:
    """Create an array that holds what `node` describes, without its values, and whose files go to a dict."""
    form = _form(node)
    text = node["data_type"] == "string"
    blosc = BloscCodec(
        typesize=1 if text else np.dtype(node["data_type"]).itemsize,
        cname="zstd",
        clevel=_LEVEL,
        shuffle="noshuffle" if text else "bitshuffle" if form.by_bucket else "shuffle",
        blocksize=form.nbytes if form.by_bucket else 0,
    )
    order = (*range(1, len(node["shape"])), 0)
    return zarr.create_array(
        MemoryStore(files),
        shape=node["shape"],
        dtype=str if text else node["data_type"],
        chunks=form.chunks,
        shards=form.shards,
        filters=[TransposeCodec(order=order)] if form.by_bucket else None,
        compressors=[blosc, Crc32cCodec()],
        fill_value=float(node["fill_value"]) if node["fill_value"] == "NaN" else node["fill_value"],
        attributes=node.get("attributes", {}),
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=node["dimension_names"],
        config={"write_empty_chunks": True},  # a chunk is never missing
    )


@dataclass(frozen=True)
class _Form:
    """How an array is laid out."""

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    by_bucket: bool = False
    nbytes: int = 0
    """Bytes of a chunk: as one block it compresses best."""


def _form(node: Mapping[str, Any]) -> _Form:
    """Choose the layout of an array: by layer, or unit, in shards; what is small in few chunks."""
    dims, shape = node["dimension_names"], node["shape"]
    itemsize = 8 if node["data_type"] == "string" else np.dtype(node["data_type"]).itemsize
    by_bucket = len(dims) > 2 and "bucket" in dims
    if not by_bucket and dims != ["step", "layer"]:
        live = node["chunk_grid"]["configuration"]["chunk_shape"]
        entry = tuple(max(1, min(pair)) for pair in zip(live[1:], shape[1:], strict=True))
        most = 1 << max(0, shape[0] - 1).bit_length()
        return _Form((chunk_length(entry, itemsize, _CHUNK, max(1, most)), *entry), None)
    entry = (1, *shape[2:])
    rows = chunk_length(entry, itemsize, _CHUNK, _ROWS if by_bucket else 1 << 10)
    chunk = rows * prod(entry) * itemsize
    columns = max(1, min(shape[1], _SHARD // chunk))
    groups = max(1, min(-(-shape[0] // rows), _SHARD // (chunk * columns)))
    return _Form((rows, *entry), (groups * rows, columns, *entry[1:]), by_bucket, chunk)


def _parts(array: Any) -> Iterator[tuple[slice, ...]]:
    """Yield the parts of an array that are written at once: one shard or chunk each."""
    lengths = array.shards or array.chunks
    grid = [range(0, size, length) for size, length in zip(array.shape, lengths, strict=True)]
    for start in product(*grid):
        yield tuple(
            slice(first, min(first + length, size))
            for first, length, size in zip(start, lengths, array.shape, strict=True)
        )


def _check(run: StoredRun, copy: StoredRun, progress: Callable[[str, int, int], None]) -> None:
    """Make sure that every row of the new store has its checksum, and that the rest is as it was."""
    for problem in copy.damage(progress):
        raise StoreError(f"{run.label}: {problem}; a damaged run is not compacted")
    for name, node in run.record.arrays.items():
        part = [slice(0, size) for size in node["shape"]]
        is_small = len(part) == 1  # the others are covered by the checksums
        if is_small and not are_same(run.read(name, *part), copy.read(name, *part)):
            raise StoreError(f"{run.label}: {name!r} reads otherwise once it is written")
