"""Hold the rules against the zoo: `python -m tests.zoo`.

    python -m tests.zoo [--seeds 0 1 2 | --report] [--only PATTERN] [--keep DIR] [--record] [--table]

Thresholds were tuned on seeds 0 to 2, `--report` measures on others. PATTERN is of names of trainings or
of rules ("healthy" for those without). The exit status is 1 if recall or precision of errors and warnings
are below 0.9, or a healthy run has an error.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from actlab.findings.catalogue import RULES
from tests.zoo.scoring import ALARMS, Reading, Score, read, score, total
from tests.zoo.trainings import TRAININGS

TUNING, REPORTING = (0, 1, 2), (3, 5)
PAGE = Path(__file__).parents[2] / "docs" / "findings.md"
BEGIN, END = "<!-- zoo -->\n", "<!-- /zoo -->\n"
HEAD = (
    "| rule | level | trainings | runs | found | recall | reported | right | precision |\n" + "|---" * 9 + "|"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, check, print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=TUNING)
    parser.add_argument("--report", action="store_const", const=REPORTING, dest="seeds")
    parser.add_argument("--only", default="*", metavar="PATTERN")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--record", action="store_true", help="train only, and print what was learned")
    parser.add_argument("--table", action="store_true", help="write the table into docs/findings.md")
    wanted = parser.parse_args(arguments)
    names = [name for name, each in TRAININGS.items() if is_wanted(name, each.rule, wanted.only)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = wanted.keep or Path(scratch)
        if wanted.record:
            record(names, wanted.seeds, folder)
            return 0
        readings = read_all(names, wanted.seeds, folder)
    table = draw_table(readings)
    sys.stdout.write(f"{table}\n\n{list_misses(readings)}\n")
    if wanted.table and BEGIN in (page := PAGE.read_text(encoding="utf-8")):
        before, rest = page.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    whole = total(readings, alarming())
    is_wronged = any(each.is_wronged for each in readings)
    return int(whole.recall < 0.9 or whole.precision < 0.9 or is_wronged)


def is_wanted(name: str, rule: str | None, pattern: str) -> bool:
    """Say whether a training's name or rule matches a pattern."""
    return fnmatchcase(name, pattern) or fnmatchcase(rule or "healthy", pattern)


def record(names: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """Train, and say what was learned."""
    for seed in seeds:
        for name in names:
            path = folder / f"seed{seed}" / f"{name}.zarr"
            path.parent.mkdir(parents=True, exist_ok=True)
            sys.stdout.write(f"{name}, seed {seed}: {TRAININGS[name].record(path, seed)}\n")
            sys.stdout.flush()


def read_all(names: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Reading]:
    """Record and check all trainings, as many at a time as there are cores."""
    jobs = [(name, seed) for seed in seeds for name in names]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # torch has threads: no fork
        return list(pool.map(partial(read, folder=folder), *zip(*jobs, strict=True), chunksize=4))


def alarming() -> list[str]:
    """Return the rules that are errors or warnings."""
    return [name for name, rule in RULES.items() if rule.level in ALARMS]


def draw_table(readings: Sequence[Reading]) -> str:
    """Return a table in Markdown: each rule, then all errors and warnings."""
    scores = [score(rule, readings) for rule in RULES]
    healthy = {each.name for each in readings if each.training.rule is None}
    seeds = ", ".join(map(str, sorted({each.seed for each in readings})))
    rows = [draw_row(each, RULES[each.name].level) for each in scores]
    rows.append(draw_row(total(readings, alarming()), ""))
    wronged = sum(each.is_wronged for each in readings)
    note = f"Seeds {seeds}; {len(healthy)} healthy trainings, an error reported in {wronged} of their runs."
    return "\n".join([HEAD, *rows, "", note])


def draw_row(score: Score, level: str) -> str:
    """Return the row of a score; a share of nothing is a dash."""
    recall, precision = ("-" if math.isnan(x) else f"{x:.2f}" for x in (score.recall, score.precision))
    precision = "-" if level == "advice" else precision  # it is no claim that something is wrong
    name = f"`{score.name}`" if score.name in RULES else score.name
    cells = (name, level, score.trainings, score.runs, score.found, recall)
    return "| " + " | ".join(map(str, (*cells, score.reported, score.right, precision))) + " |"


def list_misses(readings: Sequence[Reading]) -> str:
    """Return the false alarms of healthy trainings, those of sick ones, and what was missed."""
    healthy = [each for each in readings if each.training.rule is None]
    sick = [each for each in readings if each.training.rule is not None]
    lines = []
    for title, group in (("False alarms, healthy", healthy), ("False alarms, sick in another way", sick)):
        lines.append(f"{title}:")
        lines += [f"  {each.name} [{each.seed}] {finding}" for each in group for finding in each.false_alarms]
    lines.append("Missed:")
    for each in sick:
        if not each.is_found:
            said = ", ".join(finding.rule for finding in each.findings) or "nothing"
            lack = f", {each.training.rule} had not enough data" * (each.training.rule in each.lacking)
            lines.append(f"  {each.name} [{each.seed}] {each.training.rule}; said: {said}{lack}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
