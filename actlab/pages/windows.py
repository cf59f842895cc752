"""Where single batches are kept: around findings, and where a column hides an odd batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from actlab.charts.paged import read_window
from actlab.pages.payload import Payload, pack_window
from actlab.pages.places import rows_of

if TYPE_CHECKING:
    from actlab.charts.slotted import LayerSlots
    from actlab.pages.sections import Material

__all__ = ["Window", "choose_windows", "miscounts", "odd_columns", "pack_windows", "strays"]

_LEVELS: Final = ("error", "warning", "advice")
_MOST: Final = 12  # windows around findings, and as many around odd columns
_MOST_ROWS: Final = 600
_CELL_BYTES: Final = 0.4
_ODD: Final = 0.05  # a batch less far from the rest of its column is no event
_MISCOUNT: Final = 0.01  # a smaller part of the values more or less is none
_TIMES: Final = 3  # nor is one that is not so many times as far as usual
_NEAR: Final = 101  # batches that say what is usual at a place
_FAR: Final = 4  # times the distance that 99 % of the batches keep
_REACH: Final = 0.1  # of what the values of a batch span, at least


class Window(NamedTuple):
    """Rows of a layer: whole columns."""

    layer: str
    start: int
    stop: int


def miscounts(material: Material, name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the batch of each column with the most unusual number of values.

    Usual is what 98 % of the batches have, and as much again to either side; the last batch of an epoch
    may have fewer.

    Parameters
    ----------
    material : Material
        What the page is made of.
    name : str
        A layer.

    Returns
    -------
    apart : numpy.ndarray
        How far its number is from the median, as a share of that [column]; 0 where all are usual.
    row : numpy.ndarray
        The row within the column [column].
    """
    train = material.run["train"]
    n = train.n.sel(layer=name).values[material.rows].astype(np.float64)
    least, usual, most = np.quantile(n, (0.01, 0.5, 0.99))
    spread = most - least
    epoch = train.epoch.values[material.rows]
    is_last = np.append(epoch[1:] != epoch[:-1], [True])
    strange = (n > most + spread) | ((n < least - spread) & ~is_last)
    apart = np.where(strange, np.abs(n - usual) / max(usual, 1), 0)
    apart[apart < _MISCOUNT] = 0
    starts = material.columns["first_row"].values
    row = np.array([int(part.argmax()) for part in np.split(apart, starts[1:])])
    return apart[starts + row], row


def strays(material: Material, name: str) -> dict[int, float]:
    """Find batches with a few values far beyond those of all others.

    The largest value of a batch is compared with the median of those of the batches around it, and its
    distance with that of the other batches; likewise the smallest.

    Parameters
    ----------
    material : Material
        What the page is made of.
    name : str
        A layer.

    Returns
    -------
    dict of int to float
        Row of each such batch, and its farthest value.
    """
    one = material.run["train"][["min", "max"]].sel(layer=name).isel(step=material.rows)
    least, most = one["min"].values.astype(np.float64), one["max"].values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        span = most - least
    if not np.isfinite(span).any():
        return {}
    found: dict[int, float] = {}
    enough = _REACH * float(np.nanmedian(span))
    for ends, sign in ((most, 1), (least, -1)):
        usual = pd.Series(ends).rolling(_NEAR, center=True, min_periods=1).median().to_numpy(np.float64)
        with np.errstate(invalid="ignore"):
            beyond = np.where(np.isfinite(ends), sign * (ends - usual), np.nan)
        far = max(enough, _FAR * float(np.nanquantile(beyond, 0.99)))
        found |= {int(row): float(ends[row]) for row in np.flatnonzero(beyond > far)}
    return found


def odd_columns(oddest: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which columns of a layer hide an odd batch [column], given the distance of the oddest ones."""
    usual = float(np.median(oddest)) if oddest.size else 0.0
    return np.asarray(oddest > max(_ODD, _TIMES * usual))


def choose_windows(material: Material, room: float) -> list[Window]:
    """Choose the rows of which single batches are kept: none where a column is a batch.

    Parameters
    ----------
    material : Material
        What the page is made of.
    room : float
        Bytes that they may take; findings have two thirds of it.
    """
    if int(material.columns.attrs["batches_per_column"]) == 1:
        return []
    around = _findings(material)
    share = room * 2 / 3 / max(len(around), 1)
    chosen: list[Window] = []
    for name, first, last in around:
        _put(material, chosen, name, (first, last), share)
    for name, row in _odd(material):
        _put(material, chosen, name, (row, row), room / 3 / _MOST)
    return chosen


def _findings(material: Material) -> list[tuple[str, int, int]]:
    """Return layer, first and last row of the worst findings."""
    found = []
    groups = [group for level in _LEVELS for group in material.verdict if group.worst == level]
    for group in groups:
        rows, name = rows_of(material, group), group.layers[0]
        if rows is not None and name in material.layers.index:
            found.append((name, *rows))
    return found[:_MOST]


def _odd(material: Material) -> list[tuple[str, int]]:
    """Return layer and row of the oddest batches of all columns."""
    first, found = material.columns["first_row"].values, []
    for name in map(str, material.layers.index):
        one = material.columns.sel(layer=name)
        odd, (apart, within) = odd_columns(one["oddest"].values), miscounts(material, name)
        for column in np.flatnonzero(odd | (apart > 0)):
            row = int(np.searchsorted(material.steps, int(one["oddest_step"][column])))
            row = int(first[column] + within[column]) if apart[column] else row
            found.append((max(float(one["oddest"][column]), float(apart[column])), name, row))
        found += [(0.0, name, row) for row in strays(material, name)]
    found.sort(key=lambda each: -each[0])
    return [(name, row) for _, name, row in found[:_MOST]]


def _put(material: Material, chosen: list[Window], name: str, rows: tuple[int, int], share: float) -> None:
    """Add a window of whole columns around some rows, if none has their beginning yet."""
    k, (first, last) = int(material.columns.attrs["batches_per_column"]), rows
    if any(each.layer == name and each.start <= first < each.stop for each in chosen):
        return
    height = len(material.slots[name].columns)
    most = min(_MOST_ROWS, int(share / (_CELL_BYTES * height)))
    n_columns = max(1, most // k)
    inside = last // k - first // k + 1
    before = (n_columns - inside) // 2 if inside < n_columns else n_columns // 3
    start = max(0, first // k - before) * k
    stop = min(start + n_columns * k, material.n_rows)
    taken = [(each.start, each.stop) for each in chosen if each.layer == name]
    start = max([start, *(end for _, end in taken if end <= first)])
    stop = min([stop, *(begin for begin, _ in taken if begin > first)])
    chosen.append(Window(name, start, stop))


def pack_windows(material: Material, windows: list[Window], parts: dict[str, LayerSlots]) -> list[Payload]:
    """Read and pack the batches of windows, on the slots of `parts`."""
    return [_pack(material, window, parts[window.layer]) for window in windows]


def _pack(material: Material, window: Window, part: LayerSlots) -> Payload:
    """Read and pack the batches of a window."""
    rows = material.rows[window.start : window.stop]
    counts: NDArray[Any] = read_window(material.run, window.layer, rows, part)
    one = material.run["train"].sel(layer=window.layer).isel(step=rows)
    n = one["n"].values.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        nonfinite = 1 - counts.sum(axis=0) / n
    series = np.stack([one["mean"].values, one["std"].values, n, nonfinite])
    filled = np.flatnonzero(counts.any(axis=1))
    kept = slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 1)
    return pack_window(counts[kept], part.first + kept.start, series)
