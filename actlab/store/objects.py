"""Runs in an object store: how one is read, and how it is written without a lock.

Every put is conditional: on the version that this writer knows, or on absence. The root record names
the writer; whoever finds another one there has been replaced and stops.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from actlab.errors import StoreError
from actlab.schema import SPLITS
from actlab.store.bucket import Bucket, ChangedError, ConditionError, version_of
from actlab.store.files import Mode
from actlab.store.layout import ROOT, root_record, to_json
from actlab.store.sources import LARGEST_READ
from actlab.store.urls import with_name

if TYPE_CHECKING:
    from obstore import UpdateVersion

__all__ = ["ObjectDirectory", "ObjectSource"]

_LARGEST_ROOT: Final = 16 << 20  # bytes
_PUTS: Final = 4  # in a row, where somebody else keeps changing the same object


class ObjectSource:
    """A run in an object store, read only; see `Source`.

    Parameters
    ----------
    url : str
        ``s3://bucket/name``, ``gs://``, ``az://`` or ``memory://name``. Credentials and endpoint come
        from the environment.

    Raises
    ------
    StoreError
        If the URL names no run, or the environment says too little.
    """

    def __init__(self, url: str) -> None:
        self._bucket = Bucket(url)
        self._sizes: dict[str, int] | None = None
        self.label = self._bucket.url

    def __reduce__(self) -> tuple[type[ObjectSource], tuple[str]]:
        """Be pickled by the URL."""
        return ObjectSource, (self.label,)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return an object or a part of it; see `Source`."""
        if name == ROOT:
            self._sizes = None  # another commit may have other files
        if start == 0 and stop is None:
            return self._bucket.get(name, LARGEST_READ)[0]
        size = (self._sizes or {}).get(name)
        if start < 0 or stop is None:
            size = self._bucket.head(name)["size"] if size is None else size
            start = max(0, size + start) if start < 0 else start
            stop = size if stop is None else stop
        if size is not None:
            stop = min(stop, size)
        if stop - start > LARGEST_READ:
            raise StoreError(f"{name!r} is larger than {LARGEST_READ >> 20} MiB")
        return self._bucket.get_range(name, start, stop) if start < stop else b""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the objects below a prefix, from one listing of all for each read of the root record."""
        found = self._sizes
        if found is None:
            found = self._sizes = self._bucket.sizes()
        if not prefix:
            return dict(found)
        start = prefix.rstrip("/") + "/"
        return {name[len(start) :]: size for name, size in found.items() if name.startswith(start)}

    def exists(self) -> bool:
        """Whether there is anything of this name."""
        return not self._bucket.is_empty()

    def beside(self, name: str) -> ObjectSource:
        """Return the run of another name in the same place."""
        return ObjectSource(with_name(self.label, name))


class ObjectDirectory:
    """The only one who writes at the place of a run in an object store; see `Directory`.

    Nothing locks it. Two that write at the same time find out by the root record, which only one of
    them can have replaced: the other one is told so by its next put and changes nothing of a commit.

    Parameters
    ----------
    url : str
        Where the run is to be.
    mode : {"new", "replace", "resume"}
        What to do about a run that is there; anything else that exists is refused.
        A run is replaced by an empty one at once and its chunks are deleted afterwards, so that a crash
        leaves either the old run or an empty one.

    Raises
    ------
    StoreError
        If something else is there, or the store does not answer.
    """

    def __init__(self, url: str, mode: Mode) -> None:
        self._bucket = Bucket(url)
        self.path = self._bucket.url
        self._versions: dict[str, UpdateVersion] = {}
        self._writers: set[str] = set()  # whom root records of ours name
        self._is_taken = False  # the root record is ours
        self._root = b""
        try:
            self._open(mode)
        except OSError as error:
            raise StoreError(f"{self.path}: {error}") from error

    def read(self, name: str) -> bytes:
        """Return an object.

        Raises
        ------
        FileNotFoundError
            If there is none.
        OSError
            If the store fails.
        """
        largest = _LARGEST_ROOT if name == ROOT else LARGEST_READ
        data, self._versions[name] = self._bucket.get(name, largest)
        if name == ROOT:
            self._root = data
        return data

    def write(self, name: str, data: bytes) -> None:
        """Put a whole object in place, or leave the former one; a put whose answer was lost is repeated.

        Raises
        ------
        StoreError
            If another writer took over the run, it was removed, or the store has no conditional puts.
        OSError
            If the store fails.
        """
        with self._naming_itself():
            self._write(name, data)

    def sync(self) -> None:
        """Do nothing: an object that was put stays."""

    def check_writer(self, writer: str) -> None:
        """Make sure that the run is still there and still names this writer.

        Raises
        ------
        StoreError
            If it does not: whoever writes there now must not be disturbed.
        OSError
            If the store fails.
        """
        self._writers.add(writer)
        with suppress(FileNotFoundError):
            if version_of(self._bucket.head(ROOT)) == self._versions.get(ROOT):
                return
        with self._naming_itself():
            self._check()

    def release(self) -> None:
        """Do nothing: there is no lock."""

    def _open(self, mode: Mode) -> None:
        """Look at what is there, and make room for a run."""
        try:
            self._root, self._versions[ROOT] = self._bucket.get(ROOT, _LARGEST_ROOT)
        except FileNotFoundError:
            if self._bucket.is_empty():
                return
        if "writer" not in _attributes(self._root):
            raise StoreError("exists, and is no actlab run; nothing was changed")
        if mode == "new":
            ways = "overwrite=True replaces it, resume=True goes on with it"
            raise StoreError(f"holds a run already; {ways}")
        if mode == "replace":
            names = self._bucket.sizes().keys() - {ROOT}
            foreign = sorted(name for name in names if name.partition("/")[0] not in SPLITS)
            if foreign:
                raise StoreError(f"holds {foreign[0]!r}, which is no part of a run; nothing was changed")
            self._write(ROOT, _emptied(self._root))
            self._bucket.delete(sorted(names))

    @contextmanager
    def _naming_itself(self) -> Iterator[None]:
        """Say in refusals where it is."""
        try:
            yield
        except StoreError as error:
            raise StoreError(f"{self.path}: {error}") from error

    def _write(self, name: str, data: bytes) -> None:
        """Put an object, and first the root record if it does not name this writer."""
        if name == ROOT:
            self._writers.add(_attributes(data)["writer"])
            self._root = data
            self._put(name, data)
            if not self._is_taken:
                self._prove(data)
                self._is_taken = True
        else:
            if not self._is_taken and self._root:
                # Whoever wrote here so far must be unable to commit what is put over.
                self._write(ROOT, _renamed(self._root))
            self._put(name, data)

    def _put(self, name: str, data: bytes) -> None:
        """Put an object in place of the version that is known."""
        for _ in range(_PUTS):
            try:
                self._versions[name] = self._bucket.put(name, data, self._versions.get(name))
                return
            except ChangedError:
                if self._settle(name, data):
                    return
            except ConditionError as error:
                raise _unfenced() from error
        raise OSError(f"{name!r} is changed again and again by somebody else")

    def _settle(self, name: str, data: bytes) -> bool:
        """Learn the version that another put made, if it may be replaced; return whether it was this put."""
        if name == ROOT:
            return self._check() == data
        # The version first: if the root record is ours even then, no later writer has made it.
        found, version = None, None
        with suppress(FileNotFoundError):
            found, version = self._bucket.get(name, LARGEST_READ)
        if found == data:
            is_done = True
        elif self._is_taken:
            self._check()
            is_done = False
        else:
            raise StoreError("is being written by another recorder")
        self._versions.pop(name, None)
        if version is not None:
            self._versions[name] = version
        return is_done

    def _check(self) -> bytes:
        """Return the root record, which must be ours."""
        try:
            data, version = self._bucket.get(ROOT, _LARGEST_ROOT)
        except FileNotFoundError:
            raise StoreError("the run was removed while it was being recorded") from None
        if version != self._versions.get(ROOT) and _attributes(data).get("writer") not in self._writers:
            raise StoreError("another writer took over this run")
        self._versions[ROOT] = version
        return data

    def _prove(self, data: bytes) -> None:
        """Make sure that the store heeds conditions: it must refuse to create what is there."""
        try:
            self._bucket.put(ROOT, data, None)
        except ChangedError:
            return
        raise _unfenced()


def _unfenced() -> StoreError:
    """Return what to say of a store that cannot keep two writers apart."""
    return StoreError(
        "this store has no conditional puts (If-Match, If-None-Match), without which two writers would "
        "spoil a run; record to a local disk and copy it"
    )


def _attributes(root: bytes) -> dict[str, Any]:
    """Return the root attribute `actlab` of a root record, empty if it is none."""
    try:
        found = json.loads(root)["attributes"]["actlab"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _renamed(root: bytes) -> bytes:
    """Return a root record that names another writer, and is the same otherwise."""
    document = json.loads(root)
    document["attributes"]["actlab"]["writer"] = uuid.uuid4().hex
    return to_json(document)


def _emptied(root: bytes) -> bytes:
    """Return the record of a run without rows, with the axis of another one."""
    old = _attributes(root)
    kept = {
        key: old[key] for key in ("format", "format_version", "incompat", "axis", "created") if key in old
    }
    empty = {"rows": {}, "layers": [], "attempts": [0], "commit": 0, "closed": False}
    return root_record(kept | empty | {"writer": uuid.uuid4().hex}, {})
