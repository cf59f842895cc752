"""Which outputs of a layer are meant, by label and unit: chosen, or told apart, kept or counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.errors import SelectionError, nearest, nearest_number
from actlab.rebinning import bin_array, label_bins
from actlab.run.selection import is_whole, several
from actlab.schema import LABEL

__all__ = ["Part", "bin_kept", "choose_counts"]

_BLOCK: Final = 1 << 21  # values that are counted together
_NO_LABELS: Final = "the run was recorded without labels, or with the float targets of a regression"
_DIMS: Final = ("label", "unit")
_LABELS_OF_TRUTH: Final = {"unlabelled": int(LABEL.fill), "no": 0, "yes": 1}  # with a single unit


@dataclass(frozen=True)
class Part:
    """The outputs of one true class, of one unit, and by what the rest is told apart."""

    label: int | None = None
    unit: int | None = None
    by: tuple[str, ...] = ()

    @classmethod
    def of(cls, label: int | None, unit: int | None, by: str | Sequence[str] | None) -> Part:
        """Check what is asked for.

        Raises
        ------
        SelectionError
            If label or unit are no whole numbers, or `by` is no part of ("label", "unit") or names one
            that is given.
        """
        dims = () if by is None else tuple(several(by))
        for name, value in (("label", label), ("unit", unit)):
            if value is not None and not is_whole(value):
                raise SelectionError(f"{name} must be a whole number, got {value!r}")
            if value is not None and name in dims:
                raise SelectionError(
                    f"by={name!r} tells all apart, {name}={value!r} names one: give one of them"
                )
        for position, dim in enumerate(dims):
            if dim not in _DIMS or dim in dims[:position]:
                raise SelectionError(
                    f"by must be 'label', 'unit' or both, got {by!r}: {nearest(str(dim), _DIMS)}"
                )
        return cls(None if label is None else int(label), None if unit is None else int(unit), dims)

    @property
    def knows_label(self) -> bool:
        """Whether labels matter."""
        return self.label is not None or "label" in self.by


def bin_kept(kept: xr.Dataset, axis: LinearAxis, part: Part) -> xr.Dataset:
    """Count a part of the kept outputs of a layer exactly, some samples at a time.

    Parameters
    ----------
    kept : xarray.Dataset
        values [sample, ...], the units along `unit`, and, where labels were given, label [sample]
        or [sample, k] (0/1).
    axis : LinearAxis
        The bins wanted.
    part : Part
        What is asked for.

    Returns
    -------
    xarray.Dataset
        As `rebin`, the leading dims those of `part.by`.

    Raises
    ------
    SelectionError
        If there is no such label or unit.
    """
    values = _of_unit(kept["values"], part)
    sample, number, labels = _entries(kept, part)
    coords = {"label": labels} if "label" in part.by else {}
    if "unit" in part.by:
        coords["unit"] = np.arange(values.sizes["unit"])
        values = values.transpose("sample", ..., "unit")
    shape = tuple(each.size for each in coords.values())
    n_groups, n_units = int(np.prod(shape)), len(coords.get("unit", [0]))
    total = bin_array(np.empty(0), np.empty(0, np.int64), n_groups, axis)._asdict()
    for chosen, block in _blocks(values, sample, least=n_groups * axis.n_bins):
        group = number[chosen].reshape(-1, *[1] * (block.ndim - 1)) * n_units
        group = group + (np.arange(n_units) if "unit" in part.by else 0)
        found = bin_array(block.ravel(), np.broadcast_to(group, block.shape).ravel(), n_groups, axis)
        total = {name: total[name] + each for name, each in found._asdict().items()}
    variables = {
        name: ((*coords, "bin")[: len(shape) + each.ndim - 1], each.reshape((*shape, *each.shape[1:])))
        for name, each in total.items()
    }
    return label_bins(xr.Dataset(variables, coords), axis).transpose(*part.by, "bin")


def _blocks(
    values: xr.DataArray, sample: NDArray[np.int64], least: int
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Load the values of some samples [entry], ascending, block by block."""
    per_sample = max(values.size // max(values.sizes["sample"], 1), 1)
    height = max(1, max(_BLOCK, least) // per_sample)
    for start in range(0, sample.size, height):
        chosen = slice(start, start + height)
        yield chosen, values.isel(sample=sample[chosen]).values


def _of_unit(values: xr.DataArray, part: Part) -> xr.DataArray:
    """Return the values of one unit, or all; units that are asked for are there."""
    if (part.unit is not None or "unit" in part.by) and "unit" not in values.dims:
        asked = "histograms by unit" if part.unit is None else f"unit {part.unit!r}"
        raise SelectionError(f"no {asked}: only the outputs of the head have units")
    if part.unit is None:
        return values
    _check_unit(part.unit, values.sizes["unit"])
    return values.isel(unit=part.unit)


def _entries(kept: xr.Dataset, part: Part) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return which samples count [entry], ascending, the number of their label in all labels; and these."""
    n_samples = kept.sizes["sample"]
    if not part.knows_label:
        return np.arange(n_samples), np.zeros(n_samples, np.int64), np.zeros(1, np.int64)
    asked = "histograms by label" if part.label is None else f"label {part.label!r}"
    if LABEL.name not in kept:
        raise SelectionError(f"no {asked}: {_NO_LABELS}")
    label = kept[LABEL.name].values.astype(np.int64)
    sample = np.arange(n_samples)
    if label.ndim == 2:
        if not np.isin(label, (0, 1, LABEL.fill)).all():
            raise SelectionError(f"no {asked}: every sample has several classes")
        without = np.flatnonzero(~(label == 1).any(axis=1))
        hot, which = np.nonzero(label == 1)
        sample, label = np.append(hot, without), np.append(which, np.full(without.size, LABEL.fill))
    if part.label is not None:
        hit = label == part.label
        if not hit.any():
            raise SelectionError(_no_label(part.label, label))
        sample, label = sample[hit], label[hit]
    order = np.argsort(sample, kind="stable")
    labels, number = np.unique(label[order], return_inverse=True)
    return sample[order], number, labels


def choose_counts(counts: xr.DataArray, part: Part) -> xr.DataArray:
    """Return a part of the counts of a large head.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts of the head [unit, truth, bucket]; the attribute `units` says "each" or "pooled".
    part : Part
        What is asked for.

    Returns
    -------
    xarray.DataArray
        Counts [..., bucket], the leading dims those of `part.by`.

    Raises
    ------
    SelectionError
        If there is no such label or unit, or counts by unit and truth cannot tell.
    """
    units = counts.sizes["unit"]
    if counts.attrs["units"] == "pooled":
        raise SelectionError("no counts by label or unit: the head is large, its units were counted together")
    if part.unit is not None:
        _check_unit(part.unit, units)
    if not part.knows_label:
        found = counts.sum("truth").assign_coords(unit=np.arange(units))
    elif units == 1:
        found = _by_label(counts, part.label)
    else:
        found = _own_unit(counts, part)
    if part.unit is not None or (units == 1 and "unit" not in part.by):
        found = found.isel(unit=part.unit or 0, drop=True)
    return found.transpose(*part.by, "bucket")


def _by_label(counts: xr.DataArray, label: int | None) -> xr.DataArray:
    """Return the counts of a single unit of one label [unit, bucket], or of all [label, unit, bucket]."""
    named = counts.sel(truth=[*_LABELS_OF_TRUTH]).assign_coords(
        label=("truth", [*_LABELS_OF_TRUTH.values()]), unit=[0]
    )
    by_label = named.swap_dims(truth="label").drop_vars("truth")
    by_label = by_label.isel(label=by_label.any(("unit", "bucket")).values)
    if label is None:
        return by_label
    if label not in by_label["label"]:
        raise SelectionError(_no_label(label, by_label["label"].values))
    return by_label.sel(label=label, drop=True)


def _own_unit(counts: xr.DataArray, part: Part) -> xr.DataArray:
    """Return the counts of one true class [unit, bucket], which are known in its own unit alone."""
    if part.label is None:
        raise SelectionError(
            "no histograms by label: the large head was counted by unit, yes and no: by='unit' is known"
        )
    if part.label != part.unit:
        raise SelectionError(
            f"no counts of label {part.label!r} alone: the large head was counted by unit, yes and no; "
            f"label={part.label!r} with unit={part.label!r} is known"
        )
    yes = counts.sel(truth="yes", drop=True)
    if not yes.isel(unit=part.label).any():
        raise SelectionError(_no_label(part.label, np.flatnonzero(yes.any("bucket").values)))
    return yes


def _no_label(label: int, known: NDArray[np.int64]) -> str:
    """Say that no sample has a label, and which ones are there."""
    labels = known[known != LABEL.fill]
    return f"no sample of label {label!r} among those selected: {nearest_number(label, labels)}"


def _check_unit(unit: int, units: int) -> None:
    """Refuse a unit that the head does not have."""
    if not 0 <= unit < units:
        raise SelectionError(f"no unit {unit!r}: the head has units 0 to {units - 1}")
