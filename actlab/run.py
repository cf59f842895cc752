"""`open_run(path) -> Run`: a recorded run as lazy xarray, and the selections made on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from fnmatch import fnmatchcase
from functools import cached_property, partial
from os import PathLike
from typing import Final, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import SelectionError, nearest
from actlab.rebinning import bin_values, rebin
from actlab.schema import (
    CHANNELS_GROUP,
    HEAD_COUNTS,
    HEAD_GROUP,
    SPLITS,
    LayerInfo,
    axis_from_attributes,
    layers_from_attributes,
)
from actlab.store.choices import choose_counts, choose_values
from actlab.store.ranks import open_merged
from actlab.store.reader import Snapshot
from actlab.store.splits import Splits, belong
from actlab.store.verifying import verify_snapshot

__all__ = ["Run", "open_run"]

LAYER_FIELDS: Final = [field.name for field in fields(LayerInfo)]


def open_run(
    path: str | PathLike[str],
    *,
    verify: Literal["presence", "rows"] | bool = "presence",
    all_attempts: bool = False,
) -> Run:
    """Open a recorded run; a run still being written is shown as of its last commit.

    Parameters
    ----------
    path : str or path-like
        The Zarr store, `runs/NAME.zarr`, an archive `NAME.zarr.zip`, or a URL, `s3://bucket/NAME.zarr`;
        `~` is the home directory.
    verify : {"presence", "rows"} or bool, optional
        What to make sure of: that all chunks are there, or that every row, of every attempt, is as it
        was recorded, which reads all of them. True is "rows", False nothing.
    all_attempts : bool, optional
        Show the rows, too, that a later attempt of the training has replaced.

    Returns
    -------
    Run
        Its data are read when they are asked for.

    Raises
    ------
    StoreError
        If there is no readable run, or it is not as it was recorded: one line that says what is wrong.
    MissingDependencyError
        If the package for a URL is not installed.
    ValueError
        If `verify` is none of these.
    """
    if verify not in ("presence", "rows", True, False):
        raise ValueError(f"verify must be 'presence', 'rows', True or False, got {verify!r}")
    reopen = partial(_open, path, verify, all_attempts)
    return Run(reopen(), reopen)


def _open(path: str | PathLike[str], verify: str | bool, all_attempts: bool) -> Snapshot:
    """Open and verify a run."""
    snapshot = open_merged(path, check_files=verify is not False, all_attempts=all_attempts)
    if verify in ("rows", True):
        verify_snapshot(snapshot)
    return snapshot


class Run(Splits):
    """One training, recorded: a view of one commit of its store, until `refresh`.

    Parameters
    ----------
    snapshot : Snapshot
        What `open_merged` read.
    reopen : callable, optional
        Reads it again; by default as `open_run` does.

    Attributes
    ----------
    path : str
        The store: a path, or a URL.
    attributes : dict
        The root attribute `actlab`: run id, versions, layers, gaps and more.
    axis : FloatAxis
        The recording axis.
    splits : tuple of str
        Those of train, valid, test that have rows.
    head : str or None
        Name of the head layer; None also before the first row that has it.
    names : list of str
        All layers in the model's order, those never called included.
    """

    def __init__(self, snapshot: Snapshot, reopen: Callable[[], Snapshot] | None = None) -> None:
        super().__init__(snapshot)
        self._reopen = reopen or partial(open_merged, snapshot.path)

    def _show(self, snapshot: Snapshot) -> None:
        """Take a snapshot, and forget what was read of another."""
        super()._show(snapshot)
        self.axis: FloatAxis = axis_from_attributes(self.attributes["axis"])
        self._infos = layers_from_attributes(snapshot.attributes)
        head: str | None = self.attributes.get("head")
        self.head = head if head in self.names else None
        self._totals: dict[str, xr.DataArray] = {}
        self.__dict__.pop("layers", None)

    def refresh(self) -> Run:
        """Show what was committed since, as the run was opened.

        Datasets handed out before do not change. Where nothing was committed, only the root record is
        read.

        Returns
        -------
        Run
            The run itself.

        Raises
        ------
        StoreError
            As `open_run`; the run shows what it did before.
        """
        if not self._snapshot.is_current():
            self._show(self._reopen())
        return self

    @cached_property
    def layers(self) -> pd.DataFrame:
        """Table of the layers: name (index), kind, description, shape, calls, n, never_called, skipped.

        `n` counts the values of all splits; a layer without any was never called, unless `skipped` says
        why its outputs were not counted; it is "" if none were skipped.
        """
        n = np.zeros(len(self.names), np.uint64)
        for split in self.splits:
            n += self[split]["n"].sum("step").values
        table = pd.DataFrame([asdict(layer) for layer in self._infos], columns=LAYER_FIELDS).set_index("name")
        reasons = self.attributes.get("skipped", {})
        skipped = np.array([reasons.get(name, "") for name in self.names], dtype=object)
        return table.assign(n=n, never_called=(n == 0) & (skipped == ""), skipped=skipped)

    def epochs(self, split: str) -> list[int]:
        """List the epoch labels of a split, ascending; -1 is evaluation before any training."""
        return [int(epoch) for epoch in np.unique(self[split].epoch)]

    def rows(self, split: str, epoch: int | None = None) -> NDArray[np.int64]:
        """Return the row numbers of an epoch [row], for `isel(step=...)`; of all epochs for None.

        Raises
        ------
        SelectionError
            If the split, or the epoch in it, was not recorded.
        """
        labels = self[split].epoch.values
        if epoch is None:
            return np.arange(labels.size)
        if epoch not in labels:
            known = map(str, self.epochs(split))
            raise SelectionError(f"no epoch {epoch!r} in split {split!r}: {nearest(str(epoch), known)}")
        return np.flatnonzero(labels == epoch)

    def select_layers(self, patterns: str | Sequence[str] | None = None) -> list[str]:
        """Select layers by name, in the model's order.

        Parameters
        ----------
        patterns : str or sequence of str, optional
            `fnmatch` patterns on the whole name (`*` crosses dots); `encoder` also means its members
            `encoder:0`, `encoder:hidden`; a leading `!` excludes. Exclusions alone start from all layers.

        Raises
        ------
        SelectionError
            If a pattern matches no layer, or nothing is left.
        """
        wanted = [patterns] if isinstance(patterns, str) else list(patterns or ())
        matched = {pattern: self._match(pattern.removeprefix("!")) for pattern in wanted}
        included = [names for pattern, names in matched.items() if not pattern.startswith("!")]
        excluded = set().union(*(names for pattern, names in matched.items() if pattern.startswith("!")))
        chosen = set().union(*included) if included else set(self.names)
        if self.names and not chosen - excluded:
            raise SelectionError(f"no layer left by {wanted!r} in {self.path}")
        return [name for name in self.names if name in chosen - excluded]

    def _match(self, pattern: str) -> set[str]:
        """Return the layers that a pattern names, at least one."""
        found = {
            name
            for name in self.names
            if name == pattern or fnmatchcase(name, pattern) or fnmatchcase(name.partition(":")[0], pattern)
        }
        if not found:
            raise SelectionError(f"no layer {pattern!r} in {self.path}: {nearest(pattern, self.names)}")
        return found

    def totals(self, split: str) -> xr.DataArray:
        """Return the counts of a whole split [layer, bucket], pooled over its rows and kept."""
        if split not in self._totals:
            self._totals[split] = self[split].counts.sum("step").compute()
        return self._totals[split]

    def values(self, layer: str, split: str, rows: NDArray[np.int64]) -> xr.Dataset | None:
        """Return the raw outputs of a layer in some rows, where every one of them was kept.

        Returns
        -------
        xarray.Dataset or None
            As `raw`, loaded.

        Raises
        ------
        SelectionError
            If the run has no such split or layer.
        """
        chosen = self[split].isel(step=rows)
        raw = self.raw(split) if self.find_layer(layer) == self.head else None
        if raw is None:
            return None
        raw = raw.isel(sample=belong(raw, chosen))
        kept = raw["head"].size == int(chosen.n.sel(layer=layer).sum())
        return raw.compute() if kept else None

    def unit_counts(self, layer: str, split: str, rows: NDArray[np.int64]) -> xr.DataArray | None:
        """Return the counts of a large head in some rows, pooled, where every value was counted by unit.

        Returns
        -------
        xarray.DataArray or None
            Counts [unit, truth, bucket], as `head_counts`, loaded.

        Raises
        ------
        SelectionError
            If the run has no such split or layer.
        """
        chosen = self[split].isel(step=rows)
        found = self.head_counts(split) if self.find_layer(layer) == self.head else None
        if found is None:
            return None
        counts = found[HEAD_COUNTS.name].isel(row=belong(found, chosen)).sum("row").compute()
        whole = int(counts.sum()) == int(chosen["n"].sel(layer=layer).sum())
        return counts.assign_attrs(found.attrs) if whole else None

    def _kept(self, layer: str, split: str, rows: NDArray[np.int64]) -> xr.Dataset | None:
        """Return the outputs of a layer in some rows as values [sample, ...], where all were kept."""
        raw = self.values(layer, split, rows)
        if raw is not None:
            return raw.rename(head="values")
        found, chosen = self.samples(split, layer), self[split].isel(step=rows)
        if found is None:
            return None
        found = found.isel(sample=belong(found, chosen))
        if found["values"].size != int(chosen["n"].sel(layer=layer).sum()):
            return None
        unit_dim = self.attributes.get("head_unit_dim")
        dims = dict(enumerate(found["values"].dims))
        dim = dims.get(unit_dim % len(dims)) if layer == self.head and unit_dim is not None else "sample"
        return (found if dim == "sample" else found.rename({dim: "unit"})).compute()

    def histogram(
        self,
        axis: LinearAxis,
        *,
        layer: str,
        split: str = "train",
        epoch: int | None = None,
        label: int | None = None,
        unit: int | None = None,
    ) -> xr.Dataset:
        """Return one histogram: exact from the outputs where all were kept, else from pooled counts.

        Exact means: of the values as kept, which a `raw_dtype` may have rounded. Of a large head that
        was counted by unit, `unit=u`, `label=c` with `unit=c`, and `label` 0 or 1 of a single unit are
        known, too.

        Parameters
        ----------
        axis : LinearAxis
            The bins wanted.
        layer, split : str
            What was recorded where.
        epoch : int, optional
            One epoch label; all of them by default.
        label : int, optional
            Only samples of this true class (multi-hot: those that have it).
        unit : int, optional
            Only this column of the head's output.

        Returns
        -------
        xarray.Dataset
            As `rebin`, without leading dims.

        Raises
        ------
        SelectionError
            If the run does not hold what is asked for, or does not know it by label and unit.
        """
        rows = self.rows(split, epoch)
        kept = self._kept(layer, split, rows)
        if kept is not None:
            return bin_values(choose_values(kept, label, unit), axis)
        if label is None and unit is None:
            counts = self[split].counts.sel(layer=layer, drop=True).isel(step=rows).sum("step")
            return rebin(counts, axis).compute()
        by_unit = self.unit_counts(layer, split, rows)
        if by_unit is None:
            raise SelectionError(
                f"label and unit need raw outputs, {self.path} has none of layer {layer!r} in {split!r}"
            )
        return rebin(choose_counts(by_unit, label, unit), axis)

    @property
    def gaps(self) -> dict[str, list[list[int]]]:
        """Steps that are missing: those dropped while recording, and those that not every rank has.

        For each split a list of [first, last], ends included.
        """
        merged = (self.attributes.get("ranks") or {}).get("dropped", {})
        recorded = self.attributes.get("gaps", {})
        found = {split: [*recorded.get(split, []), *merged.get(split, [])] for split in SPLITS}
        return {split: gaps for split, gaps in found.items() if gaps}

    def __repr__(self) -> str:
        """Say what was recorded, how much, and what is missing."""
        attributes = self.attributes
        inferred = ", epochs inferred" if attributes.get("epochs") == "inferred" else ""
        lines = [
            f"<actlab.Run {self.path}>",
            f"  {attributes.get('model', 'model')}: {len(self.names)} layers, head {self.head!r}{inferred}",
            *(f"  {split}: {self._summary(split)}" for split in self.splits),
        ]
        if merged := (attributes.get("ranks") or {}).get("merged"):
            lines.append(f"  merged from {len(merged)} ranks")
        if len(attempts := attributes.get("attempts", [])) > 1:
            replaced = "without" if self._snapshot.is_live else "with"
            lines.append(f"  {len(attempts)} attempts, {replaced} the rows that a later one has replaced")
        missing = [f"split {split!r}" for split in SPLITS if split not in self.splits]
        skipped = attributes.get("skipped", {})
        if never := [layer.name for layer in self._infos if layer.calls == 0 and layer.name not in skipped]:
            missing.append(f"layers never called ({', '.join(never)})")
        if skipped:
            missing.append(f"layers not counted ({', '.join(skipped)})")
        missing += [f"dropped steps of {split!r}" for split, gaps in self.gaps.items() if gaps]
        if not attributes.get("closed"):
            missing.append("the end (the run is not closed)")
        return "\n".join([*lines, f"  missing: {'; '.join(missing) or 'nothing'}"])

    def _summary(self, split: str) -> str:
        """Say how much a split holds."""
        epochs, raw, children = self.epochs(split), self.raw(split), self._children(split)
        kept = "the head counted by unit and truth" if HEAD_GROUP in children else "counts only"
        if raw is not None:
            kept = "raw outputs of the head " + ("with labels" if "label" in raw else "without labels")
        kept += ", channels" if CHANNELS_GROUP in children else ""
        if n_sampled := len(self._sampled(split)):
            kept += f", samples of {n_sampled} layer{'s' if n_sampled > 1 else ''}"
        span = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
        n = self[split].sizes["step"]
        return f"{n} row{'s' if n > 1 else ''}, {span}, {kept}"
