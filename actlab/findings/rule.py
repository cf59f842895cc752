"""A rule: a function that looks at the facts of a run, and all that is to be said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from actlab.findings.finding import Level

if TYPE_CHECKING:
    from actlab.findings.facts import Facts

__all__ = ["Lacking", "Limits", "Rule", "Sign", "rule"]


class Limits(BaseModel):
    """Thresholds of a rule; a table of the TOML file, named as the rule, changes them."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class Sign:
    """What a rule saw in one layer.

    Parameters
    ----------
    layer, split : str
        Where.
    steps : tuple of int
        First and last `step` of the split: since when, and until when.
    value, limit : float
        What was measured, and what it was held against.
    evidence : str
        A sentence with numbers.
    remedy : str, optional
        What to do, where it differs from the rule's own words.
    """

    layer: str
    split: str
    steps: tuple[int, int]
    value: float
    limit: float
    evidence: str
    remedy: str | None = None


class Lacking(NamedTuple):
    """What a rule returns that has not enough data: what is missing."""

    reason: str


Found = list[Sign] | Lacking


@dataclass(frozen=True)
class Rule:
    """A rule.

    Parameters
    ----------
    id, name : str
        As in `Finding`.
    level : {"error", "warning", "advice", "healthy"}
        How bad what it finds is.
    looks_at, needs : str
        What it measures, and the data it needs.
    why, remedy, source : str
        As in `Finding`; ``{layer}`` in the remedy stands for the name of the layer.
    limits : type of Limits
        Its thresholds with their defaults.
    find : callable
        ``find(facts, limits)``: its signs, or what is lacking.
    """

    id: str
    name: str
    level: Level
    looks_at: str
    needs: str
    why: str
    remedy: str
    source: str
    limits: type[Limits]
    find: Callable[[Facts, Any], Found]


def rule(
    *,
    name: str,
    level: Level,
    limits: type[Limits],
    **words: str,
) -> Callable[[Callable[[Facts, Any], Found]], Rule]:
    """Make a rule of a function; its id is the name of the function.

    Parameters
    ----------
    name, level, limits
        As in `Rule`.
    **words : str
        looks_at, needs, why, remedy and source, as in `Rule`.
    """

    def make(find: Callable[[Facts, Any], Found]) -> Rule:
        return Rule(id=find.__name__, name=name, level=level, limits=limits, find=find, **words)

    return make
