"""What the groups of a split must look like in the root record, checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from actlab.errors import StoreError
from actlab.schema import (
    CHANNEL_TABLE,
    CHANNELS,
    CHANNELS_GROUP,
    COUNTS,
    HEAD,
    HEAD_COUNTS,
    HEAD_GROUP,
    LABEL,
    LABEL_MOMENTS,
    LABELS_GROUP,
    LAYER_COORDINATES,
    LOG_PREFIX,
    MOMENTS,
    MOST_CHANNELS,
    MOST_LABELS,
    MOST_UNITS,
    RAW_GROUP,
    RAW_INDEX,
    ROW_INDEX,
    ROWS,
    SAMPLE_INDEX,
    SAMPLES_GROUP,
    TRUTH,
    TRUTHS,
    VALUE_DTYPES,
    VALUES,
    Variable,
)
from actlab.store.layout import CHANNEL_COORDINATES, COORDINATES, RAW_COORDINATES, ROOT, ROW_COORDINATES

__all__ = ["as_mapping", "check_split"]

_Nodes = Mapping[str, Any]


@dataclass(frozen=True)
class _Form:
    """What one group must be: its arrays, their lengths, its attribute `coordinates`."""

    variables: Iterable[Variable]
    coordinates: str
    sizes: dict[str, int] = field(default_factory=dict)
    """Lengths that are known; the first array with another dim says its length for the others."""
    limits: dict[str, int] = field(default_factory=dict)
    """Largest lengths."""


def check_split(split: str, rows: int, layers: Iterable[str], n_buckets: int, nodes: _Nodes) -> None:
    """Check that every array of a split is there, and is as the format has it.

    Parameters
    ----------
    split : str
        Its name.
    rows : int
        How many rows it has.
    layers : iterable of str
        The layers of the run.
    n_buckets : int
        Buckets of the recording axis.
    nodes : mapping
        Path below the root -> metadata document of every group and array, each sound by itself.

    Raises
    ------
    StoreError
        If an array is missing, or a group or an array is not as `docs/format.md` has it.
    """
    names = list(layers)
    sizes = {"step": rows, "layer": len(names), "bucket": n_buckets}
    _check_group(split, _Form(_variables(split, nodes), COORDINATES, sizes), nodes)
    for group, form in _forms(split, rows, n_buckets, nodes):
        if any(name == group or name.startswith(f"{group}/") for name in nodes):
            _check_group(group, form, nodes)
    _check_samples(f"{split}/{SAMPLES_GROUP}", names, nodes)
    since = tuple(_attribute(f"{split}/time", key, nodes) for key in ("units", "calendar"))
    if since != ("seconds since 1970-01-01", "proleptic_gregorian"):
        raise StoreError(
            f"{ROOT} is damaged: '{split}/time' counts {since!r:.80}, expected seconds since 1970-01-01"
        )


def _variables(split: str, nodes: _Nodes) -> Iterator[Variable]:
    """Yield the arrays that a split must have, and the logs that it has."""
    yield from (*ROWS, *MOMENTS, COUNTS, *LAYER_COORDINATES)
    for name in nodes:
        if name.startswith(f"{split}/{LOG_PREFIX}"):
            yield Variable(name.removeprefix(f"{split}/"), ("step",), "float64", "NaN", "")


def _forms(split: str, rows: int, n_buckets: int, nodes: _Nodes) -> Iterator[tuple[str, _Form]]:
    """Yield the groups that a split may have, but for samples."""
    raw, head = f"{split}/{RAW_GROUP}", f"{split}/{HEAD_GROUP}"
    labels = _labels(f"{raw}/{LABEL.name}", HEAD.dims[1], nodes)
    yield raw, _Form((HEAD, *RAW_INDEX, *labels), RAW_COORDINATES)
    yield (
        f"{split}/{CHANNELS_GROUP}",
        _Form(
            (*ROW_INDEX, *CHANNELS, *CHANNEL_TABLE),
            CHANNEL_COORDINATES,
            limits={"row": rows, "channel": MOST_CHANNELS},
        ),
    )
    units = _attribute(head, "units", nodes)
    if head in nodes and units not in ("each", "pooled"):
        raise StoreError(
            f"{ROOT} is damaged: units of {head!r} are {units!r:.80}, expected 'each' or 'pooled'"
        )
    yield (
        head,
        _Form(
            (*ROW_INDEX, HEAD_COUNTS, TRUTH),
            ROW_COORDINATES,
            {"truth": len(TRUTHS), "bucket": n_buckets},
            {"row": rows, "unit": 1 if units == "pooled" else MOST_UNITS},
        ),
    )
    limits = {"row": rows, "label": MOST_LABELS, "unit": MOST_UNITS}
    yield f"{split}/{LABELS_GROUP}", _Form((*ROW_INDEX, *LABEL_MOMENTS), ROW_COORDINATES, limits=limits)


def _check_samples(group: str, layers: list[str], nodes: _Nodes) -> None:
    """Check the groups of raw samples, one for each layer."""
    found = [name.removeprefix(f"{group}/") for name in nodes if name.startswith(f"{group}/")]
    if (found or group in nodes) and as_mapping(nodes.get(group)).get("node_type") != "group":
        raise StoreError(f"{ROOT} is damaged: {group!r} is no group")
    seen: set[str] = set()
    for child in dict.fromkeys(f"{group}/{name.partition('/')[0]}" for name in found):
        values = f"{child}/{VALUES.name}"
        node = as_mapping(nodes.get(values))
        dims = ("sample", *(f"dim_{number}" for number in range(1, len(node.get("shape", ())))))
        dtype = node["data_type"] if node.get("data_type") in VALUE_DTYPES else VALUES.dtype
        labels = _labels(f"{child}/{LABEL.name}", "label_dim", nodes)
        variables = (replace(VALUES, dims=dims, dtype=dtype), *SAMPLE_INDEX, *labels)
        _check_group(child, _Form(variables, RAW_COORDINATES), nodes)
        layer = _attribute(child, "layer", nodes)
        if layer not in layers or layer in seen:
            raise StoreError(f"{ROOT} is damaged: {child!r} holds {layer!r:.80}, expected a layer of its own")
        seen.add(layer)


def _labels(name: str, second: str, nodes: _Nodes) -> tuple[Variable, ...]:
    """Return the form of an array of labels, by its dims; none where there is no such array."""
    if name not in nodes:
        return ()
    dims = (*LABEL.dims, second)
    is_wide = as_mapping(nodes[name]).get("dimension_names") == list(dims)
    return (replace(LABEL, dims=dims if is_wide else LABEL.dims),)


def _check_group(group: str, form: _Form, nodes: _Nodes) -> None:
    """Check a group and its arrays."""
    sizes = dict(form.sizes)
    for variable in form.variables:
        name = f"{group}/{variable.name}"
        node = nodes.get(name)
        _check_array(name, variable, node)
        for dim, size in zip(variable.dims, nodes[name]["shape"], strict=True):
            if size != sizes.setdefault(dim, size):
                raise StoreError(f"{name!r} has {size} along {dim!r}, expected {sizes[dim]}")
            if size > form.limits.get(dim, size):
                raise StoreError(f"{name!r} has {size} along {dim!r}, expected {form.limits[dim]} at most")
    is_group = as_mapping(nodes.get(group)).get("node_type") == "group"
    if not is_group or _attribute(group, "coordinates", nodes) != form.coordinates:
        raise StoreError(f"{ROOT} is damaged: {group!r} is no group with coordinates {form.coordinates!r}")


def _check_array(name: str, variable: Variable, node: Any) -> None:
    """Check that an array is there, with its dims and dtype."""
    if node is None:
        raise StoreError(f"half a run: the array {name!r} is missing")
    found = (node.get("dimension_names"), node.get("data_type"))
    expected = (list(variable.dims), variable.dtype)
    if found != expected:
        raise StoreError(f"{name!r} is {found!r:.80}, expected {expected}")
    if node["node_type"] != "array" or len(node["shape"]) != len(variable.dims):
        shape = node.get("shape")
        raise StoreError(f"{name!r} has shape {shape!r:.80}, expected one length for each of {expected[0]}")


def _attribute(name: str, key: str, nodes: _Nodes) -> Any:
    """Return an attribute of a node, None where there is none."""
    return as_mapping(as_mapping(nodes.get(name)).get("attributes")).get(key)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}
