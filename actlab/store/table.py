"""The run in memory, as far as it is not on disk: rows become chunks here, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.schema import (
    COUNTS,
    HEAD,
    LABEL,
    LAYER_COORDINATES,
    LOG_PREFIX,
    MOMENTS,
    RAW_GROUP,
    RAW_INDEX,
    ROWS,
    LayerInfo,
    Variable,
)
from actlab.store.layout import (
    COORDINATES,
    RAW_COORDINATES,
    ArrayLayout,
    chunk_key,
    chunk_length,
    group_node,
)
from actlab.store.row import Row, row_checksum

__all__ = ["GrowingArray", "RunTable"]

# A partial chunk is written again by every commit, so the many small arrays get small chunks.
_BIG_CHUNK, _SMALL_CHUNK = 4 << 20, 256 << 10
_MOST_ROWS, _MOST_SAMPLES = 1 << 10, 1 << 14
_TIME_UNITS = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}


class GrowingArray:
    """One array that grows along its first dimension, and may widen along its second.

    Only the last, partial chunk is kept, besides the encoded chunks in `files` (file name ->
    bytes), which whoever writes them removes one by one.

    Parameters
    ----------
    layout : ArrayLayout
        Dims, dtype, fill and chunks.
    shape : tuple of int
        Shape to begin with; what it spans holds the fill value.
    """

    def __init__(self, layout: ArrayLayout, shape: tuple[int, ...]) -> None:
        self.layout = layout
        self.shape = shape
        self.files: dict[str, bytes] = {}
        self._columns = self._columns_of(shape)
        self._tail = self._empty_tail()
        self._unsaved = shape[0] % layout.chunks[0] > 0
        self._write_filler(range(self._columns))

    def extend(self, block: NDArray[Any]) -> None:
        """Append entries [k, ...]; a block narrower than the array is padded with the fill value."""
        length = self.layout.chunks[0]
        while len(block) > 0:
            start = self.shape[0] % length
            part = block[: length - start]
            place = (slice(start, start + len(part)), *map(slice, part.shape[1:]))
            self._tail[place] = part
            self.shape = (self.shape[0] + len(part), *self.shape[1:])
            self._unsaved = True
            if start + len(part) == length:
                self._encode(self.shape[0] // length - 1)
                self._tail = self._empty_tail()
            block = block[len(part) :]

    def extend_filled(self, count: int) -> None:
        """Append `count` entries of the fill value."""
        self.extend(self.layout.filled((count, *self.shape[1:])))

    def widen(self, size: int) -> None:
        """Let the second dimension grow to `size`; earlier entries read the fill value there."""
        self.shape = (self.shape[0], size, *self.shape[2:])
        before, self._columns = self._columns, self._columns_of(self.shape)
        if self._columns == before:
            return
        old, self._tail = self._tail, self._empty_tail()
        self._tail[:, : old.shape[1]] = old
        self._unsaved = self.shape[0] % self.layout.chunks[0] > 0
        self._write_filler(range(before, self._columns))

    def encode(self) -> dict[str, bytes]:
        """Encode the partial chunk, if it changed, and return all files to be written."""
        if self._unsaved:
            self._encode(self.shape[0] // self.layout.chunks[0])
        return self.files

    def _columns_of(self, shape: tuple[int, ...]) -> int:
        """Count the chunks along the second dimension; every further one has a single chunk."""
        return -(-shape[1] // self.layout.chunks[1]) if len(shape) > 1 else 1

    def _empty_tail(self) -> NDArray[Any]:
        """Return the partial chunks of all columns side by side, filled."""
        length, *rest = self.layout.chunks
        if rest:
            rest[0] *= self._columns
        return self.layout.filled((length, *rest))

    def _encode(self, number: int) -> None:
        """Encode the tail as the chunks with this number along the first dimension."""
        for column in range(self._columns):
            self.files[self._key(number, column)] = self.layout.encode(self._column(column))
        self._unsaved = False

    def _column(self, column: int) -> NDArray[Any]:
        """Return the part of the tail that is one chunk."""
        if self._tail.ndim == 1:
            return self._tail
        width = self.layout.chunks[1]
        return self._tail[:, column * width : (column + 1) * width]

    def _write_filler(self, columns: range) -> None:
        """Write whole chunks of the fill value: a chunk is never missing."""
        full = self.shape[0] // self.layout.chunks[0]
        if full > 0 and len(columns) > 0:
            filler = self.layout.encode(self.layout.filled(self.layout.chunks))
            self.files |= {self._key(number, column): filler for number in range(full) for column in columns}

    def _key(self, number: int, column: int) -> str:
        """Return the file name of a chunk."""
        return chunk_key((number, column, *(0 for _ in self.layout.chunks[2:]))[: len(self.layout.chunks)])


class _SplitTable:
    """The arrays of one split group, its `raw` child included."""

    def __init__(self, axis: FloatAxis, names: Sequence[str]) -> None:
        self.rows = 0
        self.last_step = -1
        self.growth: list[list[int]] = []
        self.arrays: dict[str, GrowingArray] = {}
        # Room for layers that show up later, so that most runs never need a second column of chunks.
        width = -(-(len(names) + len(names) // 8) // 8) * 8
        self._widths = {"layer": max(width, 8), "bucket": axis.n_buckets}
        self._sizes = {"layer": 0, "bucket": axis.n_buckets}
        for variable in (*ROWS, *MOMENTS, COUNTS, *LAYER_COORDINATES):
            self._create(variable, 0)
        self.arrays["lower"].extend(axis.lower)
        self.arrays["upper"].extend(axis.upper)
        self.widen(names)

    def widen(self, names: Sequence[str]) -> None:
        """Let the layer axis grow to these names."""
        self.arrays["layer"].extend(np.array(names[self._sizes["layer"] :], dtype=object))
        self._sizes["layer"] = len(names)
        for array in self.arrays.values():
            if array.layout.dims[1:2] == ("layer",):
                array.widen(len(names))

    def add(self, row: Row, attempt: int) -> None:
        """Append one row."""
        if not self.growth or self.growth[-1][1] != len(row.layers):
            self.growth.append([self.rows, len(row.layers)])
        values: dict[str, Any] = {v.name: getattr(row, v.name) for v in (*MOMENTS, COUNTS)}
        values |= {name: getattr(row, name) for name in ("step", "epoch", "batch", "train_step", "time")}
        values |= {"attempt": attempt, "row_crc32c": row_checksum(row, attempt)}
        values |= {LOG_PREFIX + name: value for name, value in row.logs.items()}
        for name in values.keys() - self.arrays.keys():
            description = f"{name.removeprefix(LOG_PREFIX)!r} as logged by the training"
            self._create(Variable(name, ("step",), "float64", "NaN", description), self.rows)
        for name, value in values.items():
            self.arrays[name].extend(np.asarray(value)[None])
        self.rows += 1
        self.last_step = row.step
        for name, array in self.arrays.items():
            if name.startswith(LOG_PREFIX) and name not in values:
                array.extend_filled(1)
        if row.head is not None:
            self._add_raw(row, row.head, attempt)

    def _add_raw(self, row: Row, head: NDArray[np.float32], attempt: int) -> None:
        """Append the samples of a row to the child group."""
        samples, units = head.shape
        label, label_path = row.label, f"{RAW_GROUP}/{LABEL.name}"
        if f"{RAW_GROUP}/{HEAD.name}" not in self.arrays:
            self._widths["unit"] = self._sizes["unit"] = units
            for variable in (HEAD, *RAW_INDEX):
                self._create(variable, 0, f"{RAW_GROUP}/")
        if label is not None and label_path not in self.arrays:
            dims = HEAD.dims[: label.ndim]
            before = self.arrays[f"{RAW_GROUP}/{HEAD.name}"].shape[0]
            variable = Variable(LABEL.name, dims, LABEL.dtype, LABEL.fill, LABEL.description)
            self._create(variable, before, f"{RAW_GROUP}/")
        values = {"head": head, "step": row.step, "sample_step": row.step, "attempt": attempt}
        for name, value in values.items():
            block = value if name == "head" else np.full(samples, value)
            self.arrays[f"{RAW_GROUP}/{name}"].extend(np.asarray(block))
        if label is not None:
            self.arrays[label_path].extend(label)
        elif label_path in self.arrays:
            self.arrays[label_path].extend_filled(samples)

    def _create(self, variable: Variable, length: int, prefix: str = "") -> None:
        """Create an array with `length` entries of its fill value."""
        first, *others = variable.dims
        entry = tuple(self._widths[dim] for dim in others)
        if first in self._widths:
            longest = self._widths[first]
        else:
            big = variable.name in (COUNTS.name, HEAD.name)
            most = _MOST_ROWS if variable.name == COUNTS.name else _MOST_SAMPLES
            itemsize = np.dtype(variable.dtype).itemsize
            longest = chunk_length(entry, itemsize, _BIG_CHUNK if big else _SMALL_CHUNK, most)
        attributes = {"long_name": variable.description} | (_TIME_UNITS if variable.name == "time" else {})
        layout = ArrayLayout(variable.dims, variable.dtype, variable.fill, (longest, *entry), attributes)
        shape = (length, *(self._sizes[dim] for dim in others))
        self.arrays[prefix + variable.name] = GrowingArray(layout, shape)


class RunTable:
    """All splits of a run.

    Parameters
    ----------
    axis : FloatAxis
        The recording axis.
    attempt : int
        The attempt that is being recorded.
    """

    def __init__(self, axis: FloatAxis, attempt: int = 0) -> None:
        self._axis = axis
        self._attempt = attempt
        self._layers: tuple[LayerInfo, ...] = ()
        self._splits: dict[str, _SplitTable] = {}

    @property
    def last_steps(self) -> dict[str, int]:
        """Last step of each split that has rows."""
        return {split: table.last_step for split, table in self._splits.items()}

    def add(self, row: Row) -> None:
        """Append one row; all splits always have the same layers."""
        names = [layer.name for layer in row.layers]
        if len(names) > len(self._layers):
            for table in self._splits.values():
                table.widen(names)
        self._layers = row.layers
        if row.split not in self._splits:
            self._splits[row.split] = _SplitTable(self._axis, names)
        self._splits[row.split].add(row, self._attempt)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield path and bytes of every chunk to be written; one taken is not yielded again.

        A chunk is forgotten only when the next one is asked for, so an error while it is being
        written leaves it for the next time.
        """
        for split, table in self._splits.items():
            for name, array in table.arrays.items():
                pending = array.encode()
                for key in list(pending):
                    yield f"{split}/{name}/{key}", pending[key]
                    del pending[key]

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return the metadata document of every group and array, by path below the root."""
        nodes: dict[str, dict[str, Any]] = {}
        for split, table in self._splits.items():
            nodes[split] = group_node({"coordinates": COORDINATES})
            if f"{RAW_GROUP}/{HEAD.name}" in table.arrays:
                nodes[f"{split}/{RAW_GROUP}"] = group_node({"coordinates": RAW_COORDINATES})
            nodes |= {f"{split}/{name}": a.layout.node(a.shape) for name, a in table.arrays.items()}
        return nodes

    def attributes(self) -> dict[str, Any]:
        """Return what the root attribute says of rows and layers."""
        return {
            "rows": {split: table.rows for split, table in self._splits.items()},
            "layers": [asdict(layer) for layer in self._layers],
            "layer_growth": {split: table.growth for split, table in self._splits.items()},
        }
