"""The section of the Twin Peaks: the head's values over the epochs, and how YES parts from NO."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.charts.limits import epoch_words
from actlab.charts.paged import slot_axis
from actlab.charts.palette import SETS
from actlab.pages.figures import twin_figure
from actlab.pages.formats import number, percent, polyline
from actlab.pages.html import Section
from actlab.pages.payload import pack_floats
from actlab.pages.sections import Material, listed
from actlab.pages.sizing import MOST_BINS
from actlab.peaks.pooling import NO_PEAKS, n_units, pool_epoch
from actlab.rebinning import Slots, octave
from actlab.run import Run

__all__ = ["peaks"]

_NAMES: Final = {"train": "train, last quarter", "valid": "validation", "test": "test"}
_UNLABELLED: Final = "no labels: YES and NO are not known"
_REGRESSION: Final = "a regression: there is no YES and NO"
_PARTS: Final = ("curves", "yes", "no")
_DEPTH: Final = 10
_MANY_CURVES: Final = 200
_AXES: Final = 40  # pixels of a figure that its frame does not take
_TREND: Final = (240, 84)  # width and height of a trend's drawing
_STILL: Final = (640, 230)  # width and height of the drawing on paper


def peaks(material: Material) -> Section | None:
    """Show the Twin Peaks of the head over the epochs, if there is a head."""
    data = material.peaks
    if data is None:
        return None
    labels = [int(epoch) for epoch in data["epoch"].values]
    splits = [str(split) for split in data["split"].values]
    reference = "valid" if "valid" in splits else splits[0]
    truth = bool(data["yes"].notnull().any())
    known = _known(material.run, data, reference)
    h_min, h_max, n_bins = (data.attrs[name] for name in ("h_min", "h_max", "n_bins"))
    slots, first, counts = _counts(material.run, data)
    shown = {
        "epochs": labels,
        "splits": splits,
        "names": _NAMES,
        "colors": SETS,
        "reference": reference,
        "labels": truth,
        "unknown": _REGRESSION if data.attrs.get("reading") == NO_PEAKS else _UNLABELLED,
        "range": [h_min, h_max, n_bins],
        "mostBins": MOST_BINS,
        "n": _by_epoch(data["n"].fillna(0)),
        "known": [
            data[name].notnull().any("bin").transpose("epoch", "split").values.tolist() for name in _PARTS
        ],
        "bits": slots.bits,
        "floor": slots.floor,
        "exponents": [slots.axis.min_exponent, slots.axis.max_exponent],
        "first": first,
        "slots": counts.shape[-1],
        "yes": _by_epoch(data["yes_position"].where(known)),
        "no": _by_epoch(data["no_position"].where(known)),
        "separation": _by_epoch(data["separation"]),
        "overlap": _by_epoch(data["overlap"]),
        "distance": listed(data["train_valid_distance"]),
    }
    context = {
        "layer": str(data.attrs["layer"]),
        "raw": data.attrs["source"] == "raw",
        "view": f"[{number(h_min)}, {number(h_max)}], {n_bins:,} bin{'s' if n_bins != 1 else ''}",
        "most_bins": MOST_BINS,
        "names": {split: _NAMES[split] for split in splits},
        "labels": truth,
        "truth": material.twin_peaks.show_truth,
        "last": len(labels) - 1,
        "trends": _trends(data.assign(peak_distance=data["peak_distance"].where(known)), reference, truth),
        "size": _TREND,
        "still": _still(data.isel(epoch=-1), known.isel(epoch=-1), reference),
        "height": material.twin_peaks.height + _AXES,
    }
    frames = {"twin": twin_figure(h_min, h_max)}
    frames["twin"].height = context["height"]
    return Section("peaks", "Twin Peaks", "peaks.html.j2", context, shown, (pack_floats(counts),), frames)


def _counts(run: Run, data: xr.Dataset) -> tuple[Slots, int, NDArray[np.float64]]:
    """Return the slots of the head's own size, the first one in use, and the counts behind the curves.

    The counts [part, epoch and split, slot] are not coded as those of the detail chart: a colour hides a
    step of the code, a curve shows it.
    """
    layer, epochs = str(data.attrs["layer"]), [int(epoch) for epoch in data["epoch"].values]
    splits = [str(split) for split in data["split"].values]
    total = np.sum([run.totals(split).sel(layer=layer).values for split in run.splits], axis=0)
    is_long = len(epochs) * len(splits) > _MANY_CURVES
    axis, depth = (run.axis, _DEPTH - 2) if is_long else (slot_axis(run, layer), _DEPTH)
    slots = Slots(axis, axis.mantissa_bits, min(octave(total, run.axis) - depth, axis.max_exponent - 1))
    counts = np.zeros((len(_PARTS), len(epochs) * len(splits), slots.starts.size))
    for index, epoch in enumerate(epochs):
        for split, pool in pool_epoch(run, layer, epoch).items():
            samples = [pool.whole, *(pool.truth(None) if pool.truth is not None else ())]
            for part, sample in enumerate(samples):
                slot = slots.slot_of[axis.index(sample.points)]
                place = index * len(splits) + splits.index(split)
                counts[part, place] = np.bincount(slot, sample.weights, slots.starts.size)
    filled = np.flatnonzero(counts.any(axis=(0, 1)))
    first, stop = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (slots.zero, slots.zero + 1)
    return slots, first, np.rint(counts[..., first:stop])


def _still(last: xr.Dataset, known: xr.DataArray, reference: str) -> dict[str, Any]:
    """Draw the curves of the last epoch, for paper and for who runs no scripts."""
    width, height = _STILL
    h_min, h_max, n_bins = (last.attrs[name] for name in ("h_min", "h_max", "n_bins"))
    shares = {str(split): last["curves"].sel(split=split).values for split in last["split"].values}
    top = max(float(np.nanmax(one, initial=0.0)) for one in shares.values()) or 1.0

    def lines(values: NDArray[np.float64]) -> list[str]:
        return polyline(values.tolist(), 0.0, top, width * (1 - 1 / n_bins), height)

    places = {part: float(last[f"{part}_position"].sel(split=reference)) for part in ("no", "yes")}
    marks = [
        {
            "x": f"{(at - h_min) / (h_max - h_min) * width:.1f}",
            "said": f"{part.upper()} {number(float(f'{at:.3g}'))}",
            "is_left": at == min(places.values()),
        }
        for part, at in places.items()
        if known.sel(split=reference) and h_min <= at <= h_max
    ]
    return {
        "size": _STILL,
        "shift": f"{width / n_bins / 2:.1f}",  # a curve goes through the middles of the bins
        "curves": {split: lines(values) for split, values in shares.items() if np.nansum(values) > 0},
        "truths": [line for part in ("yes", "no") for line in lines(last[part].sel(split=reference).values)],
        "reference": reference,
        "marks": marks,
        "zero": f"{-h_min / (h_max - h_min) * width:.1f}" if h_min < 0 < h_max else None,
        "ends": (number(h_min), number(h_max)),
        "top": percent(top),
        "epoch": epoch_words(int(last["epoch"])),
    }


def _by_epoch(values: xr.DataArray) -> Any:
    """Return numbers [epoch, split] for JSON."""
    return listed(values.transpose("epoch", "split"))


def _known(run: Run, data: xr.Dataset, reference: str) -> xr.DataArray:
    """Say where YES and NO are known [epoch, split]: by labels, else by two modes that stay.

    Modes of a single unit are not YES and NO: they are two kinds of samples. Neither are two modes that
    one epoch of many shows.
    """
    truth = data["yes"].notnull().any("bin")
    if truth.any():
        return truth
    apart = data["peak_distance"].notnull()
    found, recorded = (
        int(values.sel(split=reference).sum()) for values in (apart, data["curves"].notnull().any("bin"))
    )
    return apart & (n_units(run, str(data.attrs["layer"])) > 1 and found >= min(recorded, 2))


def _trends(data: xr.Dataset, reference: str, truth: bool) -> list[dict[str, Any]]:
    """Draw what is known of how far the curves are apart in at least two epochs."""
    name = _NAMES[reference]
    one = data.sel(split=reference)
    trends = (
        ("Distance of the means" if truth else "Distance of the peaks", name, one["peak_distance"], number),
        ("Separation d\N{PRIME}", f"in std, {name}", one["separation"], number),
        ("Train and validation differ by", "", one["train_valid_distance"], percent),
    )
    return [_trend(*trend) for trend in trends if trend[2].notnull().sum() > 1]


def _trend(title: str, note: str, values: xr.DataArray, form: Callable[[float], str]) -> dict[str, Any]:
    """Draw one number over the epochs, zero in view."""
    series = values.values.astype(np.float64)
    low, high = min(float(np.nanmin(series)), 0.0), max(float(np.nanmax(series)), 0.0)
    width, height = _TREND
    step, scale = width / (series.size - 1), height / ((high - low) or 1.0)
    whens = [epoch_words(int(label)) for label in values["epoch"].values]
    return {
        "title": title,
        "note": note,
        "lines": polyline(series.tolist(), low, high, *_TREND),
        "dots": [
            {
                "epoch": index,
                "x": f"{index * step:.1f}",
                "y": f"{height - (value - low) * scale:.1f}",
                "said": f"{whens[index]}: {form(value)}",
            }
            for index, value in enumerate(series.tolist())
            if math.isfinite(value)
        ],
        "low": "0" if abs(low) < 0.02 * high else form(float(f"{low:.3g}")),
        "high": form(float(f"{high:.3g}")),
        "first": whens[0],
        "last": str(values["epoch"].values[-1]),
    }
