"""Ranges and axes fitted to what was counted."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError, SelectionError
from actlab.rebinning import LARGEST, rebin
from actlab.stats import default_range, fit_axis, quantile, symmetric_range

NICE = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
usual = st.floats(-1e6, 1e6, width=32)
samples = st.lists(usual.filter(lambda value: abs(value) > 1e-3), min_size=1, max_size=50)
layers = st.lists(st.lists(usual, min_size=1, max_size=40), min_size=1, max_size=4).map(
    lambda rows: {f"layer{index}": np.array(row) for index, row in enumerate(rows)}
)
words = st.sampled_from(("symmetric", "p0", "p0.1", "p5", "p49.5"))


@given(samples, st.floats(1e-3, 1e3))
def test_symmetric_range_is_nice_and_leaves_out_little(counts_of, values, scale):
    data = np.array(values) * scale
    low, high = symmetric_range(counts_of(data))
    assert low == -high
    assert float(f"{high:e}".split("e")[0]) in NICE
    kept = rebin(counts_of(data), LinearAxis(low, high, 1))
    assert float(max(kept.underflow, kept.overflow)) <= 0.001 * data.size + 1e-9
    assert high <= 1.5 * np.abs(data).max() * (1 + 2**-4)  # no nice step is larger than 1.5, no bucket wider


@pytest.mark.parametrize(
    ("values", "reach"), [([0.0, 0.0], 1), ([], 1), ([np.nan, np.inf], 1), ([0.0, -0.29], 0.3)]
)
def test_symmetric_range_of_little(counts_of, values, reach):
    assert symmetric_range(counts_of(values)) == (-reach, reach)


def test_default_range_is_the_larger_of_two_readings(record_run):
    random = np.random.default_rng(0)
    many, few = random.uniform(-0.9, 0.9, 100_000), random.uniform(-70, 70, 50)
    run = record_run(
        {"train": [(0, {"many": many, "few": few}, None)]}, ["many", "few", "never"], head=None, raw=False
    )
    # Pooled, the few make up 0.05 %; layer by layer they are half of it.
    assert default_range(run) == (-80, 80)
    assert default_range(run, "many") == (-1, 1)
    assert default_range(run, "never") == (-1, 1)
    with pytest.raises(SelectionError, match="did you mean 'many'"):
        default_range(run, "mani")


def test_default_range_is_not_that_of_few_layers_of_absurd_size(record_run):
    random = np.random.default_rng(0)
    values = {"a": random.uniform(-0.9, 0.9, 999), "b": random.uniform(-3.9, 3.9, 999), "zero": np.zeros(9)}
    for name, size in (("large", 900.0), ("absurd", 1e37)):
        batch = values | {name: np.full(999, size)}
        run = record_run({"train": [(0, batch, None)]}, [*batch], head=None, raw=False)
        assert default_range(run) == ((-1000, 1000) if name == "large" else (-4, 4))
    # Of two layers none is the odd one.
    assert default_range(run, ["a", "absurd"])[1] >= 1e37
    assert default_range(run, "zero") == (-1, 1)


def test_default_range_is_that_of_ordinary_layers_where_most_vanish(record_run):
    random = np.random.default_rng(0)
    batch = {f"faint{index}": random.normal(0, 1e-4, 999) for index in range(6)}
    batch |= {"input": random.uniform(-0.9, 0.9, 999), "zero": np.zeros(9), "out": random.normal(0, 1e-3, 99)}
    run = record_run({"train": [(0, batch, None)]}, [*batch], head="out", raw=False)
    assert default_range(run) == (-1, 1)


def test_default_range_is_that_of_the_head_unless_it_is_absurd(record_run):
    random = np.random.default_rng(0)
    batch = {name: random.uniform(-39, 39, 999) for name in "abc"}
    for size, reach in ((4.9e5, 5e5), (1e37, 40)):
        values = batch | {"price": random.uniform(0, size, 999)}
        run = record_run({"train": [(0, values, None)]}, [*values], head="price", raw=False)
        assert default_range(run) == (-reach, reach)
        without = record_run({"train": [(0, values, None)]}, [*values], head=None, raw=False)
        assert default_range(without) == (-40, 40)


def test_default_range_is_that_of_training_where_there_is_any(record_run):
    rows = {"train": [(0, {"a": np.full(9, 3.9)}, None)], "valid": [(0, {"a": np.full(9, 39.0)}, None)]}
    assert default_range(record_run(rows, ["a"], head=None, raw=False)) == (-4, 4)
    only_valid = {"valid": rows["valid"]}
    assert default_range(record_run(only_valid, ["a"], head=None, raw=False)) == (-40, 40)
    assert default_range(record_run({}, [])) == (-1, 1)


@given(layers, words)
def test_no_layer_loses_more_than_the_range_says(counts_of, values, words):
    counts = counts_of(values)
    shared, each = fit_axis(counts, range=words), fit_axis(counts, range=words, per_layer=True)
    share = {"symmetric": 0.001}.get(words) or float(words[1:]) / 100
    assert shared.n_bins == 200
    assert [*each] == [*values]
    for view in (rebin(counts, shared), rebin(counts, each)):
        lost = np.maximum(view["underflow"], view["overflow"])
        assert (lost <= share * counts.sum("bucket") + 1e-6).all()
    for layer, data in values.items():
        assert fit_axis(counts_of(data), range=words) == each[layer]
        assert shared.h_min <= each[layer].h_min or words != "symmetric"
        if words == "p0":
            for view in (shared, each[layer]):
                assert view.h_min <= data.min() <= data.max() <= view.h_max


def test_quantile_ranges_are_the_quantiles(counts_of):
    random = np.random.default_rng(0)
    values = {"a": random.normal(0, 1, 5000), "b": random.normal(3, 2, 5000), "none": [np.nan]}
    counts = counts_of(values)
    found = fit_axis(counts, range="p2.5", n_bins=50, per_layer=True)
    for layer in ("a", "b"):
        ends = quantile(counts.sel(layer=layer), [0.025, 0.975])
        assert found[layer] == LinearAxis(*ends.values, 50)
        np.testing.assert_allclose(ends, np.quantile(values[layer], [0.025, 0.975]), atol=0.1)
    assert found["none"] == LinearAxis(-1, 1, 50)
    assert fit_axis(counts, range="p2.5", n_bins=50) == LinearAxis(found["a"].h_min, found["b"].h_max, 50)


def test_the_symmetric_axis_is_that_of_symmetric_range(counts_of):
    counts = counts_of({"a": [0.7, -0.2], "b": [-29.0, 0.1], "none": []})
    assert fit_axis(counts) == LinearAxis(*symmetric_range(counts), 200) == LinearAxis(-30, 30, 200)
    found = fit_axis(counts, per_layer=True, n_bins=10)
    assert [axis.h_max for axis in found.values()] == [0.8, 30, 1]


def test_other_dims_are_pooled_before_the_fit(small_run):
    counts = small_run["train"].counts
    pooled = counts.sum("step")
    for words in ("symmetric", "p0.1"):
        assert fit_axis(counts, range=words) == fit_axis(pooled, range=words)
        assert fit_axis(counts, range=words, per_layer=True) == fit_axis(pooled, range=words, per_layer=True)
    assert fit_axis(counts.sel(layer="fc"), range="p1") == fit_axis(pooled.sel(layer="fc"), range="p1")


@given(st.floats(-1e9, 1e9, width=32), st.sampled_from(("p0", "p0.1", "p10")))
def test_one_number_lies_in_the_middle(counts_of, value, words):
    counts = counts_of([value] * 5)
    axis = fit_axis(counts, range=words)
    assert (axis.h_min + axis.h_max) / 2 == pytest.approx(value, rel=0.04, abs=2**-24)
    assert axis.h_max - axis.h_min == pytest.approx(2 * abs(value) or 2, rel=0.04, abs=2**-23)
    assert float(rebin(counts, axis).counts.sum()) == 5


@pytest.mark.parametrize("axis", [FloatAxis(), FloatAxis(5, -126, 127), FloatAxis(10, -126, 127)])
def test_the_largest_and_smallest_numbers_have_axes(counts_of, axis):
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    values = {
        "huge": [LARGEST, -LARGEST],
        "one": [LARGEST],
        "tiny": [tiny, -tiny],
        "speck": [tiny],
        "0": [0.0],
    }
    counts = counts_of(values, axis)
    for words in ("symmetric", "p0", "p0.1"):
        found = fit_axis(counts, range=words, per_layer=True)
        assert float(rebin(counts, found)["counts"].sum()) == pytest.approx(7, abs=0.01)
        assert fit_axis(counts, range=words).h_max >= found["huge"].h_max > 3.3e38
        assert found["0"] == LinearAxis(-1, 1, 200)


def test_a_pair_is_taken_as_it_is_and_nothing_is_read(counts_of):
    def forbidden(block):
        raise AssertionError("computed")

    lazy = counts_of({"a": [1.0], "b": [2.0]}).chunk(layer=1)
    lazy.data = lazy.data.map_blocks(forbidden, dtype=np.uint32, meta=np.empty((0, 0), np.uint32))
    assert fit_axis(lazy, range=(-2, 3.5), n_bins=7) == LinearAxis(-2, 3.5, 7)
    assert fit_axis(lazy, range=(-2, 3.5), n_bins=7, per_layer=True) == dict.fromkeys(
        "ab", LinearAxis(-2, 3.5, 7)
    )


@pytest.mark.parametrize("wrong", ["", "sym", "p", "p50", "p-1", "pnan", "P1", "0.1", "p1e3", (1, 2, 3)])
def test_ranges_of_no_known_form_are_refused(counts_of, wrong):
    with pytest.raises(
        AxisError, match=r"'symmetric', 'pX' with X from 0 to below 50 .* \(h_min, h_max\), got"
    ):
        fit_axis(counts_of([1.0]), range=wrong)


def test_axes_that_cannot_be_are_refused(counts_of):
    counts = counts_of([1.0, 2.0])
    with pytest.raises(AxisError, match="h_min must be below h_max"):
        fit_axis(counts, range=(2, 1))
    with pytest.raises(AxisError, match="n_bins must be within 1 and"):
        fit_axis(counts, n_bins=0)
    with pytest.raises(AxisError, match=r"needs the dim 'layer', got the dims \['bucket'\]"):
        fit_axis(counts, per_layer=True)
    with pytest.raises(AxisError, match="need the dim 'bucket'"):
        fit_axis(xr.DataArray([1, 2], dims="bin"))


def test_a_keyword_that_says_nothing_of_bins_is_refused(counts_of, small_run):
    with pytest.raises(TypeError, match="unexpected keyword 'bins': bins are chosen by range and n_bins"):
        fit_axis(counts_of([1.0]), bins=7)
    with pytest.raises(TypeError, match="unexpected keyword 'epochs'"):
        small_run.histogram(layer="fc", epochs=1)
