"""One layer, read once, as columns of any part of its rows on any bins: what a zoomed chart draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.charts.kept import Kept, Pooled, keep
from actlab.charts.limits import dropped_steps, layer_info
from actlab.charts.palette import count_limits
from actlab.errors import SelectionError
from actlab.run import Run
from actlab.steps.merging import in_order, last_quarter
from actlab.steps.moments import pool_groups
from actlab.steps.outliers import find_oddest

__all__ = ["Zoom", "nested"]

_MOMENTS: Final = ("mean", "std", "mean_min", "mean_max", "std_min", "std_max")
_KEPT_VIEWS: Final = 4


def nested(axis: LinearAxis, low: float, high: float) -> LinearAxis:
    """Return bins for a part of an axis, or for more than it, at most as many as it has.

    They are as wide as its bins, or half, a quarter, ... or twice, four times ... as wide, and share their
    edges, so that a picture moved sideways does not shimmer.

    Parameters
    ----------
    axis : LinearAxis
        The bins of the whole picture.
    low, high : float
        The range in sight, low < high.

    Returns
    -------
    LinearAxis
        The least such bins that cover the range; `axis` itself for its own range.

    Raises
    ------
    AxisError
        If the range is empty or too fine.
    """
    if (low, high) == (axis.h_min, axis.h_max):
        return axis
    whole = axis.h_max - axis.h_min
    halvings = math.floor(math.log2(whole / (high - low))) if high > low else 0
    width = whole / axis.n_bins / 2.0**halvings
    first, last = math.floor((low - axis.h_min) / width), math.ceil((high - axis.h_min) / width)
    return LinearAxis(axis.h_min + first * width, axis.h_min + last * width, last - first)


class Zoom:
    """The rows of a layer, read when first looked at and then kept.

    Parameters
    ----------
    run : Run
        The recorded training.
    layer : str
        Name of a layer.
    axis : LinearAxis
        The bins of the whole picture.
    epochs : sequence of int, optional
        Epoch labels; all by default.
    max_columns : int
        At most so many columns in sight.

    Raises
    ------
    SelectionError
        If the run has no such layer or epoch, or no training.
    """

    def __init__(
        self,
        run: Run,
        layer: str,
        axis: LinearAxis,
        *,
        epochs: Sequence[int] | None = None,
        max_columns: int = 1000,
    ) -> None:
        self._run, self._layer, self._axis, self._max_columns = run, run.find_layer(layer), axis, max_columns
        self._numbers = run.rows("train", epochs)
        if self._numbers.size == 0:
            raise SelectionError(f"no rows of split 'train' in {run.path} to draw")
        recorded = run["train"].sel(layer=[self._layer]).isel(step=self._numbers)
        self._rows = recorded.drop_vars("counts").compute()
        steps = self._rows["step"].values
        strides = np.unique(np.diff(steps))
        self._first_step = int(steps[0])
        self._stride = int(strides[0]) if strides.size == 1 else int(steps.size == 1)
        self._whole = lru_cache(_KEPT_VIEWS)(self._draw_whole)
        self._pool = lru_cache(_KEPT_VIEWS)(self._pool_rows)

    @cached_property
    def _kept(self) -> Kept:
        """All rows, in memory."""
        return keep(self._run, self._layer, "train", self._numbers)

    @cached_property
    def _classes(self) -> NDArray[np.unsignedinteger[Any]]:
        """Every row [row, 1, class] as it is compared with the others of its column."""
        return self._kept.classes(self._axis)[:, None]

    @cached_property
    def _epochs(self) -> list[tuple[NDArray[np.int64], Pooled, Pooled]]:
        """Rows of each epoch, and the mean of them and of their last quarter."""
        labels, number = in_order(self._rows["epoch"].values)
        rows = [np.flatnonzero(number == epoch).astype(np.int64) for epoch in range(len(labels))]
        parts = [(own, last_quarter(own)) for own in rows]
        return [
            (own, self._kept.pool(own, own.size), self._kept.pool(last, last.size)) for own, last in parts
        ]

    def _pool_rows(self, first: int, stop: int, k: int) -> Pooled:
        """Pool neighbouring rows into columns of k."""
        return self._kept.pool(np.arange(first, stop), k)

    def view(
        self, x_range: tuple[float, float] | None = None, y_range: tuple[float, float] | None = None
    ) -> xr.Dataset:
        """Aggregate what is in sight into columns of k whole batches, k the smallest that gives few enough.

        Columns start at multiples of k rows, counted from the first of all, and bins are `nested`, so that
        a picture moved sideways does not shimmer. Counts are pooled first and then re-binned.

        Parameters
        ----------
        x_range : (float, float), optional
            Ends of the rows in sight, as `step`, or as row numbers where steps are not even; all by default.
        y_range : (float, float), optional
            Range of the values in sight; that of the whole picture by default.

        Returns
        -------
        xarray.Dataset
            As `colorful_chart.prepare` of this layer, but for the validation and the totals that a chart
            does not say. Columns, totals and the attribute batches_per_column are those in sight; the
            colour scale is that of the whole layer on these bins, so that it stays while moving along.
        """
        axis = self._axis if y_range is None else nested(self._axis, *y_range)
        whole = self._whole(axis)
        if x_range is None:
            return whole
        n = self._numbers.size
        ends = (np.array(x_range) - (self._first_step if self._stride else 0)) / (self._stride or 1)
        first = int(np.clip(np.floor(ends[0]), 0, n - 1))
        stop = int(np.clip(np.ceil(ends[1]), first + 1, n))
        if (first, stop) == (0, n):
            return whole
        k = -(-(stop - first) // self._max_columns)
        part = self._columns(first // k * k, min(-(-stop // k) * k, n), k, axis)
        shared = [name for name in whole.data_vars if name not in part]
        return part.assign(whole[shared].data_vars).assign_attrs(whole.attrs | {"batches_per_column": k})

    def _draw_whole(self, axis: LinearAxis) -> xr.Dataset:
        """Return the whole picture on some bins."""
        n = self._numbers.size
        k = -(-n // self._max_columns)
        columns = self._columns(0, n, k, axis)
        low, high = count_limits(columns["counts"].values, k)
        return columns.assign(
            **self._curves(axis),
            low=("layer", [low]),
            high=("layer", [high]),
            info=("layer", [layer_info(self._run, self._layer)]),
        ).assign_attrs(
            h_min=axis.h_min,
            h_max=axis.h_max,
            n_bins=axis.n_bins,
            split="train",
            rows=n,
            batches_per_column=k,
            first_step=self._first_step,
            step_stride=self._stride,
            dropped=dropped_steps(self._run, "train", self._numbers),
        )

    def _columns(self, first: int, stop: int, k: int, axis: LinearAxis) -> xr.Dataset:
        """Aggregate neighbouring rows into columns of k."""
        rows = slice(first, stop)
        starts = np.arange(0, stop - first, k)
        n_rows = np.diff(starts, append=stop - first)
        shown = self._rows.isel(step=rows)
        step, n = shown["step"].values, shown["n"].values[:, 0].astype(np.float64)
        moments = pool_groups(shown, (n - self._kept.nonfinite[rows])[:, None], starts)
        binned, total = (self._pool(first, stop, size)(axis) for size in (k, stop - first))
        column_n = np.add.reduceat(n, starts) / n_rows
        oddest, row = find_oddest(self._classes[rows], k)
        with np.errstate(invalid="ignore", divide="ignore"):
            flow = {
                "underflow": binned.underflow / column_n,
                "overflow": binned.overflow / column_n,
                "nonfinite": (binned.neg_inf + binned.pos_inf + binned.nan) / column_n,
            }
            outside = (total.underflow + total.overflow) / n.mean()
            bound = np.minimum(total.bound.sum(axis=-1) / 2 / total.counts.sum(axis=-1), 1)
        cell = ("layer", "column")
        return xr.Dataset(
            {
                "first_row": ("column", first + starts),
                "n_rows": ("column", n_rows),
                "step": ("column", step[starts]),
                "counts": (("layer", "column", "bin"), binned.counts[None]),
                "n_per_batch": (cell, column_n[None]),
                **{name: (cell, moments[name]) for name in _MOMENTS},
                **{name: (cell, values[None]) for name, values in flow.items()},
                "oddest": (cell, oddest.T),
                "oddest_step": (cell, step[starts + row.T]),
                "total_out_of_range": ("layer", outside),
                "bound_share": ("layer", bound),
            },
            {
                "bin": axis.centers,
                "lower": ("bin", axis.lower),
                "upper": ("bin", axis.upper),
                "layer": [self._layer],
            },
        )

    def _curves(self, axis: LinearAxis) -> dict[str, Any]:
        """Return where the epochs lie, and the mean histogram of each and of its last quarter."""
        rows, *means = zip(*self._epochs, strict=True)
        epoch, quarter = (np.concatenate([mean(axis).counts for mean in part])[None] for part in means)
        curve = ("layer", "epoch", "bin")
        return {
            "epoch_first_row": ("epoch", np.array([own[0] for own in rows])),
            "epoch_n_rows": ("epoch", np.array([own.size for own in rows])),
            "epoch_counts": (curve, epoch),
            "quarter_counts": (curve, quarter),
            "epoch": in_order(self._rows["epoch"].values)[0],
        }
