"""`export`: a chart as a figure for a paper, PNG or SVG, without browser and network."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from actlab.charts import class_panels, colorful_chart, twin_peaks_chart, wall_chart
from actlab.charts.class_panels import PanelOptions
from actlab.charts.colorful_chart import ColorfulOptions
from actlab.charts.look import head_of, view
from actlab.charts.printed import class_figure, colorful_figure, twin_peaks_figure, wall_figure
from actlab.charts.twin_peaks_chart import TwinPeaksOptions
from actlab.charts.wall_chart import WallOptions
from actlab.errors import RecipeError, StoreError, nearest
from actlab.recipe import validated
from actlab.run import Run, open_run
from actlab.store.files import expand
from actlab.store.placing import new_output
from actlab.store.urls import is_url, name_of

__all__ = ["export"]

_DENSITY: Final = 2
"""Pixels of a PNG for a pixel of the screen."""
_DPI: Final = 96 * _DENSITY
_FORMATS: Final = (".png", ".svg")
_LOOK: Final[dict[Any, Any]] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "actlab",  # the same bytes each time
    "text.parse_math": False,  # a layer may be called $x$
    "path.simplify": False,
}


def export(
    run: Run | str | Path,
    path: str | Path,
    *,
    chart: str = "colorful",
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Draw a chart of a run into a file, for a paper.

    The same run, options and versions give the same bytes.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or its path.
    path : str or pathlib.Path
        The file, ``.png`` (two pixels for each of the screen) or ``.svg`` (text and lines as such, the
        counts as an image without loss). Missing folders are made.
    chart : "colorful", "per_class", "twin_peaks" or "wall"
        Which one.
    overwrite : bool
        Replace an existing file.
    **options
        What the function of that name in `actlab.charts` takes: `layer`, `h_min`, `h_max`, `n_bins`,
        `epochs` (Twin Peaks and per class: `epoch`; the wall: `layers`), and fields of the chart's options.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StoreError
        If there is no such run, or the file cannot be written or exists and `overwrite` is not set.
    RecipeError
        For an unknown chart, ending or option, a wrong value, or more bins than a PNG has rows.
    SelectionError
        If the run has no such layer or epoch, or no head to fall back on.
    AxisError
        If the range is empty or too fine.
    """
    target = _target(path, overwrite=overwrite)
    if chart not in _CHARTS:
        raise RecipeError(f"no chart {chart!r}: {nearest(chart, _CHARTS)}")
    opened = run if isinstance(run, Run) else open_run(run)
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a PNG has a box for it, an SVG the letter
        mpl.rcdefaults()
        mpl.rcParams.update(_LOOK)
        data = _encode(_CHARTS[chart](opened, **options), target.suffix.lower())
    with new_output(target) as made:
        made.write_bytes(data)
    return Path(path)


def _target(path: str | Path, *, overwrite: bool) -> Path:
    """Return the file in full, if it may be written."""
    if is_url(path):
        raise StoreError(f"{path}: is a URL, expected a path on this machine")
    target = expand(path).resolve()
    if target.suffix.lower() not in _FORMATS:
        raise RecipeError(f"{path}: a figure is a file that ends in .png or .svg")
    if target.is_dir():
        raise StoreError(f"{path}: is a folder, expected a file to write")
    if target.exists() and not overwrite:
        raise StoreError(f"{path}: exists already; overwrite=True or --overwrite replaces it")
    return target


def _encode(figure: Figure, ending: str) -> bytes:
    """Write a figure as bytes, without date and program."""
    file = io.BytesIO()
    if ending == ".png":
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    else:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _colorful(
    run: Run,
    layer: str | None = None,
    *,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int = 200,
    epochs: Sequence[int] | None = None,
    **options: Any,
) -> Figure:
    """Draw `colorful_chart.colorful` of the same arguments."""
    chosen = validated(ColorfulOptions, options)
    if n_bins > _DENSITY * chosen.height:
        raise RecipeError(
            f"n_bins: {chosen.height} pixels show at most {_DENSITY * chosen.height}, got {n_bins}"
        )
    fine = chosen.model_copy(update={"max_columns": min(chosen.max_columns, _DENSITY * chosen.width)})
    name = head_of(run) if layer is None else layer
    axis = view(run, h_min, h_max, n_bins)
    return colorful_figure(colorful_chart.prepare(run, axis, fine, layers=[name], epochs=epochs), fine)


def _twin_peaks(
    run: Run,
    epoch: str | int = "last",
    *,
    layer: str | None = None,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int | None = None,
    **options: Any,
) -> Figure:
    """Draw `twin_peaks_chart.twin_peaks` of the same arguments."""
    chosen = validated(TwinPeaksOptions, options)
    data = twin_peaks_chart.survey(run, epoch, layer=layer, h_min=h_min, h_max=h_max, n_bins=n_bins)
    return twin_peaks_figure(data, chosen)


def _wall(
    run: Run,
    *,
    layers: str | Sequence[str] | None = None,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int = 200,
    epochs: Sequence[int] | None = None,
    **options: Any,
) -> Figure:
    """Draw `wall_chart.wall` of the same arguments."""
    chosen = validated(WallOptions, options)
    axis = view(run, h_min, h_max, n_bins)
    data = wall_chart.survey(run, axis, chosen, layers=layers, epochs=epochs)
    return wall_figure(data, chosen, Path(name_of(run.path)).stem)


def _per_class(
    run: Run,
    epoch: str | int = "last",
    *,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int | None = None,
    **options: Any,
) -> Figure:
    """Draw `class_panels.per_class` of the same arguments."""
    chosen = validated(PanelOptions, options)
    data = class_panels.survey(run, epoch, chosen, h_min=h_min, h_max=h_max, n_bins=n_bins)
    return class_figure(data, chosen)


_CHARTS: Final[dict[str, Callable[..., Figure]]] = {
    "colorful": _colorful,
    "per_class": _per_class,
    "twin_peaks": _twin_peaks,
    "wall": _wall,
}
