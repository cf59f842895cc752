"""Counts of a tensor apart by group: by output unit and YES or NO, say."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.recording.histogram import cpu_kernel
from actlab.recording.histogram.cpu import KINDS, address_of, limits, pieces

__all__ = ["count_groups"]


def count_groups(
    values: torch.Tensor | NDArray[Any],
    groups: torch.Tensor | NDArray[np.int64],
    axis: FloatAxis,
    out: NDArray[np.uint64],
) -> None:
    """Add each value of a tensor to the counts of its group.

    Parameters
    ----------
    values : torch.Tensor or numpy.ndarray
        Floating-point values of any shape, memory layout and device; never changed.
    groups : torch.Tensor or numpy.ndarray
        int64, a group for each value, in C order; a value with a negative one is not counted.
    axis : FloatAxis
        The recording axis.
    out : numpy.ndarray
        uint64 [group, bucket]; added to.

    Raises
    ------
    ValueError
        If the groups are not as many as the values, or one is beyond `out`; nothing is counted then.
    TypeError
        If the tensor has no memory of its own, see `address_of`.
    """
    tensor = torch.as_tensor(values).detach()
    numbers = torch.as_tensor(groups).reshape(-1).numpy(force=True)
    if numbers.size != tensor.numel():
        raise ValueError(f"expected a group for each of {tensor.numel()} values, got {numbers.size}")
    if numbers.max(initial=-1) >= len(out):
        raise ValueError(f"expected groups below {len(out)}, got {numbers.max()}")
    start = 0
    for piece in pieces(tensor):
        part = numbers[start : start + piece.numel()]
        edges = limits(axis, piece.dtype)
        cpu_kernel.add_to_groups(KINDS[piece.dtype], address_of(piece), part, edges, out)
        start += piece.numel()
