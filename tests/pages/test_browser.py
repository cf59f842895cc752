import csv
import io
import re

import numpy as np
import pytest

from actlab.axis import LinearAxis
from actlab.charts import colorful_chart
from actlab.pages.build import report
from actlab.recipe import Recipe

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><script>window.hit=1</script>",
    '"><img src=x onerror="window.hit=1">',
    "<svg onload=window.hit=1>",
    "{{7*7}}",
    "$$x^2$$",
    "@image{safe}",
    '=1+1,"quoted"',
)


@pytest.fixture(scope="module")
def small_page(small_run, tmp_path_factory):
    return report(small_run, tmp_path_factory.mktemp("page") / "small.html", h_min=-4, h_max=4, n_bins=80)


@pytest.fixture(scope="module")
def hostile_page(record_run, tmp_path_factory):
    random = np.random.default_rng(2)
    names = [*HOSTILE, "fc"]
    rows = [
        (0, {name: random.normal(size=(4, 2)) for name in names}, np.array([0, 1, 0, 1])) for _ in range(3)
    ]
    run = record_run({"train": rows, "valid": rows}, names)
    recipe = Recipe(title=HOSTILE[0] + HOSTILE[1], notes="".join(HOSTILE))
    return report(run, tmp_path_factory.mktemp("page") / "hostile.html", recipe=recipe)


def shown(page, name):
    """Return the arrays of a named glyph as the browser holds them."""
    code = """name => {
      const data = Bokeh.documents[0].get_model_by_name(name).data_source.data;
      return Object.fromEntries(Object.entries(data).map(([key, values]) => [key, [...values].map(
        (value) => typeof value === "number" ? (Number.isFinite(value) ? value : null)
          : [...value].map((number) => Number.isFinite(number) ? number : null))]));
    }"""
    return page.evaluate(code, name)


def test_the_image_holds_the_counts(open_page, small_page, small_run):
    page = open_page(small_page)
    data = colorful_chart.prepare(small_run, LinearAxis(-4, 4, 80))
    for name in ("body.linear", "wild"):
        page.select_option("#layer-select", str(small_run.names.index(name)))
        assert page.text_content("#detail-title").startswith(name)
        page.wait_for_timeout(100)
        truth = data["counts"].sel(layer=name).values.T
        image = np.array(shown(page, "image")["image"][0], float).reshape(truth.shape)
        assert np.array_equal(np.isnan(image), truth == 0)
        np.testing.assert_allclose(image[truth > 0], truth[truth > 0], rtol=0.03)
        means = shown(page, "mean")["y"]
        np.testing.assert_allclose(means, data["mean"].sel(layer=name), rtol=5e-4)


def test_the_twin_peaks_follow_the_slider(open_page, small_page):
    page = open_page(small_page)
    assert page.text_content("#peaks-shown") == "2"
    last = np.array(shown(page, "valid")["y"], float)
    assert last.sum() == pytest.approx(1, abs=0.02)
    page.focus("#peaks-epoch")
    page.keyboard.press("Home")
    assert page.text_content("#peaks-shown") == "untrained"
    assert not np.allclose(last, np.array(shown(page, "valid")["y"], float))
    assert not page.evaluate("Bokeh.documents[0].get_model_by_name('train').visible")


def test_columns_merge_when_there_are_more_than_pixels(record_run, tmp_path, open_page, until):
    random = np.random.default_rng(3)
    rows = [(0, {"fc": random.normal(size=(8, 4))}, None) for _ in range(420)]
    path = report(
        record_run({"train": rows}, ["fc"], raw=False), tmp_path / "long.html", h_min=-5, h_max=5, n_bins=20
    )
    page = open_page(path)
    page.set_viewport_size({"width": 390, "height": 800})
    until(page, "document.getElementById('resolution').textContent.includes('mean of')")
    image = shown(page, "image")
    width = len(image["image"][0]) // 20
    pixels = page.evaluate("Bokeh.documents[0].get_model_by_name('detail').inner_width * devicePixelRatio")
    assert width <= pixels
    merged = int(page.text_content("#resolution").split("mean of ")[1].split(" ")[0])
    assert width == -(-420 // merged)
    for key in "+++":
        page.keyboard.press(key)
    until(page, "document.getElementById('resolution').textContent.includes('= one batch')")
    page.keyboard.press("0")
    until(page, "document.getElementById('resolution').textContent.includes('mean of')")


def test_keys_and_tiles_choose_the_layer(open_page, small_page, small_run):
    page = open_page(small_page)
    title = page.locator("#detail-title")
    assert title.text_content().startswith("fc")
    page.keyboard.press("]")
    assert title.text_content().startswith(small_run.names[0])
    page.keyboard.press("[")
    page.keyboard.press("[")
    assert title.text_content().startswith("wild")
    page.click(".tile >> nth=1")
    assert title.text_content().startswith(small_run.names[1])
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("?")
    assert not page.is_visible("#help")


def test_the_theme_follows_the_system_and_the_key(open_page, small_page):
    page = open_page(small_page, color_scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    for _ in range(20):  # Chromium keeps what a page stores a little later
        page.reload()
        page.wait_for_selector("html[data-ready]")
        if page.evaluate("document.documentElement.dataset.theme") == "light":
            break
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_hovering_says_batch_value_and_count(open_page, small_page):
    page = open_page(small_page)
    page.locator("#figure-detail").scroll_into_view_if_needed()
    box = page.locator("#figure-detail").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#tooltip:not([hidden])")
    assert [line.split()[0] for line in page.text_content("#tooltip").split("\n")] == [
        "batch",
        "value",
        "count",
    ]
    page.mouse.move(2, 2)
    page.wait_for_selector("#tooltip", state="hidden")


def test_a_selection_of_epochs_is_named_by_its_batches(open_page, small_run, tmp_path):
    page = open_page(report(small_run, tmp_path / "some.html", epochs=[0, 2], h_min=-4, h_max=4, n_bins=20))
    assert page.text_content("#resolution").endswith("batches 0 \N{EN DASH} 8, 18 \N{EN DASH} 26")
    code = "[...Bokeh.documents[0].get_model_by_name('detail').below[0].major_label_overrides]"
    ticks = dict(page.evaluate(code))
    assert ticks == {row: str(row if row < 9 else row + 9) for row in ticks}
    assert "20" in ticks.values()
    assert page.text_content("#readout").startswith("batch 26 (epoch 2)")


def test_counts_are_exact_only_where_they_can_be(open_page, small_page, small_run, until):
    page = open_page(small_page)
    page.locator("#figure-detail").scroll_into_view_if_needed()

    def said(layer):
        page.select_option("#layer-select", str(small_run.names.index(layer)))
        page.wait_for_timeout(100)
        box = page.locator("#figure-detail").bounding_box()
        texts = set()
        for height in np.linspace(0.12, 0.75, 40):
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * height)
            if page.is_visible("#tooltip"):
                texts.add(page.text_content("#tooltip").split("\ncount ")[-1])
        return texts - {"none"}

    cut = said("input")
    assert cut
    assert all(text.startswith("≈ ") for text in cut)
    page.evaluate("location.hash = '#range=0,16,128'")  # these edges cut no bucket
    until(page, "document.getElementById('range-bins').value === '128'")
    for layer in ("input", "fc"):
        assert all(re.fullmatch(r"\d+", text) for text in said(layer))


def test_keys_work_after_a_control_was_used(open_page, small_page, small_run):
    page = open_page(small_page)
    page.focus("#peaks-epoch")
    page.keyboard.press("]")
    assert page.text_content("#detail-title").startswith(small_run.names[0])
    page.focus("#layer-select")
    page.keyboard.press("]")
    assert page.text_content("#detail-title").startswith(small_run.names[1])
    page.fill("#wall-filter", "")
    page.keyboard.press("]")
    assert page.input_value("#wall-filter") == "]"
    assert page.text_content("#detail-title").startswith(small_run.names[1])


def test_the_wall_filters_by_name_and_kind(open_page, small_page):
    page = open_page(small_page)
    page.fill("#wall-filter", "body")
    assert page.locator(".tile:visible").count() == 3
    page.fill("#wall-filter", "")
    page.click('.chip[data-kind="Linear"]')
    assert page.locator(".tile:visible").count() == 1
    page.fill("#wall-filter", "nothing like it")
    assert page.is_visible("#wall-none")


def test_the_table_sorts_and_goes_out_as_csv(open_page, small_page, small_run):
    page = open_page(small_page)
    page.click("#table thead button >> text=std")
    column = [row.split("\t") for row in page.inner_text("#table tbody").strip().split("\n")]
    assert column[-1][1] == "body.dropout"
    assert page.get_attribute("#table thead th:nth-child(7)", "aria-sort") == "ascending"
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert {row["layer"] for row in rows} == set(small_run.names)
    spread = [float(row["std"]) for row in rows if row["std"]]
    assert spread == sorted(spread)


@pytest.fixture(scope="module")
def found_page(draw, make_finding, small_run):
    findings = [make_finding("warning", layers=("fc",), name="Odd, fc"), make_finding("error")]
    charts = {"colorful": {"height": 200, "show_layer_info": False}, "twin_peaks": {"height": 250}}
    recipe = Recipe(charts=charts, sections=["verdict", "detail", "twin_peaks", "how_to_read", "numbers"])
    return draw(small_run, findings, recipe=recipe, h_min=-4, h_max=4, n_bins=40)


def test_the_table_names_the_worst_finding_of_each_layer(open_page, found_page):
    page = open_page(found_page)
    page.click("#table thead button >> text=worst finding")
    assert page.locator("#table tbody th").all_inner_texts()[:2] == ["body.relu", "fc"]
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    told = {row["layer"]: row["worst finding"] for row in rows}
    assert told["body.relu"] == "error: Dead ReLU"
    assert told["fc"] == "warning: Odd, fc"
    assert told["input"] == "none"
    for name in ("Dead ReLU", "Odd, fc"):
        link = page.locator(f"#table a >> text={name}")
        assert name in page.inner_text(link.get_attribute("href"))


def test_figures_are_as_high_as_asked_for_and_the_layer_goes_by_its_name(open_page, found_page):
    page = open_page(found_page)
    heights = [page.locator(f"#figure-{name}").bounding_box()["height"] for name in ("detail", "twin")]
    assert heights == [290, 290]
    assert page.inner_text("#detail-title").strip() == "fc"
    assert "output" not in page.inner_text("#layer-facts")


def test_paper_shows_the_answers_and_no_controls(open_page, found_page):
    page = open_page(found_page)
    answer = page.locator("#reading details >> text=Two histograms can be equal")
    assert not answer.is_visible()
    page.emulate_media(media="print")
    assert answer.is_visible()
    assert not page.is_visible("#layer-select")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hostile_names_do_nothing(open_page, hostile_page):
    page = open_page(hostile_page)
    for index in range(len(HOSTILE)):
        page.select_option("#layer-select", str(index))
        page.wait_for_timeout(60)
    assert page.evaluate("window.hit") is None
    assert page.locator("#detail-title").text_content().startswith(HOSTILE[-1])
    assert page.locator("h1").text_content() == HOSTILE[0] + HOSTILE[1]
    assert page.locator("img:not([src^='data:image/png'])").count() == 0


def test_the_policy_is_in_force(browser, small_page):
    page = browser.new_page()
    page.goto(small_page.as_uri())
    said = []
    page.on("console", lambda note: said.append(note.text))
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'hit = 1'}))")
    assert page.evaluate("window.hit") is None
    assert "Content Security Policy" in " ".join(said)
    page.close()


def test_the_page_reads_without_scripts(open_page, small_page, small_run):
    page = open_page(small_page, ready=False, java_script_enabled=False)
    assert page.locator(".tile img").count() == len(small_run.names)
    assert page.is_visible("#numbers table")
    assert page.is_visible("#detail noscript p")
    assert not page.is_visible("#layer-select")


def test_no_width_overflows(open_page, small_page):
    page = open_page(small_page)
    for width in (360, 390, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 1440])
def test_the_ends_of_a_lane_stand_on_one_line(open_page, small_page, width):
    page = open_page(small_page, width=width)
    code = """() => [...document.querySelectorAll(".lane .ends span")].map((end) => {
      end.textContent = "-4.172e-07";
      return [end.getClientRects().length, end.offsetHeight < 20, end.scrollWidth <= end.clientWidth + 0.5];
    })"""
    found = page.evaluate(code)
    assert found
    assert all(each == [1, True, True] for each in found)
