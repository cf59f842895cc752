"""Samples and labels: how the outputs of a head and the labels of a batch belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actlab.recording.delivery import Deferred

__all__ = [
    "NO_LABEL",
    "as_labels",
    "as_samples",
    "as_tensor",
    "as_whole",
    "is_hot",
    "say_if_beyond",
    "targets_of",
]

NO_LABEL = -100
_NEARLY = 1e-2  # half precision
_UNORDERED = {torch.uint16, torch.uint32, torch.uint64}  # torch does not compare them


def as_tensor(labels: Any) -> torch.Tensor | None:
    """Return labels of any form as a tensor; torch.as_tensor would follow the default device."""
    if labels is None:
        return None
    found = labels.detach() if isinstance(labels, torch.Tensor) else torch.from_numpy(np.array(labels))
    return found.to(torch.int64) if found.dtype in _UNORDERED else found


def as_samples(output: torch.Tensor, unit_dim: int) -> torch.Tensor:
    """Lay an output out as [sample, unit]; one dimension means one unit per sample."""
    if output.dim() < 2:
        return output.reshape(-1, 1)
    return output.movedim(unit_dim, -1).reshape(-1, output.shape[unit_dim])


def is_hot(shape: Sequence[int], samples: int, units: int, unit_dim: int) -> bool:
    """Say whether labels of this shape are 0/1 for each output, rather than one for each sample.

    Raises
    ------
    ValueError
        If the labels fit neither the samples nor the outputs.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size == samples:
        return False
    if len(shape) > 1 and shape[unit_dim] == units and size == samples * units:
        return True
    raise ValueError(
        f"labels of shape {tuple(shape)} do not fit a head of {samples} samples and {units} units: "
        f"expected {samples} class indices, or 0/1 for each of the {samples * units} outputs"
    )


def as_whole(labels: torch.Tensor) -> torch.Tensor | None:
    """Copy labels in CPU memory to int64; None for the float targets of a regression."""
    is_label = (labels == 0) | (labels == 1) | (labels == NO_LABEL)
    if labels.is_floating_point() and not bool(is_label.all()):
        return None
    return labels.to(torch.int64, copy=True)


def as_labels(labels: torch.Tensor, shape: tuple[int, int], unit_dim: int) -> NDArray[np.int64] | None:
    """Bring the labels of a batch into the form of the store.

    Parameters
    ----------
    labels : torch.Tensor
        Class indices, one per sample in any shape; 0/1 per sample for one unit; or 0/1 per sample
        and unit, shaped like the output. -100 means none.
    shape : (int, int)
        Samples and units of the head.
    unit_dim : int
        Dimension of the units in the head's output.

    Returns
    -------
    numpy.ndarray or None
        int64 [sample], or [sample, unit] for 0/1 per unit; None for the float targets of a
        regression, which say neither YES nor NO.

    Raises
    ------
    ValueError
        If the labels fit neither the samples nor the outputs.
    """
    values = as_whole(labels.cpu())
    if values is None:
        return None
    if is_hot(values.shape, *shape, unit_dim):
        return as_samples(values, unit_dim).numpy()
    return values.reshape(-1).numpy()


def say_if_beyond(highest: int, units: int) -> str | None:
    """Say what is wrong with class indices of which the highest is this one; None where all fit the units."""
    if units == 1 or highest < units:  # one unit may predict any number
        return None
    return (
        f"labels up to {highest} do not fit a head of {units} units: expected class indices from 0 to "
        f"{units - 1}, or -100 for none; samples with any other are taken for unlabelled"
    )


def targets_of(labels: torch.Tensor, shape: Sequence[int], unit_dim: int) -> Deferred[str]:
    """Say what labels are to a head, without waiting for the device they are on.

    Parameters
    ----------
    labels : torch.Tensor
        Those of a batch, of any shape.
    shape : sequence of int
        Shape of the head's output.
    unit_dim : int
        Dimension of the units in it.

    Returns
    -------
    Deferred of str
        "binary" (0 and 1 for one unit), "multi-hot" (0 and 1 for each of several units), "classes"
        (indices, or shares of the classes that add up to 1) or "float" (the targets of a regression,
        even if they are whole numbers).
    """
    units = shape[unit_dim] if len(shape) > 1 else 1
    is_each = len(shape) == labels.dim() > 1 and labels.shape[unit_dim] == units > 1
    is_float = labels.is_floating_point()
    none = labels == NO_LABEL if is_float else labels < 0
    tests = [((labels == 0) | (labels == 1) | none).all()]
    if is_float and is_each:
        is_share = (labels >= 0).all() & ((labels.sum(unit_dim) - 1).abs() < _NEARLY).all()
        tests.append(is_share)

    def read(found: list[torch.Tensor]) -> str:
        is_hot, *is_share = map(bool, found)
        if is_hot and (is_each or units == 1):
            return "multi-hot" if is_each else "binary"
        is_index = units > 1 and not is_each and (is_hot or not is_float)
        return "classes" if is_index or any(is_share) else "float"

    return Deferred(tests, read)
