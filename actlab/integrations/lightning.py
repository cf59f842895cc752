"""Two lines in Lightning: a training, its validation and its tests become a run."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.loss import _Loss

from actlab.errors import MissingDependencyError
from actlab.integrations.loop import Loop, Looped, Tracker
from actlab.recording.sites import find_sites

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise MissingDependencyError(
            "actlab.integrations.lightning needs lightning: pip install 'actlab[lightning]'"
        ) from error
from torchmetrics import Metric

__all__ = ["ActivationHistogram"]


class ActivationHistogram(Looped, Callback):
    """A callback that records every activation of a `LightningModule`.

    One row per batch of `fit`, `validate` and `test`, in the splits train, valid and test. The sanity check
    and `predict` are not recorded. Beside the activations a row has the loss that the step returns, the
    learning rate, and what is logged with `self.log`.

    Parameters
    ----------
    path : str or path, optional
        Where the run is written; by default a new one, ``runs/activations-DATE-TIME.zarr``. In
        distributed training it must be given.
    labels : callable, optional
        Takes a batch and returns its labels, array_like; by default they are looked for in it.
    trackers : sequence of Tracker
        Told at the end of each training epoch, see `actlab.integrations.tensorboard`.
    **options
        The keywords of `actlab.Recorder`. By default all leaf modules are recorded but losses and metrics.

    Raises
    ------
    TypeError
        If `Recorder` has no such keyword. What else is wrong with the arguments, and a run that exists, is
        raised when a fit, validation or test starts, as by `Recorder`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        labels: Callable[[Any], Any] | None = None,
        trackers: Sequence[Tracker] = (),
        **options: Any,
    ) -> None:
        self._loop = Loop(path, labels, trackers, options)
        self._state_key = f"{type(self).__qualname__}[path={path}]"
        self._are_layers_given = bool(options.keys() & {"layers", "kinds"})
        self._metrics: dict[str, Any] = {}
        self._loaded: dict[str, Any] | None = None
        self._is_ahead = False  # of the training: a finder of the learning rate saves, and takes it back

    @property
    def state_key(self) -> str:
        """Name of this callback in checkpoints."""
        return self._state_key

    def state_dict(self) -> dict[str, Any]:
        """Commit everything, and return what a checkpoint keeps of the recording."""
        if self._is_ahead:
            return self._loaded or self._loop.state() | {"train_steps": None}
        return self._loop.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was saved, if a fit begins: a test of it must not set the run back."""
        self._loaded = state_dict

    def setup(self, _trainer: Any, _pl_module: Any, stage: str) -> None:
        """Forget what was loaded for another fit: the checkpoint of this one is loaded after this."""
        self._loaded, self._is_ahead = None, stage == "fit"

    def on_train_start(self, _trainer: Any, pl_module: Any) -> None:
        """Begin to record; the sanity check is over."""
        self._is_ahead = False
        if self._loaded is not None:
            self._loop.load(self._loaded)
        self._loop.start_fit(pl_module, **self._defaults(pl_module))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, _batch_idx: int) -> None:
        """Open a row, with the learning rate before a scheduler changes it."""
        self._log(trainer)
        self._loop.begin("train", _known(batch, pl_module.training_step), trainer.current_epoch)
        with self._loop.guard("learning rate"):
            for optimizer in trainer.optimizers[:1]:
                self._loop.log({"lr": optimizer.param_groups[0]["lr"]})

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, _batch: Any, _batch_idx: int
    ) -> None:
        """Complete the row."""
        loss = _loss_in(outputs)
        if loss is not None and pl_module.automatic_optimization:
            loss = loss * trainer.accumulate_grad_batches  # which Lightning divides it by
        self._end(trainer, loss)

    def on_train_epoch_end(self, trainer: Any, _pl_module: Any) -> None:
        """Log the metrics of the epoch; tell the trackers."""
        self._log(trainer)
        self._loop.end_epoch()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to record, outside of `fit`."""
        self._start(trainer, pl_module)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: int) -> None:
        """Open a row."""
        self._begin(trainer, "valid", _known(batch, pl_module.validation_step))

    def on_validation_batch_end(self, trainer: Any, _pl_module: Any, outputs: Any, *_: Any) -> None:
        """Complete the row."""
        self._end(trainer, _loss_in(outputs))

    def on_validation_end(self, trainer: Any, _pl_module: Any) -> None:
        """Log the metrics of the validation, before a checkpoint is saved."""
        self._log(trainer)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to record."""
        self._start(trainer, pl_module)

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: int) -> None:
        """Open a row."""
        self._begin(trainer, "test", _known(batch, pl_module.test_step))

    def on_test_batch_end(self, trainer: Any, _pl_module: Any, outputs: Any, *_: Any) -> None:
        """Complete the row."""
        self._end(trainer, _loss_in(outputs))

    def on_test_end(self, trainer: Any, _pl_module: Any) -> None:
        """Log the metrics of the test."""
        self._log(trainer)

    def on_exception(self, *_: Any) -> None:
        """Close the run; Lightning calls no `teardown` after an exception."""
        self._stop()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Close the run."""
        self._stop()

    def _start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to record an evaluation."""
        if not trainer.sanity_checking:
            self._log(trainer)
            self._loop.start(pl_module, **self._defaults(pl_module))

    def _begin(self, trainer: Any, split: str, batch: Any) -> None:
        """Open a row of an evaluation."""
        if not trainer.sanity_checking:
            self._loop.begin(split, batch)

    def _end(self, trainer: Any, loss: Any) -> None:
        """Complete a row."""
        self._loop.end(loss=loss)
        self._log(trainer)

    def _stop(self) -> None:
        """Close the run."""
        self._metrics, self._loaded, self._is_ahead = {}, None, False
        self._loop.stop()

    def _log(self, trainer: Any) -> None:
        """Log what `self.log` was given since the last time."""
        if trainer.sanity_checking:
            return
        with self._loop.guard("metrics"):
            before, self._metrics = self._metrics, dict(trainer.logged_metrics)
            self._loop.log(
                {key: value for key, value in self._metrics.items() if not _is_same(value, before.get(key))}
            )

    def _defaults(self, model: nn.Module) -> dict[str, Any]:
        """Choose the layers where nobody did: a loss or metric that is a submodule is none."""
        if self._are_layers_given:
            return {}
        measures = [site.name for site in find_sites(model) if isinstance(site.module, (_Loss, Metric))]
        return {"layers": ["*", *(f"!{name}" for name in measures)]} if measures else {}


def _known(batch: Any, step: Callable[..., Any]) -> Any:
    """Return the batch, or None where the step fetches it itself: Lightning shows the one before then."""
    return None if "dataloader_iter" in inspect.signature(step).parameters else batch


def _loss_in(outputs: Any) -> Any:
    """Return the loss among what a step returned, or None."""
    return outputs.get("loss") if isinstance(outputs, dict) else outputs


def _is_same(value: Any, before: Any) -> bool:
    """Say whether a metric is the one of before: it has new memory each time it is logged."""
    if isinstance(value, torch.Tensor) and isinstance(before, torch.Tensor):
        return value.data_ptr() == before.data_ptr()
    return value is before
