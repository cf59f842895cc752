"""What `actlab check` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from actlab.cli.tables import plain
from actlab.errors import RecipeError, nearest
from actlab.findings.catalogue import RULES
from actlab.findings.finding import ICONS, UNTRAINED, Finding, Level, Verdict
from actlab.findings.following import follow as follow_run
from actlab.findings.sarif import as_sarif as to_sarif
from actlab.findings.verdict import check, read_limits
from actlab.recipe import Recipe, load_recipe
from actlab.run import open_run

__all__ = ["check_run", "dump", "explain", "follow", "list_rules", "show"]

_STYLES: Final[dict[Level, str]] = {
    "error": "bold red",
    "warning": "bold yellow",
    "advice": "bold blue",
    "healthy": "bold green",
}
_WORD: Final = 8  # columns of the words beside the paragraphs
_MOST_LAYERS: Final = 12
"""Named of a finding; JSON names all."""


def check_run(path: str, recipe: Path | None, progress: Callable[[str, int, int], None]) -> Verdict:
    """Check a run with the thresholds and the range of a recipe."""
    run, wish = open_run(path), _wish(recipe)
    return check(run, limits=wish.limits, axis=wish.bins(), progress=progress)


def _wish(recipe: Path | None) -> Recipe:
    """Read the recipe, and refuse thresholds that no rule has before the run is read."""
    if recipe is None:
        return Recipe()
    wish = load_recipe(recipe)
    read_limits(wish.limits, f"recipe {recipe}: ")
    return wish


def dump(verdict: Verdict, *, as_sarif: bool) -> str:
    """Return a verdict as JSON, of its own kind or as SARIF."""
    return json.dumps(to_sarif(verdict) if as_sarif else verdict.to_dict(), indent=2, allow_nan=False)


def show(console: Console, verdict: Verdict) -> None:
    """Print a verdict: what was found, the worst first, and what could not be told."""
    console.print(Text(f"{plain(verdict.path)}: {verdict.summary}", "bold"))
    if not verdict.is_trained:
        console.print()
        _print(console, "", UNTRAINED)
    for finding in verdict:
        console.print()
        _show_finding(console, finding)
    if verdict.lacking:
        console.print()
        console.print("Not enough data:")
        for lack in verdict.lacking:
            _print(console, "", f"{lack.name} [{lack.rule}]: {plain(lack.reason)}")


def follow(console: Console, path: str, recipe: Path | None, *, as_json: bool) -> Verdict:
    """Check a run while it grows, until it is closed or the user has seen enough; print what is new.

    With JSON each finding is one line.
    """
    wish, latest = _wish(recipe), Verdict((), (), (), path)
    looks = follow_run(open_run(path), read_limits(wish.limits), axis=wish.bins())
    for verdict, news in _until_interrupted(looks):
        latest = verdict
        for finding in news:
            if as_json:
                console.file.write(f"{json.dumps(finding.to_dict(), allow_nan=False)}\n")
            else:
                _show_finding(console, finding)
                console.print()
        console.file.flush()
    if not as_json:
        console.print(Text(f"{plain(path)}: {latest.summary}", "bold"))
    return latest


def _until_interrupted(
    looks: Iterator[tuple[Verdict, list[Finding]]],
) -> Iterator[tuple[Verdict, list[Finding]]]:
    """Go on until there are no more looks, or Ctrl-C, which is how one leaves."""
    try:
        yield from looks
    except KeyboardInterrupt:
        return


def _show_finding(console: Console, finding: Finding) -> None:
    """Print a group: what, where, since when, why it matters, what to do, and what it explains."""
    icon, style = ICONS[finding.worst], _STYLES[finding.worst]
    console.print(
        Text.assemble((f"{icon} {finding.worst}", style), "  ", (finding.name, "bold"), f" [{finding.rule}]"),
    )
    first, last = finding.epochs
    epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    more = len(finding.layers) - _MOST_LAYERS
    layers = ", ".join(finding.layers[:_MOST_LAYERS]) + (f" and {more} more" if more > 0 else "")
    _print(console, "where", plain(layers))
    _print(console, "when", f"{plain(finding.where.rpartition(', ')[2])} ({epochs})")
    _print(console, "seen", plain(finding.evidence))
    _print(console, "why", finding.why)
    _print(console, "do", plain(finding.remedy))
    _print(console, "limit", f"{finding.value:.4g} against {finding.limit:.4g}; {finding.source}")
    for follower in finding.followers:
        if follower.rule != finding.rule:  # the layers of the same rule are those of `where`
            _print(console, "explains", plain(str(follower)))


def _print(console: Console, word: str, text: str) -> None:
    """Print a paragraph beside the word that names it."""
    table = Table.grid(padding=(0, 0, 0, 2))
    table.add_column(width=_WORD)
    table.add_column(overflow="fold")
    table.add_row(word, text)
    console.print(table)


def list_rules(console: Console) -> None:
    """Print one line a rule."""
    table = Table(Column("rule", no_wrap=True), "level", "name", box=None, pad_edge=False)
    for rule in RULES.values():
        table.add_row(rule.id, rule.level, rule.name)
    console.print(table)


def explain(console: Console, name: str, recipe: Path | None) -> None:
    """Print all that is known of a rule: what it looks at, its thresholds as TOML, their source, the remedy.

    Raises
    ------
    RecipeError
        If there is no such rule; all there are have been printed.
    """
    if name not in RULES:
        list_rules(console)
        raise RecipeError(f"no rule {name!r}: {nearest(name, RULES)}")
    rule, limits = RULES[name], read_limits(_wish(recipe).limits)[name]
    console.print(Text.assemble((rule.name, "bold"), f" [{rule.id}], {rule.level}"))
    words = {"looks at": rule.looks_at, "needs": rule.needs, "why": rule.why, "do": rule.remedy}
    for word, text in (words | {"source": rule.source}).items():
        _print(console, word, text.replace("{layer}", "the layer"))
    console.print("\nThresholds, as a table of a recipe:\n")
    console.print(f"[limits.{rule.id}]")
    for key, value in limits.model_dump().items():
        said = type(limits).model_fields[key].description
        console.print(f"{key} = {json.dumps(value)}" + (f"  # {said}" if said else ""))
