"""How often the rules are right: what was found of what is there, and what was said for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import actlab
from actlab.findings.finding import Finding
from tests.zoo.registry import Training
from tests.zoo.trainings import TRAININGS

ALARMS = ("error", "warning")


@dataclass(frozen=True)
class Reading:
    """The verdict on one run of a training."""

    name: str
    seed: int
    findings: tuple[Finding, ...]
    lacking: tuple[str, ...]

    @property
    def training(self) -> Training:
        """What was recorded."""
        return TRAININGS[self.name]

    @property
    def is_found(self) -> bool:
        """Whether the sickness was reported, by itself or within a group, on its layer."""
        return any(self.names_it(finding) for finding in self.findings)

    def names_it(self, finding: Finding) -> bool:
        """Say whether a finding is the sickness of the training, or its group contains it, on its layer."""
        layers, rules = finding.every_layer, {each.rule for each in finding.every}
        on_layer = any(fnmatchcase(layer, glob) for layer in layers for glob in self.training.layers)
        return self.training.rule in rules and on_layer

    def is_right(self, finding: Finding) -> bool:
        """Say whether a finding is no false alarm."""
        return self.names_it(finding) or finding.rule in self.training.also

    @property
    def false_alarms(self) -> list[Finding]:
        """What was reported as an error or a warning for nothing."""
        return [each for each in self.findings if each.worst in ALARMS and not self.is_right(each)]

    @property
    def is_wronged(self) -> bool:
        """Whether something is called an error though the training is healthy."""
        return self.training.rule is None and any(each.worst == "error" for each in self.findings)


@dataclass(frozen=True)
class Score:
    """Of one rule, or of all: runs that are sick in its way, found of these, reported, and right of these."""

    name: str
    trainings: int
    runs: int
    found: int
    reported: int
    right: int

    @property
    def recall(self) -> float:
        """Share of the sick runs that was found."""
        return self.found / self.runs if self.runs else float("nan")

    @property
    def precision(self) -> float:
        """Share of the reports that is right."""
        return self.right / self.reported if self.reported else float("nan")


def read(name: str, seed: int, folder: Path) -> Reading:
    """Record a training into a folder, unless it is there, and check the run."""
    training, path = TRAININGS[name], folder / f"seed{seed}" / f"{name}.zarr"
    if not (path / "zarr.json").exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        training.record(path, seed)
    verdict = actlab.check(path, **training.check)
    return Reading(name, seed, tuple(verdict), tuple(lack.rule for lack in verdict.lacking))


def score(rule: str, readings: Sequence[Reading]) -> Score:
    """Score one rule: a run counts as reported once, whatever the number of its findings."""
    own = [each for each in readings if each.training.rule == rule]
    reported = right = 0
    for each in readings:
        findings = [finding for finding in each.findings if finding.rule == rule]
        reported += bool(findings)
        right += bool(findings) and all(each.is_right(finding) for finding in findings)
    names = {each.name for each in own}
    return Score(rule, len(names), len(own), sum(each.is_found for each in own), reported, right)


def total(readings: Iterable[Reading], rules: Iterable[str]) -> Score:
    """Score all errors and warnings together, over the trainings sick in the way of one of `rules`."""
    readings, rules = list(readings), set(rules)
    sick = [each for each in readings if each.training.rule in rules]
    alarms = [(each, finding) for each in readings for finding in each.findings if finding.worst in ALARMS]
    return Score(
        "errors and warnings",
        len({each.name for each in sick}),
        len(sick),
        sum(each.is_found for each in sick),
        len(alarms),
        sum(each.is_right(finding) for each, finding in alarms),
    )
