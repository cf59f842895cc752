"""The register of the zoo: what a training is, and the decorator that enters one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.zoo.fit import Outcome

Recording = Callable[[Path], Outcome]


@dataclass(frozen=True)
class Training:
    """A small training, and what ought to be said of it.

    `rule` is the id that ought to be reported, None for a healthy one. Of the layers that match
    `layers` (fnmatch patterns), one at least must be among those of the finding or of its group.
    `also` lists other true readings of the same training, `check` keyword arguments of `actlab.check`.
    """

    name: str
    rule: str | None
    layers: tuple[str, ...]
    about: str
    run: Recording
    also: tuple[str, ...] = ()
    check: Mapping[str, Any] = field(default_factory=dict)

    def record(self, path: Path, seed: int) -> Outcome:
        """Train and record into `path`; the seed makes initial weights, order and split."""
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        return self.run(path)


TRAININGS: dict[str, Training] = {}


def sick(
    rule: str, *layers: str, also: tuple[str, ...] = (), **check: Any
) -> Callable[[Recording], Recording]:
    """Enter a training with the sickness `rule` in one of `layers`."""

    def enter(run: Recording) -> Recording:
        return _enter(run, rule, layers, also, check)

    return enter


def healthy(*also: str) -> Callable[[Recording], Recording]:
    """Enter a training with nothing wrong; `also` may be found all the same."""

    def enter(run: Recording) -> Recording:
        return _enter(run, None, (), also, {})

    return enter


def _enter(
    run: Recording, rule: str | None, layers: tuple[str, ...], also: tuple[str, ...], check: dict[str, Any]
) -> Recording:
    name = run.__name__
    assert name not in TRAININGS, name
    TRAININGS[name] = Training(name, rule, layers, str(run.__doc__).splitlines()[0], run, also, check)
    return run
