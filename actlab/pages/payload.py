"""The numbers of the page as few bytes: one text per layer, inflated when the layer is chosen.

A layer is one raw deflate stream in base64 of three blocks, in this order:

1. `columns` uint8 [slot, column]: sums over the batches of a column, in codes;
2. `epochs` uint8 [curve, slot, epoch]: sums over the batches of an epoch, in codes, see `CURVES`;
3. `series` float32 [series, column]: `SERIES`, rounded to 11 significant bits.

Codes are on a log scale from 1 to the largest sum, 0 for exactly nothing; small sums come back as they
were. Each column (epoch) is stored minus the one before: they are alike, so the differences deflate better.
Numbers of more than one byte hold all lowest bytes first, then the next ones.
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actlab.charts.slotted import CURVES, LayerSlots

__all__ = [
    "LEVELS",
    "SERIES",
    "WINDOW_SERIES",
    "LayerPayload",
    "Payload",
    "log_codes",
    "log_counts",
    "pack_codes",
    "pack_floats",
    "pack_layer",
    "pack_window",
    "rounded",
    "unpack_layer",
    "whole_counts",
]

SERIES: Final = (
    "mean",
    "std",
    "mean_min",
    "mean_max",
    "std_min",
    "std_max",
    "n",
    "nonfinite",
    "oddest",
    "oddest_row",
    "miscount",
    "miscount_row",
)
"""Names of the series of a layer; `oddest_row` and `miscount_row` are rows within their column."""

WINDOW_SERIES: Final = ("mean", "std", "n", "nonfinite")
"""Names of the series of a window, by batch."""

LEVELS: Final = 256
"""Number of codes."""


@dataclass(frozen=True)
class Payload:
    """Packed counts.

    Parameters
    ----------
    blob : str
        Base64 of the raw deflate stream.
    first, slots : int
        The first slot kept, and how many.
    high : float
        The sum of the largest code.
    """

    blob: str
    first: int
    slots: int
    high: float


@dataclass(frozen=True)
class LayerPayload(Payload):
    """One packed layer.

    Parameters
    ----------
    high_epochs : float
        The sum of the largest code of the epochs.
    """

    high_epochs: float


def log_codes(counts: NDArray[Any], low: float, high: float, levels: int = LEVELS) -> NDArray[np.uint8]:
    """Put counts on a log scale of whole codes.

    Parameters
    ----------
    counts : numpy.ndarray
        Not negative, any shape.
    low, high : float
        Counts of code 1 and code `levels - 1`; 0 < low <= high. Counts beyond are clipped.
    levels : int
        Number of codes, at most 256.

    Returns
    -------
    numpy.ndarray
        uint8, shape of `counts`; 0 for nothing, and only for nothing.
    """
    present = counts > 0
    span = math.log(high / low)
    position = np.zeros(counts.shape)
    if span > 0:
        np.divide(np.log(np.where(present, counts, low) / low), span, out=position)
    codes = 1 + np.rint(np.clip(position, 0, 1) * (levels - 2))
    return np.where(present, codes, 0).astype(np.uint8)


def log_counts(
    codes: NDArray[np.integer], low: float, high: float, levels: int = LEVELS
) -> NDArray[np.float64]:
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


def whole_counts(codes: NDArray[np.integer], high: float) -> NDArray[np.float64]:
    """Undo the codes of whole numbers from 1 to `high`, up to half a step.

    Parameters
    ----------
    codes : numpy.ndarray
        What `log_codes` made of whole numbers.
    high : float
        The number of the largest code.

    Returns
    -------
    numpy.ndarray
        float64, shape of `codes`; exact where only one whole number has the code.
    """
    table = log_counts(np.arange(LEVELS), 1, high)
    half = high ** (0.5 / (LEVELS - 2)) * (1 + 1e-9)
    least, most = np.ceil(table / half), np.floor(table * half)
    decoded: NDArray[np.float64] = np.where(least == most, least, table)[codes]
    return decoded


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
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, strategy=zlib.Z_FILTERED)
    return base64.b64encode(packer.compress(b"".join(blocks)) + packer.flush()).decode("ascii")


def _planes(values: NDArray[np.generic]) -> bytes:
    """Return all lowest bytes, then the next ones: alike bytes deflate better together."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def _numbers(raw: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """Undo `_planes`."""
    return np.ascontiguousarray(raw.reshape(np.dtype(dtype).itemsize, -1).T).view(dtype).ravel()


def _differences(sums: NDArray[Any]) -> tuple[bytes, float]:
    """Code sums [..., place], each minus the one before; return the codes and the largest sum."""
    high = max(float(sums.max(initial=0)), 2.0)
    codes = log_codes(sums, 1, high)
    codes[..., 1:] -= codes[..., :-1].copy()  # wraps at 256, and the page adds with the same wrap
    return codes.tobytes(), high


def _sums(raw: NDArray[np.uint8], shape: tuple[int, ...], high: float) -> NDArray[np.float64]:
    """Undo `_differences`."""
    return whole_counts(np.cumsum(raw.reshape(shape), axis=-1, dtype=np.uint8), high)


def pack_codes(codes: NDArray[np.uint8]) -> str:
    """Pack codes [..., place], each minus the one before.

    Parameters
    ----------
    codes : numpy.ndarray
        uint8, any shape.

    Returns
    -------
    str
        Base64 of the raw deflate stream.
    """
    steps = codes.copy()
    steps[..., 1:] -= codes[..., :-1]  # wraps at 256, and the page adds with the same wrap
    return _deflate(steps.tobytes())


def pack_layer(part: LayerSlots, series: NDArray[np.floating]) -> LayerPayload:
    """Pack one layer of the columns of a run.

    Parameters
    ----------
    part : LayerSlots
        Its sums.
    series : numpy.ndarray
        [series, column], in the order of `SERIES`.

    Returns
    -------
    LayerPayload
    """
    columns, high = _differences(part.columns)
    epochs, high_epochs = _differences(part.epochs)
    blob = _deflate(columns, epochs, _planes(rounded(series)))
    return LayerPayload(blob, part.first, len(part.columns), high, high_epochs)


def pack_window(counts: NDArray[Any], first: int, series: NDArray[np.floating]) -> Payload:
    """Pack single batches of a layer.

    Parameters
    ----------
    counts : numpy.ndarray
        Whole numbers [slot, row].
    first : int
        The first slot.
    series : numpy.ndarray
        [series, row], in the order of `WINDOW_SERIES`.

    Returns
    -------
    Payload
        Two blocks: the codes uint8 [slot, row], the series float32.
    """
    codes, high = _differences(counts)
    return Payload(_deflate(codes, _planes(rounded(series))), first, len(counts), high)


def unpack_layer(
    payload: LayerPayload, n_columns: int, n_epochs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
    """Undo `pack_layer`, as the page does.

    Parameters
    ----------
    payload : LayerPayload
        A packed layer.
    n_columns, n_epochs : int
        The sizes it was packed with.

    Returns
    -------
    columns : numpy.ndarray
        [slot, column], sums within half a step of the log scale.
    epochs : numpy.ndarray
        [curve, slot, epoch], likewise.
    series : numpy.ndarray
        [series, column], in the order of `SERIES`.
    """
    raw = np.frombuffer(zlib.decompress(base64.b64decode(payload.blob), -zlib.MAX_WBITS), np.uint8)
    shape = len(CURVES), payload.slots, n_epochs
    n_cells, n_curves = payload.slots * n_columns, math.prod(shape)
    return (
        _sums(raw[:n_cells], (payload.slots, n_columns), payload.high),
        _sums(raw[n_cells : n_cells + n_curves], shape, payload.high_epochs),
        _numbers(raw[n_cells + n_curves :], "<f4").reshape(len(SERIES), n_columns),
    )
