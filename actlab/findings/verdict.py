"""The verdict on a run: every rule is asked, what belongs together is told together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from actlab.axis import LinearAxis
from actlab.findings.catalogue import RULES
from actlab.findings.facts import Facts
from actlab.findings.finding import Finding, Lack, Verdict
from actlab.findings.rule import Lacking, Limits, Rule, Sign
from actlab.findings.survey import Survey
from actlab.run import Run, open_run

__all__ = ["check", "judge"]


def check(
    run: Run | str | PathLike[str],
    *,
    axis: LinearAxis | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Verdict:
    """Say what looks sick in a run."""
    opened = run if isinstance(run, Run) else open_run(run)
    told = None if progress is None else lambda done, total: progress("reading batches", done, total)
    return judge(Survey(opened, axis).read(told))


def judge(facts: Facts, limits: Mapping[str, Limits] | None = None) -> Verdict:
    """Ask every rule, and group what they found."""
    limits = limits or {}
    found: list[Finding] = []
    lacking: list[Lack] = []
    for rule in RULES.values():
        signs = rule.find(facts, limits.get(rule.id) or rule.limits())
        if isinstance(signs, Lacking):
            lacking.append(Lack(rule.id, rule.name, signs.reason))
        elif signs:
            found += _merge(facts, rule, signs)
    asked = [each for each in RULES if each not in {lack.rule for lack in lacking}]
    return Verdict(found, lacking, asked, facts.run.path)


def _merge(facts: Facts, rule: Rule, signs: Sequence[Sign]) -> Iterator[Finding]:
    """Make one finding of the signs of a rule."""
    first = min(signs, key=lambda sign: (sign.steps[0], facts.order(sign.layer)))
    yield _finding(facts, rule, first, [sign.layer for sign in signs if sign is not first])


def _finding(facts: Facts, rule: Rule, sign: Sign, others: Sequence[str]) -> Finding:
    """Make a finding of a sign."""
    rows: Any = facts.rows[sign.split]
    places = np.searchsorted(rows["step"].values, sign.steps)
    places = np.clip(places, 0, rows.sizes["step"] - 1)
    first, last = (int(epoch) for epoch in rows["epoch"].values[places])
    return Finding(
        rule=rule.id,
        name=rule.name,
        level=rule.level,
        layers=(sign.layer, *dict.fromkeys(others)),
        split=sign.split,
        steps=sign.steps,
        epochs=(first, last),
        value=sign.value,
        limit=sign.limit,
        evidence=sign.evidence,
        why=rule.why,
        remedy=(sign.remedy or rule.remedy).replace("{layer}", sign.layer),
        source=rule.source,
    )
