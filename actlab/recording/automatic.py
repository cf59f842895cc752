"""record: the automatic Recorder, one row per forward of the model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, NoReturn

from torch import nn

from actlab.errors import ActlabError, SelectionError, nearest
from actlab.recording.hooks import Seen
from actlab.recording.options import as_epoch
from actlab.recording.outputs import in_backward
from actlab.recording.recorder import Recorder
from actlab.schema import SPLITS

__all__ = ["AutomaticRecorder", "record"]


class AutomaticRecorder(Recorder):
    """A recorder that makes one row of every forward of the model.

    The split follows `model.training`: train or valid. Rows before any training get epoch -1, and
    a new epoch begins when training resumes after evaluation. A forward that raises makes no row.
    What `epoch`, `labels` and `split` say holds from the next forward on. Takes the arguments of
    `Recorder`.
    """

    _epochs = "inferred"

    def __init__(self, model: nn.Module, path: str | PathLike[str], **options: Any) -> None:
        if isinstance(model, Mapping):
            raise TypeError("record takes one model: use actlab.Recorder to record several")
        super().__init__(model, path, **options)
        self._model = model
        # Opened before the first hook that counts, completed after the last.
        self._session.capture.surround(model, _weak(self._before), _weak(self._after))
        last_split, self._epoch = self._progress.last or (None, -1)
        self._was_training = last_split == "train"
        if self._session.writer.attributes.get("epochs") != self._epochs:  # of a run that goes on
            self._session.writer.update_attributes(epochs=self._epochs)
        self._next_labels: object = None
        self._given_split: str | None = None
        self._split_mode: bool | None = None  # model.training at the forwards since `split` spoke

    def batch(self, *_: object, **__: object) -> NoReturn:
        """Refuse: an automatic recorder finds the batches itself.

        Raises
        ------
        ActlabError
            Always; names `Recorder`.
        """
        raise ActlabError(
            "an automatic recorder has no batch(): use actlab.Recorder to mark the batches yourself"
        )

    def epoch(self, label: int) -> None:
        """Give the epoch of the next forward and all after it, instead of inferring it.

        Parameters
        ----------
        label : int
            Label of the epoch; -1 for evaluation before any training.
        """
        with self._guard("epoch"):
            self._epoch = as_epoch(label)
            if self._epochs == "inferred":
                self._epochs = "given"
                self._session.writer.update_attributes(epochs="given")

    def labels(self, labels: object) -> None:
        """Give the labels of the next forward.

        Parameters
        ----------
        labels : array_like
            As for `Recorder.batch`.
        """
        self._next_labels = labels

    def split(self, name: str) -> None:
        """Give the split of the next forward, and of those after it in the same mode of the model.

        Parameters
        ----------
        name : {"train", "valid", "test"}
            Part of the data; the next `model.train()` or `model.eval()` that changes the mode ends it.
        """
        with self._guard("split"):
            if name not in SPLITS:
                raise SelectionError(f"unknown split {name!r}; {nearest(str(name), SPLITS)}")
            self._given_split, self._split_mode = name, None

    def _before(self, _: Seen) -> None:
        """Open a batch for this forward, dropping that of a forward that raised."""
        if self._pauses or in_backward():
            return
        if self._is_open:
            self._discard()
        labels, self._next_labels = self._next_labels, None
        with self._guard("forward"):
            self._begin(*self._place(), labels)
        self._session.lost += not self._is_open
        self._end_if_failed()

    def _after(self, _: Seen) -> None:
        """Complete the batch of this forward."""
        batch = self._session.batch
        if self._is_open and batch is not None and not self._pauses and not in_backward():
            self._epoch, self._was_training = batch.epoch, batch.split == "train"
            self._finish()

    def _place(self) -> tuple[str, int]:
        """Return the split and epoch of the forward that begins."""
        mode = self._model.training
        if self._split_mode is not None and self._split_mode != mode:
            self._given_split = None
        self._split_mode = mode
        split = self._given_split or ("train" if mode else "valid")
        resumes = split == "train" and not self._was_training
        return split, self._epoch + (resumes and self._epochs == "inferred")


def _weak(method: Callable[..., None]) -> Callable[..., None]:
    """Return a hook's receiver that does not keep the object of a method alive."""
    reference = weakref.WeakMethod(method)

    def receive(*seen: object) -> None:
        if (alive := reference()) is not None:
            alive(*seen)

    return receive


def record(model: nn.Module, path: str | PathLike[str], **options: Any) -> AutomaticRecorder:
    """Record a training in two lines: one row per forward of the model.

    Keep what is returned: the recording ends with it.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    path : str or path
        Where the run is written, by custom `runs/NAME.zarr`.
    **options
        The keywords of `actlab.Recorder`.

    Returns
    -------
    AutomaticRecorder
        A context manager; `epoch`, `labels` and `split` may say what cannot be inferred.

    Raises
    ------
    SelectionError, StoreError, TypeError, ValueError
        As `actlab.Recorder`.
    """
    return AutomaticRecorder(model, path, **options)
