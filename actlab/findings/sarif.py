"""Findings in the words of SARIF, which tools for code review and continuous integration read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from actlab import __version__
from actlab.findings.catalogue import RULES
from actlab.findings.finding import UNTRAINED, Finding, Level, Verdict
from actlab.findings.rule import Rule
from actlab.store.urls import is_url

__all__ = ["as_sarif"]

_LEVELS: Final[dict[Level, str]] = {
    "error": "error",
    "warning": "warning",
    "advice": "note",
    "healthy": "none",
}
_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


def as_sarif(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as a log of SARIF 2.1.0 (OASIS standard), in plain types for JSON.

    Each group is a result: the run is its artifact, its layers are logical locations, and what it explains
    are related locations with their own messages. Rules that had not enough data are notifications, and
    so is it where there was no training.
    """
    rules = list(RULES.values())
    places = {rule.id: place for place, rule in enumerate(rules)}
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "actlab",
                        "version": __version__,
                        "rules": [_rule(rule) for rule in rules],
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "toolExecutionNotifications": _notifications(verdict, places),
                    }
                ],
                "results": [_result(each, verdict.path, places) for each in verdict],
            }
        ],
    }


def _notifications(verdict: Verdict, places: dict[str, int]) -> list[dict[str, Any]]:
    """Say what could not be told."""
    untrained = {"level": "warning", "message": {"text": UNTRAINED}}
    return ([] if verdict.is_trained else [untrained]) + [
        {
            "level": "note",
            "message": {"text": f"not enough data: {lack.reason}"},
            "associatedRule": {"id": lack.rule, "index": places[lack.rule]},
        }
        for lack in verdict.lacking
    ]


def _rule(rule: Rule) -> dict[str, Any]:
    """Describe a rule."""
    return {
        "id": rule.id,
        "name": rule.name,
        "shortDescription": {"text": rule.name},
        "fullDescription": {"text": f"{rule.why} Looks at {rule.looks_at}."},
        "help": {"text": f"{rule.remedy.replace('{layer}', 'the layer')} Source: {rule.source}"},
        "defaultConfiguration": {"level": _LEVELS[rule.level]},
    }


def _result(finding: Finding, path: str, places: dict[str, int]) -> dict[str, Any]:
    """Describe a group."""
    return {
        "ruleId": finding.rule,
        "ruleIndex": places[finding.rule],
        "level": _LEVELS[finding.worst],
        "kind": "pass" if finding.worst == "healthy" else "fail",
        "message": {"text": f"{finding.name} in {finding.where}: {finding.evidence} {finding.remedy}"},
        "locations": [_location(finding, path)],
        "relatedLocations": [
            {"id": number, "message": {"text": f"{each.name} in {each.where}: {each.evidence}"}}
            | _location(each, path)
            for number, each in enumerate(finding.every[1:])
        ],
        "properties": finding.to_dict(),
    }


def _location(finding: Finding, path: str) -> dict[str, Any]:
    """Say where: the run, and the layers in it."""
    uri = path if is_url(path) else quote(Path(path).as_posix())
    return {
        "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}},
        "logicalLocations": [{"fullyQualifiedName": layer, "kind": "module"} for layer in finding.layers],
    }
