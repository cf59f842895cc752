"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from actlab.charts.limits import percent

__all__ = ["NONE", "TIMES", "amount", "lane", "number", "percent", "polyline", "rare", "shape", "spans"]

NONE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
_FLAT = 1e-6  # a spread below this share of the largest value is noise of the mean of a constant
_TINY = 1e-5  # a share that nobody reads as a percentage
_WORDS = ((1e15, ""), (1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def number(value: float) -> str:
    """Write a number with four significant digits; an en dash where there is none."""
    return f"{value:.4g}".replace("e+0", "e").replace("e+", "e") if math.isfinite(value) else NONE


def amount(value: float) -> str:
    """Write how many: ``20,000``, ``2.85 million``."""
    for size, word in _WORDS:
        if value >= size:
            return f"{value / size:.3g} {word}" if word else f"{value:.3g}"
    return f"{value:,.0f}"


def rare(share: float) -> str:
    """Write a share with two digits, a tiny one as one in so many: ``29%``, ``1 in 3.5 million``."""
    if share < _TINY:
        return f"1 in {amount(float(f'{1 / share:.2g}'))}"
    return f"{100 * share:.2g}%".replace("e+02", "00")


def shape(sizes: Sequence[int]) -> str:
    """Write an output shape: all sizes, the batch first."""
    return f" {TIMES} ".join(str(size) for size in sizes)


def spans(labels: Sequence[int], stride: int = 1, most: int = 4) -> str:
    """Write ascending whole numbers as ranges: ``0 to 55, 70 to 83``.

    Parameters
    ----------
    labels : sequence of int
        At least one, ascending.
    stride : int
        Distance of neighbours within a range.
    most : int
        More ranges than this are only counted.

    Returns
    -------
    str
    """
    starts = [at for at, label in enumerate(labels) if at == 0 or label - labels[at - 1] != stride]
    if len(starts) > most:
        return f"{labels[0]:,} to {labels[-1]:,}, in {len(starts):,} parts"
    ends = [at - 1 for at in starts[1:]] + [len(labels) - 1]
    return ", ".join(
        f"{labels[first]:,}" if first == last else f"{labels[first]:,} to {labels[last]:,}"
        for first, last in zip(starts, ends, strict=True)
    )


def polyline(values: Sequence[float], low: float, high: float, width: float, height: float) -> list[str]:
    """Turn numbers into the `points` of SVG polylines, broken where a number is missing.

    Parameters
    ----------
    values : sequence of float
        Evenly spaced, left to right.
    low, high : float
        Values at the bottom and at the top.
    width, height : float
        Size of the drawing.

    Returns
    -------
    list of str
        One text of points for each unbroken run.
    """
    step = width / max(len(values) - 1, 1)
    scale = height / ((high - low) or 1.0)
    runs: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if math.isfinite(value):
            runs[-1].append(f"{index * step:.1f},{height - (value - low) * scale:.1f}")
        elif runs[-1]:
            runs.append([])
    return [" ".join(run) for run in runs if run]


def lane(values: Sequence[float], width: float, height: float, ends: str = "") -> dict[str, Any]:
    """Draw numbers from the least to the largest; level and in the middle where all are the same.

    Parameters
    ----------
    values : sequence of float
        At least one of them finite.
    width, height : float
        Size of the drawing.
    ends : str
        What is said behind it in words, where the numbers end early.

    Returns
    -------
    dict
        ``lines`` as of `polyline`, ``ends`` (texts at the top and bottom, or one in the middle) and
        ``said``: what the lane shows, in words.
    """
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known), max(known)
    if high - low <= _FLAT * max(abs(low), abs(high)):
        level = [value if math.isnan(value) else 0.0 for value in values]
        said = number(known[0])
        return {
            "lines": polyline(level, -1, 1, width, height),
            "ends": [said],
            "said": f"constant at {said}{ends}",
        }
    return {
        "lines": polyline(values, low, high, width, height),
        "ends": [number(high), number(low)],
        "said": f"{number(known[0])} \N{RIGHTWARDS ARROW} {number(known[-1])}{ends}",
    }
