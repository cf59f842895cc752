"""Where a tool puts what it makes: whole, at once, and never over something else."""

from __future__ import annotations

import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from actlab.errors import StoreError
from actlab.store.files import check_replaceable, expand, sweep_beside
from actlab.store.merging import rank_path
from actlab.store.stored import StoredRun, open_ranks
from actlab.store.urls import is_url

__all__ = ["check_output", "new_output", "placed_runs"]


@contextmanager
def placed_runs(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool
) -> Iterator[list[tuple[StoredRun, Path]]]:
    """Let a new store be made of each store of a run: one, or one for each rank that recorded it.

    Parameters
    ----------
    path, out : str or path-like
        The run, and the new one; see `check_output`.
    overwrite : bool
        Whether a run at `out` may be replaced.

    Yields
    ------
    list of tuple
        Each store, and where to write what is made of it; see `new_output`.

    Raises
    ------
    StoreError
        If the run cannot be read, or `out` may not be, or cannot be, written.
    """
    target = check_output(out, path, overwrite=overwrite)
    runs = open_ranks(path)
    places = [rank_path(target, number) for number in range(len(runs))]
    for place in places[1:]:
        check_output(place, path, overwrite=overwrite)
    with ExitStack() as stack:
        # The first one entered is the last to be put in place: rank 0, which stands for all.
        yield [(run, stack.enter_context(new_output(place))) for run, place in zip(runs, places, strict=True)]


def check_output(out: str | os.PathLike[str], run: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return where the output goes, if it may go there.

    Parameters
    ----------
    out : str or path-like
        A path; ``~`` is the home directory.
    run : str or path-like
        The run that it is made of.
    overwrite : bool
        Whether a run, or an archive, may be replaced.

    Raises
    ------
    StoreError
        If it is a URL, is the run itself, lies in it or around it, or exists and may not be replaced.
    """
    if is_url(out):
        raise StoreError(f"{out}: is a URL, expected a path on this machine")
    target = expand(out).resolve()
    if not is_url(run):
        source = expand(run).resolve()
        if target == source:
            raise StoreError(f"{target}: is the run itself, expected another path")
        if source in target.parents or target in source.parents:
            raise StoreError(f"{target}: lies in the run or around it, expected a path beside it")
    if not os.path.lexists(target):
        return target
    if not overwrite:
        raise StoreError(f"{target}: exists already; overwrite=True or --overwrite replaces it")
    if target.is_dir():
        check_replaceable(target)
    elif not zipfile.is_zipfile(target):
        raise StoreError(f"{target}: exists, and is no actlab run; nothing was changed")
    return target


@contextmanager
def new_output(target: Path) -> Iterator[Path]:
    """Let a file or directory be made under a temporary name, and put it in place at the end.

    Whatever goes wrong, what was there stays, and nothing of the new one is left; after a crash, nothing
    of it is left by the next try.

    Parameters
    ----------
    target : pathlib.Path
        What `check_output` returned; what lies there is replaced.

    Yields
    ------
    pathlib.Path
        The name to write under, in the same directory.

    Raises
    ------
    StoreError
        If the disk refuses.
    """
    mark = uuid.uuid4().hex[:8]
    made, old = (target.with_name(f".{target.name}.{mark}.{kind}") for kind in ("partial", "old"))
    try:
        _make_parent(target)
        sweep_beside(target, "partial")
        if target.exists():  # else it may be all that is left of what was to be replaced
            sweep_beside(target, "old")
        yield made
        _sync(made)
        if target.is_dir() or (made.is_dir() and target.exists()):
            target.rename(old)
        made.replace(target)
        _sync_one(target.parent)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for leftover in (made, old):
            _remove(leftover)


def _make_parent(target: Path) -> None:
    """Create the directory that the output goes into."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StoreError(f"{target}: a parent of it is a file; nothing was changed") from None


def _remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make a file, or a directory with all that is in it, last."""
    if path.is_dir():
        for entry in path.iterdir():
            _sync(entry)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    """Make one file last, or the names in one directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
