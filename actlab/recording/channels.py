"""Channels: share of zeros and mean |a| of every unit, now and then, to tell dead from resting."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from actlab.recording.delivery import Deferred
from actlab.recording.sites import Site
from actlab.recording.tally import Key
from actlab.store.side import ChannelStats

__all__ = ["Channels"]

MOST_OF_A_LAYER = 8192
"""Of one layer; those with more have none."""

EVERY = 32
"""Rows of a split between two that have channels: they cost several times what counting costs."""

_SOONEST = 8  # rows before the first one of a new epoch has channels again


class Channels:
    """Sum up, per channel, what a batch produces, in the rows for which it is switched on."""

    def __init__(self) -> None:
        self.is_on = False
        self._last: dict[str, tuple[int, int]] = {}
        self._dims: dict[tuple[int, ...], int] = {}
        self._sizes: dict[Key, int] = {}
        self._sums: dict[tuple[Key, torch.device], torch.Tensor] = {}

    def begin(self, split: str, row: int, epoch: int) -> None:
        """Switch on or off for the recorded row of this number and epoch."""
        last, last_epoch = self._last.get(split, (-EVERY, epoch))
        since = row - last
        self.is_on = since >= EVERY or (epoch != last_epoch and since >= _SOONEST)
        if self.is_on:
            self._last[split] = row, epoch
        self._dims.clear()

    def add(self, key: Key, tensor: torch.Tensor) -> None:
        """Add number, zeros, finite number and sum of |a| [4, channel] of one output of a layer."""
        dim = self._channel_dim(key[0], tensor) if self.is_on else None
        if dim is None or tensor.numel() == 0 or (size := tensor.shape[dim]) > MOST_OF_A_LAYER:
            return
        if size != self._sizes.setdefault(key, size):
            return
        others = [other for other in range(tensor.dim()) if other != dim % tensor.dim()]
        values = tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.to(torch.float32)
        size_abs, infinite = values.abs(), math.inf
        finite = size_abs < infinite
        rows = [
            (values == 0).sum(others, dtype=torch.float64),
            finite.sum(others, dtype=torch.float64),
            torch.where(finite, size_abs, 0).sum(others, dtype=torch.float64),
        ]
        number = torch.full_like(rows[0], tensor.numel() // size)
        sums = torch.stack([number, *rows])
        place = (key, tensor.device)  # a module may be called on several
        self._sums[place] = self._sums[place] + sums if place in self._sums else sums

    def take(self, name_of: Callable[[Key], str]) -> Deferred[ChannelStats] | None:
        """Return what was summed up in the batch, None where it was switched off."""
        sums, self._sums = self._sums, {}
        if not sums:
            return None
        sizes = [(name_of(key), size) for key, size in self._sizes.items()]
        return Deferred(list(sums.values()), partial(_stats, sizes, [name_of(key) for key, _ in sums]))

    def clear(self) -> None:
        """Forget the batch."""
        self._sums = {}

    def _channel_dim(self, site: Site, tensor: torch.Tensor) -> int | None:
        """Return the dimension of the channels.

        Convolutions and normalisations tell, those of Keras by `data_format`; an activation after them has
        the shape of their output.
        Else it is 1 for images and volumes, and the last one for tables and sequences.
        """
        shape, module = tuple(tensor.shape), site.module
        if isinstance(module, _ConvNd):
            self._dims[shape] = len(shape) - 1 - len(module.kernel_size)
        elif isinstance(module, _NormBase | nn.GroupNorm):
            self._dims[shape] = 1
        elif (order := getattr(module, "data_format", None)) in ("channels_first", "channels_last"):
            self._dims[shape] = 1 if order == "channels_first" else len(shape) - 1
        elif isinstance(module, nn.Linear | nn.LayerNorm):
            self._dims[shape] = len(shape) - 1
        if len(shape) < 2:
            return None
        return self._dims.get(shape, 1 if len(shape) > 3 else len(shape) - 1)


def _stats(sizes: list[tuple[str, int]], names: list[str], sums: list[torch.Tensor]) -> ChannelStats:
    """Lay the sums of a batch out over all layers that ever had channels."""
    found = {name: np.zeros((4, size)) for name, size in sizes}
    for name, each in zip(names, sums, strict=True):
        found[name] += each.numpy()
    flat = np.concatenate([found[name] for name, _ in sizes], 1)
    number, zeros, finite, total = flat
    with np.errstate(invalid="ignore"):
        mean_abs = (total / finite).view(np.int64)
    # Seven digits tell a dormant channel, and take half the room on disk.
    mean_abs = (mean_abs & -(1 << 29)).view(np.float64)
    layers, lengths = zip(*sizes, strict=True)
    return ChannelStats(layers, lengths, number.astype(np.uint64), zeros.astype(np.uint64), mean_abs)
