"""Several ranks, one run: names, tables, moments and rows merged, on plain arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actlab.schema import COUNTS, LABEL, MOMENTS, LayerInfo
from actlab.store.row import ChannelStats, HeadCounts, LabelMoments, RawSamples, Row

__all__ = [
    "Spans",
    "join_spans",
    "mean_of_known",
    "merge_means",
    "merge_moments",
    "merge_rows",
    "n_finite",
    "rank_path",
    "spans_of",
    "union_layers",
]

Spans: TypeAlias = list[list[int]]
"""[[first, last], ...], ends included: steps of missing rows, as in the root attribute `gaps`."""

_Array: TypeAlias = NDArray[Any]


def rank_path(path: Path, rank: int) -> Path:
    """Return where a rank writes: rank 0 the run itself, rank 1 `mnist.rank1.zarr` beside `mnist.zarr`."""
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


def n_finite(n: Any, counts: Any) -> Any:
    """Count the finite values: all but those in the buckets of neg_inf, pos_inf and nan.

    Parameters
    ----------
    n : array [...]
        All values; numpy, dask or xarray.
    counts : array [..., bucket]
        Their counts on a `FloatAxis`.
    """
    return n - counts[..., 0] - counts[..., -2] - counts[..., -1]


def merge_moments(finite: _Array, mean: _Array, std: _Array) -> tuple[_Array, _Array]:
    """Merge mean and standard deviation of several parts, exact but for rounding.

    The mean is that of the parts weighted by their sizes, the variance by the law of total variance:
    Chan, Golub, LeVeque 1979, eq. 2.1, for any number of parts.

    Parameters
    ----------
    finite : numpy.ndarray
        [..., part], number of values of each part; a part whose mean is NaN has none.
    mean, std : numpy.ndarray
        float64 [..., part] of these values, `std` with ddof 0; NaN where there are none.

    Returns
    -------
    tuple of numpy.ndarray
        float64 [...]: mean and std (ddof 0) of all values, NaN where there are none.
    """
    share = _shares(finite, mean)
    # Deviations from one of the means: equal means stay as they are, large ones keep their digits.
    pivot = np.fmin.reduce(mean, axis=-1)
    whole = pivot + _weighted_sum(share, mean - pivot[..., None])
    deviation = np.where(share > 0, mean - whole[..., None], 0.0)
    spread = np.sqrt(share) * np.hypot(np.where(share > 0, std, 0.0), deviation)
    return whole, np.hypot.reduce(spread, axis=-1)


def merge_means(weight: _Array, mean: _Array) -> _Array:
    """Return the mean of parts [..., part] of given sizes, NaN where there are no values."""
    return _weighted_sum(_shares(weight, mean), mean)


def mean_of_known(values: _Array) -> _Array:
    """Return the plain mean along the last dimension of those that are not NaN, NaN where all are."""
    return merge_means(np.ones_like(values), values)


def _shares(weight: _Array, values: _Array) -> _Array:
    """Return weights [..., part] as shares of their sum, NaN where that is 0; a value of NaN has none."""
    weight = np.where(np.isnan(values), 0.0, weight)
    with np.errstate(invalid="ignore"):
        share: _Array = weight / weight.sum(axis=-1, keepdims=True)
    return share


def _weighted_sum(share: _Array, values: _Array) -> _Array:
    """Add up values [..., part] times their shares; a part without a share may be NaN."""
    total: _Array = (share * np.where(share == 0, 0.0, values)).sum(axis=-1)
    return total


def union_layers(tables: Iterable[Sequence[LayerInfo]]) -> tuple[LayerInfo, ...]:
    """Return the layers of all tables: those of the first one, then what later ones add, in their order.

    What is known of a layer comes from the first table in which it was called.
    """
    union: dict[str, LayerInfo] = {}
    for table in tables:
        for layer in table:
            if not union.setdefault(layer.name, layer).calls and layer.calls:
                union[layer.name] = layer
    return tuple(union.values())


def join_spans(spans: Iterable[Sequence[int]]) -> Spans:
    """Return the same steps as spans that are in order and do not overlap."""
    joined: Spans = []
    for first, last in sorted(tuple(span) for span in spans):
        if joined and first <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], last)
        else:
            joined.append([first, last])
    return joined


def spans_of(steps: NDArray[np.int64], missing: NDArray[np.bool_]) -> Spans:
    """Return the spans of the missing ones among ascending steps [row]; neighbouring rows share one."""
    edges = np.flatnonzero(np.diff(missing, prepend=False, append=False))
    return [[int(steps[first]), int(steps[end - 1])] for first, end in edges.reshape(-1, 2)]


def merge_rows(rows: Sequence[Row], layers: Sequence[LayerInfo]) -> Row:
    """Merge what several ranks recorded of the same step, in their order.

    Parameters
    ----------
    rows : sequence of Row
        At least one; split, step, epoch, batch and train_step are those of the first.
    layers : sequence of LayerInfo
        The table of the merged row, which has all their layers. A layer missing in a row counts 0.

    Returns
    -------
    Row
        Counts added, moments merged, extremes over all, samples and labels one after the other, the
        latest time, logs averaged over the rows that have them.

    Raises
    ------
    ValueError
        If the heads have different numbers of units, or the labels different dims.
    """
    names = {layer.name: position for position, layer in enumerate(layers)}
    parts = [_on_layers(row, names) for row in rows]
    counts = sum(
        (part["counts"].astype(np.uint64) for part in parts[1:]), parts[0]["counts"].astype(np.uint64)
    )
    stacked = {each.name: np.stack([part[each.name] for part in parts], axis=-1) for each in MOMENTS}
    finite = np.stack([n_finite(part["n"], part["counts"]) for part in parts], axis=-1)
    mean, std = merge_moments(finite, stacked["mean"], stacked["std"])
    head, label = _merge_head(rows)
    logs = dict.fromkeys(name for row in rows for name in row.logs)
    return replace(
        rows[0],
        time=max(row.time for row in rows),
        layers=tuple(layers),
        counts=_narrow(counts),
        n=stacked["n"].sum(axis=-1),
        mean=mean,
        std=std,
        min=np.fmin.reduce(stacked["min"], axis=-1),
        max=np.fmax.reduce(stacked["max"], axis=-1),
        logs={name: _mean_log([row.logs.get(name, np.nan) for row in rows]) for name in logs},
        head=head,
        label=label,
        channels=_merge_channels([row.channels for row in rows]),
        samples=_merge_samples([row.samples for row in rows]),
        head_counts=_merge_head_counts([row.head_counts for row in rows]),
        label_moments=_merge_label_moments([row.label_moments for row in rows]),
    )


def _on_layers(row: Row, positions: Mapping[str, int]) -> dict[str, _Array]:
    """Return counts and moments of a row over the layers of the merged table."""
    place = np.array([positions[layer.name] for layer in row.layers], np.intp)
    arrays = {each.name: getattr(row, each.name) for each in (*MOMENTS, COUNTS)}
    if place.size == len(positions) and bool((np.diff(place) == 1).all()):
        return arrays
    filled: dict[str, _Array] = {}
    for variable in (*MOMENTS, COUNTS):
        values = arrays[variable.name]
        filled[variable.name] = np.full(
            (len(positions), *values.shape[1:]), float(variable.fill), values.dtype
        )
        filled[variable.name][place] = values
    return filled


def _narrow(counts: NDArray[np.uint64]) -> NDArray[np.unsignedinteger[Any]]:
    """Return counts in the width that is stored, where they fit."""
    return counts.astype(np.uint32) if int(counts.max(initial=0)) <= np.iinfo(np.uint32).max else counts


def _mean_log(values: Sequence[float]) -> float:
    """Return the mean of a logged scalar over the ranks that have it."""
    return float(mean_of_known(np.array(values, np.float64)))


def _merge_head(rows: Sequence[Row]) -> tuple[NDArray[np.float32] | None, NDArray[np.int64] | None]:
    """Put the samples of the head and their labels one after the other, where all rows have them."""
    heads = [row.head for row in rows if row.head is not None]
    if len(heads) < len(rows):
        return None, None
    return np.concatenate(heads), _merge_labels([row.label for row in rows], [len(head) for head in heads])


def _merge_labels(
    labels: Sequence[NDArray[np.int64] | None], sizes: Sequence[int]
) -> NDArray[np.int64] | None:
    """Put labels [sample, ...] one after the other; samples without any have -100."""
    known = [label for label in labels if label is not None]
    if not known:
        return None
    rest = known[0].shape[1:]
    filled = [
        np.full((size, *rest), LABEL.fill, np.int64) if label is None else label
        for label, size in zip(labels, sizes, strict=True)
    ]
    return np.concatenate(filled)


def _merge_channels(blocks: Sequence[ChannelStats | None]) -> ChannelStats | None:
    """Merge the channels of the layers, where all rows have them, and the same ones."""
    known = [block for block in blocks if block is not None]
    tables = {(block.layers, block.sizes) for block in known}
    if len(known) < len(blocks) or len(tables) != 1:
        return None
    n, zeros, mean_abs = (
        np.stack([getattr(block, name) for block in known], axis=-1) for name in ("n", "zeros", "mean_abs")
    )
    return replace(known[0], n=n.sum(axis=-1), zeros=zeros.sum(axis=-1), mean_abs=merge_means(n, mean_abs))


def _merge_samples(kept: Sequence[Mapping[str, RawSamples]]) -> dict[str, RawSamples]:
    """Put the raw samples of each layer one after the other, where all rows have some."""
    first, *others = kept
    merged: dict[str, RawSamples] = {}
    for layer in first:
        blocks = [first[layer], *(other[layer] for other in others if layer in other)]
        if len(blocks) == len(kept) and len({block.values.shape[1:] for block in blocks}) == 1:
            merged[layer] = RawSamples(
                np.concatenate([block.values for block in blocks]),
                np.concatenate([block.index for block in blocks]),
                _merge_labels([block.label for block in blocks], [len(block.index) for block in blocks]),
            )
    return merged


def _merge_head_counts(blocks: Sequence[HeadCounts | None]) -> HeadCounts | None:
    """Add up the counts of the head, where all rows have them in one form."""
    known = [block for block in blocks if block is not None]
    if len(known) < len(blocks) or len({(block.counts.shape, block.pooled) for block in known}) != 1:
        return None
    counts = np.stack([block.counts for block in known]).sum(axis=0, dtype=np.uint64)
    return replace(known[0], counts=_narrow(counts))


def _merge_label_moments(blocks: Sequence[LabelMoments | None]) -> LabelMoments | None:
    """Merge the moments by label, where those that have them have as many units."""
    known = [block for block in blocks if block is not None]
    if len({block.n.shape[1] for block in known}) != 1:
        return None
    labels = max(len(block.n) for block in known)
    n, mean, std = (
        np.stack([_padded(getattr(block, name), labels, fill) for block in known], axis=-1)
        for name, fill in (("n", 0), ("mean", np.nan), ("std", np.nan))
    )
    return LabelMoments(n.sum(axis=-1), *merge_moments(n, mean, std))


def _padded(values: _Array, length: int, fill: float) -> _Array:
    """Return values [label, unit] with more labels."""
    padded = np.full((length, *values.shape[1:]), fill, values.dtype)
    padded[: len(values)] = values
    return padded
