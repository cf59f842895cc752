"""The run in memory, as far as it is not on disk: rows become chunks here, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.schema import (
    CHANNELS_GROUP,
    COUNTS,
    HEAD,
    HEAD_GROUP,
    LABEL,
    LABELS_GROUP,
    LAYER_COORDINATES,
    LOG_PREFIX,
    MOMENTS,
    RAW_GROUP,
    RAW_INDEX,
    ROWS,
    SAMPLES_GROUP,
    LayerInfo,
    Variable,
)
from actlab.store.arrays import ArrayGroup, Read, roomy
from actlab.store.blosc import LARGEST_CHUNK
from actlab.store.layout import COORDINATES, RAW_COORDINATES
from actlab.store.row import Row, row_checksum
from actlab.store.side_table import SideTable

__all__ = ["RunTable"]


_GROUPS = (RAW_GROUP, CHANNELS_GROUP, SAMPLES_GROUP, HEAD_GROUP, LABELS_GROUP)


class _SplitTable:
    """The groups of one split: its own, `raw`, and those of side data."""

    def __init__(self, own: ArrayGroup, children: Mapping[str, ArrayGroup] | None = None) -> None:
        self.rows = 0
        self.growth: list[list[int]] = []
        self._own = own
        side = dict(children or {})
        self._raw = side.pop(RAW_GROUP, None)
        self._side = SideTable(side)

    @classmethod
    def new(cls, axis: FloatAxis, names: Sequence[str]) -> Self:
        """Return a split without rows."""
        # Room for layers that show up later, so that most runs never need a second column of chunks.
        most = LARGEST_CHUNK // (axis.n_buckets * np.dtype(COUNTS.dtype).itemsize)
        sizes, widths = {"layer": 0, "bucket": axis.n_buckets}, {"layer": min(roomy(len(names)), most)}
        own = ArrayGroup({"coordinates": COORDINATES}, sizes, widths)
        for variable in (*ROWS, *MOMENTS, COUNTS, *LAYER_COORDINATES):
            own.create(variable)
        own.extend({"lower": axis.lower, "upper": axis.upper})
        table = cls(own)
        table.widen(names)
        return table

    @classmethod
    def load(cls, split: str, attributes: Mapping[str, Any], nodes: Mapping[str, Any], read: Read) -> Self:
        """Return a split as it was committed."""
        paths = [
            path.removeprefix(f"{split}/")
            for path, node in nodes.items()
            if path.startswith(f"{split}/") and node["node_type"] == "group"
        ]
        known = [path for path in paths if path in _GROUPS or path.startswith(f"{SAMPLES_GROUP}/")]
        children = {path: ArrayGroup.load(f"{split}/{path}", nodes, read) for path in known}
        table = cls(ArrayGroup.load(split, nodes, read), children)
        table.rows = attributes["rows"][split]
        growth = attributes.get("layer_growth", {}).get(split)
        table.growth = list(growth or [[0, len(attributes["layers"])]])
        return table

    def groups(self, split: str) -> dict[str, ArrayGroup]:
        """Return the groups by path below the root."""
        raw = {} if self._raw is None else {RAW_GROUP: self._raw}
        children = {f"{split}/{path}": group for path, group in (raw | self._side.groups).items()}
        return {split: self._own} | children

    def widen(self, names: Sequence[str]) -> None:
        """Let the layer axis grow to these names."""
        self._own.extend({"layer": np.array(names[self._own.sizes["layer"] :], dtype=object)})
        self._own.widen("layer", len(names))

    def add(self, row: Row, attempt: int) -> None:
        """Append one row."""
        if not self.growth or self.growth[-1][1] != len(row.layers):
            self.growth.append([self.rows, len(row.layers)])
        values: dict[str, Any] = {v.name: getattr(row, v.name) for v in (*MOMENTS, COUNTS)}
        values |= {name: getattr(row, name) for name in ("step", "epoch", "batch", "train_step", "time")}
        values |= {"attempt": attempt, "row_crc32c": row_checksum(row, attempt)}
        values |= {LOG_PREFIX + name: value for name, value in row.logs.items()}
        arrays = self._own.arrays
        for name in sorted(values.keys() - arrays.keys()):
            description = f"{name.removeprefix(LOG_PREFIX)!r} as logged by the training"
            self._own.create(Variable(name, ("step",), "float64", "NaN", description), self.rows)
        self._own.extend({name: np.asarray(value)[None] for name, value in values.items()})
        self.rows += 1
        for name, array in arrays.items():
            if array.layout.dims[0] == "step" and name not in values:
                array.extend_filled(1)
        if row.head is not None:
            self._add_raw(row, row.head, attempt)
        self._side.add(row, attempt)

    def _add_raw(self, row: Row, head: NDArray[np.float32], attempt: int) -> None:
        """Append the samples of a row to the child group."""
        samples, units = head.shape
        if self._raw is None:
            self._raw = ArrayGroup({"coordinates": RAW_COORDINATES}, {"unit": units})
            for variable in (HEAD, *RAW_INDEX):
                self._raw.create(variable)
        raw, label = self._raw, row.label
        if label is not None and LABEL.name not in raw.arrays:
            raw.create(replace(LABEL, dims=HEAD.dims[: label.ndim]), raw.arrays[HEAD.name].shape[0])
        values = {"step": row.step, "sample_step": row.step, "attempt": attempt}
        raw.extend({HEAD.name: head} | {name: np.full(samples, value) for name, value in values.items()})
        if label is not None:
            raw.extend({LABEL.name: label})
        elif LABEL.name in raw.arrays:
            raw.arrays[LABEL.name].extend_filled(samples)


class RunTable:
    """All splits of a run.

    Parameters
    ----------
    axis : FloatAxis
        The recording axis.
    """

    def __init__(self, axis: FloatAxis) -> None:
        self._axis = axis
        self._layers: tuple[LayerInfo, ...] = ()
        self._splits: dict[str, _SplitTable] = {}
        self._others: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        axis: FloatAxis,
        layers: tuple[LayerInfo, ...],
        attributes: Mapping[str, Any],
        nodes: Mapping[str, dict[str, Any]],
        read: Read,
    ) -> Self:
        """Return a run as it was committed.

        Parameters
        ----------
        axis : FloatAxis
            The recording axis.
        layers : tuple of LayerInfo
            The table of layers.
        attributes : mapping
            The root attribute ``actlab``.
        nodes : mapping
            Path below the root -> metadata document of every group and array.
        read : callable
            Returns the files of the run.

        Raises
        ------
        StoreError
            If the last chunk of an array is missing or damaged, or an array can only be read.
        OSError
            If the disk refuses.
        """
        table = cls(axis)
        table._layers = layers
        for split in attributes["rows"]:
            table._splits[split] = _SplitTable.load(split, attributes, nodes, read)
        # What others have put beside the run's own groups stays as it is.
        known = table.nodes()
        table._others = {path: node for path, node in nodes.items() if path not in known}
        return table

    def add(self, row: Row, attempt: int = 0) -> None:
        """Append one row of an attempt; all splits always have the same layers."""
        names = [layer.name for layer in row.layers]
        if len(names) > len(self._layers):
            for table in self._splits.values():
                table.widen(names)
        self._layers = row.layers
        if row.split not in self._splits:
            self._splits[row.split] = _SplitTable.new(self._axis, names)
        self._splits[row.split].add(row, attempt)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield path and bytes of every chunk to be written; one taken is not yielded again.

        A chunk is forgotten only when the next one is asked for, so an error while it is being
        written leaves it for the next time.
        """
        for path, group in self._groups():
            for name, array in group.arrays.items():
                pending = array.encode()
                for key in list(pending):
                    yield f"{path}/{name}/{key}", pending[key]
                    del pending[key]

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return the metadata document of every group and array, by path below the root."""
        nodes: dict[str, dict[str, Any]] = {}
        for path, group in self._groups():
            nodes |= group.nodes(path)
        return nodes | self._others

    def _groups(self) -> Iterator[tuple[str, ArrayGroup]]:
        """Yield every group and its path below the root."""
        for split, table in self._splits.items():
            yield from table.groups(split).items()

    def attributes(self) -> dict[str, Any]:
        """Return what the root attribute says of rows and layers."""
        return {
            "rows": {split: table.rows for split, table in self._splits.items()},
            "layers": [dict(vars(layer)) for layer in self._layers],
            "layer_growth": {split: table.growth for split, table in self._splits.items()},
        }
