"""What the files of a run hold beyond its root record, or without one: rows that prove themselves."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import product
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.errors import AxisError, StoreError
from actlab.schema import FORMAT_VERSION, SPLITS, LayerInfo, axis_to_attributes
from actlab.store.arrays import read_column
from actlab.store.layout import ROOT, chunk_key, root_record
from actlab.store.record import check_record
from actlab.store.rows import SplitRows, StoredRow
from actlab.store.sources import Source
from actlab.store.stored import StoredRun

__all__ = ["Nodes", "Recovered", "combined", "find_documents", "rebuild_attributes", "recover"]

_INDEX: Final = ("row_step", "sample_step", "step")  # the column of a group that says whose entries it has
_NO_LIMIT = 1 << 62
_GROWING: Final = ("step", "row", "sample")  # dims that get longer with the rows
Nodes: TypeAlias = dict[str, dict[str, Any]]
"""Path below the root -> metadata document of a group or an array."""


@dataclass(frozen=True)
class Recovered:
    """A root record with all rows that prove themselves.

    Parameters
    ----------
    attributes : dict
        The root attribute ``actlab``.
    nodes : dict
        Path below the root -> metadata document of every group and array.
    steps : dict
        Split -> steps of the rows that were found besides those known.
    """

    attributes: dict[str, Any]
    nodes: Nodes
    steps: dict[str, list[int]]


def recover(source: Source, attributes: Mapping[str, Any], nodes: Nodes, documents: Nodes) -> Recovered:
    """Find the rows that are on disk behind those known.

    A row counts if it comes after the one before it, and has its checksum in all arrays; where no
    document lists it, if it is not older, too, as a row is that an attempt before has left there.

    Parameters
    ----------
    source : Source
        The files of the run.
    attributes : mapping
        The root attribute ``actlab``; its `rows` are known.
    nodes : dict
        Path below the root -> metadata document of every group and array.
    documents : dict
        The documents that the groups and arrays have themselves.

    Raises
    ------
    StoreError
        If the documents describe no run; the reason only.
    """
    listed = {split: documents.get(f"{split}/step", {"shape": [0]})["shape"][0] for split in SPLITS}
    longer = _stretched(nodes, source)
    there = {split: longer[f"{split}/step"]["shape"][0] for split in SPLITS if f"{split}/step" in longer}
    there = {split: rows for split, rows in there.items() if rows > 0}
    longer = {name: node for name, node in longer.items() if name.partition("/")[0] in there}
    layers = _named_layers(attributes["layers"], longer, source)
    growth = {split: _growth(attributes, split) for split in there}
    trial = {
        "rows": there,
        "layers": layers,
        "layer_growth": {
            split: [*each, [attributes["rows"].get(split, 0), len(layers)]] for split, each in growth.items()
        },
    }
    run = StoredRun(source, check_record(root_record({**attributes, **trial}, longer)))
    splits = {
        split: _prove(run.rows(split), attributes["rows"].get(split, 0), each, listed[split])
        for split, each in growth.items()
    }
    kept = {split: each for split, each in splits.items() if each.n > 0}
    found = {
        "rows": {split: each.n for split, each in kept.items()},
        "layers": layers,
        "layer_growth": {split: each.growth for split, each in kept.items()},
        "attempts": _attempts(attributes, kept),
        "steps": {
            split: max(int(each.column("step")[-1]) + 1, attributes.get("steps", {}).get(split, 0))
            for split, each in kept.items()
        },
    }
    steps = {split: each.column("step")[each.first :].tolist() for split, each in splits.items()}
    return Recovered({**attributes, **found}, _cut(longer, nodes, kept, source), steps)


@dataclass(frozen=True)
class _Proven:
    """The rows of a split that prove themselves: the first `n`, of which `first` were known before."""

    rows: SplitRows
    first: int
    n: int
    growth: list[list[int]]

    def column(self, name: str) -> NDArray[Any]:
        """Return one of the columns of these rows."""
        return self.rows.columns[name][: self.n]


def _growth(attributes: Mapping[str, Any], split: str) -> list[list[int]]:
    """Return how many layers the known rows of a split have; nothing where there are none."""
    if not attributes["rows"].get(split):
        return []
    return list(attributes.get("layer_growth", {}).get(split) or [[0, len(attributes["layers"])]])


def _prove(rows: SplitRows, first: int, growth: list[list[int]], listed: int) -> _Proven:
    """Find the rows behind the first ones that are sound, and how many layers each has."""
    number, growth = first, list(growth)
    for n_layers in _sound(rows, first, growth[-1][1] if growth else 0, listed):
        if not growth or growth[-1][1] != n_layers:
            growth.append([number, n_layers])
        number += 1
    return _Proven(rows, first, number, growth)


def find_documents(source: Source) -> Nodes:
    """Return the documents that the groups and arrays of a run have themselves."""
    found: dict[str, Any] = {}
    for path in source.sizes():
        name, _, file = path.rpartition("/")
        if file == ROOT and name.partition("/")[0] in SPLITS:
            with suppress(OSError, ValueError, RecursionError):
                found[name] = json.loads(source.read(path))
    return {name: node for name, node in sorted(found.items()) if isinstance(node, dict)}


def combined(nodes: Nodes, documents: Nodes) -> Nodes:
    """Return the documents of the root record, with what only the own ones know, without its entries."""
    found = {name: dict(node) for name, node in nodes.items()}
    for name, document in documents.items():
        theirs = list(document.get("shape", []))
        ours = list(nodes.get(name, {"shape": [0] * len(theirs)}).get("shape", []))
        if len(theirs) == len(ours) > 0:
            is_growing = document.get("dimension_names", [None])[0] in _GROWING
            shape = [max(pair) for pair in zip(theirs, ours, strict=True)]
            found[name] = found.get(name, document) | {
                "shape": [ours[0], *shape[1:]] if is_growing else shape
            }
        else:
            found.setdefault(name, document)
    return found


def _stretched(nodes: Nodes, source: Source) -> Nodes:
    """Return the documents with each group as long as its files say, and all layers in every split."""
    arrays = {name: dict(node) for name, node in nodes.items() if node.get("node_type") == "array"}
    tables = [arrays[f"{split}/layer"] for split in SPLITS if f"{split}/layer" in arrays]
    total = max((table["shape"][0] for table in tables), default=0)
    for node in arrays.values():
        sizes = zip(node["dimension_names"], node["shape"], strict=True)
        node["shape"] = [total if dim == "layer" else size for dim, size in sizes]
    for group in dict.fromkeys(name.rpartition("/")[0] for name in arrays):
        index = next((f"{group}/{name}" for name in _INDEX if f"{group}/{name}" in arrays), None)
        if index is None:
            continue
        dim, before = arrays[index]["dimension_names"][0], arrays[index]["shape"][0]
        growing = {
            name: _entries_there(node, source.sizes(name))
            for name, node in arrays.items()
            if name.rpartition("/")[0] == group and node["dimension_names"][:1] == [dim]
        }
        for name in [name for name, there in growing.items() if there < before]:
            # Of one that is known they are missing; one that is not cannot be of this run.
            if arrays[name]["shape"][0] < before:
                del arrays[name], growing[name]
        length = _length(index, arrays[index], min(growing.values()), source)
        for name in growing:
            arrays[name]["shape"] = [length, *arrays[name]["shape"][1:]]
    groups = {name: node for name, node in nodes.items() if node.get("node_type") == "group"}
    return dict(sorted((groups | arrays).items()))


def _length(index: str, node: Mapping[str, Any], there: int, source: Source) -> int:
    """Return how many entries a group has, by the column that says whose they are."""
    before: int = node["shape"][0]
    try:
        found = read_column(index, {**node, "shape": [there]}, source.read)[before:]
    except OSError:  # a damaged chunk holds nothing that could be taken back
        return before
    return before + int(np.append(found < 0, True).argmax())


def _entries_there(node: Mapping[str, Any], files: Mapping[str, int]) -> int:
    """Count the entries of an array whose chunks are all there."""
    length, *rest = node["chunk_grid"]["configuration"]["chunk_shape"]
    columns = [range(-(-size // chunk)) for size, chunk in zip(node["shape"][1:], rest, strict=True)]
    if not all(columns):  # no values, no chunks
        return _NO_LIMIT
    if prod(map(len, columns)) > len(files):
        return 0
    number = 0
    while all(chunk_key((number, *column)) in files for column in product(*columns)):
        number += 1
    return number * int(length)


def _named_layers(known: list[Any], nodes: Nodes, source: Source) -> list[Any]:
    """Return the table of layers with those that only the arrays know."""
    names: list[str] = []
    for split in SPLITS:
        if f"{split}/layer" in nodes:
            names = read_column(f"{split}/layer", nodes[f"{split}/layer"], source.read).tolist()
    return [*known, *(asdict(LayerInfo(name)) | {"shape": []} for name in names[len(known) :])]


def _sound(rows: SplitRows, first: int, fewest: int, listed: int) -> Iterator[int]:
    """Yield for each row from `first` on how many layers it has, as long as the rows are sound."""
    last = _place(rows, first - 1) if first > 0 else (-1, -1, -np.inf)
    for block in rows.blocks():
        if block.stop <= first:
            continue
        try:
            stored = rows.read(block)
        except StoreError:
            return
        for number, each in zip(block, stored, strict=True):
            if number < first:
                continue
            place, found = _place(rows, number), _layers_of(each, fewest)
            # What an earlier attempt left behind the end is older, or not later in its attempt.
            follows = place[0] > last[0] or (place[0] == last[0] and place[1] > last[1])
            if found is None or not follows or (place[2] < last[2] and number >= listed):
                return
            last, fewest = place, found
            yield found


def _place(rows: SplitRows, number: int) -> tuple[int, int, float]:
    """Return attempt, step and time of a row."""
    attempt, step, time = (rows.columns[name][number].item() for name in ("attempt", "step", "time"))
    return attempt, step, time


def _layers_of(stored: StoredRow, fewest: int) -> int | None:
    """Return over how many layers a row has its checksum, None if over no number of them."""
    row = stored.row
    for known in range(fewest, len(row.layers) + 1):
        arrays = {name: getattr(row, name)[:known] for name in ("counts", "n", "mean", "std", "min", "max")}
        if replace(stored, row=replace(row, layers=row.layers[:known], **arrays)).is_sound:
            return known
    return None


def _attempts(attributes: Mapping[str, Any], splits: Mapping[str, _Proven]) -> list[int]:
    """Return where each attempt began: one that is not known at its first row."""
    starts = list(attributes.get("attempts") or [0])
    columns = [(each.column("attempt"), each.column("train_step")) for each in splits.values()]
    newest = max((int(attempt.max()) for attempt, _ in columns), default=0)
    for number in range(len(starts), newest + 1):
        found = [train_step[attempt >= number] for attempt, train_step in columns]
        starts.append(int(np.concatenate(found).min()))
    return starts


def _cut(longer: Nodes, nodes: Nodes, splits: Mapping[str, _Proven], source: Source) -> Nodes:
    """Return the documents with the entries of these rows only; groups that have none are left out."""
    cut: Nodes = {}
    places = {
        split: set(zip(each.column("step").tolist(), each.column("attempt").tolist(), strict=True))
        for split, each in splits.items()
    }
    for name, node in longer.items():
        split, group = name.partition("/")[0], name.rpartition("/")[0]
        if split not in splits:
            continue
        cut[name] = node
        index = next((f"{group}/{each}" for each in _INDEX if f"{group}/{each}" in longer), name)
        if node["node_type"] == "array" and node["dimension_names"][0] == longer[index]["dimension_names"][0]:
            if group == split:
                length = splits[split].n
            else:
                length = _entries(group, index, longer, places[split], source)
            cut[name] = node | {"shape": [length, *node["shape"][1:]]}
    for group in [name for name in cut if "/" in name and cut[name]["node_type"] == "group"]:
        arrays = [node for name, node in cut.items() if name.startswith(f"{group}/") and "shape" in node]
        if group not in nodes and all(node["shape"][0] == 0 for node in arrays):
            cut = {name: node for name, node in cut.items() if not f"{name}/".startswith(f"{group}/")}
    return cut


def _entries(group: str, index: str, nodes: Nodes, places: set[tuple[int, int]], source: Source) -> int:
    """Count the entries of a group that belong to rows that are there."""
    attempt = f"{group}/row_attempt" if index.endswith("/row_step") else f"{group}/attempt"
    steps, attempts = (read_column(name, nodes[name], source.read).tolist() for name in (index, attempt))
    for number, place in enumerate(zip(steps, attempts, strict=True)):
        if place not in places:
            return number
    return len(steps)


def rebuild_attributes(known: Mapping[str, Any], nodes: Nodes, source: Source) -> dict[str, Any]:
    """Return the root attribute of a run whose root record is lost, as far as the arrays know it.

    Parameters
    ----------
    known : mapping
        What could still be read of it.
    nodes : dict
        Path below the root -> metadata document, as they lie there.
    source : Source
        The files of the run.

    Raises
    ------
    StoreError, OSError
        If an array that is needed is missing or damaged.
    """
    split = next((each for each in SPLITS if f"{each}/counts" in nodes), None)
    if split is None:
        raise StoreError("no split has its documents")
    lower = read_column(f"{split}/lower", nodes[f"{split}/lower"], source.read)
    created = read_column(f"{split}/time", nodes[f"{split}/time"], source.read)[:1]
    rebuilt = {
        "format": "actlab",
        "format_version": list(FORMAT_VERSION),
        "incompat": [],
        "run_id": uuid.uuid4().hex,
        "created": datetime.fromtimestamp(float(*created), UTC).isoformat(timespec="seconds"),
        "attempts": [0],
        "axis": axis_to_attributes(_axis_of(lower)),
        "layers": _named_layers([], nodes, source),
        "gaps": {},
        "head": None,
        "closed": False,
    }
    return rebuilt | dict(known) | {"rows": {}, "layer_growth": {}}


def _axis_of(lower: Any) -> FloatAxis:
    """Find the recording axis by the lower ends of its buckets."""
    first, last = lower[len(lower) // 2 + 1], lower[-3]  # of the positive buckets, of overflow
    try:
        low, high = int(np.log2(first)), int(np.log2(last)) - 1
        bits = int(np.log2((len(lower) - 8) // 2 // (high - low + 1)))
        axis = FloatAxis(bits, low, high)
    except (AxisError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise StoreError("the buckets are those of no recording axis") from error
    if not np.array_equal(axis.lower, lower, equal_nan=True):
        raise StoreError("the buckets are those of no recording axis")
    return axis
