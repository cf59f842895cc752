"""The directory of a run: taking hold of it, replacing files in it, making them last."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from actlab.errors import StoreError
from actlab.schema import SPLITS
from actlab.store.layout import ROOT
from actlab.store.urls import is_url, local_path

__all__ = [
    "Directory",
    "Mode",
    "RunDirectory",
    "check_replaceable",
    "expand",
    "is_partial",
    "open_directory",
    "sweep_beside",
]

Mode: TypeAlias = Literal["new", "replace", "resume", "repair"]
"""What to do about a run that is there: refuse, remove it, or keep it to go on with or to mend it."""

_PARTIAL = re.compile(r"\.[0-9a-f]{8}\.partial")


class Directory(Protocol):
    """Where a run is written, by one writer.

    Attributes
    ----------
    path : str
        Where it is, for messages.
    """

    path: str

    def read(self, name: str) -> bytes:
        """Return a file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        OSError
            If it cannot be read, or is no regular file.
        """
        ...

    def write(self, name: str, data: bytes) -> None:
        """Put a whole file in place, or leave the former one: never anything between.

        Raises
        ------
        OSError
            If it cannot be written.
        StoreError
            If another writer took over.
        """
        ...

    def sync(self) -> None:
        """Make all files written so far last.

        Raises
        ------
        OSError
            If that fails.
        """
        ...

    def check_writer(self, writer: str) -> None:
        """Make sure that the run is still there and still names this writer.

        Raises
        ------
        StoreError
            If it does not: whoever writes there now must not be disturbed.
        """
        ...

    def release(self) -> None:
        """Let go of it. May be called again."""
        ...


class RunDirectory:
    """The only one who writes in the directory of a run. See `Directory`.

    The directory is created. A lock keeps a second writer out until `release`, which removes again a
    directory that nothing was written to. What a killed writer left of single files is swept away.

    Parameters
    ----------
    path : str or path-like
        Where the run is to be; ``~`` is the home directory.
    mode : {"new", "replace", "resume", "repair"}
        What to do about a run that is there; anything else that exists is refused, but under "repair".
    fsync : bool
        Wait until what is written has reached the disk.

    Raises
    ------
    StoreError
        If the path holds something, is being written, or cannot be created.
    """

    def __init__(self, path: str | os.PathLike[str], *, mode: Mode, fsync: bool) -> None:
        self._root = expand(path).resolve()
        self.path = str(self._root)
        self._fsync = fsync
        self._process = os.getpid()
        self._partial = self._root / f".{uuid.uuid4().hex[:8]}.partial"
        self._known = {self._root}
        try:
            created = [each for each in (self._root, *self._root.parents) if not each.exists()]
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._root)
        except FileExistsError:
            raise StoreError(f"{self.path}: is a file, and no run; nothing was changed") from None
        except NotADirectoryError:
            raise StoreError(f"{self.path}: a parent of it is a file; nothing was changed") from None
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be created: {error.strerror}") from error
        self._unsynced = {self._root, *(each.parent for each in created)}
        self._is_unused = bool(created)
        try:
            self._prepare(mode)
        except BaseException:
            self.release()
            raise

    def read(self, name: str) -> bytes:
        """Return a file; see `Directory`."""
        # A link may lead anywhere, and to open a pipe would wait for ever.
        handle = os.open(self._root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise StoreError(f"{self.path}: {name!r} is no regular file")
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Put a whole file in place; see `Directory`."""
        self._is_unused = False
        target = self._root / name
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
        """Make sure that the run still names this writer; see `Directory`."""
        try:
            ours = writer.encode() in self.read(ROOT)
        except FileNotFoundError:
            raise StoreError(f"{self.path}: the run was removed while it was being recorded") from None
        if not ours:
            raise StoreError(f"{self.path}: another writer took over this run")

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock >= 0:
            if os.getpid() == self._process:
                if self._is_unused:
                    with suppress(OSError):
                        self._root.rmdir()
                with suppress(OSError):  # a child that another thread forked may hold the file open
                    fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
            self._lock = -1

    def _make(self, directory: Path) -> None:
        """Create a directory below the run, and those above it."""
        if directory not in self._known:
            self._make(directory.parent)
            directory.mkdir(exist_ok=True)
            self._unsynced.add(directory.parent)
            self._known.add(directory)

    def _prepare(self, mode: Mode) -> None:
        """Make room for the run, or ready the one that is there."""
        entries = [entry for entry in self._root.iterdir() if not is_partial(entry.name)]
        # What else lies there is in the way only of what would remove it.
        others = [] if mode == "resume" else entries
        if entries and mode != "repair" and (reason := _no_run(self._root, others)) is not None:
            raise StoreError(f"{self.path}: {reason}; nothing was changed")
        if entries and mode == "new":
            ways = "overwrite=True replaces it, resume=True goes on with it"
            raise StoreError(f"{self.path}: holds a run already; {ways}")
        try:
            if entries and mode == "replace":
                self._replace()
            if mode == "replace":
                sweep_beside(self._root, "old")
            _sweep_partial(self._root)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be {_DONE[mode]}: {error.strerror}") from error

    def _replace(self) -> None:
        """Put an empty directory in the place of a run."""
        # Moved aside first, so that a crash leaves either the whole old run or none at this path.
        old = self._root.with_name(f".{self._root.name}.{uuid.uuid4().hex[:8]}.old")
        self._root.rename(old)
        try:
            self._root.mkdir()
        except OSError:
            old.rename(self._root)
            raise
        lock = _lock(self._root)
        os.close(self._lock)
        self._lock = lock
        self._unsynced.add(self._root.parent)


_DONE = {"new": "created", "replace": "replaced", "resume": "gone on with", "repair": "repaired"}


def open_directory(
    path: str | os.PathLike[str], mode: Mode, fsync: bool | Literal["auto"] = "auto"
) -> Directory:
    """Take hold of the place where a run is to be written.

    Parameters
    ----------
    path : str or path-like
        A directory, or the URL of an object store; ``~`` is the home directory.
    mode : {"new", "replace", "resume", "repair"}
        What to do about a run that is there; without one all are the same.
    fsync : bool or "auto"
        Survive power loss, too; "auto" does so on a local disk. An object store needs no such care.

    Raises
    ------
    StoreError
        If the path holds something, is being written, or cannot be created.
    MissingDependencyError
        If the package for a URL is not installed.
    """
    if is_url(path):
        from actlab.store.objects import ObjectDirectory  # noqa: PLC0415 - optional, and seldom needed

        return ObjectDirectory(str(path), mode=mode)
    return RunDirectory(path, mode=mode, fsync=bool(fsync))


def choose_mode(*, overwrite: bool, resume: bool, resume_step: int | None) -> Mode:
    """Return what to do about a run that is there, from the arguments that say so.

    Raises
    ------
    ValueError
        If they contradict each other, or the step is negative.
    """
    if resume_step is not None and resume_step < 0:
        raise ValueError(f"resume_step must be a train_step of 0 or more, got {resume_step!r}")
    if not resume and resume_step is None:
        return "replace" if overwrite else "new"
    if overwrite:
        raise ValueError("overwrite replaces a run and resume goes on with it: expected one of them")
    return "resume"


@contextmanager
def letting_go(directory: Directory) -> Iterator[None]:
    """Release a directory after an error, and say where it was.

    Raises
    ------
    StoreError
        Instead of another `OSError`.
    """
    try:
        yield
    except BaseException as error:
        directory.release()
        if isinstance(error, OSError) and not isinstance(error, StoreError):
            raise StoreError(f"{directory.path}: cannot be written: {error.strerror or error}") from error
        raise


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` replaced by the home directory; ``file://`` is a path, too.

    Raises
    ------
    StoreError
        If there is no such user, or it is a URL that a `pathlib.Path` was made of.
    """
    try:
        return Path(local_path(path)).expanduser()
    except RuntimeError as error:
        raise StoreError(f"{path}: {error}") from error


def check_replaceable(path: Path) -> None:
    """Make sure that a directory is a run and nothing else, and that nobody writes it.

    Raises
    ------
    StoreError
        If it is not.
    """
    os.close(_lock(path))
    if (reason := _no_run(path, list(path.iterdir()))) is not None:
        raise StoreError(f"{path}: {reason}; nothing was changed")


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


def is_partial(name: str) -> bool:
    """Whether a file is what a killed writer left of one that it was writing."""
    return _PARTIAL.fullmatch(name) is not None


def _sweep_partial(root: Path) -> None:
    """Remove what killed writers left of files they were writing."""
    for directory, _, names in os.walk(root):
        for name in filter(is_partial, names):
            (Path(directory) / name).unlink()


def sweep_beside(target: Path, kind: Literal["partial", "old"]) -> None:
    """Remove what a crash left beside `target`, to take its place or moved out of it, unless it is held.

    Raises
    ------
    OSError
        If it cannot be removed.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.{kind}")
    for entry in list(target.parent.iterdir()):
        if pattern.fullmatch(entry.name) and not entry.is_symlink():
            with suppress(StoreError, FileNotFoundError):
                os.close(_lock(entry))
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _no_run(path: Path, entries: list[Path]) -> str | None:
    """Say why a directory is not an actlab run and nothing else, None if it is."""
    try:
        root: Any = json.loads((path / ROOT).read_bytes())
        is_run = "actlab" in root["attributes"]
    except (KeyError, TypeError):
        is_run = False
    except (OSError, ValueError):
        if any((path / split / ROOT).exists() for split in SPLITS):
            return f"its {ROOT} is missing or damaged, which `actlab repair` may mend"
        is_run = False
    if not is_run:
        return "exists, and is no actlab run"
    foreign = sorted(entry.name for entry in entries if entry.name not in (ROOT, *SPLITS))
    return f"holds {foreign[0]!r}, which is no part of a run" if foreign else None
