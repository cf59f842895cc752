"""Activation functions that a forward calls without a module: `F.relu`, `torch.tanh`, `x.sigmoid()`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode
from torch.utils.hooks import RemovableHandle

from actlab.recording.hooks import Hook, Seen, Transient
from actlab.recording.outputs import members
from actlab.recording.sites import FUNCTIONAL, Site

__all__ = ["Functions"]

# fmt: off
_NAMES: Final = (
    "relu", "relu6", "elu", "selu", "celu", "gelu", "silu", "mish", "leaky_relu", "prelu", "rrelu", "glu",
    "hardtanh", "hardswish", "hardsigmoid", "tanh", "sigmoid", "softplus", "softsign", "tanhshrink",
    "softshrink", "hardshrink", "threshold", "logsigmoid", "softmax", "log_softmax", "softmin",
    "gumbel_softmax",
)
# fmt: on


def _activations() -> dict[Any, str]:
    """Map every form of every activation function, in place or not, to its name."""
    return {
        function: name
        for name in _NAMES
        for home in (functional, torch, torch.Tensor, torch.special)
        for spelling in (name, f"{name}_")
        if (function := getattr(home, spelling, None)) is not None
    }


class _Step(Transient):
    """A hook that tells where in the model the forward is; copies and pickles of it do nothing."""

    def __init__(self, stack: list[tuple[str, bool]], place: tuple[str, bool] | None) -> None:
        self._stack = stack
        self._place = place

    def __call__(self, *_: object) -> None:
        """Enter the place, or leave the last one."""
        if self._place is not None:
            self._stack.append(self._place)
        elif self._stack:
            self._stack.pop()


class _Stop(Transient):
    """A hook that stops `functions`; copies and pickles of it do nothing."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    def __call__(self, *_: object) -> None:
        """Stop."""
        self._functions.stop()


class Functions(TorchFunctionMode):
    """While started, see the results of activation functions, under the name of the module that calls.

    What a leaf of torch.nn calls inside is passed over: its output is a layer already.

    Parameters
    ----------
    receive : callable
        Takes the site of a function and the `Seen`.
    """

    def __init__(self, receive: Callable[[Site, Seen], None]) -> None:
        super().__init__()
        self._receive = receive
        self._activations = _activations()
        self._stack: list[tuple[str, bool]] = []
        self._sites: dict[str, Site] = {}
        self._hook = Hook(self._on_result)
        self._is_started = False

    def attach(self, site: Site) -> list[RemovableHandle]:
        """Put hooks on a module that tell when it runs; returns their handles."""
        assert site.module is not None
        is_passed_over = site.is_leaf and type(site.module).__module__.startswith("torch.nn.")
        return [
            site.module.register_forward_pre_hook(_Step(self._stack, (site.path, is_passed_over))),
            site.module.register_forward_hook(_Step(self._stack, None), always_call=True),
        ]

    def stop_after(self, model: nn.Module) -> list[RemovableHandle]:
        """Put a hook on a model that stops when its forward ends, even by an exception."""
        return [model.register_forward_hook(_Stop(self), always_call=True)]

    def start(self) -> None:
        """Begin to see, unless it has begun."""
        if not self._is_started:
            self._stack.clear()
            self._is_started = True
            self.__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """See no more."""
        if self._is_started:
            self._is_started = False
            _take_off(self)

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, and look at its result if it is an activation."""
        result = func(*args, **(kwargs or {}))
        name = self._activations.get(func)
        if name is not None and self._stack:  # else it is called outside of the model
            owner, is_passed_over = self._stack[-1]
            if not is_passed_over:
                self._hook(None, {f"{owner}\t{name}": result})
        return result

    def _on_result(self, seen: Seen) -> None:
        """Find the site of a function that was called."""
        for place, tensor in seen():
            site = self._sites.get(place)
            owner, _, name = place.removeprefix(":").partition("\t")
            if site is None:
                path = f"{owner}.{FUNCTIONAL}{name}" if owner else FUNCTIONAL + name
                site = self._sites[place] = Site(path, None, function=name)
            self._receive(site, partial(members, tensor))


def _take_off(mode: TorchFunctionMode) -> None:
    """Take a mode off torch's stack wherever it is: the user may have put others on top of it."""
    above = []
    while torch._C._len_torch_function_stack():
        top = _pop_mode()  # type: ignore[no-untyped-call]
        if top is mode:
            break
        above.append(top)
    for other in reversed(above):
        _push_mode(other)  # type: ignore[no-untyped-call]
