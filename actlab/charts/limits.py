"""What a chart cannot show, in words that stand on the chart itself."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.run import Run

__all__ = ["apart", "caveats", "dropped_steps", "dropped_words", "epoch_words", "layer_info", "percent"]

_BOUND: Final = 0.05
"""Share of the counts that may lie one bin off without a word."""
_ODD: Final = 0.5
"""A batch that differs by more from the rest of its column is announced."""
_SPANS: Final = 3


def percent(share: float) -> str:
    """Write a share: ``0%`` and ``100%`` only for exactly none and all, an en dash for no share."""
    if not math.isfinite(share):
        return "\N{EN DASH}"
    if 0 < share < 0.0001:
        return "<0.01%"
    text = f"{share:.2%}" if share < 0.01 else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
    if text == "100%" and share < 1 - 1e-9:  # a sum of shares may be a rounding error below 1
        return ">99%"
    return "0%" if share == 0 else text


def apart(separation: float, overlap: float) -> str:
    """Say how far YES and NO are apart: ``d\N{PRIME} 2.14, overlap 28%``."""
    if not math.isfinite(separation):
        return "YES and NO are not both known"
    return f"d\N{PRIME} {float(f'{separation:.3g}'):g}, overlap {percent(overlap)}"


def epoch_words(label: int) -> str:
    """Name an epoch; negative labels are evaluations before any training."""
    return "untrained" if label < 0 else f"epoch {label}"


def layer_info(run: Run, layer: str) -> str:
    """Return kind and output shape of a layer, such as ``Linear, 64 \N{MULTIPLICATION SIGN} 10``."""
    row = run.layers.loc[layer]
    shape = " \N{MULTIPLICATION SIGN} ".join(str(size) for size in row["shape"] or ())
    return ", ".join(part for part in (str(row["kind"] or ""), shape) if part)


def dropped_steps(run: Run, split: str, rows: NDArray[np.int64]) -> list[str]:
    """Name the steps that were dropped while recording, beside rows that are shown.

    Parameters
    ----------
    run : Run
        The recorded training.
    split : str
        One of its splits.
    rows : numpy.ndarray
        Numbers of the rows shown [row], ascending.

    Returns
    -------
    list of str
        ``"40 to 55"`` or ``"40"``.
    """
    steps = run[split]["step"].values
    spans = []
    for first, last in run.gaps.get(split, []):
        after = int(np.searchsorted(steps, first))
        if np.isin([after - 1, after], rows).any():
            spans.append(f"{first:,}" if first == last else f"{first:,} to {last:,}")
    return spans


def caveats(one: xr.Dataset) -> list[str]:
    """Say what the colorful dimension of a layer leaves out.

    Parameters
    ----------
    one : xarray.Dataset
        A single layer of what `colorful_chart.prepare` returned.

    Returns
    -------
    list of str
        What a column is, the share out of range, and, where it matters, how many counts may lie one bin
        off, the batch that its column hides best, and the steps that were dropped.
    """
    k, lost = one.attrs["batches_per_column"], one.attrs["dropped"]
    bound, oddest = float(one["bound_share"]), one["oddest"].values
    said = [
        "one column = one batch" if k == 1 else f"one column = mean of {k:,} batches",
        f"{percent(float(one['total_out_of_range']))} out of range",
    ]
    nonfinite = float(one["nonfinite"].max())
    if nonfinite > 0:
        said.append(f"up to {percent(nonfinite)} of a column infinite or NaN")
    if bound > _BOUND:
        said.append(f"up to {percent(bound)} may lie one bin off")
    if k > 1 and oddest.max() > _ODD:
        at = int(oddest.argmax())
        step, share = int(one["oddest_step"][at]), percent(float(oddest[at]))
        said.append(f"batch {step:,} is hidden: {share} unlike its column")
    return [*said, *dropped_words(lost)]


def dropped_words(spans: list[str]) -> list[str]:
    """Put what `dropped_steps` returned into words, none where nothing was dropped."""
    more = ", ..." if len(spans) > _SPANS else ""
    return [f"dropped: steps {', '.join(spans[:_SPANS])}{more}"] if spans else []
