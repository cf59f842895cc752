"""Runs side by side as pictures: every layer of each on one scale, and what differs from the first run."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from actlab import comparison
from actlab.axis import LinearAxis
from actlab.charts.palette import SETS, ZERO
from actlab.charts.raster import cells_per_pixel, png, shrink
from actlab.run import Run

__all__ = ["LESS", "MORE", "ComparisonOptions", "Pictures", "Scale", "paint", "prepare", "scale_of"]

LESS: Final = SETS["train"]
"""Colour of what the first run has more of."""
MORE: Final = ZERO
"""Colour of what the other run has more of; with `LESS` a pair that the colour-blind tell apart."""

_DECADES: Final = 6  # of the scale of shares, as that of the wall
_PALE_DECADES: Final = 2
_DIFFERENCE_DECADES: Final = 2  # smaller differences are noise beside the largest one
_STEPS: Final = 127  # of each side of the scale of differences


class ComparisonOptions(BaseModel):
    """What a comparison shows.

    Parameters
    ----------
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
    difference: float


class Pictures(NamedTuple):
    """The pictures of a layer, PNGs by run; the difference of the first run is missing."""

    shares: list[bytes]
    differences: list[bytes]


def prepare(
    runs: Mapping[str, Run],
    axis: LinearAxis,
    options: ComparisonOptions | None = None,
    *,
    layers: list[str] | None = None,
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

    Returns
    -------
    columns : xarray.Dataset
        share, difference [run, layer, step, bin]: float32, of `actlab.compare` by columns.
    epochs : xarray.Dataset
        share [run, layer, epoch, bin], n, mean, std [run, layer, epoch] and the distances, all computed.

        Both with the attributes of `actlab.compare`.

    Raises
    ------
    SelectionError
        If the runs have no layer, epoch or step in common.
    AxisError
        If they were recorded on axes that share no exponent.
    """
    chosen = options or ComparisonOptions()
    common = set.intersection(*(set(run["train"]["step"].values.tolist()) for run in runs.values()))
    k = cells_per_pixel(max(len(common), 1), chosen.detail_width)
    by_column = comparison.compare(runs, axis=axis, layers=layers, by=k)
    columns = (
        by_column[["share", "difference"]].astype(np.float32).compute().assign_attrs(by_column.attrs, k=k)
    )
    by_epoch = comparison.compare(runs, axis=axis, layers=layers)
    distances = ("total_variation", "jensen_shannon", "wasserstein", "kolmogorov_smirnov")
    return columns, by_epoch[["share", "n", "mean", "std", *distances]].compute()


def scale_of(columns: xr.Dataset, options: ComparisonOptions) -> Scale:
    """Return the scale of all pictures, taken from the tiles.

    Parameters
    ----------
    columns : xarray.Dataset
        What `prepare` returned first.
    options : ComparisonOptions
        The width of the tiles.
    """
    high = difference = 0.0
    for share, apart in _layers(columns):
        for run in range(len(share)):
            high = max(high, float(np.nanmax(_tile(share[run], options), initial=0.0)))
            difference = max(difference, float(np.nanmax(np.abs(_tile(apart[run], options)), initial=0.0)))
    high = high or 1.0
    low = high / 10**_DECADES
    return Scale(low, high, low * 10**_PALE_DECADES, difference or high)


def paint(columns: xr.Dataset, layer: str, scale: Scale, size: tuple[int, int]) -> Pictures:
    """Paint a layer of each run, and its differences from the first.

    Parameters
    ----------
    columns : xarray.Dataset
        What `prepare` returned first.
    layer : str
        One of its layers.
    scale : Scale
        What `scale_of` returned.
    size : tuple of int
        At most so many pixels wide and high, each the mean of a whole number of columns and bins.

    Returns
    -------
    Pictures
    """
    one = columns.sel(layer=layer)
    share, apart = (one[name].transpose("run", "bin", "step").values for name in ("share", "difference"))
    limits = scale.low, scale.high, scale.one
    return Pictures(
        [png(shrink(values, *size), *limits) for values in share],
        [_signed_png(shrink(values, *size), scale.difference) for values in apart[1:]],
    )


def _layers(columns: xr.Dataset) -> Any:
    """Go through the shares and differences [run, bin, step] of each layer."""
    for layer in columns["layer"].values:
        one = columns.sel(layer=layer)
        yield tuple(one[name].transpose("run", "bin", "step").values for name in ("share", "difference"))


def _tile(values: NDArray[np.floating], options: ComparisonOptions) -> NDArray[np.float64]:
    """Shrink a grid [bin, step] to a tile."""
    return shrink(values, options.tile_width, options.tile_height)


def _signed_png(values: NDArray[np.float64], most: float) -> bytes:
    """Paint differences on a log scale to both sides, transparent where they are below its hundredth."""
    least = most / 10**_DIFFERENCE_DECADES
    size = np.abs(np.nan_to_num(values))
    position = np.log(np.maximum(size, least) / least) / math.log(most / least)
    step = np.where(size > least, 1 + np.rint(np.clip(position, 0, 1) * (_STEPS - 1)), 0).astype(np.int64)
    codes = np.where(values < 0, _STEPS + step, step) * (step > 0)
    image = Image.fromarray(codes.astype(np.uint8)[::-1], mode="P")
    sides = [bytes.fromhex(color[1:]) * _STEPS for color in (MORE, LESS)]
    image.putpalette(b"".join([b"\0\0\0", *sides]))
    alpha = np.linspace(0.08, 1, _STEPS)
    file = io.BytesIO()
    fade = (255 * np.concatenate([[0], alpha, alpha])).round().astype(np.uint8)
    image.save(file, "PNG", optimize=True, transparency=fade.tobytes())
    return file.getvalue()
