"""A sheet for figures in papers, drawn by matplotlib in the colours of the other charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from actlab.charts.palette import log_palette

__all__ = ["INK", "LINE", "Scale", "Sheet", "count_image"]

Scale = tuple[float, float, float]
"""Ends low and high of a log scale, and where its pale colours end; see `palette.log_palette`."""

INK: Final = "#1c2126"
LINE: Final = 0.75
"""Points in a pixel of the screen, of which an inch has 96."""

_QUIET: Final = "#5b6570"
_FRAME: Final = "#8a949e"
_INCH: Final = 96
_BAR: Final = 12
_BAR_HEIGHT: Final = 420


class Sheet:
    """A white sheet with places measured in pixels of the screen, 96 to the inch.

    Parameters
    ----------
    width, height : int
        Size of what is inside the margins.
    left, right, top, bottom : int
        The margins.
    """

    def __init__(self, width: int, height: int, *, left: int, right: int, top: int, bottom: int) -> None:
        self.size = left + width + right, top + height + bottom
        self._left, self._top, self._inside = left, top, (width, height)
        self.figure = Figure((self.size[0] / _INCH, self.size[1] / _INCH), facecolor="white")

    def place(self, x: float, y: float, width: float, height: float) -> Axes:
        """Return axes at some pixels right of and below the inner corner."""
        across, down = self.size
        top = down - self._top - y
        box = ((self._left + x) / across, (top - height) / down, width / across, height / down)
        axes = self.figure.add_axes(box)
        axes.spines[:].set_color(_FRAME)
        axes.spines[:].set_linewidth(0.6 * LINE)
        axes.tick_params(colors=INK, labelsize=11 * LINE, length=3, width=0.6 * LINE, color=_FRAME)
        return axes

    def write(self, title: str, lines: list[str]) -> None:
        """Write the title, and smaller lines under it, from the left edge of what is inside."""
        for number, text in enumerate((title, *lines)):
            big = number == 0
            self.figure.text(
                self._left / self.size[0],
                1 - (22 if big else 22 + 16 * number) / self.size[1],
                text,
                fontsize=(14 if big else 10.5) * LINE,
                fontweight="bold" if big else "normal",
                color=INK if big else _QUIET,
            )

    def color_bar(self, scale: Scale, labels: dict[float, str], title: str) -> None:
        """Draw the colour bar of a scale right of what is inside."""
        width, height = self._inside
        axes = self.place(width + 14, 0, _BAR, min(height, _BAR_HEIGHT))
        bar = self.figure.colorbar(ScalarMappable(**_colors(scale)), cax=axes)
        axes.yaxis.set_minor_locator(NullLocator())
        bar.set_ticks(list(labels), labels=list(labels.values()))
        axes.spines[:].set_visible(False)
        bar.set_label(title, fontsize=11 * LINE, color=INK)

    def key(self, handles: Sequence[Line2D]) -> None:
        """Explain lines, right-aligned on the line of the title."""
        place = ((self._left + self._inside[0]) / self.size[0], 1 - 10 / self.size[1])
        look = {"fontsize": 10.5 * LINE, "labelcolor": _QUIET, "columnspacing": 1.4, "handletextpad": 0.6}
        self.figure.legend(
            handles=list(handles), loc="upper right", bbox_to_anchor=place, ncols=len(handles), frameon=False,
            borderaxespad=0, borderpad=0, **look,
        )  # fmt: skip


def _colors(scale: Scale) -> dict[str, Any]:
    """Return norm and colours of a log scale; what is masked stays white."""
    low, high, _ = scale
    return {"norm": LogNorm(low, high, clip=True), "cmap": ListedColormap(log_palette(*scale))}


def count_image(
    axes: Axes, cells: NDArray[np.floating[Any]], scale: Scale, extent: tuple[float, float, float, float]
) -> None:
    """Draw a grid, cell by cell, nothing smoothed; an SVG holds it without loss.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where.
    cells : numpy.ndarray
        Grid [y, x], the lowest row first; 0 and NaN stay white.
    scale : (float, float, float)
        Ends low and high, and where the pale colours end, see `palette.log_palette`.
    extent : (float, float, float, float)
        Left, right, bottom and top.
    """
    shown = np.ma.masked_where(~(cells > 0), cells)
    axes.imshow(
        shown, extent=extent, origin="lower", aspect="auto", interpolation="none", zorder=0, **_colors(scale)
    )
