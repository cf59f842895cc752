"""Twin Peaks: how the head's values are spread in one epoch, and how YES parts from NO."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Annotated, Any, Final

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import NumeralTickFormatter
from pydantic import BaseModel, ConfigDict, Field

from actlab import peaks
from actlab.axis import LinearAxis
from actlab.charts.limits import epoch_words, percent
from actlab.charts.look import DOT, asked, head_of, literal, load_backend, named, quiet, subtitled
from actlab.charts.palette import SETS, ZERO
from actlab.charts.zooming import nested
from actlab.errors import SelectionError, nearest
from actlab.peaks.pooling import pool_epoch
from actlab.recipe import validated
from actlab.run import Run
from actlab.schema import SPLITS
from actlab.steps.merging import last_quarter

__all__ = ["LABELS", "MARK", "TwinPeaksOptions", "caveats", "draw", "prepare"]
__all__ += ["readable_axis", "reference_split", "shown_splits", "survey", "twin_peaks"]

LABELS: Final = {"train": "train, last quarter", "valid": "validation", "test": "test"}
MARK: Final = "#3d4650"

_Histogram = Callable[[LinearAxis], xr.Dataset]


class TwinPeaksOptions(BaseModel):
    """What the Twin Peaks show.

    Parameters
    ----------
    show_truth : bool
        With labels, the values of the true classes (YES) and of the others (NO) as areas.
    width, height : int
        Size of the picture in pixels, without axes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    show_truth: bool = True
    width: Annotated[int, Field(ge=100, le=4000)] = 900
    height: Annotated[int, Field(ge=50, le=4000)] = 320


def prepare(
    run: Run,
    *,
    axis: LinearAxis | None = None,
    layer: str | None = None,
    epochs: Sequence[int] | None = None,
) -> xr.Dataset:
    """Compute the Twin Peaks of each epoch on one axis.

    Parameters
    ----------
    run : Run
        The recorded training.
    axis : LinearAxis, optional
        The bins; `readable_axis` by default.
    layer : str, optional
        The head by default.
    epochs : sequence of int, optional
        Epoch labels, -1 for untrained; all recorded in any split by default.

    Returns
    -------
    xarray.Dataset
        `peaks.twin_peaks` stacked along epoch: curves, yes, no [epoch, split, bin] as shares of n; n,
        underflow, overflow, nonfinite, yes_position, no_position, peak_distance, separation, overlap,
        n_modes [epoch, split]; mode_position, mode_height [epoch, split, mode]; train_valid_distance
        [epoch]; and what else it returns. NaN where a split was not recorded in an epoch. Attributes
        layer, source, h_min, h_max, n_bins.

    Raises
    ------
    SelectionError
        If the run has no such epoch or layer, or no head.
    """
    recorded = set().union(*(run.epochs(split) for split in run.splits))
    labels = sorted(recorded if epochs is None else set(epochs))
    if not labels:
        raise SelectionError(f"no epochs in {run.path} to draw")
    return _stack(run, labels, axis, layer)


def _stack(run: Run, epochs: Sequence[str | int], axis: LinearAxis | None, layer: str | None) -> xr.Dataset:
    """Stack the Twin Peaks of some epochs along a new dim."""
    name = run.head if layer is None else layer
    if axis is None and name in run.names:  # else `peaks.twin_peaks` says what is missing
        axis = readable_axis(run, name)
    parts = [peaks.twin_peaks(run, epoch, axis=axis, layer=layer) for epoch in epochs]
    labels = [part.attrs["epoch"] for part in parts]
    data = xr.concat(parts, xr.Variable("epoch", labels), join="outer", combine_attrs="drop_conflicts")
    splits = [split for split in SPLITS if split in data["split"].values]
    exact = all(part.attrs["source"] == "raw" for part in parts)
    return data.sel(split=splits).assign_attrs(source="raw" if exact else "counts")


def readable_axis(run: Run, layer: str) -> LinearAxis:
    """Return the layer's own range in as many bins as its smallest curve can fill.

    Parameters
    ----------
    run : Run
        The recorded training.
    layer : str
        One of its layers.

    Returns
    -------
    LinearAxis
        The range of `peaks.head_axis`, the same in every epoch; 2 sqrt(n) bins (Velleman, Proceedings of
        the Statistical Computing Section of the ASA, 1976) for the smallest n of a curve, 20 to 200.
    """
    sizes = []
    for split in run.splits:
        n = run[split].n.sel(layer=layer).values
        for epoch in run.epochs(split):
            rows = run.rows(split, epoch)
            sizes.append(int(n[last_quarter(rows) if split == "train" else rows].sum()))
    axis = peaks.head_axis(run, layer)
    n_bins = round(2 * math.sqrt(min(sizes)))
    return LinearAxis(axis.h_min, axis.h_max, min(max(n_bins, 20), axis.n_bins))


def draw(data: xr.Dataset, epoch: str | int = "last", options: TwinPeaksOptions | None = None) -> hv.Overlay:
    """Draw the Twin Peaks of one epoch.

    The Bokeh models behind it are named: ``train``, ``valid``, ``test``, ``yes``, ``no`` (the marks),
    ``yes_area``, ``no_area`` and ``zero``.

    Parameters
    ----------
    data : xarray.Dataset
        What `prepare` returned.
    epoch : "last", "untrained" or int
        One of its epochs.
    options : TwinPeaksOptions, optional
        The defaults if None.

    Returns
    -------
    holoviews.Overlay

    Raises
    ------
    SelectionError
        If the data do not hold the epoch.
    """
    load_backend()
    chosen = options or TwinPeaksOptions()
    label = _label(data, epoch)
    one = data.sel(epoch=label)
    splits = shown_splits(one)
    reference = one.sel(split=reference_split(one))
    top = 1.15 * float(one["curves"].max()) or 1.0
    overlay = hv.Overlay([hv.VLine(0).opts(color=ZERO, line_width=1.2, hooks=[named("zero")])])
    if chosen.show_truth and reference["yes"].notnull().any():
        overlay *= _area(reference, "no") * _area(reference, "yes")
    for split in splits:
        overlay *= _curve(one, split)
    overlay *= _marks(reference, 0.96 * top)
    return overlay.opts(
        hv.opts.Overlay(
            title=literal(f"{data.attrs['layer']}, {epoch_words(label)}"),
            xlim=(data.attrs["h_min"], data.attrs["h_max"]),
            ylim=(0, top),
            xlabel=f"value of {data.attrs['layer']}",
            ylabel="share of values per bin",
            yformatter=NumeralTickFormatter(format="0.[00]%"),
            frame_width=chosen.width,
            frame_height=chosen.height,
            show_grid=True,
            gridstyle={"grid_line_alpha": 0.5},
            legend_position="top_right",
            legend_opts={"background_fill_alpha": 0.8, "click_policy": "hide"},
            fontsize={"title": 13, "labels": 12, "ticks": 11, "legend": 11},
            default_tools=["save", "xbox_zoom", "reset"],
            toolbar="above",
            hooks=[quiet, subtitled(DOT.join(caveats(one)))],
        )
    )


def survey(
    run: Run,
    epoch: str | int = "last",
    *,
    layer: str | None = None,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int | None = None,
) -> xr.Dataset:
    """Compute the Twin Peaks of one epoch; what is not said is that of `readable_axis`.

    Parameters
    ----------
    run, epoch, layer, h_min, h_max, n_bins
        As for `twin_peaks`.

    Returns
    -------
    xarray.Dataset
        As `prepare`.

    Raises
    ------
    SelectionError
        If the run has no such epoch or layer, or no head.
    AxisError
        If the range is empty or too fine.
    """
    name = run.find_layer(head_of(run) if layer is None else layer)
    return _stack(run, [epoch], asked(readable_axis(run, name), h_min, h_max, n_bins), name)


def twin_peaks(
    run: Run,
    epoch: str | int = "last",
    *,
    layer: str | None = None,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int | None = None,
    **options: Any,
) -> hv.DynamicMap:
    """Draw the Twin Peaks of one epoch of a run, for a notebook.

    Where Python runs behind the picture, zooming bins the epoch again, finer by a half, a quarter, ...;
    the heights stay shares per bin of the whole picture. The values of that epoch are kept at the first
    zoom, in 8 bytes each (16 with labels), or their counts. Saved, the whole picture stays.

    Parameters
    ----------
    run : Run
        The recorded training.
    epoch : "last", "untrained" or int
        The last trained epoch, the evaluation before any training, or an epoch label.
    layer : str, optional
        The head by default.
    h_min, h_max : float, optional
        Range of the histograms; by default the layer's own.
    n_bins : int, optional
        Number of bins; by default as many as the smallest curve can fill.
    **options
        Fields of `TwinPeaksOptions`.

    Returns
    -------
    holoviews.DynamicMap
        Of what `draw` returns.

    Raises
    ------
    SelectionError
        If the run has no such epoch or layer, or no head.
    AxisError
        If the range is empty or too fine.
    RecipeError
        For an unknown option or a wrong value.
    """
    chosen = validated(TwinPeaksOptions, options)
    whole = survey(run, epoch, layer=layer, h_min=h_min, h_max=h_max, n_bins=n_bins)
    load_backend()
    read = cache(partial(_read, run, whole))

    def picture(x_range: tuple[float, float] | None) -> hv.Overlay:
        return draw(whole if x_range is None else _refined(read, whole, x_range), "last", chosen)

    return hv.DynamicMap(picture, streams=[hv.streams.RangeX()])


def _read(run: Run, whole: xr.Dataset) -> dict[str, list[_Histogram]]:
    """Read the epoch of a picture: by split what bins its values, and those that are YES and NO."""
    pools = pool_epoch(run, whole.attrs["layer"], int(whole["epoch"][0]))
    return {
        split: [each.histogram for each in (pool.whole, *(pool.truth(None) if pool.truth else ()))]
        for split, pool in pools.items()
    }


def _refined(
    read: Callable[[], dict[str, list[_Histogram]]], whole: xr.Dataset, x_range: tuple[float, float]
) -> xr.Dataset:
    """Bin the curves again for a part of the range; all else, and the scale of the heights, stays."""
    axis = LinearAxis(whole.attrs["h_min"], whole.attrs["h_max"], whole.attrs["n_bins"])
    own = nested(axis, *x_range)
    if own == axis:
        return whole
    names = ("curves", "yes", "no")
    shares = np.full((len(names), 1, whole.sizes["split"], own.n_bins), np.nan)
    for place, split in enumerate(whole["split"].values):
        n = float(whole["n"].sel(split=split).item())
        for kind, histogram in enumerate(read()[str(split)] if n else ()):
            shares[kind, 0, place] = histogram(own)["counts"].values / n
    shares *= (axis.h_max - axis.h_min) / axis.n_bins * own.n_bins / (own.h_max - own.h_min)
    finer = {name: (("epoch", "split", "bin"), part) for name, part in zip(names, shares, strict=True)}
    return whole.drop_dims("bin").assign(finer).assign_coords(bin=own.centers)


def _label(data: xr.Dataset, epoch: str | int) -> int:
    """Return the label of one of the epochs of the data, which may be meant by "last" or "untrained"."""
    labels = [int(label) for label in data["epoch"].values]
    label = {"last": labels[-1], "untrained": -1}.get(epoch, epoch) if isinstance(epoch, str) else epoch
    if label not in labels:
        known = ["last", *(["untrained"] if -1 in labels else []), *map(str, labels)]
        raise SelectionError(f"no epoch {epoch!r} in the data: {nearest(str(epoch), known)}")
    return int(label)


def _curve(one: xr.Dataset, split: str) -> hv.Curve:
    """Return the curve of a split."""
    shares = one["curves"].sel(split=split).values
    return hv.Curve((one["bin"].values, shares), "x", "y", label=LABELS[split]).opts(
        color=SETS[split],
        line_width=2.2,
        line_dash=[7, 4] if split == "test" else "solid",
        hooks=[named(split)],
    )


def _area(reference: xr.Dataset, name: str) -> hv.Area:
    """Return the area under the true YES or NO curve of a split."""
    color = SETS[str(reference["split"].values)]
    return hv.Area((reference["bin"].values, reference[name].values), "x", "y").opts(
        color=color, fill_alpha=0.14, line_alpha=0, hooks=[named(f"{name}_area")]
    )


def _marks(reference: xr.Dataset, height: float) -> hv.Overlay:
    """Return a dotted line at the place of NO and of YES, with its value on the outer side."""
    known = {name: float(reference[f"{name}_position"]) for name in ("no", "yes")}
    marks = []
    for name, position in known.items():
        if not np.isfinite(position):
            continue
        left = position < max(known.values()) or (name == "no" and known["no"] == known["yes"])
        text = hv.Text(
            position, height, f"  {name.upper()}  {position:.2g}  ", halign="right" if left else "left"
        )
        marks += [
            hv.VLine(position).opts(color=MARK, line_dash="dotted", line_width=1.5, hooks=[named(name)]),
            text.opts(text_color=MARK, text_font_size="12px", text_font_style="bold"),
        ]
    return hv.Overlay(marks)


def caveats(one: xr.Dataset) -> list[str]:
    """Say how well YES and NO are apart where that is known, and what the curves leave out.

    Parameters
    ----------
    one : xarray.Dataset
        A single epoch of what `prepare` returned.

    Returns
    -------
    list of str
    """
    reference = one.sel(split=reference_split(one))
    separation, overlap = float(reference["separation"]), float(reference["overlap"])
    said = []
    if np.isfinite(separation):
        split = LABELS[str(reference["split"].values)]
        apart = f"{round(separation, 1) + 0.0:g} std apart"
        said.append(f"{split}: YES and NO {apart}, overlap {percent(overlap)}")
    width = (one.attrs["h_max"] - one.attrs["h_min"]) / one.attrs["n_bins"]
    outside = float((one["underflow"] + one["overflow"]).max())
    most = "at most " if one.sizes["split"] > 1 and outside > 0 else ""  # of the curves drawn
    said += [f"one bin = {width:.3g}", f"{most}{percent(outside)} out of range"]
    nonfinite = float(one["nonfinite"].max())
    if nonfinite > 0:
        said.append(f"{percent(nonfinite)} infinite or NaN")
    if one.attrs["source"] != "raw":
        said.append("re-binned from counts")
    return said


def reference_split(one: xr.Dataset) -> str:
    """Return the split that YES and NO are marked of: validation where it was recorded."""
    splits = shown_splits(one)
    return "valid" if "valid" in splits else splits[0]


def shown_splits(one: xr.Dataset) -> list[str]:
    """Return the splits that were recorded in an epoch."""
    recorded = one["curves"].notnull().any("bin")
    return [str(split) for split in one["split"].values[recorded.values]]
