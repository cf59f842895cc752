"""`branch`: a new run that begins with the rows of another one, up to a training step."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from heapq import merge
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from actlab.errors import StoreError
from actlab.schema import (
    CHANNELS,
    FORMAT_VERSION,
    LABEL_MOMENTS,
    SPLITS,
    axis_from_attributes,
    layers_from_attributes,
)
from actlab.store.attempts import live_rows
from actlab.store.files import Directory, expand, open_directory
from actlab.store.layout import ROOT, root_record, to_json
from actlab.store.placing import placed_runs
from actlab.store.resuming import plan_attempt
from actlab.store.row import ChannelStats, LabelMoments, Row
from actlab.store.stored import StoredRun
from actlab.store.table import RunTable
from actlab.store.urls import is_url

__all__ = ["branch"]

_AT_ONCE = 64  # rows that are written together


def branch(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    step: int | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> str:
    """Begin a new run with the rows of another one; go on in it with ``resume=True``.

    The rows are those that are live at `step`, all of attempt 0, each read back and checked. The other
    run stays as it is; the attribute ``parent`` of the new one says where it comes from. Of a run of
    several ranks the store of each is branched.

    Parameters
    ----------
    path : str or path-like
        The run; a compacted one, too.
    out : str or path-like
        The new run, on this machine.
    step : int, optional
        Training batches completed before the branch begins, a `train_step`: rows of training from there
        on are left out, and what was evaluated later. By default all live rows are taken.
    overwrite : bool
        Replace a run at `out`.
    progress : callable
        Is told ``progress(stage, done, total)`` as the work goes on.

    Returns
    -------
    str
        Where the new run is.

    Raises
    ------
    StoreError
        In one line: if the run cannot be read, has no such step or is damaged, or `out` may not be, or
        cannot be, written. Nothing is left at `out` then but what was there.
    """
    with placed_runs(path, out, overwrite=overwrite) as places:
        for run, made in places:
            _Branch(run, step).write(made, progress)
    return str(expand(out).resolve())


class _Branch:
    """What a branch takes of one store.

    Parameters
    ----------
    run : StoredRun
        The parent.
    step : int or None
        Where the branch begins.
    """

    def __init__(self, run: StoredRun, step: int | None) -> None:
        self._run, said = run, run.record.attributes
        self._splits = {split: run.rows(split) for split in run.splits}
        columns = {split: rows.columns for split, rows in self._splits.items()}
        layers = layers_from_attributes(said)
        counted = plan_attempt(said, columns, layers).resumed.steps["train"]
        if step is not None and not 0 <= step <= counted:
            raise StoreError(f"{run.label}: has train_steps 0 to {counted}, no {step} to branch at")
        # What would live on if the run itself went on from there.
        self._plan = plan_attempt(said, columns, layers, step)
        starts = said.get("attempts") or [0] if step is None else self._plan.attempts
        self._live = {
            split: live_rows(split, each["train_step"], each["attempt"], starts)
            for split, each in columns.items()
        }

    def write(self, made: Path, progress: Callable[[str, int, int], None]) -> None:
        """Write the branch under its temporary name, the root record last."""
        directory = open_directory(made, "new", fsync=False)  # all of it is synced at the end
        table = RunTable(axis_from_attributes(self._run.record.attributes["axis"]))
        total = sum(int(live.sum()) for live in self._live.values())
        try:
            for done, row in enumerate(self._rows(), 1):
                table.add(row)
                if done % _AT_ONCE == 0:
                    _put(table, directory)
                progress("Branching", done, total)
            _put(table, directory)
            for name, node in table.nodes().items():
                directory.write(f"{name}/{ROOT}", to_json(node))
            directory.write(ROOT, root_record(self._attributes(table), table.nodes()))
        finally:
            directory.release()

    def _rows(self) -> Iterator[Row]:
        """Yield the rows as they could have come from a training: the table of layers never shrinks."""
        each = [self._rows_of(split) for split in self._splits]
        yield from merge(*each, key=lambda row: (len(row.layers), row.train_step, SPLITS.index(row.split)))

    def _rows_of(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split that the branch takes, checked."""
        rows, live = self._splits[split], self._live[split]
        for block in rows.blocks():
            taken = live[block.start : block.stop]
            for stored in compress(rows.read(block) if taken.any() else (), taken):
                if not stored.is_sound:
                    step = stored.row.step
                    raise StoreError(f"{self._run.label}: step {step} of {split} is not as it was recorded")
                yield _trimmed(stored.row)

    def _attributes(self, table: RunTable) -> dict[str, Any]:
        """Return the root attribute of the branch."""
        parent, label = self._run.record.attributes, self._run.label
        kept = {key: value for key, value in parent.items() if key != "compacted"}
        found = table.attributes()
        names = {layer["name"] for layer in found["layers"]}
        return (
            kept
            | found
            | {
                "format_version": list(FORMAT_VERSION),
                "run_id": uuid.uuid4().hex,
                "writer": uuid.uuid4().hex,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": 1,
                "attempts": [0],
                "head": parent.get("head") if parent.get("head") in names else None,
                "gaps": self._plan.gaps,
                "steps": self._plan.resumed.steps,
                "closed": True,
                "parent": {
                    "run_id": parent.get("run_id"),
                    "path": label if is_url(label) else str(Path(label).resolve()),
                    "rows": found["rows"],
                    "train_step": self._plan.attempts[-1],
                },
            }
        )


def _put(table: RunTable, directory: Directory) -> None:
    """Write the chunks so far."""
    for name, data in table.files():
        directory.write(name, data)


def _trimmed(row: Row) -> Row:
    """Leave out the channels of layers that were not known yet, and labels that had not been seen."""
    names = {layer.name for layer in row.layers}
    channels, moments = row.channels, row.label_moments
    if channels is not None:
        known = [size for layer, size in zip(channels.layers, channels.sizes, strict=True) if layer in names]
        values = {each.name: getattr(channels, each.name)[: sum(known)] for each in CHANNELS}
        channels = ChannelStats(channels.layers[: len(known)], tuple(known), **values)
    if moments is not None:
        used = np.flatnonzero(moments.n.any(axis=1))
        labels = int(used[-1]) + 1 if used.size else 1
        moments = LabelMoments(*(getattr(moments, each.name)[:labels] for each in LABEL_MOMENTS))
    return replace(row, channels=channels, label_moments=moments)
