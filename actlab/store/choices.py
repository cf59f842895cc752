"""What is chosen from the outputs of a layer, kept or counted, by label and unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.errors import SelectionError
from actlab.schema import LABEL

__all__ = ["choose_counts", "choose_values"]


def choose_values(kept: xr.Dataset, label: int | None, unit: int | None) -> NDArray[Any]:
    """Return the kept values [value] of one true class, of one unit, or all.

    Parameters
    ----------
    kept : xarray.Dataset
        values [sample, ...], the units along `unit`, and, where labels were given, label [sample]
        or [sample, k] (0/1).
    label, unit : int, optional
        What is asked for.

    Raises
    ------
    SelectionError
        If there is no such label or unit.
    """
    values = kept["values"]
    if label is not None:
        if LABEL.name not in kept:
            raise SelectionError(f"no label {label!r}: the run was recorded without labels")
        labels = kept[LABEL.name].values
        if labels.ndim == 2 and not np.isin(labels, (0, 1, LABEL.fill)).all():
            raise SelectionError(f"no label {label!r}: every sample has several classes")
        hit = labels[:, label] == 1 if labels.ndim == 2 and 0 <= label < labels.shape[1] else labels == label
        if hit.ndim != 1 or not hit.any():
            raise SelectionError(f"no sample of label {label!r} among those selected")
        values = values.isel(sample=hit)
    if unit is not None:
        if "unit" not in values.dims:
            raise SelectionError(f"no unit {unit!r}: only the outputs of the head have units")
        _check_unit(unit, values.sizes["unit"])
        values = values.isel(unit=unit)
    chosen: NDArray[Any] = values.values
    return chosen.ravel()


def choose_counts(counts: xr.DataArray, label: int | None, unit: int | None) -> xr.DataArray:
    """Return the counts [bucket] of one unit, or of one true class in its own unit.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts of the head [unit, truth, bucket]; the attribute `units` says "each" or "pooled".
    label, unit : int, optional
        What is asked for, one of the two at least.

    Raises
    ------
    SelectionError
        If there is no such label or unit, or counts by unit and truth cannot tell.
    """
    units = counts.sizes["unit"]
    if counts.attrs["units"] == "pooled":
        raise SelectionError("no counts by label or unit: the head is large, its units were counted together")
    if unit is not None:
        _check_unit(unit, units)
    if label is None:
        return counts.isel(unit=unit).sum("truth")
    if units > 1 and label != unit:
        raise SelectionError(
            f"no counts of label {label!r} alone: the head is large, it was counted by unit, yes and no; "
            f"label={label!r} with unit={label!r} is known"
        )
    truth = "yes" if units > 1 or label == 1 else "no"
    chosen = counts.sel(truth=truth, drop=True).isel(unit=unit or 0)
    if label < 0 or (units == 1 and label > 1) or not chosen.any():
        raise SelectionError(f"no sample of label {label!r} among those selected")
    return chosen


def _check_unit(unit: int, units: int) -> None:
    """Refuse a unit that the head does not have."""
    if not 0 <= unit < units:
        raise SelectionError(f"no unit {unit!r}: the head has units 0 to {units - 1}")
