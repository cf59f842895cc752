"""The sections of a comparison: what each one says of all runs, side by side and on one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import xarray as xr

from actlab.axis import LinearAxis
from actlab.charts.comparison_chart import (
    LESS,
    MORE,
    ComparisonOptions,
    Scale,
    cells,
    scale_of,
    share_png,
    signed_png,
)
from actlab.charts.palette import translucent_palette
from actlab.charts.twin_peaks_chart import LABELS
from actlab.findings.finding import Verdict
from actlab.pages.comparison_figures import comparison_twin_figure
from actlab.pages.formats import NONE, amount, number, percent, rare, spans
from actlab.pages.html import Section
from actlab.pages.notes import render_notes
from actlab.pages.payload import pack_floats
from actlab.pages.sections import data_uri, listed
from actlab.run import Run

__all__ = ["DISTANCES", "Compared", "facts", "many", "numbers", "peaks", "provenance", "reading", "wall"]

_WORTH_SAYING: Final = 0.01  # of the values of a layer
_LEAST: Final = 16  # pixels of a tile, however small the page
DISTANCES: Final = {
    "total_variation": "total variation, from 0, equal, to 1, nothing in common",
    "jensen_shannon": "Jensen-Shannon distance, from 0, equal, to 1, nothing in common",
    "wasserstein": "Wasserstein distance, in units of the value",
    "kolmogorov_smirnov": "Kolmogorov-Smirnov distance, from 0, equal, to 1",
}
"""The distances in words."""


@dataclass(frozen=True)
class Compared:
    """All that the sections are made of.

    Parameters
    ----------
    runs : dict of str to Run
        By name; the first one is what the others are compared with.
    title, notes : str
        Of the recipe: plain text, and Markdown that may be empty.
    axis : LinearAxis
        Range and bins of all histograms.
    columns, epochs : xarray.Dataset
        What `charts.comparison_chart.prepare` returned.
    peaks : dict of str to xarray.Dataset
        What `charts.twin_peaks_chart.prepare` returned of each run on one axis; empty without heads.
    verdicts : dict of str to Verdict
        What `findings.verdict.check` returned of each run; empty on a page without them.
    options : ComparisonOptions
        Sizes, and how the layers are sorted.
    room : float
        Which part of what they would need pictures and curves may take, so that the page fits: from 0 to 1.
    """

    runs: dict[str, Run]
    title: str
    notes: str
    axis: LinearAxis
    columns: xr.Dataset
    epochs: xr.Dataset
    peaks: dict[str, xr.Dataset]
    verdicts: dict[str, Verdict]
    options: ComparisonOptions
    room: float = 1.0

    @cached_property
    def distance(self) -> xr.DataArray:
        """How far each run is from the first [run, layer]: the mean over the epochs."""
        return self.epochs[self.options.distance].mean("epoch")

    @cached_property
    def layers(self) -> list[str]:
        """The layers that all runs have, in the order of the page."""
        names = [str(name) for name in self.epochs["layer"].values]
        if self.options.sort == "model":
            return names
        farthest = self.distance.max("run").fillna(-1).values
        return [names[place] for place in np.argsort(-farthest, kind="stable")]

    @cached_property
    def lost(self) -> xr.Dataset:
        """Shares of all values of a run [run, layer] that no picture shows: out_of_range and nonfinite."""
        n = self.epochs["n"]
        lost = (self.epochs[["out_of_range", "nonfinite"]] * n).sum("epoch")
        return lost / n.sum("epoch").where(lambda each: each > 0)

    @cached_property
    def scale(self) -> Scale:
        """The scale of all pictures."""
        return scale_of(self.columns, self.options)

    @property
    def unit(self) -> str:
        """What a column of a picture is made of: "batch" or "epoch"."""
        return str(self.columns.attrs["unit"])

    @property
    def names(self) -> list[str]:
        """The names of the runs."""
        return list(self.runs)

    @property
    def others(self) -> list[str]:
        """The names of all runs but the first."""
        return self.names[1:]

    @cached_property
    def view(self) -> dict[str, Any]:
        """What the sections with pictures say of them: range, zero line, scales, distance."""
        axis, scale = self.axis, self.scale
        return {
            "names": self.names,
            "zero": f"{axis.h_max / (axis.h_max - axis.h_min):.2%}" if axis.h_min < 0 < axis.h_max else None,
            "range": (number(axis.h_min), number(axis.h_max)),
            "across": max(3, len(self.names)),  # pictures in a row: with two runs also what differs
            "columns": "epochs" if self.unit == "epoch" else "batches",
            "gradient": ", ".join(translucent_palette(scale.low, scale.high, scale.one, 18)),
            "colors": (LESS, MORE),
            "distance": DISTANCES[self.options.distance],
            "ticks": _ticks(scale),
            **{name: rare(value) for name, value in scale._asdict().items()},
        }

    def some(self, epochs: list[int]) -> list[int]:
        """Return the epochs that the page has room for, evenly spread, the first and the last among them."""
        most = max(2, math.ceil(self.room * len(epochs)))
        if most >= len(epochs):
            return epochs
        return [epochs[place] for place in np.linspace(0, len(epochs) - 1, most).round().astype(int)]

    def kind(self, layer: str) -> str:
        """Return the kind of a layer, in the first run."""
        return str(next(iter(self.runs.values())).layers.loc[layer, "kind"])

    def losses(self, layer: str) -> list[str]:
        """Say of each run what its pictures of a layer do not show; empty where that is little."""
        one = self.lost.sel(layer=layer)
        return [
            _lost(float(outside), float(nonfinite))
            for outside, nonfinite in zip(one["out_of_range"].values, one["nonfinite"].values, strict=True)
        ]

    def far(self, layer: str) -> list[str]:
        """Say how far each run but the first is from it in a layer."""
        return [number(float(f"{value:.2g}")) for value in self.distance.sel(layer=layer).values[1:]]


def _lost(outside: float, nonfinite: float) -> str:
    """Say which values are not drawn, from one percent out of range, or one infinite or NaN, on."""
    said = [f"out of range {percent(outside)}"] if outside >= _WORTH_SAYING else []
    return ", ".join([*said, f"NaN or infinite {percent(nonfinite)}"] if nonfinite > 0 else said)


def _ticks(scale: Scale) -> list[dict[str, str]]:
    """Return the ticks of the colour bar: what is written where."""
    span = math.log10(scale.high / scale.low)
    powers = range(math.ceil(math.log10(scale.low)), math.floor(math.log10(scale.high)) + 1)
    return [
        {"at": f"{100 * math.log10(10.0**power / scale.low) / span:.1f}%", "text": rare(10.0**power)}
        for power in powers
        if power % 2 == 0
    ]


def many(count: int, one: str) -> str:
    """Write how many: ``1 batch``, ``20 batches``."""
    return f"{count:,} {one}{('es' if one == 'batch' else 's') if count != 1 else ''}"


def facts(compared: Compared) -> Section:
    """Title, what each run recorded, and what single ones lack."""
    rows = []
    for name, run in compared.runs.items():
        train = run["train"]
        losses = [str(key) for key in train.data_vars if str(key) == "log_loss"]
        last = [float(value) for key in losses for value in train[key].values if np.isfinite(value)][-1:]
        rows.append(
            {
                "name": name,
                "lacks": _lacks(compared, name, run),
                "cells": [
                    str(run.attributes.get("model") or NONE),
                    amount(len(run.names)),
                    f"{many(len(run.epochs('train')), 'epoch')}, {many(train.sizes['step'], 'batch')}",
                    number(last[0]) if last else NONE,
                ],
            }
        )
    axis, n_columns = compared.axis, compared.columns.sizes["step"]
    context = {
        "title": compared.title,
        "notes": render_notes(compared.notes),
        "rows": rows,
        "layers": amount(len(compared.layers)),
        "epochs": spans(sorted(int(epoch) for epoch in compared.epochs["epoch"].values)),
        "columns": f"{n_columns:,} of {many(int(compared.columns.attrs['k']), compared.unit)} each",
        "bins": f"{axis.n_bins:,} in [{number(axis.h_min)}, {number(axis.h_max)}]",
        "differ": any(data.attrs["missing"] != "nothing" for data in (compared.epochs, compared.columns)),
        "by_epoch": compared.unit == "epoch",
    }
    return Section("top", "", "compare_top.html.j2", context)


def _lacks(compared: Compared, name: str, run: Run) -> str:
    """Say what a run lacks of what others have, and how its recording was cut up."""
    said = [each for data in (compared.epochs, compared.columns) for each in data.attrs["lacks"][name]]
    if begun := run.attributes.get("attempts", [])[1:]:
        said.append(f"was resumed after {', '.join(f'{each:,}' for each in begun)} training batches")
    if dropped := _dropped(run):
        said.append(f"has {many(dropped, 'step')} of training dropped")
    if not run.attributes.get("closed"):
        said.append("is not closed: the end may be missing")
    return "; ".join(dict.fromkeys(said))


def _dropped(run: Run) -> int:
    """Return how many training steps were dropped, of those that a run with a stride would have recorded."""
    steps = run["train"]["step"].values
    stride, first = int(np.gcd.reduce(np.diff(steps))) or 1, int(steps[0])
    return sum(
        (end - first) // stride - (begin - 1 - first) // stride for begin, end in run.gaps.get("train", [])
    )


def wall(compared: Compared) -> Section:
    """Every layer of every run as a tile, beside what differs from the first run."""
    options, scale = compared.options, compared.scale
    side = math.sqrt(compared.room)
    size = max(_LEAST, round(side * options.tile_width)), max(_LEAST, round(side * options.tile_height))
    cards = []
    for index, layer in enumerate(compared.layers):
        shown, far = cells(compared.columns, layer, size), compared.far(layer)
        lost = compared.losses(layer)
        shares = [
            {
                "src": data_uri(share_png(values, scale)),
                "alt": f"{layer} in {name}" + (f", {said}" if said else ""),
                "run": place,
                "name": name,
                "lost": said,
            }
            for place, (name, values, said) in enumerate(zip(compared.names, shown.shares, lost, strict=True))
        ]
        apart = [
            {
                "src": data_uri(signed_png(values, scale)),
                "alt": f"{layer}: {name} minus {compared.names[0]}, distance {distance}",
                "far": distance,
            }
            for name, values, distance in zip(compared.others, shown.differences, far, strict=True)
        ]
        kind = compared.kind(layer)
        cards.append({"index": index, "name": layer, "kind": kind, "shares": shares, "apart": apart})
    kinds = dict.fromkeys(card["kind"] for card in cards)
    context = compared.view | {
        "cards": cards,
        "kinds": list(kinds) if len(kinds) > 1 else [],
        "sorted": options.sort == "distance",
    }
    return Section("layers", "Layers", "compare_wall.html.j2", context)


def peaks(compared: Compared) -> Section | None:
    """Show the Twin Peaks of all runs over each other, where all have a head and an epoch in common."""
    found = compared.peaks
    known = [set(data["epoch"].values.tolist()) for data in found.values()]
    common = sorted(set.intersection(*known)) if known else []
    epochs = compared.some(common)
    if not epochs:
        return None
    shared = set.intersection(*(set(data["split"].values.tolist()) for data in found.values()))
    splits = [split for split in ("valid", "train", "test") if split in shared][:2]
    stacked = np.stack(
        [
            data["curves"].sel(epoch=epochs, split=splits).transpose("epoch", "split", "bin").values
            for data in found.values()
        ]
    )
    one = next(iter(found.values()))
    reference = splits[0]
    h_min, h_max = (number(one.attrs[name]) for name in ("h_min", "h_max"))
    data = {
        "epochs": epochs,
        "splits": splits,
        "runs": compared.names,
        "bins": listed(one["bin"]),
        "separation": [
            listed(each["separation"].sel(epoch=epochs, split=reference)) for each in found.values()
        ],
    }
    context = {
        "names": compared.names,
        "layers": [str(each.attrs["layer"]) for each in found.values()],
        "splits": [LABELS[split] for split in splits],
        "epochs": epochs,
        "thinned": spans(epochs) if len(epochs) < len(common) else "",
        "view": f"range [{h_min}, {h_max}], {one.attrs['n_bins']} bins",
    }
    frame = comparison_twin_figure(len(found), splits, one.attrs["h_min"], one.attrs["h_max"])
    return Section(
        "compare_peaks",
        "Twin Peaks",
        "compare_peaks.html.j2",
        context,
        data,
        (pack_floats(stacked),),
        {"compare_twin": frame},
    )


def reading(compared: Compared) -> Section:
    """How to read a comparison."""
    context = {"first": compared.names[0], "distance": DISTANCES[compared.options.distance]}
    return Section("reading", "How to read", "compare_reading.html.j2", context)


def numbers(compared: Compared) -> Section:
    """Say in numbers what the pictures show, one row per layer."""
    last = compared.epochs.isel(epoch=-1)
    rows = []
    for layer in compared.layers:
        far = compared.distance.sel(layer=layer).values[1:]
        one = last.sel(layer=layer)
        values = [*far, *(float(value) for name in ("mean", "std") for value in one[name].values)]
        rows.append(
            {
                "name": layer,
                "kind": compared.kind(layer),
                "cells": [
                    {"value": repr(float(value)) if np.isfinite(value) else "", "text": number(float(value))}
                    for value in values
                ],
            }
        )
    titles = [f"distance, {name}" for name in compared.others]
    titles += [f"{what}, {name}" for what in ("mean", "std") for name in compared.names]
    context = {"rows": rows, "titles": titles, "epoch": int(last["epoch"])}
    return Section("numbers", "Numbers", "compare_numbers.html.j2", context)


def provenance(compared: Compared, texts: tuple[str, ...], versions: Mapping[str, str]) -> Section:
    """Tell which runs these are, and how to make this page again: command, whole recipe, what was chosen."""
    facts: list[tuple[str, Any]] = [
        ("Drawn with", ", ".join(f"{name} {each}" for name, each in versions.items()))
    ]
    for name, run in compared.runs.items():
        rows = ", ".join(f"{split} {run[split].sizes['step']:,}" for split in run.splits)
        facts.append((name, f"{run.path}, run id {run.attributes.get('run_id', NONE)}, rows: {rows}"))
    context = {"facts": facts, **dict(zip(("command", "recipe", "chosen"), texts, strict=True))}
    return Section("provenance", "Provenance", "provenance.html.j2", context)
