"""The page brings its counts onto another range: by fields, buttons, address, and by pulling the axis."""

import re

import numpy as np
import pytest

from actlab.axis import LinearAxis
from actlab.charts import colorful_chart, twin_peaks_chart
from actlab.pages.build import report

pytestmark = pytest.mark.browser

RANGES = ((-2.5, 3, 33), (0, 0.5, 50), (-100, 100, 7), (1, 2, 5))


@pytest.fixture(scope="module")
def small_page(small_run, tmp_path_factory):
    return report(small_run, tmp_path_factory.mktemp("page") / "range.html", h_min=-4, h_max=4, n_bins=80)


def held(page, name, key):
    code = """([name, key]) => {
      const values = Bokeh.documents[0].get_model_by_name(name).data_source.data[key];
      return (key === "image" ? [...values[0]] : [...values]).map((value) =>
        typeof value === "number" ? (Number.isFinite(value) ? value : 0) : [...value]); }"""
    return np.array(page.evaluate(code, [name, key]))


def model(page, name, key):
    return page.evaluate(f"Bokeh.documents[0].get_model_by_name('{name}').{key}")


def go(page, until, bins):
    page.evaluate(f"location.hash = '#range={','.join(map(str, bins))}'")
    until(page, f"document.getElementById('range-bins').value === '{bins[2]}'")


@pytest.mark.parametrize("bins", RANGES)
def test_an_address_draws_what_the_run_draws_on_that_range(open_page, small_page, small_run, until, bins):
    page = open_page(small_page)
    page.select_option("#layer-select", str(small_run.names.index("body.linear")))
    go(page, until, bins)
    data = colorful_chart.prepare(small_run, LinearAxis(*bins), layers=["body.linear"]).isel(layer=0)
    image = held(page, "image", "image").reshape(bins[2], -1)
    np.testing.assert_allclose(image, data["counts"].values.T, rtol=0.03, atol=1e-6)
    ends = [model(page, "color_mapper", end) for end in ("low", "high")]
    np.testing.assert_allclose(ends, [float(data["low"]), float(data["high"])], rtol=0.03)
    assert [model(page, "values", end) for end in ("start", "end")] == list(bins[:2])
    for epoch, (whole, quarter, valid) in enumerate(
        zip(data["epoch_counts"], data["quarter_counts"], data["valid_counts"], strict=True)
    ):
        curves = [held(page, f"{name}_histograms", "xs")[epoch] for name in ("epoch", "quarter", "valid")]
        for found, known in zip(curves, (whole.values, quarter.values, valid.values), strict=True):
            wide = found - data["epoch_first_row"].values[epoch]
            np.testing.assert_allclose(wide > 0, known > 0)
    flow = float(data["total_out_of_range"])
    said = page.text_content("#layer-facts").split("out of range ")[1].split("%")[0]
    assert float(said.strip("<")) == pytest.approx(100 * flow, rel=0.06, abs=0.02)
    assert f"[{bins[0]:g}, {bins[1]:g}]" in page.text_content("#layer-facts")
    assert f"[{bins[0]:g}, {bins[1]:g}]" in page.text_content("#wall-range")


def test_the_twin_peaks_follow_and_have_a_range_of_their_own(open_page, small_page, small_run, until):
    page = open_page(small_page)
    own = [page.input_value(f"#peaks-range-{end}") for end in ("min", "max", "bins")]
    go(page, until, (-3, 2, 40))
    page.evaluate("document.getElementById('peaks').scrollIntoView({ behavior: 'instant' })")
    until(page, "Bokeh.documents[0].get_model_by_name('valid').data_source.data.y.length === 40")
    data = twin_peaks_chart.prepare(small_run, axis=LinearAxis(-3, 2, 40)).isel(epoch=-1)
    for split in ("train", "valid"):
        known = data["curves"].sel(split=split).values
        np.testing.assert_allclose(
            held(page, split, "y"), known, rtol=0.05, atol=0.1 / float(data["n"].max())
        )
    np.testing.assert_allclose(
        held(page, "truth_yes", "y").sum(), float(data["yes"].sel(split="valid").sum()), rtol=0.03
    )
    page.fill("#peaks-range-bins", "25")
    page.press("#peaks-range-bins", "Enter")
    assert len(held(page, "valid", "y")) == 25
    assert page.input_value("#range-bins") == "40"
    page.click("#peaks-range-reset")
    assert [page.input_value(f"#peaks-range-{end}") for end in ("min", "max", "bins")] == own
    assert page.text_content("#peaks-view").startswith("own range ")


def test_fit_and_reset_are_buttons(open_page, small_page, small_run):
    page = open_page(small_page)
    page.select_option("#layer-select", str(small_run.names.index("body.relu")))
    page.click("#range-fit")
    low, high = (float(page.input_value(f"#range-{end}")) for end in ("min", "max"))
    counts = small_run.totals("train").sel(layer="body.relu")
    reach = counts["upper"].values[1:-2][np.cumsum(counts.values[1:-2]) >= 0.999 * counts.values[1:-2].sum()][
        0
    ]
    assert low == 0
    assert 0.9 * reach < high < 1.1 * reach
    assert page.input_value("#peaks-range-max") != page.input_value("#range-max")
    page.click("#range-reset")
    assert [page.input_value(f"#range-{end}") for end in ("min", "max", "bins")] == ["-4", "4", "80"]
    assert not page.is_visible("#wall-range")


def test_the_range_in_use_stands_in_the_address_and_draws_the_same_again(open_page, small_page, until):
    page = open_page(small_page, address="#numbers")
    page.fill("#range-bins", "30")
    page.press("#range-bins", "Tab")
    until(page, "location.hash === '#numbers&range=-4,4,30'")
    page.click("#range-fit")
    until(page, "/^#numbers&range=.*,30&peaks-range=-4,4,30$/.test(location.hash)")
    drawn = held(page, "image", "image")
    again = open_page(small_page, address=page.evaluate("location.hash"))
    assert np.array_equal(held(again, "image", "image"), drawn)
    assert again.input_value("#peaks-range-bins") == "30"
    until(again, "document.getElementById('numbers').getBoundingClientRect().top < innerHeight")
    again.click("#range-reset")
    until(again, "location.hash === '#numbers'")


def test_the_layer_looked_at_stands_in_the_address_too(open_page, small_page, until):
    page = open_page(small_page)
    page.keyboard.press("]")
    page.keyboard.press("]")
    until(page, "location.hash === '#at=1'")
    page.click("#range-fit")
    until(page, "/^#at=1&range=.*,80&peaks-range=-8,8,20$/.test(location.hash)")
    again = open_page(small_page, address=page.evaluate("location.hash"))
    assert again.input_value("#layer-select") == "1"
    assert np.array_equal(held(again, "image", "image"), held(page, "image", "image"))
    page.click("#range-reset")
    page.select_option("#layer-select", "5")
    until(page, "location.hash === '#at=5'")


def test_marked_batches_leave_the_address_when_others_are_looked_at(open_page, small_page, until):
    page = open_page(small_page, address="#at=2:3-4")
    page.keyboard.press("]")
    until(page, "location.hash === '#at=3'")
    page.keyboard.press("[")
    until(page, "location.hash === '#at=2:3-4'")
    page.keyboard.press("+")
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    until(page, "location.hash === '#at=2'")
    page.keyboard.press("0")
    until(page, "location.hash === '#at=2:3-4'")


@pytest.fixture(scope="module")
def absurd_page(record_run, tmp_path_factory):
    """A layer of up to 1.5e21 in training, more in validation, and one with a single value in the range."""
    random = np.random.default_rng(3)

    def rows(most):
        nearly = np.full((8, 64), 9.0)
        nearly[0, 0] = 0
        huge = np.append(random.uniform(0, most, 511), most).reshape(8, 64)
        return [(0, {"huge": huge, "nearly": nearly, "out": nearly + 9}, None) for _ in range(6)]

    splits = {"train": rows(1.5e21), "valid": rows(9e30)}
    run = record_run(splits, ["huge", "nearly", "out"], head=None, raw=False)
    return report(run, tmp_path_factory.mktemp("page") / "absurd.html", h_min=-4, h_max=4, n_bins=50)


def test_fit_ends_with_the_largest_value_where_the_recording_has_one_slot(open_page, absurd_page):
    page = open_page(absurd_page, address="#at=0")
    page.click("#range-fit")
    assert page.input_value("#range-min") == "0"
    assert 1.4e21 < float(page.input_value("#range-max")) <= 1.5e21
    drawn = held(page, "image", "image").reshape(50, -1).sum(axis=0)
    np.testing.assert_allclose(drawn, 512, rtol=0.02)
    flow = page.text_content("#limits").split("out of range here ")[1].split("%")[0]
    assert float(flow.strip("<")) < 0.2
    wide = """() => {
      const field = document.getElementById("range-max");
      const pen = document.createElement("canvas").getContext("2d");
      const { font, paddingLeft, paddingRight } = getComputedStyle(field);
      pen.font = font;
      const arrows = 18;
      return field.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight) - arrows
        - pen.measureText("-1.6e+21").width;
    }"""
    assert page.evaluate(wide) >= 0
    valid = held(page, "valid_histograms", "xs")[0]
    assert np.all(valid - valid.min() <= 1e-6 * valid.max())


def test_all_is_said_only_where_nothing_is_drawn(open_page, absurd_page):
    page = open_page(absurd_page, address="#at=1")
    for part in ("#layer-facts", "#limits", "#readout"):
        assert re.search(r"out of range (here )?>99%", page.text_content(part))
    page.keyboard.press("]")
    for part in ("#layer-facts", "#limits", "#readout"):
        assert re.search(r"out of range (here )?100%", page.text_content(part))


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("min", "5", "begin below its end"),
        ("max", "", "must be numbers"),
        ("bins", "2.5", "whole number from 1 to 4096"),
        ("bins", "5000", "whole number from 1 to 4096"),
    ],
)
def test_a_bad_range_is_said_and_changes_nothing(open_page, small_page, field, text, said):
    page = open_page(small_page)
    before = held(page, "image", "image")
    page.fill(f"#range-{field}", text)
    page.press(f"#range-{field}", "Tab")
    assert said in page.text_content("#range-said")
    assert np.array_equal(held(page, "image", "image"), before)
    page.fill(f"#range-{field}", {"min": "-5", "max": "6", "bins": "20"}[field])
    page.press(f"#range-{field}", "Tab")
    assert page.text_content("#range-said") == ""
    assert not np.array_equal(held(page, "image", "image"), before)


@pytest.mark.parametrize(
    "address", ["-4,4", "4,-4,100", "a,b,c", "0,1,0", "-1e300,1e300,9", "1,1.0000000000000002,99"]
)
def test_a_bad_address_is_said_and_changes_nothing(open_page, small_page, address):
    page = open_page(small_page, address=f"#range={address}")
    assert page.is_visible("#address-note")
    assert page.input_value("#range-bins") == "80"


def test_pulling_the_axis_moves_an_end_or_both(open_page, small_page):
    page = open_page(small_page)
    page.locator("#figure-detail").scroll_into_view_if_needed()
    box = page.locator("#value-axis").bounding_box()

    def pull(share, by):
        x, y = box["x"] + 20, box["y"] + box["height"] * share
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y + by, steps=3)
        page.mouse.up()
        page.wait_for_timeout(100)
        return [float(page.input_value(f"#range-{end}")) for end in ("min", "max")]

    low, high = pull(0.2, 60)
    assert low == -4
    assert high > 4.5
    middle = pull(0.5, 40)
    assert middle[0] > low
    assert middle[1] > high
    assert middle[1] - middle[0] == pytest.approx(high - low, rel=0.01)
    low_again, high_again = pull(0.8, -50)
    assert high_again == middle[1]
    assert low_again < middle[0]


def test_the_arrows_of_the_keyboard_change_a_field(open_page, small_page):
    page = open_page(small_page)
    page.focus("#range-max")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    assert float(page.input_value("#range-max")) > 4
    assert model(page, "values", "end") > 4
