"""The commit protocol: chunks first, the root record last, everything repeatable after an error."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any

from actlab.errors import StoreError
from actlab.schema import FORMAT_VERSION
from actlab.store.beginning import Beginning
from actlab.store.files import Directory
from actlab.store.layout import ROOT, root_record, to_json
from actlab.store.record import too_much
from actlab.store.row import Row

__all__ = ["Committer", "json_values"]

_CHILDREN_EVERY = 60.0  # seconds: children's own zarr.json only serve readers that ignore the root


class Committer:
    """Brings rows into the directory of a run, for one thread at a time.

    Parameters
    ----------
    directory : Directory
        Where the run is.
    beginning : Beginning
        What is there; the first commit makes the run this writer's.

    Attributes
    ----------
    path : str
        Where the run is, for messages.
    last_steps : dict of str to int
        Last step added of each split that has rows.
    written : int
        Chunks that were written: whether the disk still works.
    """

    def __init__(self, directory: Directory, beginning: Beginning) -> None:
        self.path = directory.path
        self.last_steps = dict(beginning.last_steps)
        self.written = 0
        self._directory = directory
        self._table = beginning.table
        self._paths = beginning.paths
        self._commits = beginning.commit
        self._is_whole = True
        self._is_ours = False
        self._identity = beginning.identity | {"writer": uuid.uuid4().hex}
        self._attempt = len(beginning.identity["attempts"]) - 1
        self._children: dict[str, dict[str, Any]] = {}
        self._next_children = 0.0

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows into memory; they are committed by the next `commit` that succeeds.

        An error in between may leave a row in some arrays only: then nothing is committed any more.
        """
        was_whole, self._is_whole = self._is_whole, False
        for row in rows:
            self._table.add(row, self._attempt)
            self.last_steps[row.split] = row.step
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
            If the run was removed or belongs to another writer now, an error cut `add` short, or the root
            record would be too large for any reader: the former commit stays.
        """
        if not self._is_whole:
            raise StoreError(f"{self.path}: a row was taken in part only, nothing more can be committed")
        nodes = self._table.nodes()
        if nodes.keys() - self._paths:  # made by this version of the format, unlike what was there
            self._identity["format_version"] = list(FORMAT_VERSION)
        said = dict(attributes) | self._identity | self._table.attributes() | {"commit": self._commits + 1}
        record = root_record(said, nodes)
        if (excess := too_much(record, len(nodes))) is not None:
            raise StoreError(f"{self.path}: {ROOT} would have {excess}, which nothing could read any more")
        self._check_writer()
        for name, data in self._table.files():
            self._directory.write(name, data)
            self.written += 1
        self._directory.sync()
        self._check_writer()
        # A record may be seen although an error follows: the next one is another commit.
        self._commits += 1
        self._directory.write(ROOT, record)
        self._directory.sync()
        self._is_ours = True

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
        """Make sure that the run still is this writer's, once it is."""
        if self._is_ours:
            self._directory.check_writer(str(self._identity["writer"]))


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of attributes as JSON holds them.

    Raises
    ------
    StoreError
        If a value is not JSON.
    """
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(f"attributes of a run must be JSON: {error}") from error
    return copy
