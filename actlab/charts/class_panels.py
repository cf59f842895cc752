"""The small multiples of the classes outside of a page: in notebooks, and what figures say."""

from __future__ import annotations

from typing import Annotated, Any, Final

import holoviews as hv
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from actlab.axis import LinearAxis
from actlab.charts.class_chart import ClassOptions, hidden, prepare
from actlab.charts.limits import apart
from actlab.charts.look import layout_title, literal, load_backend, named, quiet, subtitled
from actlab.charts.palette import ZERO
from actlab.charts.twin_peaks_chart import LABELS
from actlab.errors import SelectionError
from actlab.peaks.pooling import epoch_label
from actlab.recipe import validated
from actlab.run import Run

__all__ = ["SIDES", "PanelOptions", "caveats", "draw", "outline", "panel_words", "per_class", "survey"]
__all__ += ["tallest"]

SIDES: Final = (("no", "#5a6472", 0.25), ("yes", "#1f7a74", 0.32))
"""Colour of NO and of YES, and how much of it fills the area."""

_MEANING: Final = {
    "unit": ["YES: outputs of the unit for samples of its class", "NO: for all other samples"],
    "label": ["YES: outputs of the class's own unit for its samples", "NO: of all other units for them"],
}


class PanelOptions(ClassOptions):
    """What the small multiples show outside of a page.

    Parameters
    ----------
    cols : int
        Panels side by side.
    panel_width, panel_height : int
        Size of a panel in pixels.
    """

    cols: Annotated[int, Field(ge=1, le=100)] = 5
    panel_width: Annotated[int, Field(ge=40, le=2000)] = 160
    panel_height: Annotated[int, Field(ge=20, le=2000)] = 90


def survey(
    run: Run,
    epoch: str | int = "last",
    options: ClassOptions | None = None,
    *,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int | None = None,
) -> xr.Dataset:
    """Part the outputs of the head by class in one epoch, as one view.

    Parameters
    ----------
    run, epoch, h_min, h_max, n_bins
        As for `per_class`.
    options : ClassOptions, optional
        The defaults if None.

    Returns
    -------
    xarray.Dataset
        As `prepare`, without the dims by and epoch.

    Raises
    ------
    SelectionError
        As `per_class`.
    AxisError
        If the range is empty or too fine.
    """
    if run.head is None:
        raise SelectionError(f"{run.path} has no head, so nothing to part by class")
    label = epoch_label(run, epoch)
    data = prepare(run, options, epochs=[label], h_min=h_min, h_max=h_max, n_bins=n_bins)
    if data is None:
        why = "a regression, no labels, or a head so large that its units were counted together"
        raise SelectionError(f"{run.path}: the classes of epoch {label} are not known ({why})")
    return data.isel(epoch=0).sel(by=data.attrs["shown"])


def per_class(
    run: Run,
    epoch: str | int = "last",
    *,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int | None = None,
    **options: Any,
) -> hv.NdLayout:
    """Draw YES and NO of each class in one epoch of a run, for a notebook.

    Parameters
    ----------
    run : Run
        The recorded training.
    epoch : "last", "untrained" or int
        The last trained epoch, the evaluation before any training, or an epoch label.
    h_min, h_max : float, optional
        Range of the histograms; by default the head's own.
    n_bins : int, optional
        Number of bins; by default as many as the smallest class can fill.
    **options
        Fields of `PanelOptions`.

    Returns
    -------
    holoviews.NdLayout

    Raises
    ------
    SelectionError
        If the run has no such epoch or class, no head, or the classes are not known.
    AxisError
        If the range is empty or too fine.
    RecipeError
        For an unknown option or a wrong value.
    """
    chosen = validated(PanelOptions, options)
    return draw(survey(run, epoch, chosen, h_min=h_min, h_max=h_max, n_bins=n_bins), chosen)


def draw(data: xr.Dataset, options: PanelOptions | None = None) -> hv.NdLayout:
    """Draw all panels on one scale.

    Parameters
    ----------
    data : xarray.Dataset
        What `survey` returned.
    options : PanelOptions, optional
        The defaults if None.

    Returns
    -------
    holoviews.NdLayout
        By class.
    """
    load_backend()
    chosen = options or PanelOptions()
    top = tallest(data)
    panels = {
        str(name): _panel(data.isel(label=place), top, chosen)
        for place, name in enumerate(data["name"].values)
    }
    layout = hv.NdLayout(panels, kdims="class", sort=False).cols(chosen.cols)
    return layout.opts(
        shared_axes=False, toolbar=None, title=layout_title(caveats(data)), fontsize={"title": 9}
    )


def _panel(one: xr.Dataset, top: float, options: PanelOptions) -> hv.Overlay:
    """Draw one panel: no axes, they are the same everywhere."""
    zero = hv.VLine(0).opts(color=ZERO, line_width=1)
    areas = [
        hv.Area(outline(one, truth), "x", "y").opts(
            color=color, fill_alpha=alpha, line_color=color, line_width=1.2, hooks=[named(truth)]
        )
        for truth, color, alpha in SIDES
    ]
    return hv.Overlay([zero, *areas]).opts(
        hv.opts.Overlay(
            title=literal(str(one["name"].values)),
            frame_width=options.panel_width,
            frame_height=options.panel_height,
            xaxis=None,
            yaxis=None,
            xlim=(one.attrs["h_min"], one.attrs["h_max"]),
            ylim=(0, top),
            fontsize={"title": 9},
            default_tools=[],
            hooks=[quiet, subtitled(panel_words(one))],
        )
    )


def tallest(data: xr.Dataset) -> float:
    """Return the height of all panels, as a share: that of the highest bin.

    Parameters
    ----------
    data : xarray.Dataset
        What `survey` returned.
    """
    return float(np.nanmax(data["share"].values, initial=0.0)) or 1.0


def outline(one: xr.Dataset, truth: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the outline of YES or NO: the ends of the bins, each twice, and the heights.

    Parameters
    ----------
    one : xarray.Dataset
        A single class of what `survey` returned.
    truth : "yes" or "no"
        Which.

    Returns
    -------
    x, y : numpy.ndarray
        In units of the value, and as shares [point]; NaN without values.
    """
    axis = LinearAxis(one.attrs["h_min"], one.attrs["h_max"], one.attrs["n_bins"])
    return np.repeat(axis.edges, 2)[1:-1], np.repeat(one["share"].sel(truth=truth).values, 2)


def panel_words(one: xr.Dataset) -> str:
    """Say how far YES and NO of a class are apart; by label, how many samples it has.

    Parameters
    ----------
    one : xarray.Dataset
        A single class of what `survey` returned.
    """
    if str(one["by"].values) == "label":
        n = int(one["n"].sel(truth="yes"))
        return f"{n:,} sample{'' if n == 1 else 's'}"
    return apart(float(one["separation"]), float(one["overlap"]))


def caveats(data: xr.Dataset) -> list[str]:
    """Say what YES and NO are, and what is left out.

    Parameters
    ----------
    data : xarray.Dataset
        What `survey` returned.

    Returns
    -------
    list of str
    """
    return [
        LABELS[str(data["split"].values)],
        *_MEANING[str(data["by"].values)],
        "each in shares of its own values, one scale",
        f"values from {data.attrs['h_min']:g} to {data.attrs['h_max']:g}",
        *hidden(data),
        *filter(None, [data.attrs["note"]]),
    ]
