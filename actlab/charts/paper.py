"""A sheet for figures in papers, drawn by matplotlib in the colours of the other charts."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextToPath
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from actlab.charts.look import DOT
from actlab.charts.palette import log_palette

__all__ = ["INK", "LINE", "Scale", "Sheet", "count_image", "fitted"]

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
_BIG: Final = 14
_SMALL: Final = 10.5
_LINE: Final = 16
"""Pixels from line to line."""
_EDGE: Final = 10
_SPACED: Final = 1.06
"""Letters set on whole pixels take a little more room than they measure."""
_KEY: Final = 2 + 0.6 + 1.4
"""What a key takes beside its text: a line, and the room around it, in sizes of the letters."""


def _width(text: str, pixels: float, weight: str = "normal") -> float:
    """Return how wide a text is in pixels, written in letters of a size in pixels."""
    letters = FontProperties(size=pixels * LINE, weight=weight)
    across, _, _ = TextToPath().get_text_width_height_descent(text, letters, ismath=False)
    return _SPACED * float(across) / LINE


def fitted(text: str, pixels: float, room: float, weight: str = "normal") -> str:
    """Return a text, cut where it is too wide.

    Parameters
    ----------
    text : str
        A single line.
    pixels, room : float
        Size of the letters, and most width, in pixels.
    weight : "normal" or "bold"
        Of the letters.
    """

    def cut(n: int) -> str:
        return f"{text[:n].rstrip()}\N{HORIZONTAL ELLIPSIS}"

    if _width(text, pixels, weight) <= room:
        return text
    return cut(max(bisect(range(len(text)), room, key=lambda n: _width(cut(n), pixels, weight)) - 1, 0))


def _wrapped(parts: Sequence[str], room: float) -> list[str]:
    """Set parts of a text in lines; one that is too wide for a line is parted at its words."""
    lines: list[str] = []
    for part in parts:
        between = DOT
        for piece in [part] if _width(part, _SMALL) <= room else part.split():
            longer = f"{lines[-1]}{between}{piece}" if lines else piece
            if lines and _width(longer, _SMALL) <= room:
                lines[-1] = longer
            else:
                lines.append(fitted(piece, _SMALL, room))
            between = " "
    return lines


class Sheet:
    """A white sheet with places measured in pixels of the screen, 96 to the inch.

    Parameters
    ----------
    width, height : int
        Size of what is inside the margins.
    left, right, bottom : int
        The margins; that above grows with what `head` writes.
    """

    def __init__(self, width: int, height: int, *, left: int, right: int, bottom: int) -> None:
        self._left, self._right, self._bottom, self._inside = left, right, bottom, (width, height)
        self._places: list[tuple[Axes, tuple[float, float, float, float]]] = []
        self.figure = Figure(facecolor="white")

    def place(self, x: float, y: float, width: float, height: float) -> Axes:
        """Return axes at some pixels right of and below the inner corner."""
        axes = self.figure.add_axes((0, 0, 1, 1), label=str(len(self._places)))
        self._places.append((axes, (x, y, width, height)))
        axes.spines[:].set_color(_FRAME)
        axes.spines[:].set_linewidth(0.6 * LINE)
        axes.tick_params(colors=INK, labelsize=11 * LINE, length=3, width=0.6 * LINE, color=_FRAME)
        return axes

    def head(self, title: str, said: Sequence[str], keys: Sequence[Line2D] = ()) -> None:
        """Write the title, what is said under it, and what explains the lines; then the sheet is done.

        The keys stand right of the title where there is room for both, else under all.
        """
        width, height = self._inside
        across = self._left + width + self._right
        room = across - self._left - _EDGE
        name, lines = fitted(title, _BIG, room, "bold"), _wrapped(said, room)
        items = [_KEY * _SMALL + _width(str(key.get_label()), _SMALL) for key in keys]
        is_beside = _width(name, _BIG, "bold") + 2 * _SMALL + sum(items) <= width
        columns = len(items) if is_beside else max(int(room // max([*items, 1])), 1)
        top = 22 + _LINE * (len(lines) + (0 if is_beside else -(-len(items) // columns))) + 12
        self._settle(across, top)
        for number, text in enumerate((name, *lines)):
            big = number == 0
            self.figure.text(
                self._left / across,
                1 - (22 + _LINE * number) / (top + height + self._bottom),
                text,
                fontsize=(_BIG if big else _SMALL) * LINE,
                fontweight="bold" if big else "normal",
                color=INK if big else _QUIET,
            )
        if keys:
            x, y = (self._left + width, 10) if is_beside else (self._left, 30 + _LINE * len(lines))
            self.figure.legend(
                handles=list(keys), loc="upper right" if is_beside else "upper left", ncols=columns,
                bbox_to_anchor=(x / across, 1 - y / (top + height + self._bottom)), frameon=False,
                borderaxespad=0, borderpad=0, fontsize=_SMALL * LINE, labelcolor=_QUIET, columnspacing=1.4,
                handletextpad=0.6, labelspacing=0.35,
            )  # fmt: skip

    def _settle(self, across: int, top: float) -> None:
        """Give the figure its size and each of the axes its place."""
        down = top + self._inside[1] + self._bottom
        self.figure.set_size_inches(across / _INCH, down / _INCH)
        for axes, (x, y, width, height) in self._places:
            box = ((self._left + x) / across, (down - top - y - height) / down, width / across, height / down)
            axes.set_position(box)

    def color_bar(self, scale: Scale, labels: dict[float, str], title: str) -> None:
        """Draw the colour bar of a scale right of what is inside."""
        width, height = self._inside
        axes = self.place(width + 14, 0, _BAR, min(height, _BAR_HEIGHT))
        bar = self.figure.colorbar(ScalarMappable(**_colors(scale)), cax=axes)
        axes.yaxis.set_minor_locator(NullLocator())
        bar.set_ticks(list(labels), labels=list(labels.values()))
        axes.spines[:].set_visible(False)
        bar.set_label(title, fontsize=11 * LINE, color=INK)


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
