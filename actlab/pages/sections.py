"""The sections of a report: what each one says, from what the charts prepared."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.charts.colorful_chart import ColorfulOptions
from actlab.charts.slotted import LayerSlots
from actlab.charts.twin_peaks_chart import TwinPeaksOptions
from actlab.charts.wall_chart import WallOptions
from actlab.findings.finding import ICONS, LEVELS, Verdict
from actlab.pages.formats import NONE, TIMES, amount, lane, number, percent, shape, spans
from actlab.pages.html import Section
from actlab.pages.notes import render_notes
from actlab.pages.sizing import Plan
from actlab.pages.windows import Stray, miscounts, strays
from actlab.recipe import MAX_SIZE, SECTIONS
from actlab.run import Run
from actlab.schema import LOG_PREFIX

__all__ = ["Material", "data_uri", "facts", "listed", "numbers", "provenance"]

_LANE = (1000, 44)  # width and height of a lane's drawing
_MOST_GAPS = 4  # named at the top of the page


@dataclass(frozen=True)
class Material:
    """All that the sections are made of.

    Parameters
    ----------
    run : Run
        The run.
    title, notes : str
        Of the recipe: plain text, and Markdown that may be empty.
    axis : LinearAxis
        Range and bins of all histograms.
    columns : xarray.Dataset
        What `charts.columns` returned: dims layer, column, bin, epoch.
    wall : xarray.Dataset
        What `charts.wall_chart.prepare` returned.
    peaks : xarray.Dataset or None
        What `charts.twin_peaks_chart.prepare` returned; None without a head.
    verdict : Verdict
        What `findings.verdict.check` returned, of the whole run.
    colorful : ColorfulOptions
        Which lines the detail chart starts with.
    twin_peaks : TwinPeaksOptions
        Whether the Twin Peaks start with YES and NO.
    wall_options : WallOptions
        How many tiles stand side by side, and whether they say their kind.
    classes : xarray.Dataset or None
        What `charts.class_chart.prepare` returned.
    plan : Plan, optional
        How many columns and which slots the detail chart has.
    slots : dict of str to LayerSlots
        What `charts.paged.columns_with_slots` returned beside the columns.
    max_size : float
        The page has at most so many megabytes (10^6 bytes).
    sections : tuple of str
        Which of `recipe.SECTIONS` the page has, in its order.
    """

    run: Run
    title: str
    notes: str
    axis: LinearAxis
    columns: xr.Dataset
    wall: xr.Dataset
    peaks: xr.Dataset | None
    verdict: Verdict
    colorful: ColorfulOptions
    twin_peaks: TwinPeaksOptions
    wall_options: WallOptions = field(default_factory=WallOptions)
    classes: xr.Dataset | None = None
    plan: Plan | None = None
    slots: dict[str, LayerSlots] = field(default_factory=dict)
    max_size: float = MAX_SIZE
    sections: tuple[str, ...] = SECTIONS

    @cached_property
    def layers(self) -> pd.DataFrame:
        """The run's table of layers, those of the page only."""
        return self.run.layers.loc[[str(name) for name in self.columns["layer"].values]]

    @property
    def n_rows(self) -> int:
        """Recorded batches of the page."""
        return int(self.columns["n_rows"].sum())

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Numbers of those batches among all training rows [row]."""
        return np.flatnonzero(np.isin(self.run["train"].epoch.values, self.columns["epoch"].values))

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Their `step` [row]."""
        return np.asarray(self.run["train"].step.values[self.rows], np.int64)

    @cached_property
    def strays(self) -> dict[str, list[Stray]]:
        """The batches of each layer with a few values far beyond those around."""
        return {str(name): strays(self, str(name)) for name in self.columns["layer"].values}

    @cached_property
    def miscounts(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """The batch of each column with the most unusual number of values, of each layer."""
        return {str(name): miscounts(self, str(name)) for name in self.columns["layer"].values}

    @property
    def stride(self) -> int:
        """The usual distance from one recorded step to the next."""
        distances, times = np.unique(np.diff(self.steps), return_counts=True)
        return int(distances[times.argmax()]) if distances.size else 1

    @property
    def selected(self) -> str | None:
        """The epochs of the page in words, None for the whole run."""
        epochs = sorted(int(epoch) for epoch in self.columns["epoch"].values)
        return None if epochs == self.run.epochs("train") else spans(epochs)

    @cached_property
    def nonfinite(self) -> NDArray[np.float64]:
        """Share of NaN and infinities [layer], NaN for a layer without values."""
        columns = self.columns
        broken = (columns["nonfinite"] * columns["n_per_batch"] * columns["n_rows"]).sum("column")
        with np.errstate(invalid="ignore"):
            return np.asarray(broken.values / columns["n"].values, np.float64)


def data_uri(png: bytes) -> str:
    """Return a PNG as an address that needs no request."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def listed(values: Any) -> Any:
    """Return an array as nested lists for JSON (a scalar as itself), None where it is not finite."""
    array = np.asarray(values)
    if array.dtype.kind != "f":
        return array.tolist()
    return np.where(np.isfinite(array), array.astype(object), np.array(None)).tolist()


def facts(material: Material) -> Section:
    """Title, what was recorded, and a lane for each logged scalar."""
    columns, run = material.columns, material.run
    per_epoch = np.diff(np.append(columns["epoch_first_row"].values, material.n_rows))
    epochs = f"{per_epoch.size} {TIMES} {amount(int(per_epoch.max()))}" if per_epoch.size else NONE
    if per_epoch.size and np.unique(per_epoch).size > 1:
        epochs = f"{per_epoch.size}, up to {amount(int(per_epoch.max()))} batches each"
    k = int(columns.attrs["batches_per_column"])
    axis = material.axis
    cells = [
        ("Model", str(run.attributes.get("model") or NONE)),
        ("Layers", amount(columns.sizes["layer"])),
        ("Training batches", amount(material.n_rows)),
        (f"Epochs {TIMES} batches", epochs),
        ("Bins", f"{axis.n_bins:,} in [{number(axis.h_min)}, {number(axis.h_max)}]"),
        ("Values counted", amount(float(columns["n"].sum()))),
        ("One column", "one batch" if k == 1 else f"{k:,} batches"),
    ]
    if material.selected is not None:
        cells.insert(2, ("Epochs shown", material.selected))
    broken = int(np.count_nonzero(material.nonfinite > 0))
    if broken:
        cells.append(("NaN or infinite", f"in {broken:,} layer{'s' if broken > 1 else ''}"))
    if (begun := run.attributes.get("attempts", []))[1:]:
        times = f"{len(begun) - 1} times, last " if len(begun) > 2 else ""
        cells.append(("Resumed", f"{times}at batch {begun[-1]:,}"))
    context = {
        "title": material.title,
        "notes": render_notes(material.notes),
        "missing": _missing(run),
        "facts": cells,
        "lanes": _lanes(material),
    }
    return Section("top", "", "facts.html.j2", context)


def _missing(run: Run) -> list[str]:
    """Say what of the training the run does not hold, for the top of the page."""
    said = []
    if not run.attributes.get("closed"):
        said.append("Not closed: the run is still being written, or was cut off, so its end may be missing.")
    if dropped := _dropped(run):
        more = f", and {len(dropped) - _MOST_GAPS:,} more" if len(dropped) > _MOST_GAPS else ""
        said.append(f"Steps that were dropped: {', '.join(dropped[:_MOST_GAPS])}{more}.")
    return said


def _dropped(run: Run) -> list[str]:
    """Name the steps that are missing, by split."""
    return [
        f"{split} {first:,}" if first == last else f"{split} {first:,} to {last:,}"
        for split, gaps in run.gaps.items()
        for first, last in gaps
    ]


def _lanes(material: Material) -> list[dict[str, Any]]:
    """Draw each logged scalar over the training batches: mean of each column."""
    rows = material.run["train"].isel(step=material.rows)
    edges = material.columns["first_row"].values
    lanes = []
    for name in sorted(str(name) for name in rows.data_vars if str(name).startswith(LOG_PREFIX)):
        values = rows[name].values.astype(np.float64)
        finite = np.isfinite(values)
        if not finite.any():
            continue
        sums = np.add.reduceat(np.where(finite, values, 0.0), edges)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums / np.add.reduceat(finite.astype(np.float64), edges)
        ends = _early_end(finite, rows["step"].values)
        lanes.append({"name": name.removeprefix(LOG_PREFIX), **lane(means.tolist(), *_LANE, ends)})
    return lanes


def _early_end(finite: NDArray[np.bool_], steps: NDArray[np.integer]) -> str:
    """Say where a logged scalar ends [row] before the training does.

    A number that was not logged looks like NaN, and many are logged now and then, so it has ended only where
    nothing came for longer than ever before.
    """
    known = np.flatnonzero(finite)
    after = finite.size - 1 - known[-1]
    if known.size == 1:
        return f" in batch {steps[known[0]]:,} alone" if after else ""
    if after <= np.diff(known).max():
        return ""
    return f", no finite number after batch {steps[known[-1]]:,}"


def numbers(material: Material) -> Section:
    """Say in numbers what the pictures show, one row per layer."""
    columns = material.columns
    nonfinite = material.nonfinite
    broken = bool((nonfinite > 0).any())
    worst = _worst(material)
    rows = []
    for index, (name, info) in enumerate(material.layers.iterrows()):
        one = columns.isel(layer=index)
        values = [
            float(one[f"total_{key}"]) for key in ("mean", "std", "min", "max", "zero_share", "out_of_range")
        ]
        if broken:
            values.append(float(nonfinite[index]))
        rows.append(
            {
                "name": name,
                "finding": worst.get(str(name)),
                "kind": info["kind"],
                "shape": shape(info["shape"]),
                "cells": [
                    {"value": repr(value) if np.isfinite(value) else "", "text": form(value)}
                    for value, form in zip(
                        values, (number,) * 4 + (percent,) * (len(values) - 4), strict=True
                    )
                ],
                "n": int(one["n"]),
            }
        )
    context = {"rows": rows, "epochs": material.selected, "broken": broken}
    return Section("numbers", "Numbers", "numbers.html.j2", context)


def _worst(material: Material) -> dict[str, dict[str, Any]]:
    """Return the worst that was found in each layer, and the number of its group in the verdict."""
    groups = [group for group in material.verdict if group.worst != "healthy"]
    found = [(each, place) for place, group in enumerate(groups) for each in group.every]
    worst: dict[str, dict[str, Any]] = {}
    for each, place in sorted(found, key=lambda pair: LEVELS.index(pair[0].level)):
        if each.level == "healthy":
            continue
        rank, icon = LEVELS.index(each.level), ICONS[each.level]
        told = {"rank": rank, "group": place, "level": each.level, "icon": icon, "name": each.name}
        for layer in each.layers:
            worst.setdefault(layer, told)
    return worst


def provenance(
    material: Material, command: str, recipe: str, chosen: str, versions: Mapping[str, str]
) -> Section:
    """Tell what was recorded how, what is missing, and how to make this page again.

    Parameters
    ----------
    material : Material
        What the page is made of.
    command : str
        That draws it.
    recipe, chosen : str
        The recipe as run, and what of it is not a default, as TOML.
    versions : mapping of str to str
        Of what draws the page.
    """
    run = material.run
    attributes = run.attributes
    never = [str(name) for name in run.layers.index[run.layers["never_called"]]]
    digest = hashlib.sha256()
    for split in run.splits:
        digest.update(split.encode())
        digest.update(run[split]["row_crc32c"].values.astype("<u4").tobytes())
        digest.update(run[split]["n"].values.astype("<u8").tobytes())
    recorded = ", ".join(
        f"{name} {version}" for name, version in sorted(attributes.get("versions", {}).items())
    )
    facts = [
        ("Run", run.path),
        ("Run id", str(attributes.get("run_id", NONE))),
        ("Created", str(attributes.get("created", NONE))),
        ("Recorded with", recorded or NONE),
        ("Drawn with", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Rows", ", ".join(f"{split} {run[split].sizes['step']:,}" for split in run.splits)),
        ("Digest of the data", f"sha256 {digest.hexdigest()}"),
        ("Dropped steps", ", ".join(_dropped(run)) or "none"),
        ("Layers never called", ", ".join(never) or "none"),
        (
            "Epochs",
            "inferred from training and evaluation" if attributes.get("epochs") == "inferred" else "as given",
        ),
        ("Recording", "closed" if attributes.get("closed") else "not closed: the end may be missing"),
        *_origin(run),
    ]
    return Section(
        "provenance",
        "Provenance",
        "provenance.html.j2",
        {"facts": facts, "command": command, "recipe": recipe, "chosen": chosen},
    )


def _origin(run: Run) -> list[tuple[str, str]]:
    """Tell of a run that was gone on with, or that began as a branch."""
    facts = []
    if len(attempts := run.attributes.get("attempts", [])) > 1:
        steps = [run[split].indexes["step"] for split in run.splits]
        is_live = all(step.is_monotonic_increasing and step.is_unique for step in steps)
        begun = f"{len(attempts)}, begun after {', '.join(map(str, attempts))} training batches"
        replaced = "left out" if is_live else "shown, too"
        facts.append(("Attempts", f"{begun}; what a later one has replaced is {replaced}"))
    if parent := run.attributes.get("parent"):
        facts.append(
            ("Branch of", f"{parent.get('path')}, after {parent.get('train_step')} training batches")
        )
    return facts
