"""One batch, its row, and the part of a recorder that ends a recording, with or without it."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from actlab.recording.capture import Capture
from actlab.recording.guard import Guard
from actlab.recording.tally import Totals
from actlab.store.writer import Row, RunWriter

__all__ = ["Batch", "Session", "abandon", "await_abandoned"]


@dataclass
class Batch:
    """A batch from its beginning to the moment its row is sealed."""

    split: str
    step: int
    epoch: int
    number: int
    train_step: int
    labels: object
    is_recorded: bool
    time: float = 0.0
    totals: Totals | None = None
    head: NDArray[np.float32] | None = None
    label: NDArray[np.int64] | None = None
    logs: dict[str, float] = field(default_factory=dict)

    def to_row(self, totals: Totals) -> Row:
        """Return the row of the completed batch."""
        return Row(
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
            logs=self.logs,
            head=self.head,
            label=self.label,
        )


class Session:
    """The hooks, the latest batch and the writer of a recorder; knows nothing of the recorder itself.

    Parameters
    ----------
    capture : Capture
        The hooks.
    writer : RunWriter
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
    """

    def __init__(self, capture: Capture, writer: RunWriter, guard: Guard) -> None:
        self.batch: Batch | None = None
        self.lost = 0
        self.is_used = False
        self.capture = capture
        self.writer = writer
        self.guard = guard

    def seal(self) -> None:
        """Hand the completed row to the writer."""
        batch, self.batch = self.batch, None
        if batch is None or batch.totals is None:
            return
        is_taken = False
        with self.guard("row"):
            is_taken = self.writer.append(batch.to_row(batch.totals))
        self.lost += not is_taken

    def close(self) -> None:
        """Remove all hooks, seal the last row, commit everything, say what was lost."""
        self.capture.detach()
        try:
            self.seal()
        finally:
            with self.guard("close"):
                self.writer.close()
        if self.lost:
            lost = "1 batch was" if self.lost == 1 else f"{self.lost} batches were"
            self.guard.warn("lost", f"{lost} not recorded")


class _Closing(threading.Thread):
    """Closes the session of a recorder that was dropped; the interpreter waits for it at exit."""


def abandon(session: Session) -> None:
    """End the session of a recorder that was dropped without `close`.

    Garbage is collected at any moment, in any thread, even that of the writer: the hooks go at once,
    what waits for locks and for the disk has a thread of its own.
    """
    session.capture.detach()
    if not session.is_used:
        session.guard.warn("unused", "the recorder is gone before its first batch: keep it in a variable")
    _Closing(target=session.close, name="actlab closing").start()


def await_abandoned() -> None:
    """Collect the recorders that nobody holds any more, and wait until their runs are closed."""
    gc.collect()
    for thread in threading.enumerate():
        if isinstance(thread, _Closing):
            thread.join()
