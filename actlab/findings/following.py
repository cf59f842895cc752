"""Findings while a run grows: each is told once, as it appears."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from actlab.axis import LinearAxis
from actlab.findings.finding import Finding, Verdict
from actlab.findings.rule import Limits
from actlab.findings.survey import Survey
from actlab.findings.verdict import judge
from actlab.run import Run

__all__ = ["News", "follow"]

_SHARE: Final = 0.1
"""Of the time at most this share is spent looking: the machine is the training's."""


@dataclass
class _Told:
    """A finding that was told: where, until when, and whether it went on at the end of what was recorded."""

    layers: set[str]
    steps: tuple[int, int]
    goes_on: bool


class News:
    """Tells which findings are new, verdict after verdict."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], list[_Told]] = {}

    def of(self, verdict: Verdict, last_steps: Mapping[str, int]) -> list[Finding]:
        """Return what has not been told: whole groups, and what is new in groups known before.

        A finding is known if one of its rule and split was told that shares a layer with it, and shares steps
        or went on to the end of what was recorded then.

        Parameters
        ----------
        verdict : Verdict
            The verdict now.
        last_steps : mapping of str to int
            The last step recorded in each split.
        """
        fresh: list[Finding] = []
        for group in verdict:
            # All are noted: what comes with a new group is told with it.
            news = [each for each in group.every if self._note(each, last_steps[each.split])]
            fresh += [group] if group in news else news
        return fresh

    def _note(self, finding: Finding, last_step: int) -> bool:
        """Note a finding as told, and say whether it is new."""
        first, last = finding.steps
        layers, goes_on = set(finding.layers), last >= last_step
        known = self._told.setdefault((finding.rule, finding.split), [])
        for told in known:
            meets = told.goes_on or (first <= told.steps[1] and told.steps[0] <= last)
            if told.layers & layers and meets:
                told.layers |= layers
                told.steps = min(first, told.steps[0]), max(last, told.steps[1])
                told.goes_on = goes_on
                return False
        known.append(_Told(layers, finding.steps, goes_on))
        return True


def follow(
    run: Run,
    limits: Mapping[str, Limits],
    *,
    axis: LinearAxis | None = None,
    every: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[Verdict, list[Finding]]]:
    """Check a run again and again while it grows, until it is closed.

    Only rows that are new are read, from the store: the training is not touched.

    Parameters
    ----------
    run : Run
        The run.
    limits : mapping
        What `verdict.read_limits` returned.
    axis : LinearAxis, optional
        The bins of the charts, as in `verdict.check`.
    every : float
        Seconds between two looks, at least; more where a look takes long.
    sleep : callable
        Waits some seconds.

    Yields
    ------
    verdict : Verdict
        The verdict now.
    news : list of Finding
        What has not been told before.

    Raises
    ------
    StoreError
        If the run can no longer be read.
    """
    survey, news = Survey(run, axis), News()
    while True:
        is_closed, shown = bool(run.attributes.get("closed")), run.attributes
        start = time.perf_counter()
        facts = survey.read()
        verdict = judge(facts, limits)
        last_steps = {split: int(rows["step"].values[-1]) for split, rows in facts.rows.items()}
        found = news.of(verdict, last_steps)
        pause = max(every, (time.perf_counter() - start) / _SHARE)
        yield verdict, found
        if is_closed:
            return
        while run.attributes is shown:
            sleep(pause)
            run.refresh()
