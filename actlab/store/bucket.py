"""The client of object stores, through obstore: S3, Google Cloud, Azure, the memory of this process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from actlab.errors import MissingDependencyError, StoreError
from actlab.store.urls import split_url

try:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError
    from obstore.store import MemoryStore, from_url
except ImportError as error:
    raise MissingDependencyError(
        "a run in an object store needs the package obstore: pip install 'actlab[s3]'"
    ) from error

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutResult, UpdateVersion
    from obstore.store import ObjectStore, RetryConfig

__all__ = ["Bucket", "ChangedError", "ConditionError", "version_of"]

# A request ends after 30 s (obstore's default, so that the environment can say otherwise); none is
# repeated later than 20 s after its first try.
_RETRY: Final[RetryConfig] = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2},
}
_MOST_OBJECTS = 1_000_000
# Left out of messages: signatures behind an address, the time it took, the body of an answer.
_NOISE = re.compile(r"\?\S*| in [\d.]+\S+s(, after .*?)?(?= - )|: <.*|^Generic ")
# Where a machine in a cloud is asked for credentials, when the environment has none.
_ROLE = re.compile(r"/latest/(api/token|meta-data)|/computeMetadata/|/metadata/identity")
_CAUSE = re.compile(r'<Code>(\w+)</Code>|(?:error|message): "([^"]+)"|kind: (Timeout)')

# What `memory://` means: one store for the whole process.
_memory = MemoryStore()

# The threads of obstore are not in a forked child, where a request would wait for ever.
_PROCESS = os.getpid()


class ChangedError(Exception):
    """The object is not of the version that the caller knows."""


class ConditionError(OSError):
    """The store has no conditional puts."""


class Bucket:
    """The objects below one prefix. Whatever the store raises becomes an OSError of one line.

    Parameters
    ----------
    url : str
        Where the run is.

    Raises
    ------
    StoreError
        If the URL names no run, or the environment says too little.
    """

    def __init__(self, url: str) -> None:
        scheme, bucket, self._prefix = split_url(url)
        self.url = f"{scheme}://{bucket}{'/' if bucket else ''}{self._prefix}"
        self._store: ObjectStore = _memory
        if scheme != "memory":
            try:
                with _one_line():
                    self._store = from_url(f"{scheme}://{bucket}", retry_config=_RETRY)
            except OSError as error:
                raise StoreError(f"{self.url}: {error}") from error

    def get(self, name: str, largest: int) -> tuple[bytes, UpdateVersion]:
        """Return an object and its version; its size is known before anything is loaded."""
        with self._asking():
            found = obstore.get(self._store, self._path(name))
            if found.meta["size"] > largest:
                raise StoreError(f"{name!r} is larger than {largest >> 20} MiB")
            return found.bytes().to_bytes(), version_of(found.meta)

    def get_range(self, name: str, start: int, stop: int) -> bytes:
        """Return a part of an object, which must have it."""
        with self._asking():
            return obstore.get_range(self._store, self._path(name), start=start, end=stop).to_bytes()

    def head(self, name: str) -> ObjectMeta:
        """Return the size and the version of an object."""
        with self._asking():
            return obstore.head(self._store, self._path(name))

    def put(self, name: str, data: bytes, version: UpdateVersion | None) -> UpdateVersion:
        """Replace this version of an object, or create it if there is none; return its new version."""
        try:
            with self._asking():
                return version_of(obstore.put(self._store, self._path(name), data, mode=version or "create"))
        except FileNotFoundError:
            if version is None:  # there is no such bucket
                raise
            raise ChangedError from None

    def delete(self, names: list[str]) -> None:
        """Remove objects."""
        with self._asking():
            obstore.delete(self._store, [self._path(name) for name in names])

    def sizes(self) -> dict[str, int]:
        """Return the names of all objects, and their bytes."""
        found: dict[str, int] = {}
        with self._asking():
            for page in obstore.list(self._store, prefix=self._prefix):
                found |= {meta["path"][len(self._prefix) + 1 :]: meta["size"] for meta in page}
                found.pop("", None)  # what a console makes of a folder
                if len(found) > _MOST_OBJECTS:
                    raise StoreError(f"there are more than {_MOST_OBJECTS:,} objects, which no run needs")
        return found

    def is_empty(self) -> bool:
        """Whether there is no object."""
        with self._asking():
            pages = obstore.list(self._store, prefix=self._prefix)
            return all(meta["path"] == self._prefix for page in pages for meta in page)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Make one request."""
        if os.getpid() != _PROCESS and self._store is not _memory:
            raise OSError(
                "object stores cannot be reached from a forked process, expected spawn or forkserver"
            )
        with _one_line():
            yield

    def _path(self, name: str) -> str:
        """Return the key of an object."""
        return f"{self._prefix}/{name}"


def version_of(found: ObjectMeta | PutResult) -> UpdateVersion:
    """Return what a conditional put names a version by."""
    version: UpdateVersion = {}
    if found["e_tag"] is not None:
        version["e_tag"] = found["e_tag"]
    if found["version"] is not None:
        version["version"] = found["version"]
    return version


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what obstore raises into what a file system would, in one line."""
    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise ChangedError from None
    except StoreError:
        raise
    except (BaseError, OSError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise (ConditionError if isinstance(error, NotSupportedError) else kind)(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Say in one line what is wrong; obstore writes a page."""
    text = str(error).strip()
    reason = _NOISE.sub("", text.partition("\n")[0]).rstrip(": ")
    if _ROLE.search(reason):
        reason = f"no credentials in the environment, and none from this machine: {reason}"
    cause = _CAUSE.search(text)
    return reason if cause is None else f"{reason} ({cause[cause.lastindex or 0]})"
