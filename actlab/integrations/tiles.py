"""What `plotActsHist` draws: a tile for each layer, or for each class, on a figure of pyplot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from actlab.charts import class_panels, colorful_chart
from actlab.charts.class_panels import PanelOptions
from actlab.charts.colorful_chart import ColorfulOptions
from actlab.charts.look import view
from actlab.charts.palette import ZERO
from actlab.charts.printed import colorful_axes
from actlab.errors import SelectionError
from actlab.recording.sites import INPUT
from actlab.run import open_run

__all__ = ["Look", "draw_classes", "draw_layers"]


@dataclass(frozen=True)
class Look:
    """How tiles look, by the names of old.

    Parameters
    ----------
    cols : int
        Tiles side by side.
    figsize : (float, float)
        Size of the figure in inches.
    hScale : float
        How far the highest histogram of an epoch reaches, in lengths of the epoch.
    showEpochs : bool
        A line where each epoch starts, and its histogram, that of its last quarter in grey.
    showLayerInfo : bool
        Kind and output shape of the layer in the title.
    aspectAuto : bool
        Fill the figure; else a batch is as wide as a bin is high.
    showImage : bool
        The colours; else the lines alone.
    """

    cols: int = 3
    figsize: tuple[float, float] = (20, 10)
    hScale: float = 0.95  # noqa: N815
    showEpochs: bool = True  # noqa: N815
    showLayerInfo: bool = False  # noqa: N815
    aspectAuto: bool = True  # noqa: N815
    showImage: bool = True  # noqa: N815


def draw_layers(path: str, look: Look, *, shown: int | Sequence[int] | None = None, **bins: Any) -> None:
    """Draw the colorful dimension of each layer.

    Parameters
    ----------
    path : str
        The run.
    look : Look
        How it looks.
    shown : int or sequence of int, optional
        Numbers of layers, the input of the model left out; all by default.
    **bins
        h_min, h_max, n_bins; an end that is None is the run's own.

    Raises
    ------
    StoreError
        If there is no such run.
    SelectionError
        If there is no such layer, or no training.
    AxisError
        If the range is empty or too fine.
    """
    run = open_run(path)
    names = [name for name in run.names if name != INPUT]
    numbers = list(range(len(names))) if shown is None else [shown] if isinstance(shown, int) else list(shown)
    for number in numbers:
        if not -len(names) <= number < len(names):
            raise SelectionError(f"toDisplay: no layer {number} in {path}, it has 0 to {len(names) - 1}")
    chosen = [names[number] for number in numbers]
    options = ColorfulOptions(
        show_epochs=look.showEpochs, show_epoch_histograms=look.showEpochs, h_scale=look.hScale
    )
    data = colorful_chart.prepare(run, view(run, **bins), options, layers=chosen)
    for place, axes in enumerate(_grid(len(chosen), look)):
        one = data.isel(layer=place)
        colorful_axes(axes, one, options)
        axes.images[0].set_visible(look.showImage)
        if not look.aspectAuto:
            axes.set_box_aspect(one.sizes["bin"] / one.attrs["rows"])
        said = str(one["info"].item() if look.showLayerInfo else run.layers.loc[chosen[place], "kind"])
        axes.set_title(f"L{numbers[place] % len(names)}: {chosen[place]}\n{said}", fontsize=9)
        axes.tick_params(labelsize=7)


def draw_classes(path: str, look: Look, **bins: Any) -> None:
    """Draw YES and NO of each class, in the last epoch.

    Parameters
    ----------
    path, look, **bins
        As for `draw_layers`.

    Raises
    ------
    StoreError
        If there is no such run.
    SelectionError
        If there is no head, or the classes are not known.
    AxisError
        If the range is empty or too fine.
    """
    data = class_panels.survey(open_run(path), "last", PanelOptions(), **bins)
    top = 1.05 * class_panels.tallest(data)
    for place, axes in enumerate(_grid(data.sizes["label"], look)):
        one = data.isel(label=place)
        axes.axvline(0, color=ZERO)
        for truth, color, alpha in class_panels.SIDES:
            x, y = class_panels.outline(one, truth)
            axes.fill_between(x, y, color=color, alpha=alpha, linewidth=0)
            axes.plot(x, y, color=color, label=truth.upper())
        axes.set(xlim=(one.attrs["h_min"], one.attrs["h_max"]), ylim=(0, top), yticks=[])
        axes.set_title(str(one["name"].values), fontsize=9)
        axes.legend(fontsize=7)


def _grid(number: int, look: Look) -> Iterator[Axes]:
    """Make a figure with so many tiles."""
    cols = min(max(look.cols, 1), number)
    figure = plt.figure(figsize=look.figsize, layout="constrained")
    for place in range(number):
        yield figure.add_subplot(-(-number // cols), cols, place + 1)
