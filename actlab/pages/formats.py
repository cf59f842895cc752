"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["NONE", "TIMES", "amount", "number", "percent", "polyline", "shape"]

NONE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
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


def percent(share: float) -> str:
    """Write a share: ``0%`` only for exactly nothing, an en dash where there is none."""
    if not math.isfinite(share):
        return NONE
    if 0 < share < 0.0001:
        return "<0.01%"
    text = f"{share:.2%}" if share < 0.01 else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
    return "0%" if share == 0 else text


def shape(sizes: Sequence[int]) -> str:
    """Write an output shape: all sizes, the batch first."""
    return f" {TIMES} ".join(str(size) for size in sizes)


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
