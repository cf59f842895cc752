"""A browser that forgives nothing, and pages with a verdict made by hand."""

import pytest

from actlab.axis import LinearAxis
from actlab.charts import colorful_chart, twin_peaks_chart, wall_chart
from actlab.charts.colorful_chart import ColorfulOptions
from actlab.charts.twin_peaks_chart import TwinPeaksOptions
from actlab.findings.finding import Finding, Verdict
from actlab.pages.build import report
from actlab.pages.sections import Material


@pytest.fixture
def open_page(browser):
    """Return a function that opens a page and fails the test on a request or an error."""
    contexts, said = [], []

    def open_(path, *, address="", ready=True, width=1200, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda note: said.append(note.text) if note.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith(("file:", "data:")) else said.append(asked.url),
        )
        page.goto(path.as_uri() + address)
        if ready:
            page.wait_for_selector("html[data-ready]", timeout=30_000)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture(scope="session")
def until():
    """Return a function that waits for an expression to hold; pages forbid playwright's own way."""

    def wait(page, code):
        for _ in range(200):
            if page.evaluate(code):
                return
            page.wait_for_timeout(25)
        raise AssertionError(f"never: {code}")

    return wait


@pytest.fixture(scope="session")
def make_finding():
    """Return a function that makes a finding; what is not named is plain."""

    def make(level="error", layers=("body.relu",), steps=(4, 8), epochs=(0, 0), split="train", **changes):
        plain = {
            "rule": "dead_relu",
            "name": "Dead ReLU",
            "value": 0.984,
            "limit": 0.9,
            "evidence": "63 of 64 units gave 0.",
            "why": "They learn no more.",
            "remedy": f"Lower the learning rate of {layers[0]}.",
            "source": "Lu et al. 2020",
        }
        return Finding(
            level=level, layers=layers, steps=steps, epochs=epochs, split=split, **(plain | changes)
        )

    return make


@pytest.fixture(scope="session")
def make_material():
    """Return a function that makes what a page is made of, with findings made by hand."""

    def make(run, findings=(), *, lacking=(), checked=("dead_relu", "drift"), layers=None, epochs=None):
        axis = LinearAxis(-4, 4, 40)
        columns = colorful_chart.prepare(run, axis, layers=run.select_layers(layers), epochs=epochs)
        return Material(
            run=run,
            title="",
            notes="",
            axis=axis,
            columns=columns,
            wall=wall_chart.prepare(columns),
            peaks=twin_peaks_chart.prepare(run, epochs=epochs),
            verdict=Verdict(findings, lacking, checked, run.path),
            colorful=ColorfulOptions(),
            twin_peaks=TwinPeaksOptions(),
        )

    return make


@pytest.fixture(scope="session")
def draw(tmp_path_factory):
    """Return a function that draws the page of a run with a verdict made by hand."""

    def draw_page(run, findings, lacking=(), **options):
        verdict = Verdict(findings, lacking, ("dead_relu", "drift"), run.path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("actlab.pages.build.check", lambda *_, **__: verdict)
            return report(run, tmp_path_factory.mktemp("page") / "verdict.html", **options)

    return draw_page
