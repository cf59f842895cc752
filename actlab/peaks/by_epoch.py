"""The Twin Peaks over the epochs: how far apart the splits are, and whether that grows."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import stdtr

from actlab.peaks.description import describe, head_axis
from actlab.peaks.pooling import TWO_PEAKS, Pool, head_layer, pool_epoch
from actlab.peaks.shapes import distance
from actlab.run import Run
from actlab.schema import SPLITS

__all__ = ["trend"]

_PAIRS: Final = [f"{a}_{b}" for a, b in combinations(SPLITS, 2)]
_KEPT: Final = ("yes_position", "no_position", "peak_distance", "separation", "auc", "n_modes")
_READINGS: Final = ("drifting apart", "drawing together", "no significant trend", "not enough epochs")
_FEWEST: Final = 3
"""Epochs a slope is computed of: two points lie on a line whatever they are."""

LEVEL: Final = 0.01
"""A slope is significant if chance alone makes one as large with a smaller probability than this."""


def trend(run: Run, *, layer: str | None = None) -> xr.Dataset:
    """Follow the Twin Peaks over the epochs, and say whether the splits drift apart.

    Where train and valid go on to part, the model begins to learn the training set by heart. One epoch is
    in memory at a time.

    Parameters
    ----------
    run : Run
        The run.
    layer : str, optional
        By default the head.

    Returns
    -------
    xarray.Dataset
        Dims epoch (all that were recorded in any split), split and pair ("train_valid", "train_test",
        "valid_test"); NaN where a split was not recorded in an epoch.

        - yes_position, no_position, peak_distance, separation, auc, n_modes [epoch, split]: as in
          `twin_peaks`;
        - distance [epoch, pair]: total variation of the two curves, 0 to 1, as the `train_valid_distance`
          of `twin_peaks`; noise [epoch, pair]: what it would be on average if both were samples of one
          distribution, with values independent of each other;
        - wasserstein [epoch, pair]: Wasserstein-1 distance of the finite values, in units of the value;
        - gap [epoch, pair]: difference of the two d', which tells the splits apart where the curves of all
          values together are alike; gap_noise [epoch, pair]: twice its standard error, of the variance
          1 / n_yes + 1 / n_no + d'^2 / (2 (n_yes + n_no)) of each (Hedges and Olkin, Statistical Methods
          for Meta-Analysis, 1985); NaN without labels;
        - slope, gap_slope [pair]: change of `distance` and of the size of `gap` per epoch, by least squares
          over the last half of the epochs that have it, three at least; slope_error, gap_slope_error
          [pair]: their standard errors;
        - drift [pair]: "drifting apart" where one of the slopes is significant (t test, two sides,
          p < 0.01) and makes a difference of more than the noise over these epochs, else "drawing
          together" likewise, else "no significant trend"; "not enough epochs" below three, and the
          slopes are NaN.

        Attributes: layer, source ("raw" if all epochs were, else "counts") and reading as in `twin_peaks`.

    Raises
    ------
    SelectionError
        If the run has no such layer, no head, or no rows.
    """
    layer = head_layer(run, layer)
    axis = head_axis(run, layer)
    epochs = sorted(set().union(*(run.epochs(split) for split in run.splits)))
    parts = []
    for epoch in epochs:
        pools = pool_epoch(run, layer, epoch)
        found = describe(run, layer, pools, axis)
        parts.append(found[list(_KEPT)].assign(_distances(pools, found)))
    joined = xr.concat(parts, xr.Variable("epoch", epochs), join="outer", combine_attrs="drop")
    splits = [split for split in SPLITS if split in joined["split"].values]
    readings = [part.attrs["reading"] for part in parts]
    is_exact = all(part.attrs["source"] == "raw" for part in parts)
    return (
        joined.sel(split=splits)
        .merge(_slopes(joined))
        .assign_attrs(
            layer=layer,
            source="raw" if is_exact else "counts",
            reading=TWO_PEAKS if TWO_PEAKS in readings else readings[-1],
        )
    )


def _distances(pools: dict[str, Pool], found: xr.Dataset) -> xr.Dataset:
    """Return the distances of each pair of splits [pair] in one epoch, NaN where one is missing."""
    names = ("distance", "noise", "wasserstein", "gap", "gap_noise")
    rows = np.full((len(names), len(_PAIRS)), math.nan)
    for place, (a, b) in enumerate(combinations(SPLITS, 2)):
        if {a, b} <= pools.keys():
            one, other = pools[a].whole, pools[b].whole
            (d, variance), (other_d, other_variance) = (
                _separation(found.sel(split=split)) for split in (a, b)
            )
            gap = d - other_d, 2 * math.sqrt(variance + other_variance)
            rows[:, place] = *distance(one, other), one.wasserstein(other), *gap
    return xr.Dataset({name: ("pair", row) for name, row in zip(names, rows, strict=True)}, {"pair": _PAIRS})


def _separation(one: xr.Dataset) -> tuple[float, float]:
    """Return d' of a split and its variance; NaN without labels."""
    d, n_yes, n_no = (float(one[name]) for name in ("separation", "n_yes", "n_no"))
    if not (n_yes and n_no):
        return math.nan, math.nan
    return d, 1 / n_yes + 1 / n_no + d**2 / (2 * (n_yes + n_no))


def _slopes(joined: xr.Dataset) -> xr.Dataset:
    """Return the slopes of each pair, their standard errors, and what they say [pair]."""
    epochs = joined["epoch"].values.astype(np.float64)
    kinds = (
        ("slope", joined["distance"], joined["noise"]),
        ("gap_slope", abs(joined["gap"]), joined["gap_noise"]),
    )
    found: dict[str, list[float]] = {}
    said: list[set[str]] = [set() for _ in _PAIRS]
    for name, values, noise in kinds:
        for place in range(len(_PAIRS)):
            slope, error, reading = _slope(epochs, values[:, place].values, noise[:, place].values)
            found.setdefault(name, []).append(slope)
            found.setdefault(f"{name}_error", []).append(error)
            said[place].add(reading)
    drift = [next(reading for reading in _READINGS if reading in readings) for readings in said]
    return xr.Dataset(
        {**{name: ("pair", row) for name, row in found.items()}, "drift": ("pair", drift)}, {"pair": _PAIRS}
    )


def _slope(
    epochs: NDArray[np.float64], values: NDArray[np.float64], noise: NDArray[np.float64]
) -> tuple[float, float, str]:
    """Return the slope over the last half of the known values, its standard error, and what it says."""
    known = np.flatnonzero(np.isfinite(values))
    if known.size < _FEWEST:
        return math.nan, math.nan, _READINGS[-1]
    last = known[-max(math.ceil(known.size / 2), _FEWEST) :]
    x, y = epochs[last] - epochs[last].mean(), values[last] - values[last].mean()
    slope, freedom = float(x @ y / (x @ x)), last.size - 2
    error = math.sqrt(float(((y - slope * x) ** 2).sum() / freedom / (x @ x)))
    chance = 2 * float(stdtr(freedom, -abs(slope) / error)) if error else 0.0
    change = abs(slope) * float(np.ptp(x))
    if chance >= LEVEL or change <= noise[last].mean():
        return slope, error, _READINGS[2]
    return slope, error, _READINGS[0 if slope > 0 else 1]
