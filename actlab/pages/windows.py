"""Where single batches are kept: around findings, and where a column hides an odd batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actlab.charts.paged import read_window
from actlab.pages.payload import Payload, pack_window
from actlab.pages.places import rows_of

if TYPE_CHECKING:
    from actlab.charts.slotted import LayerSlots
    from actlab.pages.sections import Material

__all__ = ["Stray", "Window", "choose_windows", "miscounts", "odd_columns", "pack_windows", "strays"]

_LEVELS: Final = ("error", "warning", "advice")
_MOST: Final = 12  # windows around findings, and as many around odd columns
_MOST_ROWS: Final = 600
_CELL_BYTES: Final = 0.4
_ODD: Final = 0.05  # a batch less far from the rest of its column is no event
_MISCOUNT: Final = 0.01  # a smaller part of the values more or less is none
_TIMES: Final = 3  # nor is one that is not so many times as far as usual
_NEAR: Final = 101  # batches that say what is usual at a place
_STEP: Final = 20  # batches from one such place to the next
_FAR: Final = 14  # times their median distance
_REACH: Final = 0.1  # of what the values of a batch span, at least
_PART: Final = 0.001  # of the values: less may be rounding
_CROWD: Final = 7  # batches, of which at most 3 may have strays
_RARE: Final = 0.002  # part of the batches that may have strays, odd ones among them
_HANDFUL: Final = 8  # of them, where that is less


class Window(NamedTuple):
    """Rows of a layer: whole columns."""

    layer: str
    start: int
    stop: int


class Stray(NamedTuple):
    """A batch with a few values far beyond those of the batches around it."""

    row: int
    value: float  # the farthest
    share: float  # of the way to it from the middle of the values that lies beyond the usual


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


def strays(material: Material, name: str) -> list[Stray]:
    """Find batches with a few values far beyond those of the batches around them.

    The largest value of a batch is compared with the median of those of some 100 batches around it, and its
    distance with theirs; likewise the smallest. Distances are compared on a log scale, where the largest of
    many values scatter alike, however heavy their tails [1]_. Where many batches reach so far that is no
    event but how the values are, and four within seven are a change of the layer.

    Parameters
    ----------
    material : Material
        What the page is made of.
    name : str
        A layer.

    Returns
    -------
    list of Stray
        By row; none of fewer than 7 batches that have finite values only.

    References
    ----------
    .. [1] S. Coles, An Introduction to Statistical Modeling of Extreme Values, 2001, section 3.1.3: the
       logarithm of a Frechet variable is a Gumbel one.
    """
    one = material.run["train"][["min", "max"]].sel(layer=name).isel(step=material.rows)
    least, most = one["min"].values.astype(np.float64), one["max"].values.astype(np.float64)
    rows = np.flatnonzero(np.isfinite(least) & np.isfinite(most))
    if rows.size < _CROWD:
        return []
    least, most = least[rows], most[rows]
    lowest, highest = _around(least), _around(most)
    half = (highest - lowest) / 2
    found: dict[int, Stray] = {}
    for ends, usual, sign in ((most, highest, 1), (least, lowest, -1)):
        scatter = np.maximum(_around(np.abs(ends - usual)), np.finfo(np.float64).tiny)
        size = np.maximum(half, scatter)
        beyond = np.maximum(sign * (ends - usual), 0)
        with np.errstate(over="ignore"):
            times = np.log1p(beyond / size) * size / scatter
        times[beyond <= np.maximum(_REACH * 2 * half, _PART * np.abs(usual))] = 0
        # Beside a change of the layer some batches are less far: a lower bar for those around.
        alone = np.convolve(times > _FAR / 3, np.ones(_CROWD), "same") <= _CROWD // 2
        far = np.flatnonzero((times > _FAR) & alone)
        if far.size > max(min(_HANDFUL, -(-rows.size // 50)), _RARE * rows.size):
            continue
        for at in far:
            stray = Stray(int(rows[at]), float(ends[at]), float(beyond[at] / (beyond[at] + size[at])))
            found[stray.row] = max(found.get(stray.row, stray), stray, key=lambda each: each.share)
    return [found[row] for row in sorted(found)]


def _around(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of the rows around each [row], the same for `_STEP` rows; the ends are mirrored."""
    padded = np.pad(values, _NEAR // 2, mode="reflect")
    medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, _NEAR)[::_STEP], axis=1)
    return np.repeat(medians, _STEP)[: values.size]


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
    first, found = material.columns["first_row"].values, dict[tuple[str, int], float]()
    for name in map(str, material.layers.index):
        one = material.columns.sel(layer=name)
        odd, (apart, within) = odd_columns(one["oddest"].values), material.miscounts[name]
        for column in np.flatnonzero(odd | (apart > 0)):
            row = int(np.searchsorted(material.steps, int(one["oddest_step"][column])))
            row = int(first[column] + within[column]) if apart[column] else row
            found[name, row] = max(float(one["oddest"][column]), float(apart[column]))
        for stray in material.strays[name]:
            found[name, stray.row] = max(found.get((name, stray.row), 0), stray.share)
    return sorted(found, key=lambda place: -found[place])[:_MOST]


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
