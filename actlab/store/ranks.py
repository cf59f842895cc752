"""`open_merged`: a run that several ranks recorded, each into its own store, as one snapshot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from actlab.errors import StoreError
from actlab.schema import SPLITS, LayerInfo, layers_from_attributes
from actlab.store.merging import Spans, join_spans, rank_path, spans_of, union_layers
from actlab.store.rank_groups import merge_split
from actlab.store.reader import Snapshot, read_snapshot
from actlab.store.sources import Source, find_source
from actlab.store.urls import name_of

__all__ = ["open_merged"]

_PLACE = ("step", "epoch", "batch", "train_step")


def open_merged(
    path: str | os.PathLike[str], *, check_files: bool = True, all_attempts: bool = False
) -> Snapshot:
    """Open a run; one of several ranks with the stores of all of them, merged lazily.

    A merged row is made of the live rows that the ranks recorded of the same step: counts added,
    moments merged, samples one after the other. It is there only if every rank that records the split
    has it, and the ranks agree on its epoch and place; a rank that never records a split is not needed
    there. The root attribute `ranks` then has two more keys: `merged`, the ranks, and `dropped`,
    the spans of the steps that are left out, for each split.

    Parameters
    ----------
    path : str or path-like
        The run, which is also the store of rank 0. `mnist.rank1.zarr` opens rank 1 alone, and
        `mnist.rank0.zarr`, a name without a directory, rank 0.
    check_files : bool
        As of `open_snapshot`.
    all_attempts : bool
        Show the rows, too, that a later attempt has replaced; of one rank alone.

    Raises
    ------
    StoreError
        As `open_snapshot`; if the store of a rank is missing or of another run; if all attempts are
        wanted of several ranks.
    """
    source = find_source(path)
    run = _run_of_rank0(source)
    first = read_snapshot(run or source, check_files=check_files, all_attempts=all_attempts)
    said = first.attributes.get("ranks")
    if run is not None or said is None or said["rank"] != 0 or said["world_size"] == 1 or "merged" in said:
        return first
    if all_attempts:
        raise StoreError(
            f"{first.path}: recorded by {said['world_size']} ranks, expected one of them alone to see all "
            f"attempts: open {_alone(first.path)!r}"
        )
    others = [
        _open_rank(source, rank, first, said, check_files=check_files)
        for rank in range(1, said["world_size"])
    ]
    return _merge([_Rank(snapshot) for snapshot in (first, *others)])


def _run_of_rank0(source: Source) -> Source | None:
    """Return the run that `mnist.rank0.zarr` means, None for any other name."""
    name = Path(name_of(source.label))
    stem = name.stem.removesuffix(".rank0")
    if stem == name.stem or source.exists():
        return None
    run = source.beside(stem + name.suffix)
    return run if run.exists() else None


def _alone(label: str) -> str:
    """Return the name under which rank 0 is opened alone."""
    name = Path(name_of(label))
    return f"{name.stem}.rank0{name.suffix}"


def _open_rank(
    source: Source, rank: int, first: Snapshot, said: Mapping[str, Any], *, check_files: bool
) -> Snapshot:
    """Open the store of a rank, which must belong to the run of rank 0."""
    run = name_of(source.label)
    name = rank_path(Path(run), rank).name
    other = source.beside(name)
    if not other.exists():
        raise StoreError(
            f"{source.label}: recorded by {said['world_size']} ranks, the store of rank {rank} is missing, "
            f"expected {name!r} beside it; open {_alone(run)!r} to see rank 0 alone"
        )
    snapshot = read_snapshot(other, check_files=check_files, all_attempts=False)
    found = snapshot.attributes.get("ranks") or {}
    problem = None
    if [found.get(key) for key in ("job", "rank")] != [said["job"], rank]:
        problem = "is of another run"
    elif snapshot.attributes["axis"] != first.attributes["axis"]:
        problem = "has another recording axis"
    if problem is not None:
        raise StoreError(
            f"{other.label}: {problem} than {run!r}, expected rank {rank} of it; "
            f"open {_alone(run)!r} or {name!r} to see one rank alone"
        )
    return snapshot


class _Rank:
    """One rank's snapshot, and how far it had come."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.path, self.attributes, self.tree = snapshot.path, snapshot.attributes, snapshot.tree
        self.stores = snapshot.stores
        self._places: dict[str, xr.Dataset] = {}

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The table of layers."""
        return layers_from_attributes(self.attributes)

    def rows(self, split: str) -> xr.Dataset | None:
        """Return where the rows of a split belong, loaded; None where there are none."""
        if split not in self._places and split in self.tree.children:
            coordinates = self.tree.children[split].to_dataset(inherit=False).coords.to_dataset()
            self._places[split] = coordinates[list(_PLACE)].load()
        return self._places.get(split)

    def records(self, split: str) -> bool:
        """Whether the rank records a split, even if all rows of it were dropped."""
        return split in self.tree.children or bool(self.attributes.get("gaps", {}).get(split))

    @cached_property
    def train_step(self) -> float:
        """Rows up to this train_step, itself excluded, are behind the rank."""
        if self.attributes.get("closed"):
            return np.inf
        ends = [
            int(rows.train_step.values[-1]) + (split == "train")
            for split in SPLITS
            if (rows := self.rows(split)) is not None
        ]
        return max(ends, default=-1)


def _merge(ranks: Sequence[_Rank]) -> Snapshot:
    """Merge the snapshots of all ranks."""
    first = ranks[0].attributes
    layers = union_layers([rank.layers for rank in ranks])
    heads = {head for rank in ranks if (head := rank.attributes.get("head")) is not None}
    groups: dict[str, xr.Dataset] = {}
    dropped: dict[str, Spans] = {}
    for split in SPLITS:
        if any(split in rank.tree.children for rank in ranks):
            steps, dropped[split] = _common_steps(split, ranks)
            if steps[0].size:
                nodes = [rank.tree.children[split] for rank in ranks if rank.records(split)]
                groups |= merge_split(
                    split, nodes, steps, [layer.name for layer in layers], with_head=len(heads) < 2
                )
    gaps = [rank.attributes.get("gaps", {}) for rank in ranks]
    attributes = first | {
        "commit": sum(rank.attributes.get("commit", 0) for rank in ranks),
        "rows": {split: groups[split].sizes["step"] for split in SPLITS if split in groups},
        "layers": [asdict(layer) for layer in layers],
        "gaps": {
            split: join_spans(span for each in gaps for span in each.get(split, ())) for split in SPLITS
        },
        "head": next((head for rank in ranks if (head := rank.attributes.get("head")) is not None), None),
        "closed": all(rank.attributes.get("closed", False) for rank in ranks),
        "ranks": first["ranks"] | {"merged": list(range(len(ranks))), "dropped": dropped},
    }
    attributes.pop("layer_growth", None)  # which tells how to check the rows of one store
    stores = tuple(store for rank in ranks for store in rank.stores)
    return Snapshot(ranks[0].path, attributes, xr.DataTree.from_dict(groups), stores, is_live=True)


def _common_steps(split: str, ranks: Sequence[_Rank]) -> tuple[list[NDArray[np.int64]], Spans]:
    """Return the steps of whole rows by rank that records the split [row], and the spans of the other rows.

    Rows of the same epoch and batch belong together, whatever their steps: ranks may have different
    numbers of batches. Ranks that infer their epochs need not all evaluate, so there it is the step.
    A row is whole if every rank that records the split has it, and every other rank has passed by it:
    one that was killed may have recorded it next.
    """
    is_inferred = any(rank.attributes.get("epochs") == "inferred" for rank in ranks)
    tables = [rank.rows(split) for rank in ranks if rank.records(split)]
    known = [table for table in tables if table is not None]
    keys = [_keys(table, is_inferred) for table in known]
    common = reduce(lambda left, right: left[left.isin(right)], keys)
    found = [table.step.values[key.get_indexer(common)] for table, key in zip(known, keys, strict=True)]
    is_whole = np.full(len(common), len(known) == len(tables))
    # A rank that sees rows in another order than the first one cannot be merged there.
    for steps in found[1:]:
        is_whole &= np.maximum.accumulate(steps) == steps
    places = known[0].train_step.values[keys[0].get_indexer(common)]
    for rank in ranks:
        if not rank.records(split):
            is_whole &= places < rank.train_step
    whole = [steps[is_whole] for steps in found]
    every = reduce(np.union1d, [table.step.values for table in known])
    left = reduce(np.union1d, [np.setdiff1d(t.step.values, w) for t, w in zip(known, whole, strict=True)])
    return whole, spans_of(every, np.isin(every, left))


def _keys(rows: xr.Dataset, is_inferred: bool) -> pd.MultiIndex:
    """Return what rows of different ranks must have in common [row], unique in each rank."""
    names = ["step", "train_step"] if is_inferred else ["epoch", "batch"]
    table = pd.DataFrame({name: rows[name].values for name in names})
    return pd.MultiIndex.from_frame(table.assign(again=table.groupby(names).cumcount()))
