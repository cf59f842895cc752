"""The hook that changes nothing, in eager mode and inside a compiled graph."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import count
from typing import Any, ClassVar, TypeAlias

import torch
from torch import nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes

from actlab.recording.outputs import members

__all__ = ["CompileGuards", "Hook", "Seen", "Transient", "is_of_graph"]

Seen: TypeAlias = Callable[[], Sequence[tuple[str, torch.Tensor]]]
"""Opens what a hook was shown: the tensors in it, each with its suffix, see `members`.

To be called where an exception does no harm: an output may be anything, even a dict that holds itself.
"""

_NOTHING: AbstractContextManager[object] = nullcontext()
_functorch: Any = torch._C._functorch
_SEPARATOR = "\n"
_numbers = count()
_hooks: weakref.WeakValueDictionary[int, Hook] = weakref.WeakValueDictionary()


class Transient:
    """A callable on a model that its copies and pickles replace by one that does nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Become the standard library's callable that takes anything and returns None."""
        return getattr, (nullcontext(), "__exit__")


class Hook(Transient):
    """A forward (pre-)hook that hands the tensors it sees to `receive` and changes nothing.

    Inside torch.compile it becomes an operator of the graph, `actlab::see`, that does the same when
    the graph runs: no break, no guard on anything that changes. Under torch.export and
    torch.jit.trace it does nothing: what these make must not record.

    Copies and pickles of a hooked module get a hook that does nothing: an averaged copy of the
    model must not count into this recording, and a saved model needs no actlab to be loaded.

    Parameters
    ----------
    receive : callable
        Takes the `Seen` of one call.
    on_input : bool
        Show the arguments of the call (args, kwargs) instead of its output.
    """

    def __init__(self, receive: Callable[[Seen], None], *, on_input: bool = False) -> None:
        self.receive = receive
        self._on_input = on_input
        self._number = next(_numbers)
        # Written by the operator as far as the compiler knows, so that it is neither dropped nor moved.
        with torch.inference_mode(False):
            self._token = torch.zeros(1, device="cpu")
        _hooks[self._number] = self

    def __call__(self, _module: nn.Module | None, *seen: object) -> None:
        """Pass on arguments or output; None, or torch would replace the output."""
        if torch.compiler.is_compiling():
            if not _is_exporting() and not _in_transform():
                found = members(seen if self._on_input else seen[-1])
                names = _SEPARATOR.join([suffix for suffix, _ in found])
                torch.ops.actlab.see(self._token, [tensor for _, tensor in found], self._number, names)
        elif not torch._C._is_tracing():
            # Neither subclasses nor the user's modes shall see what is read here.
            with torch._C.DisableTorchFunction(), _outside_transforms(), _outside_modes():
                self.receive(partial(members, seen if self._on_input else seen[-1]))


def is_of_graph(seen: Seen) -> bool:
    """Say whether something was seen in a compiled graph, which runs without gradients whatever is set."""
    return not isinstance(seen, partial)


def _in_transform() -> bool:
    """Say whether vmap, grad or another transform of torch.func is at work."""
    return _functorch.peek_interpreter_stack() is not None


# Inside a compiled transform there is no rule for our operator. Dynamo asks once, while it compiles.
_in_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _is_exporting() -> bool:
    """Say whether torch.export is at work."""
    return bool(getattr(torch.compiler, "_is_exporting_flag", False))


# Dynamo answers `torch.compiler.is_exporting` itself, in torch 2.11 with True for torch.compile, too.
_is_exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _outside_modes() -> AbstractContextManager[object]:
    """Leave modes such as FlopCounterMode, which would count what is done here as the model's."""
    return _disable_current_modes() if torch._C._len_torch_dispatch_stack() else _NOTHING


def _outside_transforms() -> AbstractContextManager[object]:
    """Leave vmap, grad and other transforms of torch.func: they would wrap all that is done here."""
    return temporarily_clear_interpreter_stack() if _in_transform() else _NOTHING


@torch.library.custom_op("actlab::see", mutates_args=("token",))
def _see(token: torch.Tensor, tensors: Sequence[torch.Tensor], number: int, names: str) -> None:  # noqa: ARG001
    """Hand tensors of a running graph to their hook, if it still lives."""
    if (hook := _hooks.get(number)) is not None:
        found = list(zip(names.split(_SEPARATOR), tensors, strict=False))
        hook.receive(lambda: found)


@_see.register_fake
def _see_nothing(token: torch.Tensor, tensors: Sequence[torch.Tensor], number: int, names: str) -> None:
    """Return nothing, as the operator does."""


class CompileGuards:
    """Make torch.compile bind its code to the hooks it was compiled with, while somebody holds this.

    By default it does not: code of an unhooked copy of a model serves the hooked model as well
    (measured with torch 2.13), and hooks that come after the first call never fire. Code compiled
    before is thrown away once, and compiled anew at its next call.
    """

    _holders: ClassVar[set[int]] = set()
    _before: ClassVar[bool] = True

    def hold(self) -> None:
        """Hold, unless nothing can have been compiled yet; to be repeated, since that may change."""
        if id(self) in self._holders or (dynamo := sys.modules.get("torch._dynamo")) is None:
            return
        config: Any = getattr(dynamo, "config", None)
        if not hasattr(config, "skip_nnmodule_hook_guards"):  # half imported, or another torch
            return
        if not self._holders:
            type(self)._before = config.skip_nnmodule_hook_guards
            config.skip_nnmodule_hook_guards = False
        self._holders.add(id(self))
        torch.compiler.reset()

    def release(self) -> None:
        """Let go; the last holder puts back what was set before."""
        if id(self) in self._holders:
            self._holders.discard(id(self))
            if not self._holders:
                sys.modules["torch._dynamo"].config.skip_nnmodule_hook_guards = self._before
