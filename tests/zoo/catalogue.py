"""The catalogue of rules in docs/findings.md: written from the rules themselves, with pictures of the zoo.

python -m tests.zoo.catalogue              # text and pictures; needs Chromium
python -m tests.zoo.catalogue --text-only
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import actlab
from actlab.findings.catalogue import RULES
from actlab.findings.rule import Rule
from actlab.stats import fit_axis
from tests.zoo.trainings import TRAININGS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "findings.md"
PICTURES = Path("images", "findings")
_WIDTH = 620
_PLAIN = """const drawn = Bokeh.documents[0], box = drawn.get_model_by_name("chosen_epoch");
if (box) box.visible = false;
for (const figure of drawn.roots()) figure.toolbar_location = null;"""


@dataclass(frozen=True)
class Pair:
    """A healthy and a sick picture: of which trainings and layers, on which scale, and how to read them."""

    healthy: tuple[str, str]
    sick: tuple[str, str]
    reading: str
    h_range: tuple[float, float] | None = None  # None: each layer in its own
    figure: str = "detail"


PAIRS = {
    name: Pair(**pair)
    for name, pair in tomllib.loads(
        Path(__file__).with_name("pairs.toml").read_text(encoding="utf-8")
    ).items()
}


def rules_table() -> str:
    """Return the table of all rules."""
    rows = [
        f"| [`{rule.id}`](#{rule.id}) | {rule.level} | {rule.looks_at} | {rule.needs} |"
        for rule in RULES.values()
    ]
    return "\n".join(["| id | level | looks at | needs |", "|---|---|---|---|", *rows])


def section(rule: Rule) -> str:
    """Return what the page says of a rule."""
    pair = PAIRS[rule.id]
    pictures = {kind: _picture(rule, kind) for kind in ("healthy", "sick")}
    kinds = ("with", "without") if rule.level == "healthy" else ("healthy", "sick")
    heads = [
        f"{kind}: {name}, layer `{layer}`"
        for kind, (name, layer) in zip(kinds, (pair.healthy, pair.sick), strict=True)
    ]
    limits = [
        f"| `{key}` | {json.dumps(value)} | {rule.limits.model_fields[key].description} |"
        for key, value in rule.limits().model_dump().items()
    ]
    return "\n".join(
        [
            f"### {rule.id}\n",
            f"**{rule.name}**, {rule.level}. {rule.why}\n",
            f"| {' | '.join(name.replace('_', ' ') if '`' not in name else name for name in heads)} |",
            "|---|---|",
            f"| {' | '.join(f'![{kind}]({pictures[kind].as_posix()})' for kind in pictures)} |\n",
            f"{pair.reading}\n",
            f"*What to do.* {rule.remedy.replace('{layer}', 'the layer')}\n",
            f"*Looks at* {rule.looks_at}. *Needs* {rule.needs}. *Source*: {rule.source}\n",
            "| threshold | default | |",
            "|---|---|---|",
            *limits,
        ]
    )


def _picture(rule: Rule, kind: str) -> Path:
    return PICTURES / f"{rule.id}_{kind}.webp"


def catalogue() -> str:
    """Return the sections of all rules."""
    return "\n\n".join(section(rule) for rule in RULES.values())


def fill(text: str, marker: str, content: str) -> str:
    """Put content between the markers of a page."""
    found = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    assert found.search(text), marker
    return found.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def between(text: str, marker: str) -> str:
    """Return what lies between the markers of a page."""
    found = re.search(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", text, re.DOTALL)
    assert found is not None, marker
    return found[1]


def draw(seed: int = 0) -> None:
    """Record the trainings, draw their pages, and take the pictures."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    (DOCS / PICTURES).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for rule in RULES.values():
            for kind, page in _pages(rule, Path(folder), seed):
                (DOCS / _picture(rule, kind)).write_bytes(_shot(browser, page, PAIRS[rule.id].figure))
        browser.close()


def _pages(rule: Rule, folder: Path, seed: int) -> Iterator[tuple[str, Path]]:
    """Draw the pages of the healthy and the sick layer of a rule."""
    pair = PAIRS[rule.id]
    for kind, (name, layer) in (("healthy", pair.healthy), ("sick", pair.sick)):
        run = folder / f"{name}.zarr"
        if not run.exists():
            TRAININGS[name].record(run, seed)
        page, opened = folder / f"{rule.id}_{kind}.html", actlab.open_run(run)
        low, high = pair.h_range or _range(opened, layer)
        actlab.report(opened, page, layers=[layer], h_min=low, h_max=high)
        yield kind, page


def _range(run: actlab.Run, layer: str) -> tuple[float, float]:
    """Return the range of a layer, with some air."""
    axis = fit_axis(run.totals("train").sel(layer=layer), range="p0.5")
    air = (axis.h_max - axis.h_min) / 6
    return axis.h_min - air, axis.h_max + air


def _shot(browser: Any, page: Path, figure: str) -> bytes:
    """Take a picture of a figure of a page, without what is there to be clicked."""
    tab = browser.new_page(viewport={"width": _WIDTH, "height": 900}, color_scheme="light")
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready=yes]")
    tab.evaluate(f"() => {{ {_PLAIN} }}")
    tab.wait_for_timeout(300)  # milliseconds, for Bokeh to lay it out
    taken = tab.locator(f"#figure-{figure}").screenshot()
    tab.close()
    held = io.BytesIO()
    Image.open(io.BytesIO(taken)).convert("RGB").save(held, "WEBP", quality=88, method=6)
    return held.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the generated parts of the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--text-only", action="store_true")
    options = parser.parse_args(arguments)
    if not options.text_only:
        draw()
    text = PAGE.read_text(encoding="utf-8")
    text = fill(fill(text, "rules", rules_table()), "catalogue", catalogue())
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
