"""Sums over groups of rows, as the rows stream by; plain arrays, no selection and no picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.charts.sources import Counts

__all__ = [
    "Pool",
    "in_order",
    "last_quarter",
    "oddest",
    "pool_groups",
]

_Floats = NDArray[np.float64]


class Pool:
    """Sums the rows of each group; a group is handed on, and forgotten, with its last row.

    Parameters
    ----------
    groups : numpy.ndarray
        Group of each row [row], -1 for none.
    finish : callable
        Called with the group and its sum [layer, slot], uint64.
    """

    def __init__(self, groups: NDArray[np.int64], finish: Callable[[int, Counts], None]) -> None:
        self._groups = groups
        self._last = {int(group): row for row, group in enumerate(groups)}
        self._finish = finish
        self._open: dict[int, Counts] = {}

    def add(self, where: slice, block: Counts) -> None:
        """Take in some consecutive rows.

        Parameters
        ----------
        where : slice
            Which rows.
        block : numpy.ndarray
            Their counts [row, layer, slot].
        """
        groups = self._groups[where]
        starts = np.flatnonzero(np.diff(groups, prepend=-2))
        for start, stop in zip(starts, [*starts[1:], len(block)], strict=True):
            group = int(groups[start])
            if group < 0:
                continue
            total = block[start:stop].sum(axis=0, dtype=np.uint64)
            if group in self._open:
                total += self._open.pop(group)
            if self._last[group] < where.start + stop:
                self._finish(group, total)
            else:
                self._open[group] = total


def in_order(labels: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int64]]:
    """Count labels through in the order of their first row.

    Parameters
    ----------
    labels : numpy.ndarray
        Label of each row [row].

    Returns
    -------
    known : list of int
        The labels.
    number : numpy.ndarray
        Position in `known` of each row's [row].
    """
    known, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return [int(label) for label in known[order]], rank[inverse]


def last_quarter(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the last ceil(n/4) of the rows of an epoch [row]."""
    return rows[rows.size - -(-rows.size // 4) :]


def oddest(classes: Counts, k: int) -> tuple[_Floats, NDArray[np.intp]]:
    """Find the batch of each column that is least like the rest of it.

    Parameters
    ----------
    classes : numpy.ndarray
        Counts [row, layer, class], from the first row of a column on.
    k : int
        Rows per column; the last column may have fewer.

    Returns
    -------
    distance : numpy.ndarray
        Total variation distance [layer, column] of that batch to the others, pooled; 0 without others.
    row : numpy.ndarray
        Its row within the column [layer, column].
    """
    missing = -len(classes) % k
    padded = np.pad(classes.astype(np.float64), ((0, missing), (0, 0), (0, 0)))
    batch = padded.reshape(-1, k, *padded.shape[1:])
    rest = batch.sum(axis=1, keepdims=True) - batch
    n_batch, n_rest = batch.sum(axis=-1), rest.sum(axis=-1)
    known = (n_batch > 0) & (n_rest > 0)
    batch /= np.where(known, n_batch, 1)[..., None]
    rest /= np.where(known, n_rest, 1)[..., None]
    distance = np.where(known, np.abs(batch - rest).sum(axis=-1) / 2, 0)
    return distance.max(axis=1).T, distance.argmax(axis=1).T


def pool_groups(rows: xr.Dataset, finite: _Floats, starts: NDArray[np.int64]) -> dict[str, _Floats]:
    """Pool the moments of consecutive rows: `stats.pool_moments` for many groups at once.

    Parameters
    ----------
    rows : xarray.Dataset
        mean, std, min, max [step, layer].
    finite : numpy.ndarray
        Finite values of each row [step, layer].
    starts : numpy.ndarray
        First row of each group [group].

    Returns
    -------
    dict of str to numpy.ndarray
        mean, std, min, max of all values of a group, and mean_min, mean_max, std_min, std_max of its
        rows, each [layer, group]; NaN where there is no finite value.
    """
    mean, std = rows["mean"].values, rows["std"].values
    group = np.repeat(np.arange(starts.size), np.diff(starts, append=len(mean)))
    weight = np.add.reduceat(finite, starts)
    with np.errstate(invalid="ignore"):
        pooled = np.add.reduceat(np.where(finite > 0, finite * mean, 0), starts) / weight
        squares = finite * (std**2 + (mean - pooled[group]) ** 2)
        variance = np.add.reduceat(np.where(finite > 0, squares, 0), starts) / weight
    extremes = {
        "min": np.fmin.reduceat(rows["min"].values, starts),
        "max": np.fmax.reduceat(rows["max"].values, starts),
        "mean_min": np.fmin.reduceat(mean, starts),
        "mean_max": np.fmax.reduceat(mean, starts),
        "std_min": np.fmin.reduceat(std, starts),
        "std_max": np.fmax.reduceat(std, starts),
    }
    return {name: values.T for name, values in {"mean": pooled, "std": np.sqrt(variance), **extremes}.items()}
