"""What a page costs a browser: opening it, and another layer or range, beside an empty Bokeh page.

In every round Chromium opens an empty Bokeh page and then the page given, each in a browser of its own.
Times are those of processors: other programs running beside do not count, but for the first paint. A redraw
is all script, layout and style from the call until two frames later. Prints a table for README.md.

    python benchmarks/page.py PAGE.html [--rounds N] [--chromium PATH]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from bokeh.plotting import figure, save
from bokeh.resources import INLINE
from playwright.sync_api import Page, sync_playwright

from models import describe_machine

OWN = ("TaskDuration",)
RANGES = ((-10, 10, 200), (-4, 4, 100), (-1, 1, 400), (0, 0.5, 100))
LAYER = "const list = $('layer-select'); list.value = '{0}'; list.dispatchEvent(new Event('change'))"
RANGE = """['min', 'max', 'bins'].forEach((name, i) => {{ $(`range-${{name}}`).value = {0}[i]; }});
  $('range-min').dispatchEvent(new Event('change'))"""
REDRAW = """(async () => {
  const $ = (id) => document.getElementById(id);
  const frame = () => new Promise(requestAnimationFrame);
  const held = () => Bokeh.documents[0].get_model_by_name("image").data_source.data;
  const before = held();
  %s;
  while (held() === before) await frame();
  await frame();
  await frame();
})()"""


class Costs:
    """One page in one browser.

    Parameters
    ----------
    playwright : playwright.sync_api.Playwright
        What drives it.
    path : Path
        The page.
    chromium : str or None
        The browser; that of playwright if none.
    """

    def __init__(self, playwright: Any, path: Path, chromium: str | None) -> None:
        self.browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        self.system = self.browser.new_browser_cdp_session()
        self.page: Page = self.browser.new_page(viewport={"width": 1440, "height": 1000})
        self.tools = self.page.context.new_cdp_session(self.page)
        self.tools.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.page.goto(path.as_uri())

    def renderers(self) -> float:
        """Return the processor time of all renderers, milliseconds."""
        found = self.system.send("SystemInfo.getProcessInfo")["processInfo"]
        return 1e3 * sum(each["cpuTime"] for each in found if each["type"] == "renderer")

    def first_paint(self) -> float:
        """Return when the page was painted first, milliseconds."""
        return float(self.page.evaluate("performance.getEntriesByType('paint')[0].startTime"))

    def own(self) -> float:
        """Return the processor time of script, layout and style so far, milliseconds."""
        found = self.tools.send("Performance.getMetrics")["metrics"]
        return 1e3 * sum(each["value"] for each in found if each["name"] in OWN)

    def redraw(self, code: str) -> float:
        """Return what a call costs, with the frames after it, milliseconds."""
        before = self.own()
        self.page.evaluate(REDRAW % code)
        return self.own() - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chromium")
    options = parser.parse_args()
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        blank = Path(folder) / "blank.html"
        frame = figure()
        frame.line([0, 1], [0, 1])
        save(frame, blank, resources=INLINE, title="empty")
        for _ in range(options.rounds):
            for name, path, until in (
                ("empty page", blank, ".bk-Figure"),
                ("page", options.page.resolve(), "html[data-ready]"),
            ):
                costs = Costs(playwright, path, options.chromium)
                costs.page.wait_for_selector(until, state="attached", timeout=120_000)
                costs.page.wait_for_timeout(500)
                found[f"{name} to ready"].append(costs.renderers())
                found[f"{name} paint"].append(costs.first_paint())
                if name == "page":
                    layers = costs.page.evaluate("document.getElementById('layer-select').length")
                    for index in range(8):
                        found["layer"].append(costs.redraw(LAYER.format(index * layers // 8)))
                    for bins in RANGES:
                        found[f"range {bins}"].append(costs.redraw(RANGE.format(list(bins))))
                costs.browser.close()
    for what in ("to ready", "paint"):
        ratios = [a / b for a, b in zip(found[f"page {what}"], found[f"empty page {what}"], strict=True)]
        found[f"{what}, over that of the empty page"] = ratios
    print("| what | median (least to most) |\n|---|---|")
    for what, numbers in found.items():
        unit = "" if "over" in what else " ms"
        middle, least, most = (
            f"{each:.0f}" if unit else f"{each:.2f}"
            for each in (statistics.median(numbers), min(numbers), max(numbers))
        )
        print(f"| {what} | {middle}{unit} ({least} to {most}) |")
    print(f"\n{options.page.stat().st_size / 1e6:.2f} MB; {options.rounds} rounds; {describe_machine()}")


if __name__ == "__main__":
    main()
