"""Samples and labels: how the outputs of a head and the labels of a batch belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["NO_LABEL", "as_labels", "as_samples", "as_tensor", "as_whole", "is_hot"]

NO_LABEL = -100


def as_tensor(labels: Any) -> torch.Tensor | None:
    """Return labels of any form as a tensor; torch.as_tensor would follow the default device."""
    if labels is None or isinstance(labels, torch.Tensor):
        return None if labels is None else labels.detach()
    return torch.from_numpy(np.array(labels))


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
