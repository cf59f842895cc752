"""What a writer begins with: nothing yet, or a run as its last commit left it. No zarr."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from actlab.axis import FloatAxis
from actlab.errors import StoreError
from actlab.schema import (
    CHANNEL_TABLE,
    CHANNELS_GROUP,
    FORMAT_VERSION,
    HEAD,
    HEAD_COUNTS,
    HEAD_GROUP,
    LABEL,
    LABEL_MOMENTS,
    LABELS_GROUP,
    LOG_PREFIX,
    RAW_GROUP,
    SAMPLES_GROUP,
    VALUES,
    axis_from_attributes,
    axis_to_attributes,
    layers_from_attributes,
)
from actlab.store.arrays import Read, read_column
from actlab.store.files import Directory
from actlab.store.layer_map import LayerMap
from actlab.store.layout import ROOT
from actlab.store.record import LARGEST_STEP, Record, check_record
from actlab.store.resuming import Resumed, plan_attempt
from actlab.store.row import RowRules
from actlab.store.side import SideForms, SideRules
from actlab.store.table import RunTable

__all__ = ["Beginning", "begin", "go_on"]

_COLUMNS: Final = ("step", "epoch", "batch", "train_step", "attempt", "time")
_OF_COMMITS: Final = ("writer", "commit", "rows", "layers", "layer_growth", "gaps", "steps", "closed")


@dataclass(frozen=True)
class Beginning:
    """What is on disk when a writer begins, as far as it matters for what comes.

    Parameters
    ----------
    table : RunTable
        The arrays, up to the last committed row.
    rules : RowRules
        What the next rows must be.
    identity : dict
        Root attributes that say which run it is, and of what form.
    attributes : dict
        Root attributes that describe the run.
    commit : int
        Number of the last commit.
    paths : frozenset of str
        Groups and arrays that exist.
    gaps, steps, last_steps : dict
        Split -> gaps, number of batches, step of the last live row.
    layer_map : LayerMap or None
        Brings rows onto the layers of those before.
    resumed : Resumed or None
        What the recorder needs to know to go on.
    """

    table: RunTable
    rules: RowRules
    identity: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    commit: int = 0
    paths: frozenset[str] = frozenset()
    gaps: dict[str, list[list[int]]] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    last_steps: dict[str, int] = field(default_factory=dict)
    layer_map: LayerMap | None = None
    resumed: Resumed | None = None


def begin(axis: FloatAxis) -> Beginning:
    """Return the beginning of a run without rows."""
    identity = {
        "format": "actlab",
        "format_version": list(FORMAT_VERSION),
        "incompat": [],
        "run_id": uuid.uuid4().hex,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "attempts": [0],
        "axis": axis_to_attributes(axis),
    }
    return Beginning(RunTable(axis), RowRules(axis.n_buckets), identity)


def go_on(
    directory: Directory,
    axis: FloatAxis,
    attributes: Mapping[str, Any],
    step: int | None = None,
    *,
    same_attempt: bool = False,
) -> Beginning:
    """Return a run as its last commit left it, with one more attempt; a new one where there is none.

    Parameters
    ----------
    directory : Directory
        Where the run is.
    axis : FloatAxis
        The recording axis, which must be that of the run.
    attributes : mapping
        What the recorder says of the run: its `ranks` must be those of the run.
    step : int, optional
        The `train_step` to go on from; by default the number of training batches of the last commit.
    same_attempt : bool
        Add to the last attempt instead, if that is where it ended.

    Raises
    ------
    StoreError
        If there is no run and `step` is not 0, the run is damaged, or it cannot be gone on with.
    OSError
        If the disk refuses.
    """
    try:
        data = directory.read(ROOT)
    except FileNotFoundError:
        if step:
            raise StoreError(f"{directory.path}: no such run, to go on with at step {step}") from None
        return begin(axis)
    try:
        if step is not None and step > LARGEST_STEP:
            raise StoreError(f"cannot go on at step {step}, expected {LARGEST_STEP} at most")
        record = check_record(data)
        _check(record.attributes, axis, attributes)
        _check_newest(record.attributes["rows"], directory.read)
        return _load(record, axis, step, directory.read, same_attempt=same_attempt)
    except StoreError as error:
        raise StoreError(f"{directory.path}: {error}") from error


def _check(said: Mapping[str, Any], axis: FloatAxis, attributes: Mapping[str, Any]) -> None:
    """Refuse a run that this recorder cannot go on with."""
    if tuple(said["format_version"]) > FORMAT_VERSION:
        theirs, ours = (".".join(map(str, each)) for each in (said["format_version"], FORMAT_VERSION))
        raise StoreError(f"has format {theirs}, this actlab writes {ours}: update it to go on")
    if said.get("compacted"):
        raise StoreError("is compacted, and can only be read; a branch of it can be gone on with")
    if (found := axis_from_attributes(said["axis"])) != axis:
        raise StoreError(f"was recorded on {found}, and cannot be gone on with on {axis}")
    if (theirs := _recorded_by(said)) != (ours := _recorded_by(attributes)):
        raise StoreError(f"was recorded by {theirs}, and cannot be gone on with by {ours}")


def _check_newest(rows: Mapping[str, int], read: Read) -> None:
    """Refuse a run whose rows would be written over: someone put an older root record in place.

    The documents of the arrays are written after the root record, so they never know more rows.
    """
    for split, count in rows.items():
        with suppress(FileNotFoundError, ValueError, LookupError, TypeError):
            [found] = json.loads(read(f"{split}/step/{ROOT}"))["shape"]
            if found > count:
                raise StoreError(
                    f"the root record knows {count} rows of {split!r}, its arrays {found}: "
                    "an older record was put over it; `actlab repair` takes them back in"
                )


def _recorded_by(attributes: Mapping[str, Any]) -> str:
    """Name who records a run; one process that merges the rows of all ranks is one process."""
    ranks: dict[str, Any] = attributes.get("ranks") or {}
    is_rank = "rank" in ranks and "merged" not in ranks
    return f"rank {ranks['rank']} of {ranks['world_size']}" if is_rank else "one process"


def _load(record: Record, axis: FloatAxis, step: int | None, read: Read, *, same_attempt: bool) -> Beginning:
    """Return the beginning of another attempt, or of more of the last one."""
    said, nodes = record.attributes, record.nodes
    layers = layers_from_attributes(said)
    columns = {
        split: {name: read_column(f"{split}/{name}", nodes[f"{split}/{name}"], read) for name in _COLUMNS}
        for split in said["rows"]
    }
    plan = plan_attempt(said, columns, layers, step, same_attempt=same_attempt)
    forms = {split: _side_forms(split, nodes, read) for split in columns}
    new = begin(axis)
    identity = {key: said.get(key, value) for key, value in new.identity.items()}
    return Beginning(
        table=RunTable.load(axis, layers, said, nodes, read),
        rules=RowRules(
            axis.n_buckets,
            layers,
            plan.floors,
            {split: form for split in columns if (form := _head_form(f"{split}/{RAW_GROUP}", nodes))},
            {split: SideRules(axis.n_buckets, form) for split, form in forms.items()},
            {split: _log_names(split, nodes) for split in columns},
        ),
        identity=identity | {"attempts": plan.attempts},
        attributes={
            key: value for key, value in said.items() if key not in identity and key not in _OF_COMMITS
        },
        commit=said.get("commit", 0),
        paths=frozenset(nodes),
        gaps=plan.gaps,
        steps=plan.resumed.steps,
        last_steps=plan.last_steps,
        layer_map=LayerMap(layers, {split: form.channels for split, form in forms.items()}),
        resumed=plan.resumed,
    )


def _log_names(split: str, nodes: Mapping[str, Any]) -> set[str]:
    """Name the scalars that were logged in a split."""
    start = f"{split}/{LOG_PREFIX}"
    return {name.removeprefix(start) for name in nodes if name.startswith(start)}


def _head_form(group: str, nodes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the units of raw outputs of the head, and the dims of their labels or 0; None without any."""
    if group not in nodes:
        return None
    label = nodes.get(f"{group}/{LABEL.name}", {"shape": ()})
    return nodes[f"{group}/{HEAD.name}"]["shape"][1], len(label["shape"])


def _side_forms(split: str, nodes: Mapping[str, Any], read: Read) -> SideForms:
    """Return the forms of the side data of a split."""
    channels, samples, head, labels = (
        f"{split}/{name}" for name in (CHANNELS_GROUP, SAMPLES_GROUP, HEAD_GROUP, LABELS_GROUP)
    )
    table = f"{channels}/{CHANNEL_TABLE[0].name}"
    names = read_column(table, nodes[table], read).tolist() if channels in nodes else []
    layers = {
        node["attributes"]["layer"]: path
        for path, node in nodes.items()
        if path.startswith(f"{samples}/") and node["node_type"] == "group"
    }
    shapes = {path: tuple(node["shape"]) for path, node in nodes.items() if node["node_type"] == "array"}
    counts, moments = f"{head}/{HEAD_COUNTS.name}", f"{labels}/{LABEL_MOMENTS[0].name}"
    return SideForms(
        channels=tuple((layer, len(list(group))) for layer, group in groupby(names)),
        samples={
            layer: (nodes[name]["data_type"], shapes[name][1:])
            for layer, path in layers.items()
            if (name := f"{path}/{VALUES.name}")
        },
        label_shapes={
            layer: shapes[name][1:]
            for layer, path in layers.items()
            if (name := f"{path}/{LABEL.name}") in shapes
        },
        head=(shapes[counts][1], nodes[head]["attributes"]["units"] == "pooled")
        if counts in shapes
        else None,
        units=shapes[moments][2] if moments in shapes else None,
    )
