"""What a check returns: findings, grouped, and what could not be told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, overload

__all__ = ["ICONS", "LEVELS", "UNTRAINED", "WORDS", "Finding", "Lack", "Level", "Verdict"]

Level = Literal["error", "warning", "advice", "healthy"]

LEVELS: Final[tuple[Level, ...]] = ("error", "warning", "advice", "healthy")
"""From the worst on: broken, sick, worth a thought, a sign of health."""

ICONS: Final[dict[Level, str]] = {
    "error": "\N{HEAVY MULTIPLICATION X}\ufe0e",  # the selector keeps it from being a coloured emoji
    "warning": "\N{BLACK UP-POINTING TRIANGLE}",
    "advice": "\N{BLACK CIRCLE}",
    "healthy": "\N{CHECK MARK}",
}
"""A shape for each level: colour alone says nothing to some readers, and to a grey printer."""

WORDS: Final[dict[Level, tuple[str, str]]] = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "advice": ("piece of advice", "pieces of advice"),
}
"""What is counted, one and more."""


UNTRAINED: Final = (
    "No training batch was recorded, so nothing is known of the training: rules had nothing to look at, or "
    "evaluation alone. actlab.record takes forwards for training while the model is in training mode, after "
    'model.train(); actlab.Recorder those inside batch("train", ...).'
)
"""What it means that a run has no training batch."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was seen: what, where, since when, why it matters, what to do.

    Parameters
    ----------
    rule : str
        Id of the rule, such as "dead_relu".
    name : str
        Its plain name.
    level : {"error", "warning", "advice", "healthy"}
        How bad it is.
    layers : tuple of str
        Where; the first one is where it began.
    split : str
        The split that shows it.
    steps : tuple of int
        First and last `step` of the split it speaks of; the first is where it went wrong.
    epochs : tuple of int
        Epochs of these.
    value, limit : float
        What was measured in the first layer, and what it was held against.
    evidence : str
        What was seen, with numbers.
    why, remedy, source : str
        Why it matters, what to do about it in this layer, and where the threshold comes from.
    followers : tuple of Finding
        What it explains: consequences, each with its own evidence.
    """

    rule: str
    name: str
    level: Level
    layers: tuple[str, ...]
    split: str
    steps: tuple[int, int]
    epochs: tuple[int, int]
    value: float
    limit: float
    evidence: str
    why: str
    remedy: str
    source: str
    followers: tuple[Finding, ...] = ()

    @property
    def every(self) -> tuple[Finding, ...]:
        """The finding itself and all that it explains."""
        return (self, *(each for follower in self.followers for each in follower.every))

    @property
    def worst(self) -> Level:
        """The worst level of the group."""
        return min((each.level for each in self.every), key=LEVELS.index)

    @property
    def every_layer(self) -> tuple[str, ...]:
        """The layers of the whole group, in the order in which they come up."""
        return tuple(dict.fromkeys(layer for each in self.every for layer in each.layers))

    @property
    def where(self) -> str:
        """Layers, split and steps in words."""
        first, last = self.steps
        steps = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
        return f"{self.place}, {self.split} {steps}"

    @property
    def place(self) -> str:
        """The first layer, and how many more."""
        more = len(self.layers) - 1
        return self.layers[0] + (f" and {more} more layer{'s' if more > 1 else ''}" if more else "")

    def __str__(self) -> str:
        """Say it in one line."""
        more = f" (explains {len(self.every) - 1} more)" if self.followers else ""
        return f"{self.worst}: {self.name} [{self.rule}] in {self.where}: {self.evidence}{more}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON, the followers likewise; a number that is not finite becomes text."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "followers"}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        for name in ("value", "limit"):
            plain[name] = plain[name] if math.isfinite(plain[name]) else str(plain[name])
        return plain | {"followers": [each.to_dict() for each in self.followers]}


class Lack(NamedTuple):
    """A rule that had not enough data, and what is missing."""

    rule: str
    name: str
    reason: str


class Verdict(Sequence[Finding]):
    """The findings of a run, grouped by cause, the worst first, and what could not be told.

    Parameters
    ----------
    findings : sequence of Finding
        One for each cause, with what follows from it as its `followers`.
    lacking : sequence of Lack
        Rules that had not enough data.
    checked : sequence of str
        Ids of the rules that were held against the run, those of `lacking` left out.
    path : str
        The run.
    is_trained : bool
        Whether a training batch was recorded.
    """

    def __init__(
        self,
        findings: Sequence[Finding],
        lacking: Sequence[Lack],
        checked: Sequence[str],
        path: str,
        *,
        is_trained: bool = True,
    ) -> None:
        self.findings, self.lacking, self.checked = tuple(findings), tuple(lacking), tuple(checked)
        self.path, self.is_trained = path, is_trained

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | Sequence[Finding]:
        """Return a finding, or some of them."""
        return self.findings[index]

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        """Go through the groups, the worst first."""
        return iter(self.findings)

    @property
    def is_healthy(self) -> bool:
        """Whether there was training, and nothing is an error or a warning."""
        return self.is_trained and not any(finding.worst in ("error", "warning") for finding in self.findings)

    @property
    def counts(self) -> dict[Level, int]:
        """How many groups there are of each level, that of their worst member."""
        found = Counter(finding.worst for finding in self.findings)
        return {level: found[level] for level in LEVELS}

    @property
    def summary(self) -> str:
        """One line: how many of what, or healthy, and how many rules could not tell."""
        words = [
            f"{count} {WORDS[level][count > 1]}"
            for level, count in self.counts.items()
            if count and level in WORDS
        ]
        if not self.checked:
            words.insert(0, "nothing could be told")
        elif self.is_healthy:
            words.insert(0, "healthy")
        if not self.is_trained:
            words.append("no training batch")
        if self.lacking:
            words.append(f"not enough data for {len(self.lacking)} of {len(self.every_rule)} rules")
        return ", ".join(words)

    @property
    def every_rule(self) -> tuple[str, ...]:
        """Ids of all rules that were asked."""
        return (*self.checked, *(lack.rule for lack in self.lacking))

    def __repr__(self) -> str:
        """Say it in some lines."""
        lines = [f"<actlab.Verdict {self.path}: {self.summary}>", *map(str, self.findings)]
        return "\n  ".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {
            "run": self.path,
            "summary": self.summary,
            "healthy": self.is_healthy,
            "trained": self.is_trained,
            "counts": self.counts,
            "findings": [finding.to_dict() for finding in self.findings],
            "not_enough_data": [lack._asdict() for lack in self.lacking],
            "checked": list(self.checked),
        }
