"""Which places of a model are recorded: its layers, by names, patterns and kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, count
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from actlab.errors import SelectionError, nearest

__all__ = ["FUNCTIONAL", "Selection", "Site", "find_sites", "select"]

FUNCTIONAL = "F."
"""In front of the name of a function such as `relu`, within the name of the module that calls it."""

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
    """A place where tensors come from: a module, the model's input, or a function that a module calls.

    `module` is None for the last two; `path` is "" for the model itself.
    """

    name: str
    module: nn.Module | None
    is_leaf: bool = True
    function: str = INPUT
    path: str = ""

    @property
    def kind(self) -> str:
        """Class of the module, "input", or the name of the function."""
        return self.function if self.module is None else _kind(self.module)

    @property
    def is_input(self) -> bool:
        """Whether this is the input of a model."""
        return self.module is None and self.function == INPUT

    @property
    def description(self) -> str:
        """What the module says of itself, such as "10, 2, bias=True"; "" if it fails to."""
        with suppress(Exception):
            return "" if self.module is None else str(self.module.extra_repr())
        return ""


def _kind(module: nn.Module) -> str:
    """Return the class of a module before torch derived another from it for itself."""
    found = type_before_parametrizations(module)
    first, *others = found.__bases__
    return (others[0] if first.__name__ == "FSDPModule" and others else found).__name__


def find_sites(model: nn.Module, prefix: str = "") -> list[Site]:
    """List the model's input and all of its modules, each once, in the order of `named_modules`.

    Names are dotted paths; the prefixes of torch's wrappers (torch.compile, DDP, FSDP, ...) and
    what parametrizations (weight_norm, ...) and quantised layers add are left out. A model that is a
    single module goes by its class name.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    prefix : str
        In front of every name, such as "generator" where several models are recorded.
    """
    seen: set[nn.Module] = set()

    def walk(module: nn.Module, name: str) -> Iterator[Site]:
        seen.add(module)
        wrapped = (
            _WRAPPERS.get(type(module).__name__) if type(module).__module__.startswith("torch.") else None
        )
        children = [
            (name if key == wrapped else f"{name}.{key}" if name else key, child)
            for key, child in (_keras_layers(module) if _is_keras(module) else module.named_children())
            if not (key == "parametrizations" and is_parametrized(module)) and key != "_packed_params"
        ]
        if wrapped is None:
            yield Site(name or _kind(module), module, is_leaf=not children, path=name)
        for path, child in children:
            if child not in seen:
                yield from walk(child, path)

    sites = list(walk(model, prefix))
    source = f"{prefix}.{INPUT}" if prefix else INPUT
    taken = any(site.name == source for site in sites)
    return [Site(f"({source})" if taken else source, None), *sites]


def _is_keras(module: nn.Module, kind: str = "Layer") -> bool:
    """Say whether a module is a layer of Keras, of some kind."""
    bases = type(module).__mro__
    return any(base.__name__ == kind and base.__module__.startswith("keras.") for base in bases)


def _keras_layers(layer: Any) -> list[tuple[str, nn.Module]]:
    """List the layers within one of Keras by their names, which torch knows not, and modules of torch."""
    if _is_keras(layer, "RNN"):  # its cell is called step by step
        return []
    found: dict[str, nn.Module] = {}
    for each in layer._layers:
        if not _is_keras(each, "InputLayer"):
            others = (f"{each.name}_{n}" for n in count(1))  # a subclassed model may give a name twice
            found[next(name for name in chain([each.name], others) if name not in found)] = each
    own = [(key, child) for key, child in layer.named_children() if key != "_torch_params"]
    return [*found.items(), *((key, child) for key, child in own if not _is_keras(child))]


@dataclass(frozen=True)
class Selection:
    """The chosen sites, and the patterns that choose among the members of their outputs."""

    sites: tuple[Site, ...]
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    def wants(self, site: Site, suffix: str = "") -> bool:
        """Say whether the member `suffix` ("" for a plain tensor) of a chosen site is recorded."""
        if not (self.includes or self.excludes):
            return True
        names = (site.name, site.name + suffix)
        if any(head in names for head in self.heads):
            return True
        return (not self.includes or _matches(names, self.includes)) and not _matches(names, self.excludes)


def _matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Say whether one of the patterns fits one of the names."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns for name in names)


def select(
    sites: Sequence[Site],
    layers: str | Sequence[str] | None = None,
    kinds: str | type[nn.Module] | Sequence[str | type[nn.Module]] | None = None,
    heads: Sequence[str] = (),
) -> Selection:
    """Choose the sites to record.

    Parameters
    ----------
    sites : sequence of Site
        From `find_sites`.
    layers : str or sequence of str, optional
        fnmatch patterns on the whole name; `*` crosses dots, `!` in front excludes, `lstm:0` names
        a member of an output, `block.F.relu` a function. A pattern means the leaf modules it
        matches; where it matches none, the containers. None: all leaf modules and the input.
    kinds : str, class, or sequence of these, optional
        fnmatch patterns on the class name, or module classes, that a layer must also match.
    heads : sequence of str
        Names of layers to record in any case.

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
        chosen = [site for site in chosen if not _matches([site.name], [pattern])]
    if (not chosen and not any(map(_is_function, includes))) or (not patterns and layers is not None):
        raise SelectionError(f"layers={layers!r} with kinds={kinds!r} leaves no layer to record")
    known = [site.name for site in sites if site.module is not None]
    for head in heads:
        if (name := head.partition(":")[0]) not in known:
            raise SelectionError(f"head: the model has no layer {head!r}; {nearest(name, known)}")
        chosen = [site for site in sites if site in chosen or site.name == name]
    return Selection(tuple(chosen), includes, excludes, tuple(heads))


def _is_function(pattern: str) -> bool:
    """Say whether a pattern means functions, which show up only when they are called."""
    return FUNCTIONAL in pattern


def _match(argument: str, pattern: str | type[nn.Module], sites: Sequence[Site]) -> list[Site]:
    """Return the leaf sites that match a pattern, else the containers; nothing is an error."""
    if isinstance(pattern, type):
        hits = [site for site in sites if isinstance(site.module, pattern)]
    elif argument == "kinds":
        hits = [site for site in sites if fnmatchcase(site.kind, pattern)]
    else:
        wanted_names = (pattern, pattern.partition(":")[0])
        hits = [site for site in sites if _matches([site.name], wanted_names)]
    if not hits and not (isinstance(pattern, str) and _is_function(pattern)):
        wanted = pattern if isinstance(pattern, str) else pattern.__name__
        known = dict.fromkeys(site.kind if argument == "kinds" else site.name for site in sites)
        raise SelectionError(f"{argument}: nothing in the model matches {wanted!r}; {nearest(wanted, known)}")
    return [site for site in hits if site.is_leaf] or hits
