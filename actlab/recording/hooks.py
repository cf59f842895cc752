"""Which tensors are recorded: the layers of a model, the members of their outputs, and the hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations
from torch.nn.utils.rnn import PackedSequence

from actlab.errors import SelectionError, nearest

__all__ = ["Hook", "Selection", "Site", "find_sites", "in_backward", "is_countable", "members", "select"]

INPUT = "input"

# Wrappers of torch that add a segment to every name, and the segment.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}


@dataclass(frozen=True, eq=False)
class Site:
    """A place where tensors come from: a module, or the model's input (`module` is None)."""

    name: str
    module: nn.Module | None
    is_leaf: bool = True

    @property
    def kind(self) -> str:
        """Class of the module, or "input"."""
        return INPUT if self.module is None else type_before_parametrizations(self.module).__name__

    @property
    def description(self) -> str:
        """What the module says of itself, such as "10, 2, bias=True"."""
        return "" if self.module is None else self.module.extra_repr()


def find_sites(model: nn.Module) -> list[Site]:
    """List the model's input and all of its modules, each once, in the order of `named_modules`.

    Names are dotted paths; the prefixes of torch's wrappers (torch.compile, DDP, FSDP, ...) and
    what parametrizations (weight_norm, ...) add are left out. A model that is a single module goes
    by its class name.
    """
    seen: set[nn.Module] = set()

    def walk(module: nn.Module, name: str) -> Iterator[Site]:
        seen.add(module)
        wrapped = (
            _WRAPPERS.get(type(module).__name__) if type(module).__module__.startswith("torch.") else None
        )
        children = [
            (name if key == wrapped else f"{name}.{key}" if name else key, child)
            for key, child in module.named_children()
            if not (key == "parametrizations" and is_parametrized(module))
        ]
        if wrapped is None:
            yield Site(name or type(module).__name__, module, is_leaf=not children)
        for path, child in children:
            if child not in seen:
                yield from walk(child, path)

    sites = list(walk(model, ""))
    taken = any(site.name == INPUT for site in sites)
    return [Site(f"({INPUT})" if taken else INPUT, None), *sites]


@dataclass(frozen=True)
class Selection:
    """The chosen sites, and the patterns that choose among the members of their outputs."""

    sites: tuple[Site, ...]
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    head: str | None = None

    def wants(self, site: Site, suffix: str) -> bool:
        """Say whether the member `suffix` ("" for a plain tensor) of a chosen site is recorded."""
        if site not in self.sites:
            return False
        names = (site.name, site.name + suffix)
        if self.head in names:
            return True

        def matches(patterns: Iterable[str]) -> bool:
            return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)

        return (not self.includes or matches(self.includes)) and not matches(self.excludes)


def select(
    sites: Sequence[Site],
    layers: str | Sequence[str] | None = None,
    kinds: str | type[nn.Module] | Sequence[str | type[nn.Module]] | None = None,
    head: str | None = None,
) -> Selection:
    """Choose the sites to record.

    Parameters
    ----------
    sites : sequence of Site
        From `find_sites`.
    layers : str or sequence of str, optional
        fnmatch patterns on the whole name; `*` crosses dots, `!` in front excludes, `lstm:0` names
        a member of an output. A pattern means the leaf modules it matches; where it matches none,
        the containers. None: all leaf modules and the input.
    kinds : str, class, or sequence of these, optional
        fnmatch patterns on the class name, or module classes, that a layer must also match.
    head : str, optional
        Name of a layer to record in any case.

    Raises
    ------
    SelectionError
        If a pattern matches nothing, or nothing is left; names the nearest layers or kinds.
    """
    patterns = [layers] if isinstance(layers, str) else list(layers if layers is not None else ())
    includes = tuple(pattern for pattern in patterns if not pattern.startswith("!"))
    excludes = tuple(pattern[1:] for pattern in patterns if pattern.startswith("!"))
    chosen = [site for site in sites if site.is_leaf]
    if includes:
        hits = [_match("layers", pattern, sites) for pattern in includes]
        chosen = [site for site in sites if any(site in hit for hit in hits)]
    if kinds is not None:
        wanted = [kinds] if isinstance(kinds, str | type) else list(kinds)
        pool = chosen if includes else sites
        hits = [_match("kinds", kind, pool) for kind in wanted]
        chosen = [site for site in pool if any(site in hit for hit in hits)]
    for pattern in excludes:
        _match("layers", pattern, sites)
        chosen = [site for site in chosen if not fnmatchcase(site.name, pattern)]
    if not chosen or (not patterns and layers is not None):
        raise SelectionError(f"layers={layers!r} with kinds={kinds!r} leaves no layer to record")
    if head is not None:
        known = [site.name for site in sites if site.module is not None]
        if (name := str(head).partition(":")[0]) not in known:
            raise SelectionError(f"head: the model has no layer {head!r}; {nearest(name, known)}")
        chosen = [site for site in sites if site in chosen or site.name == name]
    return Selection(tuple(chosen), includes, excludes, head)


def _match(argument: str, pattern: str | type[nn.Module], sites: Sequence[Site]) -> list[Site]:
    """Return the leaf sites that match a pattern, else the containers; nothing is an error."""
    if isinstance(pattern, type):
        hits = [site for site in sites if isinstance(site.module, pattern)]
    elif argument == "kinds":
        hits = [site for site in sites if fnmatchcase(site.kind, pattern)]
    else:
        hits = [site for site in sites if fnmatchcase(site.name, pattern.partition(":")[0])]
    if not hits:
        wanted = pattern if isinstance(pattern, str) else pattern.__name__
        known = dict.fromkeys(site.kind if argument == "kinds" else site.name for site in sites)
        raise SelectionError(f"{argument}: nothing in the model matches {wanted!r}; {nearest(wanted, known)}")
    return [site for site in hits if site.is_leaf] or hits


def members(output: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Open an output: yield each tensor in it with its suffix, "" for a plain tensor.

    Tuples and lists give `:0`, `:1`; mappings, named tuples and dataclasses `:key`; nested ones
    `:1:0`. A `PackedSequence` counts as its data, a nested tensor as its parts, joined. What is no tensor
    is passed over.
    """
    if isinstance(output, torch.Tensor):
        yield "", torch.cat(output.detach().unbind()) if output.is_nested else output
    elif isinstance(output, PackedSequence):
        yield "", output.data
    else:
        for key, member in _items(output):
            for suffix, tensor in members(member):
                yield f":{key}{suffix}", tensor


def _items(output: object) -> Iterable[tuple[object, object]]:
    """Return the keys and members of a container, nothing for any other object."""
    if isinstance(output, Mapping):
        return output.items()
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return zip(output._fields, output, strict=True)
    if isinstance(output, tuple | list):
        return enumerate(output)
    if is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in fields(output)]
    return ()


def is_countable(tensor: torch.Tensor) -> bool:
    """Say whether a tensor holds real floating-point values in plain memory."""
    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_meta


def in_backward() -> bool:
    """Say whether autograd runs: gradient checkpointing then repeats forwards that were recorded.

    A private name, but the one that `torch.utils.module_tracker` and FSDP2 ask as well.
    """
    return bool(torch._C._current_graph_task_id() != -1)


class Hook:
    """A forward hook that hands what it sees to `receive` and changes nothing.

    Copies and pickles of a hooked module get a hook that does nothing: an averaged copy of the
    model must not count into this recording, and a saved model needs no actlab to be loaded.
    """

    def __init__(self, receive: Callable[..., None]) -> None:
        self._receive = receive

    def __call__(self, _module: nn.Module, *seen: object) -> None:
        """Pass on arguments or output; None, or torch would replace the output."""
        self._receive(*seen)

    def __reduce__(self) -> tuple[Any, ...]:
        """Become the standard library's callable that takes anything and returns None."""
        return getattr, (nullcontext(), "__exit__")
