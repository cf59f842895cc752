"""`Selecting`: which layers, rows and epochs of a run are meant; a miss names the nearest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, fields
from fnmatch import fnmatchcase
from functools import cached_property
from numbers import Integral
from typing import Any, Final, TypeGuard

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from actlab.errors import SelectionError, nearest, nearest_number
from actlab.schema import CHANNELS_GROUP, HEAD_GROUP, LABEL, SPLITS, LayerInfo, layers_from_attributes
from actlab.store.reader import Snapshot
from actlab.store.splits import Splits

__all__ = ["UNTRAINED", "Selecting", "is_whole", "several"]

LAYER_FIELDS: Final = [field.name for field in fields(LayerInfo)]

UNTRAINED: Final = -1
"""Epoch label of evaluation before any training."""


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether a value is a whole number; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


class Selecting(Splits):
    """The splits of a run, and what is selected of them.

    Parameters
    ----------
    snapshot : Snapshot
        What `open_merged` read.
    """

    def _show(self, snapshot: Snapshot) -> None:
        """Take a snapshot, and forget what was read of another."""
        super()._show(snapshot)
        self._infos = layers_from_attributes(snapshot.attributes)
        self._n_values: dict[str, NDArray[np.uint64]] = {}
        for name in ("layers", "nbytes"):
            self.__dict__.pop(name, None)

    @cached_property
    def layers(self) -> pd.DataFrame:
        """Table of the layers: name (index), kind, description, shape, calls, depth, n, never_called, ...

        `depth` is the number of parts of the name between dots, the member after `:` left out. `n` counts
        the values of all splits; a layer without any was never called, unless `skipped`, the last column,
        says why its outputs were not counted; it is "" if none were skipped.
        """
        n = sum((self.n_values(split) for split in self.splits), np.zeros(len(self.names), np.uint64))
        table = pd.DataFrame([asdict(layer) for layer in self._infos], columns=LAYER_FIELDS).set_index("name")
        reasons = self.attributes.get("skipped", {})
        skipped = np.array([reasons.get(name, "") for name in self.names], dtype=object)
        never_called = (n == 0) & (skipped == "")
        depth = np.array([_depth(name) for name in self.names], np.int64)
        return table.assign(depth=depth, n=n, never_called=never_called, skipped=skipped)

    def n_values(self, split: str) -> NDArray[np.uint64]:
        """Return how many values each layer [layer] has in all rows of a split."""
        if split not in self._n_values:
            self._n_values[split] = self[split]["n"].sum("step").values
        return self._n_values[split]

    @cached_property
    def nbytes(self) -> int:
        """Bytes that the run takes where it lies, those of all its ranks."""
        return sum(sum(store.source.sizes().values()) for store in self._snapshot.stores)

    @property
    def is_live(self) -> bool:
        """Whether rows that a later attempt of the training has replaced are left out."""
        return self._snapshot.is_live

    def kept(self, split: str) -> str:
        """Say in words what a split holds besides its counts and moments."""
        groups, raw = self._children(split), self.raw(split)
        kept = ["the head counted by unit and truth" if HEAD_GROUP in groups else "counts only"]
        if raw is not None:
            kept = [f"raw outputs of the head with{'' if LABEL.name in raw else 'out'} labels"]
            is_float = LABEL.name not in raw and self.attributes.get("targets") == "float"
            kept[0] += " (float targets)" if is_float else ""
        kept += ["channels"] if CHANNELS_GROUP in groups else []
        if n_sampled := len(self._sampled(split)):
            kept.append(f"samples of {n_sampled} layer{'s' if n_sampled > 1 else ''}")
        return ", ".join(kept)

    @property
    def gaps(self) -> dict[str, list[list[int]]]:
        """Steps that are missing: those dropped while recording, and those that not every rank has.

        For each split a list of [first, last], ends included.
        """
        merged = (self.attributes.get("ranks") or {}).get("dropped", {})
        recorded = self.attributes.get("gaps", {})
        found = {split: [*recorded.get(split, []), *merged.get(split, [])] for split in SPLITS}
        return {split: gaps for split, gaps in found.items() if gaps}

    def epochs(self, split: str) -> list[int]:
        """List the epoch labels of a split, ascending; -1 is evaluation before any training."""
        return [int(epoch) for epoch in np.unique(self[split].epoch)]

    def rows(
        self,
        split: str,
        epoch: int | str | Collection[int] | None = None,
        steps: tuple[int, int] | None = None,
    ) -> NDArray[np.int64]:
        """Return the numbers of some rows [row], ascending, for `isel(step=...)`; of all by default.

        Parameters
        ----------
        split : str
            What was recorded.
        epoch : int, "last", "untrained" or collection of int, optional
            Epoch labels; "last" is that of the split, "untrained" evaluation before any training (-1).
        steps : (int, int), optional
            First and last `step` of the split, both included.

        Raises
        ------
        SelectionError
            If the split, an epoch in it, or any step of the range, was not recorded.
        """
        labels, step = self[split]["epoch"].values, self[split]["step"].values
        chosen = np.ones(labels.size, np.bool_)
        if epoch is not None:
            chosen = np.isin(labels, self._epoch_labels(split, epoch))
        if steps is not None:
            first, last = _range(steps)
            within = chosen & (step >= first) & (step <= last)
            if not within.any():
                where = f"split {split!r}" + (f", epoch {epoch!r}" if epoch is not None else "")
                dropped = self._dropped(split, first, last)
                near = nearest_number(first, step[chosen])
                raise SelectionError(f"no step {first} to {last} in {where}: {near}{dropped}")
            chosen = within
        return np.flatnonzero(chosen)

    def _epoch_labels(self, split: str, epoch: int | str | Collection[int]) -> list[int]:
        """Return the labels that are meant, all of them recorded in the split."""
        known = self.epochs(split)
        if isinstance(epoch, str) and epoch in ("last", "untrained"):
            wanted = [UNTRAINED if epoch == "untrained" or not known else known[-1]]
        else:
            wanted = several(epoch)
        for label in wanted:
            if not is_whole(label):
                raise SelectionError(
                    f"epoch must be a whole number, several of them, 'last' or 'untrained', got {label!r}"
                )
            if label not in known:
                near = nearest_number(int(label), known)
                raise SelectionError(f"no epoch {label} in split {split!r}: {near}")
        if not wanted:
            raise SelectionError("epoch names no epoch: it is empty")
        return [int(label) for label in wanted]

    def _dropped(self, split: str, first: int, last: int) -> str:
        """Say which steps of a range were dropped."""
        lost = [gap for gap in self.gaps.get(split, []) if gap[0] <= last and gap[1] >= first]
        return "".join(f"; steps {gap[0]} to {gap[1]} were dropped" for gap in lost)

    def select_layers(
        self,
        patterns: str | Iterable[str] | None = None,
        *,
        kind: str | Iterable[str] | None = None,
        depth: int | tuple[int, int] | None = None,
    ) -> list[str]:
        """Select layers by name, kind and depth, in the model's order.

        Parameters
        ----------
        patterns : str or iterable of str, optional
            `fnmatch` patterns on the whole name (`*` crosses dots); `encoder` also means its members
            `encoder:0`, `encoder:hidden`; a leading `!` excludes. Exclusions alone, and an empty list, start
            from all layers.
        kind : str or iterable of str, optional
            Such patterns on the kind, as "Conv*" or "!Dropout".
        depth : int or (int, int), optional
            Number of parts of the name between dots, or the first and the last such number, both included.

        Raises
        ------
        SelectionError
            If a pattern or the depth matches no layer, or nothing is left.
        """
        # The name without its member counts as well.
        by_name = _index((text, name) for name in self.names for text in (name, name.partition(":")[0]))
        chosen = self._choose(patterns, "layer", by_name)
        chosen &= self._choose(kind, "layer of kind", _index((each.kind, each.name) for each in self._infos))
        chosen &= self._of_depth(depth)
        if self.names and not chosen:
            given = {"": patterns, "kind ": kind, "depth ": depth}
            asked = ", ".join(f"{what}{value!r}" for what, value in given.items() if value is not None)
            raise SelectionError(f"no layer left by {asked} in {self.path}")
        return [name for name in self.names if name in chosen]

    def _choose(
        self, patterns: str | Iterable[str] | None, what: str, known: dict[str, set[str]]
    ) -> set[str]:
        """Return the layers that patterns mean, known by some texts; each must match one at least."""
        included, excluded, all_excluded = set[str](), set[str](), True
        for pattern in [] if patterns is None else several(patterns):
            if not isinstance(pattern, str):
                raise SelectionError(f"{what} must be a name or a pattern, got {pattern!r}")
            wanted = pattern.removeprefix("!")
            hits = {wanted} & known.keys()
            if set(wanted) & set("*?["):
                hits |= {text for text in known if fnmatchcase(text, wanted)}
            if not hits:
                raise SelectionError(f"no {what} {wanted!r} in {self.path}: {nearest(wanted, known)}")
            found = set().union(*(known[text] for text in hits))
            if pattern == wanted:
                included, all_excluded = included | found, False
            else:
                excluded |= found
        return (set(self.names) if all_excluded else included) - excluded

    def _of_depth(self, depth: int | tuple[int, int] | None) -> set[str]:
        """Return the layers of some depth."""
        if depth is None:
            return set(self.names)
        first, last = (depth, depth) if is_whole(depth) else _range(depth, "depth")
        known = {name: _depth(name) for name in self.names}
        found = {name for name, each in known.items() if first <= each <= last}
        if not found:
            asked = first if first == last else f"{first} to {last}"
            near = nearest_number(int(first), known.values())
            raise SelectionError(f"no layer of depth {asked} in {self.path}: {near}")
        return found

    def select(
        self,
        split: str = "train",
        *,
        layers: str | Iterable[str] | None = None,
        kind: str | Iterable[str] | None = None,
        depth: int | tuple[int, int] | None = None,
        epoch: int | str | Collection[int] | None = None,
        steps: tuple[int, int] | None = None,
    ) -> xr.Dataset:
        """Return a part of a split, lazily: `run[split]` with fewer layers and rows.

        Parameters
        ----------
        split : str
            What was recorded.
        layers, kind, depth
            As in `select_layers`.
        epoch, steps
            As in `rows`.

        Returns
        -------
        xarray.Dataset
            counts [step, layer, bucket] and the rest of the split, its coordinates loaded.

        Raises
        ------
        SelectionError
            If the run does not hold what is asked for; names the nearest that it does hold.
        """
        rows, names = self.rows(split, epoch, steps), self.select_layers(layers, kind=kind, depth=depth)
        chosen = self[split] if names == self.names else self.pick(split, names)
        is_span = rows[-1] - rows[0] + 1 == rows.size  # a slice, which costs a smaller graph
        return chosen.isel(step=slice(rows[0], rows[-1] + 1) if is_span else rows)


def several(value: object) -> list[Any]:
    """Return what a collection holds; of anything else the value itself."""
    held = value.tolist() if isinstance(value, np.ndarray) else value
    return list(held) if isinstance(held, Iterable) and not isinstance(held, str) else [held]


def _index(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Gather the layers that go by each text, (text, layer)."""
    index: dict[str, set[str]] = {}
    for text, name in pairs:
        index.setdefault(text, set()).add(name)
    return index


def _depth(name: str) -> int:
    """Return the number of parts of a name between dots, the member left out."""
    return name.partition(":")[0].count(".") + 1


def _range(ends: Any, what: str = "steps") -> tuple[int, int]:
    """Return the first and the last of a range, both included."""
    ends = ends.tolist() if isinstance(ends, np.ndarray) else ends
    if isinstance(ends, Sequence) and len(ends) == 2 and all(map(is_whole, ends)) and ends[0] <= ends[1]:
        return int(ends[0]), int(ends[1])
    alone = "a whole number or " if what == "depth" else ""
    raise SelectionError(f"{what} must be {alone}(first, last), two whole numbers in order, got {ends!r}")
