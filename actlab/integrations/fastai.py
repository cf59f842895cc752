"""fastai 2: `ActivationHistogram`, a callback that records what a `Learner` trains."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, Final

from torch import nn

import actlab
from actlab.axis import LinearAxis
from actlab.errors import MissingDependencyError, SelectionError
from actlab.integrations.loop import Loop, Looped, Tracker
from actlab.live.kernel import find_shell
from actlab.recording.sites import find_sites

try:
    from fastai import learner as of_fastai
    from fastai.callback.core import Callback, CancelEpochException, CancelFitException, GatherPredsCallback
    from fastai.callback.schedule import LRFinder
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "actlab.integrations.fastai needs fastai: pip install 'actlab[fastai]'"
    ) from error

__all__ = ["ActivationHistogram", "ActivationsHistogram"]

_OLD_NAMES: Final = {"hMin": "h_min", "hMax": "h_max", "nBins": "n_bins", "modulesId": "modules"}
_Modules = int | nn.Module | Sequence[int | nn.Module]


class ActivationHistogram(Looped, Callback):
    """Record every activation while a `Learner` trains; fastai shows it as `learn.activation_histogram`.

    Training and validation batches of `fit` and all that is built on it are recorded, and what
    `learn.validate` evaluates; `get_preds`, `predict`, `show_results` and `lr_find` are not.

    Parameters
    ----------
    path : str or path, optional
        Where the run is written; by default a new one, ``runs/activations-DATE-TIME.zarr``.
    h_min, h_max : float, optional
        Range of what `plotActsHist` draws, not of what is recorded; an end that is None is the run's own.
    n_bins : int
        Number of bins of these charts.
    modules : int, torch.nn.Module, or sequence of these, optional
        What to record, as in a `HookCallback`, or as numbers among the modules without children, in the
        order of the model; negative ones count from the end. All by default. `layers` says it by name.
    labels : callable, optional
        Takes a batch (*xb, *yb) and returns its labels; by default the target, where there is one.
    trackers : sequence of Tracker
        Told at the end of each epoch.
    **options
        Keywords of `actlab.Recorder`, such as `layers` and `every`; and the names of the fastai v1 callback:
        hMin, hMax, nBins, modulesId, useClasses, liveChart.

    Attributes
    ----------
    path : str
        Where the run is.
    recorder : EventRecorder or None
        While something is recorded.

    Raises
    ------
    TypeError
        If there is no such keyword, or modules and layers are both given.
    AxisError
        If the range is empty or too fine.

    Notes
    -----
    Copies and pickles, as `learn.export` makes them, hold a plain `Callback` in its place: they record
    nothing and need no actlab.
    """

    order = 1000
    """After all others: a batch is recorded as they left it, and the metrics of an epoch are there."""

    _was_live = False

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        h_min: float | None = None,
        h_max: float | None = None,
        n_bins: int = 200,
        modules: _Modules | None = None,
        labels: Callable[[Any], Any] | None = None,
        trackers: Sequence[Tracker] = (),
        **options: Any,
    ) -> None:
        super().__init__()
        given = {"h_min": h_min, "h_max": h_max, "n_bins": n_bins, "modules": modules}
        view = _renamed(given, options)
        self._modules = view.pop("modules")
        if self._modules is not None and options.get("layers") is not None:
            raise TypeError("modules and layers both say what to record: give one of them")
        is_known = None not in (view["h_min"], view["h_max"])
        LinearAxis(view["h_min"] if is_known else 0, view["h_max"] if is_known else 1, view["n_bins"])
        self._view = view
        self._is_by_class = bool(options.pop("useClasses", False))
        self._is_live = bool(options.pop("liveChart", self._was_live))
        self._resumes = "resume" in options or "resume_step" in options
        self._loop = Loop(path, labels and (lambda batch: labels((*batch[0], *batch[1]))), trackers, options)
        self._current: str | None = None  # of the batches that come
        self._is_around = self._is_fitting = False

    def before_fit(self) -> None:
        """Stand around the epochs and evaluations that come; nothing else tells of an exception in them."""
        if not self._is_around:
            self._is_around = True
            self.learn._with_events = _Around(self.learn, self._around)

    def after_fit(self) -> None:
        """Stand aside where no epoch came."""
        if not self._is_fitting and self._current is None:
            self._leave(self.learn)

    def before_batch(self) -> None:
        """Open a row."""
        if self._current is not None:
            learn = self.learn
            self._loop.begin(
                self._current, (learn.xb, learn.yb), learn.epoch if self._current == "train" else None
            )

    def after_loss(self) -> None:
        """Complete the row; whatever follows may be cancelled."""
        if self._current is None:
            return
        values = {}
        with self._loop.guard("loss and learning rate"):
            if len(self.learn.yb):
                values["loss"] = self.learn.loss.detach()
            if self._current == "train":
                values["lr"] = self.learn.opt.hypers[-1]["lr"]
        self._loop.end(**values)

    def after_cancel_batch(self) -> None:
        """Complete the row of a batch that was cancelled between the forward and the loss."""
        if self._current is not None:
            self._loop.end()

    def plotActsHist(  # noqa: N802 - the name of old
        self,
        cols: int = 3,
        figsize: tuple[float, float] = (20, 10),
        toDisplay: int | Sequence[int] | None = None,  # noqa: N803
        **look: Any,
    ) -> None:
        """Draw the colorful dimension of each layer on a pyplot figure, as the fastai v1 callback did.

        Parameters
        ----------
        cols : int
            Tiles side by side.
        figsize : (float, float)
            Size of the figure in inches.
        toDisplay : int or sequence of int, optional
            Numbers of layers, those in the titles; negative ones count from the end. All by default.
        **look
            Of `tiles.Look`: hScale, showEpochs, showLayerInfo, aspectAuto, showImage.

        Raises
        ------
        StoreError
            If nothing was recorded yet.
        SelectionError
            If there is no such layer.
        TypeError
            If there is no such keyword.
        """
        if self.recorder is not None:
            self.recorder.flush()
        tiles = import_module("actlab.integrations.tiles")  # plotting is heavy
        draw = tiles.draw_classes if self._is_by_class else partial(tiles.draw_layers, shown=toDisplay)
        draw(self.path, tiles.Look(cols, figsize, **look), **self._view)

    def __reduce__(self) -> tuple[Any, ...]:
        """Become a callback that does nothing."""
        return Callback, ()

    def _around(self, learn: Any, run: Callable[..., None], work: Callable[[], None], *event: Any) -> None:
        """Run an event of the loop."""
        if event[0] == "epoch":
            with self._fitting(learn):
                run(partial(self._epoch, work), *event)
        elif event[0] in ("train", "validate"):
            with self._recording(learn, _split_of(learn, event[0])), self._metrics(learn, event[0]):
                run(work, *event)
        else:
            run(work, *event)

    @contextmanager
    def _fitting(self, learn: Any) -> Iterator[None]:
        """Record during an epoch; after the last one, and after one that ended otherwise, no hook is left."""
        is_last, is_complete = learn.epoch + 1 >= learn.n_epoch, False
        try:
            if not self._is_fitting and not _found(learn, LRFinder):
                self._start(learn)
            self._is_fitting = True
            yield
            is_complete = True
        finally:
            if is_last or not is_complete:
                self._leave(learn)

    def _start(self, learn: Any) -> None:
        """Begin to record a fit; one that skips epochs goes on behind them."""
        skipping = _found(learn, of_fastai.SkipToEpoch)
        if skipping and not self._resumes:
            self._loop.go_back_to(skipping[0]._skip_to)
        self._loop.start_fit(learn.model, **self._layers(learn.model))
        if self._is_live and find_shell() is not None:
            with self._loop.guard("live chart"):
                actlab.watch(self.path)

    @contextmanager
    def _recording(self, learn: Any, split: str | None) -> Iterator[None]:
        """Record a part of an epoch, or an evaluation outside of any fit."""
        is_alone = split is not None and not self._is_fitting and self.recorder is None
        outer, self._current = self._current, split
        try:
            if is_alone:
                self._loop.start(learn.model, **self._layers(learn.model))
            yield
        finally:
            self._current = outer
            if is_alone:
                self._leave(learn)

    @contextmanager
    def _metrics(self, learn: Any, part: str) -> Iterator[None]:
        """Log what fastai's recorder adds to its line of the epoch, in the last row of this part of it."""
        found = [] if self._current is None else _found(learn, of_fastai.Recorder)
        known = [len(getattr(recorder, "log", ())) for recorder in found]
        yield
        with self._loop.guard("metrics"):
            for recorder, start in zip(found, known, strict=True):
                values = recorder.log[start:]
                names = [name for name in recorder.metric_names if name not in ("epoch", "time")]
                # A validation alone has no values of training, which stand in front.
                names = names if part == "train" else names[len(names) - len(values) :]
                self._loop.log(dict(zip(names, values, strict=False)))

    def _epoch(self, work: Callable[[], None]) -> None:
        """Run an epoch up to where callbacks save the model or stop the fit; then all of it is committed."""
        try:
            work()
        except (CancelEpochException, CancelFitException):
            self._end_epoch()
            raise
        self._end_epoch()

    def _end_epoch(self) -> None:
        """Commit the epoch, and tell the trackers."""
        if self.recorder is not None:
            self.recorder.flush()
            self._loop.end_epoch()

    def _leave(self, learn: Any) -> None:
        """Close the run, and no longer stand around anything."""
        self._is_around = self._is_fitting = False
        vars(learn).pop("_with_events", None)
        self._loop.stop()

    def _layers(self, model: nn.Module) -> dict[str, list[str]]:
        """Return the chosen modules as a keyword of `Recorder`; none where all are meant."""
        if self._modules is None:
            return {}
        wanted = [self._modules] if isinstance(self._modules, (int, nn.Module)) else self._modules
        names = {site.module: site.name for site in find_sites(model) if site.module is not None}
        leaves = [site.module for site in find_sites(model) if site.module is not None and site.is_leaf]
        return {"layers": [_name(each, names, leaves) for each in wanted]}


class ActivationsHistogram(ActivationHistogram):
    """`ActivationHistogram` by the name of the fastai v1 callback, as `learn.activations_histogram`.

    As there, `liveChart` is on by default: a notebook shows each epoch below the cell that trains.
    """

    _was_live = True


class _Around:
    """Stands for `learn._with_events`; copies and pickles of the learner have its own again."""

    def __init__(self, learn: Any, around: Callable[..., None]) -> None:
        self._learn, self._run, self._call = learn, learn._with_events, around

    def __call__(self, work: Callable[[], None], *event: Any) -> None:
        self._call(self._learn, self._run, work, *event)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (type(self._learn)._with_events, self._learn)


def _found(learn: Any, *kinds: type) -> list[Any]:
    """Return the callbacks of some kinds."""
    return [each for each in learn.cbs if isinstance(each, kinds)]


def _split_of(learn: Any, part: str) -> str | None:
    """Return the split of the batches that come; None where they are not recorded.

    Parameters
    ----------
    learn : fastai.learner.Learner
        Its `dl` gives them.
    part : {"train", "validate"}
        Part of the epoch.
    """
    if _found(learn, GatherPredsCallback, LRFinder):
        return None
    if part == "train":
        return "train"
    known = list(getattr(learn.dls, "loaders", ()))
    for loader, split in zip(known[1:2] + known[:1], ("valid", None), strict=False):
        data = getattr(loader, "dataset", None)
        if learn.dl is loader or (data is not None and data is getattr(learn.dl, "dataset", None)):
            return split
    return "test"


def _name(wanted: int | nn.Module, names: Mapping[nn.Module, str], leaves: Sequence[nn.Module]) -> str:
    """Return the name of a module, or of the one with this number."""
    if isinstance(wanted, nn.Module):
        if wanted not in names:
            raise SelectionError(f"modules: a {type(wanted).__name__} that is no part of the model")
        return names[wanted]
    if not isinstance(wanted, int):
        raise SelectionError(
            f"modules: expected modules or their numbers, got {wanted!r}; layers takes names"
        )
    if not -len(leaves) <= wanted < len(leaves):
        raise SelectionError(f"modules: no number {wanted}, the model has 0 to {len(leaves) - 1}")
    return names[leaves[wanted]]


def _renamed(given: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Take the names of old out of the options, each in the place of today's."""
    if options.get("hMax") is not None and options.get("hMin") is None:
        options["hMin"] = -options["hMax"]
    return given | {new: options.pop(old) for old, new in _OLD_NAMES.items() if old in options}
