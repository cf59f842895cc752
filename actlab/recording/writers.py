"""Which writer a recorder has: one process's, one rank's, or one that merges the rows of all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal

from actlab.axis import FloatAxis
from actlab.errors import StoreError
from actlab.recording.distributed import count_recorder, explain, find_place
from actlab.recording.reducing import ReducingWriter, SendingWriter
from actlab.recording.session import Writer, await_abandoned
from actlab.store.writer import RunWriter

__all__ = ["open_writer"]


def open_writer(
    path: str | PathLike[str],
    *,
    axis: FloatAxis,
    attributes: Mapping[str, Any],
    reduce: bool,
    overwrite: bool,
    flush_every: float,
    on_error: Literal["warn", "raise"],
) -> Writer:
    """Open the writer of this process; a recorder that nobody holds any more makes room for it.

    Raises
    ------
    StoreError
        If the path exists and may not be replaced, or cannot be written.
    """

    def open_run(where: str | PathLike[str], **more: Any) -> RunWriter:
        options: dict[str, Any] = {
            "axis": axis,
            "attributes": {**attributes, **more},
            "overwrite": overwrite,
            "flush_every": flush_every,
            "on_error": on_error,
        }
        try:
            return RunWriter(where, **options)
        except StoreError:
            if not overwrite:
                raise
        await_abandoned()
        return RunWriter(where, **options)

    place = find_place(path)
    if place is None:
        try:
            return open_run(path)
        except StoreError as error:
            raise explain(error) from error
    writer: Writer
    if not reduce:
        writer = open_run(place.path(path), ranks=place.attributes)
    elif place.rank > 0:
        writer = SendingWriter(path, place, on_error=on_error)
    else:
        writer = ReducingWriter(open_run(path), place, on_error=on_error)
    count_recorder(path)
    return writer
