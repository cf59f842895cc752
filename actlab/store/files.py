"""The directory of a run: taking hold of it, replacing files in it, making them last."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from actlab.errors import StoreError
from actlab.schema import SPLITS
from actlab.store.layout import ROOT

__all__ = ["RunDirectory", "expand"]


class RunDirectory:
    """The only one who writes in the directory of a run.

    The directory is created; an existing run is removed under `overwrite`. A lock keeps a second
    writer out until `release`.

    Parameters
    ----------
    path : str or path-like
        Where the run is to be; ``~`` is the home directory.
    overwrite : bool
        Replace an existing run; anything else that exists is refused even then.
    fsync : bool
        Wait until what is written has reached the disk.

    Raises
    ------
    StoreError
        If the path holds something, is being written, or cannot be created.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool, fsync: bool) -> None:
        self.path = expand(path).resolve()
        self._fsync = fsync
        self._partial = self.path / f".{uuid.uuid4().hex[:8]}.partial"
        self._known = {self.path}
        self._unsynced = {self.path}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path)
        except FileExistsError:
            raise StoreError(f"{self.path}: is a file, and no run; nothing was changed") from None
        except NotADirectoryError:
            raise StoreError(f"{self.path}: a parent of it is a file; nothing was changed") from None
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be created: {error.strerror}") from error
        try:
            self._clear(overwrite)
        except BaseException:
            self.release()
            raise

    def write(self, name: str, data: bytes) -> None:
        """Put a whole file in place, or leave the former one: never anything between.

        Raises
        ------
        OSError
            If the disk refuses.
        """
        target = self.path / name
        self._make(target.parent)
        try:
            with self._partial.open("wb") as file:
                file.write(data)
                file.flush()
                if self._fsync:
                    os.fsync(file.fileno())
            self._partial.replace(target)
        except OSError:
            with suppress(OSError):
                self._partial.unlink()
            raise
        self._unsynced.add(target.parent)

    def sync(self) -> None:
        """Make the names of all files written so far last, too."""
        for directory in list(self._unsynced):
            if self._fsync:
                handle = os.open(directory, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            self._unsynced.discard(directory)

    def check_writer(self, writer: str) -> None:
        """Make sure that the run is still there and still names this writer.

        Raises
        ------
        StoreError
            If it does not: whoever writes there now must not be disturbed.
        """
        try:
            ours = writer.encode() in (self.path / ROOT).read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{self.path}: the run was removed while it was being recorded") from None
        if not ours:
            raise StoreError(f"{self.path}: another writer took over this run")

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _make(self, directory: Path) -> None:
        """Create a directory below the run, and those above it."""
        if directory not in self._known:
            self._make(directory.parent)
            directory.mkdir(exist_ok=True)
            self._unsynced.add(directory.parent)
            self._known.add(directory)

    def _clear(self, overwrite: bool) -> None:
        """Make room for the run."""
        entries = [entry for entry in self.path.iterdir() if not _is_partial(entry)]
        if not entries:
            for leftover in self.path.iterdir():
                leftover.unlink()
            return
        if (reason := _no_run(self.path, entries)) is not None:
            raise StoreError(f"{self.path}: {reason}; nothing was changed")
        if not overwrite:
            raise StoreError(f"{self.path}: holds a run already; overwrite=True replaces it")
        # Moved aside first, so that a crash leaves either the whole old run or none at this path.
        old = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.old")
        try:
            self.path.rename(old)
            self.path.mkdir()
            lock = _lock(self.path)
            self.release()
            self._lock = lock
            shutil.rmtree(old)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be replaced: {error.strerror}") from error


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` replaced by the home directory.

    Raises
    ------
    StoreError
        If there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise StoreError(f"{path}: {error}") from error


def _lock(path: Path) -> int:
    """Lock a directory and return the file descriptor that holds the lock."""
    handle = os.open(path, os.O_RDONLY)
    busy = False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        busy = True
    except OSError:
        # A file system without locks: `check_writer` remains.
        pass
    # Between open and lock, its holder may have moved the directory aside.
    if busy or not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
        os.close(handle)
        raise StoreError(f"{path}: is being written by another recorder")
    return handle


def _is_partial(path: Path) -> bool:
    """Whether a file is what a killed writer left of a file it was writing."""
    return path.name.startswith(".") and path.suffix == ".partial"


def _no_run(path: Path, entries: list[Path]) -> str | None:
    """Say why a directory is not an actlab run and nothing else, None if it is."""
    try:
        root: Any = json.loads((path / ROOT).read_bytes())
        is_run = "actlab" in root["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        is_run = False
    if not is_run:
        return "exists, and is no actlab run"
    foreign = sorted(entry.name for entry in entries if entry.name not in (ROOT, *SPLITS))
    return f"holds {foreign[0]!r}, which is no part of a run" if foreign else None
