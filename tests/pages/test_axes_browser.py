"""Numbers beside the charts: right and short on every range, and the strips stay under their columns."""

import pytest

from actlab.pages.build import report

pytestmark = pytest.mark.browser

RANGES = {
    "-1000000,1000000,20": ["\N{MINUS SIGN}1e6", "\N{MINUS SIGN}5e5", "0", "5e5", "1e6"],
    "0.00001,0.00002,10": ["1e\N{MINUS SIGN}5", "1.2e\N{MINUS SIGN}5", "1.4e\N{MINUS SIGN}5"],
    "1000,1000.001,10": ["1000", "1000.0002", "1000.0004"],
    "-0.5,0.5,40": ["\N{MINUS SIGN}0.4", "\N{MINUS SIGN}0.2", "0", "0.2", "0.4"],
}
CODE = """name => {
  const axis = Bokeh.documents[0].get_model_by_name(name).left[0];
  return axis.ticker.ticks.map((tick) => [tick, axis.major_label_overrides.get(tick)]);
}"""


@pytest.fixture(scope="module")
def small_page(small_run, tmp_path_factory):
    return report(small_run, tmp_path_factory.mktemp("page") / "axes.html", h_min=-4, h_max=4, n_bins=40)


def wide(page, name):
    return page.evaluate(f"Bokeh.documents[0].get_model_by_name('{name}').inner_width")


@pytest.mark.parametrize("bins", RANGES)
def test_the_values_are_round_and_short_on_every_range(open_page, small_page, until, bins):
    page = open_page(small_page, address=f"#range={bins}")
    ticks = page.evaluate(CODE, "detail")
    low, high = (float(end) for end in bins.split(",")[:2])
    assert all(low <= value <= high for value, _ in ticks)
    said = [word for _, word in ticks]
    assert said[: len(RANGES[bins])] == RANGES[bins]
    for value, word in ticks:
        assert float(word.replace("\N{MINUS SIGN}", "-")) == pytest.approx(value, rel=1e-9)
    for name in ("strip_range", "strip_hidden", "strip_nonfinite"):
        if page.is_visible(f"#figure-{name}"):
            until(
                page, f"{wide(page, 'detail')} === Bokeh.documents[0].get_model_by_name('{name}').inner_width"
            )


def test_shares_of_the_twin_peaks_are_told_apart(open_page, small_page):
    page = open_page(small_page, address="#peaks-range=-4,4,4096")
    said = [word for _, word in page.evaluate(CODE, "twin")]
    assert len(set(said)) == len(said) > 2
    assert said[0] == "0%"


@pytest.mark.parametrize("bins", ["-8,8,35", "-7,7,35", "0.1,0.9,20", "-3,40,20"])
def test_a_phone_has_more_than_one_value_below_the_twin_peaks(open_page, small_page, bins, until):
    page = open_page(small_page, width=390, address=f"#peaks-range={bins}")
    page.evaluate("document.getElementById('peaks').scrollIntoView({ behavior: 'instant' })")
    until(page, "Bokeh.documents[0].get_model_by_name('twin').below[0].ticker.ticks.length > 1")


def test_twin_peaks_out_of_sight_wait(open_page, small_page, until):
    page = open_page(small_page)
    page.set_viewport_size({"width": 1200, "height": 300})
    page.evaluate("document.getElementById('layers').scrollIntoView({ behavior: 'instant' })")
    page.wait_for_timeout(100)
    bins = "Bokeh.documents[0].get_model_by_name('valid').data_source.data.y.length"
    before = page.evaluate(bins)
    assert before != 33
    page.evaluate("""() => {
      const field = document.getElementById('peaks-range-bins');
      field.value = '33';
      field.dispatchEvent(new Event('change'));
    }""")
    page.wait_for_timeout(100)
    assert "33 bins" in page.text_content("#peaks-view")
    assert page.evaluate(bins) == before
    page.evaluate("document.getElementById('peaks').scrollIntoView({ behavior: 'instant' })")
    until(page, f"{bins} === 33")


def test_one_bin_is_no_plural(open_page, small_page):
    page = open_page(small_page, address="#range=-4,4,1")
    assert " 1 bin in [-4, 4]" in page.text_content("#layer-facts")
