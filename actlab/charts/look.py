"""What the charts share when drawn: the view, the backend, fonts, names of the models behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, Final

import holoviews as hv
import xarray as xr
from bokeh.models import FixedTicker, PlainText
from bokeh.models.annotations import Title
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.errors import SelectionError, nearest
from actlab.run import Run
from actlab.stats import default_range

__all__ = ["CASING", "DOT", "FONT", "Hook", "asked", "color_bar", "head_of", "layout_title", "literal"]
__all__ += ["load_backend", "log_ticks", "named", "positions", "quiet", "subtitled", "view"]

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Helvetica, Arial, sans-serif"
CASING: Final = {"color": "#000000", "line_width": 3.4}
"""Look of the wider line under a white one: together they can be seen on any colour."""

DOT: Final = "  \N{MIDDLE DOT}  "
"""Stands between what a chart says about itself."""

Hook = Callable[[Any, Any], None]
"""Called by HoloViews with the plot, once it is made, and its element."""


def view(run: Run, h_min: float | None, h_max: float | None, n_bins: int) -> LinearAxis:
    """Return the bins asked for, a missing end taken from the run's default range.

    Raises
    ------
    AxisError
        If the range is empty, not finite, or too fine.
    """
    low, high = default_range(run) if h_min is None or h_max is None else (h_min, h_max)
    return LinearAxis(low if h_min is None else h_min, high if h_max is None else h_max, n_bins)


def asked(axis: LinearAxis, h_min: float | None, h_max: float | None, n_bins: int | None) -> LinearAxis:
    """Return the bins asked for; what is not said is that of an axis.

    Raises
    ------
    AxisError
        If the range is empty, not finite, or too fine.
    """
    return LinearAxis(
        axis.h_min if h_min is None else h_min,
        axis.h_max if h_max is None else h_max,
        axis.n_bins if n_bins is None else n_bins,
    )


def head_of(run: Run) -> str:
    """Return the head of a run.

    Raises
    ------
    SelectionError
        If it has none.
    """
    if run.head is None:
        said = "name a layer, in Python layer=NAME, else --layer NAME"
        raise SelectionError(f"{run.path} has no head: {said}; {nearest('', run.names)}")
    return run.head


def load_backend() -> None:
    """Make Bokeh draw, on a canvas: WebGL stalls and is of no use for a few images."""
    if "bokeh" not in hv.Store.loaded_backends():
        hv.extension("bokeh", logo=False)
    hv.renderer("bokeh").webgl = False


def named(name: str) -> Hook:
    """Return a hook that names the renderer (or span) of an element, so that scripts find it."""

    def hook(plot: Any, _: Any) -> None:
        plot.handles.get("glyph_renderer", plot.handles["glyph"]).name = name
        if "color_mapper" in plot.handles:
            plot.handles["color_mapper"].name = "color_mapper"

    return hook


def quiet(plot: Any, _: Any) -> None:
    """Set sans-serif text and remove chart junk, as a hook."""
    figure = plot.state
    figure.output_backend = "canvas"
    figure.toolbar.logo = None
    figure.title.text_font = FONT
    figure.title.text = _plain(figure.title.text)
    figure.outline_line_color = "#d5d9de"
    for axis in figure.axis:
        axis.axis_label = _plain(axis.axis_label)
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_style = "normal"
        axis.axis_line_color = axis.minor_tick_line_color = None
        axis.major_tick_line_color = "#8a949e"
    for legend in figure.legend:
        legend.label_text_font = FONT
        legend.border_line_color = None


def subtitled(text: str) -> Hook:
    """Return a hook that writes a line under the title."""

    def hook(plot: Any, _: Any) -> None:
        line = plot.state.select_one({"name": "subtitle"})
        if line is None:
            line = Title(name="subtitle", text_color="#5b6570", text_font=FONT, text_font_style="normal")
            line.text_font_size = "11px"
            plot.state.add_layout(line, "above")
        line.text = _plain(text)

    return hook


def _plain(text: Any) -> Any:
    """Keep Bokeh from taking a name like $$x$$ for a formula."""
    is_formula = isinstance(text, str) and any(start in text for start in ("$$", r"\(", r"\["))
    return PlainText(text=text) if is_formula else text


def literal(text: str) -> str:
    """Return a title that HoloViews, which formats it, writes as it is."""
    return text.replace("{", "{{").replace("}", "}}")


def layout_title(said: Iterable[str]) -> str:
    """Return what is said above several pictures, which HoloViews formats and sets as HTML.

    Parameters
    ----------
    said : iterable of str
        Plain text; names of layers may be anything.
    """
    style = f"color:#5b6570;background:#fff;font-weight:normal;font-family:{FONT}"
    return literal(f'<span style="{style}">{escape(DOT.join(said))}</span>')


def log_ticks(low: float, high: float) -> dict[float, str]:
    """Return the ticks of a log scale in counts per batch and what they say.

    Parameters
    ----------
    low, high : float
        Ends of the scale, 0 < low < high.

    Returns
    -------
    dict of float to str
        Powers of ten, and 2 and 5 times these on a short scale; below one ``"1 in 20"`` batches.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    # The decimal literal, not a product: 2 * 0.1 may differ from 0.2.
    values = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return {value: _count(value) for value in values if low <= value <= high}


def _count(value: float) -> str:
    """Write a count: 200, 5k, 2M; less than one as 1 in so many."""
    if value < 1:
        return f"1 in {round(1 / value):,}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def color_bar(labels: dict[float, str], title: str) -> dict[str, Any]:
    """Return the options of a colour bar with ticks of our own."""
    return {
        "title": title,
        "ticker": FixedTicker(ticks=list(labels)),
        "major_label_overrides": dict(labels),
        "major_label_text_font": FONT,
        "title_text_font": FONT,
        "title_text_font_style": "normal",
        "width": 14,
        "padding": 4,
        "bar_line_color": None,
        "major_tick_line_color": "#8a949e",
        "major_tick_in": 0,
        "major_tick_out": 4,
    }


def positions(data: xr.Dataset, row: NDArray[Any]) -> NDArray[Any]:
    """Turn row numbers into places on the x axis: `step` where steps are even, else the row.

    Parameters
    ----------
    data : xarray.Dataset
        What `columns.columns` returned.
    row : numpy.ndarray
        Numbers of rows, any shape; parts of rows, too.
    """
    stride = data.attrs["step_stride"]
    places: NDArray[Any] = (data.attrs["first_step"] if stride else 0) + row * (stride or 1)
    return places
