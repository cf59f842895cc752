"""Where a page goes: checked before the work, put in place at once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from actlab.errors import StoreError

__all__ = ["free_outputs", "write_text"]


def free_outputs(page: Path, *, overwrite: bool) -> tuple[Path, Path]:
    """Return the page and its recipe, if both may be written.

    Parameters
    ----------
    page : pathlib.Path
        NAME.html; the recipe goes to NAME.toml.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    StoreError
        If the name is no page's, an output is there already, or its folder cannot be written into.
    """
    if page.suffix.lower() not in (".html", ".htm"):
        raise StoreError(f"{page}: a page is a file that ends in .html, its recipe goes to .toml beside it")
    outputs = page, page.with_suffix(".toml")
    for output in outputs:
        if output.is_dir():
            raise StoreError(f"{output} is a folder, expected a file to write")
        if output.exists() and not overwrite:
            raise StoreError(f"{output} exists already; overwrite=True or --overwrite replaces it")
    folder = next(parent for parent in page.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StoreError(f"{page}: cannot write into {folder}")
    return outputs


def write_text(path: Path, text: str) -> None:
    """Put a file in place at once: whoever reads it sees the old one or the new one, never a part.

    Parameters
    ----------
    path : pathlib.Path
        The file; missing folders are made.
    text : str
        Its content, written as UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
