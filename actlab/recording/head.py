"""The head: which layer makes the model's output, and its raw values beside their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.multiprocessing import reductions
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.loss import _Loss

from actlab.recording.hooks import Site, is_countable, members

# Keeps a storage's identity without its memory: an address alone may be used again.
_StorageWeakRef: Any = reductions.StorageWeakRef

__all__ = ["MAX_RAW_VALUES", "NO_LABEL", "Head", "as_labels", "as_samples"]

MAX_RAW_VALUES = 8192
_MAX_LATER_VALUES = 16 * MAX_RAW_VALUES
NO_LABEL = -100

_SKIPPED = (_Loss, _DropoutNd, nn.Identity, nn.Softmax, nn.Softmax2d, nn.LogSoftmax)


@dataclass(frozen=True)
class _Candidate:
    """A leaf's output of the first forward: where it lies, and a copy if it may be kept."""

    name: str
    site: Site
    storage: Any
    values: torch.Tensor | None

    @property
    def has_parameters(self) -> bool:
        """Whether the leaf learns."""
        return self.site.module is not None and any(True for _ in self.site.module.parameters())


class Head:
    """Find the head in the first forward and keep its raw outputs, one batch at a time.

    The head is the last called leaf whose floating, non-scalar output is the model's output or
    shares its storage, losses, Identity, Dropout and Softmax left out; failing that, the last
    called leaf with parameters. Of several members of its output the head is the first returned.
    Its values are kept raw where the first batch has at most 8,192, and float32 holds them exactly;
    a later batch that is over 16 times as large, or not exact in float32, is not kept.

    Parameters
    ----------
    name : str or None
        The head's layer name if it is given; None to find it.
    keep : bool
        Whether raw values are wanted at all.
    """

    def __init__(self, name: str | None, *, keep: bool) -> None:
        self.name = name
        self.unit_dim: int | None = None
        self._keep = keep
        self._is_decided = False
        self._site: Site | None = None
        self._n_units = 0
        self._candidates: list[_Candidate] = []
        self._outputs: list[torch.Tensor | None] = []

    def see(self, site: Site, suffix: str, tensor: torch.Tensor) -> None:
        """Look at one output of a layer, at the moment of its call."""
        name = site.name + suffix
        if suffix and self.name == site.name:
            self.name = name  # a head given by its module: the first member of its output
        if name == self.name:
            self._site = site
            if self._keep:
                self._outputs.append(_copy(tensor, _MAX_LATER_VALUES))
        elif self.name is None and _may_be_head(site) and tensor.dim() > 0:
            values = _copy(tensor, MAX_RAW_VALUES) if self._keep else None
            self._candidates.append(_Candidate(name, site, _StorageWeakRef(tensor.untyped_storage()), values))

    def find(self, output: object) -> None:
        """Settle on the head, knowing what the model returned (None where that is not known)."""
        returned = [
            _StorageWeakRef(tensor.untyped_storage())
            for _, tensor in members(output)
            if is_countable(tensor) and tensor.dim() > 0
        ]
        made = [each for each in self._candidates if each.storage in returned]
        if chosen := made or [each for each in self._candidates if each.has_parameters]:
            self._site = chosen[-1].site
            outputs = [each for each in chosen if each.site is self._site]
            self.name = min(outputs, key=lambda each: returned.index(each.storage) if made else 0).name
            self._outputs = [each.values for each in self._candidates if each.name == self.name]
            self._keep = self._keep and all(values is not None for values in self._outputs)
        self._candidates = []

    def take(self, labels: object) -> NDArray[np.float32] | None:
        """Return the raw outputs [sample, unit] of the batch, None where none are kept.

        Parameters
        ----------
        labels : object
            The labels of the batch or None: their shape tells class-first outputs.

        Raises
        ------
        ValueError
            If the number of units is not that of the first batch.
        """
        copies, self._outputs = self._outputs, []
        outputs = [copy for copy in copies if copy is not None]
        n = sum(output.numel() for output in outputs)
        is_whole = len(outputs) == len(copies) and n <= _MAX_LATER_VALUES
        if not copies:
            return None
        if not self._is_decided:
            self._is_decided = True
            self._keep = self._keep and is_whole and n <= MAX_RAW_VALUES
            self.unit_dim = self._find_unit_dim(outputs[0], labels) if outputs else None
        if not self._keep or not is_whole or self.unit_dim is None:
            return None
        samples = [as_samples(output, self.unit_dim) for output in outputs]
        self._n_units = self._n_units or samples[0].shape[1]
        if any(each.shape[1] != self._n_units for each in samples):
            raise ValueError(f"head {self.name!r} has {samples[0].shape[1]} units, earlier {self._n_units}")
        return torch.cat(samples).numpy()

    def drop(self) -> None:
        """Keep nothing from now on: the head is not among the recorded layers."""
        self._keep, self._outputs = False, []

    def clear(self) -> None:
        """Forget the batch that was not completed."""
        self._outputs, self._candidates = [], []

    def _find_unit_dim(self, output: torch.Tensor, labels: object) -> int:
        """Return the dimension of the units: 1 for [N, C, ...], else -1 for the last."""
        shape = tuple(output.shape)
        if self._site is not None and isinstance(self._site.module, _ConvNd):
            return len(shape) - 1 - len(self._site.module.kernel_size)
        shape_of_labels = tuple(getattr(labels, "shape", ()))
        is_class_first = len(shape) > 2 and shape_of_labels == (shape[0], *shape[2:]) != shape[:-1]
        return 1 if is_class_first else -1


def as_samples(output: torch.Tensor, unit_dim: int) -> torch.Tensor:
    """Lay an output out as [sample, unit]; one dimension means one unit per sample."""
    if output.dim() == 1:
        return output.unsqueeze(1)
    return output.movedim(unit_dim, -1).reshape(-1, output.shape[unit_dim])


def as_labels(labels: Any, shape: tuple[int, int], unit_dim: int) -> NDArray[np.int64] | None:
    """Bring the labels of a batch into the form of the store.

    Parameters
    ----------
    labels : array_like
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
    values = torch.as_tensor(labels).detach().cpu()
    if values.is_floating_point() and not bool(((values == 0) | (values == 1) | (values == NO_LABEL)).all()):
        return None
    values = values.to(torch.int64, copy=True)
    samples, units = shape
    if values.numel() == samples:
        return values.reshape(-1).numpy()
    if values.dim() > 1 and values.shape[unit_dim] == units and values.numel() == samples * units:
        return as_samples(values, unit_dim).numpy()
    raise ValueError(
        f"labels of shape {tuple(values.shape)} do not fit a head of {samples} samples and {units} units: "
        f"expected {samples} class indices, or 0/1 for each of the {samples * units} outputs"
    )


def _copy(tensor: torch.Tensor, limit: int) -> torch.Tensor | None:
    """Copy values to float32 in CPU memory, before an in-place operation can change them.

    None where there are more than `limit`, or float32 does not hold them exactly.
    """
    if tensor.numel() > limit:
        return None
    values = tensor.detach()
    copy = values.to("cpu", torch.float32, copy=True)
    if values.dtype == torch.float64:
        values = values.cpu()
        if not bool(((copy == values) | values.isnan()).all()):
            return None
    return copy


def _may_be_head(site: Site) -> bool:
    """Say whether a site is a leaf module that makes outputs of its own."""
    return site.module is not None and site.is_leaf and not isinstance(site.module, _SKIPPED)
