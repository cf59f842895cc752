"""The head: which layer makes the model's output, and its raw values beside their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.multiprocessing import reductions
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.loss import _Loss

from actlab.axis import FloatAxis
from actlab.recording.delivery import Deferred
from actlab.recording.labels import as_samples
from actlab.recording.large_head import HeadBlock, LargeHead
from actlab.recording.sites import Site
from actlab.recording.tally import Key

# Keeps a storage's identity without its memory: an address alone may be used again.
_StorageWeakRef: Any = reductions.StorageWeakRef

__all__ = ["MAX_RAW_VALUES", "Head"]

MAX_RAW_VALUES = 8192
_MAX_LATER_VALUES = 16 * MAX_RAW_VALUES

_PASSED = (_DropoutNd, nn.Identity, nn.Softmax, nn.Softmax2d, nn.LogSoftmax)


@dataclass(frozen=True)
class _Candidate:
    """A leaf's output of the first forward: where it lies, and a copy if it may be kept."""

    key: Key
    storage: Any
    version: int
    shape: torch.Size
    values: torch.Tensor | None

    @property
    def has_parameters(self) -> bool:
        """Whether the leaf learns."""
        module = self.key[0].module
        return module is not None and any(True for _ in module.parameters())

    @property
    def is_passed(self) -> bool:
        """Whether the leaf says the answer of the one before it in other words."""
        return isinstance(self.key[0].module, _PASSED)


class Head:
    """Find the head in the first forward and keep its raw outputs, one batch at a time.

    The head is the last called leaf whose floating, non-scalar output is the model's output or
    shares its storage, losses, Identity, Dropout and Softmax left out; failing that, an Identity which
    alone has that output (as where a mask is added by hand before it); failing that, the last called
    leaf with parameters, of those that have as many units as the output if there are any; where there
    are none, labels are not those of the head. Of several members of its output the head is the first
    returned.
    Its values are kept raw where the first batch has at most 8,192, and float32 holds them exactly;
    a later batch that is over 16 times as large, or not exact in float32, is not kept. Where the
    first batch has more, a `LargeHead` counts them by unit and by YES and NO.

    Parameters
    ----------
    name : str or None
        The head's layer name if it is given; None to find it.
    axis : FloatAxis
        The recording axis.
    keep : bool
        Whether raw values are wanted at all.

    Attributes
    ----------
    has_labels : bool
        Whether the labels of a batch may be those of the head's outputs.
    """

    def __init__(self, name: str | None, axis: FloatAxis, *, keep: bool) -> None:
        self.key: Key | None = None
        self.unit_dim: int | None = None
        self.has_labels = True
        self._given = name
        self._axis = axis
        self._keep = keep
        self._is_decided = False
        self._large: LargeHead | None = None
        self._labels: torch.Tensor | None = None
        self._n_units = 0
        self._candidates: list[_Candidate] = []
        self._outputs: list[torch.Tensor | None] = []
        self._n = 0

    @property
    def is_sought(self) -> bool:
        """Whether outputs of all leaves are to be shown to `see`."""
        return self.key is None

    @property
    def is_large(self) -> bool:
        """Whether it is counted instead of kept, its labels with it."""
        return self._large is not None

    def go_on(self, unit_dim: int, *, is_large: bool) -> None:
        """Keep what the run keeps that goes on, whatever the first batch is like."""
        self._is_decided, self.unit_dim = True, unit_dim
        self._large = LargeHead(self._axis, unit_dim) if is_large and self._keep else None

    def begin(self, labels: torch.Tensor | None) -> None:
        """Take the labels of the batch that begins, or None."""
        self._labels = labels if self.has_labels else None

    def see(self, key: Key, tensor: torch.Tensor) -> None:
        """Look at one output of a layer, at the moment of its call."""
        if self.key is None and self._given is not None and self._is_given(key):
            self.key = key
        if key == self.key:
            if self._keep:
                self._take_in(tensor)
        elif self.key is None and self._given is None and _may_be_head(key[0]) and tensor.dim() > 0:
            values = _copy(tensor, MAX_RAW_VALUES) if self._keep else None
            storage = _StorageWeakRef(tensor.untyped_storage())
            self._candidates.append(_Candidate(key, storage, _version(tensor), tensor.shape, values))

    def find(self, returned: Sequence[torch.Tensor]) -> None:
        """Settle on the head, knowing what the model returned (nothing where that is not known)."""
        if self._given is not None:
            return
        storages = [_StorageWeakRef(tensor.untyped_storage()) for tensor in returned if tensor.dim() > 0]
        made = _makers([each for each in self._candidates if each.storage in storages])
        learning = [each for each in self._candidates if each.has_parameters]
        alike = [each for each in learning if any(_has_units(tensor, each) for tensor in returned)]
        if chosen := made or alike or learning:
            self.has_labels = bool(made or alike) or all(tensor.dim() < 2 for tensor in returned)
            self._labels = self._labels if self.has_labels else None
            outputs = [each for each in chosen if each.key[:2] == chosen[-1].key[:2]]
            first = min(outputs, key=lambda each: storages.index(each.storage) if made else 0)
            self.key = first.key
            for each in self._candidates:
                if each.key == self.key and self._keep:
                    values = each.values if each.values is not None else _untouched(each, returned)
                    if values is None:
                        self._become_large(each.shape)
                    else:
                        self._take_in(values)
        self._candidates = []

    def take(self) -> Deferred[HeadBlock] | None:
        """Return what is kept of the batch, None where nothing is.

        Raises
        ------
        ValueError
            If the number of units is not that of the first batch.
        """
        outputs, self._outputs, self._n = self._outputs, [], 0
        if self._large is not None:
            return self._large.take()
        copies = [output for output in outputs if output is not None]
        if not copies or len(copies) < len(outputs) or sum(map(torch.numel, copies)) > _MAX_LATER_VALUES:
            self._is_decided = self._is_decided or bool(outputs)
            return None
        self._is_decided = True
        unit_dim = self._settle_unit_dim(copies[0].shape)
        samples = [as_samples(copy, unit_dim) for copy in copies]
        is_first, self._n_units = self._n_units == 0, self._n_units or samples[0].shape[1]
        if any(each.shape[1] != self._n_units for each in samples):
            raise ValueError(f"the head has {samples[0].shape[1]} units, earlier {self._n_units}")
        return Deferred(samples, partial(self._raw_block, is_first))

    def check_labels(self) -> None:
        """Raise what was wrong with the labels of the batch, where they were looked at already.

        Raises
        ------
        ValueError
            If the labels do not fit the outputs.
        """
        if self._large is not None:
            self._large.check_labels()

    def drop(self) -> None:
        """Keep nothing from now on: the head is not among the recorded layers."""
        self._keep, self._large, self._outputs = False, None, []

    def clear(self) -> None:
        """Forget the batch that was not completed."""
        self._outputs, self._candidates, self._n = [], [], 0
        if self._large is not None:
            self._large.clear()

    def _is_given(self, key: Key) -> bool:
        """Say whether an output is that of the given head; of several members it is the first."""
        site, _, suffix = key
        return self._given in (site.name, site.name + suffix)

    def _take_in(self, tensor: torch.Tensor) -> None:
        """Keep one output of the head: its values, or its counts where there are too many."""
        self._n += tensor.numel()
        if not self._is_decided and self._n > MAX_RAW_VALUES:
            self._become_large(tensor.shape)
        if self._large is not None:
            self._large.add(tensor, self._labels)
        else:
            self._outputs.append(_copy(tensor, _MAX_LATER_VALUES))

    def _become_large(self, shape: Sequence[int]) -> None:
        """Count from now on, and what was kept of this batch so far."""
        self._is_decided = True
        self._large = self._large or LargeHead(self._axis, self._settle_unit_dim(shape))
        earlier, self._outputs = self._outputs, []
        for output in earlier:
            if output is not None:
                self._large.add(output, self._labels)

    def _raw_block(self, is_first: bool, samples: list[torch.Tensor]) -> HeadBlock:
        """Join the samples of a batch [sample, unit]; nothing where float32 does not hold them."""
        values = torch.cat(samples)
        exact = values.to(torch.float32)
        if values.dtype == torch.float64 and not bool(((exact == values) | values.isnan()).all()):
            self._keep = self._keep and not is_first
            return HeadBlock()
        return HeadBlock(exact.numpy())

    def _settle_unit_dim(self, shape: Sequence[int]) -> int:
        """Return the dimension of the units: 1 for [N, C, ...], else -1 for the last."""
        if self.unit_dim is None:
            if self.key is not None and (channel := _channel_dim(self.key, shape)) is not None:
                self.unit_dim = channel
            else:
                given = () if self._labels is None else tuple(self._labels.shape)
                is_class_first = len(shape) > 2 and given == (shape[0], *shape[2:]) != tuple(shape[:-1])
                self.unit_dim = 1 if is_class_first else -1
        return self.unit_dim


def _copy(tensor: torch.Tensor, limit: int) -> torch.Tensor | None:
    """Copy values where they are, before an in-place operation can change them; None above `limit`."""
    if tensor.numel() > limit:
        return None
    return tensor.detach().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32, copy=True)


def _version(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed in place; inference tensors do not tell."""
    return -1 if tensor.is_inference() else tensor._version


def _untouched(candidate: _Candidate, returned: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return the candidate's output as the model returned it, unless it may have been changed since."""
    for tensor in returned:
        if (
            tensor.shape == candidate.shape
            and candidate.storage == _StorageWeakRef(tensor.untyped_storage())
            and candidate.version == _version(tensor) != -1
        ):
            return tensor.detach()
    return None


def _makers(candidates: list[_Candidate]) -> list[_Candidate]:
    """Leave out whoever only passes an output on, unless nobody is known to have made it."""
    if made := [each for each in candidates if not each.is_passed]:
        return made
    is_only_passed = all(isinstance(each.key[0].module, nn.Identity) for each in candidates)
    return candidates if is_only_passed else []


def _channel_dim(key: Key, shape: Sequence[int]) -> int | None:
    """Return the dimension of a convolution's channels; None for other modules."""
    module = key[0].module
    return len(shape) - 1 - len(module.kernel_size) if isinstance(module, _ConvNd) else None


def _has_units(tensor: torch.Tensor, candidate: _Candidate) -> bool:
    """Say whether what the model returned has the candidate's units; it may have been resized."""
    channel = _channel_dim(candidate.key, candidate.shape)
    unit_dim = -1 if channel is None else channel
    return tensor.dim() == len(candidate.shape) and tensor.shape[unit_dim] == candidate.shape[unit_dim]


def _may_be_head(site: Site) -> bool:
    """Say whether a site is a leaf module, and no loss."""
    return site.module is not None and site.is_leaf and not isinstance(site.module, _Loss)
