"""Colours: one map for counts, one colour for each set, one for zero.

Viridis is readable for the colour-blind; the set colours are those of Okabe and Ito.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from bokeh.palettes import Viridis256
from numpy.typing import NDArray

__all__ = [
    "EPOCH",
    "PALE",
    "PALE_DARK",
    "SETS",
    "VIRIDIS",
    "ZERO",
    "count_limits",
    "log_palette",
    "translucent_palette",
]

VIRIDIS: Final[tuple[str, ...]] = tuple(color.lower() for color in Viridis256)
SETS: Final = {"train": "#0072b2", "valid": "#e69f00", "test": "#009e73"}
"""Colour of each split."""
ZERO: Final = "#d55e00"
"""Colour of the line at value 0."""
EPOCH: Final = "#2f4fd0"
"""Colour of the line at which an epoch starts."""

_FAINT: Final = "#7a66ad"
"""For less than one count per batch: this, let through by the share in `_FAINT_ALPHA`."""
_FAINT_ALPHA: Final = np.linspace(0.14, 0.69, 64)
"""From hardly anything to one count per batch; then viridis starts dark."""


def _over(background: str) -> tuple[str, ...]:
    """Return `_FAINT` as it looks on a background."""
    below, above = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (background, _FAINT))
    mixed = below + _FAINT_ALPHA[:, None] * (above - below)
    return tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in mixed.round().astype(int))


PALE: Final = _over("#ffffff")
"""The faint colours on white."""
PALE_DARK: Final = _over("#1a1d24")
"""The faint colours on a dark page."""


def _faint_steps(low: float, high: float, one: float, size: int) -> NDArray[np.int64]:
    """Return which of the faint colours a log scale of `size` colours begins with; see `log_palette`."""
    share = np.log(one / low) / np.log(high / low)
    n_faint = int(np.clip(np.rint(share * size), 0, size - 1))
    return np.linspace(0, len(_FAINT_ALPHA) - 1, n_faint).round().astype(np.int64)


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
    pale = [PALE[step] for step in _faint_steps(low, high, one, size)]
    steps = np.linspace(0, len(VIRIDIS) - 1, size - len(pale)).round().astype(int)
    return pale + [VIRIDIS[step] for step in steps]


def translucent_palette(low: float, high: float, one: float = 1.0, size: int = 256) -> list[str]:
    """Return `log_palette` for a page of any colour.

    Parameters
    ----------
    low, high, one, size
        As for `log_palette`.

    Returns
    -------
    list of str
        ``"#rrggbbaa"``: opaque but for what is rarer than `one`.
    """
    faint = [
        f"{_FAINT}{round(255 * alpha):02x}" for alpha in _FAINT_ALPHA[_faint_steps(low, high, one, size)]
    ]
    return faint + [f"{color}ff" for color in log_palette(low, high, one, size)[len(faint) :]]


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
