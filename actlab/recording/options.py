"""The arguments of a recorder, checked before anything is written or hooked."""

from __future__ import annotations

import operator
import platform
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from actlab import __version__
from actlab.axis import FloatAxis
from actlab.errors import SelectionError, nearest
from actlab.recording.capture import Keepers, Plan
from actlab.recording.channels import Channels
from actlab.recording.head import Head
from actlab.recording.samples import Samples
from actlab.recording.sites import find_sites, select
from actlab.recording.tally import Tallies

__all__ = ["Schedule", "Storage", "as_epoch", "describe", "make_keepers", "make_plan"]

_RAW_DTYPES = ("float16", "float32", "float64")


class Schedule:
    """Which batches of a split are recorded.

    Parameters
    ----------
    every : int or mapping of int to int
        Every so many, or from which step on every so many: ``{0: 1, 1000: 10}``.

    Raises
    ------
    ValueError
        If a number is no whole number of at least 1, or the mapping does not begin at step 0.
    """

    def __init__(self, every: int | Mapping[int, int]) -> None:
        plan = every if isinstance(every, Mapping) else {0: every}
        self._starts = sorted(plan)
        self._every = [plan[start] for start in self._starts]
        if not self._starts or self._starts[0] != 0 or not all(map(_is_whole, self._starts)):
            raise ValueError(
                f"every must say what holds from step 0 on, such as {{0: 1, 1000: 10}}, got {every!r}"
            )
        if not all(_is_whole(number, least=1) for number in self._every):
            raise ValueError(f"every must be a whole number of at least 1, got {every!r}")

    def has(self, step: int) -> bool:
        """Say whether a step is recorded."""
        part = bisect(self._starts, step) - 1
        return (step - self._starts[part]) % self._every[part] == 0


@dataclass(frozen=True)
class Storage:
    """How a run is kept; the arguments of `Recorder` of these names.

    Raises
    ------
    TypeError, ValueError
        If one of them is wrong.
    """

    overwrite: bool
    resume: bool
    resume_step: int | None
    flush_every: float
    fsync: bool | Literal["auto"]
    on_full: Literal["drop", "block"]
    on_error: Literal["warn", "raise", "stop"]
    same_attempt: bool = False  # not of `Recorder`: a run is gone on with by who has just closed it

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.on_error not in ("warn", "raise", "stop"):
            raise ValueError(f"on_error must be 'warn', 'raise' or 'stop', got {self.on_error!r}")
        if self.on_full not in ("drop", "block"):
            raise ValueError(f"on_full must be 'drop' or 'block', got {self.on_full!r}")
        if self.fsync not in (True, False, "auto"):
            raise ValueError(f"fsync must be True, False or 'auto', got {self.fsync!r}")
        if not self.flush_every >= 0:
            raise ValueError(f"flush_every must be a number of seconds, got {self.flush_every!r}")
        if self.resume_step is not None and not _is_whole(self.resume_step):
            raise ValueError(f"resume_step must be a number of training batches, got {self.resume_step!r}")
        if self.overwrite and self.resumes:
            raise ValueError("overwrite replaces a run and resume goes on with it: give one of them")

    @property
    def resumes(self) -> bool:
        """Whether an existing run goes on."""
        return self.resume or self.resume_step is not None

    @property
    def writer_on_error(self) -> Literal["warn", "raise"]:
        """What a writer does about its failures: those that end a recording, the recorder must hear of."""
        return "warn" if self.on_error == "warn" else "raise"


def as_epoch(label: object) -> int:
    """Return the label of an epoch as the store has it.

    Raises
    ------
    TypeError, ValueError
        If it is no whole number, or one beyond 64 bits.
    """
    epoch = operator.index(label)  # type: ignore[arg-type]
    if not -(2**63) <= epoch < 2**63:
        raise ValueError(f"epoch must fit into 64 bits, got {epoch}")
    return epoch


def _is_whole(value: object, least: int = 0) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


def make_plan(
    model: nn.Module | Mapping[str, nn.Module],
    layers: str | Sequence[str] | None,
    kinds: str | type[nn.Module] | Sequence[str | type[nn.Module]] | None,
    heads: Sequence[str],
    calls: str,
    *,
    functional: bool,
) -> Plan:
    """Find what is to be recorded.

    Raises
    ------
    SelectionError
        If a pattern or a head matches nothing.
    TypeError, ValueError
        If an argument is wrong.
    """
    models: dict[Any, Any] = dict(model) if isinstance(model, Mapping) else {"": model}
    for key, each in models.items():
        if not isinstance(each, nn.Module):
            kind = type(each).__name__
            raise TypeError(f"model must be a torch.nn.Module, or a dict of them by name, got {kind}")
        if isinstance(each, torch.jit.ScriptModule):
            raise TypeError("model is a ScriptModule, which has no hooks: record the module it was made from")
        if not isinstance(key, str) or (isinstance(model, Mapping) and not key):
            raise TypeError(f"the models of a dict must have names, got {key!r}")
    if not models:
        raise ValueError("model is an empty dict, expected at least one module")
    if calls not in ("sum", "separate"):
        raise ValueError(f"calls must be 'sum' or 'separate', got {calls!r}")
    sites = {key: find_sites(each, key) for key, each in models.items()}
    selection = select([site for found in sites.values() for site in found], layers, kinds, heads)
    return Plan(models, sites, selection, separate=calls == "separate", functional=bool(functional))


def make_keepers(
    plan: Plan,
    axis: FloatAxis,
    heads: Sequence[str],
    raw: str | Sequence[str] | None,
    raw_dtype: str | None,
    raw_samples: int | None,
) -> Keepers:
    """Make those who look at outputs: counters, head, channels, raw samples.

    Raises
    ------
    SelectionError
        If a pattern of `raw` matches no recorded layer.
    TypeError, ValueError
        If an argument is wrong.
    """
    if not isinstance(axis, FloatAxis):
        raise TypeError(f"axis must be a FloatAxis, got {axis!r}; range and bins are chosen when drawing")
    if isinstance(raw, str) and raw != "head":
        raise ValueError(
            f"raw must be 'head', None or a list of layer patterns, got {raw!r}: did you mean [{raw!r}]?"
        )
    if raw_dtype is not None and raw_dtype not in _RAW_DTYPES:
        raise ValueError(f"raw_dtype must be one of {', '.join(_RAW_DTYPES)} or None, got {raw_dtype!r}")
    if raw_samples is not None and not _is_whole(raw_samples, least=1):
        raise ValueError(f"raw_samples must be a whole number of at least 1 or None, got {raw_samples!r}")
    patterns = [] if raw is None or isinstance(raw, str) else [str(pattern) for pattern in raw]
    known = [site.name for site in plan.selection.sites]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.partition(":")[0]) for name in known) and not plan.functional:
            raise SelectionError(f"raw: nothing recorded matches {pattern!r}; {nearest(pattern, known)}")
    dtype: Any = None if raw_dtype is None else getattr(torch, raw_dtype)
    return Keepers(
        Tallies(plan.selection.sites, axis),
        Head(heads[0] if heads else None, axis, keep=raw is not None),
        Channels(),
        Samples([*patterns, *heads[1:]], dtype, raw_samples),
    )


def describe(plan: Plan) -> dict[str, Any]:
    """Return the attributes that say what was recorded, with which versions."""
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": str(torch.__version__)}
    # The first module behind the wrappers: DDP and torch.compile say nothing of the model.
    kinds = {key: sites[1].kind for key, sites in plan.sites.items()}
    names = [f"{key}: {kind}" if key else kind for key, kind in kinds.items()]
    return {"model": ", ".join(names), "head": None, "versions": {"actlab": __version__, **versions}}
