"""`pack`: a run as one archive, to mail or to attach."""

from __future__ import annotations

import fcntl
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from typing import Any, Final

from actlab.store.layout import ROOT, to_json
from actlab.store.placing import check_output, new_output
from actlab.store.stored import StoredRun, open_ranks
from actlab.store.urls import name_of

__all__ = ["pack"]

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same run makes the same archive
_FILE_MODE = 0o100644 << 16


def pack(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> str:
    """Put a run into one zip file, which `open_run` and `zarr.storage.ZipStore` open like the run.

    Only what the last commit needs is taken, and stored as it is: the files are compressed already. A
    run that several ranks recorded becomes one archive with a folder for each of them.

    Parameters
    ----------
    path : str or path-like
        The run; one that is being recorded is packed as of its last commit.
    out : str or path-like
        The archive, such as ``run.zarr.zip``, on this machine.
    overwrite : bool
        Replace an archive at `out`.
    progress : callable
        Is told ``progress(stage, done, total)`` as the work goes on.

    Returns
    -------
    str
        Where the archive is.

    Raises
    ------
    StoreError
        In one line: if the run cannot be read, or `out` may not be, or cannot be, written. Nothing is
        left at `out` then but what was there.
    """
    target = check_output(out, path, overwrite=overwrite)
    runs = open_ranks(path)
    names = [(run, name) for run in runs for name in _files(run)]
    with (
        new_output(target) as made,
        made.open("wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)  # else another `pack` would take it for a leftover
        for done, (run, name) in enumerate(names, 1):
            folder = f"{name_of(run.label)}/" if len(runs) > 1 else ""
            member = zipfile.ZipInfo(folder + name, _EPOCH)
            member.external_attr = _FILE_MODE
            archive.writestr(member, _content(run, name))
            progress("Packing", done, len(names))
    return str(target)


def _files(run: StoredRun) -> Iterator[str]:
    """Name the files that the root record needs, itself first."""
    yield ROOT
    for name, node in sorted(run.record.nodes.items()):
        yield f"{name}/{ROOT}"
        if node["node_type"] == "array":
            yield from (f"{name}/{key}" for key in _chunk_keys(node))


def _chunk_keys(node: dict[str, Any]) -> Iterator[str]:
    """Name the chunks of an array."""
    separator = node["chunk_key_encoding"]["configuration"]["separator"]
    lengths = node["chunk_grid"]["configuration"]["chunk_shape"]
    grid = [range(-(-size // length)) for size, length in zip(node["shape"], lengths, strict=True)]
    yield from (separator.join(("c", *map(str, index))) for index in product(*grid))


def _content(run: StoredRun, name: str) -> bytes:
    """Return a file as it belongs to the root record, which a writer may have replaced by now."""
    if name == ROOT:
        return run.record.data
    node, _, file = name.rpartition("/")
    return to_json(run.record.nodes[node]) if file == ROOT else run.file(name)
