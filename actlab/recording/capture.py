"""The hooks at work: everything the model does in one batch, counted while it happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from actlab.axis import FloatAxis
from actlab.recording.guard import Guard
from actlab.recording.head import Head
from actlab.recording.hooks import Hook, Selection, Site, in_backward, is_countable, members
from actlab.recording.tally import Tallies, Totals

__all__ = ["Capture"]


class Capture:
    """Hooks on the chosen layers that count while `is_on`, and do nothing otherwise.

    Parameters
    ----------
    selection : Selection
        The chosen layers.
    head : Head
        The head, found or to be found.
    axis : FloatAxis
        The recording axis.
    guard : Guard
        Keeps failures out of the forward.
    """

    def __init__(self, selection: Selection, head: Head, axis: FloatAxis, guard: Guard) -> None:
        self.is_on = False
        self._selection = selection
        self._head = head
        self._tallies = Tallies(selection.sites, axis)
        self._guard = guard
        self._lock = threading.Lock()  # DataParallel calls the hooks from several threads
        self._hooks: list[RemovableHandle] = []
        self._search: list[RemovableHandle] = []

    def attach(self, model: nn.Module, sites: Sequence[Site]) -> None:
        """Put hooks on the model, its chosen layers, and every leaf while the head is searched for."""
        self._hooks.append(model.register_forward_pre_hook(Hook(self._on_start), with_kwargs=True))
        for site in sites:
            is_chosen = site in self._selection.sites
            if site.module is not None and (is_chosen or (site.is_leaf and self._head.name is None)):
                handle = site.module.register_forward_hook(Hook(partial(self._on_output, site)))
                (self._hooks if is_chosen else self._search).append(handle)
        self._hooks.append(model.register_forward_hook(Hook(self._on_end)))

    def surround(
        self, model: nn.Module, before: Callable[[object], None], after: Callable[[object, object], None]
    ) -> None:
        """Put two more hooks on the model: one before all that count, one after them."""
        self._hooks.append(model.register_forward_pre_hook(Hook(before), prepend=True))
        self._hooks.append(model.register_forward_hook(Hook(after)))

    def detach(self) -> None:
        """Count nothing more, and remove every hook."""
        self.is_on = False
        for handle in (*self._hooks, *self._search):
            handle.remove()

    def take(self) -> Totals:
        """Return what was counted since the last time; settle the head, if it is not yet."""
        totals = self._tallies.take()
        if self._head.name is None:
            self._head.find(None)
        if self._head.name is not None and self._search:
            for handle in self._search:
                handle.remove()
            self._search.clear()
        return totals

    def clear(self) -> None:
        """Forget what was counted since the last time."""
        self._tallies.clear()
        self._head.clear()

    def _on_start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count the model's first floating-point argument."""
        source = self._selection.sites[0]
        if source.module is None and self.is_on and not in_backward():
            with self._lock, self._guard(f"layer {source.name!r}"):
                floats = (tensor for _, tensor in members((args, kwargs)) if is_countable(tensor))
                if (first := next(floats, None)) is not None:
                    self._tallies.add(source, "", first)

    def _on_output(self, site: Site, _: object, output: object) -> None:
        """Count what a module returned, now: the next in-place operation may change it."""
        if not self.is_on or in_backward():
            return
        with self._lock, self._guard(f"layer {site.name!r}"):
            for suffix, tensor in members(output):
                is_chosen = self._selection.wants(site, suffix)
                if is_countable(tensor):
                    self._head.see(site, suffix, tensor)
                    if is_chosen:
                        self._tallies.add(site, suffix, tensor)
                elif is_chosen:
                    kind = f"{tensor.dtype}, {tensor.layout}"
                    self._guard.warn(
                        "kind", f"layer {site.name + suffix!r} is not counted: its output is {kind}"
                    )

    def _on_end(self, _: object, output: object) -> None:
        """Find the head by what the model returned."""
        if self.is_on and not in_backward():
            with self._lock, self._guard("search for the head"):
                if self._head.name is None:
                    self._head.find(output)
