"""The wall: every layer as a small tile, all on one colour scale, in the order of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

import holoviews as hv
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from actlab.axis import LinearAxis
from actlab.charts.columns import columns
from actlab.charts.limits import dropped_steps, dropped_words, layer_info, percent
from actlab.charts.look import layout_title, literal, load_backend, quiet, subtitled, view
from actlab.charts.palette import ZERO, log_palette
from actlab.charts.raster import cells_per_pixel, png, shrink
from actlab.recipe import validated
from actlab.run import Run

__all__ = [
    "USUAL_COLS",
    "WallOptions",
    "caveats",
    "crop",
    "draw",
    "palette",
    "prepare",
    "share_ticks",
    "survey",
]
__all__ += ["share_ticks", "survey", "tiles", "wall"]

_DECADES: Final = 6  # of the colour scale; rarer values take its palest colour
_PALE_DECADES: Final = 2
USUAL_COLS: Final = 7
"""Tiles side by side in a picture."""


class WallOptions(BaseModel):
    """What the wall shows.

    Parameters
    ----------
    tile_width, tile_height : int
        A tile has at most so many pixels; each is the mean of a whole number of columns and bins.
    cols : int, optional
        Tiles side by side; by default as many as fit on a page, and 7 in a picture.
    show_layer_info : bool
        Kind and output shape of each layer under its name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tile_width: Annotated[int, Field(ge=8, le=2000)] = 112
    tile_height: Annotated[int, Field(ge=8, le=2000)] = 100
    cols: Annotated[int, Field(ge=1, le=100)] | None = None
    show_layer_info: bool = True


def prepare(columns: xr.Dataset, options: WallOptions | None = None) -> xr.Dataset:
    """Shrink the columns of each layer to a tile.

    Parameters
    ----------
    columns : xarray.Dataset
        What `columns.columns` returned.
    options : WallOptions, optional
        The defaults if None.

    Returns
    -------
    xarray.Dataset
        - share [layer, y, x]: float64, mean share of n per bin; NaN in a column without values;
        - first_row [x]: first row of a pixel;
        - lower, upper [y]: ends of a pixel, in units of the activation.

        Attributes low, high, one: the scale of all tiles, as shares of n (see `palette.log_palette`),
        columns_per_pixel and bins_per_pixel, h_min and h_max.
    """
    chosen = options or WallOptions()
    pixels = np.stack([shrink(layer, chosen.tile_width, chosen.tile_height) for layer in _shares(columns)])
    across = cells_per_pixel(columns.sizes["column"], chosen.tile_width)
    down = cells_per_pixel(columns.sizes["bin"], chosen.tile_height)
    high = float(pixels.max(initial=0.0, where=np.isfinite(pixels))) or 1.0
    low = high / 10**_DECADES
    lower, upper = columns["lower"].values, columns["upper"].values
    return xr.Dataset(
        {
            "share": (("layer", "y", "x"), pixels),
            "first_row": ("x", columns["first_row"].values[::across]),
        },
        {
            "layer": columns["layer"].values,
            "lower": ("y", lower[::down]),
            "upper": ("y", np.append(upper[down - 1 : -1 : down], upper[-1])[: pixels.shape[1]]),
        },
        {
            "low": low,
            "high": high,
            "one": low * 10**_PALE_DECADES,
            "columns_per_pixel": across,
            "bins_per_pixel": down,
            "h_min": columns.attrs["h_min"],
            "h_max": columns.attrs["h_max"],
        },
    )


def _shares(columns: xr.Dataset) -> NDArray[np.float64]:
    """Return the shares of n [..., bin, column]; NaN in a column without values."""
    counts, n = columns["counts"].values, columns["n_per_batch"].values
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: NDArray[np.float64] = (counts / n[..., None]).swapaxes(-1, -2)
    return shares


def palette(data: xr.Dataset) -> list[str]:
    """Return the 256 colours of the wall's scale, from attribute low to high.

    Parameters
    ----------
    data : xarray.Dataset
        What `prepare` returned.
    """
    return log_palette(data.attrs["low"], data.attrs["high"], data.attrs["one"])


def tiles(data: xr.Dataset) -> dict[str, bytes]:
    """Paint each tile as a PNG, one pixel per cell, transparent where there is exactly nothing.

    Parameters
    ----------
    data : xarray.Dataset
        What `prepare` returned.

    Returns
    -------
    dict of str to bytes
        By layer, in order; meant to be shown with ``image-rendering: pixelated``.
    """
    scale = (data.attrs["low"], data.attrs["high"], data.attrs["one"])
    shares = data["share"].transpose("layer", "y", "x").values
    return {str(name): png(tile, *scale) for name, tile in zip(data["layer"].values, shares, strict=True)}


def crop(columns: xr.Dataset, data: xr.Dataset, options: WallOptions | None = None) -> bytes:
    """Paint some columns of a layer on the scale of the tiles, so that they look alike.

    Parameters
    ----------
    columns : xarray.Dataset
        A single layer, and the columns wanted, of what `columns.columns` returned.
    data : xarray.Dataset
        What `prepare` returned.
    options : WallOptions, optional
        The size, the defaults if None.

    Returns
    -------
    bytes
        A PNG as those of `tiles`.
    """
    chosen = options or WallOptions()
    scale = (data.attrs["low"], data.attrs["high"], data.attrs["one"])
    return png(shrink(_shares(columns), chosen.tile_width, chosen.tile_height), *scale)


def survey(
    run: Run,
    axis: LinearAxis,
    options: WallOptions | None = None,
    *,
    layers: str | Sequence[str] | None = None,
    epochs: Sequence[int] | None = None,
) -> xr.Dataset:
    """Compute the wall of a run, and what it cannot show.

    Parameters
    ----------
    run : Run
        The recorded training.
    axis : LinearAxis
        The bins.
    options : WallOptions, optional
        The defaults if None.
    layers : str or sequence of str, optional
        Patterns as in `Run.select_layers`; all layers by default.
    epochs : sequence of int, optional
        Epoch labels; all by default.

    Returns
    -------
    xarray.Dataset
        As `prepare`, and info, out_of_range [layer]: kind and output shape, share of n beyond the range.
        Attributes dropped, rows, batches_per_pixel, and start, stop, end: `step` of the first row, after
        the last row and after the last pixel (row numbers where steps are not even).

    Raises
    ------
    SelectionError
        If the run has no such layer or epoch, or no training.
    """
    grid = columns(run, axis, layers=run.select_layers(layers), epochs=epochs)
    data = prepare(grid, options)
    stride, rows = grid.attrs["step_stride"], grid.attrs["rows"]
    batches = data.attrs["columns_per_pixel"] * grid.attrs["batches_per_column"]
    start = grid.attrs["first_step"] if stride else 0
    return data.assign(
        info=("layer", [layer_info(run, str(name)) for name in data["layer"].values]),
        out_of_range=grid["total_out_of_range"],
    ).assign_attrs(
        dropped=dropped_steps(run, "train", run.rows("train", epochs)),
        rows=rows,
        batches_per_pixel=batches,
        start=start,
        stop=start + rows * (stride or 1),
        end=start + data.sizes["x"] * batches * (stride or 1),
    )


def caveats(data: xr.Dataset) -> list[str]:
    """Say what the wall leaves out.

    Parameters
    ----------
    data : xarray.Dataset
        What `survey` returned.

    Returns
    -------
    list of str
        What a pixel is, the range, the layer with most values beyond it, and the steps that were dropped.
    """
    k, low, high = data.attrs["batches_per_pixel"], data.attrs["h_min"], data.attrs["h_max"]
    said = [
        "one scale for all tiles",
        "one pixel column = one batch" if k == 1 else f"one pixel column = mean of {k:,} batches",
        f"values from {low:g} to {high:g}",
    ]
    outside = np.nan_to_num(data["out_of_range"].values)
    if outside.max() > 0:
        worst = int(outside.argmax())
        name = str(data["layer"].values[worst])
        said.append(f"out of range at most {percent(float(outside[worst]))} ({name})")
    return [*said, *dropped_words(data.attrs["dropped"])]


def share_ticks(low: float, high: float) -> dict[float, str]:
    """Return the powers of ten within a log scale of shares, and what they say: ``"0.1%"``."""
    decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = {float(f"1e{decade}"): float(f"1e{decade + 2}") for decade in decades}
    return {tick: f"{np.format_float_positional(shown, trim='-')}%" for tick, shown in ticks.items()}


def draw(data: xr.Dataset, options: WallOptions | None = None) -> hv.NdLayout:
    """Draw all tiles.

    Parameters
    ----------
    data : xarray.Dataset
        What `survey` returned.
    options : WallOptions, optional
        The defaults if None.

    Returns
    -------
    holoviews.NdLayout
        By layer.
    """
    load_backend()
    chosen = options or WallOptions()
    drawn = {str(name): _tile(data.sel(layer=name), chosen) for name in data["layer"].values}
    layout = hv.NdLayout(drawn, kdims="layer", sort=False).cols(chosen.cols or USUAL_COLS)
    return layout.opts(
        shared_axes=False, toolbar=None, title=layout_title(caveats(data)), fontsize={"title": 9}
    )


def wall(
    run: Run,
    *,
    layers: str | Sequence[str] | None = None,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int = 200,
    epochs: Sequence[int] | None = None,
    **options: Any,
) -> hv.NdLayout:
    """Draw the wall of a run, for a notebook.

    Parameters
    ----------
    run : Run
        The recorded training.
    layers : str or sequence of str, optional
        Patterns as in `Run.select_layers`; all layers by default.
    h_min, h_max : float, optional
        Range of the histograms; by default all but 0.1 % of the run's values on each side.
    n_bins : int
        Number of bins.
    epochs : sequence of int, optional
        Epoch labels; all by default.
    **options
        Fields of `WallOptions`.

    Returns
    -------
    holoviews.NdLayout

    Raises
    ------
    SelectionError
        If the run has no such layer or epoch.
    AxisError
        If the range is empty or too fine.
    RecipeError
        For an unknown option or a wrong value.
    """
    chosen = validated(WallOptions, options)
    return draw(survey(run, view(run, h_min, h_max, n_bins), chosen, layers=layers, epochs=epochs), chosen)


def _tile(one: xr.Dataset, options: WallOptions) -> hv.Overlay:
    """Draw one tile: no axes, they are the same everywhere."""
    share = one["share"].transpose("y", "x").values
    low, high = one.attrs["low"], one.attrs["high"]
    image = hv.Image(
        np.where(share > 0, np.clip(share, low, high), 0)[::-1],
        ["x", "y"],
        "share",
        bounds=(one.attrs["start"], one.attrs["h_min"], one.attrs["end"], float(one["upper"][-1])),
    ).opts(cmap=palette(one), logz=True, clim=(low, high), clipping_colors={"min": "transparent"})
    zero = hv.HLine(0).opts(color=ZERO, line_width=1)
    hooks = [quiet, subtitled(str(one["info"].values))] if options.show_layer_info else [quiet]
    return (image * zero).opts(
        hv.opts.Overlay(
            title=literal(str(one["layer"].values)),
            frame_width=options.tile_width,
            frame_height=options.tile_height,
            xaxis=None,
            yaxis=None,
            xlim=(one.attrs["start"], one.attrs["stop"]),
            ylim=(one.attrs["h_min"], one.attrs["h_max"]),
            fontsize={"title": 9},
            default_tools=[],
            hooks=hooks,
        )
    )
