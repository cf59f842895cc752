"""The colorful dimension: the histogram of a layer over the whole training, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import HoverTool, NumeralTickFormatter
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from actlab.axis import LinearAxis
from actlab.charts.columns import Progress, columns
from actlab.charts.look import CASING, Hook, color_bar, load_backend, log_ticks, named, quiet, view
from actlab.charts.palette import EPOCH, ZERO, count_limits, log_palette
from actlab.errors import SelectionError
from actlab.run import Run

__all__ = ["ColorfulOptions", "colorful", "draw", "prepare"]

_STYLE: Final = {"default_tools": ["save", "xwheel_zoom", "xbox_zoom", "reset"], "active_tools": []}


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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_columns: Annotated[int, Field(ge=1, le=20_000)] = 1000
    show_mean: bool = True
    show_std: bool = True
    show_epochs: bool = True
    show_epoch_histograms: bool = False


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
        `columns` of the train split, and low, high [layer]: ends of the layer's colour scale, in
        counts per batch.

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
    return data.assign(low=("layer", low), high=("layer", high))


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
        overlay *= _epoch_histograms(one)
    k = data.attrs["batches_per_column"]
    each = "one batch" if k == 1 else f"the mean of {k:,} batches"
    return overlay.opts(
        hv.opts.Overlay(
            title=f"{layer}   (one column is {each})",
            xlim=_position(data, np.array([0, rows])),
            ylim=(data.attrs["h_min"], data.attrs["h_max"]),
            xlabel="batch" if data.attrs["step_stride"] else "recorded batch",
            ylabel="activation value",
            xformatter=NumeralTickFormatter(format="0,0"),
            toolbar="above",
            width=1060,
            height=440,
            fontsize={"title": 13, "labels": 12, "ticks": 11},
            hooks=[quiet],
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
) -> hv.Overlay:
    """Draw the colorful dimension of one layer of a run, for a notebook.

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
    holoviews.Overlay

    Raises
    ------
    SelectionError
        If the run has no such layer or epoch, or no head to fall back on.
    AxisError
        If the range is empty or too fine.
    """
    name = run.head if layer is None else layer
    if name is None:
        raise SelectionError(f"{run.path} has no head: name a layer")
    chosen = ColorfulOptions(**options)
    axis = view(run, h_min, h_max, n_bins)
    return draw(prepare(run, axis, chosen, layers=[name], epochs=epochs), name, chosen)


def _position(data: xr.Dataset, row: NDArray[Any]) -> tuple[float, ...]:
    """Turn row numbers into positions on the x axis: `step` where steps are even, else the row."""
    stride = data.attrs["step_stride"]
    start = data.attrs["first_step"] if stride else 0
    return tuple((start + row * (stride or 1)).tolist())


def _image(one: xr.Dataset) -> hv.Image:
    """Return the counts as an image: mean per batch on a log scale, empty where exactly zero."""
    k, low, high = one.attrs["batches_per_column"], float(one["low"]), float(one["high"])
    counts = one["counts"].transpose("bin", "column").values
    left, right = _position(one, np.array([0, one.sizes["column"] * k]))
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
        colorbar_opts=color_bar(log_ticks(low, high)),
        tools=[hover],
        hooks=[named("image")],
    )


def _cased(one: xr.Dataset, values: xr.DataArray, name: str, **look: Any) -> hv.Overlay:
    """Return a white line on a wider black one, through the middle of the columns."""
    middle = one["first_row"].values + one["n_rows"].values / 2
    points = (np.array(_position(one, middle)), values.values)
    casing = hv.Curve(points, "x", "y").opts(**CASING, hooks=[named(f"{name}_casing")])
    return casing * hv.Curve(points, "x", "y").opts(
        color="#ffffff", line_width=1.5, hooks=[named(name)], **look
    )


def _epoch_lines(one: xr.Dataset) -> hv.Overlay:
    """Return a blue line, cased white, where each epoch but the first starts."""
    starts = list(_position(one, one["epoch_first_row"].values[1:]))
    looks = (("#ffffff", 3.0, "epochs_casing"), (EPOCH, 1.2, "epochs"))
    return hv.Overlay(
        [
            hv.VLines(starts).opts(color=color, line_width=width, line_alpha=0.85, hooks=[named(name)])
            for color, width, name in looks
        ]
    )


def _epoch_histograms(one: xr.Dataset) -> hv.Overlay:
    """Return the histogram of each epoch and of its last quarter, upright on the epoch's start."""
    peak = max(float(one["epoch_counts"].max()), float(one["quarter_counts"].max()))
    paths = []
    for name, color in (("quarter", "#8a8a8a"), ("epoch", "#000000")):
        share = one[f"{name}_counts"] / (peak or 1)
        reach = one["epoch_first_row"] + 0.95 * one["epoch_n_rows"] * share
        curves = [
            np.column_stack([_position(one, x), one["bin"].values])
            for x in reach.transpose("epoch", "bin").values
        ]
        for width, paint, kind in ((4.0, "#ffffff", "_histograms_casing"), (1.8, color, "_histograms")):
            hook: Hook = named(f"{name}{kind}")
            paths.append(hv.Path(curves, ["x", "y"]).opts(color=paint, line_width=width, hooks=[hook]))
    return hv.Overlay(paths)
