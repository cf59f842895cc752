"""Side data of a row: channels, raw samples, the head by unit and by label; rules and checksum."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actlab.errors import nearest
from actlab.schema import (
    CHANNELS,
    HEAD_COUNTS,
    LABEL,
    LABEL_MOMENTS,
    MOST_CHANNELS,
    MOST_LABELS,
    MOST_SAMPLED_LAYERS,
    MOST_UNITS,
    TRUTHS,
    VALUE_DTYPES,
)

__all__ = [
    "ChannelStats",
    "HeadCounts",
    "LabelMoments",
    "RawSamples",
    "SideForms",
    "SideRules",
    "array_bytes",
    "as_bytes",
    "side_bytes",
]

_LARGEST_COUNT = int(np.iinfo(HEAD_COUNTS.dtype).max)
_LARGEST_SAMPLE = 256 << 20


@dataclass(frozen=True, eq=False, slots=True)
class ChannelStats:
    """The channels of some layers in one row, flat over the layers in order.

    Parameters
    ----------
    layers : tuple of str
        Layers of the table; a later row of the split may only name more, at the end.
    sizes : tuple of int
        Channels of each.
    n, zeros : numpy.ndarray
        uint64 [channel]: values of the channel, non-finite ones included, and those equal to 0.
    mean_abs : numpy.ndarray
        float64 [channel]: mean |a| of the finite values, NaN where there are none.
    """

    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    n: NDArray[np.uint64]
    zeros: NDArray[np.uint64]
    mean_abs: NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class RawSamples:
    """Outputs of one layer in one row, as they were.

    Parameters
    ----------
    values : numpy.ndarray
        float16, float32 or float64 [sample, ...]; dtype and shape of a sample are those of the
        layer's first row of the split.
    index : numpy.ndarray
        int64 [sample], position in the batch.
    label : numpy.ndarray or None
        int64 [sample] or [sample, k], -100 for none.
    """

    values: NDArray[np.floating[Any]]
    index: NDArray[np.int64]
    label: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class HeadCounts:
    """The outputs of a large head in one row, counted by unit and truth.

    Parameters
    ----------
    counts : numpy.ndarray
        uint32 or uint64 [unit, truth, bucket], truth as in `schema.TRUTHS`.
    pooled : bool
        Whether the one unit stands for all of them.
    """

    counts: NDArray[np.unsignedinteger[Any]]
    pooled: bool


@dataclass(frozen=True, eq=False, slots=True)
class LabelMoments:
    """The outputs of a large head in one row by true label.

    Parameters
    ----------
    n : numpy.ndarray
        uint64 [label, unit]: values of the label, non-finite ones included. Later rows may have more
        labels, and one unit may stand for all.
    mean, std : numpy.ndarray
        float64 [label, unit] of the finite values, `std` with ddof 0; NaN where there are none.
    """

    n: NDArray[np.uint64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def array_bytes(block: ChannelStats | RawSamples | HeadCounts | LabelMoments) -> int:
    """Return the bytes of the arrays of a block, for the bound of the queue."""
    values = [getattr(block, each.name) for each in fields(block)]
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def as_bytes(values: NDArray[Any], dtype: str) -> bytes:
    """Return the little-endian bytes of an array in C order."""
    return values.astype(np.dtype(dtype).newbyteorder("<"), copy=False).tobytes()


def side_bytes(
    channels: ChannelStats | None,
    samples: Mapping[str, RawSamples],
    head_counts: HeadCounts | None,
    label_moments: LabelMoments | None,
) -> Iterator[bytes]:
    """Yield what the checksum of a row covers of its side data, as `docs/format.md` defines it."""
    if channels is not None:
        used = np.flatnonzero(channels.n)
        yield from _variables(channels, CHANNELS, int(used[-1]) + 1 if used.size else 0)
    for layer, kept in sorted(samples.items()):
        if len(kept.values) > 0:
            yield (
                layer.encode() + as_bytes(kept.values, kept.values.dtype.name) + as_bytes(kept.index, "int64")
            )
            # No label reads like labels that are all missing, on disk.
            if kept.label is not None and bool((kept.label != LABEL.fill).any()):
                yield as_bytes(kept.label, LABEL.dtype)
    if head_counts is not None:
        yield as_bytes(head_counts.counts, HEAD_COUNTS.dtype)
    if label_moments is not None:
        used = np.flatnonzero(label_moments.n.any(axis=1))
        yield from _variables(label_moments, LABEL_MOMENTS, int(used[-1]) + 1 if used.size else 0)


def _variables(block: Any, variables: Collection[Any], size: int) -> Iterator[bytes]:
    """Yield the variables of a block over its first `size` channels or labels."""
    for variable in variables:
        yield as_bytes(getattr(block, variable.name)[:size], variable.dtype)


@dataclass(frozen=True)
class SideForms:
    """The forms that the side data of a split have so far.

    Parameters
    ----------
    channels : tuple of (str, int)
        Layers that have channels, and how many each.
    samples : dict
        Layer -> dtype and shape of one raw sample.
    label_shapes : dict
        Layer -> shape of the labels of one raw sample.
    head : (int, bool) or None
        Units of the head that is counted, and whether they are pooled.
    units : int or None
        Units of the moments by label.
    """

    channels: tuple[tuple[str, int], ...] = ()
    samples: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    label_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    head: tuple[int, bool] | None = None
    units: int | None = None


class SideRules:
    """What the side data of one split's rows must be so that they can be written after those before."""

    def __init__(self, n_buckets: int, forms: SideForms | None = None) -> None:
        forms = SideForms() if forms is None else forms
        self._n_buckets = n_buckets
        self._channels = forms.channels
        self._samples = dict(forms.samples)
        self._label_shapes = dict(forms.label_shapes)
        self._heads = forms.head
        self._units = forms.units

    def channels(self, block: ChannelStats, layers: Collection[str]) -> str | None:
        """Say why the channels do not fit, None if they do; remember them."""
        if unknown := [layer for layer in block.layers if layer not in layers]:
            return f"channels of {unknown[0]!r}, which is no layer: {nearest(unknown[0], layers)}"
        if len(set(block.layers)) < len(block.layers) or len(block.sizes) != len(block.layers):
            return "channels need each layer once, and a size for each"
        table = tuple(zip(block.layers, block.sizes, strict=True))
        for found, known in zip(table, self._channels, strict=False):
            if found != known:
                return f"channels of {found}, where earlier rows have {known}: new ones go to the end"
        size = sum(block.sizes)
        if min(block.sizes, default=0) < 0 or not 0 < size <= MOST_CHANNELS:
            return f"{size} channels, expected 1 to {MOST_CHANNELS}"
        problem = _misfit(block, CHANNELS, (size,))
        if problem is None and bool((block.zeros > block.n).any()):
            problem = "more zeros than values in a channel"
        if problem is None:
            self._channels = max(self._channels, table, key=len)
        return problem

    def samples(self, layer: str, kept: RawSamples, layers: Collection[str]) -> str | None:
        """Say why the raw samples of a layer do not fit, None if they do; remember their shape."""
        values, index, label = kept.values, kept.index, kept.label
        if layer not in layers:
            return f"samples of {layer!r}, which is no layer: {nearest(layer, layers)}"
        if layer not in self._samples and len(self._samples) == MOST_SAMPLED_LAYERS:
            return f"samples of {layer!r}, one layer more than {MOST_SAMPLED_LAYERS}"
        problem = None
        if values.dtype.name not in VALUE_DTYPES or values.ndim == 0:
            problem = f"values are {values.dtype} {values.shape}, expected floats [sample, ...]"
        elif not 0 < (size := prod(values.shape[1:]) * values.itemsize) <= _LARGEST_SAMPLE:
            problem = f"a sample has {size} bytes, expected 1 to {_LARGEST_SAMPLE}"
        elif (form := (values.dtype.name, values.shape[1:])) != (known := self._samples.get(layer, form)):
            problem = f"a sample is {form}, before it was {known}"
        elif index.dtype != np.int64 or index.shape != values.shape[:1]:
            problem = f"index is {index.dtype} {index.shape}, expected int64 {values.shape[:1]}"
        elif label is not None:
            problem = self._labels(layer, label, len(values))
        if problem is not None:
            return f"samples of {layer!r}: {problem}"
        self._samples[layer] = form
        if label is not None:
            self._label_shapes[layer] = label.shape[1:]
        return None

    def _labels(self, layer: str, label: NDArray[Any], samples: int) -> str | None:
        """Check the labels of raw samples."""
        fits = label.dtype == np.int64 and label.ndim in (1, 2) and 0 not in label.shape[1:]
        if not fits or len(label) != samples:
            return f"label is {label.dtype} {label.shape}, expected int64 ({samples},) or ({samples}, k)"
        known = self._label_shapes.get(layer, label.shape[1:])
        return None if label.shape[1:] == known else f"label has {label.shape[1:]} a sample, before {known}"

    def head_counts(self, block: HeadCounts) -> str | None:
        """Say why the counts of the head do not fit, None if they do; remember their units."""
        counts, most = block.counts, 1 if block.pooled else MOST_UNITS
        units = counts.shape[0] if counts.ndim else 0
        expected = (units, len(TRUTHS), self._n_buckets)
        if counts.dtype not in (np.uint32, np.uint64) or counts.shape != expected or not 1 <= units <= most:
            shape = f"(1 to {most}, {len(TRUTHS)}, {self._n_buckets})"
            return f"counts of the head are {counts.dtype} {counts.shape}, expected uint32 or uint64 {shape}"
        if int(counts.max()) > _LARGEST_COUNT:
            return f"a count of the head of {int(counts.max())} exceeds {_LARGEST_COUNT}"
        found = (units, bool(block.pooled))
        if self._heads not in (None, found):
            return f"counts of the head have (units, pooled) {found}, before {self._heads}"
        self._heads = found
        return None

    def label_moments(self, block: LabelMoments) -> str | None:
        """Say why the moments by label do not fit, None if they do; remember their units."""
        shape = block.n.shape
        if len(shape) != 2 or not 1 <= shape[0] <= MOST_LABELS or not 1 <= shape[1] <= MOST_UNITS:
            return f"moments by label have shape {shape}, expected (1 to {MOST_LABELS}, 1 to {MOST_UNITS})"
        if (problem := _misfit(block, LABEL_MOMENTS, shape)) is not None:
            return f"moments by label: {problem}"
        if self._units not in (None, shape[1]):
            return f"moments by label have {shape[1]} units, before {self._units}"
        self._units = shape[1]
        return None


def _misfit(block: Any, variables: Collection[Any], shape: tuple[int, ...]) -> str | None:
    """Say which variable of a block has another dtype or shape."""
    for variable in variables:
        found = getattr(block, variable.name)
        if found.dtype != variable.dtype or found.shape != shape:
            return f"{variable.name} is {found.dtype} {found.shape}, expected {variable.dtype} {shape}"
    return None
