"""The verdict on a run: every rule is asked, what belongs together is told together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import numpy as np

from actlab.axis import LinearAxis
from actlab.errors import RecipeError, nearest
from actlab.findings.catalogue import RULES
from actlab.findings.facts import Facts
from actlab.findings.finding import Finding, Lack, Verdict
from actlab.findings.grouping import group, merge
from actlab.findings.rule import Lacking, Limits, Rule, Sign
from actlab.findings.survey import Survey
from actlab.recipe import validated
from actlab.run import Run, open_run

__all__ = ["check", "judge", "read_limits"]

Wishes = Mapping[str, Mapping[str, Any]]


def check(
    run: Run | str | PathLike[str],
    *,
    limits: Wishes | None = None,
    axis: LinearAxis | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Verdict:
    """Say what looks sick in a run, since when, why it matters and what to do about it.

    All counts of the run are read once. The rules, their thresholds and how often they are right are in
    docs/findings.md.

    Parameters
    ----------
    run : Run, str or path-like
        What `open_run` returned, or its path.
    limits : mapping, optional
        Other thresholds, {rule: {threshold: value}}, as the tables `limits` of a recipe have them.
    axis : LinearAxis, optional
        The bins the charts are drawn with, of which one rule speaks; by default those of the page.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    Verdict
        A sequence of findings, one for each cause, the worst first; and the rules that had not enough data.

    Raises
    ------
    StoreError
        If there is no such run.
    RecipeError
        If a rule or threshold of `limits` is unknown or wrong.
    """
    chosen = read_limits(limits or {})
    opened = run if isinstance(run, Run) else open_run(run)
    told = None if progress is None else lambda done, total: progress("checking batches", done, total)
    return judge(Survey(opened, axis).read(told), chosen)


def read_limits(limits: Wishes, where: str = "") -> dict[str, Limits]:
    """Check thresholds by the models of their rules.

    Parameters
    ----------
    limits : mapping
        {rule: {threshold: value}}.
    where : str
        What an error starts with, such as ``"recipe report.toml: "``; may be empty.

    Returns
    -------
    dict of str to Limits
        Those of all rules.

    Raises
    ------
    RecipeError
        If a rule or threshold is unknown, or a value is wrong.
    """
    for name in limits:
        if name not in RULES:
            raise RecipeError(f"{where}unknown rule {name!r} in limits ({nearest(name, RULES)})")
    return {
        name: validated(rule.limits, limits.get(name, {}), f"{where}limits.{name}")
        for name, rule in RULES.items()
    }


def judge(facts: Facts, limits: Mapping[str, Limits]) -> Verdict:
    """Ask every rule about the facts of a run, and group what they found.

    Parameters
    ----------
    facts : Facts
        What `Survey.read` returned.
    limits : mapping
        What `read_limits` returned.
    """
    found: list[Finding] = []
    lacking: list[Lack] = []
    nothing = None if len(facts.layers) else Lacking("no value was recorded")
    for rule in RULES.values():
        signs = nothing or rule.find(facts, limits[rule.id])
        if isinstance(signs, Lacking):
            lacking.append(Lack(rule.id, rule.name, signs.reason))
        else:
            found += merge([_finding(facts, rule, sign) for sign in signs], facts)
    unasked = {lack.rule for lack in lacking}
    checked = [name for name in RULES if name not in unasked]
    is_trained = "train" in facts.rows
    return Verdict(group(found, facts), lacking, checked, facts.run.path, is_trained=is_trained)


def _finding(facts: Facts, rule: Rule, sign: Sign) -> Finding:
    """Make a finding of a sign."""
    rows = facts.rows[sign.split]
    places = np.clip(np.searchsorted(rows["step"].values, sign.steps), 0, rows.sizes["step"] - 1)
    first, last = (int(epoch) for epoch in rows["epoch"].values[places])
    return Finding(
        rule=rule.id,
        name=rule.name,
        level=rule.level,
        layers=(sign.layer,),
        split=sign.split,
        steps=(int(sign.steps[0]), int(sign.steps[1])),
        epochs=(first, last),
        value=float(sign.value),
        limit=float(sign.limit),
        evidence=_sentence(sign.evidence),
        why=rule.why,
        remedy=(sign.remedy or rule.remedy).replace("{layer}", sign.layer),
        source=rule.source,
    )


def _sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
