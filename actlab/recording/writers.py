"""Which writer a recorder has: one process's, one rank's, or one that merges the rows of all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from actlab.axis import FloatAxis
from actlab.errors import StoreError
from actlab.recording.distributed import Place, count_recorder, explain, find_place
from actlab.recording.options import Storage
from actlab.recording.reducing import ReducingWriter, SendingWriter
from actlab.recording.resumption import tell_refused, tell_resumed
from actlab.recording.session import Writer, await_abandoned
from actlab.store.writer import RunWriter

__all__ = ["open_writer"]


def open_writer(
    path: str | PathLike[str],
    *,
    axis: FloatAxis,
    attributes: Mapping[str, Any],
    reduce: bool,
    storage: Storage,
) -> Writer:
    """Open the writer of this process; a recorder that nobody holds any more makes room for it.

    Raises
    ------
    StoreError
        If the path exists and may not be replaced, cannot be gone on with, or cannot be written.
    ValueError
        If several processes shall go on without a `resume_step`.
    """
    place = find_place(path)
    if place is None:
        try:
            return _open_run(path, axis, attributes, storage)
        except StoreError as error:
            raise explain(error) from error
    if storage.resume and storage.resume_step is None:
        raise ValueError(
            "several processes go on from one step, and each may have committed another: give resume_step, "
            "the training batches that the checkpoint has seen (0 without one)"
        )
    if reduce:
        return _open_merged(path, place, axis, attributes, storage)
    writer = _open_run(place.path(path), axis, {**attributes, "ranks": place.attributes}, storage)
    if storage.resume_step == 0 and writer.resumed is not None:
        # Where a rank died before its store was made, that one begins anew: all have the job of now.
        writer.update_attributes(ranks=place.attributes)
    count_recorder(path)
    return writer


def _open_run(
    path: str | PathLike[str], axis: FloatAxis, attributes: Mapping[str, Any], storage: Storage
) -> RunWriter:
    """Open the writer of one run."""
    options: dict[str, Any] = {
        "axis": axis,
        "attributes": attributes,
        "overwrite": storage.overwrite,
        "resume": storage.resume,
        "resume_step": storage.resume_step,
        "same_attempt": storage.same_attempt,
        "flush_every": storage.flush_every,
        "fsync": storage.fsync,
        "on_full": storage.on_full,
        "on_error": storage.writer_on_error,
    }
    try:
        return RunWriter(path, **options)
    except StoreError:
        if not (storage.overwrite or storage.resumes):
            raise
    await_abandoned()
    return RunWriter(path, **options)


def _open_merged(
    path: str | PathLike[str], place: Place, axis: FloatAxis, attributes: Mapping[str, Any], storage: Storage
) -> Writer:
    """Open the writer of one rank among those whose rows are merged."""
    on_error = storage.writer_on_error
    try:
        if place.rank > 0:
            writer: Writer = SendingWriter(path, place, on_error=on_error, resumes=storage.resumes)
        else:
            ranks = {**place.attributes, "merged": list(range(place.world_size)), "dropped": {}}
            run = _open_run(path, axis, {**attributes, "ranks": ranks}, storage)
            writer = ReducingWriter(run, place, on_error=on_error)
            if storage.resumes:
                tell_resumed(place, writer.resumed, writer.attributes)
    except StoreError as error:
        if storage.resumes and place.store is not None:  # all ranks are refused then, and count alike
            count_recorder(path)
            if place.rank == 0:
                tell_refused(place, error)
        raise
    count_recorder(path)
    return writer
