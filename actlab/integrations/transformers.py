"""Hugging Face transformers: a callback for `transformers.Trainer` and what derives from it."""

from __future__ import annotations

import functools
import inspect
import os
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import torch

from actlab.errors import MissingDependencyError
from actlab.integrations.loop import Loop, Looped, Tracker
from actlab.integrations.targets import find_labels
from actlab.recording.labels import NO_LABEL

try:
    from transformers import Trainer, TrainerCallback
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
except ModuleNotFoundError as error:
    if error.name != "transformers":  # it is there, and something that it needs is not
        raise
    raise MissingDependencyError(
        "actlab.integrations.transformers needs transformers: pip install 'actlab[transformers]'"
    ) from error

__all__ = ["ActivationHistogramCallback"]

_STATE: Final = "actlab"  # where a checkpoint's trainer_state.json keeps ours, among the stateful callbacks
_TEST: Final = re.compile("(eval_)?test")  # "eval_test" where `eval_dataset` is a dict with "test" in it
_SHIFTED_BY_HAND: Final = re.compile(r"labels\[[^\]]*\b1:\]")
_SUMMARY: Final = "total_flos"  # only what is logged of a whole training has it
# A row has a loss and a learning rate of its own, these are averages; its epoch is a coordinate.
_NOT_LOGGED: Final = ("loss", "learning_rate", "epoch")
_TIMINGS: Final = ("_runtime", "_per_second", "_preparation_time")


class ActivationHistogramCallback(Looped, TrainerCallback):
    """Record the activations of the model of a Trainer: one row for each batch that goes forward.

    Pass it to ``Trainer(callbacks=[...])``. Training is split "train", `evaluate` "valid", `predict` and
    `evaluate` with a `metric_key_prefix` that begins with "test" or "eval_test" are "test".

    Parameters
    ----------
    path : str or path, optional
        Where the run is written; by default a new one, ``runs/activations-DATE-TIME.zarr``.
    labels : callable, optional
        Takes the inputs of a batch, a dict, and returns the labels of the head's outputs. By default those
        that the Trainer knows, shifted by one where the model shifts them itself (causal language models).
    trackers : sequence of Tracker
        Told at the end of each epoch, see `actlab.integrations.tensorboard` and `actlab.integrations.wandb`.
    **options
        Keywords of `actlab.Recorder`.

    Raises
    ------
    TypeError
        If `Recorder` has no such keyword.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        labels: Callable[[Any], Any] | None = None,
        trackers: Sequence[Tracker] = (),
        **options: Any,
    ) -> None:
        self._loop = Loop(path, labels or self._find_labels, trackers, options)
        self._adopted: weakref.WeakSet[Any] = weakref.WeakSet()
        self._trainer: Any = None
        self._is_fitting = False
        self._split: str | None = None  # of the evaluation that runs
        self._is_generating = False
        self._epoch: int | None = None
        self._next_epoch = 0

    def on_init_end(self, *_: Any, **__: Any) -> None:
        """Get to know the Trainer: no event comes before the first batch of `evaluate`."""
        self._meet()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Begin to record, or go on where the checkpoint was saved."""
        self._meet()
        if self._trainer is None:
            self._loop.guard.warn("trainer", "no Trainer has this callback: nothing is recorded")
            return
        if (saved := state.stateful_callbacks.get(self._key())) is not None:
            self._loop.load(saved)
        self._epoch, self._next_epoch = None, int(state.epoch or 0)
        self._loop.start_fit(self._trainer.model, **self._name_head(self._trainer.model))
        self._is_fitting = True

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Count the epochs; one ends here, since it is evaluated after `on_epoch_end`."""
        if self._epoch is not None:
            self._loop.end_epoch()
        self._epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1

    def on_log(self, _args: Any, _state: Any, _control: Any, *, logs: Mapping[str, Any], **_: Any) -> None:
        """Log what the Trainer logs, but the summary of a whole training."""
        if _SUMMARY not in logs:
            self._log(logs)

    def on_predict(self, *_: Any, metrics: Mapping[str, Any], **__: Any) -> None:
        """Log the metrics of `predict`, which the Trainer does not."""
        self._log(metrics)

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        """Say so where an evaluation began before the Trainer was known."""
        if self._trainer is None and self._meet():
            self._loop.guard.warn(
                "late", "this evaluation is not recorded, the next one is: pass the callback to Trainer(...)"
            )

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the run."""
        if self._is_fitting:
            self._loop.end_epoch()
        self._end()

    def _log(self, values: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in values.items() if not name.endswith(_TIMINGS)}
        self._loop.log({name: value for name, value in kept.items() if name not in _NOT_LOGGED})

    def _end(self) -> None:
        self._is_fitting = False
        self._loop.stop()

    def _meet(self) -> bool:
        """Find the Trainer that calls this event, and be told of its steps; False if there is none."""
        frame = inspect.currentframe()
        while frame is not None:
            found = frame.f_locals.get("self")
            if isinstance(found, Trainer) and self._is_in(found):
                self._trainer = found
                self._adopt(found)
                return True
            frame = frame.f_back
        return False

    def _is_in(self, trainer: Any) -> bool:
        return any(each is self for each in trainer.callback_handler.callbacks)

    def _adopt(self, trainer: Any) -> None:
        """Surround the methods of a Trainer: events tell of no batch that begins, and of no exception."""
        if trainer in self._adopted:
            return
        self._adopted.add(trainer)
        _surround(trainer, "train", self._while_training)
        # A callback added after the Trainer was made is not told before `train` runs; these come later.
        _surround(trainer, "_run_epoch", self._unless_it_fails)
        _surround(trainer, "_finalize_training", self._unless_it_fails)
        _surround(trainer, "evaluate", functools.partial(self._while_evaluating, trainer, "valid"))
        _surround(trainer, "predict", functools.partial(self._while_evaluating, trainer, "test"))
        _surround(trainer, "_save_checkpoint", functools.partial(self._in_checkpoint, trainer))
        self._adopt_steps(trainer)

    def _adopt_steps(self, trainer: Any) -> None:
        """Surround the two methods that take a batch."""
        train, predict = trainer.training_step, trainer.prediction_step

        @functools.wraps(train)
        def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self._loop.begin("train", inputs, self._epoch)
            loss = self._drop_if_it_fails(train, model, inputs, *args, **kwargs)
            self._loop.end(**self._scalars(trainer, loss))
            return loss

        @functools.wraps(predict)
        def prediction_step(
            model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any
        ) -> Any:
            self._is_generating = (
                getattr(trainer.args, "predict_with_generate", False) and not prediction_loss_only
            )
            self._loop.begin(self._split or "valid", inputs)
            outcome = self._drop_if_it_fails(predict, model, inputs, prediction_loss_only, *args, **kwargs)
            self._loop.end(loss=outcome[0])
            return outcome

        trainer.training_step, trainer.prediction_step = training_step, prediction_step

    def _drop_if_it_fails(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a step; one that raises makes no row."""
        try:
            return step(*args, **kwargs)
        except BaseException:
            self._loop.drop()
            raise

    def _scalars(self, trainer: Any, loss: Any) -> dict[str, Any]:
        """Return the loss of a batch, which the Trainer has divided by the number of those accumulated."""
        scalars: dict[str, Any] = {}
        if self._loop.recorder is not None:
            with self._loop.guard("loss"):
                scalars["loss"] = loss * getattr(trainer, "current_gradient_accumulation_steps", 1)
            with self._loop.guard("lr"):
                scalars["lr"] = trainer.optimizer.param_groups[0]["lr"]
        return scalars

    @contextmanager
    def _while_training(self, *_: Any, **__: Any) -> Iterator[None]:
        """Leave no hook behind, however the training ends."""
        try:
            yield
        finally:
            self._end()

    @contextmanager
    def _unless_it_fails(self, *_: Any, **__: Any) -> Iterator[None]:
        """Leave no hook behind where a part of the training raises."""
        try:
            yield
        except BaseException:
            self._end()
            raise

    @contextmanager
    def _while_evaluating(self, trainer: Any, split: str, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Record an evaluation, in the recording of the training that it is part of, if there is one."""
        if not self._is_in(trainer):
            yield
            return
        prefix = kwargs.get("metric_key_prefix", args[2] if len(args) > 2 else "")
        outer, self._split = self._split, "test" if _TEST.match(str(prefix)) else split
        is_alone = outer is None and not self._is_fitting
        try:
            if is_alone:
                self._trainer = trainer
                self._loop.start(trainer.model, **self._name_head(trainer.model))
            yield
        finally:
            self._split = outer
            if is_alone:
                self._loop.stop()

    @contextmanager
    def _in_checkpoint(self, trainer: Any, *_: Any, **__: Any) -> Iterator[None]:
        """Commit what was recorded, and let the checkpoint keep where the recording stands."""
        if self._loop.recorder is not None:
            with self._loop.guard("checkpoint", "the recording cannot go on from it"):
                trainer.state.stateful_callbacks[self._key()] = self._loop.state()
        yield

    def _key(self) -> str:
        """Name our place in a checkpoint: a Trainer may have several of us."""
        callbacks = self._trainer.callback_handler.callbacks
        ours = [each for each in callbacks if isinstance(each, ActivationHistogramCallback)]
        number = next(number for number, each in enumerate(ours) if each is self)
        return f"{_STATE}-{number}" if number else _STATE

    def _name_head(self, model: Any) -> dict[str, str]:
        """Name the head where it is hard to find: what the encoder returned is returned, too."""
        with self._loop.guard("search for the head"):
            if _encodes(model) and (head := model.get_output_embeddings()) is not None:
                return {"head": next(name for name, module in model.named_modules() if module is head)}
        return {}

    def _find_labels(self, inputs: Any) -> Any:
        """Return the labels of a batch as they belong to the outputs of the model."""
        if self._split is not None and self._is_generating:  # to most outputs no label belongs
            return None
        if not isinstance(inputs, Mapping):
            return find_labels(inputs)
        if (shifted := inputs.get("shift_labels")) is not None:
            return shifted
        names = [name for name in self._trainer.label_names if inputs.get(name) is not None]
        labels = inputs[names[0]] if len(names) == 1 else find_labels(inputs)
        if isinstance(labels, torch.Tensor) and _shifts_labels(self._trainer):
            return torch.nn.functional.pad(labels[..., 1:], (0, 1), value=NO_LABEL)
        return labels


def _surround(trainer: Any, name: str, context: Callable[..., AbstractContextManager[None]]) -> None:
    """Let a method of one Trainer run inside a context, if it has such a method."""
    if (method := getattr(trainer, name, None)) is None:
        return

    @functools.wraps(method)
    def surrounded(*args: Any, **kwargs: Any) -> Any:
        with context(*args, **kwargs):
            return method(*args, **kwargs)

    setattr(trainer, name, surrounded)


def _shifts_labels(trainer: Any) -> bool:
    """Say whether the output at a place answers the label at the next one: not all causal models shift."""
    model = trainer.model
    if hasattr(model, "get_base_model"):  # a PeftModel
        model = model.get_base_model()
    is_listed = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    if is_listed and trainer.label_smoother is not None:
        return True
    source = _source_of(type(model).forward)
    if _SHIFTED_BY_HAND.search(source) is not None:
        return True
    is_causal = LOSS_MAPPING.get(getattr(model, "loss_type", None)) is ForCausalLMLoss
    return (is_listed or (is_causal and not _encodes(model))) and "self.loss_function(" in source


@functools.cache
def _source_of(forward: Any) -> str:
    """Return the source of a method, "" where there is none, as in an interactive session."""
    try:
        return inspect.getsource(inspect.unwrap(forward))
    except (OSError, TypeError):
        return ""


def _encodes(model: Any) -> bool:
    """Say whether a model has an encoder and a decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
