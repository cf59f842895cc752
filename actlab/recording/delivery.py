"""What a batch leaves on a device, on its way to the host: training does not wait for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from actlab.recording.histogram.transfer import Transfer

__all__ = ["Deferred", "Delivery"]

T = TypeVar("T")


@dataclass
class Deferred(Generic[T]):
    """A result that is made of tensors once they are in CPU memory.

    The tensors belong to it: nobody changes them any more.
    """

    tensors: Sequence[torch.Tensor]
    build: Callable[[list[torch.Tensor]], T]


class Delivery(Generic[T]):
    """A `Deferred` on its way: its tensors are being copied."""

    def __init__(self, deferred: Deferred[T]) -> None:
        self._build = deferred.build
        self._transfer = Transfer(deferred.tensors)

    def is_ready(self) -> bool:
        """Say whether `result` would not have to wait."""
        return self._transfer.is_ready()

    def result(self) -> T:
        """Build the result, waiting for the copies if it must."""
        return self._build(self._transfer.result())
