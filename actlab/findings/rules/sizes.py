"""What rules about scale share: how large values are, what of it differs by sample, which layers count."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from actlab.findings.facts import Facts
from actlab.findings.rules.layers import IS_NORM

__all__ = [
    "IS_RECURRENT",
    "IS_WEIGHTED",
    "differences",
    "faded",
    "first_known",
    "is_regression",
    "least_faded",
    "middle",
    "passed",
    "sizes",
    "unit_size",
]

IS_WEIGHTED: Final = r"^conv|linear$"
"""Matches families that multiply by weights."""

IS_RECURRENT: Final = r"^(?:rnn|lstm|gru)$"
"""Matches families of recurrent layers."""

_BUCKET: Final = (
    float(np.log(2)) / 32
)  # mean width of a bucket of the recording axis, as a share of its value
_LEAST_SAMPLES: Final = 8  # in fewer it is chance that a bucket holds a multiple of them
_LEAST_SAME: Final = 0.3  # what is less may be chance


def sizes(rows: xr.Dataset) -> NDArray[np.float64]:
    """Return the root mean square of the finite values of rows, in their dims; NaN where there are none."""
    squares: NDArray[np.float64] = np.hypot(rows["mean"].values.astype(np.float64), rows["std"].values)
    return squares


def first_known(values: NDArray[np.float64]) -> float:
    """Return the first finite value of a row of them, NaN without any."""
    known = values[np.isfinite(values)]
    return float(known[0]) if known.size else float("nan")


def middle(values: ArrayLike) -> NDArray[np.float64]:
    """Return the median over the first dim [step, ...], NaN left out; NaN where there is nothing else."""
    found: NDArray[np.float64] = xr.DataArray(values).astype(np.float64).median(dim="dim_0").values
    return found


def unit_size(facts: Facts, rows: xr.Dataset) -> NDArray[np.float64]:
    """Return the size that the layers of each row [step] are measured in: that of the input, 1 at least.

    Where no input is recorded it is that of the first layer at first.
    """
    has_input = "input" in facts.layers.index
    size = sizes(rows)[:, facts.order("input" if has_input else facts.layers.index[0])]
    return np.fmax(1, size if has_input else np.full(len(size), first_known(size)))


def differences(rows: xr.Dataset) -> NDArray[np.float64]:
    """Return how far the values of a layer differ from sample to sample at most, [step, layer].

    That is their standard deviation, units and samples taken together, or much less where all samples
    fall into the same buckets (`same` of `Facts.rows`): a value that ranges over the share r of the width
    of a bucket crosses an end of it with probability r.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        same = rows["same"].values / rows["n"].values
        is_known = (rows["samples"].values >= _LEAST_SAMPLES) & (same > _LEAST_SAME)
        within = np.where(is_known, sizes(rows) * _BUCKET * (1 - same), np.inf)
        return np.minimum(within, rows["std"].values.astype(np.float64))


def passed(facts: Facts) -> list[str]:
    """Return the layers that the signal passes: `input`, those with weights, norms, recurrent outputs."""
    kinds = facts.families
    names = kinds.index.to_series()
    is_output = kinds.str.contains(IS_RECURRENT) & names.str.endswith(":0")
    is_passed = kinds.str.contains(IS_WEIGHTED) | kinds.str.contains(IS_NORM) | is_output
    return [str(name) for name in names[is_passed | (names == "input")]]


def is_regression(facts: Facts) -> bool:
    """Tell whether outputs may be of any size: the targets are no classes, or are not known."""
    return facts.targets not in ("classes", "multi-hot", "binary")


def faded(difference: NDArray[np.float64], limit: float) -> NDArray[np.int64]:
    """Return how many of the last layers [step] hold next to nothing of what came before them.

    Parameters
    ----------
    difference : numpy.ndarray
        `differences` of the layers that the signal passes [step, layer].
    limit : float
        A layer is faded if it holds less than this share of the largest difference before it, or of 1
        where that is larger: models bring large inputs to that scale.
    """
    before = np.fmax.accumulate(np.nan_to_num(difference[:, :-1]), axis=1)
    is_faded = difference[:, 1:] < limit * np.minimum(before, 1)
    lasting: NDArray[np.int64] = np.logical_and.accumulate(is_faded[:, ::-1], axis=1).sum(axis=1)
    return lasting


def least_faded(facts: Facts, names: list[str], hidden: int = 1) -> int:
    """Return how many of the last of the layers that the signal passes must be faded to mean anything.

    So many hidden ones, or all there are, and the head behind them: heads that begin at zero are no loss.
    """
    is_hidden = [name not in ("input", facts.head) for name in names]
    return min(hidden, sum(is_hidden)) + (names[-1] == facts.head)
