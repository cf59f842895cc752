"""A head with too many outputs to keep: counted by unit and by YES and NO, with moments by label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.recording.delivery import Deferred
from actlab.recording.labels import NO_LABEL, as_samples, is_hot, say_if_beyond
from actlab.schema import MOST_LABELS, MOST_UNITS
from actlab.store.side import HeadCounts, LabelMoments

__all__ = ["HeadBlock", "LargeHead"]

_PIECE = 1 << 20  # values
_NO, _YES, _UNLABELLED = range(3)  # the order of schema.TRUTHS


@dataclass(frozen=True)
class HeadBlock:
    """What is kept of the head in one batch: raw outputs [sample, unit], or counts of a large head.

    `remark` is what there is to be said of the labels that were counted.
    """

    raw: NDArray[np.float32] | None = None
    counts: HeadCounts | None = None
    moments: LabelMoments | None = None
    remark: str | None = None


class LargeHead:
    """Count the outputs of a head while they are there.

    Parameters
    ----------
    axis : FloatAxis
        The recording axis.
    unit_dim : int
        Dimension of the units in the output.
    """

    def __init__(self, axis: FloatAxis, unit_dim: int) -> None:
        self._axis = axis
        self._unit_dim = unit_dim
        self._problem: ValueError | None = None
        self._units = 0
        self._seen = self._given = 0  # samples of this batch, and labels
        self._counts: torch.Tensor | None = None
        self._sums: torch.Tensor | None = None
        self._highest: torch.Tensor | None = None  # of the labels, one class a sample

    def add(self, output: torch.Tensor, given: torch.Tensor | None) -> None:
        """Count one output of the head; `given` are the labels of the whole batch, or None.

        Raises
        ------
        ValueError
            If the number of units is not that of the output before it in the batch.
        """
        output = output.detach().unsqueeze(1) if output.dim() == 1 else output.detach()
        if self._counts is not None:  # on another device where a model is spread over several
            output = output.to(self._counts.device)
        units = output.shape[self._unit_dim]
        if self._counts is not None and units != self._units:
            raise ValueError(f"the head has {units} units, earlier in this batch {self._units}")
        self._units = units
        labels = None
        try:
            labels = None if given is None else self._labels_of(output, given)
        except ValueError as error:
            self._problem = error
        if labels is not None and labels.dim() == 1 and labels.numel():
            highest = labels.amax()
            self._highest = highest if self._highest is None else torch.maximum(self._highest, highest)
        for part, known in _pieces(output, labels, self._unit_dim):
            truth = _truth(part, known, self._unit_dim)
            if units <= MOST_UNITS:
                truth = truth + 3 * _along(units, part, self._unit_dim)
            self._count(part, truth, 3 * (units if units <= MOST_UNITS else 1))
            if known is not None:
                self._add_moments(part, known)

    def take(self) -> Deferred[HeadBlock] | None:
        """Return what was counted in the batch, and start again from zero."""
        counts, sums, highest = self._counts, self._sums, self._highest
        n_buckets = self._axis.n_buckets
        if counts is not None and self._given > self._seen and self._problem is None:
            self._problem = ValueError(f"{self._given} labels do not fit a head of {self._seen} samples")
        if counts is not None and self._problem is not None:
            # Which label belongs to which sample is not known: nothing is YES or NO.
            total, sums, highest = counts.reshape(-1, 3, n_buckets).sum(1), None, None
            counts = torch.stack([torch.zeros_like(total), torch.zeros_like(total), total], 1).reshape(-1)
        self._counts = self._sums = self._highest = None
        self._seen = self._given = 0
        if counts is None:
            return None
        tensors = [counts, *(each for each in (sums, highest) if each is not None)]
        return Deferred(tensors, partial(_block, n_buckets, self._units))

    def check_labels(self) -> None:
        """Raise what was wrong with the labels of the batch."""
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def clear(self) -> None:
        """Forget the batch."""
        self._counts = self._sums = self._highest = self._problem = None
        self._seen = self._given = 0

    def _labels_of(self, output: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Return the labels that belong to this output: [sample] or [sample, unit], -100 for none.

        A batch may be several forwards: each takes the next samples.
        """
        units, dim = self._units, self._unit_dim
        samples = output.numel() // max(units, 1)
        labels = given.to(output.device, non_blocking=output.is_cuda)  # the host must not read too early
        is_wide = labels.dim() == output.dim() and labels.numel() >= output.numel()
        hot = is_wide and units > 1 and labels.shape[dim] == units
        flat = as_samples(labels, dim) if hot else labels.reshape(-1)
        start, self._seen, self._given = self._seen, self._seen + samples, len(flat)
        if self._seen > len(flat):
            is_hot(labels.shape, samples, units, dim)  # says what was expected, if one forward alone is wrong
            raise ValueError(f"{len(flat)} labels do not fit {self._seen} samples of several forwards")
        part = flat[start : self._seen]
        # A float target that is neither 0 nor 1 says neither YES nor NO.
        none = (part != 0) & (part != 1) if part.is_floating_point() else part < 0
        return torch.where(none, NO_LABEL, part.to(torch.int64))

    def _count(self, output: torch.Tensor, groups: torch.Tensor, n_groups: int) -> None:
        """Count each value into its group."""
        size = n_groups * self._axis.n_buckets
        if self._counts is None:
            self._counts = torch.zeros(size, dtype=torch.int64, device=output.device)
        if output.device.type == "cpu" and (counted := _numba_kernel()) is not None:
            table: Any = self._counts.numpy().view(np.uint64).reshape(n_groups, self._axis.n_buckets)
            counted(output, groups, self._axis, table)
        else:
            bucket_index = import_module("actlab.recording.histogram.torch_ops").bucket_index
            place = groups * self._axis.n_buckets + bucket_index(output, self._axis)
            place = place.reshape(-1)
            self._counts.scatter_add_(0, place, torch.ones_like(place))

    def _add_moments(self, output: torch.Tensor, labels: torch.Tensor) -> None:
        """Add number, finite number, sum and sum of squares [4, label, unit] by true label."""
        values = as_samples(output, self._unit_dim)
        units = values.shape[1]
        n_labels = min(max(units, 2), MOST_LABELS)
        finite = values.isfinite()
        values = torch.where(finite, values, 0).to(torch.float64)
        rows = torch.stack([torch.ones_like(values), finite.to(torch.float64), values, values * values])
        if units > MOST_UNITS:
            rows = rows.sum(2, keepdim=True)
        if labels.dim() == 2:
            sums = torch.einsum("sl,ksu->klu", (labels[:, :n_labels] == 1).to(torch.float64), rows)
        else:
            # What has no label goes to a last entry that is cut off.
            entry = torch.where((labels < 0) | (labels >= n_labels), n_labels, labels)
            sums = torch.zeros(4, n_labels + 1, rows.shape[2], dtype=torch.float64, device=rows.device)
            sums = sums.index_add_(1, entry, rows)[:, :n_labels]
        self._sums = sums if self._sums is None else self._sums + sums


def _pieces(
    output: torch.Tensor, labels: torch.Tensor | None, unit_dim: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield parts of an output with their labels: truth and sums take many times its memory."""
    most = _PIECE if output.device.type == "cpu" else 8 * _PIECE
    if output.numel() <= most or unit_dim % output.dim() == 0:
        yield output, labels
        return
    length = max(1, most * len(output) // output.numel())
    per = output.numel() // output.shape[unit_dim] // len(output)
    for start in range(0, len(output), length):
        part = output[start : start + length]
        yield part, None if labels is None else labels[start * per : (start + len(part)) * per]


def _along(units: int, output: torch.Tensor, unit_dim: int) -> torch.Tensor:
    """Return the number of its unit for each output, to be broadcast."""
    shape = [1] * output.dim()
    shape[unit_dim] = units
    return torch.arange(units, device=output.device).reshape(shape)


def _truth(output: torch.Tensor, labels: torch.Tensor | None, unit_dim: int) -> torch.Tensor:
    """Return NO, YES or unlabelled for each output, in its shape."""
    if labels is None:
        return torch.full(output.shape, _UNLABELLED, dtype=torch.int64, device=output.device)
    units = output.shape[unit_dim]
    if labels.dim() == 2:
        spread = output.movedim(unit_dim, -1).shape
        hot = labels.reshape(spread).movedim(-1, unit_dim)
        return torch.where(hot == 1, _YES, torch.where(hot == 0, _NO, _UNLABELLED))
    each = labels.reshape(output.select(unit_dim, 0).shape).unsqueeze(unit_dim)
    if units == 1:
        return torch.where(each == 1, _YES, torch.where(each == 0, _NO, _UNLABELLED))
    truth = torch.where(each == _along(units, output, unit_dim), _YES, _NO)
    return torch.where((each < 0) | (each >= units), _UNLABELLED, truth)


def _block(n_buckets: int, units: int, tensors: list[torch.Tensor]) -> HeadBlock:
    """Give counts and moments the form of the store."""
    table = tensors[0].numpy().view(np.uint64).reshape(-1, 3, n_buckets)
    if table.max(initial=0) <= np.iinfo(np.uint32).max:
        table = table.astype(np.uint32)  # half the memory, for as long as it waits for the disk
    counts = HeadCounts(table, pooled=units > MOST_UNITS)
    if len(tensors) == 1:
        return HeadBlock(counts=counts)
    n, finite, total, squares = tensors[1].numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / finite
        std = np.sqrt(np.maximum(squares / finite - mean * mean, 0))
    return HeadBlock(
        counts=counts,
        moments=LabelMoments(n.astype(np.uint64), mean, std),
        remark=say_if_beyond(int(tensors[2]), units) if len(tensors) > 2 else None,
    )


def _numba_kernel() -> Any:
    """Return the grouped kernel, None where numba is missing."""
    try:
        return import_module("actlab.recording.histogram.groups").count_groups
    except ImportError:
        return None
