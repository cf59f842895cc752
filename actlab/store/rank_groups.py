"""The groups of one split, of several ranks, merged lazily; the arithmetic is that of `merging`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import add
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from actlab.schema import (
    CHANNELS_GROUP,
    HEAD,
    HEAD_GROUP,
    LABEL,
    LABELS_GROUP,
    LOG_PREFIX,
    RAW_GROUP,
    SAMPLES_GROUP,
    VALUES,
)
from actlab.store.attempts import index_names
from actlab.store.merging import mean_of_known, merge_means, merge_moments, n_finite
from actlab.store.side_table import safe_name

__all__ = ["merge_split"]

_Steps: TypeAlias = NDArray[np.int64]
_Parts: TypeAlias = Sequence[xr.Dataset]

_PART = "part"
_ROWS = ("", "")  # key of the split's own group, see `_groups_of`
_concat: Any = xr.Variable.concat  # it has no annotations
_lowest: Callable[..., Any] = partial(np.fmin.reduce, axis=-1)
_highest: Callable[..., Any] = partial(np.fmax.reduce, axis=-1)


def merge_split(
    split: str,
    nodes: Sequence[xr.DataTree],
    steps_by_rank: Sequence[_Steps],
    layers: Sequence[str],
    *,
    with_head: bool,
) -> dict[str, xr.Dataset]:
    """Merge the groups of a split.

    Parameters
    ----------
    split : str
        Its name.
    nodes : sequence of xarray.DataTree
        The split of every rank that has it, in the order of the ranks.
    steps_by_rank : sequence of numpy.ndarray
        int64 [row], ascending: the step that each of them has for every row of the merged run.
    layers : sequence of str
        All layers.
    with_head : bool
        Whether the ranks have the same head, so that its outputs may be joined.

    Returns
    -------
    dict of str to xarray.Dataset
        Path of each group -> its data, arrays lazy; `row_crc32c` is the sum of the ranks' checksums
        modulo 2^32. Of a group below the split, rows that not all ranks have are left out, and the
        whole group where they have it in different forms.
    """
    steps = steps_by_rank[0]
    first = nodes[0].to_dataset(inherit=False)
    attempts = first["attempt"].values[first.indexes["step"].get_indexer(pd.Index(steps))]
    groups = [
        {key: _renumbered(group, own, steps, attempts) for key, group in _groups_of(node).items()}
        for node, own in zip(nodes, steps_by_rank, strict=True)
    ]
    rows = [_align(_of_rows(each[_ROWS], "step", steps), "layer", layers) for each in groups]
    merged: dict[str, xr.Dataset] = {split: _merge_rows(rows)}
    used: list[str] = []
    left_out = () if with_head else (RAW_GROUP, HEAD_GROUP, LABELS_GROUP)
    kinds = set(_MERGERS) - set(left_out)
    for kind, layer in dict.fromkeys(key for each in groups for key in each if key[0] in kinds):
        parts = [each[kind, layer] for each in groups if (kind, layer) in each]
        index = "sample_step" if "sample_step" in parts[0] else "row_step"
        common = reduce(np.intersect1d, [part[index].values for part in parts], steps)
        # A rank without labels has no values of any label, and nothing to add.
        is_there = (len(parts) == len(groups) or kind == LABELS_GROUP) and common.size > 0
        if not is_there or (found := _MERGERS[kind](parts, common)) is None:
            continue
        if kind == SAMPLES_GROUP:
            used.append(safe_name(layer, used))
        merged[f"{split}/{kind}/{used[-1]}" if kind == SAMPLES_GROUP else f"{split}/{kind}"] = found
    return merged


def _groups_of(node: xr.DataTree) -> dict[tuple[str, str], xr.Dataset]:
    """Return the groups of a split by their path below it, and by their layer where they have one."""
    groups: dict[tuple[str, str], xr.Dataset] = {}
    for below in node.subtree:
        data = below.to_dataset(inherit=False)
        kind, _, name = below.path.removeprefix(node.path).strip("/").partition("/")
        if name or kind != SAMPLES_GROUP:  # which has nothing but groups
            groups[kind, data.attrs.get("layer", name)] = data
    return groups


def _renumbered(group: xr.Dataset, own: _Steps, steps: _Steps, attempts: _Steps) -> xr.Dataset:
    """Keep the rows of a rank's own steps, under the steps and attempts of the merged run [row]."""
    dim, step, attempt = index_names(group)
    known = np.isin(group[step].values, own)
    chosen = group if known.all() else group.isel({dim: np.flatnonzero(known)})
    place = np.searchsorted(own, chosen[step].values)
    return chosen.assign_coords(
        {step: (dim, steps[place], group[step].attrs), attempt: (dim, attempts[place], group[attempt].attrs)}
    )


def _merge_rows(parts: _Parts) -> xr.Dataset:
    """Merge the rows of a split, which are the same steps and layers in every part."""
    finite = [n_finite(part["n"].variable, part["counts"].variable) for part in parts]
    merged = _moments(parts, finite) | {
        "counts": _sum(parts, "counts"),
        "n": _sum(parts, "n"),
        "min": _apply(_lowest, _stack(parts, "min")),
        "max": _apply(_highest, _stack(parts, "max")),
        "row_crc32c": _sum(parts, "row_crc32c").astype(np.uint32),
        "time": _apply(_highest, _stack(parts, "time"), dtype=parts[0]["time"].dtype),
    }
    for name in dict.fromkeys(name for part in parts for name in part if str(name).startswith(LOG_PREFIX)):
        merged[str(name)] = _apply(mean_of_known, _stack([part for part in parts if name in part], str(name)))
    return _like(parts[0], merged).set_coords("time")


def _merge_samples(groups: _Parts, steps: _Steps, values: str) -> xr.Dataset | None:
    """Put samples one after the other, by step and then by rank."""
    forms = {(group[values].dtype, group[values].dims, group[values].shape[1:]) for group in groups}
    if len(forms) > 1:
        return None
    places = [np.flatnonzero(np.isin(group["sample_step"].values, steps)) for group in groups]
    parts = [group.isel(sample=place) for group, place in zip(groups, places, strict=True)]
    order = np.argsort(np.concatenate([part["sample_step"].values for part in parts]), kind="stable")
    labels = [part[LABEL.name].variable for part in parts if LABEL.name in part]
    merged = {}
    names = [name for name in groups[0].variables if all(name in part for part in parts)]
    for name in [*names, LABEL.name] if labels and LABEL.name not in names else names:
        columns = [part[name].variable if name in part else _unlabelled(part, labels[0]) for part in parts]
        if len({column.shape[1:] for column in columns}) == 1:
            merged[name] = _concat(columns, "sample").isel(sample=order)
    coordinates = {name: merged.pop(name) for name in groups[0].coords}
    return xr.Dataset(merged, coordinates, groups[0].attrs)


def _unlabelled(part: xr.Dataset, like: xr.Variable) -> xr.Variable:
    """Return labels of samples that have none."""
    return xr.full_like(like.isel(sample=[0]), LABEL.fill).isel(sample=np.zeros(part.sizes["sample"], int))


def _merge_channels(groups: _Parts, steps: _Steps) -> xr.Dataset | None:
    """Merge zeros and mean |a| by channel; weights of the latter are all values, as no other are stored."""
    names = ("channel_layer", "channel_index")
    tables = [list(zip(*(group[name].values for name in names), strict=True)) for group in groups]
    every = list(dict.fromkeys(channel for table in tables for channel in table))
    places = {channel: place for place, channel in enumerate(every)}
    numbered = [
        group.drop_vars(names).assign_coords(channel=[places[channel] for channel in table])
        for group, table in zip(groups, tables, strict=True)
    ]
    rows = [_of_rows(group, "row_step", steps) for group in numbered]
    parts = [_align(part, "channel", range(len(every))) for part in rows]
    layer, index = zip(*every, strict=True)
    merged = {
        "n": _sum(parts, "n"),
        "zeros": _sum(parts, "zeros"),
        "mean_abs": _apply(merge_means, _stack(parts, "n"), _stack(parts, "mean_abs")),
    }
    table = {"channel_layer": ("channel", np.array(layer, object)), "channel_index": ("channel", list(index))}
    return _like(parts[0], merged).drop_vars("channel").assign_coords(table)


def _merge_head_counts(groups: _Parts, steps: _Steps) -> xr.Dataset | None:
    """Add up the counts of the head by unit and truth."""
    if len({(group.sizes["unit"], group.attrs["units"]) for group in groups}) > 1:
        return None
    parts = [_of_rows(group, "row_step", steps) for group in groups]
    return _like(parts[0], {"counts": _sum(parts, "counts")})


def _merge_label_moments(groups: _Parts, steps: _Steps) -> xr.Dataset | None:
    """Merge the moments of the head by label; weights are all values, as no other are stored."""
    if len({group.sizes["unit"] for group in groups}) > 1:
        return None
    numbered = [group.assign_coords(label=range(group.sizes["label"])) for group in groups]
    longest = range(max(group.sizes["label"] for group in groups))
    rows = [_of_rows(group, "row_step", steps) for group in numbered]
    parts = [_align(part, "label", longest) for part in rows]
    moments = _moments(parts, [part["n"].variable for part in parts])
    return _like(parts[0], moments | {"n": _sum(parts, "n")}).drop_vars("label")


def _like(part: xr.Dataset, merged: dict[str, xr.Variable]) -> xr.Dataset:
    """Return merged arrays beside the coordinates of a part: what is not merged is not the run's."""
    return xr.Dataset(merged, part.drop_vars(merged, errors="ignore").coords, part.attrs)


def _of_rows(group: xr.Dataset, name: str, steps: _Steps) -> xr.Dataset:
    """Choose the rows of some steps, which all are there; `name` is the variable that holds them."""
    (dim,) = group[name].dims
    found = pd.Index(group[name].values).get_indexer(pd.Index(steps))
    is_start = bool((found == np.arange(found.size)).all())
    return group.isel({dim: slice(found.size) if is_start else found})


def _align(part: xr.Dataset, dim: str, index: Sequence[Any]) -> xr.Dataset:
    """Bring a part onto an index; where it has nothing, counts are 0 and all else NaN."""
    if part.indexes[dim].tolist() == list(index):
        return part
    zeros = {name: 0 for name, variable in part.variables.items() if variable.dtype.kind == "u"}
    return part.reindex({dim: list(index)}, fill_value=zeros)


def _sum(parts: _Parts, name: str) -> xr.Variable:
    """Add up integers."""
    total = reduce(add, [part[name].variable.astype(np.uint64) for part in parts])
    return xr.Variable(total.dims, total.data, parts[0][name].attrs)


def _moments(parts: _Parts, weights: Sequence[xr.Variable]) -> dict[str, xr.Variable]:
    """Merge `mean` and `std` of parts with so many values."""
    stacked = [_concat(weights, _PART).chunk({_PART: -1}), _stack(parts, "mean"), _stack(parts, "std")]
    dims: list[Any] = [[_PART]] * 3
    found = xr.apply_ufunc(
        merge_moments,
        *stacked,
        input_core_dims=dims,
        output_core_dims=[[], []],
        dask="parallelized",
        output_dtypes=[np.float64, np.float64],
    )
    return {
        name: xr.Variable(merged.dims, merged.data, parts[0][name].attrs)
        for name, merged in zip(("mean", "std"), found, strict=True)
    }


def _apply(function: Callable[..., Any], *stacked: xr.Variable, dtype: Any = np.float64) -> xr.Variable:
    """Apply a function of arrays [..., part], lazily; what comes out is like the last of them."""
    dims: list[Any] = [[_PART]] * len(stacked)
    found = xr.apply_ufunc(
        function, *stacked, input_core_dims=dims, dask="parallelized", output_dtypes=[dtype]
    )
    return xr.Variable(found.dims, found.data, stacked[-1].attrs)


def _stack(parts: _Parts, name: str) -> xr.Variable:
    """Put a variable of all parts side by side, along `part`."""
    stacked: xr.Variable = _concat([part[name].variable for part in parts], _PART)
    return stacked.chunk({_PART: -1})


_MERGERS: dict[str, Callable[[_Parts, _Steps], xr.Dataset | None]] = {
    RAW_GROUP: partial(_merge_samples, values=HEAD.name),
    SAMPLES_GROUP: partial(_merge_samples, values=VALUES.name),
    CHANNELS_GROUP: _merge_channels,
    HEAD_GROUP: _merge_head_counts,
    LABELS_GROUP: _merge_label_moments,
}
