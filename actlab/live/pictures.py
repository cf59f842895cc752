"""What is shown of a run that grows: numbers for whoever draws them, each computed once."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import xarray as xr

from actlab.axis import LinearAxis
from actlab.charts import twin_peaks_chart, wall_chart
from actlab.charts.limits import dropped_steps, dropped_words, epoch_words
from actlab.charts.look import DOT
from actlab.charts.palette import count_limits
from actlab.charts.wall_chart import WallOptions
from actlab.errors import SelectionError
from actlab.live.columns import Binned
from actlab.live.growing import Growing, Part
from actlab.peaks import head_axis
from actlab.stats import symmetric_range
from actlab.stats.ranges import shared_range
from actlab.steps.merging import last_quarter
from actlab.steps.moments import pool

__all__ = ["Pictures", "metrics", "state"]

_TILE: Final = WallOptions(tile_width=128, tile_height=80)
_BINS: Final = 120  # of the chosen layer
_KEPT: Final = 4  # layers whose columns are kept on their bins
_MOST_LOGS: Final = 6
_MOST_LINES: Final = 60  # at epochs
_SPOKEN: Final = {"train": "training", "valid": "validation", "test": "test"}


def state(growing: Growing) -> str:
    """Say in some words how the run is doing."""
    if growing.run is None:
        return "waiting for the run"
    if growing.is_closed:
        return "closed"
    silent = growing.silence
    if silent:
        spoken = f"{silent:.0f} s" if silent < 120 else f"{silent / 60:.0f} min"
        return f"stopped, or slow: nothing new for {spoken}"
    return "running"


def metrics(growing: Growing) -> dict[str, dict[str, float]]:
    """Return the means {name: {split: mean}} of what was logged, in the last epoch of a split that has it."""
    found: dict[str, dict[str, float]] = {}
    for split, part in growing.parts.items():
        for name, values in part.logs.items():
            known = np.flatnonzero(np.isfinite(values))
            if known.size:
                latest = values[known][part.epoch[known] == part.epoch[known[-1]]]
                found.setdefault(name, {})[split] = float(latest.mean())
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "loss", name))[:_MOST_LOGS]}


class Pictures:
    """The pictures of a run, as far as it was read.

    Parameters
    ----------
    growing : Growing
        The run.
    """

    def __init__(self, growing: Growing) -> None:
        self.growing = growing
        self._train: Part | None = None  # that the rest is of
        self._wall: Binned | None = None
        self._layers: dict[str, Binned] = {}
        self._reach: dict[str, float] = {}

    def facts(self) -> list[tuple[str, str]]:
        """Say in pairs of words what is recorded so far."""
        growing = self.growing
        said = [("state", state(growing))]
        for split, part in growing.parts.items():
            said.append((_SPOKEN[split], f"{part.n_rows:,} batch{'' if part.n_rows == 1 else 'es'}"))
        if growing.epochs:
            label = growing.epochs[-1]
            said.append(("epoch", "untrained" if label < 0 else str(label)))
        for name, by_split in metrics(growing).items():
            said.append((name, DOT.join(f"{split} {value:.4g}" for split, value in by_split.items())))
        return said

    def notes(self) -> list[str]:
        """Say what is wrong with the picture: reading goes on, rows are missing, or it may be old."""
        growing, run = self.growing, self.growing.run
        if growing.trouble:
            return [growing.trouble]
        if run is None:
            return [f"{growing.path} is not there yet: its training makes it when it begins"]
        if growing.left:
            return [f"reading: {growing.left:,} batches to go"]
        if not growing.parts:
            return ["no batch was recorded yet"]
        if growing.train is None:
            return ["no training was recorded yet: wall and layers are drawn of it"]
        return dropped_words(dropped_steps(run, "train", run.rows("train")))

    def wall(self) -> xr.Dataset | None:
        """Return the wall, as `wall_chart.prepare`; None without training."""
        part = self._part()
        if part is None:
            return None
        assert part.columns is not None
        if self._wall is None:
            names = self.growing.names
            self._wall = Binned(names, list(range(len(names))), _TILE.tile_width)
        run = self.growing.run
        reach = shared_range(self.growing.totals["train"], None if run is None else run.head)[1]
        axis = self._axis("", reach, _TILE.tile_height)
        return wall_chart.prepare(self._wall.dataset(part.columns, part.of("n"), axis), _TILE)

    def layer(self, name: str) -> xr.Dataset | None:
        """Return the colorful dimension of a layer.

        Returns
        -------
        xarray.Dataset or None
            counts [column, bin], mean count per batch; first_row, n_rows, mean, std [column]; epoch_row
            [epoch]: rows with which an epoch begins, but the first. Attributes h_min, h_max, rows,
            batches_per_column, low and high (of the colours), n (values a batch), nonfinite (share),
            outside (share), every (of so many epochs the beginning of one is there) and is_whole (every batch
            was recorded). None without training.
        """
        part = self._part()
        if part is None:
            return None
        assert part.columns is not None
        place = self.growing.names.index(name)
        if name not in self._layers:
            while len(self._layers) >= _KEPT:
                del self._layers[next(iter(self._layers))]
            self._layers[name] = Binned(self.growing.names, [place], part.columns.most)
        totals = self.growing.totals["train"].isel(layer=place)
        axis = self._axis(name, symmetric_range(totals)[1], _BINS)
        data = self._layers[name].dataset(part.columns, part.of("n"), axis).isel(layer=0)
        k = data.attrs["batches_per_column"]
        n, nonfinite = (part.of(name)[:, place] for name in ("n", "nonfinite"))
        table = np.stack([n - nonfinite, part.of("mean")[:, place], part.of("std")[:, place]], axis=-1)
        moments = pool(table, data["first_row"].values)
        low, high = count_limits(data["counts"].values, k)
        starts = np.flatnonzero(np.diff(part.epoch)) + 1
        every = starts.size // _MOST_LINES + 1
        in_all = max(float(n.sum()), 1.0)
        shown = float((data["counts"].sum("bin") * data["n_rows"]).sum())
        return data.assign(
            mean=("column", moments[:, 1]),
            std=("column", moments[:, 2]),
            epoch_row=("epoch", starts[every - 1 :: every]),
        ).assign_attrs(
            every=every,
            is_whole=int(part.place[-1, 0]) == part.n_rows - 1,
            rows=part.n_rows,
            low=low,
            high=high,
            n=in_all / part.n_rows,
            nonfinite=float(nonfinite.sum()) / in_all,
            outside=max(1 - (shown + float(nonfinite.sum())) / in_all, 0.0),
        )

    @property
    def latest(self) -> int:
        """The epoch to look at: the latest one, but while it trains the one that was evaluated last."""
        known, parts = self.growing.epochs, self.growing.parts
        evaluated = {
            int(label) for split in parts.keys() - {"train"} for label in np.unique(parts[split].epoch)
        }
        return max((label for label in evaluated if label >= 0), default=known[-1])

    def peaks(self, epoch: int | None = None) -> xr.Dataset | None:
        """Return the Twin Peaks of an epoch, by default of `latest`; None where there are none.

        Parameters
        ----------
        epoch : int, optional
            Its label.

        Returns
        -------
        xarray.Dataset or None
            A single epoch of what `twin_peaks_chart.prepare` returns.
        """
        run, known = self.growing.run, self.growing.epochs
        if run is None or run.head is None or not known:
            return None
        label = self.latest if epoch not in known else int(epoch or 0)
        place, sizes = run.names.index(run.head), []
        for split, part in self.growing.parts.items():
            rows = part.rows(label)
            if rows.size:
                sizes.append(part.of("n")[last_quarter(rows) if split == "train" else rows, place].sum())
        whole = head_axis(run, run.head)
        n_bins = min(max(round(2 * math.sqrt(min(sizes))), 20), whole.n_bins)
        axis = LinearAxis(whole.h_min, whole.h_max, n_bins)
        try:
            return twin_peaks_chart.prepare(run, axis=axis, epochs=[label]).isel(epoch=0)
        except (SelectionError, OSError):  # replaced while it was read: the next look shows the new one
            return None

    def peaks_said(self, one: xr.Dataset) -> str:
        """Say what the Twin Peaks of an epoch show."""
        epoch, splits = epoch_words(int(one["epoch"])), twin_peaks_chart.shown_splits(one)
        return f"{epoch}: {DOT.join(twin_peaks_chart.caveats(one)) if splits else 'not one value'}"

    def _part(self) -> Part | None:
        """Return the training as far as it was read; what was computed of another one is forgotten."""
        part = self.growing.train
        if part is not self._train:
            self._train, self._wall, self._layers, self._reach = part, None, {}, {}
        return part

    def _axis(self, name: str, reach: float, n_bins: int) -> LinearAxis:
        """Return a range that grows at once, but shrinks only when twice too wide: pictures stand still."""
        kept = self._reach.get(name, 0.0)
        if not reach <= kept < 2 * reach:
            self._reach[name] = reach
        return LinearAxis(-self._reach[name], self._reach[name], n_bins)
