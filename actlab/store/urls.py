"""Names of runs as text: a path, or a URL such as ``s3://bucket/runs/mnist.zarr``."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from actlab.errors import StoreError

__all__ = ["is_url", "local_path", "name_of", "split_url", "with_name"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_SCHEMES = ("s3", "gs", "az", "memory")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a run lies in an object store; ``file://`` is a path like any other."""
    found = _URL.fullmatch(os.fspath(path))
    return found is not None and found[1].lower() != "file"


def local_path(path: str | os.PathLike[str]) -> str:
    """Return a path as text, also where it is written as ``file://``.

    Raises
    ------
    StoreError
        If it is a URL that a `pathlib.Path` was made of, which drops one of its slashes.
    """
    text = os.fspath(path)
    if text.lower().startswith("file://"):
        return unquote(urlsplit(text).path)
    if re.match(rf"({'|'.join(_SCHEMES)}):/[^/]", text):
        raise StoreError(f"{text}: was a URL, expected it as text: a Path drops a slash")
    return text


def split_url(url: str) -> tuple[str, str, str]:
    """Take a URL apart, and check it.

    Parameters
    ----------
    url : str
        ``scheme://bucket/name``; below ``memory://`` all is name.

    Returns
    -------
    scheme, bucket, name : str
        The name has no slash at its ends.

    Raises
    ------
    StoreError
        If it names no run in a store that is known.
    """
    found = _URL.fullmatch(url)
    scheme = "" if found is None else found[1].lower()
    if found is None or scheme not in _SCHEMES:
        known = ", ".join(f"{each}://" for each in _SCHEMES)
        raise StoreError(f"{url}: {scheme}:// is no store for a run, expected {known} or a path")
    bucket, _, name = ("", "", found[2]) if scheme == "memory" else found[2].partition("/")
    name = name.strip("/")
    parts = name.split("/")
    if not (bucket or scheme == "memory") or not name or {"", ".", ".."} & set(parts):
        example = "memory://name.zarr" if scheme == "memory" else f"{scheme}://bucket/name.zarr"
        raise StoreError(f"{url}: names no run, expected {example}")
    return scheme, bucket, name


def name_of(path: str | os.PathLike[str]) -> str:
    """Return the last part of a path or URL: the file name of the run."""
    return os.fspath(path).rstrip("/").rpartition("/")[2]


def with_name(path: str | os.PathLike[str], name: str) -> str:
    """Return the path or URL of what lies beside a run under another name."""
    text = os.fspath(path).rstrip("/")
    return text[: len(text) - len(name_of(text))] + name
