"""Links of findings, in a browser: each lands on the very batches, and says so where it cannot."""

import re

import numpy as np
import pytest

from actlab.recipe import Recipe

pytestmark = pytest.mark.browser

HOSTILE = "</script><img onerror=window.hit=1 src=x>"
CALM = {"reduced_motion": "reduce"}  # jumps in place of gliding


@pytest.fixture(scope="module")
def found(make_finding):
    follower = make_finding("warning", ("wild",), (20, 20), (2, 2), name="Stuck output")
    return [
        make_finding(layers=("body.relu", "input"), steps=(12, 14), epochs=(1, 1), followers=(follower,)),
        make_finding("warning", ("fc",), (6, 11), (1, 2), "valid", name="Overfitting"),
        make_finding("warning", ("body.linear",), (6, 8), (1, 1), "valid", name="Shift"),
        make_finding("healthy", ("input",), (0, 26), (0, 2), name="Steady"),
    ]


@pytest.fixture(scope="module")
def page_path(draw, small_run, found):
    return draw(small_run, found, h_min=-4, h_max=4, n_bins=40)


def place(page):
    """Return the layer that is shown, the rows in sight, and those that are marked."""
    layer = page.evaluate("document.getElementById('detail-title').firstChild.textContent.trim()")
    code = """() => {
      const [range, mark] = ["batches", "mark"].map((name) => Bokeh.documents[0].get_model_by_name(name));
      return [range.start, range.end, ...mark.data_source.data.x];
    }"""
    start, end, *marked = page.evaluate(code)
    return layer, (start, end), tuple(marked)


def top(page, section):
    return page.evaluate(f"document.getElementById('{section}').getBoundingClientRect().top")


def test_a_link_lands_on_the_very_batches(open_page, page_path, until):
    page = open_page(page_path, **CALM)
    page.click(".finding >> nth=0 >> .goto >> nth=0")
    until(page, "document.getElementById('mark-said').textContent !== ''")
    layer, (start, end), marked = place(page)
    assert layer == "body.relu"
    assert marked == (12, 15)
    assert start <= 12 - 4
    assert end >= 15 + 4
    assert page.text_content("#mark-said") == "marked: batches 12 \N{EN DASH} 14"
    assert page.text_content("#readout").startswith("batch 12 (epoch 1)")
    assert 0 < top(page, "detail") < 100
    assert page.url.endswith("#at=2:12-14")
    page.keyboard.press("]")
    until(page, "document.getElementById('mark-key').hidden")
    assert place(page)[2] == ()
    page.keyboard.press("[")
    until(page, "document.getElementById('mark-said').textContent !== ''")
    page.keyboard.press("0")
    page.click(".finding >> nth=0 >> .goto >> nth=0")
    until(page, "Bokeh.documents[0].get_model_by_name('batches').end < 27")
    assert place(page) == (layer, (start, end), marked)


def test_every_link_of_the_verdict_leads_where_it_says(open_page, page_path, small_run):
    page = open_page(page_path, **CALM)
    for summary in page.locator("#verdict summary").all():
        summary.click()
    links = page.locator("#verdict [data-address]:not(.shot)").all()
    assert len(links) == 10
    for link in links:
        address = link.get_attribute("data-address")
        link.click()
        page.wait_for_timeout(150)
        assert address in page.url.partition("#")[2].split("&")  # beside the layer looked at
        if address.startswith("peaks="):
            assert page.text_content("#peaks-shown") == address.removeprefix("peaks=")
            assert 0 < top(page, "peaks") < 100
        else:
            layer, first, last = map(int, re.split(r"\D", address.removeprefix("at=")))
            assert place(page)[0] == small_run.names[layer]
            assert place(page)[2] == (first, last + 1)
            assert 0 < top(page, "detail") < 100
        assert not page.is_visible("#address-note")


@pytest.mark.parametrize(
    ("address", "layer", "marked"),
    [
        ("#at=4:20-20", "wild", (20, 21)),
        ("#at=4:20", "wild", (20, 21)),
        ("#at%3D4%3A26-26", "wild", (26, 27)),
        ("#at=0:0-0", "input", (0, 1)),
        ("#at=0:0-26", "input", (0, 27)),
        ("#at=1", "body.linear", ()),
    ],
)
def test_an_address_works_when_mailed_and_when_typed(
    open_page, page_path, small_run, until, address, layer, marked
):
    mailed = open_page(page_path, address=address, **CALM)
    typed = open_page(page_path, **CALM)
    typed.evaluate("address => { window.location.hash = address }", address)
    until(typed, f"document.getElementById('layer-select').value === '{small_run.names.index(layer)}'")
    typed.wait_for_timeout(150)
    for page in (mailed, typed):
        shown, (start, end), found = place(page)
        assert (shown, found) == (layer, marked)
        assert 0 <= start < end <= 27
        assert end - start >= 8
        if marked:
            assert start <= marked[0]
            assert end >= marked[1]
        assert 0 < top(page, "detail") < 100


def test_the_twin_peaks_of_an_epoch_have_an_address(open_page, page_path):
    page = open_page(page_path, address="#peaks=-1", **CALM)
    assert page.text_content("#peaks-shown") == "untrained"
    assert 0 < top(page, "peaks") < 100


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("#at=17:3-4", "Layer 17 is not on this page, which has layers 0 to 5"),
        ("#at=3:20-40", "Row 40 is not on this page, which has rows 0 to 26"),
        ("#at=3:9-4", "9-4” ends before it begins"),
        ("#at=fc", "“fc” is no place"),
        (f"#at={HOSTILE}", f"“{HOSTILE}” is no place"),
        ("#at=%E0%A4%A", "is no place"),
        ("#peaks=7", "Epoch 7 is not on this page, which has epochs -1 to 2"),
        ("#peaks=", "is not on this page"),
    ],
)
def test_an_address_that_leads_nowhere_is_said_so(open_page, page_path, until, address, said):
    page = open_page(page_path, **CALM)
    page.evaluate("address => { window.location.hash = address }", address)
    page.wait_for_selector("#address-note:visible")
    assert said in page.text_content("#address-note")
    assert 0 < top(page, "address-note") < 100
    assert page.evaluate("window.hit") is None
    page.evaluate("window.location.hash = '#at=0:1-2'")
    page.wait_for_selector("#address-note", state="hidden")
    until(page, "document.getElementById('mark-said').textContent !== ''")


def test_a_mark_is_never_nearer_than_eight_columns(open_page, draw, small_run, make_finding):
    recipe = Recipe(charts={"colorful": {"max_columns": 14}})
    found = [make_finding(layers=("wild",), steps=(25, 25), epochs=(2, 2))]
    page = open_page(draw(small_run, found, recipe=recipe), address="#at=4:25-25", **CALM)
    assert page.text_content("#resolution").startswith("one column = one batch, kept in full here")
    _, (start, end), marked = place(page)
    assert (start, end) == (11, 27)
    assert marked == (25, 26)


def test_the_wall_shows_what_is_flagged(open_page, page_path):
    page = open_page(page_path)
    page.click(".chip[data-flagged]")
    names = [tile.get_attribute("data-name") for tile in page.locator(".tile:visible").all()]
    assert names == ["input", "body.linear", "body.relu", "wild", "fc"]
    page.click('.chip[data-kind="Linear"]')
    assert page.locator(".tile:visible").count() == 1
    page.click(".chip[data-flagged]")
    page.click('.chip[data-kind="Linear"]')
    assert page.locator(".tile:visible").count() == 6
    frame, tick = (
        page.locator(f'.tile[data-name="wild"] {part}').bounding_box() for part in (".frame", ".tick")
    )
    middle = (tick["x"] + tick["width"] / 2 - frame["x"]) / frame["width"]
    assert middle == pytest.approx(20.5 / 27, abs=0.02)


def test_hostile_names_and_words_do_nothing(open_page, draw, record_run, make_finding, until):
    rows = [(0, {HOSTILE: np.arange(6.0) + step, "fc": np.ones((2, 2))}, None) for step in range(9)]
    texts = dict.fromkeys(("name", "rule", "evidence", "why", "remedy", "source"), HOSTILE)
    found = [make_finding(layers=(HOSTILE, "fc"), steps=(3, 4), **texts)]
    page = open_page(draw(record_run({"train": rows}, [HOSTILE, "fc"]), found), **CALM)
    for summary in page.locator("#verdict summary").all():
        summary.click()
    page.click(".finding .goto")
    until(page, "document.getElementById('mark-said').textContent !== ''")
    assert place(page)[0] == HOSTILE
    assert page.evaluate("window.hit") is None
    assert page.locator("img:not([src^='data:image/png'])").count() == 0


def test_without_scripts_links_lead_to_sections(open_page, page_path):
    page = open_page(page_path, ready=False, java_script_enabled=False, **CALM)
    assert page.locator("#verdict .finding").count() == 3
    assert not page.is_visible("#address-note")
    page.click(".finding >> nth=0 >> summary:has-text('Why it matters')")
    assert page.is_visible(".why >> nth=0 >> text=Lower the learning rate of body.relu.")
    sections = [link.get_attribute("href") for link in page.locator("#verdict [data-address]").all()]
    assert set(sections) == {"#tile-0", "#tile-1", "#tile-2", "#tile-4", "#peaks"}
    for section in set(sections):
        assert page.locator(section).count() == 1
    page.click(".finding >> nth=1 >> .goto")
    assert page.url.endswith("#peaks")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_verdict_reads_at_every_width(open_page, page_path, scheme):
    page = open_page(page_path, color_scheme=scheme)
    for summary in page.locator("#verdict summary").all():
        summary.click()
    for width in (360, 390, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        inside = page.evaluate(
            """() => [...document.querySelectorAll("#verdict *")].every((part) => {
              const card = document.getElementById("verdict").getBoundingClientRect();
              const box = part.getBoundingClientRect();
              const within = box.left >= card.left && box.right <= card.right + 0.5;
              return part.className === "unseen" || box.width === 0 || within;
            })"""
        )
        assert inside


# Relative luminance and contrast as WCAG 2 defines them; 4.5 is what it asks of text.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (...colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => rgb.reduce((sum, c, i) => sum + linear(c / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const card = getComputedStyle(document.getElementById("verdict")).backgroundColor;
  const parts = [".count", ".layer", ".icon", ".goto", "p"].map((part) => `#verdict ${part}`).join();
  return Math.min(...[...document.querySelectorAll(parts)].map((part) => {
    const { color, backgroundColor } = getComputedStyle(part);
    const pair = [light(paint(color)), light(paint(card, backgroundColor))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_verdict_has_contrast_in_both_themes(open_page, page_path, scheme):
    page = open_page(page_path, color_scheme=scheme)
    assert page.evaluate(CONTRAST) >= 4.5


def test_paper_carries_the_verdict_first_with_what_to_do(open_page, page_path):
    page = open_page(page_path, width=720)
    page.emulate_media(media="print")
    assert page.is_visible("#verdict .finding >> nth=0 >> text=Lower the learning rate of body.relu.")
    assert not page.is_visible("#verdict .why >> nth=0")
    bottom = page.evaluate("document.querySelector('.findings').getBoundingClientRect().bottom + scrollY")
    assert bottom < 1050  # of an A4 page at 96 pixels an inch
