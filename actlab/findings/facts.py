"""The facts that rules look at: everything a run says, gathered in one pass over its counts."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.findings.answers import answers
from actlab.findings.rule import Lacking
from actlab.run import Run
from actlab.schema import LOG_PREFIX
from actlab.stats.ranges import shared_range

__all__ = ["QUANTILES", "Facts"]

QUANTILES: Final = (0.01, 0.99)
"""Those of the pooled counts of an epoch."""

_BINS: Final = 200
_CHANNEL_BYTES: Final = 256 << 20  # of the channels of a split
_LEAST_ROWS: Final = 32


class Facts:
    """What rules look at. Dims step and layer are those of the run, in its order; all arrays are in memory.

    Parameters
    ----------
    run : Run
        The run.
    rows : dict of str to xarray.Dataset
        For each split, all [step, layer]: n, mean, std, min, max as recorded, samples (of the batch; 0 where
        unknown), and numbers of values:

        - zeros: exactly 0; tiny: not 0, but smaller in size than 2^-24; subnormal: from there to below
          2^-14, where float16 lacks digits; near_zero: smaller than 1/64, all of those included; low,
          high: at or below -63/64, at or above 63/64;
        - nan, pos_inf, neg_inf;
        - occupied: the number of buckets that hold any finite values (no number of values);
        - same: in buckets whose count is a multiple of the samples of the batch: about all of n where every
          sample gives the same outputs, about n / samples where they have nothing to do with each other;
        - alike: likewise of the units of the layer: about all of n where all units are equal.

        Coordinates step, epoch, train_step [step].
    epochs : dict of str to xarray.Dataset
        For each split, by its epochs in order: rows, first_step, last_step [epoch]; moved [epoch, layer]:
        total variation distance (0 to 1) of the pooled counts to those of the epoch before, NaN in the
        first; quantile [epoch, layer, q]: of the pooled finite values, at `QUANTILES`.
    latest : dict of str to xarray.DataArray
        For each split the pooled counts [layer, bucket] of its last epoch.
    totals : dict of str to xarray.DataArray
        For each split the pooled counts [layer, bucket] of all its rows.
    axis : LinearAxis, optional
        The bins of the page; by default the ones that it takes of itself.

    Attributes
    ----------
    layers : pandas.DataFrame
        `run.layers`, without those that hold no value.
    head, targets : str or None
        The head, and what its labels are.
    is_view_asked : bool
        Whether the bins of the page were asked for.
    """

    def __init__(
        self,
        run: Run,
        rows: dict[str, xr.Dataset],
        epochs: dict[str, xr.Dataset],
        latest: dict[str, xr.DataArray],
        totals: dict[str, xr.DataArray],
        axis: LinearAxis | None = None,
    ) -> None:
        self.run, self.rows, self.epochs, self.latest = run, rows, epochs, latest
        self.totals, self._axis, self.is_view_asked = totals, axis, axis is not None
        table = run.layers
        self.layers: pd.DataFrame = table[table["n"] > 0]
        self.head: str | None = run.head
        self.targets: str | None = run.attributes.get("targets")

    @cached_property
    def view(self) -> LinearAxis:
        """The bins of the page."""
        if self._axis is not None:  # as asked for
            return self._axis
        shown = [self.totals["train"]] if "train" in self.totals else [*self.totals.values()]
        total = sum(shown[1:], shown[0]) if shown else None
        return LinearAxis(*((-1.0, 1.0) if total is None else shared_range(total, self.head)), _BINS)

    @cached_property
    def families(self) -> pd.Series[str]:
        """The kinds of all layers in one spelling, "leakyrelu" for `LeakyReLU` as for `leaky_relu`."""
        return self.layers["kind"].astype(str).str.lower().str.replace("_", "")

    @cached_property
    def channels(self) -> dict[str, xr.Dataset]:
        """For each split that has any, n, zeros, mean_abs [row, channel] as `run.channels`.

        Of more rows than memory is meant for, some are taken, as far from each other.
        """
        found = {split: self.run.channels(split) for split in self.run.splits}
        kept = {split: each for split, each in found.items() if each is not None and each.sizes["row"]}
        return {split: _thinned(each).compute() for split, each in kept.items()}

    @cached_property
    def answers(self) -> xr.Dataset | Lacking:
        """What the head answered, epoch by epoch, see `answers`; or what is lacking."""
        return answers(self.run)

    def loss(self, split: str) -> NDArray[np.float64] | None:
        """Return the loss logged in a split [row]: `log_loss`, or the only one of its kind; or None."""
        if split not in self.rows:
            return None
        rows = self.run[split]
        logged = [name for name in map(str, rows) if name.startswith(LOG_PREFIX) and "loss" in name]
        name = (
            f"{LOG_PREFIX}loss" if f"{LOG_PREFIX}loss" in logged else logged[0] if len(logged) == 1 else None
        )
        return None if name is None else np.asarray(rows[name].values, np.float64)

    def order(self, layer: str) -> int:
        """Return the place of a layer in the model."""
        return self.run.names.index(layer)


def _thinned(table: xr.Dataset) -> xr.Dataset:
    """Return so many rows [row, channel] as may be held at once, the first and the last among them."""
    n_rows, row_bytes = table.sizes["row"], max(table.nbytes // table.sizes["row"], 1)
    most = max(_LEAST_ROWS, _CHANNEL_BYTES // row_bytes)
    return table if n_rows <= most else table.isel(row=np.linspace(0, n_rows - 1, most).astype(np.int64))
