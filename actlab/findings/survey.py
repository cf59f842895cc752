"""Reading a run for its facts: every count once, and later only what was added since."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.findings.facts import QUANTILES, Facts
from actlab.findings.sums import SUMS, regions, sum_rows
from actlab.run import Run
from actlab.stats import quantile, total_variation
from actlab.steps.blocks import row_blocks

__all__ = ["Survey"]

_NUMBERS: Final = ("n", "mean", "std", "min", "max")
_BEFORE_ALL: Final = np.int64(-(1 << 40))  # no epoch has this label

Progress = Callable[[int, int], None]


class Survey:
    """A run, read for its facts; read again it goes on where it stopped.

    Parameters
    ----------
    run : Run
        The run; `refresh` it before it is read again.
    axis : LinearAxis, optional
        The bins of the page, as in `Facts`.
    """

    def __init__(self, run: Run, axis: LinearAxis | None = None) -> None:
        self.run, self._axis = run, axis
        self._tables: dict[str, _Table] = {}

    def read(self, progress: Progress | None = None) -> Facts:
        """Read what is new, and return the facts.

        Parameters
        ----------
        progress : callable, optional
            Called as ``progress(done, total)``, in rows of all splits.
        """
        run, done = self.run, 0
        tables = {split: self._tables.get(split) for split in run.splits}
        # A resumed training replaces rows: what was read of them is no longer true.
        self._tables = {
            split: table if table is not None and table.fits(run) else _Table(run, split)
            for split, table in tables.items()
        }
        total = sum(table.n_new(run) for table in self._tables.values())

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            if progress is not None:
                progress(done, total)

        for table in self._tables.values():
            table.read(run, count)
        known = {split: table for split, table in self._tables.items() if table.n_rows}
        totals = {split: table.counts(table.totals) for split, table in known.items()}
        run.keep_totals(totals)  # whoever draws the run need not read it for them again
        return Facts(
            run,
            {split: table.rows() for split, table in known.items()},
            {split: table.epochs() for split, table in known.items()},
            {split: table.counts(table.pooled) for split, table in known.items()},
            totals,
            self._axis,
        )


@dataclass
class _Epoch:
    """One epoch of a split, its counts taken away."""

    label: int
    rows: int = 0
    moved: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    quantile: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


class _Table:
    """What was read of one split, row by row and epoch by epoch.

    Attributes
    ----------
    pooled : numpy.ndarray
        Counts [layer, bucket] of the last epoch.
    """

    def __init__(self, run: Run, split: str) -> None:
        self._split, self._names, self._axis = split, run.names, run.axis
        self._regions = regions(run.axis)
        self._place = np.zeros((0, 3), np.int64)  # step, attempt and epoch of the rows that were read
        self._parts: list[xr.Dataset] = []
        self._epochs: list[_Epoch] = []
        self.pooled = np.zeros((len(run.names), run.axis.n_buckets), np.uint64)
        self._before, self._sum = np.zeros_like(self.pooled), np.zeros_like(self.pooled)

    @property
    def n_rows(self) -> int:
        """Number of rows that were read."""
        return len(self._place)

    @property
    def totals(self) -> NDArray[np.uint64]:
        """Counts [layer, bucket] of all rows."""
        return self._sum + self.pooled

    def fits(self, run: Run) -> bool:
        """Tell whether the rows that were read are still the first ones of the run, of the same layers."""
        return run.names == self._names and np.array_equal(self._places(run)[: self.n_rows], self._place)

    def n_new(self, run: Run) -> int:
        """Return the number of rows not read yet."""
        return int(run[self._split].sizes["step"]) - self.n_rows

    def _places(self, run: Run) -> NDArray[np.int64]:
        """Return step, attempt and epoch of all rows [row, 3]."""
        rows = run[self._split]
        return np.stack([rows[name].values.astype(np.int64) for name in ("step", "attempt", "epoch")], axis=1)

    def read(self, run: Run, count: Callable[[int], None]) -> None:
        """Read the rows that are new, and say how many, block by block."""
        place = self._places(run)
        fresh = np.arange(self.n_rows, len(place))
        if not fresh.size:
            return
        kept = [*_NUMBERS, "epoch", "train_step"]
        numbers = run[self._split][kept].isel(step=fresh).compute()
        sizes = [_sizes(str(name), layer) for name, layer in run.layers.iterrows()]
        per_sample, units = (np.asarray(each, np.int64) for each in zip(*sizes, strict=True))
        n = numbers["n"].transpose("step", "layer").values.astype(np.int64)
        # A batch whose values are no whole number of samples is none that can be told apart into samples.
        samples = np.where(n % np.maximum(per_sample, 1) == 0, n // np.maximum(per_sample, 1), 0)
        samples[:, per_sample == 0] = 0
        sums = np.empty((*n.shape, len(SUMS)), np.float32)
        for chosen, block in row_blocks(run[self._split]["counts"], fresh):
            self._add(block, place[fresh[chosen], 2], samples[chosen], units, sums[chosen])
            count(len(block))
        variables = {name: (("step", "layer"), sums[..., number]) for number, name in enumerate(SUMS)}
        self._parts.append(numbers.assign(variables).assign(samples=(("step", "layer"), samples)))
        self._place = place

    def _add(
        self,
        block: NDArray[Any],
        epochs: NDArray[np.int64],
        samples: NDArray[np.int64],
        units: NDArray[np.int64],
        sums: NDArray[np.float32],
    ) -> None:
        """Sum up a block [row, layer, bucket], given the epoch of each row, into `sums`."""
        starts = np.flatnonzero(np.diff(epochs, prepend=_BEFORE_ALL))
        for start, stop in zip(starts, [*starts[1:], epochs.size], strict=True):
            if not self._epochs or self._epochs[-1].label != epochs[start]:
                self._turn(int(epochs[start]))
            rows = np.ascontiguousarray(block[start:stop])
            sums[start:stop] = sum_rows(rows, self._regions, samples[start:stop], units, self.pooled)
            self._epochs[-1].rows += int(stop - start)

    def _turn(self, label: int) -> None:
        """Begin an epoch; the one before is described, and its counts become those to compare with."""
        if self._epochs:
            self._describe()
            self._sum += self.pooled
            self._before, self.pooled = self.pooled, np.zeros_like(self.pooled)
        self._epochs.append(_Epoch(label))

    def _describe(self) -> None:
        """Describe the last epoch as far as it was read."""
        last, is_first = self._epochs[-1], len(self._epochs) == 1
        last.moved = np.full(len(self._names), np.nan)
        if not is_first:
            last.moved = total_variation(self.counts(self.pooled), self.counts(self._before)).values
        last.quantile = quantile(self.counts(self.pooled), QUANTILES).values

    def counts(self, values: NDArray[Any]) -> xr.DataArray:
        """Name the layers and buckets of counts [layer, bucket]."""
        ends = {"lower": ("bucket", self._axis.lower), "upper": ("bucket", self._axis.upper)}
        return xr.DataArray(values, {"layer": self._names, **ends}, ("layer", "bucket"))

    def rows(self) -> xr.Dataset:
        """Return the rows, as `Facts` has them."""
        if len(self._parts) > 1:
            self._parts = [xr.concat(self._parts, "step", data_vars="minimal", coords="minimal")]
        return self._parts[0]

    def epochs(self) -> xr.Dataset:
        """Return the epochs, as `Facts` has them."""
        self._describe()
        rows = np.array([epoch.rows for epoch in self._epochs])
        ends = np.cumsum(rows)
        step = self._place[:, 0]
        return xr.Dataset(
            {
                "rows": ("epoch", rows),
                "first_step": ("epoch", step[ends - rows]),
                "last_step": ("epoch", step[ends - 1]),
                "moved": (("epoch", "layer"), np.stack([epoch.moved for epoch in self._epochs])),
                "quantile": (("epoch", "layer", "q"), np.stack([epoch.quantile for epoch in self._epochs])),
            },
            {"epoch": [epoch.label for epoch in self._epochs], "layer": self._names, "q": list(QUANTILES)},
        )


def _sizes(name: str, layer: pd.Series[Any]) -> tuple[int, int]:
    """Return how many values a sample has in a layer, and its number of units; 0 where unknown."""
    shape, kind = tuple(layer["shape"]), str(layer["kind"])
    is_recurrent = kind in ("RNN", "LSTM", "GRU")
    if len(shape) < 2 or not layer["calls"] or (is_recurrent and not name.endswith(":0")):  # a state
        return 0, 0
    is_sequence = is_recurrent and len(shape) == 3
    dim = 1 if is_sequence and "batch_first=True" not in str(layer["description"]) else 0
    # Channels are the second dim of images, and of what is made for such.
    is_image = len(shape) > 3 or kind.startswith(("Conv", "BatchNorm", "InstanceNorm", "GroupNorm"))
    per_sample = math.prod(shape[:dim] + shape[dim + 1 :]) * int(layer["calls"])
    return per_sample, shape[1 if is_image else -1]
