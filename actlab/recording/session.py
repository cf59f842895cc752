"""Batches on their way to the writer, and the part of a recorder that ends a recording."""

from __future__ import annotations

import gc
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from actlab.recording.capture import Capture
from actlab.recording.delivery import Delivery
from actlab.recording.guard import Guard
from actlab.recording.labels import NO_LABEL, as_labels, say_if_beyond
from actlab.recording.large_head import HeadBlock
from actlab.recording.progress import Progress
from actlab.recording.tally import PendingTotals
from actlab.store.side import ChannelStats, RawSamples
from actlab.store.writer import Row

if TYPE_CHECKING:
    from actlab.store.resuming import Resumed

__all__ = ["Batch", "Session", "Writer", "abandon", "await_abandoned"]

_MOST_WAITING = 16  # rows whose values are still on a device; beyond it training waits for the oldest


@dataclass
class Batch:
    """A batch from its beginning to the moment its row is written.

    Labels and logged scalars may be tensors of a device on their way to the host, as the rest is.
    """

    split: str
    step: int
    epoch: int
    number: int
    train_step: int
    labels: torch.Tensor | None
    is_recorded: bool
    time: float = 0.0
    totals: PendingTotals | None = None
    head: Delivery[HeadBlock] | None = None
    unit_dim: int | None = None
    label: Delivery[torch.Tensor] | None = None
    targets: Delivery[str] | None = None
    channels: Delivery[ChannelStats] | None = None
    samples: Delivery[dict[str, RawSamples]] | None = None
    logs: dict[str, float | Delivery[float]] = field(default_factory=dict)

    row: Row | None = None
    kind: str | None = None  # of its labels, where it tells the run

    def is_ready(self) -> bool:
        """Say whether neither `resolve` nor `log_values` would have to wait for a device."""
        logs = (value for value in self.logs.values() if not isinstance(value, float))
        parts = (self.totals, self.head, self.label, self.targets, self.channels, self.samples, *logs)
        return all(part.is_ready() for part in parts if part is not None)

    def resolve(self, guard: Guard) -> None:
        """Make the row of the completed batch, what fails of it left out; waits if it must."""
        if self.totals is None:
            return
        totals, self.totals = self.totals.result(), None
        block, samples = HeadBlock(), dict[str, RawSamples]()
        channels: ChannelStats | None = None
        label: NDArray[np.int64] | None = None
        with guard("raw outputs", "this batch has its counts only"):
            block = self.head.result() if self.head is not None else block
        with guard("labels", "only the labels of this batch are left out"):
            if block.raw is not None and self.label is not None and self.unit_dim is not None:
                units = block.raw.shape[1]
                label = as_labels(self.label.result(), (len(block.raw), units), self.unit_dim)
                self.kind = "float" if label is None else None
                if label is not None and label.ndim == 1:
                    block = replace(block, remark=say_if_beyond(int(label.max(initial=NO_LABEL)), units))
            if block.remark is not None:
                guard.warn("labels", block.remark)
        with guard("targets", "the run does not say what its labels are"):
            self.kind = self.targets.result() if self.targets is not None else self.kind
        with guard("channels", "this batch has none"):
            channels = self.channels.result() if self.channels is not None else None
        with guard("samples", "this batch has none"):
            samples = self.samples.result() if self.samples is not None else samples
        self.row = Row(
            split=self.split,
            step=self.step,
            epoch=self.epoch,
            batch=self.number,
            train_step=self.train_step,
            time=self.time,
            layers=totals.layers,
            counts=totals.counts,
            n=totals.n,
            mean=totals.mean,
            std=totals.std,
            min=totals.min,
            max=totals.max,
            logs={},
            head=block.raw,
            label=label,
            channels=channels,
            samples=samples,
            head_counts=block.counts,
            label_moments=block.moments,
        )

    def log_values(self, guard: Guard) -> dict[str, float]:
        """Return the logged scalars; waits for those that are still on a device."""
        values: dict[str, float] = {}
        for name, value in self.logs.items():
            with guard(f"log({name!r})"):
                values[name] = value if isinstance(value, float) else value.result()
        return values


class Writer(Protocol):
    """What a recorder asks of its writer, see `RunWriter`."""

    attributes: dict[str, Any]

    @property
    def resumed(self) -> Resumed | None:
        """Where an existing run goes on; None for a new one."""

    def append(self, row: Row) -> bool:
        """Take a row; never waits. False if it was dropped."""

    def update_attributes(self, **values: Any) -> None:
        """Merge JSON values into the root attribute of the run."""

    def count(self, split: str, steps: int) -> None:
        """Say how many batches of a split there were, recorded or not."""

    def flush(self) -> dict[str, int]:
        """Commit what was taken so far; returns the last step of each split."""

    def close(self) -> None:
        """Commit everything and end."""


class Session:
    """The hooks, the latest batch, the numbers and the writer of a recorder; knows nothing of the recorder.

    Parameters
    ----------
    capture : Capture
        The hooks.
    writer : Writer
        Where the rows go.
    guard : Guard
        Keeps failures out of the training loop.

    Attributes
    ----------
    batch : Batch or None
        The open or latest batch, until it is sealed.
    lost : int
        Batches that should have been recorded, and are not.
    is_used : bool
        Whether there was a batch at all.
    remark : str or None
        What is to be said if the recording ends now.
    progress : Progress
        How many batches there were.
    """

    def __init__(self, capture: Capture, writer: Writer, guard: Guard) -> None:
        self.batch: Batch | None = None
        self.lost = 0
        self.is_used = False
        self.remark: str | None = None
        self.progress = Progress()
        self.capture = capture
        self.writer = writer
        self.guard = guard
        self._waiting: deque[Batch] = deque()

    def resume(self, resumed: Resumed) -> None:
        """Go on with the numbers of an existing run."""
        self.progress.resume(resumed, self.writer.attributes.get("marks"))
        self.writer.update_attributes(marks=self.progress.marks)  # those beyond are of the past

    def turn_to(self, split: str) -> None:
        """Note which split comes next."""
        if self.progress.turn_to(split):
            self.writer.update_attributes(marks=self.progress.marks)

    def seal(self) -> None:
        """Let go of the completed batch: its row is handed to the writer once it is on the host."""
        batch, self.batch = self.batch, None
        if batch is not None and (batch.totals is not None or batch.row is not None):
            self._waiting.append(batch)
        self.hand_over(wait=False)

    def hand_over(self, *, wait: bool) -> None:
        """Hand the rows of sealed batches to the writer, in their order, as far as they are there."""
        while self._waiting and (wait or len(self._waiting) > _MOST_WAITING or self._waiting[0].is_ready()):
            batch, is_taken = self._waiting.popleft(), False
            try:
                with self.guard("row"):
                    batch.resolve(self.guard)
                    self._tell_kind(batch.kind)
                    if batch.row is not None:
                        row = replace(batch.row, logs=batch.log_values(self.guard))
                        is_taken = self.writer.append(row)
            finally:
                self.lost += not is_taken

    def _tell_kind(self, kind: str | None) -> None:
        """Tell the run what its labels are; zeros and ones may turn out to be numbers to be predicted."""
        known = self.writer.attributes.get("targets")
        if kind is not None and (known is None or (kind == "float" and known in ("binary", "multi-hot"))):
            self.writer.update_attributes(targets=kind)

    def flush(self) -> dict[str, int]:
        """Commit the rows of sealed batches, and how many batches there were; see `RunWriter`."""
        self.hand_over(wait=True)
        self._mark()
        return self.writer.flush()

    def close(self) -> None:
        """Remove all hooks, seal the last row, commit everything, say what was lost."""
        self.capture.detach()
        try:
            self.seal()
            self.hand_over(wait=True)
            with self.guard("close"):
                self._mark()
        finally:
            with self.guard("close"):
                self.writer.close()
        if self.lost:
            lost = "1 batch was" if self.lost == 1 else f"{self.lost} batches were"
            self.guard.warn("lost", f"{lost} not recorded")
        if self.remark is not None and (self.is_used or not self.lost):
            self.guard.warn("unused", self.remark)

    def _mark(self) -> None:
        """Tell the run where it stands, so that it can go on from here."""
        if self.progress.mark():
            self.writer.update_attributes(marks=self.progress.marks)
            for split, steps in self.progress.steps.items():
                self.writer.count(split, steps)


class _Closing(threading.Thread):
    """Closes the session of a recorder that was dropped; the interpreter waits for it at exit."""


def abandon(session: Session) -> threading.Thread:
    """End the session of a recorder that was dropped without `close`, or that failed.

    Garbage is collected at any moment, in any thread, even that of the writer: the hooks go at once,
    what waits for locks and for the disk has a thread of its own, which is returned.
    """
    session.capture.detach()
    if not session.is_used:
        session.guard.warn("unused", "the recorder is gone before its first batch: keep it in a variable")
    closing = _Closing(target=session.close, name="actlab closing")
    closing.start()
    return closing


def await_abandoned() -> None:
    """Collect the recorders that nobody holds any more, and wait until their runs are closed."""
    gc.collect()
    for thread in threading.enumerate():
        if isinstance(thread, _Closing):
            thread.join()
