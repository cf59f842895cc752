"""The commit protocol: chunks first, the root record last, everything repeatable after an error."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from actlab.axis import FloatAxis
from actlab.errors import StoreError
from actlab.schema import FORMAT_VERSION, axis_to_attributes
from actlab.store.files import RunDirectory
from actlab.store.layout import ROOT, root_record, to_json
from actlab.store.row import Row
from actlab.store.table import RunTable

__all__ = ["Committer"]

_CHILDREN_EVERY = 60.0  # seconds: children's own zarr.json only serve readers that ignore the root


class Committer:
    """Brings rows into the directory of a run, for one thread at a time.

    Parameters
    ----------
    path : str or path-like
        Directory of the run.
    axis : FloatAxis
        The recording axis.
    overwrite : bool
        Replace an existing run.
    fsync : bool
        Survive power loss, too.

    Raises
    ------
    StoreError
        If the path holds something, is being written, or cannot be created.
    """

    def __init__(
        self, path: str | os.PathLike[str], axis: FloatAxis, *, overwrite: bool, fsync: bool
    ) -> None:
        self._directory = RunDirectory(path, overwrite=overwrite, fsync=fsync)
        self._table = RunTable(axis)
        self._commits = 0
        self._is_whole = True
        self._identity = {
            "format": "actlab",
            "format_version": list(FORMAT_VERSION),
            "incompat": [],
            "run_id": uuid.uuid4().hex,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "writer": uuid.uuid4().hex,
            "attempts": [0],
            "axis": axis_to_attributes(axis),
        }
        self._children: dict[str, dict[str, Any]] = {}
        self._next_children = 0.0

    @property
    def path(self) -> Path:
        """Directory of the run."""
        return self._directory.path

    @property
    def last_steps(self) -> dict[str, int]:
        """Last step added of each split that has rows."""
        return self._table.last_steps

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows into memory; they are committed by the next `commit` that succeeds.

        An error in between may leave a row in some arrays only: then nothing is committed any more.
        """
        was_whole, self._is_whole = self._is_whole, False
        for row in rows:
            self._table.add(row)
        self._is_whole = was_whole

    def commit(self, attributes: Mapping[str, Any]) -> None:
        """Commit all rows added so far.

        Parameters
        ----------
        attributes : mapping
            What else the root attribute ``actlab`` shall say.

        Raises
        ------
        OSError
            If the disk refuses; nothing is lost, and the commit may be repeated.
        StoreError
            If the run was removed or belongs to another writer now, or an error cut `add` short.
        """
        if not self._is_whole:
            raise StoreError(f"{self.path}: a row was taken in part only, nothing more can be committed")
        said = dict(attributes) | self._identity | self._table.attributes() | {"commit": self._commits + 1}
        record = root_record(said, self._table.nodes())
        self._check_writer()
        for name, data in self._table.files():
            self._directory.write(name, data)
        self._directory.sync()
        self._check_writer()
        self._directory.write(ROOT, record)
        self._directory.sync()
        self._commits += 1

    def write_children(self, *, closing: bool) -> None:
        """Bring the children's own zarr.json up to the root: the new ones, all at times and at the end.

        Raises
        ------
        OSError
            If the disk refuses; the commit holds all the same.
        """
        nodes = self._table.nodes()
        if closing or monotonic() >= self._next_children or nodes.keys() - self._children.keys():
            for path, node in nodes.items():
                if self._children.get(path) != node:
                    self._directory.write(f"{path}/{ROOT}", to_json(node))
                    self._children[path] = node
            self._directory.sync()
            self._next_children = monotonic() + _CHILDREN_EVERY

    def release(self) -> None:
        """Let go of the directory."""
        self._directory.release()

    def _check_writer(self) -> None:
        """Make sure that the run still is this writer's, once there is a root record."""
        if self._commits > 0:
            self._directory.check_writer(str(self._identity["writer"]))
