"""The Bokeh figures of a comparison: empty frames with named models, which the page's script fills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bokeh.models import ColumnDataSource, FixedTicker, NumeralTickFormatter, Range1d
from bokeh.models.annotations import Span
from bokeh.plotting import figure

from actlab.pages.figures import quiet_figure

__all__ = ["comparison_figures", "comparison_twin_figure"]

_GREY: Final = "#8a93a3"  # seen on white as on dark


def comparison_figures(n_runs: int, h_min: float, h_max: float) -> dict[str, figure]:
    """Make the frames of the comparison of a layer.

    Parameters
    ----------
    n_runs : int
        Runs, the first of which the others are compared with.
    h_min, h_max : float
        Ends of the axis of values.

    Returns
    -------
    dict of str to bokeh.plotting.figure
        ``compare_curves`` with a line for each run (``curve_0`` ...), ``compare_difference`` and
        ``compare_distance`` with one for each but the first (``difference_1``, ``distance_1`` ...). Their
        ranges of heights are named ``compare_curves_heights`` and so on.
    """
    values = Range1d(start=h_min, end=h_max)
    curves = _frame("compare_curves", 250, values, "activation value", "share of values per bin")
    _zero(curves)
    apart = _frame("compare_difference", 200, values, "activation value", "difference")
    _zero(apart)
    apart.add_layout(Span(location=0, dimension="width", line_width=1, name="difference_zero"))
    epochs = _frame(
        "compare_distance", 200, Range1d(start=0, end=1, name="compare_epochs"), "epoch", "distance"
    )
    epochs.xaxis.ticker = FixedTicker(ticks=[])
    epochs.add_layout(
        Span(location=0, dimension="height", line_width=1.5, line_dash=[2, 3], name="compare_epoch")
    )
    epochs.yaxis.formatter = NumeralTickFormatter(format="0.[000]")
    for run in range(n_runs):
        _line(curves, f"curve_{run}")
        if run:
            _line(apart, f"difference_{run}")
            source = _line(epochs, f"distance_{run}")
            epochs.scatter("x", "y", source=source, size=5, name=f"distance_dots_{run}")
    return {"compare_curves": curves, "compare_difference": apart, "compare_distance": epochs}


def comparison_twin_figure(n_runs: int, splits: Sequence[str], h_min: float, h_max: float) -> figure:
    """Make the frame of the Twin Peaks of some runs.

    Parameters
    ----------
    n_runs : int
        How many.
    splits : sequence of str
        Those shown of each run; the first one is drawn solid, the others dashed.
    h_min, h_max : float
        Ends of the axis of values.

    Returns
    -------
    bokeh.plotting.figure
        ``compare_twin`` with a line for each run and split (``twin_0_valid`` ...).
    """
    frame = _frame(
        "compare_twin",
        320,
        Range1d(start=h_min, end=h_max),
        "value of the last layer",
        "share of values per bin",
    )
    _zero(frame)
    for run in range(n_runs):
        for split in splits:
            _line(frame, f"twin_{run}_{split}", line_dash="solid" if split == splits[0] else [6, 4])
    return frame


def _frame(name: str, height: int, values: Range1d, x_label: str, y_label: str) -> figure:
    """Return a frame with a named range of heights."""
    heights = Range1d(start=0, end=1, name=f"{name}_heights")
    frame = quiet_figure(
        height, name, x_range=values, y_range=heights, x_axis_label=x_label, y_axis_label=y_label
    )
    frame.min_border_left, frame.min_border_right = 72, 14
    frame.min_border_top, frame.min_border_bottom = 8, 46
    frame.yaxis.formatter = NumeralTickFormatter(format="0.[00]%")
    return frame


def _line(frame: figure, name: str, **look: Any) -> ColumnDataSource:
    """Add an empty line, which the page colours, and return what it is drawn of."""
    source = ColumnDataSource({"x": [], "y": []})
    frame.line("x", "y", source=source, line_width=2, name=name, **look)
    return source


def _zero(frame: figure) -> None:
    """Mark the value 0, in no colour that a run has."""
    frame.add_layout(Span(location=0, dimension="height", line_color=_GREY, line_width=1.2, level="underlay"))
