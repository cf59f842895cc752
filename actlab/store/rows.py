"""Rows read back from a store as they were recorded, with all that belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actlab.schema import (
    CHANNELS,
    CHANNELS_GROUP,
    COUNTS,
    HEAD,
    HEAD_COUNTS,
    HEAD_GROUP,
    LABEL,
    LABEL_MOMENTS,
    LABELS_GROUP,
    LOG_PREFIX,
    MOMENTS,
    RAW_GROUP,
    ROWS,
    SAMPLES_GROUP,
    VALUES,
    layers_from_attributes,
)
from actlab.store.row import ChannelStats, HeadCounts, LabelMoments, RawSamples, Row, row_checksum

__all__ = ["Read", "SplitRows", "StoredRow"]

Read: TypeAlias = Callable[[str, slice], NDArray[Any]]
"""Reads entries of an array along its first dim, by its path below the root."""

_BLOCK = 64 << 20  # bytes of the rows that are read together
_PLACE = ("step", "epoch", "batch", "train_step", "time")


@dataclass(frozen=True, eq=False)
class StoredRow:
    """One row of a store.

    Parameters
    ----------
    row : Row
        As it was recorded.
    attempt : int
        The attempt that recorded it.
    checksum : int
        Its stored `row_crc32c`.
    """

    row: Row
    attempt: int
    checksum: int

    @property
    def is_sound(self) -> bool:
        """Whether its checksum is right, and its counts add up to the numbers of values."""
        counted = self.row.counts.sum(axis=1, dtype=np.uint64)
        return np.array_equal(counted, self.row.n) and row_checksum(self.row, self.attempt) == self.checksum


class SplitRows:
    """The rows of a split, of every attempt.

    Parameters
    ----------
    split : str
        Its name.
    attributes : mapping
        The root attribute ``actlab``.
    nodes : mapping
        Path below the root -> metadata document of every group and array.
    read : callable
        What reads the arrays.

    Attributes
    ----------
    columns : dict
        `step`, `epoch`, ... [row], those of `schema.ROWS`.

    Raises
    ------
    StoreError
        If it cannot be read where its rows are.
    """

    def __init__(
        self, split: str, attributes: Mapping[str, Any], nodes: Mapping[str, dict[str, Any]], read: Read
    ) -> None:
        self._split, self._read = split, read
        self._nodes = {name: node for name, node in nodes.items() if name.startswith(f"{split}/")}
        self.columns = {each.name: self._whole(each.name) for each in ROWS}
        self._logs = [name for name in self._children(split) if name.startswith(LOG_PREFIX)]
        self._layers = layers_from_attributes(attributes)
        growth = attributes.get("layer_growth", {}).get(split) or [[0, len(self._layers)]]
        place = np.searchsorted([first for first, _ in growth], np.arange(len(self)), side="right") - 1
        self._known = np.array([known for _, known in growth])[place]
        self._raw = self._group(RAW_GROUP, "sample_step", "attempt")
        self._rows = {
            name: self._group(name, "row_step", "row_attempt")
            for name in (CHANNELS_GROUP, HEAD_GROUP, LABELS_GROUP)
        }
        sampled = [f"{SAMPLES_GROUP}/{name}" for name in self._children(f"{split}/{SAMPLES_GROUP}")]
        self._samples = {
            self._nodes[f"{split}/{name}"]["attributes"]["layer"]: self._group(name, "sample_step", "attempt")
            for name in sampled
        }
        if self._rows[CHANNELS_GROUP].entries:
            names = self._whole(f"{CHANNELS_GROUP}/channel_layer").tolist()
            self._channels = {name: names.count(name) for name in dict.fromkeys(names)}

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.columns["step"])

    def blocks(self) -> Iterator[range]:
        """Yield the numbers of rows that are best read together: of a chunk of counts, or 64 MiB."""
        arrays = [node for node in self._nodes.values() if node["node_type"] == "array"]
        nbytes = sum(8 * prod(node["shape"]) for node in arrays)
        counts = self._nodes[f"{self._split}/{COUNTS.name}"]
        length: int = counts["chunk_grid"]["configuration"]["chunk_shape"][0]
        while length > 1 and length * nbytes > _BLOCK * len(self):
            length //= 2
        for start in range(0, len(self), length):
            yield range(start, min(start + length, len(self)))

    def read(self, block: range) -> list[StoredRow]:
        """Read rows that are side by side.

        Raises
        ------
        StoreError
            If what belongs to one of them cannot be read.
        """
        part = slice(block.start, block.stop)
        names = [each.name for each in (*MOMENTS, COUNTS)] + self._logs
        values = {name: self._read(f"{self._split}/{name}", part) for name in names}
        for group in (self._raw, *self._rows.values(), *self._samples.values()):
            group.load([self.place(number) for number in block])
        return [
            StoredRow(
                replace(self._bare(number, values, number - block.start), **self._side(number)),
                int(self.columns["attempt"][number]),
                int(self.columns["row_crc32c"][number]),
            )
            for number in block
        ]

    def strays(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield group, step and attempt of side data that belong to no row, or are not side by side."""
        known = {self.place(number) for number in range(len(self))}
        for group in (self._raw, *self._rows.values(), *self._samples.values()):
            yield from ((group.path, place) for place in group.strays(known))

    def place(self, number: int) -> tuple[int, int]:
        """Return step and attempt of a row: they name it in side data."""
        return int(self.columns["step"][number]), int(self.columns["attempt"][number])

    def _bare(self, number: int, values: Mapping[str, NDArray[Any]], entry: int) -> Row:
        """Return a row without side data, over the layers that were known when it was recorded."""
        known = int(self._known[number])
        place: dict[str, Any] = {name: self.columns[name][number].item() for name in _PLACE}
        arrays: dict[str, Any] = {each.name: values[each.name][entry, :known] for each in (*MOMENTS, COUNTS)}
        logs = {name.removeprefix(LOG_PREFIX): float(values[name][entry]) for name in self._logs}
        return Row(split=self._split, layers=self._layers[:known], logs=logs, **place, **arrays)

    def _side(self, number: int) -> dict[str, Any]:
        """Return the side data of a row, by field."""
        place = self.place(number)
        side: dict[str, Any] = {}
        if (raw := self._raw.of(place)) is not None:
            side = {"head": raw[HEAD.name], "label": raw.get(LABEL.name)}
        found = {name: group.of(place) for name, group in self._rows.items()}
        if (block := found[CHANNELS_GROUP]) is not None:
            values = [block[each.name][0] for each in CHANNELS]
            table = tuple(self._channels), tuple(self._channels.values())
            side["channels"] = ChannelStats(*table, *values)
        if (block := found[HEAD_GROUP]) is not None:
            units = self._nodes[f"{self._split}/{HEAD_GROUP}"]["attributes"]["units"]
            side["head_counts"] = HeadCounts(block[HEAD_COUNTS.name][0], units == "pooled")
        if (block := found[LABELS_GROUP]) is not None:
            side["label_moments"] = LabelMoments(*(block[each.name][0] for each in LABEL_MOMENTS))
        kept = {layer: group.of(place) for layer, group in self._samples.items()}
        side["samples"] = {
            layer: RawSamples(block[VALUES.name], block["index"], block.get(LABEL.name))
            for layer, block in kept.items()
            if block is not None
        }
        return side

    def _group(self, name: str, step: str, attempt: str) -> _Entries:
        """Return a group of side data; without entries where there is no such group."""
        path = f"{self._split}/{name}"
        if path not in self._nodes:
            return _Entries(path, np.empty((0, 2), np.int64), (), self._read)
        dim = self._nodes[f"{path}/{step}"]["dimension_names"][0]
        arrays = [
            child
            for child in self._children(path)
            if self._nodes[f"{path}/{child}"]["dimension_names"][0] == dim and child not in (step, attempt)
        ]
        keys = np.stack([self._whole(f"{name}/{step}"), self._whole(f"{name}/{attempt}")], axis=1)
        return _Entries(path, keys, arrays, self._read)

    def _children(self, path: str) -> list[str]:
        """Name the groups and arrays right below a group."""
        below = [name.removeprefix(f"{path}/") for name in self._nodes if name.startswith(f"{path}/")]
        return [name for name in below if "/" not in name]

    def _whole(self, name: str) -> NDArray[Any]:
        """Read a whole array."""
        path = f"{self._split}/{name}"
        return self._read(path, slice(0, self._nodes[path]["shape"][0]))


class _Entries:
    """The entries of a group of side data, which lie side by side for each row.

    Parameters
    ----------
    path : str
        The group, below the root.
    keys : numpy.ndarray
        int64 [entry, 2], step and attempt of each.
    arrays : iterable of str
        Its arrays of such entries.
    read : callable
        What reads them.
    """

    def __init__(self, path: str, keys: NDArray[np.int64], arrays: Iterable[str], read: Read) -> None:
        self.path, self._arrays, self._read = path, list(arrays), read
        self._first = 0
        self._values: dict[str, NDArray[Any]] = {}
        starts = np.flatnonzero(np.append(len(keys) > 0, (keys[1:] != keys[:-1]).any(axis=1)))
        self._places = [(int(step), int(attempt)) for step, attempt in keys[starts]]
        stops = np.append(starts, len(keys))[1:]
        self.entries = {
            place: slice(int(start), int(stop))
            for place, start, stop in zip(self._places, starts, stops, strict=True)
        }

    def strays(self, known: Collection[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield the places of rows that are not known, or come twice."""
        seen: set[tuple[int, int]] = set()
        for place in self._places:
            if place not in known or place in seen:
                yield place
            seen.add(place)

    def load(self, places: Iterable[tuple[int, int]]) -> None:
        """Read the entries of rows that are side by side."""
        found = [self.entries[place] for place in places if place in self.entries]
        if found:
            self._first = found[0].start
            part = slice(self._first, found[-1].stop)
            self._values = {name: self._read(f"{self.path}/{name}", part) for name in self._arrays}

    def of(self, place: tuple[int, int]) -> dict[str, NDArray[Any]] | None:
        """Return the loaded entries of a row, None if it has none."""
        if place not in self.entries:
            return None
        mine = self.entries[place]
        part = slice(mine.start - self._first, mine.stop - self._first)
        return {name: values[part] for name, values in self._values.items()}
