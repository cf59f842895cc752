"""Recorder: counts every value of every layer during training, one row per batch."""

from __future__ import annotations

import atexit
import operator
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from types import TracebackType
from typing import Literal, Self

import torch
from torch import nn

from actlab.axis import FloatAxis
from actlab.errors import SelectionError, nearest
from actlab.recording.capture import Capture
from actlab.recording.delivery import Deferred, Delivery, to_number
from actlab.recording.guard import Guard
from actlab.recording.labels import as_tensor
from actlab.recording.options import Schedule, as_epoch, describe, make_keepers, make_plan
from actlab.recording.session import Batch, Session, abandon
from actlab.recording.writers import open_writer
from actlab.schema import LOG_NAME, SPLITS

__all__ = ["Recorder"]

_NO_EPOCH = -2

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
        Where the run is written, by custom `runs/NAME.zarr`.
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
    on_error : {"warn", "raise"}
        What a failure of actlab's own does inside the training loop.
    overwrite : bool
        Replace an existing run.
    flush_every : float
        Seconds between commits; so much may be lost in a crash.

    Raises
    ------
    SelectionError
        If a pattern or the head matches nothing in the model.
    StoreError
        If the path exists and may not be replaced, or cannot be written.
    TypeError, ValueError
        If another argument is wrong. Nothing has been written or hooked in any of these cases.
    """

    _epochs = "given"

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
        on_error: Literal["warn", "raise"] = "warn",
        overwrite: bool = False,
        flush_every: float = 1.0,
    ) -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise', got {on_error!r}")
        heads = [] if head is None else [head] if isinstance(head, str) else list(head)
        self._schedule = Schedule(every)
        plan = make_plan(model, layers, kinds, heads, calls, functional=functional)
        keepers = make_keepers(plan, axis, heads, raw, raw_dtype, raw_samples)
        self._guard = Guard(on_error)
        self._head, self._channels = keepers.head, keepers.channels
        self._told_head: tuple[str | None, int | None] | None = None
        self._n_skipped = 0
        self._steps = dict.fromkeys(SPLITS, 0)
        self._rows = dict.fromkeys(SPLITS, 0)
        self._places = dict.fromkeys(SPLITS, (_NO_EPOCH, 0))
        self._is_open = False
        self._is_closed = False
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
                overwrite=overwrite,
                flush_every=flush_every,
                on_error=on_error,
            )
        except BaseException:
            capture.detach()
            raise
        self._session = Session(capture, writer, self._guard)
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

    def log(self, **values: float | torch.Tensor) -> None:
        """Add scalars to the row of the current or latest batch, such as ``loss=loss.detach()``.

        Ignored where that batch is not recorded.

        Parameters
        ----------
        **values : float or torch.Tensor
            One number each, by a name of at most 120 ASCII letters, digits and ``_ . -``.
        """
        if (batch := self._session.batch) is None:
            return
        for name, value in values.items():
            with self._guard(f"log({name!r})"):
                if LOG_NAME.fullmatch(name) is None:
                    raise ValueError("expected a name of 1 to 120 of A-Z a-z 0-9 _ . -")
                batch.logs[name] = to_number(value)

    def flush(self) -> dict[str, int]:
        """Commit all sealed rows; a row is sealed by the next batch or `close`.

        Returns
        -------
        dict of str to int
            Last committed step of each split, for the splits that have rows.
        """
        committed: dict[str, int] = {}
        with self._guard("flush"):
            self._session.hand_over(wait=True)
            committed.update(self._session.writer.flush())
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
        """Remove all hooks, seal the last row, commit everything; more calls do nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._dropped.detach()
        _unclosed.discard(self)
        if self._is_open:
            self._discard()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, split: str, epoch: int, labels: object) -> None:
        """Open the next batch of a split, sealing the row of the last one."""
        if self._is_closed or self._is_open:
            raise ValueError("the recorder is closed" if self._is_closed else "a batch inside a batch")
        self._session.seal()
        if split not in SPLITS:
            raise SelectionError(f"unknown split {split!r}; {nearest(str(split), SPLITS)}")
        known: torch.Tensor | None = None
        with self._guard("labels", "only the labels of this batch are left out"):
            known = as_tensor(labels)
        step, (last_epoch, number) = self._steps[split], self._places[split]
        epoch = as_epoch(epoch)
        batch = self._session.batch = Batch(
            split=split,
            step=step,
            epoch=epoch,
            number=number if epoch == last_epoch else 0,
            train_step=self._steps["train"],
            labels=known,
            is_recorded=self._schedule.has(step) and not self._pauses,
        )
        self._is_open = self._session.is_used = True
        try:
            if batch.is_recorded:
                if epoch != last_epoch:
                    self._session.capture.look_for_replaced()
                self._session.capture.begin(known)
                self._channels.begin(split, self._rows[split], epoch)
                self._rows[split] += 1
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
            self._places[batch.split] = (batch.epoch, batch.number + 1)
        self._session.capture.end()
        self._session.capture.clear()

    def _finish(self) -> None:
        """Complete the open batch; its row waits for `log` until it is sealed."""
        batch, self._is_open = self._session.batch, False
        self._session.capture.end()
        if batch is None:
            return
        self._steps[batch.split] += 1
        self._places[batch.split] = (batch.epoch, batch.number + 1)
        if batch.is_recorded:
            batch.time = time.time()
            with self._guard("row"):
                batch.totals = self._session.capture.take()
            self._session.lost += batch.totals is None
            self._take_rest(batch)

    def _take_rest(self, batch: Batch) -> None:
        """Add what else was kept of a completed batch beside the counts."""
        labels, batch.labels = batch.labels, None
        if batch.totals is None:
            return
        with self._guard("raw outputs", "this batch has its counts only"):
            self._take_head(batch, labels)
        with self._guard("channels", "this batch has none"):
            batch.channels = self._session.capture.take_channels()
        with self._guard("samples", "this batch has none"):
            batch.samples = self._session.capture.take_samples(labels)
        self._tell_skipped()
        if batch.is_ready():  # as on a CPU always: what is wrong is said where it happened
            with self._guard("row"):
                batch.resolve(self._guard)

    def _take_head(self, batch: Batch, labels: torch.Tensor | None) -> None:
        """Add what was kept of the head and the labels; tell the run which layer it is."""
        name, batch.head = self._session.capture.take_head()
        if self._head.key is not None and self._told_head != (news := (name, self._head.unit_dim)):
            self._told_head = news
            self._session.writer.update_attributes(head=name, head_unit_dim=self._head.unit_dim)
        batch.unit_dim = self._head.unit_dim
        with self._guard("labels", "only the labels of this batch are left out"):
            self._head.check_labels()
            if batch.head is not None and labels is not None and not self._head.is_large:
                batch.label = Delivery(Deferred([labels.clone()], operator.itemgetter(0)))

    def _tell_skipped(self) -> None:
        """Say once which layers are not counted, and keep it in the run."""
        skipped = self._session.capture.skipped
        if len(skipped) > self._n_skipped:
            self._n_skipped = len(skipped)
            said = [f"layer {name!r} is not counted: {reason}" for name, reason in skipped.items()]
            self._guard.warn("skipped", "; ".join(said))
            self._session.writer.update_attributes(skipped=dict(skipped))


def _close_all() -> None:
    """Close at interpreter exit what was not closed."""
    for recorder in list(_unclosed):
        recorder.close()


atexit.register(_close_all)
