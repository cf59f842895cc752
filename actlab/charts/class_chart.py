"""YES and NO of each class by itself: small multiples of the head, by unit and by label, on one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from actlab.axis import LinearAxis
from actlab.charts.limits import percent
from actlab.charts.look import asked
from actlab.errors import SelectionError, nearest_number
from actlab.peaks.description import head_axis, measure
from actlab.peaks.pooling import head_layer, marks_of, pool_epoch
from actlab.peaks.samples import Sample
from actlab.run import Run
from actlab.steps.merging import last_quarter

__all__ = ["ClassOptions", "hidden", "prepare"]

_MOST_CLASSES: Final = 40
_MOST_PANELS: Final = 1000  # classes times epochs; else the last epoch only
_PREFERRED: Final = ("valid", "test", "train")
_Pair = tuple[Sample, Sample]


class ClassOptions(BaseModel):
    """What the small multiples of the classes show.

    Parameters
    ----------
    classes : list of int, optional
        Numbers of the classes; by default all, of more than 40 those whose YES and NO are least apart.
    names : list of str, optional
        What the classes are called, class 0 first.
    by : {"unit", "label"}
        What a panel holds at first: the outputs of one unit, or all outputs for the samples of one class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: list[Annotated[int, Field(ge=0)]] | None = None
    names: list[str] | None = None
    by: Literal["unit", "label"] = "unit"


class _Epoch(NamedTuple):
    """The head in one epoch: YES and NO of each class, by unit and, where it is known, by label."""

    split: str
    by_unit: list[_Pair]
    by_label: list[_Pair]


def prepare(
    run: Run,
    options: ClassOptions | None = None,
    *,
    epochs: Sequence[int] | None = None,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int | None = None,
) -> xr.Dataset | None:
    """Part the outputs of the head by class, unit and label, epoch by epoch.

    Parameters
    ----------
    run : Run
        The recorded training.
    options : ClassOptions, optional
        The defaults if None.
    epochs : sequence of int, optional
        Epoch labels, -1 for untrained; all recorded in any split by default.
    h_min, h_max : float, optional
        Range of the histograms; by default the head's own.
    n_bins : int, optional
        Number of bins; by default as many as the smallest class can fill.

    Returns
    -------
    xarray.Dataset or None
        None where the classes are not known: no head or labels, a regression, or a head so large that its
        units were counted together. Else, of the validation, or what is recorded instead of it:

        - share [by, epoch, label, truth, bin]: float64, share of the values of that kind; by is "unit" (YES:
          the unit's outputs for samples of its class, NO: for all others) and, where outputs were kept,
          "label" (for samples of the class: YES the output of its unit, NO those of the others); truth is
          "yes" and "no"; NaN without values;
        - n [by, epoch, label, truth]: numbers of values;
        - separation, overlap, auc [epoch, label]: of the unit, as in `peaks.class_peaks`;
        - split [epoch].

        Coordinate name [label], what a class is called, its number first. Attributes layer, h_min, h_max,
        n_bins, shown (the view to begin with) and note, "" or what is left out.

    Raises
    ------
    SelectionError
        If there is no such class.
    AxisError
        If the range is empty or too fine.
    """
    chosen = options or ClassOptions()
    if run.head is None:
        return None
    layer = head_layer(run, None)
    recorded = sorted(set().union(*(run.epochs(split) for split in run.splits)))
    wanted = [epoch for epoch in recorded if epochs is None or epoch in epochs]
    last = _read(run, layer, wanted[-1]) if wanted else None
    if last is None:
        return None
    labels, note = _choose(run, last, chosen)
    if len(labels) * len(wanted) > _MOST_PANELS:
        wanted, note = wanted[-1:], f"{note}; the last epoch only".removeprefix("; ")
    axis = asked(_axis(run, layer, last), h_min, h_max, n_bins)
    parts = []
    for epoch in wanted:
        found = last if epoch == wanted[-1] else _read(run, layer, epoch)
        if found is not None:
            parts.append(_part(found, labels, axis, ["unit", "label"] if last.by_label else ["unit"], epoch))
    view = {"h_min": axis.h_min, "h_max": axis.h_max, "n_bins": axis.n_bins}
    names = [" ".join([str(label), *(chosen.names or ())[label : label + 1]]) for label in labels]
    shown = chosen.by if last.by_label else "unit"
    data = xr.concat(parts, "epoch").assign_coords(name=("label", names))
    return data.assign_attrs(layer=layer, shown=shown, note=note, **view)


def hidden(data: xr.Dataset) -> list[str]:
    """Say what share of a curve lies in no bin, at most; nothing where all of them are shown.

    Parameters
    ----------
    data : xarray.Dataset
        What `prepare` returned, or a part of it.
    """
    share = float((1 - data["share"].sum("bin")).where(data["n"] > 0).max())
    return [f"up to {percent(share)} of a curve out of range, infinite or NaN"] if share > 1e-9 else []


def _read(run: Run, layer: str, epoch: int) -> _Epoch | None:
    """Part the outputs of an epoch; None where labels do not tell them."""
    split = next(split for split in _PREFERRED if split in run.splits and epoch in run.epochs(split))
    pool = pool_epoch(run, layer, epoch)[split]
    if pool.truth is None or pool.units == 0:
        return None
    by_unit = [pool.truth(unit) for unit in range(pool.units)]
    rows = run.rows(split, epoch)
    raw = run.values(layer, split, last_quarter(rows) if split == "train" else rows)
    if pool.source != "raw" or raw is None or pool.units == 1:
        return _Epoch(split, by_unit, [])
    head = raw["head"].values
    yes, no = marks_of(raw["label"].values, pool.units, is_float=False)
    by_label = [(pair[0], _others(head, yes[:, unit], no)) for unit, pair in enumerate(by_unit)]
    return _Epoch(split, by_unit, by_label)


def _others(head: NDArray[np.floating], samples: NDArray[np.bool_], no: NDArray[np.bool_]) -> Sample:
    """Return the outputs [sample, unit] for some samples of the units that are NO for them."""
    return Sample.of_values(head[samples][no[samples]])


def _choose(run: Run, last: _Epoch, options: ClassOptions) -> tuple[list[int], str]:
    """Return which classes to show, and what is left out."""
    n = len(last.by_unit)
    for label in options.classes or ():
        if label >= n:
            raise SelectionError(f"no class {label} in {run.path}: {nearest_number(label, range(n))}")
    if options.classes is not None:
        return list(options.classes), ""
    if n <= _MOST_CLASSES:
        return list(range(n)), ""
    apart = [abs(yes.moments.separation(no.moments)) for yes, no in last.by_unit]
    least = np.argsort(np.nan_to_num(apart, nan=np.inf), kind="stable")[:_MOST_CLASSES]
    return sorted(least.tolist()), f"of {n} classes the {_MOST_CLASSES} whose YES and NO are least apart"


def _axis(run: Run, layer: str, last: _Epoch) -> LinearAxis:
    """Return the head's own range in so many bins as the smallest class can fill; see `readable_axis`."""
    axis = head_axis(run, layer)
    fewest = min((yes.n for yes, _ in last.by_unit if yes.n), default=0)
    return LinearAxis(axis.h_min, axis.h_max, min(max(round(2 * math.sqrt(fewest)), 24), 60))


def _part(found: _Epoch, labels: list[int], axis: LinearAxis, views: list[str], epoch: int) -> xr.Dataset:
    """Count YES and NO of some classes in one epoch, and measure how far they are apart."""
    pairs = {"unit": found.by_unit, "label": found.by_label}
    share = np.full((len(views), len(labels), 2, axis.n_bins), np.nan)
    n = np.zeros((len(views), len(labels), 2), np.int64)
    for view, name in enumerate(views):
        for place, label in enumerate(labels if pairs[name] else ()):
            for truth, sample in enumerate(pairs[name][label]):
                n[view, place, truth] = sample.n
                if sample.n:
                    share[view, place, truth] = sample.histogram(axis)["counts"].values / sample.n
    measured = [measure(*found.by_unit[label]) for label in labels]
    return xr.Dataset(
        {
            "share": (("by", "label", "truth", "bin"), share),
            "n": (("by", "label", "truth"), n),
            **{
                name: ("label", [each[name] for each in measured])
                for name in ("separation", "overlap", "auc")
            },
            "split": found.split,
        },
        {"by": views, "label": labels, "truth": ["yes", "no"], "bin": axis.centers, "epoch": epoch},
    )
