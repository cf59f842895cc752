"""The side data of one split, as far as they are not on disk: one group for each kind of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from actlab.schema import (
    CHANNEL_TABLE,
    CHANNELS,
    CHANNELS_GROUP,
    HEAD_COUNTS,
    HEAD_GROUP,
    LABEL,
    LABEL_MOMENTS,
    LABELS_GROUP,
    ROW_INDEX,
    SAMPLE_INDEX,
    SAMPLES_GROUP,
    TRUTH,
    TRUTHS,
    VALUES,
)
from actlab.store.arrays import ArrayGroup, cut, roomy
from actlab.store.layout import CHANNEL_COORDINATES, RAW_COORDINATES, ROOT, ROW_COORDINATES
from actlab.store.row import ChannelStats, HeadCounts, LabelMoments, RawSamples, Row

__all__ = ["SideTable", "safe_name"]


class SideTable:
    """The groups of side data of a split; one that has no such data has no such group.

    Parameters
    ----------
    groups : mapping, optional
        Those that the split has already.

    Attributes
    ----------
    groups : dict
        Path below the split -> group.
    """

    def __init__(self, groups: Mapping[str, ArrayGroup] | None = None) -> None:
        self.groups: dict[str, ArrayGroup] = dict(groups or {})
        self._names = {
            group.attributes["layer"]: path.removeprefix(f"{SAMPLES_GROUP}/")
            for path, group in self.groups.items()
            if path.startswith(f"{SAMPLES_GROUP}/")
        }

    def add(self, row: Row, attempt: int) -> None:
        """Append the side data of one row."""
        place = {"row_step": [row.step], "row_attempt": [attempt]}
        if row.channels is not None:
            self._add_channels(row.channels, place)
        if row.head_counts is not None:
            self._add_head_counts(row.head_counts, place)
        if row.label_moments is not None:
            self._add_label_moments(row.label_moments, place)
        for layer, kept in row.samples.items():
            if len(kept.values) > 0:
                self._add_samples(layer, kept, {"sample_step": row.step, "attempt": attempt})

    def _add_channels(self, block: ChannelStats, place: dict[str, Any]) -> None:
        """Append the channels of a row, new ones at the end of their axis."""
        size = len(block.n)
        group = self.groups.get(CHANNELS_GROUP)
        if group is None:
            coordinates = {"coordinates": CHANNEL_COORDINATES}
            group = ArrayGroup(coordinates, {"channel": 0}, {"channel": roomy(size)})
            for variable in (*ROW_INDEX, *CHANNELS, *CHANNEL_TABLE):
                group.create(variable)
            self.groups[CHANNELS_GROUP] = group
        if (known := group.sizes["channel"]) < size:
            layer = np.repeat(np.array(block.layers, dtype=object), block.sizes)
            index = np.concatenate([np.arange(each) for each in block.sizes])
            group.extend({"channel_layer": layer[known:], "channel_index": index[known:]})
            group.widen("channel", size)
        group.extend(place | {each.name: getattr(block, each.name)[None] for each in CHANNELS})

    def _add_head_counts(self, block: HeadCounts, place: dict[str, Any]) -> None:
        """Append the counts of the head of a row."""
        group = self.groups.get(HEAD_GROUP)
        if group is None:
            shape = block.counts.shape
            units = "pooled" if block.pooled else "each"
            group = ArrayGroup(
                {"coordinates": ROW_COORDINATES, "units": units},
                dict(zip(HEAD_COUNTS.dims[1:], shape, strict=True)),
                {"unit": cut(shape, np.dtype(HEAD_COUNTS.dtype).itemsize)},
            )
            for variable in (*ROW_INDEX, HEAD_COUNTS, TRUTH):
                group.create(variable)
            group.extend({TRUTH.name: np.array(TRUTHS, dtype=object)})
            self.groups[HEAD_GROUP] = group
        group.extend(place | {HEAD_COUNTS.name: block.counts[None]})

    def _add_label_moments(self, block: LabelMoments, place: dict[str, Any]) -> None:
        """Append the moments by label of a row, new labels at the end of their axis."""
        labels, units = block.n.shape
        group = self.groups.get(LABELS_GROUP)
        if group is None:
            sizes = {"label": labels, "unit": units}
            group = ArrayGroup({"coordinates": ROW_COORDINATES}, sizes, {"label": roomy(labels)})
            for variable in (*ROW_INDEX, *LABEL_MOMENTS):
                group.create(variable)
            self.groups[LABELS_GROUP] = group
        if group.sizes["label"] < labels:
            group.widen("label", labels)
        group.extend(place | {each.name: getattr(block, each.name)[None] for each in LABEL_MOMENTS})

    def _add_samples(self, layer: str, kept: RawSamples, place: dict[str, int]) -> None:
        """Append the raw samples of one layer of a row."""
        values, label = kept.values, kept.label
        if layer not in self._names:
            self._names[layer] = safe_name(layer, self._names.values())
            self.groups.setdefault(SAMPLES_GROUP, ArrayGroup({}, {}))
            self.groups[self._path(layer)] = _sample_group(layer, kept)
        group = self.groups[self._path(layer)]
        if label is not None and LABEL.name not in group.arrays:
            dims = ("sample", "label_dim")[: label.ndim]
            group.add_sizes(dict(zip(dims[1:], label.shape[1:], strict=True)))
            group.create(replace(LABEL, dims=dims), group.arrays[VALUES.name].shape[0])
        group.extend({VALUES.name: values, "index": kept.index})
        group.extend({name: np.full(len(values), value) for name, value in place.items()})
        if label is not None:
            group.extend({LABEL.name: label})
        elif LABEL.name in group.arrays:
            group.arrays[LABEL.name].extend_filled(len(values))

    def _path(self, layer: str) -> str:
        """Return the path of the samples of a layer."""
        return f"{SAMPLES_GROUP}/{self._names[layer]}"


def _sample_group(layer: str, kept: RawSamples) -> ArrayGroup:
    """Return the group of the samples of a layer, empty."""
    shape = kept.values.shape[1:]
    sizes = {f"dim_{number}": size for number, size in enumerate(shape, 1)}
    widths = {"dim_1": cut(shape, kept.values.itemsize)} if shape else {}
    group = ArrayGroup({"coordinates": RAW_COORDINATES, "layer": layer}, sizes, widths)
    group.create(replace(VALUES, dims=("sample", *sizes), dtype=kept.values.dtype.name))
    for variable in SAMPLE_INDEX:
        group.create(variable)
    return group


def safe_name(layer: str, used: Collection[str]) -> str:
    """Return a name for a group that holds a layer: plain, short, and unlike those used.

    Parameters
    ----------
    layer : str
        Name of the layer, any text.
    used : collection of str
        Names given so far; they differ in more than case, as some file systems need it.

    Returns
    -------
    str
        The layer's name, other characters than ``A-Z a-z 0-9 _ . -`` replaced by ``_``.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", layer)[:100]
    plain = f"_{plain}" if plain[:1] in ("", ".") else plain
    taken = {ROOT, *(name.lower() for name in used)}
    name, number = plain, 1
    while name.lower() in taken:
        number += 1
        name = f"{plain}_{number}"
    return name
