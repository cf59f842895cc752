"""Two lines in ignite: what a trainer and its evaluators do becomes a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from actlab.errors import MissingDependencyError
from actlab.integrations.loop import Loop, Looped, Tracker

try:
    from ignite.engine import Engine, Events
    from ignite.handlers import FastaiLRFinder
except ImportError as error:
    raise MissingDependencyError(
        "actlab.integrations.ignite needs pytorch-ignite: pip install 'actlab[ignite]'"
    ) from error

__all__ = ["ActivationHistogram"]


class ActivationHistogram(Looped):
    """A handler that records every activation of a model: ``ActivationHistogram(model).attach(trainer)``.

    One row per iteration, with what the trainer returns as loss; the metrics of an engine are in the row of
    the last iteration before they are computed. It has a `state_dict` for ignite's `Checkpoint`.

    Parameters
    ----------
    model : torch.nn.Module or dict of str to torch.nn.Module
        The model, or several by name.
    path : str or path, optional
        Where the run is written; by default a new one, ``runs/activations-DATE-TIME.zarr``. In
        distributed training it must be given.
    labels : callable, optional
        Takes a batch and returns its labels, array_like; by default they are looked for in it.
    trackers : sequence of Tracker
        Told at the end of each training epoch, see `actlab.integrations.tensorboard`.
    **options
        The keywords of `actlab.Recorder`.

    Raises
    ------
    TypeError
        If `Recorder` has no such keyword. What else is wrong with the arguments, and a run that exists, is
        raised when an engine starts, as by `Recorder`.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        path: str | os.PathLike[str] | None = None,
        *,
        labels: Callable[[Any], Any] | None = None,
        trackers: Sequence[Tracker] = (),
        **options: Any,
    ) -> None:
        self._loop = Loop(path, labels, trackers, options)
        self._model = model
        self._trainer: Engine | None = None  # while it runs
        self._trainers: list[Engine] = []
        self._metrics: dict[str, Any] = {}
        self._is_epoch_over = False

    def attach(
        self,
        trainer: Engine | None,
        evaluator: Engine | Iterable[Engine] = (),
        test_evaluator: Engine | Iterable[Engine] = (),
    ) -> None:
        """Record what engines do.

        Parameters
        ----------
        trainer : ignite.engine.Engine or None
            Its iterations are those of split train.
        evaluator : Engine or iterable of Engine
            Those of split valid.
        test_evaluator : Engine or iterable of Engine
            Those of split test.

        Raises
        ------
        TypeError
            If something else is given; nothing is attached then.
        """
        splits = {"valid": _engines(evaluator), "test": _engines(test_evaluator)}
        trainers = _engines(() if trainer is None else trainer)
        self._trainers += trainers
        for engine in trainers:
            _add(engine, Events.STARTED, self._start_fit)
            _add(engine, Events.EPOCH_STARTED, self._end_epoch)
            _add(engine, Events.ITERATION_STARTED, self._begin_training)
            _add(engine, Events.ITERATION_COMPLETED, self._end_training)
            _add(engine, Events.EPOCH_COMPLETED, self._note_epoch)
            for event in (Events.COMPLETED, Events.TERMINATE, Events.INTERRUPT):
                _add(engine, event, self._stop)
            _add(engine, Events.EXCEPTION_RAISED, self._fail)
        for split, engines in splits.items():
            for engine in engines:
                _add(engine, Events.STARTED, self._start)
                _add(engine, Events.ITERATION_STARTED, self._begin, split)
                _add(engine, Events.ITERATION_COMPLETED, self._end)
                for event in (Events.COMPLETED, Events.TERMINATE, Events.INTERRUPT):
                    _add(engine, event, self._end_evaluation)
                _add(engine, Events.EXCEPTION_RAISED, self._fail)

    def state_dict(self) -> dict[str, Any]:
        """Commit everything, and return what a checkpoint keeps of the recording."""
        self._log_news()
        return self._loop.state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where the checkpoint was saved."""
        self._loop.load(state_dict)

    def _start_fit(self, engine: Engine) -> None:
        """Begin to record a training."""
        if self._is_searching():
            return
        self._loop.start_fit(self._model)
        self._trainer, self._metrics, self._is_epoch_over = engine, dict(engine.state.metrics), False

    def _begin_training(self, engine: Engine) -> None:
        """Open a row; go on where an interrupt, or an exception that somebody took, has ended it."""
        if self._is_searching():
            return
        self._loop.start(self._model)
        self._trainer = engine
        self._log_news()
        self._loop.begin("train", engine.state.batch, engine.state.epoch - 1)

    def _end_training(self, engine: Engine) -> None:
        """Complete the row."""
        output = engine.state.output
        self._loop.end(loss=output.get("loss") if isinstance(output, Mapping) else output)

    def _note_epoch(self, _engine: Engine) -> None:
        """Remember that an epoch is over: whoever evaluates it, does so after this."""
        self._is_epoch_over = True

    def _end_epoch(self, _engine: Engine) -> None:
        """Tell the trackers of the epoch before, if there was one."""
        self._log_news()
        if self._is_epoch_over:
            self._is_epoch_over = False
            self._loop.end_epoch()

    def _stop(self, engine: Engine) -> None:
        """Close the run."""
        self._end_epoch(engine)
        self._trainer = None
        self._loop.stop()

    def _start(self, _engine: Engine) -> None:
        """Begin to record an evaluation."""
        self._log_news()
        if not self._is_searching():
            self._loop.start(self._model)

    def _begin(self, engine: Engine, split: str) -> None:
        """Open a row of an evaluation."""
        self._loop.begin(split, engine.state.batch)

    def _end(self, _engine: Engine) -> None:
        """Complete a row of an evaluation."""
        self._loop.end()

    def _end_evaluation(self, engine: Engine) -> None:
        """Log the metrics; close the run unless a training goes on."""
        self._loop.log(engine.state.metrics)
        if self._trainer is None:
            self._loop.stop()

    def _fail(self, engine: Engine, error: BaseException) -> None:
        """Forget the open row, close the run, and raise again: a handler of this event takes what it gets."""
        self._loop.drop()
        if self._trainer in (None, engine):
            self._trainer = None
            self._loop.stop()
        owners = _owners(engine, Events.EXCEPTION_RAISED)
        if owners[-1] is self and all(isinstance(owner, ActivationHistogram) for owner in owners):
            raise error

    def _is_searching(self) -> bool:
        """Say whether a trainer looks for a learning rate: what it does then is no training."""
        return any(
            isinstance(owner, FastaiLRFinder)
            for engine in self._trainers
            for owner in _owners(engine, Events.STARTED)
        )

    def _log_news(self) -> None:
        """Log those metrics of the trainer that were computed since the last time."""
        if self._trainer is not None:
            before, self._metrics = self._metrics, dict(self._trainer.state.metrics)
            self._loop.log(
                {key: value for key, value in self._metrics.items() if value is not before.get(key)}
            )


def _engines(given: Engine | Iterable[Engine]) -> list[Engine]:
    """Return one or several engines as a list."""
    engines = [given] if isinstance(given, Engine) else list(given)
    for engine in engines:
        if not isinstance(engine, Engine):
            raise TypeError(f"attach: expected an ignite Engine, or several, got {type(engine).__name__}")
    return engines


def _handlers(engine: Engine, event: Events) -> list[Any]:
    """Return the handlers of an event, in the order of their calls; ignite has no public name for it."""
    handlers: list[Any] = engine._event_handlers[event]
    return handlers


def _owners(engine: Engine, event: Events) -> list[object]:
    """Return the objects that handlers are methods of, None for other handlers."""
    return [getattr(handler, "__self__", None) for handler, *_ in _handlers(engine, event)]


def _add(engine: Engine, event: Events, handler: Callable[..., None], *args: Any) -> None:
    """Add a handler before all others: these may save a checkpoint, evaluate, or raise."""
    engine.add_event_handler(event, handler, *args)
    if event is not Events.ITERATION_STARTED:  # where others prepare the batch
        handlers = _handlers(engine, event)
        handlers.insert(0, handlers.pop())
