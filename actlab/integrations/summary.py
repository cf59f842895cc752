"""What a tracker is told of an epoch: numbers by name, and the Twin Peaks as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from actlab import peaks
from actlab.charts.exporting import export
from actlab.errors import SelectionError, nearest_number
from actlab.run import Run, open_run
from actlab.stats import pool_moments, zero_share

__all__ = ["GROUPS", "Summary", "summarise"]

GROUPS: Final = ("activations", "twin_peaks")
"""In front of every name, before a slash."""

_OF_SPLITS: Final = ("separation", "overlap", "valley")


@dataclass(frozen=True)
class Summary:
    """An epoch in numbers and one picture.

    Parameters
    ----------
    scalars : dict of str to float
        activations/STATISTIC/SPLIT/LAYER with the statistics mean, std, zeros (share of values) and
        nonfinite (number of values); twin_peaks/separation/SPLIT (d'), twin_peaks/overlap/SPLIT,
        twin_peaks/valley/SPLIT (where it lies) and twin_peaks/train_valid_distance. Those that are not
        known are left out.
    picture : numpy.ndarray or None
        The Twin Peaks [y, x, rgb], uint8; None without a head.
    """

    scalars: dict[str, float]
    picture: NDArray[np.uint8] | None


def summarise(path: str, epoch: int) -> Summary:
    """Sum up an epoch of a run.

    Parameters
    ----------
    path : str
        The run.
    epoch : int
        Label of the epoch; -1 for evaluation before any training.

    Raises
    ------
    StoreError
        If there is no such run.
    SelectionError
        If it has no such epoch.
    """
    run = open_run(path, verify=False)
    splits = [split for split in run.splits if epoch in run.epochs(split)]
    if not splits:
        known = {label for split in run.splits for label in run.epochs(split)}
        raise SelectionError(f"no epoch {epoch} in {path}: {nearest_number(epoch, known)}")
    scalars = {name: value for split in splits for name, value in _of_layers(run, split, epoch)}
    if run.head is None:
        return Summary(scalars, None)
    scalars |= _of_peaks(peaks.twin_peaks(run, epoch))
    return Summary(scalars, _picture(run, epoch))


def _of_layers(run: Run, split: str, epoch: int) -> Iterator[tuple[str, float]]:
    """Name the statistics of each layer that has values in an epoch."""
    rows = run.select(split, epoch=epoch)
    pooled = pool_moments(rows)
    found = pooled[["n", "mean", "std"]].assign(
        zeros=zero_share(rows["counts"].sum("step")), nonfinite=pooled["n"] - pooled["finite"]
    )
    found = found.compute()  # block by block: the counts of a long epoch are large
    for layer in found["layer"].values[found["n"].values > 0]:
        one = found.sel(layer=layer)
        for name in ("mean", "std", "zeros", "nonfinite"):
            if math.isfinite(value := float(one[name])):
                yield f"activations/{name}/{split}/{layer}", value


def _of_peaks(found: xr.Dataset) -> dict[str, float]:
    """Name what is known of YES and NO."""
    named = {"twin_peaks/train_valid_distance": float(found["train_valid_distance"])}
    deepest = found["valley_significance"].fillna(-1).argmax("valley") if found.sizes["valley"] else None
    for split in found["split"].values:
        one = found.sel(split=split)
        for name in ("separation", "overlap"):
            named[f"twin_peaks/{name}/{split}"] = float(one[name])
        if deepest is not None:
            named[f"twin_peaks/valley/{split}"] = float(
                one["valley_position"].isel(valley=int(deepest.sel(split=split)))
            )
    return {name: value for name, value in named.items() if math.isfinite(value)}


def _picture(run: Run, epoch: int) -> NDArray[np.uint8]:
    """Draw the Twin Peaks of an epoch."""
    with TemporaryDirectory() as folder:
        file = export(run, Path(folder) / "peaks.png", chart="twin_peaks", epoch=epoch)
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
