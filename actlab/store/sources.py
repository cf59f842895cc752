"""Where the files of a run are read from: a directory, an archive, an object store. No zarr."""

from __future__ import annotations

import os
import re
import stat
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from actlab.errors import StoreError
from actlab.store.files import expand
from actlab.store.layout import ROOT
from actlab.store.urls import is_url

__all__ = ["LARGEST_READ", "LocalSource", "Source", "ZipSource", "find_source"]

LARGEST_READ: Final = 512 << 20
"""Bytes that one call of `Source.read` returns at most."""

_RANK: Final = re.compile(r"\.rank\d+(\.|/|$)")
_DEEPEST = 32
# To open a pipe would wait for ever, and a link may lead anywhere.
_AT_ONCE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NO_LINK = _AT_ONCE | os.O_NOFOLLOW
# About 80,000 files: what the directory of an archive lists takes ten times its size in memory.
_LARGEST_DIRECTORY = 8 << 20
_END, _LOCAL_HEADER = struct.Struct("<4s4H2LH"), struct.Struct("<4s22x2H")
_PIECE = 1 << 20


class Source(Protocol):
    """The files of one run, read only. What its methods raise says what is wrong, but not where.

    A source can be pickled, and read by several threads at once.

    Attributes
    ----------
    label : str
        Path or URL, for messages.
    """

    label: str

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a file, or as much as there is of a part of it.

        Parameters
        ----------
        name : str
            Path below the run, ``train/step/c.0``.
        start, stop : int, optional
            First byte, and the one after the last; a negative start reads that many from the end.

        Raises
        ------
        FileNotFoundError
            If there is none.
        StoreError
            If it is no regular file, or more than `LARGEST_READ` is asked for.
        OSError
            If it cannot be read.
        """
        ...

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the regular files in a directory and below it: path relative to it -> bytes.

        Raises
        ------
        OSError
            If it cannot be listed; a directory that is not there is empty.
        """
        ...

    def exists(self) -> bool:
        """Whether there is anything of this name."""
        ...

    def beside(self, name: str) -> Source:
        """Return the run of another name in the same place.

        Raises
        ------
        StoreError
            As `find_source`.
        """
        ...


class LocalSource:
    """A directory. No link within it is followed.

    Parameters
    ----------
    path : pathlib.Path
        The directory, which need not exist; it may be a link itself.
    """

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path.absolute()  # a notebook, or a worker of a cluster, may work elsewhere
        self._identity: tuple[int, int] | None = None  # of the directory that was read first

    def __reduce__(self) -> tuple[type[LocalSource], tuple[Path]]:
        """Be pickled by the path: another machine knows the directory by other numbers."""
        return LocalSource, (self._path,)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a file or a part of it; see `Source`."""
        folder, _, file = name.rpartition("/")
        with self._directory(folder) as directory:
            if not stat.S_ISREG(os.lstat(file, dir_fd=directory).st_mode):
                raise StoreError(f"{name} is no regular file")
            handle = os.open(file, _NO_LINK, dir_fd=directory)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise StoreError(f"{name} is no regular file")
            first, count = _part(name, found.st_size, start, stop)
            return os.pread(handle, count, first)
        finally:
            os.close(handle)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the regular files below a directory; see `Source`."""
        try:
            with self._directory(prefix) as directory:
                return dict(_walk(directory, "", _DEEPEST))
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def exists(self) -> bool:
        """Whether there is anything of this name."""
        return self._path.exists()

    def beside(self, name: str) -> Source:
        """Return the run of another name in the same directory."""
        return find_source(Path(self.label).with_name(name))

    @contextmanager
    def _directory(self, name: str) -> Iterator[int]:
        """Open a directory of the run; none on the way to it may be a link."""
        handle = os.open(self._path, _AT_ONCE | os.O_DIRECTORY)
        try:
            self._check_identity(os.fstat(handle))
            for part in filter(None, name.split("/")):
                try:
                    inner = os.open(part, _NO_LINK | os.O_DIRECTORY, dir_fd=handle)
                except NotADirectoryError:
                    raise StoreError(f"{name!r} is no directory") from None
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)

    def _check_identity(self, found: os.stat_result) -> None:
        """Make sure that the run was not replaced: chunks of another one may look like its own."""
        identity = found.st_dev, found.st_ino
        if identity != (self._identity or identity):
            raise OSError("the run was replaced by another one since it was opened")
        self._identity = identity


def _walk(directory: int, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    """Yield the regular files below an open directory with their sizes, no deeper than `depth`."""
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.is_file(follow_symlinks=False):
                    yield prefix + entry.name, entry.stat(follow_symlinks=False).st_size
                    continue
                if depth == 0 or not entry.is_dir(follow_symlinks=False):
                    continue
                inner = os.open(entry.name, _NO_LINK | os.O_DIRECTORY, dir_fd=directory)
            except (FileNotFoundError, NotADirectoryError):  # a writer moved it just now
                continue
            try:
                yield from _walk(inner, f"{prefix}{entry.name}/", depth - 1)
            finally:
                os.close(inner)


class ZipSource:
    """An archive: one zip file, its members stored or deflated, the run at its root or in one folder.

    Of several ranks each has a folder of its own, named like its store.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    folder : str, optional
        Where in it the run is; else at its root, or in the folder that is no other rank than 0.

    Raises
    ------
    StoreError
        If it is no sound archive of a run; the reason only.
    """

    def __init__(self, path: Path, folder: str | None = None) -> None:
        self._path = path.absolute()  # a worker of a cluster may work elsewhere
        self._handle = os.open(path, _AT_ONCE)
        weakref.finalize(self, os.close, self._handle)
        self._members = _members(self._handle)
        # Below a run at the root, each split has a zarr.json, too.
        inside = [name.removesuffix(ROOT) for name in self._members if name.partition("/")[2] == ROOT]
        folders = [""] if ROOT in self._members else inside
        runs = [name for name in folders if _RANK.search(name) is None] or folders
        if len(runs) != 1 and folder is None:
            raise StoreError(
                f"is an archive of {len(runs)} runs, expected one {ROOT} at its root or in a folder"
            )
        self._folder = runs[0] if folder is None else folder
        self.label = str(path / self._folder if len(folders) > 1 else path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Open it again in another process."""
        return ZipSource, (self._path, self._folder)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a file or a part of it; see `Source`."""
        member = self._members.get(self._folder + name)
        if member is None:
            raise FileNotFoundError(name)
        first, count = _part(name, member.file_size, start, stop)
        size = _LOCAL_HEADER.size
        header = os.pread(self._handle, size, member.header_offset).ljust(size, b"\0")
        signature, *lengths = _LOCAL_HEADER.unpack(header)
        if signature != b"PK\3\4":
            raise StoreError(f"{name!r} is not where the directory of the archive has it")
        place = member.header_offset + size + sum(lengths)
        if member.compress_type == zipfile.ZIP_STORED:
            data = os.pread(self._handle, count, place + first)
        else:
            data = self._inflate(name, member, place, first + count)[first:]
        is_whole = count == member.file_size
        if len(data) != count or (is_whole and zlib.crc32(data) != member.CRC):
            raise StoreError(f"{name!r} is damaged in the archive")
        return data

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the files below a directory; see `Source`."""
        start = self._folder + (f"{prefix.rstrip('/')}/" if prefix else "")
        return {
            name.removeprefix(start): member.file_size
            for name, member in self._members.items()
            if name.startswith(start)
        }

    def exists(self) -> bool:
        """Whether the archive has such a run."""
        return self._folder + ROOT in self._members

    def beside(self, name: str) -> Source:
        """Return the run of another name in the same archive, else in the same directory."""
        inside = ZipSource(self._path, f"{name}/")
        return inside if inside.exists() else find_source(self._path.with_name(name))

    def _inflate(self, name: str, member: zipfile.ZipInfo, place: int, stop: int) -> bytes:
        """Decompress the first bytes of a member, and no more."""
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        data, end = bytearray(), place + member.compress_size
        try:
            while len(data) < stop and not decompressor.eof:
                packed = decompressor.unconsumed_tail or os.pread(
                    self._handle, min(_PIECE, end - place), place
                )
                place += 0 if decompressor.unconsumed_tail else len(packed)
                found = decompressor.decompress(packed, min(_PIECE, stop - len(data)))
                if not packed and not found:
                    break
                data += found
        except zlib.error as error:
            raise StoreError(f"{name!r} is damaged in the archive: {error}") from error
        return bytes(data)


def _part(name: str, size: int, start: int, stop: int | None) -> tuple[int, int]:
    """Return the first byte of a part of a file of this size, and how many there are."""
    first = max(0, size + start) if start < 0 else start
    count = max(0, (size if stop is None else min(size, stop)) - first)
    if count > LARGEST_READ:
        raise StoreError(f"{name!r} is larger than {LARGEST_READ >> 20} MiB")
    return first, count


def _members(handle: int) -> dict[str, zipfile.ZipInfo]:
    """Return the files of an archive by name, if its directory is sound and not too large."""
    size = os.fstat(handle).st_size
    tail = os.pread(handle, 98, max(0, size - 98))
    signature, *_, listed, _, comment = _END.unpack(tail[-_END.size :].rjust(_END.size, b"\0"))
    if signature != b"PK\5\6" or comment:
        raise StoreError("is no whole archive: its directory is missing at the end")
    if tail[-42:-38] == b"PK\6\7":  # zip64: 56 bytes, then a locator of 20, before the last 22
        listed = int.from_bytes(tail[40:48], "little")
    if listed > min(_LARGEST_DIRECTORY, size):
        raise StoreError(f"is no archive of a run: its directory has {listed} bytes")
    try:
        with os.fdopen(os.dup(handle), "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except Exception as error:
        raise StoreError(f"is no sound archive: {error}") from error
    found: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        if (reason := _unsound(member, size)) is not None or member.filename in found:
            raise StoreError(f"is no sound archive: {member.filename!r:.80} {reason or 'is there twice'}")
        if not member.is_dir():
            found[member.filename] = member
    return found


def _unsound(member: zipfile.ZipInfo, size: int) -> str | None:
    """Say why a member of an archive of so many bytes cannot be read, None if it can."""
    if not 0 <= member.header_offset <= size - _LOCAL_HEADER.size - member.compress_size:
        return "lies beyond its end"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by another method than deflate"
    if ".." in member.orig_filename.split("/") or member.orig_filename[:1] in ("/", "\\", ""):
        return "lies outside of it"
    # Deflate makes at most 1,032 bytes of one.
    is_stored = member.compress_type == zipfile.ZIP_STORED
    most = member.compress_size * (1 if is_stored else 1032)
    return f"cannot have {member.file_size} bytes" if member.file_size > most else None


def _is_archive(path: Path) -> bool:
    """Whether a path is a regular file that begins like a zip file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False


def find_source(path: str | os.PathLike[str]) -> Source:
    """Return where a run is read from.

    Parameters
    ----------
    path : str or path-like
        A directory, an archive made by `actlab pack`, or the URL of an object store; ``~`` is the home
        directory. There need not be anything.

    Raises
    ------
    StoreError
        In one line with the path: if an archive is no sound one.
    MissingDependencyError
        If the package for a URL is not installed.
    """
    if is_url(path):
        from actlab.store.objects import ObjectSource  # noqa: PLC0415 - not without the package

        return ObjectSource(os.fspath(path))
    local = expand(path)
    if not _is_archive(local):
        return LocalSource(local)
    try:
        return ZipSource(local)
    except OSError as error:
        raise StoreError(f"{local}: {error}") from error
