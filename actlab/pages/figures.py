"""The Bokeh figures of the page: empty frames with named models, which the page's own script fills.

Nothing here holds text of a user or a callback: Bokeh gets numbers and these fixed words only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    FixedTicker,
    LogColorMapper,
    Range1d,
    ResetTool,
    SaveTool,
    WheelZoomTool,
)
from bokeh.models.annotations import BoxAnnotation, ColorBar, Label, Span, Title
from bokeh.plotting import figure

from actlab.charts.look import FONT
from actlab.charts.palette import EPOCH, SETS, VIRIDIS, ZERO

__all__ = ["detail_figures", "quiet_figure", "twin_figure"]

_ABOVE, _BELOW, _ODD, _BROKEN, _MARK = ZERO, SETS["train"], "#7a8794", "#cc79a7", "#d6106a"
_COUNT, _KEPT = "#e69f00", "#1f7a74"
_LEFT, _RIGHT = 70, 110  # the same everywhere keep the strips under their columns; usual numbers fit in them


def quiet_figure(height: int, name: str, **options: Any) -> figure:
    """Return an empty figure in the look of the page.

    Parameters
    ----------
    height : int
        In pixels; the width is that of the page.
    name : str
        By which the script finds it; ids of elements begin with ``figure-``.
    **options
        Of `bokeh.plotting.figure`.
    """
    options |= {"tools": ""}  # which Bokeh's stubs do not know where `attrs` is installed
    frame = figure(
        height=height,
        name=name,
        sizing_mode="stretch_width",
        toolbar_location=None,
        output_backend="canvas",
        min_border_left=_LEFT,
        min_border_right=_RIGHT,
        **options,
    )
    frame.grid.grid_line_alpha = 0.6
    frame.border_fill_color = None  # the page shows through, in either theme
    for axis in frame.axis:
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.minor_tick_line_color = None
        axis.axis_line_color = None
        axis.major_tick_in = 0
    return frame


def _tools(frame: figure) -> None:
    """Give zoom along the batches: drag a window, ctrl and wheel, reset; the page scrolls freely."""
    zoom = BoxZoomTool(dimensions="width")
    frame.add_tools(zoom, WheelZoomTool(dimensions="width", modifiers="ctrl"), ResetTool(), SaveTool())
    frame.toolbar.active_drag = zoom
    frame.toolbar.logo = None
    frame.toolbar_location = "above"


def _cased(frame: figure, name: str, **look: Any) -> None:
    """Draw a white line on a wider black one, which reads on any colour."""
    source = ColumnDataSource({"x": [], "y": []})
    frame.line("x", "y", source=source, color="#000000", line_width=3.4, name=f"{name}_case")
    frame.line("x", "y", source=source, color="#ffffff", line_width=1.5, name=name, **look)


def _cased_spans(frame: figure, name: str, color: str, alpha: float) -> None:
    """Draw lines from bottom to top, each on a wider white one."""
    for part, look, width, opacity in ((f"{name}_case", "#ffffff", 3.2, alpha), (name, color, 1.8, 1.0)):
        source = ColumnDataSource({"x": []})
        frame.vspan(x="x", source=source, line_color=look, line_width=width, line_alpha=opacity, name=part)


def _color_bar(frame: figure) -> LogColorMapper:
    """Add the colour bar in counts; its ticks and labels are set per layer by the page."""
    mapper = LogColorMapper(palette=VIRIDIS, low=1, high=10, nan_color="#00000000", name="color_mapper")
    bar = ColorBar(
        name="color_bar",
        color_mapper=mapper,
        ticker=FixedTicker(ticks=[]),
        width=12,
        padding=8,
        margin=0,
        title=None,
        label_standoff=6,
        border_line_color=None,
        background_fill_color=None,
        major_label_text_font=FONT,
        major_label_text_font_size="12px",
        bar_line_color=None,
        major_tick_line_color=None,
    )
    frame.add_layout(bar, "right")
    # Beside the bar: above it, a title would make the border wider and move the columns off their strips.
    title = Title(
        name="color_title",
        text="count per batch",
        align="center",
        standoff=0,
        text_font=FONT,
        text_font_size="12px",
        text_font_style="normal",
    )
    frame.add_layout(title, "right")
    return mapper


def _colorful(x_range: Range1d, y_range: Range1d) -> figure:
    """Return the colorful dimension: image, lines, spans and colour bar."""
    frame = quiet_figure(
        430, "detail", x_range=x_range, y_range=y_range, x_axis_label="batch", y_axis_label="activation value"
    )
    frame.min_border_bottom, frame.min_border_top = 48, 6
    for axis in frame.axis:
        axis.ticker = FixedTicker(ticks=[])  # the page places and names them: a row is not its batch
    frame.grid.visible = False
    place: dict[str, Any] = {"x": "x", "y": "y", "dw": "dw", "dh": "dh", "color_mapper": _color_bar(frame)}
    nothing: dict[str, Any] = {
        "image": [np.zeros((1, 1), np.float32)],
        "x": [0],
        "y": [0],
        "dw": [1],
        "dh": [1],
    }
    frame.image("image", source=ColumnDataSource(nothing), name="image", **place)
    _cased_spans(frame, "epochs", EPOCH, 0.6)
    frame.add_layout(Span(location=0, dimension="width", line_color=ZERO, line_width=1.2, name="zero"))
    _cased(frame, "mean")
    for side in ("std_upper", "std_lower"):
        _cased(frame, side, line_dash=[6, 4])
    histograms = {
        "quarter_histograms": "#8a8a8a",
        "valid_histograms": SETS["valid"],
        "epoch_histograms": "#000000",
    }
    for name, color in histograms.items():
        source = ColumnDataSource({"xs": [], "ys": []})
        frame.multi_line("xs", "ys", source=source, color="#ffffff", line_width=4, name=f"{name}_case")
        frame.multi_line("xs", "ys", source=source, color=color, line_width=1.8, name=name)
    frame.add_layout(
        BoxAnnotation(name="chosen_epoch", fill_alpha=0, line_width=3, line_alpha=1, visible=False)
    )
    _cased_spans(frame, "mark", _MARK, 1.0)
    # Along the upper edge of the frame, which cuts off half of it.
    frame.line(
        "x", "y", source=ColumnDataSource({"x": [], "y": []}), color=_MARK, line_width=10, name="mark_span"
    )
    frame.add_layout(Span(name="cursor", dimension="height", line_width=1, line_alpha=0.7, visible=False))
    _tools(frame)
    return frame


def _marginal(y_range: Range1d) -> figure:
    """Return the histogram of one column, beside the chart."""
    frame = quiet_figure(
        430, "marginal", x_range=Range1d(start=0, end=1), y_range=y_range, x_axis_label="count per batch"
    )
    frame.min_border_left = frame.min_border_right = 14
    frame.min_border_bottom, frame.min_border_top = 48, 30
    frame.yaxis.visible = False
    frame.xaxis.ticker = FixedTicker(ticks=[])
    frame.harea_step("x1", "x2", "y", step_mode="center", name="column_histogram", fill_alpha=0.75,
                     source=ColumnDataSource({"x1": [0, 0], "x2": [0, 0], "y": [0, 1]}))  # fmt: skip
    frame.line("x", "y", source=ColumnDataSource({"x": [], "y": []}), name="epoch_average", line_width=1.4)
    return frame


def _strip(name: str, x_range: Range1d, height: int, colors: Sequence[str]) -> figure:
    """Return a strip under the chart, with one bar per column and colour."""
    frame = quiet_figure(height, name, x_range=x_range, y_range=Range1d(start=0, end=1))
    frame.min_border_top = frame.min_border_bottom = 6
    frame.xaxis.visible = False
    frame.grid.visible = False
    frame.yaxis.ticker = FixedTicker(ticks=[])
    for number, color in enumerate(colors):
        source = ColumnDataSource({"left": [], "right": [], "top": [], "bottom": []})
        frame.quad("left", "right", "top", "bottom", source=source, color=color, line_width=0.5,
                   name=f"{name}_{number}")  # fmt: skip
    return frame


def detail_figures(n_rows: int, h_min: float, h_max: float) -> dict[str, figure]:
    """Make the frames of the detail chart.

    Parameters
    ----------
    n_rows : int
        Recorded batches, the length of the x axis.
    h_min, h_max : float
        The y axis.

    Returns
    -------
    dict of str to bokeh.plotting.figure
        ``detail``, ``marginal``, ``strip_range``, ``strip_hidden`` and ``strip_nonfinite``.
    """
    x_range = Range1d(start=0, end=n_rows, bounds=(0, n_rows), min_interval=min(8, n_rows), name="batches")
    y_range = Range1d(start=h_min, end=h_max, name="values")
    return {
        "detail": _colorful(x_range, y_range),
        "marginal": _marginal(y_range),
        "strip_range": _strip("strip_range", x_range, 66, (_ABOVE, _BELOW)),
        "strip_hidden": _strip("strip_hidden", x_range, 48, (_ODD, ZERO, _COUNT, _KEPT, _COUNT)),
        "strip_nonfinite": _strip("strip_nonfinite", x_range, 48, (_BROKEN,)),
    }


def twin_figure(h_min: float, h_max: float) -> figure:
    """Make the frame of the Twin Peaks.

    Parameters
    ----------
    h_min, h_max : float
        The x axis; the page sets both axes anew with each range.

    Returns
    -------
    bokeh.plotting.figure
        With a curve for each split (``train``), the areas and curves ``truth_yes`` and ``truth_no`` of
        one split, which the page colours like its curve, and the marks ``yes`` and ``no``.
    """
    ranges = {
        "x_range": Range1d(start=h_min, end=h_max, name="outputs"),
        "y_range": Range1d(start=0, end=1, name="shares"),
    }
    frame = quiet_figure(
        360, "twin", **ranges, x_axis_label="value of the last layer", y_axis_label="share of values per bin"
    )
    frame.min_border_left = 72  # room for 100%: the frame must not move when the epochs play
    frame.min_border_right, frame.min_border_bottom, frame.min_border_top = 28, 48, 12
    # From back to front: zero and marks, areas, curves of YES and NO, curves of the splits.
    frame.add_layout(
        Span(
            name="twin_zero",
            location=0,
            dimension="height",
            line_color=ZERO,
            line_width=1.2,
            level="underlay",
        )
    )
    truths = {part: ColumnDataSource({"x": [], "y": []}) for part in ("truth_no", "truth_yes")}
    for name, source in truths.items():
        frame.varea("x", 0, "y", source=source, alpha=0.13, name=f"{name}_area")
    for name, source in truths.items():
        frame.line("x", "y", source=source, line_width=1.5, line_dash=[2, 3], name=name)
    for split, color in SETS.items():
        dash = [7, 4] if split == "test" else "solid"
        source = ColumnDataSource({"x": [], "y": []})
        frame.line("x", "y", source=source, color=color, line_width=2, line_dash=dash, name=split)
    for mark in ("no", "yes"):
        frame.add_layout(
            Span(
                name=mark,
                dimension="height",
                line_dash=[2, 3],
                line_width=1.5,
                visible=False,
                level="underlay",
            )
        )
        frame.add_layout(
            Label(
                name=f"{mark}_label",
                x=0,
                y=0,
                y_units="screen",
                x_offset=5,
                text="",
                visible=False,
                text_font=FONT,
                text_font_size="12px",
                text_font_style="bold",
            )
        )
    for axis in frame.axis:
        axis.ticker = FixedTicker(ticks=[])  # the page places and names them
    return frame
