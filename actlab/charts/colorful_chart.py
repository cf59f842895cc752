"""The colorful dimension: the histogram of a layer over the whole training, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import BasicTicker, HoverTool, NumeralTickFormatter
from pydantic import BaseModel, ConfigDict, Field

from actlab.axis import LinearAxis
from actlab.charts.columns import Progress, columns
from actlab.charts.limits import caveats, dropped_steps, layer_info
from actlab.charts.look import (
    CASING,
    DOT,
    Hook,
    color_bar,
    head_of,
    literal,
    load_backend,
    log_ticks,
    named,
    positions,
    quiet,
    subtitled,
    view,
)
from actlab.charts.palette import EPOCH, ZERO, count_limits, log_palette
from actlab.charts.zooming import Zoom
from actlab.recipe import validated
from actlab.run import Run

__all__ = ["ColorfulOptions", "colorful", "draw", "prepare"]

_STYLE: Final = {
    "default_tools": ["pan", "box_zoom", "xwheel_zoom", "save", "reset"],
    "active_tools": ["box_zoom"],
}


class ColorfulOptions(BaseModel):
    """What the colorful dimension shows.

    Parameters
    ----------
    max_columns : int
        At most so many columns; each is the mean of the same whole number of batches.
    show_mean, show_std : bool
        Lines at the mean, and at one standard deviation above and below it.
    show_epochs : bool
        A line where each epoch starts.
    show_epoch_histograms : bool
        The mean histogram of each epoch drawn sideways, of its last quarter in grey.
    h_scale : float
        How far the highest of these reaches, in lengths of its epoch.
    show_layer_info : bool
        Kind and output shape of the layer after its name.
    width, height : int
        Size of the picture in pixels, without axes and colour bar; columns are never more than its width.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_columns: Annotated[int, Field(ge=1, le=20_000)] = 1000
    show_mean: bool = True
    show_std: bool = True
    show_epochs: bool = True
    show_epoch_histograms: bool = False
    h_scale: Annotated[float, Field(gt=0, le=100)] = 0.95
    show_layer_info: bool = True
    width: Annotated[int, Field(ge=100, le=4000)] = 900
    height: Annotated[int, Field(ge=50, le=4000)] = 340


def prepare(
    run: Run,
    axis: LinearAxis,
    options: ColorfulOptions | None = None,
    *,
    layers: Sequence[str] | None = None,
    epochs: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Compute the numbers behind the colorful dimension of some layers.

    Parameters
    ----------
    run : Run
        The recorded training.
    axis : LinearAxis
        The bins.
    options : ColorfulOptions, optional
        The defaults if None.
    layers : sequence of str, optional
        Whole names; all layers by default.
    epochs : sequence of int, optional
        Epoch labels; all by default.
    progress : callable, optional
        Called with the rows done and the rows in all.

    Returns
    -------
    xarray.Dataset
        `columns` of the train split, low, high [layer]: ends of the layer's colour scale, in counts per
        batch, and info [layer]: its kind and output shape. Attribute dropped: the steps missing beside
        those shown, such as "40 to 55".

    Raises
    ------
    SelectionError
        If the run has no such layer or epoch, or no training.
    """
    chosen = options or ColorfulOptions()
    data = columns(
        run,
        axis,
        layers=run.names if layers is None else layers,
        epochs=epochs,
        max_columns=chosen.max_columns,
        progress=progress,
    )
    limits = [count_limits(layer, data.attrs["batches_per_column"]) for layer in data["counts"].values]
    low, high = np.array(limits).reshape(-1, 2).T
    info = [layer_info(run, str(name)) for name in data["layer"].values]
    lost = dropped_steps(run, "train", run.rows("train", epochs))
    return data.assign(low=("layer", low), high=("layer", high), info=("layer", info)).assign_attrs(
        dropped=lost
    )


def draw(data: xr.Dataset, layer: str, options: ColorfulOptions | None = None) -> hv.Overlay:
    """Draw the colorful dimension of one layer.

    The Bokeh models behind it are named: ``image``, ``color_mapper``, ``zero``, ``epochs``, ``mean``,
    ``std_upper``, ``std_lower``, ``epoch_histograms``, ``quarter_histograms``; a casing under a line
    adds ``_casing``.

    Parameters
    ----------
    data : xarray.Dataset
        What `prepare` returned.
    layer : str
        One of its layers.
    options : ColorfulOptions, optional
        The defaults if None.

    Returns
    -------
    holoviews.Overlay
    """
    load_backend()
    chosen = options or ColorfulOptions()
    one = data.sel(layer=layer)
    rows = int(data.attrs["rows"])
    overlay = _image(one)
    if chosen.show_epochs and one.sizes["epoch"] > 1:
        overlay *= _epoch_lines(one)
    if data.attrs["h_min"] <= 0 <= data.attrs["h_max"]:
        overlay *= hv.HLine(0).opts(color=ZERO, line_width=1.2, hooks=[named("zero")])
    if chosen.show_std:
        overlay *= _cased(one, one["mean"] + one["std"], "std_upper", line_dash=[6, 4])
        overlay *= _cased(one, one["mean"] - one["std"], "std_lower", line_dash=[6, 4])
    if chosen.show_mean:
        overlay *= _cased(one, one["mean"], "mean")
    if chosen.show_epoch_histograms:
        overlay *= _epoch_histograms(one, chosen.h_scale)
    title = f"{layer}   ({one['info'].item()})" if chosen.show_layer_info and one["info"].item() else layer
    return overlay.opts(
        hv.opts.Overlay(
            title=literal(title),
            xlim=tuple(positions(data, np.array([0, rows])).tolist()),
            ylim=(data.attrs["h_min"], data.attrs["h_max"]),
            xlabel="batch" if data.attrs["step_stride"] else "recorded batch",
            ylabel="activation value",
            xticks=BasicTicker(min_interval=1),
            xformatter=NumeralTickFormatter(format="0,0"),
            toolbar="above",
            frame_width=chosen.width,
            frame_height=chosen.height,
            fontsize={"title": 13, "labels": 12, "ticks": 11},
            hooks=[quiet, subtitled(DOT.join(caveats(one))), _widen],
            **_STYLE,
        )
    )


def colorful(
    run: Run,
    layer: str | None = None,
    *,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int = 200,
    epochs: Sequence[int] | None = None,
    **options: Any,
) -> hv.DynamicMap:
    """Draw the colorful dimension of one layer of a run, for a notebook.

    Where Python runs behind the picture, zooming draws it again from the recorded batches: never a column
    of parts of batches, see `zooming.Zoom.view`. The layer is read once. Saved, the whole picture stays.

    Parameters
    ----------
    run : Run
        The recorded training.
    layer : str, optional
        Its name; the head by default.
    h_min, h_max : float, optional
        Range of the histogram; by default all but 0.1 % of the run's values on each side.
    n_bins : int
        Number of bins.
    epochs : sequence of int, optional
        Epoch labels; all by default.
    **options
        Fields of `ColorfulOptions`.

    Returns
    -------
    holoviews.DynamicMap
        Of what `draw` returns.

    Raises
    ------
    SelectionError
        If the run has no such layer or epoch, or no head to fall back on.
    AxisError
        If the range is empty or too fine.
    RecipeError
        For an unknown option or a wrong value.
    """
    name = head_of(run) if layer is None else layer
    chosen = validated(ColorfulOptions, options)
    most = min(chosen.max_columns, chosen.width)
    zoom = Zoom(run, name, view(run, h_min, h_max, n_bins), epochs=epochs, max_columns=most)
    load_backend()

    def picture(x_range: tuple[float, float] | None, y_range: tuple[float, float] | None) -> hv.Overlay:
        return draw(zoom.view(x_range, y_range), name, chosen)

    return hv.DynamicMap(picture, streams=[hv.streams.RangeXY()])


def _widen(plot: Any, _: Any) -> None:
    """Make room for the words at the colour bar, for which Bokeh leaves too little, as a hook."""
    plot.state.min_border_right = 135


def _image(one: xr.Dataset) -> hv.Image:
    """Return the counts as an image: mean per batch on a log scale, empty where exactly zero."""
    k, low, high = one.attrs["batches_per_column"], float(one["low"]), float(one["high"])
    counts = one["counts"].transpose("bin", "column").values
    left, right = positions(one, int(one["first_row"][0]) + np.array([0, one.sizes["column"] * k])).tolist()
    x, y = np.broadcast_arrays(one["step"].values, one["bin"].values[:, None])
    shown = np.where(counts > 0, np.clip(counts, low, high), 0)
    image = hv.Image(
        np.dstack((shown, counts, x, y))[::-1],
        kdims=["x", "y"],
        vdims=[hv.Dimension("shown", label="count per batch"), "count", "batch", "value"],
        bounds=(left, one.attrs["h_min"], right, one.attrs["h_max"]),
    )
    hover = HoverTool(
        tooltips=[("batch", "@batch{0,0}"), ("value", "@value{0.000}"), ("count", "@count{0,0.00}")]
    )
    return image.opts(
        cmap=log_palette(low, high),
        logz=True,
        clim=(low, high),
        clipping_colors={"min": "transparent"},
        colorbar=True,
        colorbar_opts=color_bar(log_ticks(low, high), "count per batch"),
        tools=[hover],
        hooks=[named("image")],
    )


def _cased(one: xr.Dataset, values: xr.DataArray, name: str, **look: Any) -> hv.Overlay:
    """Return a white line on a wider black one, through the middle of the columns."""
    middle = one["first_row"].values + one["n_rows"].values / 2
    points = (positions(one, middle), values.values)
    casing = hv.Curve(points, "x", "y").opts(**CASING, hooks=[named(f"{name}_casing")])
    return casing * hv.Curve(points, "x", "y").opts(
        color="#ffffff", line_width=1.5, hooks=[named(name)], **look
    )


def _epoch_lines(one: xr.Dataset) -> hv.Overlay:
    """Return a blue line, cased white, where each epoch but the first starts."""
    starts = positions(one, one["epoch_first_row"].values[1:]).tolist()
    looks = (("#ffffff", 3.0, "epochs_casing"), (EPOCH, 1.2, "epochs"))
    return hv.Overlay(
        [
            hv.VLines(starts).opts(color=color, line_width=width, line_alpha=0.85, hooks=[named(name)])
            for color, width, name in looks
        ]
    )


def _epoch_histograms(one: xr.Dataset, h_scale: float) -> hv.Overlay:
    """Return the histogram of each epoch and of its last quarter, upright on the epoch's start."""
    peak = max(float(one["epoch_counts"].max()), float(one["quarter_counts"].max()))
    paths = []
    for name, color in (("quarter", "#8a8a8a"), ("epoch", "#000000")):
        share = one[f"{name}_counts"] / (peak or 1)
        reach = one["epoch_first_row"] + h_scale * one["epoch_n_rows"] * share
        curves = [
            np.column_stack([positions(one, x), one["bin"].values])
            for x in reach.transpose("epoch", "bin").values
        ]
        for width, paint, kind in ((4.0, "#ffffff", "_histograms_casing"), (1.8, color, "_histograms")):
            hook: Hook = named(f"{name}{kind}")
            paths.append(hv.Path(curves, ["x", "y"]).opts(color=paint, line_width=width, hooks=[hook]))
    return hv.Overlay(paths)
