import re

import numpy as np
import pytest

from actlab.axis import LinearAxis
from actlab.charts import twin_peaks_chart
from actlab.charts.twin_peaks_chart import TwinPeaksOptions
from actlab.pages import twin_peaks_section
from actlab.pages.build import report
from actlab.pages.sections import Material


@pytest.fixture(scope="module")
def section(record_run):
    """Return a function that makes the section of head values {split: [(epoch, values, labels or None)]}."""

    def make(targets=None, **splits):
        rows = {
            split: [(epoch, {"fc": values}, label) for epoch, values, label in batches]
            for split, batches in splits.items()
        }
        run = record_run(rows, ["fc"])
        run.attributes["targets"] = targets
        material = Material(
            run=run,
            title="",
            notes="",
            axis=LinearAxis(-1, 1, 10),
            columns=None,
            wall=None,
            peaks=twin_peaks_chart.prepare(run),
            verdict=None,
            colorful=None,
            twin_peaks=TwinPeaksOptions(),
        )
        return twin_peaks_section.peaks(material)

    return make


def two_peaks(seed, distance, units=2):
    """Return values [sample, unit] around -distance and distance, and which unit is which."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, 300)
    sign = np.where(label[:, None] == np.arange(units), 1, -1)
    return distance * sign + random.normal(0, 0.3, (300, units)), label


def titles(section):
    return [(trend["title"], trend["note"]) for trend in section.context["trends"]]


def test_with_labels_the_marks_are_means(section):
    rows = [(epoch, *two_peaks(epoch, 1 + epoch)) for epoch in range(3)]
    made = section(train=rows, valid=rows)
    assert titles(made) == [
        ("Distance of the means", "validation"),
        ("Separation d\N{PRIME}", "in std, validation"),
        ("Train and validation differ by", ""),
    ]
    valid = made.data["splits"].index("valid")
    for epoch, (_, values, label) in enumerate(rows):
        yes = values[np.arange(2) == label[:, None]].astype(np.float32).mean()
        assert made.data["yes"][epoch][valid] == pytest.approx(yes, rel=1e-5)


def test_without_labels_they_are_peaks(section):
    made = section(train=[(epoch, two_peaks(epoch, 2)[0], None) for epoch in range(3)])
    assert titles(made) == [("Distance of the peaks", "train, last quarter")]
    assert np.ravel(made.data["yes"]) == pytest.approx([2] * 3, abs=0.3)
    assert np.ravel(made.data["no"]) == pytest.approx([-2] * 3, abs=0.3)


def test_one_unit_or_one_epoch_of_two_peaks_is_not_yes_and_no(section):
    one_unit = section(train=[(epoch, two_peaks(epoch, 2, units=1)[0], None) for epoch in range(3)])
    once = section(train=[(epoch, two_peaks(epoch, 2 * (epoch == 0))[0], None) for epoch in range(3)])
    for made in (one_unit, once):
        assert np.ravel(made.data["yes"]).tolist() == [None] * 3
        assert np.ravel(made.data["no"]).tolist() == [None] * 3
        assert titles(made) == []


def test_a_regression_is_not_said_to_lack_labels(section):
    rows = [(epoch, two_peaks(epoch, 2)[0], None) for epoch in range(3)]
    for units, made in ((1, section(train=[(0, np.ones((9, 1)), None)])), (2, section("float", train=rows))):
        assert np.ravel(made.data["yes"]).tolist() == [None] * len(made.data["yes"])
        assert (
            made.data["unknown"]
            == {
                1: "no labels: YES and NO are not known",
                2: "a regression: there is no YES and NO",
            }[units]
        )


def test_a_trend_holds_its_numbers_and_short_ends(section):
    rows = [(epoch, *two_peaks(epoch, (-0.002, 1 / 3, 2)[epoch])) for epoch in range(3)]
    made = section(train=rows)
    for trend in made.context["trends"]:
        assert len(trend["dots"]) == 3
        assert all(0 <= float(dot["y"]) <= made.context["size"][1] for dot in trend["dots"])
        for end in (trend["low"], trend["high"]):
            assert len(re.sub(r"e.*|[-.%]|^0\.0*", "", end)) <= 3
    highest = min(made.context["trends"][0]["dots"], key=lambda dot: float(dot["y"]))
    assert highest["epoch"] == 2
    assert highest["said"].startswith("epoch 2: ")


def test_on_paper_are_the_curves_and_marks_of_the_last_epoch(section):
    rows = [(epoch, *two_peaks(epoch, 1 + epoch)) for epoch in range(3)]
    made = section(train=rows, valid=rows)
    still, (width, height) = made.context["still"], made.context["still"]["size"]
    low, high, bins = made.data["range"]
    assert (still["epoch"], list(still["curves"])) == ("epoch 2", ["train", "valid"])
    (points,) = still["curves"]["valid"]
    heights = [height - float(point.split(",")[1]) for point in points.split()]
    assert len(heights) == bins
    assert max(heights) == pytest.approx(height, abs=0.1)
    values = rows[2][1]
    counts, _ = np.histogram(values.astype(np.float32), bins=bins, range=(low, high))
    assert heights == pytest.approx(counts / counts.max() * height, abs=0.03 * height)
    for mark, at in zip(still["marks"], (-3, 3), strict=True):
        assert float(mark["x"]) == pytest.approx((at - low) / (high - low) * width, abs=0.05 * width)
    assert [mark["is_left"] for mark in still["marks"]] == [True, False]


def test_values_that_are_not_finite_draw_nothing_on_paper(section):
    made = section(train=[(0, np.full((8, 2), np.nan), None)])
    assert made.context["still"]["curves"] == {}
    assert made.context["still"]["marks"] == []


def test_the_section_says_its_own_range(section):
    made = section(train=[(0, *two_peaks(0, 3))])
    low, high = (float(end) for end in re.search(r"\[(.*), (.*)\]", made.context["view"]).groups())
    assert low == -high
    assert 3 < high < 10
    assert made.data["range"] == [low, high, int(re.search(r"(\d+) bins", made.context["view"])[1])]


@pytest.fixture
def open_peaks(browser):
    """Return a function that opens a page."""
    pages = []

    def open_(path, width=1200):
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=30_000)
        return page

    yield open_
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def peaks_page(small_run, tmp_path_factory):
    return report(small_run, tmp_path_factory.mktemp("page") / "peaks.html", h_min=-4, h_max=4, n_bins=40)


def look(page, name, what="visible"):
    return page.evaluate(f"Bokeh.documents[0].get_model_by_name('{name}').{what}")


@pytest.mark.browser
def test_marks_and_areas_belong_to_one_split(open_peaks, peaks_page):
    page = open_peaks(peaks_page)
    assert page.text_content("#peaks-said").startswith("validation: means ")
    assert look(page, "yes_label", "text").startswith("mean YES ")
    assert look(page, "no_label", "text").startswith("mean NO ")
    names = ("yes", "no", "yes_label", "truth_yes", "truth_no_area")
    assert all(look(page, name) for name in names)
    page.uncheck('[data-split="valid"]')
    assert not any(look(page, name) for name in names)
    assert look(page, "train")
    page.check('[data-split="valid"]')
    page.uncheck("#peaks-labels")
    assert [look(page, name) for name in names] == [True, True, True, False, False]


@pytest.mark.browser
def test_the_chart_stays_in_place_from_epoch_to_epoch(open_peaks, peaks_page):
    for width in (1200, 390):
        page = open_peaks(peaks_page, width)
        places = set()
        page.focus("#peaks-epoch")
        for key in ("Home", "ArrowRight", "ArrowRight", "End"):
            page.keyboard.press(key)
            page.wait_for_timeout(60)
            places.add(page.evaluate("document.getElementById('figure-twin').offsetTop"))
        assert len(places) == 1


@pytest.mark.browser
def test_equal_epochs_need_no_other_scale(record_run, open_peaks, tmp_path):
    values, _ = two_peaks(0, 1, units=1)
    run = record_run({"train": [(epoch, {"fc": values}, None) for epoch in range(3)]}, ["fc"])
    page = open_peaks(report(run, tmp_path / "equal.html"))
    page.focus("#peaks-epoch")
    page.keyboard.press("Home")
    assert page.text_content("#peaks-said") == "train, last quarter: no labels: YES and NO are not known"
    assert not look(page, "yes")
    assert page.locator("#detail #peaks-key").is_visible()
