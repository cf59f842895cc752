"""Ranges that show what there is: one for a whole run, one for all layers, or one for each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack, overload

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.errors import AxisError
from actlab.rebinning import Buckets, buckets_of, check_array
from actlab.stats.quantiles import quantile

if TYPE_CHECKING:
    from actlab.run import Run

__all__ = ["OUTSIDE", "RangeChoice", "check_choice", "default_range", "fit_axis", "shared_range"]
__all__ += ["symmetric_range"]

OUTSIDE: Final = 0.001
"""Share of the finite mass that a default range may leave out on each side."""

_ABSURD: Final = 1000
"""A layer so many times as large as the middle one, and as 1, does not make all others a line."""

_ABSURD_HEAD: Final = 1_000_000
"""The same for the head: its targets, such as prices, may well be larger than any layer."""

NICE: Final = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
"""Mantissas of a range that reads well."""

_FORMS: Final = (
    "a range must be 'symmetric', 'pX' with X from 0 to below 50 such as 'p0.1', or a pair (h_min, h_max)"
)


class RangeChoice(TypedDict, total=False):
    """What `fit_axis` takes, for those who hand it on: `range`, "symmetric" by default, and `n_bins`, 200."""

    range: str | tuple[float, float]
    n_bins: int


@overload
def fit_axis(
    counts: xr.DataArray, *, per_layer: Literal[False] = ..., **choice: Unpack[RangeChoice]
) -> LinearAxis: ...


@overload
def fit_axis(
    counts: xr.DataArray, *, per_layer: Literal[True], **choice: Unpack[RangeChoice]
) -> dict[str, LinearAxis]: ...


def fit_axis(
    counts: xr.DataArray, *, per_layer: bool = False, **choice: Unpack[RangeChoice]
) -> LinearAxis | dict[str, LinearAxis]:
    """Fit an axis to what was counted: one for all layers, or one for each.

    All dims but `layer` are pooled first. One range for all layers leaves out no more of any layer than
    that layer's own range would.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts [..., bucket] with the coordinates `lower` and `upper` of a `FloatAxis`; with or without
        the dim `layer`.
    range : str or pair of float, optional
        - "symmetric", the default: the smallest nice (-R, R) that leaves out at most 0.1 % of the finite
          values on each side, see `symmetric_range`;
        - "pX" with a number X from 0 to below 50, such as "p0.1": from the quantile X % to the quantile
          100 - X % of the finite values, see `quantile`; "p0" holds all of them, out to the largest float32;
        - (h_min, h_max): just these.
    n_bins : int, optional
        Number of bins, 1 to 10^6; 200 by default.
    per_layer : bool
        One axis for each layer, as `rebin` takes them.

    Returns
    -------
    LinearAxis or dict of str to LinearAxis
        Without finite values -1 to 1. Where "pX" begins and ends in one bucket (all values are one number,
        or so near each other that the counts cannot tell), that number v lies in the middle: 0 to 2 v, or
        -1 to 1 for v = 0.

    Raises
    ------
    AxisError
        If `range` or `n_bins` is none of these, `counts` are not on a `FloatAxis`, or have no dim `layer`
        with names to fit an axis per layer.
    """
    check_choice(None, choice)
    check_array(counts)
    names = _layers_of(counts) if per_layer else []
    wanted, n_bins = choice.get("range", "symmetric"), choice.get("n_bins", 200)
    if not isinstance(wanted, str):
        try:
            h_min, h_max = wanted
        except (TypeError, ValueError):
            raise AxisError(f"{_FORMS}, got {wanted!r}") from None
        axis = LinearAxis(h_min, h_max, n_bins)
        return dict.fromkeys(names, axis) if per_layer else axis
    share = _share_outside(wanted)
    pooled = counts.sum([dim for dim in counts.dims if dim not in ("layer", "bucket")])
    ends = quantile(pooled, (share, 1 - share)).values.reshape(-1, 2)
    span = _nice if wanted == "symmetric" else partial(_hull, buckets_of(counts))
    if per_layer:
        return {name: LinearAxis(*span(each), n_bins) for name, each in zip(names, ends, strict=True)}
    return LinearAxis(*span(ends), n_bins)


def check_choice(axis: object, choice: Mapping[str, Any]) -> None:
    """Refuse keywords that `RangeChoice` does not know, or any beside an axis.

    Raises
    ------
    TypeError
        If a keyword is unknown.
    AxisError
        If there is an axis, too.
    """
    if unknown := choice.keys() - RangeChoice.__annotations__.keys():
        raise TypeError(f"unexpected keyword {min(unknown)!r}: bins are chosen by range and n_bins")
    if axis is not None and choice:
        raise AxisError(f"an axis says all about the bins: leave out {' and '.join(choice)}")


def _layers_of(counts: xr.DataArray) -> list[str]:
    """Return the names of the layers, or raise `AxisError`."""
    if "layer" not in counts.dims or "layer" not in counts.coords:
        raise AxisError(f"an axis for each layer needs the dim 'layer', got the dims {[*counts.dims]}")
    return [str(name) for name in counts["layer"].values]


def _share_outside(words: str) -> float:
    """Return the share that a range in words may leave out on each side, or raise `AxisError`."""
    if words == "symmetric":
        return OUTSIDE
    found = re.fullmatch(r"p(\d+(?:\.\d+)?)", words)
    if found is None or float(found[1]) >= 50:
        raise AxisError(f"{_FORMS}, got {words!r}")
    return float(found[1]) / 100


def _nice(ends: NDArray[np.float64]) -> tuple[float, float]:
    """Return the smallest nice (-R, R) that reaches out to all ends [...], NaN for those of nothing."""
    reach = np.max(np.abs(ends), initial=0.0, where=np.isfinite(ends))
    if reach == 0:
        return -1.0, 1.0
    exponent = math.floor(math.log10(reach))
    # The decimal literal, not a product: 3 * 0.1 is not 0.3.
    reach = next(nice for step in NICE if (nice := float(f"{step}e{exponent}")) >= reach)
    return -reach, reach


def _hull(buckets: Buckets, ends: NDArray[np.float64]) -> tuple[float, float]:
    """Return the range that holds all ends [...], NaN for those of nothing, with a number in its middle."""
    known = ends[np.isfinite(ends)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if high <= buckets.ends[np.searchsorted(buckets.ends[1:-1], low, side="right") + 1]:
        middle = (low + high) / 2
        margin = abs(middle) or 1.0
        return middle - margin, middle + margin
    return low, high


def symmetric_range(counts: xr.DataArray) -> tuple[float, float]:
    """Return the smallest nice range (-R, R) that leaves out little of any row of counts.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts [..., bucket]; no row may have more than 0.1 % of its finite mass below -R or above R.

    Returns
    -------
    h_min, h_max : float
        R is 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times a power of ten; 1 if all values are zero.
    """
    return _nice(quantile(counts, (OUTSIDE, 1 - OUTSIDE)).values)


def default_range(run: Run, layers: str | Sequence[str] | None = None) -> tuple[float, float]:
    """Return one range for all layers of a run: all but 0.1 % of the finite mass on each side.

    The larger of two readings, all values pooled and every layer weighing the same, over the train
    split (over the others where there is none). Layers more than 1000 times as large as the middle one
    that is not all zero (the upper of the two, where the number is even), and larger than 1000, are left
    out. For the head, whose targets set its size, both are a million.

    Parameters
    ----------
    run : Run
        The run.
    layers : str or sequence of str, optional
        Patterns as in `Run.select_layers`; all layers by default.

    Returns
    -------
    h_min, h_max : float
        As `symmetric_range`.

    Raises
    ------
    SelectionError
        If a pattern matches no layer.
    """
    names = run.select_layers(layers)
    splits = ("train",) if "train" in run.splits else run.splits
    if not splits or not names:
        return -1.0, 1.0
    totals = [run.totals(split).sel(layer=names) for split in splits]
    return shared_range(sum(totals[1:], totals[0]), run.head)


def shared_range(counts: xr.DataArray, head: str | None) -> tuple[float, float]:
    """Return one range for all layers: the larger of two readings, as `default_range` has it.

    Parameters
    ----------
    counts : xarray.DataArray
        Pooled counts [layer, bucket].
    head : str or None
        Name of the head, which may be among the layers.

    Returns
    -------
    h_min, h_max : float
        As `symmetric_range`.
    """
    usual = counts.isel(layer=_usual(counts, head))
    finite = usual.isel(bucket=slice(1, -2)).sum("bucket")
    pooled = usual.sum("layer").astype(np.float64)
    alike: xr.DataArray = (usual / finite.where(finite > 0)).sum("layer")
    return symmetric_range(xr.concat([pooled, alike], "reading", coords="minimal", compat="override"))


def _usual(counts: xr.DataArray, head: str | None) -> NDArray[np.bool_]:
    """Tell which layers [layer] are not of absurd size, given pooled counts [layer, bucket]."""
    ends = quantile(counts, (OUTSIDE, 1 - OUTSIDE)).transpose("layer", ...).values
    size = np.nan_to_num(np.abs(ends).max(axis=1))  # NaN without values
    sizes = np.sort(size[size > 0])
    # The floor: where most layers vanish, ordinary ones are not absurd.
    middle = max(float(sizes[sizes.size // 2]), 1.0) if sizes.size else 1.0
    times = np.where(counts["layer"].values == head, _ABSURD_HEAD, _ABSURD)
    return np.asarray(size <= times * middle)
