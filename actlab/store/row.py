"""One recorded step: the row, what makes it acceptable, and its checksum."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from actlab.errors import nearest
from actlab.schema import COUNTS, HEAD, LABEL, LOG_NAME, MOMENTS, MOST_LOGS, SPLITS, LayerInfo
from actlab.store.side import (
    ChannelStats,
    HeadCounts,
    LabelMoments,
    RawSamples,
    SideRules,
    array_bytes,
    as_bytes,
    side_bytes,
)

__all__ = [
    "ChannelStats",
    "HeadCounts",
    "LabelMoments",
    "RawSamples",
    "Row",
    "RowRules",
    "row_checksum",
]

_LARGEST_COUNT = int(np.iinfo(COUNTS.dtype).max)


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """One recorded step of one split, complete. Its arrays belong to the writer once appended.

    Parameters
    ----------
    split : str
        One of `schema.SPLITS`.
    step, epoch, batch, train_step : int
        See `schema.ROWS`; `step` increases within a split.
    time : float
        Seconds since 1970-01-01 UTC.
    layers : tuple of LayerInfo
        The whole layer table at the time of the row; a later one may only be longer.
    counts : numpy.ndarray
        uint32 or uint64 [layer, bucket].
    n, mean, std, min, max : numpy.ndarray
        [layer], see `schema.MOMENTS`.
    logs : mapping of str to float
        Scalars of the row, their names without ``log_``.
    head : numpy.ndarray or None
        float32 [sample, unit], the outputs of the head.
    label : numpy.ndarray or None
        int64 [sample] or [sample, unit]; kept only beside `head`.
    channels : ChannelStats or None
        Zeros and mean |a| by channel.
    samples : mapping of str to RawSamples
        Layer -> its outputs as they were.
    head_counts : HeadCounts or None
        A large head by unit and truth.
    label_moments : LabelMoments or None
        A large head by true label.
    """

    split: str
    step: int
    epoch: int
    batch: int
    train_step: int
    time: float
    layers: tuple[LayerInfo, ...]
    counts: NDArray[np.unsignedinteger[Any]]
    n: NDArray[Any]
    mean: NDArray[Any]
    std: NDArray[Any]
    min: NDArray[Any]
    max: NDArray[Any]
    logs: Mapping[str, float]
    head: NDArray[np.float32] | None = None
    label: NDArray[np.int64] | None = None
    channels: ChannelStats | None = None
    samples: Mapping[str, RawSamples] = field(default_factory=dict)
    head_counts: HeadCounts | None = None
    label_moments: LabelMoments | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, for the bound of the queue."""
        arrays = (self.counts, self.n, self.mean, self.std, self.min, self.max, self.head, self.label)
        blocks = (self.channels, self.head_counts, self.label_moments, *self.samples.values())
        total = sum(array.nbytes for array in arrays if array is not None)
        return total + sum(array_bytes(block) for block in blocks if block is not None)


def row_checksum(row: Row, attempt: int = 0) -> int:
    """Compute the CRC-32C of a row over little-endian bytes, as `docs/format.md` defines it.

    Parameters
    ----------
    row : Row
        The row; its arrays over the layers known at its time only.
    attempt : int
        The attempt it was recorded in.

    Returns
    -------
    int
        The value of `row_crc32c`.
    """
    index = (row.step, row.epoch, row.batch, row.train_step, attempt)
    parts: list[bytes] = [struct.pack("<5qd", *index, row.time)]
    parts += [as_bytes(getattr(row, variable.name), variable.dtype) for variable in (*MOMENTS, COUNTS)]
    logs = sorted((name, float(value)) for name, value in row.logs.items() if not math.isnan(value))
    parts += [name.encode() + struct.pack("<d", value) for name, value in logs]
    if row.head is not None:
        parts.append(as_bytes(row.head, HEAD.dtype))
        # No label reads like labels that are all missing, on disk.
        if row.label is not None and bool((row.label != LABEL.fill).any()):
            parts.append(as_bytes(row.label, LABEL.dtype))
    parts += side_bytes(row.channels, row.samples, row.head_counts, row.label_moments)
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return crc


class RowRules:
    """What a row must be so that it can be written after those before it.

    Parameters
    ----------
    n_buckets : int
        Buckets of the recording axis.
    layers : tuple of LayerInfo
        The table of layers so far.
    steps : mapping of str to int
        Split -> last step.
    heads : mapping of str to tuple of int
        Split -> units of the head's outputs, dims of their labels or 0 for none so far.
    side : mapping of str to SideRules
        Split -> what its side data must be.
    logs : mapping of str to set of str
        Split -> names of the scalars logged so far.
    """

    def __init__(
        self,
        n_buckets: int,
        layers: tuple[LayerInfo, ...] = (),
        steps: Mapping[str, int] | None = None,
        heads: Mapping[str, tuple[int, int]] | None = None,
        side: Mapping[str, SideRules] | None = None,
        logs: Mapping[str, set[str]] | None = None,
    ) -> None:
        self._n_buckets = n_buckets
        self._layers = layers
        self._steps = dict(steps or {})
        self._units = {split: units for split, (units, _) in (heads or {}).items()}
        self._label_dims = {split: dims for split, (_, dims) in (heads or {}).items() if dims > 0}
        self._side = dict(side or {})
        self._logs = dict(logs or {})

    def misplaced(self, row: Row) -> str | None:
        """Say why a row has no place of its own in the run, None if it has; remember the place."""
        if row.split not in SPLITS:
            return f"unknown split {row.split!r}, {nearest(row.split, SPLITS)}"
        if row.step <= (last := self._steps.get(row.split, -1)):
            return f"step {row.step} of {row.split!r} is not after the last one, {last}"
        self._steps[row.split] = row.step
        return None

    def broken(self, row: Row) -> str | None:
        """Say why a row does not fit the format, None if it does; remember its shapes."""
        if (found := self._table(row)) is not None:
            return f"step {row.step} of {row.split!r}: {found}"
        self._layers = row.layers
        if row.head is not None:
            self._units[row.split] = row.head.shape[1]
            if row.label is not None:
                self._label_dims[row.split] = row.label.ndim
        return None

    def sound_logs(self, row: Row) -> tuple[dict[str, float], str | None]:
        """Return the logged scalars that the format can hold, and why not the first of the others."""
        logs: Mapping[Any, Any] = row.logs
        known = self._logs.setdefault(row.split, set())
        sound: dict[str, float] = {}
        problems: list[str] = []
        for name, value in logs.items():
            if not isinstance(name, str) or LOG_NAME.fullmatch(name) is None:
                problems.append(f"log name {name!r} must be 1 to 120 of A-Z a-z 0-9 _ . -")
            elif not isinstance(value, Real):
                problems.append(f"log {name!r} must be a number, got {type(value).__name__}")
            elif name not in known and len(known) == MOST_LOGS:
                problems.append(f"log {name!r} is one name more than {MOST_LOGS:,}")
            else:
                try:
                    sound[name] = float(value)
                except OverflowError:
                    problems.append(f"log {name!r} is too large for a float64")
                else:
                    known.add(name)
        return sound, f"step {row.step} of {row.split!r}: {problems[0]}" if problems else None

    def sound_side(self, row: Row) -> tuple[Row, str | None]:
        """Return a row without the raw and side data that break the format, and what broke it first."""
        rules = self._side.setdefault(row.split, SideRules(self._n_buckets))
        names = {layer.name for layer in row.layers}
        found = {
            "head": self._raw(row),
            "label": self._label(row),
            "channels": None if row.channels is None else rules.channels(row.channels, names),
            "head_counts": None if row.head_counts is None else rules.head_counts(row.head_counts),
            "label_moments": None if row.label_moments is None else rules.label_moments(row.label_moments),
        }
        tried = {layer: rules.samples(layer, kept, names) for layer, kept in row.samples.items()}
        problems = [problem for problem in (*found.values(), *tried.values()) if problem is not None]
        if not problems:
            return row, None
        sound = replace(
            row,
            head=row.head if found["head"] is None else None,
            label=row.label if found["head"] is None and found["label"] is None else None,
            channels=row.channels if found["channels"] is None else None,
            samples={layer: kept for layer, kept in row.samples.items() if tried[layer] is None},
            head_counts=row.head_counts if found["head_counts"] is None else None,
            label_moments=row.label_moments if found["label_moments"] is None else None,
        )
        return sound, f"step {row.step} of {row.split!r}: {problems[0]}"

    def _table(self, row: Row) -> str | None:
        """Check the layer table and the arrays over it."""
        known = self._layers
        if row.layers is not known:
            names = [layer.name for layer in row.layers[: len(known)]]
            if names != [layer.name for layer in known]:
                return "the layer table may only grow, at its end"
        shape = (len(row.layers), self._n_buckets)
        if row.counts.dtype not in (np.uint32, np.uint64) or row.counts.shape != shape:
            return f"counts are {row.counts.dtype} {row.counts.shape}, expected uint32 or uint64 {shape}"
        for variable in MOMENTS:
            if (found := getattr(row, variable.name).shape) != shape[:1]:
                return f"{variable.name} has shape {found}, expected {shape[:1]}"
        if row.counts.dtype != np.uint32 and int(row.counts.max(initial=0)) > _LARGEST_COUNT:
            return f"a count of {int(row.counts.max())} exceeds {_LARGEST_COUNT}"
        return None

    def _raw(self, row: Row) -> str | None:
        """Check the outputs of the head."""
        head = row.head
        if head is None:
            return None
        if head.dtype != np.float32 or head.ndim != 2:
            return f"head is {head.dtype} {head.shape}, expected float32 [sample, unit]"
        if head.shape[1] != (units := self._units.get(row.split, head.shape[1])) or units == 0:
            return f"head has {head.shape[1]} units, expected {units or 'at least one'}"
        return None

    def _label(self, row: Row) -> str | None:
        """Check the labels beside the outputs of the head."""
        head, label = row.head, row.label
        if head is None or label is None:
            return None
        if label.dtype != np.int64 or label.shape not in (head.shape[:1], head.shape):
            return f"label is {label.dtype} {label.shape}, expected int64 {head.shape[:1]} or {head.shape}"
        dims = self._label_dims.get(row.split, label.ndim)
        return None if label.ndim == dims else f"label has {label.ndim} dims, before it had {dims}"
