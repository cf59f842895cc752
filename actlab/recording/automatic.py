"""record: the automatic Recorder, one row per forward of the model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, NoReturn

import torch
from torch import nn

from actlab.errors import ActlabError, SelectionError, nearest
from actlab.recording.hooks import Seen, is_of_graph
from actlab.recording.options import as_epoch
from actlab.recording.outputs import in_backward
from actlab.recording.recorder import Recorder
from actlab.schema import SPLITS

__all__ = ["AutomaticRecorder", "record"]

_UNTRAINED = "no forward was in training mode, so none is recorded as train: call model.train() to train"
_NO_EVAL = (
    "forwards without gradients, but in training mode, are recorded as train: call model.eval() to validate"
)


class AutomaticRecorder(Recorder):
    """A recorder that makes one row of every forward of the model.

    The split follows `model.training`: train or valid. Rows before any training get epoch -1, and
    a new epoch begins when training resumes after evaluation. A forward that raises makes no row.
    What `epoch`, `labels` and `split` say holds from the next forward on. Takes the arguments of
    `Recorder`.
    """

    _epochs = "inferred"
    _unused = "the model was not called while it was recorded: is it the one that is trained?"

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
        self._splits_are_given = self._had_gradients = False

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
            self._splits_are_given = True

    def _before(self, seen: Seen) -> None:
        """Open a batch for this forward, dropping that of a forward that raised."""
        if self._pauses or in_backward():
            return
        if self._is_open:
            self._discard()
        labels, self._next_labels = self._next_labels, None
        with self._guard("forward"):
            self._begin(*self._place(), labels)
            self._session.remark = None  # it was called, even if this forward raises
        self._session.lost += not self._is_open
        self._heed_gradients(seen)
        self._end_if_failed()

    def _after(self, _: Seen) -> None:
        """Complete the batch of this forward."""
        batch = self._session.batch
        if self._is_open and batch is not None and not self._pauses and not in_backward():
            self._epoch, self._was_training = batch.epoch, batch.split == "train"
            self._finish()
            if not self._splits_are_given and not self._progress.steps["train"]:
                self._session.remark = _UNTRAINED

    def _heed_gradients(self, seen: Seen) -> None:
        """Warn where gradients end while the training mode goes on: that may be a validation."""
        if not self._model.training or self._given_split is not None or is_of_graph(seen):
            return
        if torch.is_grad_enabled():
            self._had_gradients = True
        elif self._had_gradients:
            self._guard.warn("eval", _NO_EVAL)

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
