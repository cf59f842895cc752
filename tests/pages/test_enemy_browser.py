"""Runs that went wrong, and addresses nobody should type: the page stays whole and says what is so."""

import re

import numpy as np
import pytest

from actlab.pages.build import report

pytestmark = pytest.mark.browser

BROKEN = re.compile(r"undefined|Infinity|\[object|(?<![\w/])(?:NaN|null)(?! or| among|/inf)")
RANGES = ((-1e38, 1e38, 3), (1e-30, 2e-30, 1), (1000, 1001, 10), (0, 0.5, 4096))
ADDRESSES = (
    "#range=5,1,10",
    "#range=a,b,c",
    "#range=-1,1,1.5",
    "#at=0:0-1000",
    "#at=99:0-1",
    "#%E0%A4%A",
    "#range=",
)


def _normal(random):
    return random.normal(size=(4, 3))


def _broken(random):
    some = random.normal(size=(8, 8))
    some[::3] = np.nan
    return {
        "nan": some,
        "all_nan": np.full((4, 4), np.nan),
        "all_inf": np.full((4, 4), -np.inf),
        "huge": np.full((2, 2), 3e38),
        "tiny": np.full((2, 2), 1e-40),
        "zero": np.zeros((4, 4)),
        "fc": np.full((4, 3), np.nan),
    }


CASES = {
    "broken": (_broken, 3, True),
    "one_batch": (lambda random: {"fc": _normal(random)[:1, :1]}, 1, True),
    "counts_only": (lambda random: {"a": _normal(random), "fc": _normal(random)}, 4, False),
}


@pytest.fixture(scope="module", params=CASES)
def path(request, record_run, tmp_path_factory):
    make, n_batches, raw = CASES[request.param]
    random = np.random.default_rng(7)
    rows = [(0, make(random), None) for _ in range(n_batches)]
    names = [*rows[0][1], "never"]
    run = record_run({"train": rows}, names, raw=raw)
    folder = tmp_path_factory.mktemp(request.param)
    first, second = (report(run, folder / name, h_min=-4, h_max=4) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()
    return first


def test_every_layer_shows_at_every_range(open_page, path):
    page = open_page(path)
    n_layers = page.locator("#layer-select option").count()
    for h_min, h_max, n_bins in RANGES:
        page.evaluate("range => { location.hash = `#range=${range}`; }", [h_min, h_max, n_bins])
        for _ in range(n_layers):
            page.keyboard.press("]")
            page.wait_for_timeout(30)
            assert BROKEN.findall(page.inner_text("#detail")) == []
        assert float(page.input_value("#range-min")) == h_min
        assert page.input_value("#range-bins") == str(n_bins)


def test_where_no_value_is_finite_no_share_is_out_of_range(open_page, record_run, tmp_path):
    rows = [(0, {"fc": np.full((4, 3), size)}, None) for size in (1.0, 9.0, np.nan)]
    run = record_run({"train": rows}, ["fc"], raw=False)
    page = open_page(report(run, tmp_path / "page.html", h_min=-4, h_max=4))
    assert "out of range \N{EN DASH}" in page.text_content("#readout")
    assert "out of range 33%" in page.text_content("#layer-facts")
    assert "at most 100%" in page.text_content("#range-note")


def test_wrong_addresses_change_nothing(open_page, path):
    page = open_page(path)
    before = [page.input_value(f"#range-{name}") for name in ("min", "max", "bins")]
    for address in ADDRESSES:
        page.evaluate("address => { location.hash = address; }", address)
        page.wait_for_timeout(30)
        assert [page.input_value(f"#range-{name}") for name in ("min", "max", "bins")] == before
        assert BROKEN.findall(page.inner_text("body")) == []
