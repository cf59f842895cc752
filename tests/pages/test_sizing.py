import re
from itertools import pairwise

import numpy as np
import pytest

from actlab.charts.paged import slot_axis
from actlab.errors import RecipeError
from actlab.pages import sizing
from actlab.pages.build import report
from actlab.pages.sizing import LADDER, coarser_rungs, plan_page
from actlab.rebinning import Slots


@pytest.fixture(scope="module")
def long_run(record_run):
    """A run of 240 batches and two layers."""
    random = np.random.default_rng(5)
    rows = [
        (row // 60, {"wide": random.normal(0, 1, 3000), "fc": random.normal(0, 3, (20, 5))}, None)
        for row in range(240)
    ]
    return record_run({"train": rows}, ["wide", "fc"])


def plan(run, size, most=1000):
    return plan_page(run, run.names, np.arange(240), 4, most=most, size=size)


def test_what_fits_is_kept_as_it_was_recorded(long_run):
    found = plan(long_run, 7e6)
    assert (found.k, found.rung) == (1, 0)
    assert np.array_equal(found.layouts["wide"].starts, Slots.recorded(long_run.axis).starts)
    assert found.layouts["fc"].axis == slot_axis(long_run, "fc") != long_run.axis


def test_less_room_means_fewer_columns_and_coarser_slots(long_run):
    sizes = [7e6, 1.83e6, 1.78e6, 1.73e6, 1.68e6]
    found = [plan(long_run, size) for size in sizes]
    assert [each.rung for each in found] == sorted(each.rung for each in found)
    assert found[-1].rung > found[0].rung
    assert found[-1].k > 1
    counts = [each.layouts["wide"].starts.size for each in found]
    assert counts == sorted(counts, reverse=True)


def test_no_more_columns_than_asked_for(long_run):
    assert plan(long_run, 7e6, most=50).k == 5


def test_the_ladder_gets_coarser():
    for finer, coarser in pairwise(LADDER[1:]):
        assert coarser.bits <= finer.bits
        assert coarser.depth < finer.depth
        assert coarser.most <= finer.most


@pytest.mark.parametrize("number", range(len(LADDER)))
def test_a_miss_costs_one_small_step_at_a_time_down_to_the_last_rung(number):
    steps = coarser_rungs(number)
    start = LADDER[number] if LADDER[number].depth is not None else LADDER[1]
    if steps:
        assert steps[-1] == (LADDER[-1].bits, LADDER[-1].depth)
    for finer, coarser in pairwise([(start.bits, start.depth), *steps]):
        assert coarser[0] <= finer[0]
        assert coarser[1] in (finer[1], finer[1] - 1)
    assert steps or number == len(LADDER) - 1


@pytest.mark.parametrize("size", [7, 1.78])
def test_the_page_is_no_larger_than_it_may_be(long_run, tmp_path, size, monkeypatch):
    made = []
    monkeypatch.setattr(
        "actlab.pages.build.plan_page", lambda *a, **b: made.append(plan_page(*a, **b)) or made[0]
    )
    path = report(long_run, tmp_path / "page.html", max_size=size)
    assert path.stat().st_size <= size * 1e6
    assert f"max_size = {size}" in path.with_suffix(".toml").read_text()
    packed = re.findall(r'id="detail-[01]">([^<]*)<', path.read_text())
    assert sum(map(len, packed)) == pytest.approx(made[0].needed, rel=0.1)


def test_a_wrong_estimate_is_mended_by_coarser_slots(long_run, tmp_path, monkeypatch):
    whole = report(long_run, tmp_path / "whole.html").stat().st_size
    monkeypatch.setattr(sizing, "_OTHER_BYTES", 0)
    path = report(long_run, tmp_path / "page.html", max_size=(whole - 20_000) / 1e6)
    assert path.stat().st_size <= whole - 20_000


def test_a_page_that_cannot_be_made_so_small_says_so(long_run, tmp_path):
    with pytest.raises(RecipeError, match=r"max_size: the layers of the page take .* MB at least"):
        report(long_run, tmp_path / "page.html", max_size=1.0)
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(RecipeError, match="max_size: the page takes"):
        report(long_run, tmp_path / "page.html", max_size=0.01, sections=["numbers"])
