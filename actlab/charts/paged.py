"""What a page that re-bins its charts itself is made of: columns on bins, and on slots without a range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import FloatAxis, LinearAxis
from actlab.charts.columns import Progress, aggregate
from actlab.charts.pooling import Pool
from actlab.charts.slotted import LayerSlots, SlotSums
from actlab.charts.sources import Counts, is_kept, raw_slots
from actlab.rebinning import Slots
from actlab.run import Run
from actlab.steps.blocks import row_blocks
from actlab.steps.merging import in_order, last_quarter

__all__ = ["Sample", "columns_with_slots", "read_sample", "read_window", "slot_axis", "sum_totals"]

_RAW_BITS: Final = 10


def slot_axis(run: Run, name: str) -> FloatAxis:
    """Return the axis whose buckets the slots of a layer merge: a finer one where raw outputs are kept."""
    if name == run.head and is_kept(run, "train"):
        return replace(run.axis, mantissa_bits=max(_RAW_BITS, run.axis.mantissa_bits))
    return run.axis


def sum_totals(run: Run, layers: Sequence[str]) -> xr.DataArray:
    """Return the counts [layer, bucket] of all that charts of the training show, validation included."""
    shown = [run.totals(split).sel(layer=list(layers)) for split in ("train", "valid") if split in run.splits]
    return sum(shown[1:], shown[0])


def columns_with_slots(
    run: Run,
    axis: LinearAxis,
    layouts: Mapping[str, Slots],
    rows: NDArray[np.int64],
    *,
    k: int,
    progress: Progress | None = None,
) -> tuple[xr.Dataset, dict[str, LayerSlots]]:
    """Aggregate training rows into columns, on bins and once more on slots; every count is read once.

    Parameters
    ----------
    run : Run
        The recorded training.
    axis : LinearAxis
        The bins.
    layouts : mapping of str to Slots
        The slots of each layer wanted, of its `slot_axis`, in the order wanted.
    rows : numpy.ndarray
        Numbers of the training rows [row], ascending.
    k : int
        Batches per column.
    progress : callable, optional
        Called after each block with the rows done and the rows in all.

    Returns
    -------
    columns : xarray.Dataset
        As `columns.columns`, but that `oddest` and `oddest_step` compare batches on slots of the size of
        the layer, whatever the bins are.
    slots : dict of str to LayerSlots
        The columns and epochs of each layer as sums over slots.

    Raises
    ------
    SelectionError
        If a layer was not recorded.
    """
    names, labels = list(layouts), run["train"].epoch.values[rows]
    sums = SlotSums(
        layouts,
        sum_totals(run, names),
        run.axis,
        n_columns=-(-rows.size // k),
        n_epochs=np.unique(labels).size,
    )
    data = aggregate(run, axis, names, rows, k=k, sums=sums, progress=progress)
    if run.head in layouts and is_kept(run, "train"):
        _add_raw(run, rows, k, sums)
    return data, sums.layers


def _add_raw(run: Run, rows: NDArray[np.int64], k: int, sums: SlotSums) -> None:
    """Give sums of the raw outputs of the head to `sums`."""
    name = str(run.head)
    slots = sums.layers[name].slots

    def put(what: str, number: int, total: Counts) -> None:
        sums.put(what, name, number, total[0])

    def stream(split: str, chosen: NDArray[np.int64], groups: Mapping[str, NDArray[np.int64]]) -> None:
        pools = [Pool(group, partial(put, what)) for what, group in groups.items()]
        for where, block in raw_slots(run, split, chosen, slots):
            for pool in pools:
                pool.add(where, block)

    labels, epoch_of = in_order(run["train"].epoch.values[rows])
    quarter_of = np.full(rows.size, -1)
    for number in range(len(labels)):
        quarter_of[last_quarter(np.flatnonzero(epoch_of == number))] = number
    stream("train", rows, {"column": np.arange(rows.size) // k, "epoch": epoch_of, "quarter": quarter_of})
    if "valid" in run.splits:
        of_valid = run["valid"].epoch.values
        after = np.flatnonzero(np.isin(of_valid, labels))
        if after.size and is_kept(run, "valid"):
            stream("valid", after, {"valid": np.argmax(of_valid[after, None] == labels, axis=1)})


@dataclass(frozen=True)
class Sample:
    """A few columns of a run: neighbours, two by two.

    Parameters
    ----------
    run : Run
        The run.
    k : int
        Batches per column.
    rows, column_of : numpy.ndarray
        Numbers of the training rows read, and the column of each [row].
    pairs : numpy.ndarray
        The columns [pair, 2]; twice the same one where there is but one.
    counts : dict of str to numpy.ndarray
        Sums of each layer [column read, bucket].
    """

    run: Run
    k: int
    rows: NDArray[np.int64]
    column_of: NDArray[np.int64]
    pairs: NDArray[np.int64]
    counts: dict[str, Counts]

    def sums(self, name: str, slots: Slots) -> Counts:
        """Return the sums of a layer over finite slots of its `slot_axis` [slot in use, pair, 2]."""
        if slots.axis == self.run.axis:
            merged = slots.merge(self.counts[name])
        else:  # raw outputs
            columns: list[Counts] = []
            pool = Pool(self.column_of, lambda _, total: columns.append(total[0]))
            for where, block in raw_slots(self.run, "train", self.rows, slots):
                pool.add(where, block)
            merged = np.stack(columns)
        filled = np.flatnonzero(merged[:, 1:-2].any(axis=0)) + 1
        used = merged[:, filled[0] : filled[-1] + 1] if filled.size else merged[:, :0]
        return used.T[:, np.searchsorted(np.unique(self.pairs), self.pairs)]


def read_sample(run: Run, layers: Sequence[str], rows: NDArray[np.int64], *, k: int, places: int) -> Sample:
    """Read a few columns of the training.

    Parameters
    ----------
    run : Run
        The run.
    layers : sequence of str
        Names.
    rows : numpy.ndarray
        Numbers of all training rows [row], ascending.
    k : int
        Batches per column.
    places : int
        So many pairs of columns at most, evenly spread.
    """
    n_columns = -(-rows.size // k)
    first = np.unique((2 * np.arange(places) + 1) * (n_columns - 1) // (2 * places))
    pairs = np.stack([first, np.minimum(first + 1, n_columns - 1)], axis=1)
    column_of = np.arange(rows.size) // k
    read = np.isin(column_of, pairs)
    columns: list[Counts] = []
    pool = Pool(column_of[read], lambda _, total: columns.append(total))
    for where, block in row_blocks(run["train"]["counts"].sel(layer=list(layers)), rows[read]):
        pool.add(where, block)
    counts = dict(zip(layers, np.stack(columns, axis=1), strict=True))
    return Sample(run, k, rows[read], column_of[read], pairs, counts)


def read_window(run: Run, name: str, rows: NDArray[np.int64], part: LayerSlots) -> NDArray[Any]:
    """Read single training batches of a layer.

    Parameters
    ----------
    run : Run
        The run.
    name : str
        The layer.
    rows : numpy.ndarray
        Numbers of the training rows [row], ascending.
    part : LayerSlots
        What was kept of the layer.

    Returns
    -------
    numpy.ndarray
        Counts [kept slot, row].
    """
    kept = slice(part.first, part.first + len(part.columns))
    return np.concatenate([block[:, kept] for block in _blocks(run, name, rows, part.slots)]).T


def _blocks(run: Run, name: str, rows: NDArray[np.int64], slots: Slots) -> Iterator[Counts]:
    """Read the counts of some training rows of a layer [row, slot], block by block."""
    if name == run.head and is_kept(run, "train"):
        yield from (block[:, 0] for _, block in raw_slots(run, "train", rows, slots))
    else:
        counts = run["train"]["counts"].sel(layer=[name])
        yield from (slots.merge(block[:, 0]) for _, block in row_blocks(counts, rows))
