"""Recorder: counts every value of every layer during training, one row per batch."""

from __future__ import annotations

import atexit
import operator
import platform
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import nn

from actlab import __version__
from actlab.axis import FloatAxis
from actlab.errors import SelectionError, StoreError, nearest
from actlab.recording.capture import Capture
from actlab.recording.guard import Guard
from actlab.recording.head import Head, as_labels
from actlab.recording.hooks import find_sites, select
from actlab.recording.session import Batch, Session, abandon, await_abandoned
from actlab.schema import LOG_NAME, SPLITS
from actlab.store.writer import RunWriter

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
    model : torch.nn.Module
        The model, bare or wrapped (torch.compile, DDP, ...).
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
    raw : {"head", None}
        "head" keeps the head's outputs raw, in float32, with their labels, if the first batch has
        at most 8,192 of them and float32 holds them exactly. Later batches that are over 16 times as
        large, or that float32 does not hold, have counts only.
    head : str, optional
        Name of the head; None finds it: the last called leaf whose output the model returns.
    every : int
        Record every so many batches of each split, beginning with the first. The batches are counted
        through all epochs: one with fewer than `every` validation batches may have none recorded.
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
        model: nn.Module,
        path: str | PathLike[str],
        *,
        layers: str | Sequence[str] | None = None,
        kinds: str | type[nn.Module] | Sequence[str | type[nn.Module]] | None = None,
        axis: FloatAxis = FloatAxis(),  # noqa: B008 - frozen
        raw: Literal["head"] | None = "head",
        head: str | None = None,
        every: int = 1,
        on_error: Literal["warn", "raise"] = "warn",
        overwrite: bool = False,
        flush_every: float = 1.0,
    ) -> None:
        _check(model, axis, raw, every, on_error)
        sites = find_sites(model)
        selection = select(sites, layers, kinds, head)
        self._guard = Guard(on_error)
        self._head = Head(head, keep=raw == "head")
        self._told_head: tuple[str, int | None] | None = None
        capture = Capture(selection, self._head, axis, self._guard)
        self._every = every
        self._steps = dict.fromkeys(SPLITS, 0)
        self._places = dict.fromkeys(SPLITS, (_NO_EPOCH, 0))
        self._is_open = False
        self._is_closed = False
        self._pauses = 0
        try:
            capture.attach(model, sites)
            writer = _open_writer(
                path,
                axis=axis,
                attributes=_origin(model) | {"epochs": self._epochs},
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
                batch.logs[name] = _to_number(value)

    def flush(self) -> dict[str, int]:
        """Commit all sealed rows; a row is sealed by the next batch or `close`.

        Returns
        -------
        dict of str to int
            Last committed step of each split, for the splits that have rows.
        """
        committed: dict[str, int] = {}
        with self._guard("flush"):
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
        step, (last_epoch, number) = self._steps[split], self._places[split]
        self._session.batch = Batch(
            split=split,
            step=step,
            epoch=operator.index(epoch),
            number=number if epoch == last_epoch else 0,
            train_step=self._steps["train"],
            labels=labels,
            is_recorded=step % self._every == 0 and not self._pauses,
        )
        self._is_open = self._session.is_used = True
        self._listen()

    def _listen(self) -> None:
        """Turn the hooks on or off, as the open batch and the pauses have it."""
        batch = self._session.batch
        self._session.capture.is_on = (
            self._is_open and batch is not None and batch.is_recorded and not self._pauses
        )

    def _discard(self) -> None:
        """Forget the open batch: it makes no row and does not count as a step."""
        self._session.batch, self._is_open = None, False
        self._listen()
        self._session.capture.clear()

    def _finish(self) -> None:
        """Complete the open batch; its row waits for `log` until it is sealed."""
        batch, self._is_open = self._session.batch, False
        self._listen()
        if batch is None:
            return
        self._steps[batch.split] += 1
        self._places[batch.split] = (batch.epoch, batch.number + 1)
        labels, batch.labels = batch.labels, None
        if batch.is_recorded:
            batch.time = time.time()
            with self._guard("row"):
                batch.totals = self._session.capture.take()
            self._session.lost += batch.totals is None
            with self._guard("raw outputs", "this batch has its counts only"):
                self._take_head(batch, labels)

    def _take_head(self, batch: Batch, labels: object) -> None:
        """Add the raw outputs of the head and their labels; tell the run which layer it is."""
        if (totals := batch.totals) is None:
            return
        head = self._head
        is_recorded = any(layer.name == head.name for layer in totals.layers)
        if not is_recorded and head.name is not None:
            head.drop()
        batch.head = head.take(labels)
        if head.name is not None and self._told_head != (news := (head.name, head.unit_dim)):
            self._told_head = news
            name = head.name if is_recorded else None
            self._session.writer.update_attributes(head=name, head_unit_dim=head.unit_dim)
        if batch.head is not None and labels is not None and head.unit_dim is not None:
            with self._guard("labels", "only the labels of this batch are left out"):
                batch.label = as_labels(labels, batch.head.shape, head.unit_dim)


def _open_writer(path: str | PathLike[str], *, overwrite: bool, **options: Any) -> RunWriter:
    """Open the writer; a recorder that nobody holds any more makes room for it."""
    try:
        return RunWriter(path, overwrite=overwrite, **options)
    except StoreError:
        if not overwrite:
            raise
    await_abandoned()
    return RunWriter(path, overwrite=overwrite, **options)


def _check(model: object, axis: object, raw: object, every: object, on_error: object) -> None:
    """Refuse wrong arguments before anything is written or hooked."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(axis, FloatAxis):
        raise TypeError(f"axis must be a FloatAxis, got {axis!r}; range and bins are chosen when drawing")
    if raw not in ("head", None):
        raise ValueError(f"raw must be 'head' or None, got {raw!r}")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a whole number of at least 1, got {every!r}")
    if on_error not in ("warn", "raise"):
        raise ValueError(f"on_error must be 'warn' or 'raise', got {on_error!r}")


def _to_number(value: Any) -> float:
    """Return a logged value as a number; text is none, even where it reads like one."""
    if isinstance(value, str | bytes | bytearray):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


def _origin(model: nn.Module) -> dict[str, Any]:
    """Return the attributes that say what was recorded, with which versions."""
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": str(torch.__version__)}
    return {"model": type(model).__name__, "head": None, "versions": {"actlab": __version__, **versions}}


def _close_all() -> None:
    """Close at interpreter exit what was not closed."""
    for recorder in list(_unclosed):
        recorder.close()


atexit.register(_close_all)
