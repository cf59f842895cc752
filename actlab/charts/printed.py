"""The charts as figures for papers: what `prepare` computed, as matplotlib draws it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from actlab.charts import class_panels, limits, wall_chart
from actlab.charts.class_panels import PanelOptions
from actlab.charts.colorful_chart import ColorfulOptions
from actlab.charts.look import log_ticks, positions
from actlab.charts.palette import EPOCH, SETS, ZERO
from actlab.charts.paper import INK, LINE, Scale, Sheet, count_image, fitted
from actlab.charts.twin_peaks_chart import (
    LABELS,
    MARK,
    TwinPeaksOptions,
    caveats,
    reference_split,
    shown_splits,
)
from actlab.charts.wall_chart import USUAL_COLS, WallOptions

__all__ = ["class_figure", "colorful_axes", "colorful_figure", "twin_peaks_figure", "wall_figure"]

_THOUSANDS: Final = FuncFormatter(lambda value, _: f"{value:,.0f}")


def colorful_figure(data: xr.Dataset, options: ColorfulOptions) -> Figure:
    """Draw the colorful dimension of one layer.

    Parameters
    ----------
    data : xarray.Dataset
        What `colorful_chart.prepare` returned, of a single layer.
    options : ColorfulOptions
        What to show, and the size.

    Returns
    -------
    matplotlib.figure.Figure
    """
    one = data.isel(layer=0)
    sheet = Sheet(options.width, options.height, left=60, right=100, bottom=48)
    axes = sheet.place(0, 0, options.width, options.height)
    keys = colorful_axes(axes, one, options)
    axes.set_xlabel("batch" if data.attrs["step_stride"] else "recorded batch", fontsize=11 * LINE)
    axes.set_ylabel("activation value", fontsize=11 * LINE)
    axes.xaxis.set_major_formatter(_THOUSANDS)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=max(options.width // 90, 2)))
    low, high = float(one["low"]), float(one["high"])
    sheet.color_bar((low, high, 1), log_ticks(low, high), "count per batch")
    name, info = str(one["layer"].values), str(one["info"].values)
    title = f"{name}   ({info})" if options.show_layer_info and info else name
    sheet.head(title, limits.caveats(one), keys)
    return sheet.figure


def colorful_axes(axes: Axes, one: xr.Dataset, options: ColorfulOptions) -> list[Line2D]:
    """Draw the colorful dimension into axes, without words.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where.
    one : xarray.Dataset
        One layer of what `colorful_chart.prepare` returned.
    options : ColorfulOptions
        What to show.

    Returns
    -------
    list of matplotlib.lines.Line2D
        What explains the lines.
    """
    counts = one["counts"].transpose("bin", "column").values
    last = int(one["first_row"][0]) + one.sizes["column"] * one.attrs["batches_per_column"]
    scale = (float(one["low"]), float(one["high"]), 1.0)
    left, right = positions(one, np.array([0, last]))
    count_image(axes, counts, scale, (left, right, one.attrs["h_min"], one.attrs["h_max"]))
    keys = _lines(axes, one, options)
    if options.show_epoch_histograms:
        _sideways(axes, one, options.h_scale)
    axes.set_xlim(*positions(one, np.array([0, one.attrs["rows"]])))
    axes.set_ylim(one.attrs["h_min"], one.attrs["h_max"])
    return keys


def _lines(axes: Axes, one: xr.Dataset, options: ColorfulOptions) -> list[Line2D]:
    """Draw zero, epochs, mean and std, those that may cross any colour cased; return what explains them."""
    keys = []
    casing = [withStroke(linewidth=3.0 * LINE, foreground="white", alpha=0.85)]
    if options.show_epochs and one.sizes["epoch"] > 1:
        look: dict[str, Any] = {"color": EPOCH, "linewidth": 1.2 * LINE, "path_effects": casing}
        for start in positions(one, one["epoch_first_row"].values[1:]):
            axes.axvline(start, **look)
        keys.append(Line2D([], [], color=EPOCH, linewidth=1.2 * LINE, label="epoch"))
    if one.attrs["h_min"] <= 0 <= one.attrs["h_max"]:
        axes.axhline(0, color=ZERO, linewidth=1.2 * LINE)
        keys.append(Line2D([], [], color=ZERO, linewidth=1.2 * LINE, label="zero"))
    x = positions(one, one["first_row"].values + one["n_rows"].values / 2)
    cased: dict[str, Any] = {
        "color": "white",
        "path_effects": [withStroke(linewidth=3.4 * LINE, foreground="black")],
    }
    mean, std = one["mean"].values, one["std"].values
    if options.show_std:
        for y in (mean + std, mean - std):
            axes.plot(x, y, color="black", linewidth=3.4 * LINE)
            axes.plot(x, y, color="white", linewidth=1.5 * LINE, dashes=(4, 2.7))
        keys.append(
            Line2D(
                [], [], linewidth=1.5 * LINE, dashes=(2, 1.4), label="mean \N{PLUS-MINUS SIGN} std", **cased
            )
        )
    if options.show_mean:
        axes.plot(x, mean, linewidth=1.5 * LINE, **cased)
        keys.append(Line2D([], [], linewidth=1.5 * LINE, label="mean", **cased))
    return keys[::-1]


def _sideways(axes: Axes, one: xr.Dataset, h_scale: float) -> None:
    """Draw the histogram of each epoch and of its last quarter, upright on the epoch's start."""
    peak = max(float(one["epoch_counts"].max()), float(one["quarter_counts"].max())) or 1
    for name, color in (("quarter", "#8a8a8a"), ("epoch", "black")):
        curves = one[f"{name}_counts"].transpose("epoch", "bin").values
        reach = h_scale * one["epoch_n_rows"].values[:, None] * curves / peak
        for x in positions(one, one["epoch_first_row"].values[:, None] + reach):
            casing = [withStroke(linewidth=4 * LINE, foreground="white")]
            axes.plot(x, one["bin"].values, color=color, linewidth=1.8 * LINE, path_effects=casing)


def twin_peaks_figure(data: xr.Dataset, options: TwinPeaksOptions) -> Figure:
    """Draw the Twin Peaks of one epoch.

    Parameters
    ----------
    data : xarray.Dataset
        What `twin_peaks_chart.prepare` returned, of a single epoch.
    options : TwinPeaksOptions
        What to show, and the size.

    Returns
    -------
    matplotlib.figure.Figure
    """
    one = data.isel(epoch=0)
    label = int(one["epoch"])
    reference = one.sel(split=reference_split(one))
    sheet = Sheet(options.width, options.height, left=66, right=22, bottom=48)
    axes = sheet.place(0, 0, options.width, options.height)
    axes.grid(color="#e4e7ea", linewidth=0.8 * LINE)
    axes.set_axisbelow(True)
    axes.axvline(0, color=ZERO, linewidth=1.2 * LINE)
    x = one["bin"].values
    if options.show_truth and reference["yes"].notnull().any():
        for name in ("no", "yes"):
            axes.fill_between(
                x, reference[name].values, color=SETS[str(reference["split"].values)], alpha=0.14, linewidth=0
            )
    keys = []
    for split in shown_splits(one):
        look: dict[str, Any] = {
            "color": SETS[split],
            "linewidth": 2 * LINE,
            "linestyle": (0, (3.2, 1.8)) if split == "test" else "-",
        }
        axes.plot(x, one["curves"].sel(split=split).values, **look)
        keys.append(Line2D([], [], label=LABELS[split], **look))
    top = 1.15 * float(one["curves"].max()) or 1.0
    _marks(axes, reference, top)
    axes.set_xlim(data.attrs["h_min"], data.attrs["h_max"])
    axes.set_ylim(0, top)
    said = fitted(f"value of {data.attrs['layer']}", 11, options.width)
    axes.set_xlabel(said, fontsize=11 * LINE)
    axes.set_ylabel("share of values per bin", fontsize=11 * LINE)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    sheet.head(f"{data.attrs['layer']}, {limits.epoch_words(label)}", caveats(one), keys)
    return sheet.figure


def _marks(axes: Axes, reference: xr.Dataset, top: float) -> None:
    """Mark the place of NO and of YES, the values on the outer sides."""
    known = {name: float(reference[f"{name}_position"]) for name in ("no", "yes")}
    for name, position in known.items():
        if not np.isfinite(position):
            continue
        left = position < max(known.values()) or (name == "no" and known["no"] == known["yes"])
        axes.axvline(position, color=MARK, linestyle=":", linewidth=1.5 * LINE)
        axes.annotate(
            f"{name.upper()}  {position:.2g}",
            (position, 0.955 * top),
            (-6 * LINE if left else 6 * LINE, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=11 * LINE,
            fontweight="bold",
            color=MARK,
            annotation_clip=True,
        )


def wall_figure(data: xr.Dataset, options: WallOptions, title: str) -> Figure:
    """Draw all tiles on one scale.

    Parameters
    ----------
    data : xarray.Dataset
        What `wall_chart.survey` returned.
    options : WallOptions
        What to show, and the sizes.
    title : str
        What stands above.

    Returns
    -------
    matplotlib.figure.Figure
    """
    across = min(options.cols or USUAL_COLS, data.sizes["layer"])
    down = -(-data.sizes["layer"] // across)
    gap, head = 14, 40 if options.show_layer_info else 26
    step = options.tile_width + gap, options.tile_height + head
    size = across * step[0] - gap, down * step[1]
    sheet = Sheet(*size, left=60, right=110, bottom=34)
    low, high, one = (data.attrs[name] for name in ("low", "high", "one"))
    for number, name in enumerate(data["layer"].values):
        row, column = divmod(number, across)
        axes = sheet.place(column * step[0], row * step[1] + head, options.tile_width, options.tile_height)
        tile = data.sel(layer=name)
        _tile(axes, tile, (low, high, one))
        _ends(axes, tile.attrs["start"], tile.attrs["stop"], shown=number + across >= data.sizes["layer"])
        axes.xaxis.set_major_formatter(_THOUSANDS)
        axes.tick_params(labelleft=column == 0)
        lines = [str(name), *([str(tile["info"].values)] if options.show_layer_info else [])]
        _name(axes, lines, options.tile_width)
    sheet.color_bar((low, high, one), wall_chart.share_ticks(low, high), "share of the values per bin")
    sheet.head(title, wall_chart.caveats(data))
    return sheet.figure


def _tile(axes: Axes, tile: xr.Dataset, scale: Scale) -> None:
    """Draw one tile."""
    low, high = tile.attrs["h_min"], tile.attrs["h_max"]
    start, end = tile.attrs["start"], tile.attrs["end"]
    top = float(tile["upper"][-1])
    count_image(axes, tile["share"].transpose("y", "x").values, scale, (start, end, low, top))
    if low <= 0 <= high:
        axes.axhline(0, color=ZERO, linewidth=LINE)
    axes.set_ylim(low, high)
    axes.set_yticks([low, high])


def _name(axes: Axes, lines: list[str], width: int) -> None:
    """Write name and kind of a layer over its tile, cut to fit."""
    for number, text in enumerate(lines[::-1]):
        weight = "bold" if number == len(lines) - 1 else "normal"
        axes.annotate(
            fitted(text, 9, width, weight),
            (0, 1),
            (0, (5 + 12 * number) * LINE),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=9 * LINE,
            fontweight=weight,
            color=INK,
        )


def class_figure(data: xr.Dataset, options: PanelOptions) -> Figure:
    """Draw YES and NO of each class on one scale.

    Parameters
    ----------
    data : xarray.Dataset
        What `class_panels.survey` returned.
    options : PanelOptions
        What to show, and the sizes.

    Returns
    -------
    matplotlib.figure.Figure
    """
    panels = data.sizes["label"]
    across = min(options.cols, panels)
    gap, head = 14, 40
    step = options.panel_width + gap, options.panel_height + head
    sheet = Sheet(across * step[0] - gap, -(-panels // across) * step[1], left=20, right=20, bottom=34)
    top = 1.05 * class_panels.tallest(data)
    for number in range(panels):
        row, column = divmod(number, across)
        one = data.isel(label=number)
        axes = sheet.place(column * step[0], row * step[1] + head, options.panel_width, options.panel_height)
        axes.axvline(0, color=ZERO, linewidth=LINE)
        for truth, color, alpha in class_panels.SIDES:
            x, y = class_panels.outline(one, truth)
            axes.fill_between(x, y, color=color, alpha=alpha, linewidth=0)
            axes.plot(x, y, color=color, linewidth=1.2 * LINE)
        axes.set_ylim(0, top)
        axes.set_yticks([])
        _ends(axes, data.attrs["h_min"], data.attrs["h_max"], shown=number + across >= panels)
        _name(axes, [str(one["name"].values), class_panels.panel_words(one)], options.panel_width)
    keys = [
        Line2D([], [], color=color, linewidth=2 * LINE, label=truth.upper())
        for truth, color, _ in class_panels.SIDES[::-1]
    ]
    sheet.head(
        f"{data.attrs['layer']}, {limits.epoch_words(int(data['epoch']))}", class_panels.caveats(data), keys
    )
    return sheet.figure


def _ends(axes: Axes, left: float, right: float, *, shown: bool) -> None:
    """Mark the two ends of the x axis only, inwards, else those of neighbours touch."""
    axes.set_xlim(left, right)
    axes.set_xticks([left, right])
    first, final = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    final.set_horizontalalignment("right")
    axes.tick_params(labelsize=9 * LINE, labelbottom=shown)
