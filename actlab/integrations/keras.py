"""Keras on its torch backend: a callback for `fit`, `evaluate` and `predict`."""

from __future__ import annotations

import functools
import inspect
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from actlab.errors import ActlabError, MissingDependencyError
from actlab.integrations.loop import Loop, Looped, Tracker
from actlab.integrations.targets import find_labels

_OTHER_BACKEND: Final = (
    "actlab.integrations.keras records on the torch backend of Keras, got {!r}: "
    "set the environment variable KERAS_BACKEND=torch before keras is imported"
)

try:
    import keras
except ModuleNotFoundError as error:
    if error.name in ("tensorflow", "jax"):
        raise ActlabError(_OTHER_BACKEND.format(error.name)) from error
    if error.name != "keras":  # it is there, and something that it needs is not
        raise
    raise MissingDependencyError(
        "actlab.integrations.keras needs keras: pip install 'actlab[keras]'"
    ) from error

__all__ = ["ActivationHistogram"]

_FUNCTIONS: Final = {"train": "train_function", "test": "test_function", "predict": "predict_function"}


class ActivationHistogram(Looped, keras.callbacks.Callback):
    """Record the activations of a Keras model: one row for each batch.

    Pass it to ``model.fit(callbacks=[...])``: training is split "train", validation "valid". Passed to
    `evaluate` or `predict` alone it records split "test". Layers have the names that Keras gives them,
    ``dense``, and within a nested model ``encoder.dense``.

    Parameters
    ----------
    path : str or path, optional
        Where the run is written; by default a new one, ``runs/activations-DATE-TIME.zarr``.
    labels : callable, optional
        Takes a batch as the data give it, ``(x, y)`` or ``(x, y, sample_weight)``, and returns the labels of
        the head's outputs; by default `y`, if it is a single one.
    trackers : sequence of Tracker
        Told at the end of each epoch, see `actlab.integrations.tensorboard` and `actlab.integrations.wandb`.
    **options
        Keywords of `actlab.Recorder`.

    Raises
    ------
    ActlabError
        If Keras has another backend than torch.
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
        if (backend := keras.backend.backend()) != "torch":
            raise ActlabError(_OTHER_BACKEND.format(backend))
        super().__init__()
        self._loop = Loop(path, labels or _find_labels, trackers, options)
        self._functions: dict[str, tuple[Any, Any, Any]] = {}  # the model, its function, and ours around it
        self._watched: weakref.WeakSet[Any] = weakref.WeakSet()
        self._is_fitting = False
        self._epoch: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is watched to the original: a copy begins anew."""
        return vars(self) | {"_functions": {}, "_watched": weakref.WeakSet(), "_is_fitting": False}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Hear of exceptions from now on; what Keras did before has nothing to record."""
        self._end()
        self._is_fitting, self._epoch = True, None
        self._watch_caller()

    def on_epoch_begin(self, epoch: int, *_: Any, **__: Any) -> None:
        """Begin to record with the first epoch: every callback has restored what it restores by now."""
        if self._epoch is None:
            is_restored = getattr(self.model, "_initial_epoch", None) is not None  # by BackupAndRestore
            if epoch or is_restored:
                self._loop.go_back_to(epoch)
            self._loop.start_fit(self.model)
            self._surround("train", "train")
        self._epoch = epoch

    def on_epoch_end(self, _epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log what validation has found, on its last row; commit, since a checkpoint may follow."""
        self._loop.log({name: value for name, value in (logs or {}).items() if name.startswith("val_")})
        self._loop.end_epoch()
        self._loop.state()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the run."""
        self._end()

    def on_test_begin(self, *_: Any, **__: Any) -> None:
        """Hear of exceptions from now on."""
        self._watch_caller()

    def on_test_batch_begin(self, *_: Any, **__: Any) -> None:
        """Record evaluation: within `fit` it is validation."""
        self._start_evaluation("test", "valid" if self._is_fitting else "test")

    def on_test_end(self, *_: Any, **__: Any) -> None:
        """Leave the function of the model as it was."""
        self._end_evaluation("test")

    def on_predict_begin(self, *_: Any, **__: Any) -> None:
        """Hear of exceptions from now on."""
        self._watch_caller()

    def on_predict_batch_begin(self, *_: Any, **__: Any) -> None:
        """Record prediction."""
        self._start_evaluation("predict", "test")

    def on_predict_end(self, *_: Any, **__: Any) -> None:
        """Leave the function of the model as it was."""
        self._end_evaluation("predict")

    def _start_evaluation(self, mode: str, split: str) -> None:
        if mode not in self._functions:
            self._loop.start(self.model)
            self._surround(mode, split)

    def _end_evaluation(self, mode: str) -> None:
        if mode in self._functions:
            self._restore(mode)
        if not self._is_fitting:
            self._end()

    def _end(self) -> None:
        """Leave the model as it was, and close the run."""
        self._is_fitting = False
        for mode in list(self._functions):
            self._restore(mode)
        self._loop.stop()

    def _surround(self, mode: str, split: str) -> None:
        """Record what the model does with each batch: no event shows one."""
        model, name = self.model, _FUNCTIONS[mode]
        if (inner := getattr(model, name)) is None:  # a training loop of somebody's own
            return

        @functools.wraps(inner)
        def step(data: Any) -> Any:
            scalars = self._learning_rate() if split == "train" else {}
            self._loop.begin(split, data[0], self._epoch if split == "train" else None)
            logs = inner(data)
            if mode != "predict" and isinstance(logs, Mapping):
                scalars = {**logs, **scalars}
            self._loop.end(**scalars)
            return logs

        watched = self._watch(step)
        self._functions[mode] = model, inner, watched
        setattr(model, name, watched)

    def _restore(self, mode: str) -> None:
        """Put the function of the model back, unless another has been put there since."""
        model, inner, ours = self._functions.pop(mode)
        if getattr(model, _FUNCTIONS[mode]) is ours:
            setattr(model, _FUNCTIONS[mode], inner)

    def _watch_caller(self) -> None:
        """Watch what the method of the model calls besides: the other callbacks, and the data."""
        frame = inspect.currentframe()
        while frame is not None:
            callbacks, batches = (frame.f_locals.get(name) for name in ("callbacks", "epoch_iterator"))
            if isinstance(callbacks, keras.callbacks.CallbackList) and batches is not None:
                if callbacks not in self._watched:
                    for name in (each for each in dir(callbacks) if each.startswith("on_")):
                        setattr(callbacks, name, self._watch(getattr(callbacks, name)))
                if batches not in self._watched:
                    batches._get_iterator = self._watch_data(batches._get_iterator)
                self._watched.update((callbacks, batches))
                return
            frame = frame.f_back

    def _watch(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Leave nothing behind on the model where a call fails."""

        @functools.wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except BaseException:
                self._end()
                raise

        return watched

    def _watch_data(self, load: Callable[[], Any]) -> Callable[[], Iterator[Any]]:
        """Leave nothing behind on the model where the data fail."""

        def watched(batches: Iterator[Any]) -> Iterator[Any]:
            try:
                yield from batches
            except GeneratorExit:
                raise
            except BaseException:
                self._end()
                raise

        # At once, not with the first batch: a data loader draws a random number when its iterator is made.
        return self._watch(lambda: watched(iter(load())))

    def _learning_rate(self) -> dict[str, Any]:
        """Return the learning rate of the step to come."""
        optimizer = self.model.optimizer
        return {} if optimizer is None else {"lr": keras.ops.convert_to_tensor(optimizer.learning_rate)}


def _find_labels(batch: Any) -> Any:
    """Return the labels of a batch, if there is one set of them."""
    _, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return None if labels is None else find_labels((None, labels))
