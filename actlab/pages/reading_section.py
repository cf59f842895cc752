"""The section for newcomers: a tile of the run with notes at what is there, and questions answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actlab.charts.palette import count_limits
from actlab.charts.raster import cells_per_pixel, mean_cells, png
from actlab.pages.formats import amount, number, polyline
from actlab.pages.html import Section
from actlab.pages.sections import Material, data_uri

__all__ = ["reading"]

_SIZE: Final = (500, 310)  # width and height of the picture
_CELLS: Final = (125, 62)  # at most so many
_NEAR: Final = 34  # pixels between two notes, at least
_EDGE: Final = 16  # pixels from a note to the edge, at least
_FEWEST: Final = 16  # columns that show a change
_PARTS: Final = 8  # the first and the last so many parts of the columns are held against each other
_SPREAD: Final = (0.02, 0.35)  # std of a layer that is easy to read, in ranges of the page
_OUTSIDE: Final = 0.05  # the largest share out of range, of NaN and infinities of such a layer
_RICH: Final = 5  # values a batch of such a layer, per bin
_MOST_LINES: Final = 25  # epochs that are marked; more would hide the picture
_BARE: Final = 0.002  # the share of the values left above and below the picture


@dataclass(frozen=True)
class _Tile:
    """What the picture shows.

    Parameters
    ----------
    name : str
        The layer, empty for an invented one.
    counts : numpy.ndarray
        Counts per batch [column, bin].
    edges : numpy.ndarray
        Of the bins, ascending [bin + 1].
    mean, std : numpy.ndarray
        Of the values [column].
    epochs : dict of int to float
        Where each epoch but the first begins, in columns.
    k : int
        Batches of one column.
    across, down : int
        Columns and bins of one cell of the picture, which divide those of the tile.
    """

    name: str
    counts: NDArray[np.float64]
    edges: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    epochs: dict[int, float]
    k: int
    across: int = 1
    down: int = 1


def reading(material: Material) -> Section:
    """How to read these charts, for someone who sees them for the first time."""
    tile = _recorded(material) or _invented()
    low, high = float(tile.edges[0]), float(tile.edges[-1])
    cells = mean_cells(tile.counts.T, tile.down, tile.across)
    series = {"mean": [tile.mean], "std": [tile.mean - tile.std, tile.mean + tile.std]}
    context = {
        "k": int(material.columns.attrs["batches_per_column"]),
        "h_min": number(material.axis.h_min),
        "h_max": number(material.axis.h_max),
        "picture": data_uri(png(cells, *count_limits(cells, tile.k), 1.0)),
        "size": _SIZE,
        "lines": {
            name: [polyline(values.tolist(), low, high, *_SIZE) for values in lines]
            for name, lines in series.items()
        },
        "starts": [f"{at / tile.mean.size * _SIZE[0]:.1f}" for at in tile.epochs.values()],
        "zero": f"{_SIZE[1] * high / (high - low):.1f}" if low < 0 < high else None,
        "notes": _notes(tile, cells),
        "name": tile.name,
        "range": (number(low), number(high)),
        "change": [
            (word, number(float(values[0])), number(float(values[-1])))
            for word, values in (("mean", tile.mean), ("std", tile.std))
        ],
    }
    return Section("reading", "How to read", "reading.html.j2", context)


def _recorded(material: Material) -> _Tile | None:
    """Return the layer that changes most from the first to the last columns, of those easy to read."""
    columns, axis = material.columns, material.axis
    if columns.sizes["column"] < _FEWEST:
        return None
    part = max(1, columns.sizes["column"] // _PARTS)
    apart = np.full(columns.sizes["layer"], -1.0)
    spread = columns["total_std"].values / (axis.h_max - axis.h_min)
    for index in range(apart.size):
        one = columns.isel(layer=index)
        lost = float(one["total_out_of_range"]) + float(material.nonfinite[index])
        is_rich = float(one["n_per_batch"].median()) >= _RICH * axis.n_bins
        if not (is_rich and lost <= _OUTSIDE and _SPREAD[0] <= spread[index] <= _SPREAD[1]):
            continue
        if not np.isfinite([one["mean"].values, one["std"].values]).all():
            continue
        ends = [
            one["counts"].isel(column=side).sum("column").values for side in (slice(part), slice(-part, None))
        ]
        first, last = (end / max(float(end.sum()), 1.0) for end in ends)
        apart[index] = np.abs(first - last).sum() / 2
    if apart.max() < 0:
        return None
    one = columns.isel(layer=int(apart.argmax()))
    across = cells_per_pixel(columns.sizes["column"], _CELLS[0])
    one = one.isel(column=slice(columns.sizes["column"] // across * across))
    counts = one["counts"].transpose("column", "bin").values.astype(np.float64)
    inside, down = _held(counts.sum(0))
    edges = np.append(one["lower"].values, one["upper"].values[-1])[inside.start : inside.stop + 1]
    k = int(columns.attrs["batches_per_column"])
    begun = zip(columns["epoch"].values[1:], columns["epoch_first_row"].values[1:], strict=True)
    return _Tile(
        name=str(one["layer"].item()),
        counts=counts[:, inside],
        edges=edges,
        mean=one["mean"].values.astype(np.float64),
        std=one["std"].values.astype(np.float64),
        epochs={int(epoch): int(row) / k for epoch, row in begun}
        if columns.sizes["epoch"] <= _MOST_LINES
        else {},
        k=k,
        across=across,
        down=down,
    )


def _held(total: NDArray[np.float64]) -> tuple[slice, int]:
    """Return the bins that hold all but a few values [bin] with a margin, and how many make a cell."""
    shares = np.cumsum(total) / total.sum()
    first, last = (int(np.searchsorted(shares, at)) for at in (_BARE, 1 - _BARE))
    margin = max(2, (last + 1 - first) // 6)
    first, last = max(0, first - margin), min(total.size, last + 1 + margin)
    down = cells_per_pixel(last - first, _CELLS[1])
    return slice(first, last - (last - first) % down), down


def _invented() -> _Tile:
    """Return a layer that starts narrow and spreads."""
    edges = np.linspace(-10, 10, 81)
    values, time = (edges[:-1] + edges[1:])[None, :] / 2, np.linspace(0, 1, 130)[:, None]
    spread = 0.7 + 2.3 / (1 + np.exp(-14 * (time - 0.25)))
    expected = 4000 / spread * np.exp(-((values / spread) ** 2) / 2)
    counts = np.random.default_rng(3).poisson(expected).astype(np.float64)
    # Means of 4 batches, so that there are less than one in a batch, too.
    return _Tile("", counts / 4, edges, np.zeros(time.size), spread[:, 0], {1: 65.0}, 4)


def _notes(tile: _Tile, cells: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return the notes, each at a place that shows what it speaks of and that is apart from the others."""
    low, high = float(tile.edges[0]), float(tile.edges[-1])
    height, width = cells.shape
    middles = (np.arange(tile.mean.size) + 0.5) / tile.mean.size

    def at(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where a line runs, in shares of the picture from its left and top [column, 2]."""
        return np.column_stack([middles, (high - values) / (high - low)])

    def where(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the cells of a mask, those in the middle of others if there are any."""
        inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        rows, places = np.nonzero(np.pad(inner, 1) if inner.any() else mask)
        return np.column_stack([(places + 0.5) / width, 1 - (rows + 0.5) / height])

    pale = "part of a value, which bins share" if tile.k == 1 else "less than one value per batch"
    most = float(cells.max())
    most_said = number(most) if most < 100 else amount(most)
    candidates = {
        f"yellow: the most common values, here {most_said} per batch in one bin": where(cells >= 0.6 * most),
        "white line: mean of the values": at(tile.mean),
        "dashed: one standard deviation above and below the mean": np.concatenate(
            [at(tile.mean + tile.std), at(tile.mean - tile.std)]
        ),
        "orange: zero": at(np.zeros(tile.mean.size)),
        "empty: not a single value": where(cells == 0),
        f"pale: {pale}": where((cells > 0) & (cells < 1)),
    }
    for epoch, start in list(tile.epochs.items())[len(tile.epochs) // 2 :][:1]:
        heights = np.linspace(0.05, 0.95, 19)
        candidates[f"blue: epoch {epoch} begins"] = np.column_stack(
            [np.full(heights.size, start / tile.mean.size), heights]
        )
    notes: list[dict[str, Any]] = []
    taken: list[NDArray[np.float64]] = []
    for text, places in candidates.items():
        spot = _apart(places * _SIZE, taken)
        if spot is not None:
            taken.append(spot)
            x, y = spot / _SIZE
            notes.append({"text": text, "x": f"{x:.2%}", "y": f"{y:.2%}"})
    return notes


def _apart(places: NDArray[np.float64], taken: list[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """Return the place [2] farthest from those taken and from the edges, None where all are too near.

    Parameters
    ----------
    places : numpy.ndarray
        Pixels from the left and the top [place, 2].
    taken : list of numpy.ndarray
        Places of other notes.
    """
    ends = np.array(_SIZE)
    if not places.size:
        return None
    inside = places[((places >= _EDGE) & (places <= ends - _EDGE)).all(1)]
    if not inside.size:  # all at the edge: a note beside the first one still touches it
        inside = np.clip(places[:1], _EDGE, ends - _EDGE)
    edge = np.minimum(inside, ends - inside).min(1)
    free = np.min([np.linalg.norm(inside - spot, axis=1) for spot in taken], axis=0) if taken else edge
    best = int(np.minimum(free, 3 * edge).argmax())
    return inside[best] if not taken or free[best] >= _NEAR else None
