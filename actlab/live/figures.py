"""The figures of the report page, filled from Python while the run grows."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from bokeh.models import BasicTicker, HoverTool, NoOverlap, NumeralTickFormatter
from bokeh.plotting import figure

from actlab.charts.look import log_ticks
from actlab.charts.palette import translucent_palette
from actlab.charts.twin_peaks_chart import reference_split, shown_splits
from actlab.pages.figures import detail_figures, twin_figure
from actlab.schema import SPLITS

__all__ = ["LayerFigure", "PeaksFigure"]


class _Filled:
    """A frame whose named models are filled.

    Parameters
    ----------
    frame : bokeh.plotting.figure
        Empty.

    Attributes
    ----------
    frame : bokeh.plotting.figure
        The figure.
    """

    def __init__(self, frame: figure) -> None:
        self.frame = frame
        # Bokeh walks through the whole figure for each name it is asked for.
        self._models: dict[str, Any] = {each.name: each for each in frame.references() if each.name}

    def _put(self, name: str, columns: dict[str, Any]) -> None:
        """Give a renderer new data."""
        self._models[name].data_source.data = columns


class LayerFigure(_Filled):
    """The colorful dimension of a layer."""

    def __init__(self) -> None:
        super().__init__(detail_figures(1, -1, 1)["detail"])
        frame = self.frame
        frame.min_border_right = 84
        frame.xaxis.ticker, frame.yaxis.ticker = BasicTicker(min_interval=1), BasicTicker()
        frame.xaxis.major_label_policy = NoOverlap(min_distance=12)
        frame.xaxis.formatter = NumeralTickFormatter(format="0,0")
        self._models["batches"].min_interval = None
        hover = HoverTool(renderers=[self._models["image"]])
        hover.tooltips = [("batch", "$x{0,0}"), ("value", "$y{0.000}"), ("count per batch", "@image{0,0.00}")]
        frame.add_tools(hover)

    def fill(self, data: xr.Dataset) -> None:
        """Show a layer.

        Parameters
        ----------
        data : xarray.Dataset
            What `Pictures.layer` returned.
        """
        k = data.attrs["batches_per_column"]
        h_min, h_max, low, high = (data.attrs[name] for name in ("h_min", "h_max", "low", "high"))
        self._follow(data.attrs["rows"])
        self._models["values"].update(start=h_min, end=h_max, reset_start=h_min, reset_end=h_max)
        self._scale(low, high)
        self.frame.xaxis.axis_label = "batch" if data.attrs["is_whole"] else "recorded batch"
        counts = data["counts"].values.T
        image = np.where(counts > 0, np.clip(counts, low, high), np.float32(np.nan))
        # The last column may hold fewer rows, but is drawn as wide as the others and cut off.
        place = {"x": [0], "y": [h_min], "dw": [data.sizes["column"] * k], "dh": [h_max - h_min]}
        self._put("image", {"image": [image], **place})
        x = data["first_row"].values + data["n_rows"].values / 2
        mean, std = data["mean"].values, data["std"].values
        for name, y in (("mean", mean), ("std_upper", mean + std), ("std_lower", mean - std)):
            self._put_cased(name, {"x": x, "y": y})
        self._put_cased("epochs", {"x": data["epoch_row"].values})

    def _put_cased(self, name: str, columns: dict[str, Any]) -> None:
        """Give a line and its casing new data."""
        for part in (name, f"{name}_case"):
            self._put(part, columns)

    def _scale(self, low: float, high: float) -> None:
        """Set the ends of the colours."""
        mapper, bar = self._models["color_mapper"], self._models["color_bar"]
        if (mapper.low, mapper.high) != (low, high):
            mapper.update(low=low, high=high, palette=translucent_palette(low, high))
            ticks = log_ticks(low, high)
            bar.ticker.ticks, bar.major_label_overrides = list(ticks), dict(ticks)

    def _follow(self, rows: int) -> None:
        """Show all rows, unless the reader looks at a part of them."""
        x_range = self._models["batches"]
        is_whole = (x_range.start, x_range.end) == tuple(x_range.bounds)
        x_range.update(bounds=(0, rows), reset_start=0, reset_end=rows)
        if is_whole or x_range.end > rows:  # a run that was replaced may be shorter
            x_range.update(start=0, end=rows)


class PeaksFigure(_Filled):
    """The Twin Peaks of an epoch."""

    def __init__(self) -> None:
        super().__init__(twin_figure(-1, 1))
        self.frame.xaxis.ticker, self.frame.yaxis.ticker = BasicTicker(), BasicTicker()
        self.frame.xaxis.major_label_policy = NoOverlap(min_distance=12)
        self.frame.yaxis.formatter = NumeralTickFormatter(format="0.[00]%")

    def fill(self, one: xr.Dataset) -> None:
        """Show an epoch.

        Parameters
        ----------
        one : xarray.Dataset
            What `Pictures.peaks` returned.
        """
        splits, x = shown_splits(one), one["bin"].values
        self._models["outputs"].update(start=one.attrs["h_min"], end=one.attrs["h_max"])
        self._models["shares"].end = 1.12 * float(np.nan_to_num(one["curves"].values).max()) or 1.0
        for split in SPLITS:
            shown = split in splits
            self._put(split, {"x": x, "y": one["curves"].sel(split=split).values} if shown else _NOTHING)
        reference = one.sel(split=reference_split(one)) if splits else one.isel(split=0)
        for part in ("yes", "no"):
            y = reference[part].values
            self._put(f"truth_{part}", {"x": x, "y": y} if np.isfinite(y).any() else _NOTHING)
        self._mark({part: float(reference[f"{part}_position"]) for part in ("yes", "no")})

    def _mark(self, places: dict[str, float]) -> None:
        """Mark where YES and NO lie, each labelled on its outer side."""
        for part, at in places.items():
            known = bool(np.isfinite(at))
            span, label = self._models[part], self._models[f"{part}_label"]
            span.visible = label.visible = known
            if known:
                left = at < max(places.values()) or (part == "no" and places["no"] == places["yes"])
                span.location = label.x = at
                label.update(text=f"{part.upper()} {at:.3g}", text_align="right" if left else "left")
                label.update(x_offset=-5 if left else 5, y=_LABEL)


_NOTHING: Final[dict[str, list[float]]] = {"x": [], "y": []}
_LABEL: Final = 285
"""Pixels above the axis at which marks are labelled."""
