"""What one epoch recorded of the head, split by split, and what is known of YES and NO in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.errors import SelectionError, nearest, nearest_number
from actlab.peaks.samples import Moments, Sample
from actlab.run import Run
from actlab.run.selection import UNTRAINED
from actlab.steps.merging import last_quarter
from actlab.store.splits import belong

__all__ = [
    "NO_PEAKS",
    "TWO_PEAKS",
    "Pool",
    "epoch_label",
    "head_layer",
    "marks_of",
    "moments_by_label",
    "n_units",
    "pool_epoch",
    "read",
]

NO_LABEL: Final = -100
TWO_PEAKS: Final = "two peaks expected"
NO_PEAKS: Final = "no peaks expected: float targets, the outputs are the predictions themselves"
UNKNOWN: Final = "unknown: no labels were given"
OTHER_LAYER: Final = "unknown: not the head"

_Truth = tuple[Sample, Sample]


@dataclass(frozen=True)
class Pool:
    """What one split recorded in the rows that an epoch's curve is made of.

    Parameters
    ----------
    source : {"raw", "counts"}
        Whether values are exact.
    whole : Sample
        All of them.
    units : int
        Columns that are known one by one; 0 where none are.
    truth : callable or None
        Returns YES and NO of one unit, or of all for None; None where labels do not tell them.
    """

    source: str
    whole: Sample
    units: int
    truth: Callable[[int | None], _Truth] | None


def head_layer(run: Run, layer: str | None) -> str:
    """Return the layer asked for, by default the head.

    Raises
    ------
    SelectionError
        If there is no such layer, or no head.
    """
    if layer is not None:
        return run.find_layer(layer)
    head: str | None = run.head
    if head is None:
        raise SelectionError(f"{run.path} has no head: name a layer, {nearest('', run.names)}")
    return head


def epoch_label(run: Run, epoch: str | int) -> int:
    """Return the label of "last", "untrained" or a label; it was recorded in some split.

    Raises
    ------
    SelectionError
        If it was not.
    """
    by_split = {split: run.epochs(split) for split in run.splits}
    labels = sorted(set().union(*by_split.values()))
    if not labels:
        raise SelectionError(f"no rows in {run.path}")
    if epoch == "last":
        return by_split.get("train", labels)[-1]
    label = UNTRAINED if epoch == "untrained" else epoch
    if label not in labels:
        known = ["last", *(["untrained"] if UNTRAINED in labels else []), *map(str, labels)]
        is_number = isinstance(epoch, int | np.integer)
        near = nearest_number(int(epoch), labels) if is_number else nearest(str(epoch), known)
        raise SelectionError(f"no epoch {epoch!r} in {run.path}: {near}")
    return int(label)


def pool_epoch(run: Run, layer: str, epoch: int) -> dict[str, Pool]:
    """Collect the values of an epoch by split: raw where all splits kept them, else counts.

    Of train, the last quarter of the rows, rounded up.
    """
    rows = {split: run.rows(split, epoch) for split in run.splits if epoch in run.epochs(split)}
    if "train" in rows:
        rows["train"] = last_quarter(rows["train"])
    raw = {split: run.values(layer, split, chosen) for split, chosen in rows.items()}
    kept = {split: found for split, found in raw.items() if found is not None}
    is_float = run.attributes.get("targets") == "float"
    if len(kept) == len(raw):
        return {split: _raw_pool(found, is_float=is_float) for split, found in kept.items()}
    return {split: _counts_pool(run, layer, split, chosen) for split, chosen in rows.items()}


def read(run: Run, layer: str, pools: Iterable[Pool]) -> str:
    """Say whether YES and NO are to be expected of a layer."""
    if layer != run.head:
        return OTHER_LAYER
    targets = run.attributes.get("targets")
    if targets in ("classes", "multi-hot", "binary") or any(pool.truth for pool in pools):
        return TWO_PEAKS
    return NO_PEAKS if targets == "float" else UNKNOWN


def n_units(run: Run, layer: str) -> int:
    """Return how many units the head has; where nothing says which size counts them, values per sample."""
    sizes = run.layers["shape"][layer]
    dim = run.attributes.get("head_unit_dim")
    return math.prod(sizes[1:]) if dim is None else int(sizes[dim])


def _raw_pool(raw: xr.Dataset, *, is_float: bool) -> Pool:
    """Pool raw outputs of the head [sample, unit]."""
    head = raw["head"].values
    marks = marks_of(raw["label"].values, head.shape[1], is_float=is_float) if "label" in raw else ()

    def truth(unit: int | None) -> _Truth:
        column = slice(None) if unit is None else unit
        yes, no = (Sample.of_values(head[:, column][mark[:, column]]) for mark in marks)
        return yes, no

    return Pool("raw", Sample.of_values(head), head.shape[1], truth if marks else None)


def marks_of(label: NDArray[np.int64], units: int, *, is_float: bool) -> tuple[NDArray[np.bool_], ...]:
    """Say which outputs [sample, unit] are YES and which NO; nothing where the labels tell neither.

    Targets of a regression look like labels where a batch has only zeros and ones: under `is_float`
    every sample must have one.
    """
    if is_float and (label == NO_LABEL).any():
        return ()
    if label.ndim == 2:
        yes, no = label == 1, label == 0
    elif units == 1:
        if (label > 1).any():  # whole numbers to be predicted
            return ()
        yes, no = (label == 1)[:, None], (label == 0)[:, None]
    else:
        yes = np.arange(units) == label[:, None]
        no = ~yes & yes.any(axis=1, keepdims=True)  # a label outside the units (-100) means none
    return (yes, no) if yes.any() or no.any() else ()


def _counts_pool(run: Run, layer: str, split: str, rows: NDArray[np.int64]) -> Pool:
    """Pool the counts of some rows."""
    counts = run[split].counts.sel(layer=layer, drop=True).isel(step=rows).sum("step").compute()
    by_unit = run.unit_counts(layer, split, rows)
    if by_unit is None:
        return Pool("counts", Sample.of_counts(counts), 0, None)
    is_float = run.attributes.get("targets") == "float"
    is_whole = not (is_float and by_unit.sel(truth="unlabelled").any())
    tells = is_whole and by_unit.sel(truth=["yes", "no"]).any()
    units = by_unit.sizes["unit"] if by_unit.attrs["units"] == "each" else 0
    moments = moments_by_label(run, split, rows) if units else None

    def truth(unit: int | None) -> _Truth:
        chosen = by_unit.sum("unit") if unit is None else by_unit.isel(unit=unit, drop=True)
        yes, no = (
            _with_moments(Sample.of_counts(chosen.sel(truth=kind, drop=True)), moments, unit, kind)
            for kind in ("yes", "no")
        )
        return yes, no

    return Pool("counts", Sample.of_counts(counts), units, truth if tells else None)


def moments_by_label(run: Run, split: str, rows: NDArray[np.int64]) -> xr.Dataset | None:
    """Return the moments of the head's outputs by label in some rows, where an output has one label.

    Parameters
    ----------
    run : Run
        The run.
    split : str
        One of its splits.
    rows : numpy.ndarray
        Numbers of rows [row].

    Returns
    -------
    xarray.Dataset or None
        As `Run.label_moments`, loaded.
    """
    found = run.label_moments(split)
    if found is None or run.attributes.get("targets") not in ("classes", "binary"):
        return None
    return found.isel(row=belong(found, run[split].isel(step=rows))).compute()


def _with_moments(sample: Sample, moments: xr.Dataset | None, unit: int | None, kind: str) -> Sample:
    """Give YES or NO of counts the moments recorded of the very same values, if they were."""
    if moments is None:
        return sample
    units = moments.sizes["unit"]
    true_class = np.arange(units) if units > 1 else np.ones(1)
    wanted = (np.arange(moments.sizes["label"])[:, None] == true_class) == (kind == "yes")
    if unit is not None:
        wanted &= np.arange(units) == unit
    parts = (moments[name].values[:, wanted].ravel() for name in ("n", "mean", "std"))
    recorded = Moments.merge(*parts)
    return replace(sample, recorded=recorded) if recorded.n == sample.n == sample.moments.n else sample
