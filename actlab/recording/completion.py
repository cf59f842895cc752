"""What a completed batch has besides its counts, and what the run is told of it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch

from actlab.recording.delivery import Deferred, Delivery
from actlab.recording.head import Head
from actlab.recording.labels import targets_of
from actlab.recording.session import Batch, Session

__all__ = ["Completion"]


class Completion:
    """Collects head, labels, channels and samples of completed batches.

    Parameters
    ----------
    session : Session
        Whose capture looked at them.
    head : Head
        The keeper of the head.
    """

    def __init__(self, session: Session, head: Head) -> None:
        self._session = session
        self._head = head
        self._run_head: str | None = None  # that of a run that goes on
        self._told_head: tuple[str | None, int | None, bool] | None = None
        self._n_skipped = 0
        self._has_targets = False

    def resume(self, head: str | None, attributes: Mapping[str, Any]) -> None:
        """Keep of the head what the run keeps that goes on, as its attributes have it."""
        self._run_head = head
        match attributes:
            case {"head_unit_dim": int(unit_dim), "head_counted": bool(is_large)}:
                self._head.go_on(unit_dim, is_large=is_large)

    def take(self, batch: Batch) -> None:
        """Add to a batch what was kept of it, each part by itself; a batch without counts has none."""
        guard, capture = self._session.guard, self._session.capture
        labels, batch.labels = batch.labels, None
        if batch.totals is None:
            return
        if not capture.is_called:
            told = "the recorded model was not called inside the batch: is it the one that is trained?"
            guard.warn("never called", told)
        with guard("raw outputs", "this batch has its counts only"):
            self._take_head(batch, labels)
        with guard("targets", "the run does not say what its labels are"):
            self._look_at(batch, labels)
        with guard("channels", "this batch has none"):
            batch.channels = capture.take_channels()
        with guard("samples", "this batch has none"):
            batch.samples = capture.take_samples(labels)
        self._tell_skipped()
        if batch.is_ready():  # as on a CPU always: what is wrong is said where it happened
            with guard("row"):
                batch.resolve(guard)

    def _take_head(self, batch: Batch, labels: torch.Tensor | None) -> None:
        """Add what was kept of the head and the labels; tell the run which layer it is."""
        head, guard = self._head, self._session.guard
        name, batch.head = self._session.capture.take_head()
        if head.key is not None and self._run_head not in (None, name):
            batch.head = None
            head.drop()
            told = f"the head was {self._run_head!r} and is {name!r} now: from here on only counts are kept"
            guard.warn("head", told)
        elif head.key is not None and self._told_head != (news := (name, head.unit_dim, head.is_large)):
            self._told_head = news
            self._session.writer.update_attributes(
                head=name, head_unit_dim=head.unit_dim, head_counted=head.is_large
            )
            if labels is not None and not head.has_labels:
                told = (
                    f"no layer makes the model's output; {name!r} is kept as the head, without labels, as it "
                    "has other units: return the output through an nn.Identity() to keep that, and its labels"
                )
                guard.warn("head", told)
        batch.unit_dim = head.unit_dim
        with guard("labels", "only the labels of this batch are left out"):
            head.check_labels()
            if batch.head is not None and labels is not None and head.has_labels and not head.is_large:
                batch.label = Delivery(Deferred([labels.clone()], operator.itemgetter(0)))

    def _look_at(self, batch: Batch, labels: torch.Tensor | None) -> None:
        """Find out, of the first labels, what they are to the head."""
        if self._has_targets or labels is None or not self._head.has_labels:
            return
        if batch.totals is None or self._told_head is None:
            return
        shapes = {layer.name: layer.shape for layer in batch.totals.layers}
        if shape := shapes.get(self._told_head[0] or ""):
            self._has_targets = True
            unit_dim = -1 if self._head.unit_dim is None else self._head.unit_dim
            batch.targets = Delivery(targets_of(labels, shape, unit_dim))

    def _tell_skipped(self) -> None:
        """Say once which layers are not counted, and keep it in the run."""
        skipped = self._session.capture.skipped
        if len(skipped) > self._n_skipped:
            self._n_skipped = len(skipped)
            said = [f"layer {name!r} is not counted: {reason}" for name, reason in skipped.items()]
            self._session.guard.warn("skipped", "; ".join(said))
            self._session.writer.update_attributes(skipped=dict(skipped))
