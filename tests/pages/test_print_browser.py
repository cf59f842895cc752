"""The page on paper, and where no script runs."""

import re
import zlib

import pytest

from actlab.pages.build import report

pytestmark = pytest.mark.browser

PIXELS = 300 / 96  # a page that is not shrunk: 300 dots an inch for 96 pixels


@pytest.fixture(scope="module")
def small_page(small_run, tmp_path_factory):
    return report(small_run, tmp_path_factory.mktemp("page") / "paper.html", h_min=-4, h_max=4, n_bins=40)


def scales(pdf):
    """Return how much Chromium scaled each page."""
    for found in re.finditer(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            text = zlib.decompress(found[1])
        except zlib.error:
            continue
        if sizes := re.findall(rb"([\d.]+) 0 0 [\d.]+ [\d.]+ [\d.]+ cm", text):
            yield float(sizes[0])


@pytest.mark.parametrize("width", [390, 1440])
def test_paper_is_not_shrunk_whatever_the_window(open_page, small_page, width):
    page = open_page(small_page, width=width)
    found = list(scales(page.pdf(format="A4")))
    assert found
    assert found == pytest.approx([PIXELS] * len(found), rel=1e-4)


def test_paper_shows_the_curves_of_the_last_epoch_and_the_window_does_not(open_page, small_page):
    page = open_page(small_page)
    assert not page.is_visible("#peaks figure.still")
    page.emulate_media(media="print")
    assert page.is_visible("#peaks figure.still")
    assert not page.is_visible("#detail")
    assert not page.is_visible("#figure-twin")
    page.emulate_media(media="screen")
    page.wait_for_selector("#figure-twin canvas >> nth=0", state="visible")  # Bokeh lays out after the switch


def test_paper_names_the_range_that_it_shows(open_page, small_page):
    page = open_page(small_page)
    ends = page.locator("#peaks figure.still text").all_text_contents()
    for form in ("range", "peaks-range"):
        for name, value in (("min", "-1"), ("max", "1")):
            page.fill(f"#{form}-{name}", value)
            page.press(f"#{form}-{name}", "Enter")
    assert page.inner_text("#peaks-view").startswith("[-1, 1]")
    assert page.is_visible("#wall-range")
    page.emulate_media(media="print")
    said = page.inner_text("#peaks > .note >> nth=0")
    low, high = re.search(r"^epoch 2, own range \[(\S+), (\S+)\], \d+ bins$", said.strip()).groups()
    assert {low, high} <= set(ends)
    assert not page.is_visible("#wall-range")
    page.emulate_media(media="screen")


def test_the_curves_are_there_without_scripts(open_page, small_page):
    page = open_page(small_page, ready=False, java_script_enabled=False)
    assert page.is_visible("#peaks figure.still")
    assert "epoch 2" in page.inner_text("#peaks")
    assert not page.is_visible("#figure-twin")


def test_a_name_that_does_not_fit_keeps_its_end(open_page, small_page):
    page = open_page(small_page)
    name = page.locator(".tile >> nth=1 >> b")
    name.evaluate("name => { name.firstChild.textContent = `${'block.'.repeat(30)}end`; }")
    inside, frame = (
        name.evaluate(f"name => name.{part}getBoundingClientRect().right") for part in ("firstChild.", "")
    )
    assert inside == pytest.approx(frame, abs=1.5)
    assert name.evaluate("name => name.offsetWidth <= name.closest('.tile').offsetWidth")
