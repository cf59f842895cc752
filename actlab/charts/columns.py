"""The shared aggregation: a run as columns of whole batches, re-binned once pooled.

Rows are streamed in blocks, so memory depends on the layers, buckets and epochs but not on the
length of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.charts.pooling import Pool
from actlab.charts.slotted import SlotSums
from actlab.charts.sources import Counts, Recorded, Source, sources
from actlab.errors import SelectionError, nearest
from actlab.run import Run
from actlab.steps.merging import in_order, last_quarter
from actlab.steps.moments import pool_groups
from actlab.steps.outliers import find_oddest

__all__ = ["Progress", "aggregate", "columns", "rows_of_epochs"]

Progress = Callable[[int, int], None]
"""Called with the rows done so far and the rows in all."""

_Floats = NDArray[np.float64]

_MOMENTS: Final = ("mean", "std", "mean_min", "mean_max", "std_min", "std_max")


def columns(
    run: Run,
    axis: LinearAxis,
    *,
    layers: Sequence[str],
    epochs: Sequence[int] | None = None,
    max_columns: int = 1000,
    split: str = "train",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Aggregate a split into columns of k whole batches, k the smallest that gives few enough.

    Counts are pooled over the batches of a column and only then re-binned, because interpolation
    is not additive. Columns start at multiples of k rows; the last one may hold fewer.

    Parameters
    ----------
    run : Run
        The recorded training.
    axis : LinearAxis
        The bins.
    layers : sequence of str
        Whole names, in the order wanted.
    epochs : sequence of int, optional
        Epoch labels to keep; all by default.
    max_columns : int
        At most so many columns.
    split : str
        Which part of the data.
    progress : callable, optional
        Called after each block with the rows done and the rows in all.

    Returns
    -------
    xarray.Dataset
        Along the columns, rows being those kept, counted from 0:

        - first_row, n_rows, step [column]: first row, number of rows, `step` of the first row;
        - counts [layer, column, bin]: float32, mean count per batch;
        - n_per_batch [layer, column]: mean number of values per batch, non-finite ones included;
        - mean, std [layer, column]: pooled over all finite values of the column;
        - mean_min, mean_max, std_min, std_max [layer, column]: extremes of its single batches;
        - underflow, overflow, nonfinite [layer, column]: shares of n below and above the range, and
          infinite or NaN;
        - oddest, oddest_step [layer, column]: total variation distance (0 to 1) of the batch least
          like the rest of its column, and the `step` of that batch; 0 where k is 1.

        Along the epochs, mean counts per batch, float64:

        - epoch_first_row, epoch_n_rows [epoch]: where the epoch lies;
        - epoch_counts, quarter_counts [layer, epoch, bin]: whole epoch, its last ceil(n/4) batches;
        - valid_counts [layer, epoch, bin]: the validation of that epoch, NaN without.

        Over everything: n, total_mean, total_std, total_min, total_max, total_zero_share,
        total_out_of_range (share of n beyond the range, finite) and bound_share (share of the counts
        shown that may lie in a neighbouring bin, at most), all [layer]; NaN without values.

        Attributes h_min, h_max, n_bins, split, rows, batches_per_column, first_step and step_stride
        (`step` of row i is first_step + i * step_stride; 0 where steps are not evenly spaced).

    Raises
    ------
    SelectionError
        If a layer, the split or an epoch was not recorded.
    """
    rows = rows_of_epochs(run, split, epochs)
    return aggregate(run, axis, layers, rows, k=-(-rows.size // max_columns), split=split, progress=progress)


def aggregate(
    run: Run,
    axis: LinearAxis,
    layers: Sequence[str],
    rows: NDArray[np.int64],
    *,
    k: int,
    split: str = "train",
    sums: SlotSums | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Aggregate some rows of a split into columns of k batches.

    Parameters
    ----------
    run : Run
        The recorded training.
    axis : LinearAxis
        The bins.
    layers : sequence of str
        Whole names, in the order wanted.
    rows : numpy.ndarray
        Numbers of the rows [row], ascending.
    k : int
        Batches per column.
    split : str
        Which part of the data.
    sums : SlotSums, optional
        Is given all sums of recorded counts, too; it then says on which slots batches are compared.
    progress : callable, optional
        As for `columns`.

    Returns
    -------
    xarray.Dataset
        What `columns` returns.

    Raises
    ------
    SelectionError
        If a layer was not recorded, or there is none.
    """
    for name in layers:
        if name not in run.names:
            raise SelectionError(f"no layer {name!r} in {run.path}: {nearest(name, run.names)}")
    found = sources(run, split, rows, layers, axis) if len(layers) else []
    if not found:
        raise SelectionError(f"no layers of {run.path} to draw")
    labels = np.unique(run[split].epoch.values[rows])
    after = _validation(run, labels, layers, axis) if split == "train" else []
    report = _counter(progress, sum(source.rows.sizes["step"] for source in (*found, *after)))
    parts = [_fill(source, axis, k, report, sums) for source in found]
    data = xr.concat(parts, "layer", data_vars="minimal", coords="minimal", join="exact")
    valid = [_per_epoch(source, axis, data["epoch"].values, report, sums) for source in after]
    valid_counts = xr.concat(valid, "layer") if valid else xr.full_like(data["epoch_counts"], np.nan)
    data["valid_counts"] = valid_counts
    return data.sel(layer=list(layers)).assign_attrs(split=split)


def rows_of_epochs(run: Run, split: str, epochs: Sequence[int] | None) -> NDArray[np.int64]:
    """Return the numbers of the rows of some epochs [row], all by default, in the order recorded.

    Raises
    ------
    SelectionError
        If there are none, or an epoch was not recorded.
    """
    if epochs is None:
        rows = run.rows(split)
    else:
        rows = np.unique(np.concatenate([np.array([], np.int64), *(run.rows(split, e) for e in epochs)]))
    if rows.size == 0:
        raise SelectionError(f"no rows of split {split!r} in {run.path} to draw")
    return rows


def _validation(run: Run, epochs: NDArray[np.int64], layers: Sequence[str], axis: LinearAxis) -> list[Source]:
    """Return the sources of the validation rows of some epochs, none where there are no such rows."""
    if "valid" not in run.splits:
        return []
    rows = np.flatnonzero(np.isin(run["valid"].epoch.values, epochs))
    return sources(run, "valid", rows, layers, axis) if rows.size else []


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Turn rows just done into calls of `progress`."""
    done = 0

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, total)

    return report


def _fill(
    source: Source, axis: LinearAxis, k: int, report: Callable[[int], None], sums: SlotSums | None
) -> xr.Dataset:
    """Stream a source into columns of k batches."""
    result = _Columns(source, axis, k, sums)
    for where, block in source.blocks():
        result.add(where, block)
        report(len(block))
    return result.dataset()


class _Columns:
    """The aggregates of one split, filled block by block.

    Parameters
    ----------
    source : Source
        The rows and layers kept.
    axis : LinearAxis
        The bins.
    k : int
        Batches per column.
    sums : SlotSums or None
        Takes the sums of recorded counts, too.
    """

    def __init__(self, source: Source, axis: LinearAxis, k: int, sums: SlotSums | None) -> None:
        self._source, self._axis, self._k = source, axis, k
        self._sums = sums if sums is not None and isinstance(source, Recorded) else None
        rows = source.rows
        self._names = [str(name) for name in rows.layer.values]
        n_rows, n_layers = rows.sizes["step"], rows.sizes["layer"]
        self._first_row = np.arange(0, n_rows, k)
        self._n_rows = np.diff(self._first_row, append=n_rows)
        self._epochs, epoch_of = in_order(rows.epoch.values)
        self._epoch_rows = [np.flatnonzero(epoch_of == number) for number in range(len(self._epochs))]
        quarter_of = np.full(n_rows, -1)
        for number, positions in enumerate(self._epoch_rows):
            quarter_of[last_quarter(positions)] = number

        n_columns, n_epochs = self._first_row.size, len(self._epochs)
        self._counts = np.zeros((n_layers, n_columns, axis.n_bins), np.float32)
        self._flow = np.zeros((3, n_layers, n_columns))
        self._epoch_counts = np.zeros((n_layers, n_epochs, axis.n_bins))
        self._quarter_counts = np.zeros_like(self._epoch_counts)
        self._total: Counts = np.zeros((n_layers, 1), np.uint64)
        self._nonfinite = np.zeros((n_rows, n_layers), np.uint64)
        self._oddest = np.zeros((n_layers, n_columns))
        self._oddest_row = np.tile(self._first_row, (n_layers, 1))
        self._waiting: list[Counts] = []
        # No sum within a row exceeds its n; four bytes are four times as fast as eight.
        self._row_dtype = np.uint32 if int(rows.n.max()) < 2**32 else np.uint64
        self._pools = (
            Pool(np.arange(n_rows) // k, self._finish_column),
            Pool(epoch_of, self._finish_epoch),
            Pool(quarter_of, self._finish_quarter),
        )

    def add(self, where: slice, block: Counts) -> None:
        """Take in the counts [row, layer, slot] of some consecutive rows."""
        self._nonfinite[where] = block[..., [0, -2, -1]].sum(axis=-1, dtype=np.uint64)
        for pool in self._pools:
            pool.add(where, block)
        if self._k > 1:
            if self._sums is None:
                classes = np.add.reduceat(block, self._source.class_starts, axis=-1, dtype=self._row_dtype)
            else:
                classes = self._sums.classes(block, self._names, self._row_dtype)
            self._waiting.append(classes)
            self._finish_oddest(where.stop)

    def _finish_column(self, column: int, total: Counts) -> None:
        """Re-bin a complete column."""
        binned = self._source.rebin(total)
        self._counts[:, column] = binned.counts / self._n_rows[column]
        nonfinite = binned.neg_inf + binned.pos_inf + binned.nan
        self._flow[:, :, column] = binned.underflow, binned.overflow, nonfinite
        if self._sums is not None:
            self._sums.add("column", self._names, column, total)

    def _finish_epoch(self, epoch: int, total: Counts) -> None:
        """Re-bin a complete epoch, and add it to the total."""
        self._total = self._total + total
        binned = self._source.rebin(total)
        self._epoch_counts[:, epoch] = binned.counts / self._epoch_rows[epoch].size
        if self._sums is not None:
            self._sums.add("epoch", self._names, epoch, total)

    def _finish_quarter(self, epoch: int, total: Counts) -> None:
        """Re-bin the last quarter of an epoch."""
        binned = self._source.rebin(total)
        self._quarter_counts[:, epoch] = binned.counts / last_quarter(self._epoch_rows[epoch]).size
        if self._sums is not None:
            self._sums.add("quarter", self._names, epoch, total)

    def _finish_oddest(self, stop: int) -> None:
        """Find the oddest batch of each column complete up to row `stop`; keep the rest waiting."""
        waiting = np.concatenate(self._waiting)
        start = stop - len(waiting)
        at_end = stop == self._nonfinite.shape[0]
        complete = len(waiting) if at_end else len(waiting) // self._k * self._k
        self._waiting = [waiting[complete:]]
        if complete == 0:
            return
        distance, row = find_oddest(waiting[:complete], self._k)
        chosen = slice(start // self._k, start // self._k + len(distance))
        self._oddest[:, chosen] = distance.T
        self._oddest_row[:, chosen] += row.T

    def dataset(self) -> xr.Dataset:
        """Return all aggregates, once every row was added."""
        rows = self._source.rows
        n = rows.n.values.astype(np.float64)
        step = rows.step.values
        finite = n - self._nonfinite
        per_column = pool_groups(rows, finite, self._first_row)
        column_n = np.add.reduceat(n, self._first_row).T
        with np.errstate(invalid="ignore", divide="ignore"):
            underflow, overflow, nonfinite = self._flow / column_n
        cell, curve = ("layer", "column"), ("layer", "epoch", "bin")
        variables = {
            "first_row": ("column", self._first_row),
            "n_rows": ("column", self._n_rows),
            "step": ("column", step[self._first_row]),
            "counts": (("layer", "column", "bin"), self._counts),
            "n_per_batch": (cell, column_n / self._n_rows),
            **{name: (cell, per_column[name]) for name in _MOMENTS},
            "underflow": (cell, underflow),
            "overflow": (cell, overflow),
            "nonfinite": (cell, nonfinite),
            "oddest": (cell, self._oddest),
            "oddest_step": (cell, step[self._oddest_row]),
            "epoch_first_row": ("epoch", np.array([positions[0] for positions in self._epoch_rows])),
            "epoch_n_rows": ("epoch", np.array([positions.size for positions in self._epoch_rows])),
            "epoch_counts": (curve, self._epoch_counts),
            "quarter_counts": (curve, self._quarter_counts),
            **{name: ("layer", values) for name, values in self._totals(finite).items()},
        }
        axis = self._axis
        coordinates = {
            "bin": axis.centers,
            "lower": ("bin", axis.lower),
            "upper": ("bin", axis.upper),
            "epoch": self._epochs,
            "layer": self._names,
        }
        strides = np.unique(np.diff(step))
        attributes = {
            "h_min": axis.h_min,
            "h_max": axis.h_max,
            "n_bins": axis.n_bins,
            "rows": step.size,
            "batches_per_column": self._k,
            "first_step": int(step[0]),
            "step_stride": int(strides[0]) if strides.size == 1 else int(step.size == 1),
        }
        return xr.Dataset(variables, coordinates, attributes)

    def _totals(self, finite: _Floats) -> dict[str, _Floats]:
        """Return the values of each layer [layer] over all rows."""
        pooled = pool_groups(self._source.rows, finite, np.zeros(1, np.int64))
        binned = self._source.rebin(self._total)
        shown = binned.counts.sum(axis=-1)
        zero = self._total[:, self._source.zero]
        n = self._source.rows.n.values.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "n": n,
                **{f"total_{name}": pooled[name][:, 0] for name in ("mean", "std", "min", "max")},
                "total_zero_share": zero / n,
                "total_out_of_range": (binned.underflow + binned.overflow) / n,
                # An edge between two bins stands in the bound of both.
                "bound_share": np.minimum(binned.bound.sum(axis=-1) / 2 / shown, 1),
            }


def _per_epoch(
    source: Source,
    axis: LinearAxis,
    epochs: NDArray[np.int64],
    report: Callable[[int], None],
    sums: SlotSums | None,
) -> xr.DataArray:
    """Return the mean counts per batch [layer, epoch, bin] of each epoch, NaN for one without rows."""
    labels = source.rows.epoch.values
    names = [str(name) for name in source.rows.layer.values]
    result = np.full((len(names), epochs.size, axis.n_bins), np.nan)

    def finish(epoch: int, total: Counts) -> None:
        result[:, epoch] = source.rebin(total).counts / np.count_nonzero(labels == epochs[epoch])
        if sums is not None and isinstance(source, Recorded):
            sums.add("valid", names, epoch, total)

    pool = Pool(np.argmax(labels[:, None] == epochs, axis=1), finish)
    for where, block in source.blocks():
        pool.add(where, block)
        report(len(block))
    return xr.DataArray(result, {"layer": names, "epoch": epochs}, ("layer", "epoch", "bin"))
