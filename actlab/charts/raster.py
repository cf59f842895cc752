"""Rasters: a grid of counts as a picture of fewer cells. The only module that knows Datashader.

Datashader equals exact aggregation on three conditions, which hold here: floats (a mean of
integers is truncated), a whole number of cells per pixel (else cells are split), no interpolation.
"""

from __future__ import annotations

import io
import math
from typing import Any, Final

import datashader
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from actlab.charts.palette import translucent_palette

__all__ = ["cells_per_pixel", "mean_cells", "png", "shrink"]

_BAND_CELLS: Final = 4 << 20
"""Cells rastered at once: 32 MB, so that a long training needs no copy of itself."""


def cells_per_pixel(cells: int, pixels: int) -> int:
    """Return the least whole number of cells per pixel with which `cells` fit into `pixels`."""
    return -(-cells // pixels)


def mean_cells(values: NDArray[np.number[Any]], down: int, across: int) -> NDArray[np.float64]:
    """Average a grid over blocks of whole cells.

    Parameters
    ----------
    values : numpy.ndarray
        Grid [row, column] of finite numbers, at least one.
    down, across : int
        Cells per pixel.

    Returns
    -------
    numpy.ndarray
        float64 [y, x]; a pixel at the end may average fewer cells.
    """
    if down == across == 1:
        return values.astype(np.float64)
    height = down * max(1, _BAND_CELLS // (down * values.shape[1]))
    bands = [_raster(values[start : start + height], down, across) for start in range(0, len(values), height)]
    return np.concatenate(bands)


def _raster(values: NDArray[np.number[Any]], down: int, across: int) -> NDArray[np.float64]:
    """Average a band of rows with Datashader."""
    n_rows, n_columns = values.shape
    shape = -(-n_rows // down), -(-n_columns // across)
    # NaN counts for nothing in the mean; the extra pixel lets Datashader tell the size of a single cell.
    cells = np.full(((shape[0] + 1) * down, (shape[1] + 1) * across), np.nan)
    cells[:n_rows, :n_columns] = values
    grid = xr.DataArray(
        cells,
        dims=("y", "x"),
        coords={"y": np.arange(cells.shape[0]) + 0.5, "x": np.arange(cells.shape[1]) + 0.5},
    )
    canvas = datashader.Canvas(
        plot_width=shape[1] + 1,
        plot_height=shape[0] + 1,
        x_range=(0, cells.shape[1]),
        y_range=(0, cells.shape[0]),
    )
    pixels = canvas.raster(grid, downsample_method="mean", interpolate="nearest")
    result: NDArray[np.float64] = pixels.values[:-1, :-1]
    return result


def shrink(values: NDArray[np.number[Any]], width: int, height: int) -> NDArray[np.float64]:
    """Average a grid down to at most `width` x `height` pixels, a whole number of cells each.

    Parameters
    ----------
    values : numpy.ndarray
        Grid [row, column] of finite numbers.
    width, height : int
        Most pixels wanted. A smaller grid stays as it is, it is never blown up.

    Returns
    -------
    numpy.ndarray
        As `mean_cells`.
    """
    n_rows, n_columns = values.shape
    return mean_cells(values, cells_per_pixel(n_rows, height), cells_per_pixel(n_columns, width))


def png(values: NDArray[np.floating], low: float, high: float, one: float) -> bytes:
    """Paint a grid on a log colour scale.

    Parameters
    ----------
    values : numpy.ndarray
        Grid [y, x], the lowest row first; 0 and NaN are transparent, and nothing else is. What is rarer
        than `one` lets the page shine through, so that one picture fits a light and a dark page.
    low, high, one : float
        The scale, see `palette.translucent_palette`; values beyond its ends take their colour.

    Returns
    -------
    bytes
        A PNG with one pixel per cell, the same for the same input.
    """
    present = values > 0
    position = np.log(np.where(present, values, low) / low) / math.log(high / low)
    codes = np.where(present, 1 + np.clip(position * 255, 0, 254).astype(np.uint8), 0).astype(np.uint8)
    image = Image.fromarray(codes[::-1], mode="P")
    colors = [bytes.fromhex(color[1:]) for color in translucent_palette(low, high, one, 255)]
    image.putpalette(b"".join([b"\0\0\0", *(color[:3] for color in colors)]))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=bytes([0, *(color[3] for color in colors)]))
    return file.getvalue()
