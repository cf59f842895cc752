"""YES and NO of every class by itself: the outputs of its unit, for its samples and for the others."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import xarray as xr

from actlab.errors import SelectionError
from actlab.peaks.description import measure
from actlab.peaks.pooling import TWO_PEAKS, Pool, epoch_label, head_layer, n_units, pool_epoch, read
from actlab.peaks.samples import Sample
from actlab.run import Run
from actlab.schema import MOST_UNITS

__all__ = ["class_peaks"]

_NOTHING: Final = Sample.of_values(np.empty(0))


def class_peaks(run: Run, epoch: str | int = "last", *, layer: str | None = None) -> xr.Dataset:
    """Tell YES from NO for each class: the values of its unit, one against the rest.

    YES are the outputs of the class's unit for samples of the class, NO those for all others; multi-hot,
    for samples that have the label, and have it not. One unit tells two classes apart: there is one row,
    label 1, with the samples labelled 1 as YES and those labelled 0 as NO. The rows of an epoch are
    those of `twin_peaks`.

    Parameters
    ----------
    run : Run
        The run.
    epoch : "last", "untrained" or int
        The last trained epoch, evaluation before any training (label -1), or an epoch label.
    layer : str, optional
        By default the head.

    Returns
    -------
    xarray.Dataset
        Dims split (those recorded in the epoch) and label, the number of the unit; NaN, and n_yes and n_no
        0, where nothing is known. All [split, label]:

        - yes_mean, yes_std, no_mean, no_std: of the finite values, ddof 0, in units of the value;
        - n_yes, n_no: numbers of values, non-finite ones included;
        - separation, overlap, auc (one against the rest), auc_bound, area_ratio: as in `twin_peaks`;
        - expected_ratio: NO to YES in the labels of all units together: C - 1 for C classes, the class
          balance for one unit, zeros to ones for multi-hot labels. A class with a higher `area_ratio` is
          rarer than the average one.

        Attributes: epoch, layer, source and reading as in `twin_peaks`, and note: "", or why there is but
        one label, -1, for all classes: a head of more than 128 units is counted with all of them together.

    Raises
    ------
    SelectionError
        If the run has no such epoch or layer, no head, or neither keeps nor counts its outputs by label in
        that epoch.
    """
    label = epoch_label(run, epoch)
    layer = head_layer(run, layer)
    pools = pool_epoch(run, layer, label)
    reading = read(run, layer, pools.values())
    if not any(pool.truth for pool in pools.values()):
        why = "labels or outputs of the head were not kept" if reading == TWO_PEAKS else reading
        raise SelectionError(f"no YES and NO of layer {layer!r} in epoch {label} of {run.path}: {why}")
    units = max(pool.units for pool in pools.values())
    columns: list[int | None] = [*range(units)] or [None]
    rows = [_each_class(pool, columns) for pool in pools.values()]
    together = f"its {n_units(run, layer)} units were counted together, as they are more than {MOST_UNITS}"
    return xr.Dataset(
        {name: (("split", "label"), [[each[name] for each in row] for row in rows]) for name in rows[0][0]},
        {"split": list(pools), "label": {0: [-1], 1: [1]}.get(units, columns)},
        {
            "epoch": label,
            "layer": layer,
            "source": next(iter(pools.values())).source,
            "reading": reading,
            "note": "" if units else f"one label, -1, for all classes of the head: {together}",
        },
    )


def _each_class(pool: Pool, columns: list[int | None]) -> list[dict[str, float]]:
    """Describe YES and NO of each unit of a split, or of all of them for None."""
    truth = pool.truth or (lambda _: (_NOTHING, _NOTHING))
    every_yes, every_no = truth(None)
    ratio = every_no.n / every_yes.n if every_yes.n else math.nan
    found = []
    for unit in columns:
        yes, no = truth(unit) if unit is None or unit < pool.units else (_NOTHING, _NOTHING)
        moments = {
            "yes_mean": yes.moments.mean,
            "yes_std": yes.moments.std,
            "no_mean": no.moments.mean,
            "no_std": no.moments.std,
        }
        found.append(moments | measure(yes, no) | {"expected_ratio": ratio})
    return found
