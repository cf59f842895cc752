"""Recorder: counts every value of every layer during training, one row per batch."""

from __future__ import annotations

import atexit
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import nn

from actlab.axis import FloatAxis
from actlab.errors import SelectionError, nearest
from actlab.recording.capture import Capture
from actlab.recording.completion import Completion
from actlab.recording.delivery import to_number
from actlab.recording.guard import Guard
from actlab.recording.labels import as_tensor
from actlab.recording.options import Schedule, Storage, as_epoch, describe, make_keepers, make_plan
from actlab.recording.session import Batch, Session, abandon
from actlab.recording.writers import open_writer
from actlab.schema import LOG_NAME, SPLITS

if TYPE_CHECKING:
    import threading

__all__ = ["Recorder"]

# A last row waits for `log` until it is sealed: a script that ends without `close` keeps it.
_unclosed: weakref.WeakSet[Recorder] = weakref.WeakSet()


class Recorder:
    """Record what happens inside `batch` into a run on disk; also a context manager.

    Every value of every chosen layer is counted inside a forward hook, so in-place operations
    cannot change it first; nothing of the model, its outputs or the random state is touched.
    A recorder that is dropped without `close` is closed in the background.

    Parameters
    ----------
    model : torch.nn.Module or dict of str to torch.nn.Module
        The model, bare or wrapped (torch.compile, DDP, ...), or several by name (a GAN): the names of
        their layers begin with it. Code that torch.compile made before is compiled anew.
    path : str or path
        Where the run is written, by custom `runs/NAME.zarr`, or a URL, `s3://bucket/NAME.zarr`.
    layers : str or sequence of str, optional
        fnmatch patterns on the whole name (`*` crosses dots), `!` in front excludes. A pattern
        means the leaf modules it matches, or where it matches none, the containers. None: all leaf
        modules and `input`, the model's first floating-point argument.
    kinds : str, class, or sequence of these, optional
        Module classes, or patterns on their names, that a layer must also match.
    axis : FloatAxis
        The recording axis.
    raw : {"head", None} or sequence of str
        "head" keeps the head's outputs raw, in float32, with their labels, if the first batch has
        at most 8,192 of them and float32 holds them exactly. Later batches that are over 16 times as
        large, or that float32 does not hold, have counts only. A head with more in its first batch is
        counted by unit (up to 128) and by YES and NO, with moments by label. A list of fnmatch
        patterns keeps the outputs of these layers, too. None keeps nothing raw.
    raw_dtype : {"float16", "float32", "float64"}, optional
        Of the layers in that list; by default their own, float32 for narrower ones than float16.
    raw_samples : int, optional
        At most so many samples of each forward of these layers, evenly spread; by default all.
    head : str or sequence of str, optional
        Name of the head; None finds it: the last called leaf whose output the model returns. Of
        several, the first is the head and the others are kept raw as by `raw`.
    every : int or dict of int to int
        Record every so many batches of each split, beginning with the first; `{0: 1, 1000: 10}` says
        from which step on. The batches are counted through all epochs: one with fewer than `every`
        validation batches may have none recorded.
    calls : {"sum", "separate"}
        Whether the calls of a module within one forward are counted together, or as `relu#1`, `relu#2`.
    functional : bool
        Count the results of activation functions called without a module as well, such as `F.relu`
        in `block1`: layer `block1.F.relu`.
    reduce : bool
        In distributed training, merge the rows of all ranks while they are recorded, into one run that
        rank 0 writes. By default each rank writes a run of its own, rank 1 `NAME.rank1.zarr`, and
        `open_run` merges them.
    on_error : {"warn", "raise", "stop"}
        What a failure of actlab's own does inside the training loop: warn of each kind once and go on,
        raise, or warn once and end the recording, which leaves a run that is closed.
    overwrite : bool
        Replace an existing run.
    resume : bool
        Go on with an existing run where its last commit ends; start a new one where there is none.
    resume_step : int, optional
        Go on with an existing run after so many training batches, those that the loaded checkpoint has
        seen: what was recorded after them is not shown any more, yet kept. 0 may start a new run.
    flush_every : float
        Seconds between commits; so much may be lost in a crash.
    fsync : bool or "auto"
        Survive the loss of power, too; "auto" does so on a local disk.
    on_full : {"drop", "block"}
        What happens to a row where the disk is too slow: it is left out, as a recorded gap, or the
        training waits.

    Raises
    ------
    SelectionError
        If a pattern or the head matches nothing in the model.
    StoreError
        If the path exists and may not be replaced, the run cannot be gone on with, or not be written.
    MissingDependencyError
        If the package for a URL is not installed.
    TypeError, ValueError
        If another argument is wrong. Nothing has been written or hooked in any of these cases.
    """

    _epochs = "given"
    _same_attempt = False
    _unused = "no batch was recorded: only what happens inside recorder.batch(...) is"

    def __init__(  # noqa: PLR0913 - the public signature; all but two are keywords
        self,
        model: nn.Module | Mapping[str, nn.Module],
        path: str | PathLike[str],
        *,
        layers: str | Sequence[str] | None = None,
        kinds: str | type[nn.Module] | Sequence[str | type[nn.Module]] | None = None,
        axis: FloatAxis = FloatAxis(),  # noqa: B008 - frozen
        raw: Literal["head"] | Sequence[str] | None = "head",
        raw_dtype: Literal["float16", "float32", "float64"] | None = None,
        raw_samples: int | None = None,
        head: str | Sequence[str] | None = None,
        every: int | Mapping[int, int] = 1,
        calls: Literal["sum", "separate"] = "sum",
        functional: bool = False,
        reduce: bool = False,
        on_error: Literal["warn", "raise", "stop"] = "warn",
        overwrite: bool = False,
        resume: bool = False,
        resume_step: int | None = None,
        flush_every: float = 1.0,
        fsync: bool | Literal["auto"] = "auto",
        on_full: Literal["drop", "block"] = "drop",
    ) -> None:
        told = (overwrite, resume, resume_step, flush_every, fsync, on_full, on_error)
        storage = Storage(*told, same_attempt=self._same_attempt)
        heads = [] if head is None else [head] if isinstance(head, str) else list(head)
        self._schedule = Schedule(every)
        plan = make_plan(model, layers, kinds, heads, calls, functional=functional)
        keepers = make_keepers(plan, axis, heads, raw, raw_dtype, raw_samples)
        self._guard = Guard(on_error)
        self._channels = keepers.channels
        self._is_open = self._is_closed = self._is_flushed = False
        self._ending: threading.Thread | None = None
        self._pauses = self._detachments = 0
        capture = Capture(plan, keepers, self._guard)
        with self._guard("warm-up", "the first batch takes longer"):
            keepers.tallies.warm_up(value for each in plan.models.values() for value in each.parameters())
        try:
            capture.attach()
            writer = open_writer(
                path,
                axis=axis,
                attributes=describe(plan) | {"epochs": self._epochs},
                reduce=reduce,
                storage=storage,
            )
        except BaseException:
            capture.detach()
            raise
        self._session = Session(capture, writer, self._guard)
        self._session.remark = self._unused
        self._progress = self._session.progress
        self._completion = Completion(self._session, keepers.head)
        if writer.resumed is not None:
            self._session.resume(writer.resumed)
            self._completion.resume(writer.resumed.head, writer.attributes)
        self._dropped = weakref.finalize(self, abandon, self._session)
        self._dropped.atexit = False  # `_close_all` is first, and needs no thread
        _unclosed.add(self)

    @contextmanager
    def batch(self, split: str, epoch: int, labels: object = None) -> Iterator[None]:
        """Record the forwards of one batch as one row.

        An exception inside makes no row and passes on.

        Parameters
        ----------
        split : {"train", "valid", "test"}
            Part of the data.
        epoch : int
            Label of the epoch; -1 for evaluation before any training.
        labels : array_like, optional
            Class indices [N] or [N, ...], 0/1 per output (multi-hot), or 0/1 for one unit; -100
            means none. Float targets of a regression give no YES and NO.
        """
        began = False
        with self._guard("batch"):
            self._begin(split, epoch, labels)
            began = True
        try:
            yield
        except BaseException:
            if began:
                self._discard()
            raise
        if began:
            self._finish()
        else:
            self._session.lost += 1
            self._end_if_failed()

    def log(self, **values: float | torch.Tensor) -> None:
        """Add scalars to the row of the current or latest batch, such as ``loss=loss.detach()``.

        Ignored where that batch is not recorded. `flush` seals its row: log first.

        Parameters
        ----------
        **values : float or torch.Tensor
            One number each, by a name of at most 120 ASCII letters, digits and ``_ . -``.
        """
        if (batch := self._session.batch) is None:
            if self._is_flushed:
                self._guard.warn("log", "what is logged after flush belongs to no row: log first, then flush")
            return
        for name, value in values.items():
            with self._guard(f"log({name!r})"):
                if LOG_NAME.fullmatch(name) is None:
                    raise ValueError("expected a name of 1 to 120 of A-Z a-z 0-9 _ . -")
                batch.logs[name] = to_number(value)

    def flush(self) -> dict[str, int]:
        """Commit all rows, that of the latest batch too: call it before a checkpoint is saved.

        A checkpoint then never refers to steps that a crash can take, and `resume_step` goes on from
        it exactly. Within a batch, the rows before it are committed.

        Returns
        -------
        dict of str to int
            Last committed step of each split, for the splits that have rows.

        Raises
        ------
        StoreError
            Under ``on_error="raise"`` only: if the run cannot be written.
        """
        committed: dict[str, int] = {}
        with self._guard("flush"):
            if not self._is_open and self._session.batch is not None:
                self._is_flushed = self._session.batch.is_recorded
                self._session.seal()
            committed.update(self._session.flush())
        self._end_if_failed()
        return committed

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Record nothing inside, whatever the model is called with."""
        self._pauses += 1
        self._listen()
        try:
            yield
        finally:
            self._pauses -= 1
            self._listen()

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Take every hook off the model inside, and put them back after: for what looks at hooks.

        `torch.jit.script`, for one, compiles them. Nothing is recorded meanwhile. Afterwards the hooks
        stand behind those that were registered inside, and compiled code is compiled anew.
        """
        with self.pause():
            self._detachments += 1
            self._session.capture.detach()
            try:
                yield
            finally:
                self._detachments -= 1
                if not (self._is_closed or self._detachments):
                    self._session.capture.attach()

    def close(self) -> None:
        """Remove all hooks, seal the last row, commit everything; more calls do nothing.

        Raises
        ------
        StoreError
            Under ``on_error="raise"`` only: if rows were lost.
        """
        if self._ending is not None:
            self._ending.join()
        if not self._is_closed:
            self._leave()
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not self._session.is_used:
            self._session.remark = None  # the error says why
        self.close()

    def _leave(self) -> None:
        """Be closed for the training; the session is not yet."""
        self._is_closed = True
        self._dropped.detach()
        _unclosed.discard(self)
        if self._is_open:
            self._discard()

    def _end_if_failed(self) -> None:
        """End the recording after a failure, where that is asked for; the training waits for nothing."""
        if self._guard.is_stopped and not self._is_closed:
            self._leave()
            self._ending = abandon(self._session)

    def _begin(self, split: str, epoch: int, labels: object) -> None:
        """Open the next batch of a split, sealing the row of the last one."""
        if self._is_closed or self._is_open:
            raise ValueError("the recorder is closed" if self._is_closed else "a batch inside a batch")
        self._session.seal()
        self._is_flushed = False
        if split not in SPLITS:
            raise SelectionError(f"unknown split {split!r}; {nearest(str(split), SPLITS)}")
        known: torch.Tensor | None = None
        with self._guard("labels", "only the labels of this batch are left out"):
            known = as_tensor(labels)
        epoch = as_epoch(epoch)
        self._session.turn_to(split)
        step, (last_epoch, number) = self._progress.steps[split], self._progress.places[split]
        batch = self._session.batch = Batch(
            split=split,
            step=step,
            epoch=epoch,
            number=number if epoch == last_epoch else 0,
            train_step=self._progress.steps["train"],
            labels=known,
            is_recorded=self._schedule.has(step) and not self._pauses,
        )
        self._is_open = self._session.is_used = True
        try:
            if batch.is_recorded:
                if epoch != last_epoch:
                    self._session.capture.look_for_replaced()
                self._session.capture.begin(known)
                self._channels.begin(split, self._progress.rows[split], epoch)
                self._progress.rows[split] += 1
            self._listen()
        except BaseException:
            self._discard()
            raise

    def _listen(self) -> None:
        """Turn the hooks on or off, as the open batch and the pauses have it."""
        batch = self._session.batch
        self._session.capture.is_on = (
            self._is_open and batch is not None and batch.is_recorded and not self._pauses
        )

    _listen._torchdynamo_disable = True  # type: ignore[attr-defined] # a graph would do it at its end

    def _discard(self) -> None:
        """Forget the open batch: it makes no row and no step, but keeps its number, so that ranks agree."""
        batch, self._session.batch, self._is_open = self._session.batch, None, False
        if batch is not None:
            self._progress.places[batch.split] = (batch.epoch, batch.number + 1)
        self._session.capture.end()
        self._session.capture.clear()

    def _finish(self) -> None:
        """Complete the open batch; its row waits for `log` until it is sealed."""
        batch, self._is_open = self._session.batch, False
        self._session.capture.end()
        if batch is None:
            return
        self._session.remark = None
        self._progress.complete(batch.split, batch.epoch, batch.number)
        if batch.is_recorded:
            batch.time = time.time()
            with self._guard("row"):
                batch.totals = self._session.capture.take()
            self._session.lost += batch.totals is None
            self._completion.take(batch)
        if self._guard.is_stopped:
            self._session.batch = None  # something of it failed
        self._end_if_failed()


def _close_all() -> None:
    """Close at interpreter exit what was not closed."""
    for recorder in list(_unclosed):
        recorder.close()


atexit.register(_close_all)
