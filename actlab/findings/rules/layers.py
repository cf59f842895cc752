"""What rules about single layers share: which families learn, and the rows of a layer that count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.findings.facts import Facts

__all__ = ["HAS_WEIGHTS", "IS_NORM", "LEAST_ROWS", "NO_ROWS", "broken", "largest", "late"]
__all__ += ["layer_rows", "span"]

IS_NORM: Final = r"(?:batch|layer|group|instance|rms)norm|localresponsenorm"
"""Matches families that put mean and spread of units right."""

HAS_WEIGHTS: Final = r"linear|conv|embedding|rnn|lstm|gru|multiheadattention|norm"
"""Matches families that learn."""

LEAST_ROWS: Final = 10
"""Batches below which nothing that has to last is told."""

NO_ROWS: Final = f"needs {LEAST_ROWS} batches of a layer that it looks at"
"""What is lacking below that."""


def layer_rows(
    facts: Facts, layer: str, least: int = LEAST_ROWS, splits: Sequence[str] | None = None
) -> tuple[str, xr.Dataset] | None:
    """Return the rows of a layer, those of the training if there are enough.

    Rows in which the layer was not called are left out, and those of less than half the usual
    number of values: the shares of the last, small batch of an epoch are noise.

    Parameters
    ----------
    facts : Facts
        The facts.
    layer : str
        The layer.
    least : int
        The least number of rows.
    splits : sequence of str, optional
        Where to look, in this order; by default in all.

    Returns
    -------
    tuple of str and xarray.Dataset, or None
        The split, and its rows [step]; None where no split has enough.
    """
    for split in facts.rows if splits is None else splits:
        rows = facts.rows[split].sel(layer=layer)
        n = rows["n"].values
        called = n > 0
        if called.any():
            chosen = np.flatnonzero(called & (n >= np.median(n[called]) / 2))
            if chosen.size >= least:
                return split, rows.isel(step=chosen)
    return None


def late(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the last quarter of rows [row, ...], five at least."""
    return values[-max(5, len(values) // 4) :]


def broken(rows: xr.Dataset) -> NDArray[np.float64]:
    """Return how many values are not finite, of rows in their dims."""
    counts = [rows[name].values for name in ("nan", "pos_inf", "neg_inf")]
    total: NDArray[np.float64] = np.sum(counts, axis=0, dtype=np.float64)
    return total


def largest(rows: xr.Dataset) -> NDArray[np.float64]:
    """Return the size of the largest finite value, of rows in their dims; NaN where there is none."""
    size: NDArray[np.float64] = np.fmax(np.abs(rows["min"].values), np.abs(rows["max"].values))
    return size


def span(rows: xr.Dataset, first: int = 0) -> tuple[int, int]:
    """Return the steps of a row, by its place, and of the last one."""
    step = rows["step"].values
    return int(step[first]), int(step[-1])
