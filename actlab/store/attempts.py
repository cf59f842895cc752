"""Which rows of a resumed run no later attempt has replaced. Loads neither zarr nor xarray by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actlab.errors import StoreError
from actlab.schema import SPLITS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["index_names", "live_entries", "live_rows"]


def live_rows(
    split: str, train_step: NDArray[np.int64], attempt: NDArray[np.int64], starts: Sequence[int]
) -> NDArray[np.bool_]:
    """Say which rows of a split no later attempt has replaced.

    A training row is dead if a later attempt began at or before its `train_step`. A row of another
    split is dead if one began before it; of those at exactly that `train_step`, it is dead only if a
    later attempt has recorded the split there again.

    Parameters
    ----------
    split : str
        Name of the split.
    train_step, attempt : numpy.ndarray
        int64 [row], see `schema.ROWS`.
    starts : sequence of int
        The root attribute `attempts`.

    Returns
    -------
    numpy.ndarray
        bool [row].

    Raises
    ------
    StoreError
        If a row belongs to an attempt that is not listed; the reason only.
    """
    if bool(((attempt < 0) | (attempt >= len(starts))).any()):
        raise StoreError(
            f"rows of {split!r} belong to attempt {attempt.max()}, of {len(starts)} that there were"
        )
    later = np.array([*starts[1:], np.iinfo(np.int64).max], np.int64)
    limit = np.minimum.accumulate(later[::-1])[::-1][attempt]
    is_live: NDArray[np.bool_] = train_step < limit
    if split != "train":
        places, place = np.unique(train_step, return_inverse=True)
        newest = np.zeros(len(places), np.int64)
        np.maximum.at(newest, place, attempt)
        is_live |= (train_step == limit) & (newest[place] == attempt)
    return is_live


def live_entries(starts: Sequence[int], groups: Mapping[str, xr.Dataset]) -> dict[str, NDArray[np.int64]]:
    """Find the rows that no later attempt has replaced, and the entries of child groups that belong to them.

    Parameters
    ----------
    starts : sequence of int
        The root attribute `attempts`.
    groups : mapping of str to xarray.Dataset
        Path of each group, ``/train/raw`` -> its data.

    Returns
    -------
    dict of str to numpy.ndarray
        Path of each group that has entries -> int64, ascending numbers of the live ones along the dim
        that `index_names` names.

    Raises
    ------
    StoreError
        If a row belongs to an attempt that is not listed; the reason only.
    """
    live: dict[str, NDArray[np.int64]] = {}
    kept: dict[str, NDArray[Any]] = {}
    for path, group in sorted(groups.items()):  # every split before its children
        dim, step, attempt = index_names(group)
        split = path.split("/")[1]
        if not dim or split not in SPLITS:
            continue
        if path == f"/{split}":
            is_live = live_rows(split, group["train_step"].values, group[attempt].values, starts)
            kept[split] = _places(group, step, attempt)[is_live]
        else:
            is_live = np.isin(_places(group, step, attempt), kept[split])
        live[path] = np.flatnonzero(is_live)
    return live


def index_names(group: xr.Dataset) -> tuple[str, str, str]:
    """Name the dim of the entries of a group, and where the step and the attempt of their rows are.

    All are "" for a group that has no entries of its own.
    """
    for step, attempt in (("sample_step", "attempt"), ("row_step", "row_attempt"), ("step", "attempt")):
        if step in group.variables:
            (dim,) = group[step].dims
            return str(dim), step, attempt
    return "", "", ""


def _places(group: xr.Dataset, step: str, attempt: str) -> NDArray[Any]:
    """Return step and attempt as one value each [entry]."""
    found = np.empty(group[step].size, [("step", np.int64), ("attempt", np.int64)])
    found["step"], found["attempt"] = group[step], group[attempt]
    return found
