"""The verdicts of the runs of a comparison, side by side: one row for each rule that found something."""

from __future__ import annotations

from typing import Any

from actlab.findings.finding import ICONS, LEVELS, Finding, Verdict
from actlab.pages.comparison_sections import Compared
from actlab.pages.html import Section
from actlab.pages.verdict_section import level_counts

__all__ = ["verdict"]


def verdict(compared: Compared) -> Section:
    """Say what was found in each run, the worst first, and in which runs it was not."""
    found = {name: _by_rule(each) for name, each in compared.verdicts.items()}
    every = {rule: members[0] for by_rule in found.values() for rule, members in by_rule.items()}
    worst = {rule: min(_worst(by.get(rule, ())) for by in found.values()) for rule in every}
    context = {
        "names": compared.names,
        "found": [
            {"counts": level_counts(each), "checked": len(each.checked)}
            for each in compared.verdicts.values()
        ],
        "rows": [
            {
                "name": every[rule].name,
                "level": LEVELS[worst[rule]],
                "icon": ICONS[LEVELS[worst[rule]]],
                "cells": [
                    _cell(by_rule.get(rule, []), _lacks(compared.verdicts[name], rule))
                    for name, by_rule in found.items()
                ],
            }
            for rule in sorted(every, key=worst.__getitem__)
        ],
        "ok": ICONS["healthy"],
    }
    return Section("verdict", "Verdict", "compare_verdict.html.j2", context)


def _by_rule(found: Verdict) -> dict[str, list[Finding]]:
    """Return what was found by rule, followers too; signs of health are left out."""
    rules: dict[str, list[Finding]] = {}
    for group in found:
        for each in group.every:
            if each.level != "healthy":
                rules.setdefault(each.rule, []).append(each)
    return rules


def _worst(findings: Any) -> int:
    """Return the place of the worst level, behind all of them without any."""
    return min((LEVELS.index(each.level) for each in findings), default=len(LEVELS))


def _lacks(found: Verdict, rule: str) -> str:
    """Return why a rule could not tell anything of a run; empty if it could."""
    return next((lack.reason for lack in found.lacking if lack.rule == rule), "")


def _cell(findings: list[Finding], lacking: str) -> dict[str, Any]:
    """Say what a rule found in a run."""
    if not findings:
        return {"said": f"not enough data: {lacking}" if lacking else "not found", "level": "", "more": []}
    first = min(findings, key=lambda each: LEVELS.index(each.level))
    return {
        "level": first.level,
        "icon": ICONS[first.level],
        "said": f"{first.where}: {first.evidence}",
        "more": [f"{each.where}: {each.evidence}" for each in findings if each is not first],
    }
