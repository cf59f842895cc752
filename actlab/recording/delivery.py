"""What a batch leaves on a device, on its way to the host: training does not wait for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from actlab.recording.histogram.transfer import Transfer

__all__ = ["Deferred", "Delivery", "to_number"]

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


def to_number(value: Any) -> float | Delivery[float]:
    """Return a logged value as a number, at once or from its device; text is none, even a numeral."""
    if isinstance(value, str | bytes | bytearray):
        raise TypeError(f"expected a number, got {value!r}")
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError(f"expected one number, got a tensor of shape {tuple(value.shape)}")
        if value.device.type != "cpu":
            return Delivery(Deferred([value.detach().clone()], _number_of))
        return float(value.detach())
    return float(value)


def _number_of(tensors: list[torch.Tensor]) -> float:
    """Return the number in the first tensor."""
    return float(tensors[0])
