"""A run that may not be there yet, read row by row while it grows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.errors import StoreError
from actlab.live.columns import Columns
from actlab.run import Run, open_run
from actlab.schema import LOG_PREFIX, LayerInfo, layers_from_attributes
from actlab.steps.blocks import row_blocks
from actlab.store.urls import is_url, local_path, name_of

__all__ = ["Growing", "Part"]

_SILENT: Final = 15.0
"""Seconds without a commit after which nobody can tell whether the training goes on."""

_NUMBERS: Final = ("n", "mean", "std", "nonfinite", "zeros")
_RECORDED: Final = _NUMBERS[:3]


class Part:
    """What was read of one split.

    Parameters
    ----------
    run : Run
        The run.
    split : str
        Which part of the data.

    Attributes
    ----------
    place : numpy.ndarray
        step, attempt and epoch of each row [row, 3].
    logs : dict of str to numpy.ndarray
        What was logged [row], NaN where nothing was.
    totals : numpy.ndarray
        Counts of all rows [layer, bucket].
    columns : Columns or None
        Of the training only.
    """

    def __init__(self, run: Run, split: str) -> None:
        self.split, self._names, self._zero = split, run.names, run.axis.zero
        self.place = np.zeros((0, 3), np.int64)
        self._numbers = np.zeros((len(_NUMBERS), 64, len(run.names)))
        self.logs: dict[str, NDArray[np.float64]] = {}
        self.totals = np.zeros((len(run.names), run.axis.n_buckets), np.uint64)
        self.columns = Columns(len(run.names), run.axis) if split == "train" else None

    @property
    def n_rows(self) -> int:
        """Rows read."""
        return len(self.place)

    @property
    def epoch(self) -> NDArray[np.int64]:
        """Epoch of each row [row]."""
        return self.place[:, 2]

    def of(self, name: str) -> NDArray[np.float64]:
        """Return n, mean, std, nonfinite or zeros of each row [row, layer]."""
        numbers: NDArray[np.float64] = self._numbers[_NUMBERS.index(name), : self.n_rows]
        return numbers

    def rows(self, epoch: int) -> NDArray[np.intp]:
        """Return the numbers of the rows of an epoch [row]."""
        return np.flatnonzero(self.epoch == epoch)

    def fits(self, run: Run) -> bool:
        """Tell whether the rows that were read are still the first ones of the run, of the same layers."""
        place = _places(run, self.split)[: self.n_rows]
        return run.names == self._names and np.array_equal(place, self.place)

    def read(self, run: Run) -> Iterator[int]:
        """Read the rows that are new, and say how many are left, block by block."""
        place = _places(run, self.split)
        fresh = np.arange(self.n_rows, len(place))
        if not fresh.size:
            return
        rows = run[self.split]
        logs = [str(name) for name in rows if str(name).startswith(LOG_PREFIX)]
        numbers = rows[[*_RECORDED, *logs]].isel(step=slice(self.n_rows, None)).compute()
        for chosen, block in row_blocks(rows["counts"], fresh):
            part = numbers.isel(step=chosen)
            if self.columns is not None:
                self.columns.add(block)
            self.totals += block.sum(axis=0, dtype=np.uint64)
            nonfinite = block[..., [0, -2, -1]].sum(axis=-1, dtype=np.float64)
            recorded = [part[name].transpose("step", "layer").values for name in _RECORDED]
            self._note(np.stack([*recorded, nonfinite, block[..., self._zero]]))
            self._log({name.removeprefix(LOG_PREFIX): part[name].values for name in logs}, len(block))
            self.place = place[: self.n_rows + len(block)]
            yield len(place) - self.n_rows

    def _note(self, numbers: NDArray[np.float64]) -> None:
        """Keep the numbers [number, row, layer] of the next rows."""
        stop = self.n_rows + numbers.shape[1]
        while stop > self._numbers.shape[1]:
            self._numbers = np.concatenate([self._numbers, np.zeros_like(self._numbers)], axis=1)
        self._numbers[:, self.n_rows : stop] = numbers

    def _log(self, values: Mapping[str, NDArray[np.float64]], n_rows: int) -> None:
        """Keep what was logged in the next rows."""
        for name in values.keys() | self.logs.keys():
            before = self.logs.get(name, np.full(self.n_rows, np.nan))
            self.logs[name] = np.append(before, values.get(name, np.full(n_rows, np.nan)))


def _places(run: Run, split: str) -> NDArray[np.int64]:
    """Return step, attempt and epoch of all rows [row, 3]."""
    rows = run[split]
    return np.stack([rows[name].values.astype(np.int64) for name in ("step", "attempt", "epoch")], axis=1)


class Growing:
    """A run, followed from before its beginning to its end and beyond.

    Parameters
    ----------
    path : str or path-like
        Where the run is, or will be.

    Attributes
    ----------
    path : str
        The run.
    run : Run or None
        None before it is there.
    parts : dict of str to Part
        What was read of each split.
    left : int
        Rows still to be read.
    trouble : str
        Why what is shown may be old; "" where all is well.

    Raises
    ------
    StoreError
        If something else than a run lies there.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = str(path)
        self.run: Run | None = None
        self.parts: dict[str, Part] = {}
        self.left, self.trouble = 0, ""
        self._is_read = True
        self._id: str | None = None  # of the run that the parts are of
        self._news = time.monotonic()  # when something was committed last
        if not self._is_awaited():
            self._open()

    def _is_awaited(self) -> bool:
        """Whether nothing is there yet, or a directory that is just being made."""
        if is_url(self.path):
            return False
        place = Path(local_path(self.path)).expanduser()
        return not place.exists() or (place.is_dir() and not any(place.iterdir()))

    @property
    def name(self) -> str:
        """What the run is called."""
        return name_of(self.path).removesuffix(".zip").removesuffix(".zarr")

    @property
    def every(self) -> float:
        """Seconds between two looks, at least: in an object store each one is a request."""
        return 2.0 if is_url(self.path) else 0.1

    @property
    def run_id(self) -> str | None:
        """Which run it is."""
        return None if self.run is None else self.run.attributes.get("run_id")

    @property
    def infos(self) -> dict[str, LayerInfo]:
        """What is known of each layer."""
        if self.run is None:
            return {}
        return {info.name: info for info in layers_from_attributes(self.run.attributes)}

    @property
    def is_closed(self) -> bool:
        """Whether the recorder said that this was all."""
        return self.run is not None and bool(self.run.attributes.get("closed"))

    @property
    def names(self) -> list[str]:
        """All layers."""
        return [] if self.run is None else self.run.names

    @property
    def train(self) -> Part | None:
        """The training, if any of it was read."""
        part = self.parts.get("train")
        return part if part is not None and part.n_rows else None

    @property
    def epochs(self) -> list[int]:
        """Labels of the epochs read, in any split, ascending."""
        return sorted({int(label) for part in self.parts.values() for label in np.unique(part.epoch)})

    @property
    def silence(self) -> float:
        """Seconds since something was committed; 0 for a closed run, and where that says nothing yet."""
        silent = time.monotonic() - self._news
        return 0.0 if self.is_closed or silent < _SILENT else silent

    @property
    def totals(self) -> dict[str, xr.DataArray]:
        """Counts [layer, bucket] of the rows read of each split."""
        if self.run is None:
            return {}
        axis = self.run.axis
        ends = {"lower": ("bucket", axis.lower), "upper": ("bucket", axis.upper)}
        return {
            split: xr.DataArray(part.totals, {"layer": self.names, **ends}, ("layer", "bucket"))
            for split, part in self.parts.items()
            if part.n_rows
        }

    def look(self) -> Iterator[bool]:
        """Look for what was committed since, and read it, some rows at a time.

        Yields
        ------
        bool
            True once all of it is read; nothing at all where nothing is new.
        """
        try:
            self._refresh()
            if self._is_read or self.run is None:
                return
            for left in self._read(self.run):
                self.left = left
                yield False
        except OSError as error:
            # It is being replaced, or its disk is away for a while: the next look will tell.
            self.trouble = str(error)
            return
        self._is_read, self.left = True, 0
        self.run.keep_totals(self.totals)
        yield True

    def _open(self) -> None:
        """Open the run, if it is there by now."""
        try:
            self.run = open_run(self.path, verify=False)
        except StoreError as error:
            if not str(error).endswith("no such run"):
                raise
            return
        self._is_read = False
        times = [self.run[split]["time"].values[-1] for split in self.run.splits]
        if times:  # a training that was cut off yesterday is silent since then
            age = (np.datetime64("now") - max(times)) / np.timedelta64(1, "s")
            self._news = time.monotonic() - max(float(age), 0.0)

    def _refresh(self) -> None:
        """Show what was committed since."""
        if self.run is None:
            if not self._is_awaited():
                self._open()
        else:
            shown = self.run.attributes
            if self.run.refresh().attributes is not shown:
                self._is_read, self._news = False, time.monotonic()
        self.trouble = ""

    def _read(self, run: Run) -> Iterator[int]:
        """Read what is new; what a resumed training, or another run, has replaced is read again."""
        before, self._id = self._id, self.run_id
        known = self.parts if before == self._id else {}
        self.parts = {
            split: known[split] if split in known and known[split].fits(run) else Part(run, split)
            for split in run.splits
        }
        waiting: dict[str, Any] = {
            split: run[split].sizes["step"] - part.n_rows for split, part in self.parts.items()
        }
        for split, part in self.parts.items():
            waiting.pop(split)
            for left in part.read(run):
                yield left + sum(waiting.values())
