"""Raw outputs of chosen layers, batch by batch, with their places in the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import torch

from actlab.recording.delivery import Deferred
from actlab.recording.labels import as_whole
from actlab.recording.tally import Key
from actlab.store.side import RawSamples

__all__ = ["Samples"]

_KEPT = {torch.float16, torch.float32, torch.float64}


class Samples:
    """Keep the outputs of the layers that match a pattern, whole or some samples of each batch.

    Parameters
    ----------
    patterns : sequence of str
        fnmatch patterns on the layer's name.
    dtype : torch.dtype or None
        The dtype kept; None is the output's own, float32 for narrower ones that numpy does not have.
    most : int or None
        At most so many samples of each call, evenly spread over it; None keeps all.
    """

    def __init__(self, patterns: Sequence[str], dtype: torch.dtype | None, most: int | None) -> None:
        self._patterns = tuple(patterns)
        self._dtype = dtype
        self._most = most
        self._wanted: dict[Key, bool] = {}
        self._kept: dict[Key, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._seen: dict[Key, int] = {}
        self._spoiled: set[Key] = set()

    @property
    def is_wanted(self) -> bool:
        """Whether any layer is kept."""
        return bool(self._patterns)

    def add(self, key: Key, tensor: torch.Tensor) -> None:
        """Keep one output of a layer, if it is wanted; its first dimension is that of the samples."""
        if not self._wants(key) or tensor.dim() == 0:
            return
        total, start = tensor.shape[0], self._seen.get(key, 0)
        self._seen[key] = start + total
        place = torch.arange(total)
        if self._most is not None and total > self._most:
            place = torch.linspace(0, total - 1, self._most, dtype=torch.float64).round().to(torch.int64)
            tensor = tensor.detach().index_select(0, place.to(tensor.device, non_blocking=True))
        dtype = self._dtype or (tensor.dtype if tensor.dtype in _KEPT else torch.float32)
        kept = tensor.detach().to(dtype, copy=True)
        calls = self._kept.setdefault(key, [])
        calls.append((kept, start + place))
        if kept.shape[1:] != calls[0][0].shape[1:]:
            self._spoiled.add(key)
            raise ValueError(f"a sample is {tuple(kept.shape[1:])}, earlier {tuple(calls[0][0].shape[1:])}")

    def take(
        self, name_of: Callable[[Key], str], labels: torch.Tensor | None
    ) -> Deferred[dict[str, RawSamples]] | None:
        """Return what was kept of the batch, with the labels of the samples where there is one for each."""
        kept = {key: calls for key, calls in self._kept.items() if key not in self._spoiled}
        seen = self._seen
        self.clear()
        if not kept:
            return None
        values = [torch.cat([each for each, _ in calls]) for calls in kept.values()]
        places = [torch.cat([place for _, place in calls]).numpy() for calls in kept.values()]
        totals, names = [seen[key] for key in kept], [name_of(key) for key in kept]
        given = [] if labels is None else [labels.clone()]
        return Deferred([*values, *given], partial(_blocks, names, places, totals))

    def clear(self) -> None:
        """Forget the batch."""
        self._kept, self._seen, self._spoiled = {}, {}, set()

    def _wants(self, key: Key) -> bool:
        if key not in self._wanted:
            names = (key[0].name, key[0].name + key[2])
            self._wanted[key] = any(
                fnmatchcase(name, pattern) for name in names for pattern in self._patterns
            )
        return self._wanted[key]


def _blocks(
    names: list[str], places: list[Any], totals: list[int], tensors: list[torch.Tensor]
) -> dict[str, RawSamples]:
    """Give the samples the form of the store."""
    labels = tensors[len(names)] if len(tensors) > len(names) else None
    blocks = {}
    for name, place, total, values in zip(names, places, totals, tensors[: len(names)], strict=True):
        blocks[name] = RawSamples(values.numpy(), place.astype(np.int64), _labels_at(labels, place, total))
    return blocks


def _labels_at(labels: torch.Tensor | None, place: Any, total: int) -> Any:
    """Return the labels of some samples, if there is one (or one row) for each of the batch."""
    if labels is None or labels.dim() not in (1, 2) or len(labels) != total:
        return None
    whole = as_whole(labels)
    return None if whole is None else whole.numpy()[place]
