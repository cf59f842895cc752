"""What a module returns: the tensors in it, and what of a tensor can be counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence

__all__ = ["Part", "in_backward", "members", "parts"]

_functorch: Any = torch._C._functorch


class Part(NamedTuple):
    """Countable values of one tensor, or the reason why there are none.

    `zeros` are exact zeros beside `values`, those that a sparse tensor of this `shape` does not store.
    """

    suffix: str
    values: torch.Tensor | None
    zeros: int = 0
    shape: tuple[int, ...] | None = None
    reason: str = ""


def members(output: object, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    """Open an output: each tensor in it with its suffix, "" for a plain tensor.

    Tuples and lists give `:0`, `:1`; mappings, named tuples and dataclasses `:key`; nested ones
    `:1:0`. A `PackedSequence` counts as its data, a `DTensor` as the part that is this rank's own.
    What is no tensor is passed over. No generators: torch.compile traces this.
    """
    if isinstance(output, torch.Tensor):
        if hasattr(output, "to_local"):
            local = _own_part(output)
            return [] if local is None else [(prefix, local)]
        return [(prefix, output.values() if output.layout is torch.jagged else output)]
    if isinstance(output, PackedSequence):
        return [(prefix, output.data)]
    found = []
    for key, member in _items(output):
        found += members(member, f"{prefix}:{key}")
    return found


def _items(output: object) -> Iterable[tuple[object, object]]:
    """Return the keys and members of a container, nothing for any other object."""
    if isinstance(output, Mapping):
        return list(output.items())
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return list(zip(output._fields, output, strict=True))
    if isinstance(output, tuple | list):
        return list(enumerate(output))
    if is_dataclass(output) and not isinstance(output, type):
        names = [field.name for field in fields(output)]
        return [(name, getattr(output, name)) for name in names if hasattr(output, name)]
    return []


def _own_part(tensor: Any) -> torch.Tensor | None:
    """Return this rank's shard of a DTensor; of a replicated one only the first copy counts."""
    place = tensor.device_mesh.get_coordinate()
    if place is None:
        return None
    for dim, placement in enumerate(tensor.placements):
        if placement.is_partial() or (placement.is_replicate() and place[dim] > 0):
            return None
    local: torch.Tensor = tensor.to_local()
    return local


def parts(suffix: str, tensor: torch.Tensor) -> list[Part]:
    """Return what can be counted of a tensor: real floating-point values in memory.

    A complex tensor has two parts, `:real` and `:imag`; a sparse one its stored values and its
    zeros; a nested one the values of its parts, joined. Integers, booleans and quantised values are
    not counted, nor are tensors without memory of their own.
    """
    if _functorch.is_functorch_wrapped_tensor(tensor):
        return parts(suffix, _unwrapped(tensor))
    is_plain = tensor.__class__ is torch.Tensor and tensor.layout is torch.strided
    if is_plain and tensor.is_floating_point() and not (tensor.is_meta or tensor.is_nested):
        return [Part(suffix, tensor.detach())]
    return _odd_parts(suffix, tensor)


def _odd_parts(suffix: str, tensor: torch.Tensor) -> list[Part]:
    """Return the parts of a tensor that is not simply an array of floats."""
    if tensor.is_meta or type(tensor).__name__ in ("FakeTensor", "FunctionalTensor"):
        return []
    tensor = tensor.detach()
    if tensor.is_quantized or not (tensor.is_floating_point() or tensor.is_complex()):
        return [Part(suffix, None, reason=f"its output is {str(tensor.dtype).removeprefix('torch.')}")]
    if tensor.is_nested:
        pieces = list(tensor.unbind())
        if len({piece.shape[1:] for piece in pieces}) != 1:
            pieces = [piece.reshape(-1) for piece in pieces] or [torch.empty(0, dtype=tensor.dtype)]
        found = parts(suffix, torch.cat(pieces))
    elif tensor.layout is not torch.strided:
        # Twice the same index means the sum of both.
        stored = tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor.values()
        zeros = prod(tensor.shape) - stored.numel()
        found = [part._replace(zeros=zeros, shape=tensor.shape) for part in parts(suffix, stored)]
    elif tensor.is_complex():
        pair = torch.view_as_real(tensor.resolve_conj()).unbind(-1)
        found = [Part(f"{suffix}:{name}", half) for name, half in zip(("real", "imag"), pair, strict=True)]
    elif type(tensor) is not torch.Tensor:
        plain = tensor.as_subclass(torch.Tensor)
        kind = type(plain)
        reason = f"its output is a {kind.__name__}, whose values are not its own"
        found = parts(suffix, plain) if kind is torch.Tensor else [Part(suffix, None, reason=reason)]
    else:
        found = [Part(suffix, tensor)]
    return found


def _unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole tensor behind what torch.func's vmap or grad shows to the module."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def in_backward() -> bool:
    """Say whether autograd runs: gradient checkpointing then repeats forwards that were recorded.

    A private name, but the one that `torch.utils.module_tracker` and FSDP2 ask as well.
    """
    return bool(torch._C._current_graph_task_id() != -1)
