"""The numbers of the page as few bytes: one text per layer, inflated when the layer is chosen.

A layer is one raw deflate stream in base64 of three blocks, in this order:

1. `image` uint8 [bin, column]: codes on a log scale, 0 for exactly nothing, each bin minus the one
   below it (neighbouring bins are alike, so the differences deflate better);
2. `series` float32 [series, column]: `SERIES`, rounded to 11 significant bits;
3. `epochs` uint16 [2, epoch, bin]: whole epoch and last quarter, on a log scale that begins at
   1/1024 of the image's, because the mean of an epoch can be that much smaller.

Blocks of more than one byte a number hold all lowest bytes first, then the next ones.
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.charts.palette import count_limits

__all__ = [
    "EPOCH_DEPTH",
    "SERIES",
    "LayerPayload",
    "log_codes",
    "log_counts",
    "pack_floats",
    "pack_layer",
    "rounded",
    "unpack_layer",
]

SERIES = (
    "mean",
    "std",
    "mean_min",
    "mean_max",
    "std_min",
    "std_max",
    "underflow",
    "overflow",
    "nonfinite",
    "oddest",
    "oddest_row",
)
"""Names of the series of a layer; `oddest_row` is the row within its column."""

EPOCH_DEPTH = 1024
"""How far the scale of the epochs begins below that of the image."""


@dataclass(frozen=True)
class LayerPayload:
    """One packed layer.

    Parameters
    ----------
    blob : str
        Base64 of the raw deflate stream.
    low, high : float
        Ends of the log scale, in counts per batch: codes 1 and the largest one.
    """

    blob: str
    low: float
    high: float


def log_codes(counts: NDArray[np.floating], low: float, high: float, levels: int) -> NDArray[np.integer]:
    """Put counts on a log scale of whole codes.

    Parameters
    ----------
    counts : numpy.ndarray
        Not negative, any shape.
    low, high : float
        Counts of code 1 and code `levels - 1`; 0 < low <= high. Counts beyond are clipped.
    levels : int
        Number of codes, at most 256 for uint8, else uint16.

    Returns
    -------
    numpy.ndarray
        uint8 or uint16, shape of `counts`; 0 for nothing, and only for nothing.
    """
    present = counts > 0
    span = math.log(high / low)
    position = np.zeros(counts.shape)
    if span > 0:
        np.divide(np.log(np.where(present, counts, low) / low), span, out=position)
    codes = 1 + np.rint(np.clip(position, 0, 1) * (levels - 2))
    return np.where(present, codes, 0).astype(np.uint8 if levels <= 256 else np.uint16)


def log_counts(codes: NDArray[np.integer], low: float, high: float, levels: int) -> NDArray[np.float64]:
    """Undo `log_codes`, up to half a step.

    Parameters
    ----------
    codes : numpy.ndarray
        What `log_codes` returned.
    low, high, levels
        The same as there.

    Returns
    -------
    numpy.ndarray
        float64, shape of `codes`.
    """
    counts = low * np.exp((codes.astype(np.float64) - 1) / (levels - 2) * math.log(high / low))
    return np.where(codes == 0, 0.0, counts)


def rounded(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Round to 11 significant bits (0.02 %, less than a pixel), so that the low bytes deflate away.

    Parameters
    ----------
    values : numpy.ndarray
        Any shape; NaN and infinities stay what they are.

    Returns
    -------
    numpy.ndarray
        float32, shape of `values`.
    """
    mantissa, exponent = np.frexp(values.astype(np.float64))
    with np.errstate(over="ignore"):  # beyond float32 is infinity, as it should be
        result: NDArray[np.float32] = np.ldexp(np.rint(mantissa * 2048), exponent - 11).astype(np.float32)
    return result


def pack_floats(*arrays: NDArray[np.floating]) -> str:
    """Pack arrays one after the other as one block of rounded float32.

    Parameters
    ----------
    *arrays : numpy.ndarray
        Any shapes.

    Returns
    -------
    str
        Base64 of the raw deflate stream.
    """
    return _deflate(_planes(rounded(np.concatenate([array.ravel() for array in arrays]))))


def _deflate(*blocks: bytes) -> str:
    """Return the raw deflate stream of some blocks in base64, for `DecompressionStream('deflate-raw')`."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(packer.compress(b"".join(blocks)) + packer.flush()).decode("ascii")


def _planes(values: NDArray[np.generic]) -> bytes:
    """Return all lowest bytes, then the next ones: alike bytes deflate better together."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def _numbers(raw: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """Undo `_planes`."""
    return np.ascontiguousarray(raw.reshape(np.dtype(dtype).itemsize, -1).T).view(dtype).ravel()


def _series(data: xr.Dataset, steps: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return `SERIES` [series, column] of a single layer."""
    rows = np.searchsorted(steps, data["oddest_step"].values) - data["first_row"].values
    return np.stack([*(data[name].values for name in SERIES[:-1]), rows]).astype(np.float64)


def pack_layer(data: xr.Dataset, steps: NDArray[np.integer]) -> LayerPayload:
    """Pack one layer of the columns of a run.

    Parameters
    ----------
    data : xarray.Dataset
        One layer of `charts.columns`: counts [column, bin] and the series [column], epoch_counts
        and quarter_counts [epoch, bin].
    steps : numpy.ndarray
        [row], `step` of every row in the columns, ascending.

    Returns
    -------
    LayerPayload
    """
    counts = data["counts"].values.T
    per_epoch = np.stack([data["epoch_counts"].values, data["quarter_counts"].values])
    per_epoch = np.nan_to_num(per_epoch)
    low, high = count_limits(counts, int(data.attrs["batches_per_column"]))
    image = log_codes(counts, low, high, 256)
    image[1:] -= image[:-1].copy()  # wraps at 256, and the page adds with the same wrap
    epochs = log_codes(per_epoch, low / EPOCH_DEPTH, high, 65_536)
    return LayerPayload(
        _deflate(image.tobytes(), _planes(rounded(_series(data, steps))), _planes(epochs)), low, high
    )


def unpack_layer(
    payload: LayerPayload, n_bins: int, n_columns: int, n_epochs: int
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]]:
    """Undo `pack_layer`, as the page does.

    Parameters
    ----------
    payload : LayerPayload
        A packed layer.
    n_bins, n_columns, n_epochs : int
        The sizes it was packed with.

    Returns
    -------
    counts : numpy.ndarray
        [bin, column], counts per batch, within half a step of the log scale.
    series : numpy.ndarray
        [series, column], in the order of `SERIES`.
    epochs : numpy.ndarray
        [2, epoch, bin], counts per batch: whole epoch, last quarter.
    """
    raw = zlib.decompress(base64.b64decode(payload.blob), -zlib.MAX_WBITS)
    codes = np.frombuffer(raw, np.uint8, n_bins * n_columns).reshape(n_bins, n_columns)
    image = np.cumsum(codes, axis=0, dtype=np.uint8)
    rest = np.frombuffer(raw, np.uint8, offset=image.size)
    split = 4 * len(SERIES) * n_columns
    epochs = _numbers(rest[split:], "<u2").reshape(2, n_epochs, n_bins)
    return (
        log_counts(image, payload.low, payload.high, 256),
        _numbers(rest[:split], "<f4").reshape(len(SERIES), n_columns),
        log_counts(epochs, payload.low / EPOCH_DEPTH, payload.high, 65_536),
    )
