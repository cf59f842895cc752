"""Accessibility, as axe-core checks it: no violation of WCAG 2.2 at the levels A and AA."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from actlab.recipe import Recipe

pytestmark = pytest.mark.browser

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.fixture(scope="module")
def full_page(draw, make_finding, small_run):
    findings = [
        make_finding(level, layers=(layer,), rule=f"rule_{level}", name=f"A case of {level}")
        for level, layer in zip(
            ("error", "warning", "advice", "healthy"), ("body.relu", "body.linear", "fc", "fc"), strict=True
        )
    ]
    recipe = Recipe(notes="Some *notes* with a [link](https://example.org) and `code`.")
    return draw(small_run, findings, recipe=recipe, h_min=-4, h_max=4, n_bins=40)


@pytest.fixture(scope="module")
def violations():
    """Return a function that tells what axe-core has against a page, and where."""

    def check(page):
        found = Axe().run(
            page, options={"runOnly": {"type": "tag", "values": LEVELS}, "resultTypes": ["violations"]}
        )
        return {
            each["id"]: [node["target"] for node in each["nodes"]] for each in found.response["violations"]
        }

    return check


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_has_no_violation(open_page, full_page, violations, scheme, width):
    page = open_page(full_page, color_scheme=scheme, width=width)
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert violations(page) == {}
    page.keyboard.press("?")
    assert violations(page) == {}
