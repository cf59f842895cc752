"""A recording driven by the events of a framework: over fits, splits, epochs and restarts."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import distributed, nn

import actlab
from actlab.errors import StoreError
from actlab.integrations.targets import find_labels
from actlab.recording.guard import Guard
from actlab.recording.recorder import Recorder

__all__ = ["EventRecorder", "Loop", "Looped", "Tracker"]

_UNTRAINED: Final = -1
_given: Final[set[str]] = set()  # paths of this process that nobody chose
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.-]")


class EventRecorder(Recorder):
    """A recorder whose batches begin and end with two calls. Takes the arguments of `Recorder`."""

    _unused = "no batch was recorded"

    @property
    def train_steps(self) -> int:
        """Training batches of the run so far: what `resume_step` takes."""
        return self._progress.steps["train"]

    @property
    def last_epoch(self) -> int:
        """Epoch of the latest training batch of the run; -1 before any."""
        return max(self._progress.places["train"][0], _UNTRAINED)

    @property
    def guard(self) -> Guard:
        """Keeps failures out of the training loop; under on_error="stop" one ends the recording."""
        return self._guard

    @property
    def has_row(self) -> bool:
        """Whether the row of the latest batch can still be logged to: `flush` seals it."""
        return self._session.batch is not None

    def begin(self, split: str, epoch: int, labels: object) -> None:
        """Open a batch; one that is open is dropped, since whatever it was for did not complete."""
        self.drop()
        self._end_if_failed()
        if self._is_closed:  # after a failure, under on_error="stop"
            return
        with self._guard("batch"):
            self._begin(split, epoch, labels)
        self._session.lost += not self._is_open
        self._end_if_failed()

    def end(self) -> None:
        """Complete the open batch, if there is one."""
        if self._is_open:
            self._finish()

    def drop(self) -> None:
        """Forget the open batch, if there is one."""
        if self._is_open:
            self._discard()


class _Continued(EventRecorder):
    """One that adds to what the same loop has recorded before."""

    _same_attempt = True


class Tracker(Protocol):
    """What is told of a run at the end of each epoch, see `actlab.integrations.tensorboard`."""

    def push(self, run: str, epoch: int) -> None:
        """Push what the run at this path shows of an epoch."""


class Loop:
    """The recorder of a callback: made when a fit starts, closed when it ends, gone on with by the next one.

    Epochs are numbered through: where a second fit begins at 0 again, its epochs follow those of the first.
    What is evaluated belongs to the latest epoch of training, before any to -1.

    Parameters
    ----------
    path : str or path, optional
        Where the run is written; by default a new one, ``runs/activations-DATE-TIME.zarr``.
    labels : callable, optional
        Takes a batch and returns its labels; by default they are looked for.
    trackers : sequence of Tracker
        Told at the end of each epoch.
    options : mapping
        Keywords of `actlab.Recorder`.

    Attributes
    ----------
    path : str
        Where the run is written.
    recorder : EventRecorder or None
        While there is something to record.

    Raises
    ------
    TypeError
        If `Recorder` has no such keyword.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        labels: Callable[[Any], Any] | None,
        trackers: Sequence[Tracker],
        options: Mapping[str, Any],
    ) -> None:
        inspect.signature(Recorder).bind(None, "", **options)
        self._has_path = path is not None
        self.path = os.fspath(path if path is not None else _new_path())
        self.recorder: EventRecorder | None = None
        self._guard = Guard(options.get("on_error", "warn"))
        self._find = labels or find_labels
        self._trackers = tuple(trackers)
        self._options = dict(options)
        self._resume_step: int | None = None
        self._is_begun = self._is_loaded = self._is_anew = False
        self._epoch = _UNTRAINED  # the latest one of training
        self._shift = 0  # what is added to the framework's number of it

    @property
    def guard(self) -> Guard:
        """Keeps failures of an integration's own out of the training loop."""
        return self._guard if self.recorder is None else self.recorder.guard

    def __getstate__(self) -> dict[str, Any]:
        """Leave the recorder to the original: a copy begins anew."""
        return vars(self) | {"recorder": None}

    def start(self, model: nn.Module | Mapping[str, nn.Module], **defaults: Any) -> None:
        """Begin to record, or go on; nothing if that is done already.

        Parameters
        ----------
        model : torch.nn.Module or dict of str to torch.nn.Module
            The model, or several by name.
        **defaults
            Keywords of `actlab.Recorder` that the user has not given.

        Raises
        ------
        ActlabError, TypeError, ValueError
            As `Recorder`, the first time; later on, amid the work of others, that is a warning.
        """
        if self.recorder is not None:
            return
        if not self._has_path and distributed.is_available() and distributed.is_initialized():
            raise ValueError("several processes would each record elsewhere: give path")
        options = defaults | self._options
        if self._resume_step is not None:
            options |= {"overwrite": False, "resume_step": self._resume_step}
        if self._is_begun:
            with self.guard("recorder"):
                kind = EventRecorder if self._is_loaded else _Continued
                self.recorder = kind(model, self.path, **options)
        else:
            self.recorder, self._is_begun = EventRecorder(model, self.path, **options), True
        if self.recorder is not None:
            self._epoch = self.recorder.last_epoch

    def start_fit(self, model: nn.Module | Mapping[str, nn.Module], **defaults: Any) -> None:
        """Begin to record a training: as `start`, and the framework may number its epochs anew."""
        self.start(model, **defaults)
        self._is_anew, self._is_loaded = not self._is_loaded, False

    def begin(self, split: str, batch: Any, epoch: int | None = None) -> None:
        """Open a batch.

        Parameters
        ----------
        split : {"train", "valid", "test"}
            Part of the data.
        batch : object
            What the data loader gave; the labels are in it.
        epoch : int, optional
            The framework's number of the epoch, of training batches.
        """
        if self.recorder is None:
            return
        labels = None
        with self.guard("labels", "this batch has none"):
            labels = self._find(batch)
        if epoch is not None:
            self._epoch = self._place(epoch)
        self.recorder.begin(split, self._epoch, labels)

    def end(self, **values: Any) -> None:
        """Complete the open batch and log scalars of it."""
        if self.recorder is not None:
            self.recorder.end()
            self.log(values)

    def drop(self) -> None:
        """Forget the open batch, if there is one."""
        if self.recorder is not None:
            self.recorder.drop()

    def log(self, values: Mapping[str, Any]) -> None:
        """Log those of some values that are numbers, in the row of the latest batch; "/" becomes "_".

        Nothing where a checkpoint has sealed that row.
        """
        if self.recorder is None or not self.recorder.has_row:
            return
        for name, value in values.items():
            if _is_number(value):
                self.recorder.log(**{_NOT_IN_NAMES.sub("_", name)[:120]: value})

    def end_epoch(self) -> None:
        """Tell the trackers of the epoch that ends; log its metrics before."""
        if self.recorder is None or not self._trackers:
            return
        self.recorder.flush()
        for tracker in self._trackers:
            with self.guard(type(tracker).__name__):
                tracker.push(self.path, self._epoch)

    def stop(self) -> None:
        """Close the run and take every hook off the model; an open batch is dropped."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            recorder.drop()
            self._resume_step = recorder.train_steps
            recorder.close()

    def state(self) -> dict[str, Any]:
        """Commit everything, and return what a checkpoint shall keep."""
        if self.recorder is not None:
            self.recorder.flush()
            self._resume_step = self.recorder.train_steps
        return {"path": self.path, "train_steps": self._resume_step, "shift": self._shift}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was saved, from the next start on; in a new run if the path is another.

        A run that is gone is no reason not to train: that is a warning, and a new one.

        Parameters
        ----------
        state : mapping
            What `state` returned.
        """
        if self._options.get("overwrite") or state["train_steps"] is None:
            return
        if self._has_path and Path(self.path).absolute() != Path(state["path"]).absolute():
            return
        try:
            actlab.open_run(state["path"])
        except StoreError as error:
            self.guard.warn("gone", f"a new run begins, as the one of the checkpoint cannot go on: {error}")
        else:
            self.path = state["path"]
            self._resume_step, self._shift = state["train_steps"], state["shift"]
            self._is_loaded = True

    def go_back_to(self, epoch: int) -> None:
        """Go on at the begin of an epoch, from the next start on, if there is a run that has those before it.

        For checkpoints that keep nothing of a callback: all that they tell is the epoch.

        Parameters
        ----------
        epoch : int
            The framework's number of the epoch that comes first.
        """
        state = self.state()
        if self._shift:  # the run counts otherwise
            return
        try:
            run = actlab.open_run(self.path)
        except StoreError:  # there is none
            return
        steps = run.attributes["steps"].get("train", 0)
        if "train" in run.splits:
            rows = run["train"]
            again = (rows["epoch"].values >= epoch).nonzero()[0]
            if again.size:
                steps = int(rows["step"].values[again[0]] - rows["batch"].values[again[0]])
        self.load(state | {"train_steps": steps})

    def _place(self, epoch: int) -> int:
        """Return the number in the run of an epoch of the framework."""
        if self._is_anew or epoch + self._shift < self._epoch:  # it may begin again after a checkpoint, too
            self._shift = 0 if epoch > self._epoch else self._epoch + 1 - epoch
            self._is_anew = False
        return epoch + self._shift


class Looped:
    """What every callback shows of its loop."""

    _loop: Loop

    @property
    def path(self) -> str:
        """Where the run is written."""
        return self._loop.path

    @property
    def recorder(self) -> EventRecorder | None:
        """The recorder, while there is something to record."""
        return self._loop.recorder


def _new_path() -> str:
    """Return a path with the time in it that no other callback of this process has."""
    stem = f"runs/activations-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    names = (f"{stem}.zarr" if n == 1 else f"{stem}-{n}.zarr" for n in count(1))
    path = next(name for name in names if name not in _given and not Path(name).exists())
    _given.add(path)
    return path


def _is_number(value: Any) -> bool:
    """Say whether a value is one number, a tensor of one included."""
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
