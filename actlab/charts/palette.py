"""Colours: one map for counts, one colour for each set, one for zero.

Viridis is readable for the colour-blind; the set colours are those of Okabe and Ito.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from bokeh.palettes import Viridis256
from numpy.typing import NDArray

__all__ = ["EPOCH", "PALE", "PALE_DARK", "SETS", "VIRIDIS", "ZERO", "count_limits", "log_palette"]

VIRIDIS: Final[tuple[str, ...]] = tuple(color.lower() for color in Viridis256)
SETS: Final = {"train": "#0072b2", "valid": "#e69f00", "test": "#009e73"}
"""Colour of each split."""
ZERO: Final = "#d55e00"
"""Colour of the line at value 0."""
EPOCH: Final = "#2f4fd0"
"""Colour of the line at which an epoch starts."""

"""Colours of the marks of the Twin Peaks."""


def _ramp(first: str, last: str, size: int = 64) -> tuple[str, ...]:
    """Return `size` colours from `first` to `last` in equal steps."""
    start, stop = ([int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (first, last))
    steps = np.linspace(start, stop, size).round().astype(int)
    return tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in steps)


PALE: Final = _ramp("#ece7f2", "#a395c6")
"""For less than one count per batch, on white: hardly anything to one; then viridis starts dark."""
PALE_DARK: Final = _ramp("#2b2833", "#4a3a66")
"""The same on a dark page."""


def log_palette(low: float, high: float, one: float = 1.0, size: int = 256) -> list[str]:
    """Return colours in equal steps of the logarithm, with a pale ramp for what is rarer than `one`.

    Parameters
    ----------
    low, high : float
        Ends of the scale; 0 < low < high.
    one : float
        Where viridis begins: one count per batch. A scale that ends below it is all pale but its top.
    size : int
        Number of colours.

    Returns
    -------
    list of str
        ``"#rrggbb"``, lowest first.
    """
    share = np.log(one / low) / np.log(high / low)
    n_pale = int(np.clip(np.rint(share * size), 0, size - 1))
    pale = [PALE[step] for step in np.linspace(0, len(PALE) - 1, n_pale).round().astype(int)]
    steps = np.linspace(0, len(VIRIDIS) - 1, size - n_pale).round().astype(int)
    return pale + [VIRIDIS[step] for step in steps]


def count_limits(counts: NDArray[np.floating[Any]], batches_per_column: int) -> tuple[float, float]:
    """Return the ends of the log colour scale of a layer.

    Parameters
    ----------
    counts : numpy.ndarray
        Mean counts per batch, any shape.
    batches_per_column : int
        One value in a column counts 1 / batches_per_column; a tenth of it is the least that is told
        apart, less is a crumb of a value shared by bins.

    Returns
    -------
    low, high : float
        Counts per batch, low at most 1, high at least ten times low.
    """
    present = counts[counts > 0]
    low = max(float(present.min(initial=1.0)), 0.1 / batches_per_column)
    return low, max(float(present.max(initial=1.0)), 10 * low)
