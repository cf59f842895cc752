"""Where the columns come from: recorded counts, or the head's raw outputs, which are exact.

Both hand out counts over slots, row block by row block, and bring sums of them onto the bins.
Slot 0 holds negative infinity, the last two positive infinity and NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.rebinning import Rebinned, Slots, rebin_array
from actlab.run import Run
from actlab.steps.blocks import row_blocks
from actlab.store.splits import places

__all__ = ["Counts", "RawHead", "Recorded", "Source", "is_kept", "raw_slots", "sources"]

Counts = NDArray[np.unsignedinteger[Any]]

_BLOCK_BYTES: Final = 64 << 20


class Source(Protocol):
    """Rows of some layers of a split as counts over slots.

    Attributes
    ----------
    rows : xarray.Dataset
        The rows and layers, lazily: `Run`'s split.
    zero : int
        The slot that holds exactly 0.
    class_starts : numpy.ndarray
        First slot of each class of neighbouring slots that lie in one bin, for `numpy.add.reduceat`.
    """

    rows: xr.Dataset
    zero: int
    class_starts: NDArray[np.intp]

    def blocks(self) -> Iterator[tuple[slice, Counts]]:
        """Load the rows block by block: which ones, and their counts [row, layer, slot]."""
        ...

    def rebin(self, total: Counts) -> Rebinned:
        """Bring pooled counts [layer, slot] onto the bins."""
        ...


def sources(
    run: Run, split: str, rows: NDArray[np.int64], layers: Sequence[str], axis: LinearAxis
) -> list[Source]:
    """Find the best source of each layer: raw where every value was kept, else the counts.

    Parameters
    ----------
    run : Run
        The recorded training.
    split : str
        One of its splits.
    rows : numpy.ndarray
        Numbers of the rows wanted [row], ascending.
    layers : sequence of str
        Names, at least one.
    axis : LinearAxis
        The bins.

    Returns
    -------
    list of Source
        At most two, which hold all layers together.
    """
    counted = [name for name in layers if name != run.head or not is_kept(run, split)]
    found: list[Source] = [Recorded(run[split], rows, counted, axis)] if counted else []
    if len(counted) < len(layers):
        found.append(RawHead(run, split, rows, axis))
    return found


def is_kept(run: Run, split: str) -> bool:
    """Tell whether the raw outputs of the head are all there."""
    raw = run.raw(split)
    return raw is not None and raw["head"].size == int(run[split].n.sel(layer=run.head).sum())


class Recorded:
    """Recorded counts; a slot is a bucket.

    Parameters
    ----------
    recorded : xarray.Dataset
        A split of a `Run`.
    rows : numpy.ndarray
        Numbers of the rows wanted [row], ascending.
    layers : sequence of str
        Names.
    axis : LinearAxis
        The bins.
    """

    def __init__(
        self, recorded: xr.Dataset, rows: NDArray[np.int64], layers: Sequence[str], axis: LinearAxis
    ) -> None:
        self._recorded = recorded.sel(layer=list(layers))
        self._numbers, self._axis = rows, axis
        self._ends = recorded.lower.values, recorded.upper.values
        self.rows = self._recorded.isel(step=rows)
        self.zero = int(np.flatnonzero((self._ends[0] == 0) & (self._ends[1] == 0))[0])
        self.class_starts = self._classes()

    def _classes(self) -> NDArray[np.intp]:
        """Judge buckets by their middle: merging can only shorten a distance, so what it shows is there."""
        lower, upper = self._ends
        with np.errstate(invalid="ignore"):
            code = self._axis.index((lower + upper) / 2)
        code[np.isneginf(upper)] = -2
        code[np.isposinf(lower)] = self._axis.n_bins + 1
        code[np.isnan(lower)] = self._axis.n_bins + 2
        return np.flatnonzero(np.diff(code, prepend=-3))

    def blocks(self) -> Iterator[tuple[slice, Counts]]:
        """Read the rows, a few chunks at a time."""
        return row_blocks(self._recorded["counts"], self._numbers)

    def rebin(self, total: Counts) -> Rebinned:
        """Interpolate, see `rebinning.rebin`."""
        return rebin_array(total, *self._ends, self._axis)


class RawHead:
    """The head's raw outputs; the slots are -inf, 0, below the range, the bins, above it, inf, NaN.

    Parameters
    ----------
    run : Run
        A run that kept all outputs of its head.
    split : str
        One of its splits.
    rows : numpy.ndarray
        Numbers of the rows wanted [row], ascending.
    axis : LinearAxis
        The bins.
    """

    zero = 1

    def __init__(self, run: Run, split: str, rows: NDArray[np.int64], axis: LinearAxis) -> None:
        self._run, self._split, self._numbers, self._axis = run, split, rows, axis
        self.rows = run[split].sel(layer=[run.head]).isel(step=rows)
        self.class_starts = np.arange(axis.n_bins + 6)

    def blocks(self) -> Iterator[tuple[slice, Counts]]:
        """Count the values of some rows at a time."""
        return _count_raw(self._run, self._split, self._numbers, self._axis.n_bins + 6, self._slot)

    def _slot(self, values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return the slot of each value."""
        n_bins = self._axis.n_bins
        special = [values == 0, values == -np.inf, values == np.inf, np.isnan(values)]
        return np.select(special, [1, 0, n_bins + 4, n_bins + 5], self._axis.index(values) + 3)

    def rebin(self, total: Counts) -> Rebinned:
        """Take the bins as they are."""
        inside = total[..., 2:-2].astype(np.float64)
        inside[..., int(self._axis.index(0.0)) + 1] += total[..., 1]
        ends = total[..., [0, -2, -1]].astype(np.float64)
        counts = inside[..., 1:-1]
        return Rebinned(
            counts=counts,
            underflow=inside[..., 0],
            overflow=inside[..., -1],
            neg_inf=ends[..., 0],
            pos_inf=ends[..., 1],
            nan=ends[..., 2],
            bound=np.zeros_like(counts),
            exact=np.ones(counts.shape[:-1], np.bool_),
        )


def raw_slots(run: Run, split: str, rows: NDArray[np.int64], slots: Slots) -> Iterator[tuple[slice, Counts]]:
    """Count the head's raw outputs over slots, some rows at a time.

    Parameters
    ----------
    run : Run
        A run that kept all outputs of its head.
    split : str
        One of its splits.
    rows : numpy.ndarray
        Numbers of the rows wanted [row], ascending.
    slots : Slots
        Of any axis.

    Yields
    ------
    chosen : slice
        Which of `rows`.
    counts : numpy.ndarray
        Their counts [row, 1, slot], uint64.
    """
    return _count_raw(
        run, split, rows, slots.starts.size, lambda values: slots.slot_of[slots.axis.index(values)]
    )


def _count_raw(
    run: Run,
    split: str,
    rows: NDArray[np.int64],
    n_slots: int,
    slot_of: Callable[[NDArray[np.floating[Any]]], NDArray[np.integer]],
) -> Iterator[tuple[slice, Counts]]:
    """Count the raw outputs of some rows [row, 1, slot] at a time."""
    raw = run.raw(split)
    assert raw is not None
    shown = run[split].isel(step=rows)
    row = places(shown["step"], shown["attempt"]).get_indexer(places(raw["step"], raw["attempt"]))
    per_row = max(n_slots, raw["head"].size // max(rows.size, 1))
    height = max(1, _BLOCK_BYTES // (8 * per_row))
    for start in range(0, rows.size, height):
        stop = min(start + height, rows.size)
        samples = np.flatnonzero((row >= start) & (row < stop))
        values = raw["head"].isel(sample=samples).values
        cell = (row[samples, None] - start) * n_slots + slot_of(values)
        counts = np.bincount(cell.ravel(), minlength=(stop - start) * n_slots)
        yield slice(start, stop), counts.astype(np.uint64).reshape(-1, 1, n_slots)
