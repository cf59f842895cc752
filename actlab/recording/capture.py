"""The hooks at work: everything the model does in one batch, counted while it happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from actlab.recording.channels import Channels
from actlab.recording.delivery import Delivery
from actlab.recording.functional import Functions
from actlab.recording.guard import Guard
from actlab.recording.head import Head
from actlab.recording.hooks import CompileGuards, Hook, Seen
from actlab.recording.large_head import HeadBlock
from actlab.recording.outputs import Part, in_backward, parts
from actlab.recording.samples import Samples
from actlab.recording.sites import Selection, Site, find_sites
from actlab.recording.tally import PendingTotals, Tallies
from actlab.store.side import ChannelStats, RawSamples

__all__ = ["Capture", "Keepers", "Plan"]

# These leave out what padding makes superfluous, in evaluation, unless a mode looks at them.
_FAST = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
_Add = Callable[[], list[RemovableHandle]]


@dataclass(frozen=True)
class Plan:
    """What is recorded of which models.

    `sites` are all places of each model by its key ("" for a single one); `separate` tells the calls
    of a module apart; `functional` looks at activation functions, too.
    """

    models: Mapping[str, nn.Module]
    sites: Mapping[str, Sequence[Site]]
    selection: Selection
    separate: bool = False
    functional: bool = False


@dataclass(frozen=True)
class Keepers:
    """Who looks at the outputs of a batch: the counters, and those who keep more than counts."""

    tallies: Tallies
    head: Head
    channels: Channels
    samples: Samples


class Capture:
    """Hooks on the chosen layers that count while `is_on`, and do nothing otherwise.

    Parameters
    ----------
    plan : Plan
        The models, and what is recorded of them.
    keepers : Keepers
        What it is counted into.
    guard : Guard
        Keeps failures out of the forward.

    Attributes
    ----------
    is_on : bool
        Whether to count.
    skipped : dict of str to str
        Layers whose outputs cannot be counted, and why.
    """

    def __init__(self, plan: Plan, keepers: Keepers, guard: Guard) -> None:
        self.is_on = False
        self.skipped: dict[str, str] = {}
        self._plan = plan
        self._keepers = keepers
        self._guard = guard
        self._chosen = frozenset(plan.selection.sites)
        self._calls: dict[Site, int] = {}
        self._latest: Site | None = None
        self._lock = threading.Lock()  # DataParallel calls the hooks from several threads
        self._functions = Functions(self._on_function) if plan.functional else None
        self._fast = [
            site.module for found in plan.sites.values() for site in found if isinstance(site.module, _FAST)
        ]
        self._guards = CompileGuards()
        self._hooks: list[RemovableHandle] = []
        self._search: list[RemovableHandle] = []
        self._around: list[_Add] = []

    @property
    def is_called(self) -> bool:
        """Whether a model, or a chosen layer, was ever called in a batch."""
        return self._latest is not None

    def attach(self) -> None:
        """Put hooks on the models, their chosen layers, and every leaf while the head is searched for."""
        self._guards.hold()
        for key, model in self._plan.models.items():
            sites = self._plan.sites[key]
            start = Hook(partial(self._on_start, model, sites[0]), on_input=True)
            self._hooks.append(model.register_forward_pre_hook(start, with_kwargs=True))
            for site in sites:
                self._attach_site(site)
            self._hooks.append(model.register_forward_hook(Hook(self._on_end)))
        for add in self._around:
            self._hooks += add()

    def surround(
        self, model: nn.Module, before: Callable[[Seen], None], after: Callable[[Seen], None]
    ) -> None:
        """Put two more hooks on a model: one before all that count, one after them."""

        def add() -> list[RemovableHandle]:
            hooks = [
                model.register_forward_pre_hook(Hook(before, on_input=True), prepend=True),
                model.register_forward_hook(Hook(after)),
            ]
            # A forward that raises must not leave a mode behind: it would lie on those of the user.
            return hooks + ([] if self._functions is None else self._functions.stop_after(model))

        self._around.append(add)
        self._hooks += add()

    def detach(self) -> None:
        """Count nothing more, and remove every hook."""
        self.is_on = False
        for handle in (*self._hooks, *self._search):
            handle.remove()
        self._hooks.clear()
        self._search.clear()
        self._guards.release()

    def begin(self, labels: torch.Tensor | None) -> None:
        """Start a batch that is to be counted."""
        self._guards.hold()
        self._calls.clear()
        self._keepers.tallies.begin()
        self._keepers.head.begin(labels)
        if self._functions is None:
            return
        if not torch.is_grad_enabled() and any(not module.training for module in self._fast):
            # A mode of ours would make them compute in another way, with other results.
            self._guard.warn(
                "functions", "functions are not counted where attention is evaluated without grad"
            )
            return
        self._functions.start()

    def look_for_replaced(self) -> None:
        """Note the chosen modules that are no part of their model any more: they are not called again."""
        present = {site.module for model in self._plan.models.values() for site in find_sites(model)}
        for site in self._plan.selection.sites:
            if site.module is not None and site.module not in present:
                self.skipped.setdefault(site.name, "the module was replaced after the recorder was made")

    def end(self) -> None:
        """End the batch: count no more."""
        self.is_on = False
        if self._functions is not None:
            self._functions.stop()

    def take(self) -> PendingTotals:
        """Return what was counted since the last time; settle the head, if it is not yet."""
        head = self._keepers.head
        if head.is_sought:
            head.find(())
        with self._lock:
            totals = self._keepers.tallies.take()
        if not head.is_sought and self._search:
            for handle in self._search:
                handle.remove()
            self._search.clear()
        return totals

    def take_head(self) -> tuple[str | None, Delivery[HeadBlock] | None]:
        """Return the name of the head, once it is known, and what was kept of it in the batch."""
        head = self._keepers.head
        if head.key is None:
            return None, None
        site, name = head.key[0], self._keepers.tallies.name_of(head.key)
        if site not in self._chosen or not self._plan.selection.wants(site, head.key[2]):
            head.drop()
            return None, None
        kept = head.take()
        return name, None if kept is None else Delivery(kept)

    def take_channels(self) -> Delivery[ChannelStats] | None:
        """Return the channels of the batch, where it has any."""
        channels = self._keepers.channels.take(self._keepers.tallies.name_of)
        return None if channels is None else Delivery(channels)

    def take_samples(self, labels: torch.Tensor | None) -> Delivery[dict[str, RawSamples]] | None:
        """Return the raw outputs that were kept of the batch, where there are any."""
        samples = self._keepers.samples.take(self._keepers.tallies.name_of, labels)
        return None if samples is None else Delivery(samples)

    def clear(self) -> None:
        """Forget what was counted since the last time."""
        with self._lock:
            for keeper in vars(self._keepers).values():
                keeper.clear()

    def _attach_site(self, site: Site) -> None:
        """Put a hook on one module, if it is to be counted or may be the head."""
        if site.module is None:
            return
        is_chosen = site in self._chosen
        if isinstance(site.module, torch.jit.ScriptModule):
            if is_chosen:
                self.skipped[site.name] = "it is a ScriptModule, which has no hooks"
            return
        if self._functions is not None:
            self._hooks += self._functions.attach(site)
        if is_chosen or (site.is_leaf and self._keepers.head.is_sought):
            handle = site.module.register_forward_hook(Hook(partial(self._on_output, site)))
            (self._hooks if is_chosen else self._search).append(handle)

    def _on_start(self, model: nn.Module, source: Site, seen: Seen) -> None:
        """Count the model's first floating-point argument that is no single number, such as a temperature."""
        if self._is_idle() or _is_redirected(model):
            return
        self._calls.clear()
        self._latest = source
        if source in self._chosen:
            with self._lock, self._guard(f"layer {source.name!r}"):
                for _, tensor in seen():
                    found = [part for part in parts("", tensor) if part.values is not None and tensor.dim()]
                    for part in found:
                        self._count(source, 1, part)
                    if found:
                        return

    def _on_output(self, site: Site, seen: Seen) -> None:
        """Count what a module returned, now: the next in-place operation may change it."""
        if self._is_idle():
            return
        what = f"layer {site.name!r}"
        with self._lock, self._guard(what):
            if self._is_idle():  # another thread ended the batch meanwhile
                return
            is_chosen, call = site in self._chosen, self._number(site)
            self._latest = site if is_chosen else self._latest
            for suffix, tensor in seen():
                with self._guard(what):
                    for part in parts(suffix, tensor):
                        if is_chosen and self._plan.selection.wants(site, part.suffix):
                            self._count(site, call, part)
                        if part.values is not None and not part.zeros and not _is_captured(part.values):
                            self._keepers.head.see((site, call, part.suffix), part.values)

    def _on_function(self, site: Site, seen: Seen) -> None:
        """Count what an activation function returned."""
        if self._is_idle() or not self._plan.selection.wants(site):
            return
        with self._lock, self._guard(f"layer {site.name!r}"):
            self._keepers.tallies.place_after(site, self._latest)
            self._latest = site
            call = self._number(site)
            for suffix, tensor in seen():
                for part in parts(suffix, tensor):
                    self._count(site, call, part)

    def _on_end(self, seen: Seen) -> None:
        """Find the head by what the model returned."""
        if self._keepers.head.is_sought and not self._is_idle():
            with self._lock, self._guard("search for the head"):
                found = [part.values for suffix, tensor in seen() for part in parts(suffix, tensor)]
                self._keepers.head.find([values for values in found if values is not None])

    def _is_idle(self) -> bool:
        """Whether nothing is counted now."""
        return not self.is_on or in_backward()

    def _number(self, site: Site) -> int:
        """Return the number of this call of a site within the forward; 1 unless calls are told apart."""
        call = self._calls[site] = self._calls.get(site, 0) + 1
        return call if self._plan.separate else 1

    def _count(self, site: Site, call: int, part: Part) -> None:
        """Hand one part of an output to the counters and to those who keep more than counts."""
        if part.values is None:
            self.skipped.setdefault(site.name + part.suffix, part.reason)
            return
        keepers = self._keepers
        keepers.tallies.add(site, call, part)
        if part.zeros or _is_captured(part.values):
            return
        if keepers.channels.is_on or keepers.samples.is_wanted:
            key = (site, call, part.suffix)
            keepers.samples.add(key, part.values)
            keepers.channels.add(key, part.values)


def _is_redirected(model: nn.Module) -> bool:
    """Say whether Lightning calls a step by way of `forward`, as under DDP: what comes in is a batch."""
    return "_ForwardRedirection" in getattr(vars(model).get("forward"), "__qualname__", "")


def _is_captured(values: torch.Tensor) -> bool:
    """Say whether a CUDA graph is being captured: then nothing is computed yet, and only counters count."""
    return values.is_cuda and torch.cuda.is_current_stream_capturing()
