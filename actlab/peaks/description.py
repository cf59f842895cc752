"""Twin Peaks: the shape of the head's outputs in one epoch, train beside valid and test."""

from __future__ import annotations

import math
from typing import Any

import xarray as xr

from actlab.axis import LinearAxis
from actlab.errors import AxisError, SelectionError
from actlab.peaks.pooling import NO_PEAKS, Pool, epoch_label, head_layer, n_units, pool_epoch, read
from actlab.peaks.samples import Moments, Sample
from actlab.peaks.shapes import FLOW, distance, fine_axis, modes
from actlab.run import Run
from actlab.stats import symmetric_range

__all__ = ["describe", "head_axis", "measure", "twin_peaks"]


def twin_peaks(
    run: Run, epoch: str | int = "last", *, axis: LinearAxis | None = None, layer: str | None = None
) -> xr.Dataset:
    """Describe the head's outputs of one epoch, split by split.

    The train curve pools the last quarter of the epoch's recorded batches (rounded up), so that it
    shows the network that valid and test see after it; theirs pool all of theirs.

    Parameters
    ----------
    run : Run
        The run.
    epoch : "last", "untrained" or int
        The last trained epoch, evaluation before any training (label -1), or an epoch label.
    axis : LinearAxis, optional
        The bins; by default those of `head_axis`, the same in every epoch.
    layer : str, optional
        By default the head.

    Returns
    -------
    xarray.Dataset
        Dims split (those recorded in the epoch), bin, mode and valley. Shares are of n, the number of
        pooled values.

        - curves [split, bin]: share in each bin; underflow, overflow, nonfinite [split]: the rest;
        - yes, no [split, bin]: the part of `curves` that is YES (the unit of the true class; with one
          unit, samples labelled 1; multi-hot, every 1) and NO (the others); NaN without labels;
        - n_yes, n_no [split]: their numbers, non-finite values included; 0 without labels;
        - yes_position, no_position [split]: means of the YES and NO values; without labels the tallest
          modes above and below the most significant valley, NaN where there is one mode only, or no peaks
          are expected;
        - peak_distance [split]: yes_position - no_position;
        - separation [split]: d' = (mean_yes - mean_no) / sqrt((std_yes^2 + std_no^2) / 2);
        - ashman_d [split]: D = sqrt(2) |m1 - m2| / sqrt(s1^2 + s2^2), above 2 for a clean separation
          (Ashman, Bird and Zepf, Astron. J. 108, 1994): of YES and NO, thus the size of d'; without labels
          of the values below and above the most significant valley, NaN where there is none;
        - overlap [split]: area common to the YES and NO densities, 0 to 1 (the overlapping coefficient of
          Schmid and Schmidt, Comput. Stat. Data Anal. 50, 2006), each smoothed by its Silverman bandwidth,
          so that neither `axis` nor the noise of few values decides it; NaN without labels, as what a
          valley parts has nothing in common;
        - auc [split]: probability that a YES value exceeds a NO value, ties half, of all units together
          (the micro average); auc_bound [split]: its largest error, 0 from raw values;
        - area_ratio [split]: NO to YES, finite values; without labels, the values below the most
          significant valley to those above it;
        - expected_ratio [split]: NO to YES in the labels: C - 1 for C classes, the class balance for one
          unit, the zeros to the ones of multi-hot; without labels C - 1 if the run says that it is of
          classes, else NaN;
        - mode_position, mode_height, mode_prominence [split, mode], valley_position, valley_height,
          valley_significance [split, valley] (NaN-padded) and n_modes [split]: see `modes`; looked for in
          512 bins over the middle 99.8 % of the values, heights as share per bin of `axis`;
        - train_valid_distance []: total variation of the train and the valid curve, 0 to 1, smoothed
          likewise; non-finite shares included.

        Attributes: epoch, layer, source ("raw", exact, or "counts", re-binned), h_min, h_max, n_bins, and
        reading: "two peaks expected", "no peaks expected: ..." (a regression) or "unknown: ...". From
        counts, YES and NO are known of a large head only, which was counted by unit and truth; their mean
        and std are those recorded beside the counts, where each sample has one class; else every value is
        taken for the middle of its bucket, at most 1.6 % from it on the default axis (a bucket without
        end, for its end).

    Raises
    ------
    SelectionError
        If the run has no such epoch or layer, or no head.
    AxisError
        If `axis` is no `LinearAxis`.
    """
    if not isinstance(axis, LinearAxis | None):
        raise AxisError(f"axis must be a LinearAxis, got {axis!r}")
    label = epoch_label(run, epoch)
    layer = head_layer(run, layer)
    axis = head_axis(run, layer) if axis is None else axis
    pools = pool_epoch(run, layer, label)
    found = describe(run, layer, pools, axis)
    found["train_valid_distance"] = math.nan
    if {"train", "valid"} <= pools.keys():
        found["train_valid_distance"] = distance(pools["train"].whole, pools["valid"].whole).value
    return found.assign_attrs(epoch=label, layer=layer)


def head_axis(run: Run, layer: str) -> LinearAxis:
    """Return the default view of a layer: 200 bins over all but 0.1 % of its finite mass on each side.

    One range for the whole run, all splits pooled, so that epochs can be compared.

    Raises
    ------
    SelectionError
        If the run has no such layer, or no rows.
    """
    totals = [run.totals(split).sel(layer=run.find_layer(layer)) for split in run.splits]
    if not totals:
        raise SelectionError(f"no rows in {run.path}")
    return LinearAxis(*symmetric_range(sum(totals[1:], totals[0])), 200)


def describe(run: Run, layer: str, pools: dict[str, Pool], axis: LinearAxis) -> xr.Dataset:
    """Describe the curves of all splits of an epoch, see `twin_peaks`."""
    reading = read(run, layer, pools.values())
    is_of_classes = layer == run.head and run.attributes.get("targets") == "classes"
    ratio = float(n_units(run, layer) - 1) if is_of_classes else math.nan
    parts = []
    for pool in pools.values():
        part = _describe(pool, axis).assign(expected_ratio=ratio)
        if pool.truth is not None:
            part = part.assign(_truth(*pool.truth(None), pool.whole.n, axis))
        elif reading == NO_PEAKS:
            part = part.assign(yes_position=math.nan, no_position=math.nan, area_ratio=math.nan)
        parts.append(part.assign(peak_distance=part["yes_position"] - part["no_position"]))
    found: xr.Dataset = xr.concat(
        parts,
        xr.Variable("split", list(pools)),
        data_vars="all",
        coords="minimal",
        compat="override",
        join="outer",
    )
    source = next(iter(pools.values())).source
    view = {"h_min": axis.h_min, "h_max": axis.h_max, "n_bins": axis.n_bins}
    return found.assign_attrs(source=source, reading=reading, **view)


def measure(yes: Sample, no: Sample) -> dict[str, float]:
    """Measure how far YES and NO are apart, see `twin_peaks`."""
    auc, auc_bound = yes.exceeds(no)
    return {
        "n_yes": yes.n,
        "n_no": no.n,
        "separation": yes.moments.separation(no.moments),
        "overlap": 1 - distance(yes, no, ("underflow", "overflow")).value,
        "auc": auc,
        "auc_bound": auc_bound,
        "area_ratio": no.moments.n / yes.moments.n if yes.moments.n else math.nan,
    }


def _describe(pool: Pool, axis: LinearAxis) -> xr.Dataset:
    """Describe the curve of one split, by its shape alone."""
    view, n = pool.whole.histogram(axis), pool.whole.n
    share = {name: view[name] / n if n else view[name] * math.nan for name in ("counts", *FLOW)}
    nothing = xr.full_like(share["counts"], math.nan)
    return _shape(pool.whole, axis).assign(
        curves=share["counts"],
        underflow=share["underflow"],
        overflow=share["overflow"],
        nonfinite=share["neg_inf"] + share["pos_inf"] + share["nan"],
        n=n,
        yes=nothing,
        no=nothing,
        n_yes=0,
        n_no=0,
        separation=math.nan,
        overlap=math.nan,
        auc=math.nan,
        auc_bound=math.nan,
    )


def _shape(sample: Sample, axis: LinearAxis) -> xr.Dataset:
    """Describe the modes, heights as share per bin of `axis`, and what the most significant valley parts."""
    fine = fine_axis(*sample.middle) or LinearAxis(-1, 1, 1)  # whatever: there are no finite values
    found = modes(sample.histogram(fine)["counts"].values, fine.centers)
    scale = (axis.edges[1] - axis.edges[0]) / (fine.edges[1] - fine.edges[0]) / max(sample.n, 1)
    n_modes = found.sizes["mode"]
    shape = xr.Dataset(
        {
            "n_modes": n_modes,
            "mode_position": found["position"],
            "mode_height": found["height"] * scale,
            "mode_prominence": found["prominence"] * scale,
            "valley_position": found["valley_position"],
            "valley_height": found["valley_height"] * scale,
            "valley_significance": found["significance"],
            **dict.fromkeys(("yes_position", "no_position", "ashman_d", "area_ratio"), math.nan),
        }
    )
    if n_modes < 2:
        return shape
    place = int(found["significance"].values.argmax())  # the valley right of that mode
    is_below = sample.points <= float(found["valley_position"][place])
    no, yes = (Moments.of(sample.points[side], sample.weights[side]) for side in (is_below, ~is_below))
    height = found["height"].values
    return shape.assign(
        yes_position=float(found["position"][place + 1 + int(height[place + 1 : n_modes].argmax())]),
        no_position=float(found["position"][int(height[: place + 1].argmax())]),
        ashman_d=abs(yes.separation(no)),
        area_ratio=no.n / yes.n,
    )


def _truth(yes: Sample, no: Sample, n: int, axis: LinearAxis) -> dict[str, Any]:
    """Describe YES and NO of a labelled split, in the place of what the shape told."""
    measures = measure(yes, no)
    return {
        "yes": yes.histogram(axis)["counts"] / n,
        "no": no.histogram(axis)["counts"] / n,
        "yes_position": yes.moments.mean,
        "no_position": no.moments.mean,
        "ashman_d": abs(measures["separation"]),
        "expected_ratio": no.n / yes.n if yes.n else math.nan,
        **measures,
    }
