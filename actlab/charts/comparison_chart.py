"""Runs side by side as pictures: every layer of each on one scale, and what differs from the first run."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

import dask.callbacks
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from actlab import comparison
from actlab.axis import LinearAxis
from actlab.charts.palette import SETS, ZERO
from actlab.charts.raster import cells_per_pixel, png, shrink
from actlab.run import Run

__all__ = [
    "LESS",
    "MORE",
    "STEPS",
    "Cells",
    "ComparisonOptions",
    "Scale",
    "cells",
    "prepare",
    "scale_of",
    "share_png",
    "signed_codes",
    "signed_colors",
    "signed_png",
]

_dask: Any = dask  # it has no annotations

LESS: Final = SETS["train"]
"""Colour of what the first run has more of."""
MORE: Final = ZERO
"""Colour of what the other run has more of; with `LESS` a pair that the colour-blind tell apart."""

_DECADES: Final = 6  # of the scale of shares, as that of the wall
_PALE_DECADES: Final = 2
STEPS: Final = 127
"""Steps of each side of the scale of differences."""
_DIFFERENCE_DECADES: Final = 2  # smaller differences are noise beside the largest one
_DISTANCES: Final = ("total_variation", "jensen_shannon", "wasserstein", "kolmogorov_smirnov")
_ALPHA: Final = (255 * np.linspace(0.08, 1, STEPS)).round().astype(np.uint8)


def _once(names: list[str]) -> list[str]:
    """Refuse a name that stands twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is named twice")
    return names


class ComparisonOptions(BaseModel):
    """What a comparison shows.

    Parameters
    ----------
    names : list of str, optional
        What the runs are called, in their order; else the ends of their paths.
    sort : {"distance", "model"}
        The layers by how far they are apart, the farthest first, or in the order of the model.
    distance : str
        By which distance: "total_variation", "jensen_shannon", "wasserstein" or "kolmogorov_smirnov".
    tile_width, tile_height : int
        A tile has at most so many pixels; each is the mean of a whole number of columns and bins.
    detail_width : int
        A picture of the detail has at most so many columns of whole batches.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: Annotated[list[Annotated[str, Field(min_length=1)]], AfterValidator(_once)] | None = None
    sort: Literal["distance", "model"] = "distance"
    distance: Literal["total_variation", "jensen_shannon", "wasserstein", "kolmogorov_smirnov"] = (
        "total_variation"
    )
    tile_width: Annotated[int, Field(ge=8, le=2000)] = 88
    tile_height: Annotated[int, Field(ge=8, le=2000)] = 70
    detail_width: Annotated[int, Field(ge=8, le=4000)] = 320


class Scale(NamedTuple):
    """One scale for all pictures: shares of n from `low` to `high`, pale below `one`; differences."""

    low: float
    high: float
    one: float
    least: float
    """The smallest difference drawn."""
    difference: float
    """The largest one."""


class Cells(NamedTuple):
    """What the pictures of a layer show: shares [run, y, x], and differences of all runs but the first."""

    shares: NDArray[np.float64]
    differences: NDArray[np.float64]


def prepare(
    runs: Mapping[str, Run],
    axis: LinearAxis,
    options: ComparisonOptions | None = None,
    *,
    layers: list[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Compare runs by columns of the batches that all have, and by epoch.

    Parameters
    ----------
    runs : mapping of str to Run
        At least two.
    axis : LinearAxis
        The bins of all histograms.
    options : ComparisonOptions, optional
        The defaults if None.
    layers : list of str, optional
        Patterns as in `Run.select_layers`; all layers by default.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    columns : xarray.Dataset
        share [run, layer, step, bin]: float32, of `actlab.compare` by columns; the coordinate `last`
        [step] is the step of the last batch of each; the attributes `unit` and k say what a column holds:
        "batch" and how many. Columns are single epochs, unit "epoch", and `step` and `last` their labels,
        where the runs share so few of their batches that epochs tell more: no more than there are epochs,
        or, of several epochs, at most a quarter and less than fill a tile.
    epochs : xarray.Dataset
        share [run, layer, epoch, bin]: float32; n, mean, std, the distances, and what no bin holds:
        out_of_range and nonfinite [run, layer, epoch], shares of n beyond the range, and infinite or NaN.

        Both in memory, with the attributes of `actlab.compare`.

    Raises
    ------
    SelectionError
        If the runs have no layer or no epoch in common.
    AxisError
        If they were recorded on axes that share no exponent.
    """
    chosen = options or ComparisonOptions()
    by_epoch = _by_epoch(comparison.compare(runs, axis=axis, layers=layers))
    steps = [set(run["train"]["step"].values.tolist()) for run in runs.values()]
    common = set.intersection(*steps)
    if _epochs_tell_more(len(common), min(map(len, steps)), by_epoch.sizes["epoch"], chosen.tile_width):
        epochs = _computed(by_epoch, "comparing epochs", progress)
        columns = epochs[["share"]].sortby("epoch").rename(epoch="step")
        return _with_last(columns, columns["step"].values, 1).assign_attrs(unit="epoch"), epochs
    k = cells_per_pixel(len(common), chosen.detail_width)
    by_column = comparison.compare(runs, axis=axis, layers=layers, by=k)
    columns = by_column[["share"]].astype(np.float32).assign_attrs(by_column.attrs)
    # One after the other: together they would share what they read, and hold three times the memory.
    columns = _computed(columns, "comparing columns", progress)
    epochs = _computed(by_epoch, "comparing epochs", progress)
    return _with_last(columns, np.sort(list(common)), k).assign_attrs(unit="batch"), epochs


def _by_epoch(found: xr.Dataset) -> xr.Dataset:
    """Keep what a page says of epochs."""
    n = found["n"].where(found["n"] > 0)
    return found[["n", "mean", "std", *_DISTANCES]].assign(
        share=found["share"].astype(np.float32),
        out_of_range=(found["underflow"] + found["overflow"]) / n,
        nonfinite=(found["neg_inf"] + found["pos_inf"] + found["nan"]) / n,
    )


def _epochs_tell_more(n_common: int, n_fewest: int, n_epochs: int, width: int) -> bool:
    """Tell whether whole epochs show more than the few batches that all runs have."""
    few = n_common <= n_epochs and n_common < n_fewest
    return few or (n_epochs > 1 and 4 * n_common <= n_fewest and n_common < width)


def _with_last(columns: xr.Dataset, labels: NDArray[np.int64], k: int) -> xr.Dataset:
    """Add the last label of each column of k."""
    last = labels[np.minimum(np.arange(k - 1, labels.size + k - 1, k), labels.size - 1)]
    return columns.assign_coords(last=("step", last)).assign_attrs(k=k)


def _computed(data: xr.Dataset, stage: str, progress: Callable[[str, int, int], None] | None) -> xr.Dataset:
    """Compute with dask, and tell how many of its tasks are done."""
    if progress is None:
        return data.compute()

    def tell(_key: Any, _result: Any, _graph: Any, state: Mapping[str, Any], _worker: Any) -> None:
        done = len(state["finished"])
        progress(stage, done, done + sum(len(state[name]) for name in ("ready", "waiting", "running")))

    with _dask.callbacks.Callback(posttask=tell):
        return data.compute()


def scale_of(columns: xr.Dataset, options: ComparisonOptions) -> Scale:
    """Return the scale of all pictures, taken from the tiles.

    Parameters
    ----------
    columns : xarray.Dataset
        What `prepare` returned first.
    options : ComparisonOptions
        The size of the tiles.
    """
    high = difference = 0.0
    for layer in columns["layer"].values:
        shares, differences = cells(columns, str(layer), (options.tile_width, options.tile_height))
        high = max(high, float(np.nanmax(shares, initial=0.0)))
        difference = max(difference, float(np.nanmax(np.abs(differences), initial=0.0)))
    high = high or 1.0
    low, difference = high / 10**_DECADES, difference or high
    return Scale(low, high, low * 10**_PALE_DECADES, difference / 10**_DIFFERENCE_DECADES, difference)


def cells(columns: xr.Dataset, layer: str, size: tuple[int, int]) -> Cells:
    """Return what the pictures of a layer show.

    Parameters
    ----------
    columns : xarray.Dataset
        What `prepare` returned first.
    layer : str
        One of its layers.
    size : tuple of int
        At most so many cells wide and high, each the mean of a whole number of columns and bins.

    Returns
    -------
    Cells
        The lowest values first; NaN where a run has no value.
    """
    share = columns["share"].sel(layer=layer).transpose("run", "bin", "step").values
    shares = np.stack([shrink(values, *size) for values in share])
    return Cells(shares, np.stack([shrink(values - share[0], *size) for values in share[1:]]))


def share_png(shares: NDArray[np.float64], scale: Scale) -> bytes:
    """Paint the shares [y, x] of a run; see `raster.png`."""
    return png(shares, scale.low, scale.high, scale.one)


def signed_codes(differences: NDArray[np.float64], scale: Scale) -> NDArray[np.uint8]:
    """Put differences on a log scale to both sides.

    Parameters
    ----------
    differences : numpy.ndarray
        Any shape.
    scale : Scale
        What `scale_of` returned; differences beyond it are clipped.

    Returns
    -------
    numpy.ndarray
        uint8, shape of `differences`: 1 to `STEPS` from `least` to `difference`, `STEPS` + 1 to 2 `STEPS`
        the same below zero, and 0 for what is smaller than `least`, or missing.
    """
    size = np.abs(np.nan_to_num(differences))
    position = np.log(np.maximum(size, scale.least) / scale.least) / math.log(scale.difference / scale.least)
    step = np.where(size >= scale.least, 1 + np.rint(np.clip(position, 0, 1) * (STEPS - 1)), 0)
    return (step + np.where((differences < 0) & (step > 0), STEPS, 0)).astype(np.uint8)


def signed_colors() -> list[str]:
    """Return the colours of `signed_codes` from 1 on, ``"#rrggbbaa"``; the page shows through small ones."""
    return [f"{color}{alpha:02x}" for color in (MORE, LESS) for alpha in _ALPHA.tolist()]


def signed_png(differences: NDArray[np.float64], scale: Scale) -> bytes:
    """Paint differences [y, x], the lowest values first; transparent where they are below `least`."""
    image = Image.fromarray(signed_codes(differences, scale)[::-1], mode="P")
    colors = [bytes.fromhex(color[1:]) for color in signed_colors()]
    image.putpalette(b"".join([b"\0\0\0", *(color[:3] for color in colors)]))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=bytes([0, *(color[3] for color in colors)]))
    return file.getvalue()
