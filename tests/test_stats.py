"""Pooled moments, quantiles, distances and the default range, each against the values themselves."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError, SelectionError
from actlab.rebinning import LARGEST, rebin
from actlab.stats import default_range, pool_moments, quantile, symmetric_range, total_variation

AXIS = FloatAxis()
finite = st.floats(-1e6, 1e6, width=32)
parts = st.lists(st.lists(finite | st.sampled_from((np.nan, np.inf, -np.inf))), min_size=1, max_size=6)


def counts_of(values, axis=AXIS):
    found = np.bincount(axis.index(values), minlength=axis.n_buckets)
    return xr.DataArray(
        found, {"lower": ("bucket", axis.lower), "upper": ("bucket", axis.upper)}, ("bucket",), "counts"
    )


def moments_of(values):
    data = np.array(values, np.float64)
    kept = data[np.isfinite(data)]
    found = {name: getattr(np, name)(kept) if kept.size else np.nan for name in ("mean", "std", "min", "max")}
    return xr.Dataset({"n": np.uint64(data.size), **found, "counts": counts_of(data, FloatAxis(1, 0, 1))})


def pooled(*rows):
    return xr.concat([moments_of(row) for row in rows], "step")


@settings(max_examples=40)
@given(parts)
def test_pooled_moments_are_those_of_all_values(rows):
    found = pool_moments(pooled(*rows))
    values = np.array([value for row in rows for value in row], np.float64)
    kept = values[np.isfinite(values)]
    assert int(found.n) == values.size
    assert int(found.finite) == kept.size
    for name in ("mean", "std", "min", "max"):
        expected = getattr(np, name)(kept) if kept.size else np.nan
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=1e-9 * np.abs(kept).max(initial=0))


@settings(max_examples=40)
@given(parts, st.integers(0, 6))
def test_pooled_moments_pool_again(rows, cut):
    at_once = pool_moments(pooled(*rows))
    halves = [pool_moments(pooled(*half)) for half in (rows[:cut], rows[cut:]) if half]
    twice = pool_moments(xr.concat(halves, "step"))
    xr.testing.assert_allclose(twice, at_once, rtol=1e-9, atol=1e-3)


@pytest.mark.filterwarnings("error")
def test_pooled_moments_keep_other_dims_and_stay_lazy(small_run):
    found = pool_moments(small_run["train"])
    assert found["mean"].chunks is not None
    assert found["std"].dims == ("layer",)
    loaded = found.compute()
    assert int(loaded.n.sel(layer="wild") - loaded.finite.sel(layer="wild")) == 27 * 3
    assert np.isnan(loaded["mean"].sel(layer="body.dropout"))
    assert int(loaded.n.sel(layer="body.dropout")) == 0


@given(st.lists(finite, min_size=1, max_size=30), st.lists(st.floats(0, 1), max_size=4))
def test_quantiles_lie_in_the_bucket_of_the_true_one(values, shares):
    data = np.sort(np.array(values, np.float64))
    shares = [0.0, *shares, 1.0]
    found = quantile(counts_of(data), shares)
    rank = np.ceil(np.round(np.array(shares) * data.size, 9)).astype(int)
    bucket = AXIS.index(data[np.maximum(rank - 1, 0)])
    assert (AXIS.lower[bucket] <= found).all()
    assert (found <= AXIS.upper[bucket]).all()
    assert (np.diff(found.sortby("quantile")) >= 0).all()


@given(
    st.lists(st.floats(-1e4, 1e4).filter(lambda value: value != 0), min_size=1, max_size=30),
    st.floats(0.01, 0.99),
)
def test_quantile_is_the_inverse_of_rebin(values, share):
    counts = counts_of(np.array(values))
    at = float(quantile(counts, share)[0])
    view = rebin(counts, LinearAxis(-2e4, at, 1))
    assert float(view.counts[0]) == pytest.approx(share * len(values), abs=1e-6 * len(values))


@pytest.mark.parametrize("n", [3, 7, 10, 49, 1000])
def test_quantiles_that_end_with_a_bucket_are_exact(n):
    ends = np.sort(AXIS.upper[AXIS.zero + 2 :][:n])
    inside = (AXIS.lower[AXIS.zero + 2 :][:n] + ends) / 2
    shares = np.arange(1, n + 1) / n
    np.testing.assert_array_equal(quantile(counts_of(inside), shares), ends)


def test_quantiles_of_zeros_of_nothing_and_of_the_far_out():
    np.testing.assert_array_equal(quantile(counts_of([0.0, -0.0]), [0, 0.5, 1]), 0)
    assert np.isnan(quantile(counts_of([np.nan, np.inf]), [0, 0.5, 1])).all()
    np.testing.assert_array_equal(quantile(counts_of([-1e300, 0, 0, 1e300]), [0.5, 0.75, 1]), [0, 0, LARGEST])
    mixed = counts_of([-2.0, 0.0, 0.0, 2.0, np.inf])
    np.testing.assert_array_equal(quantile(mixed, [0.25, 0.26, 0.75]), [-2, 0, 0])


def test_quantiles_keep_leading_dims_and_stay_lazy(small_run):
    found = quantile(small_run["train"].counts, [0.1, 0.9])
    assert found.dims == ("step", "layer", "quantile")
    assert found.chunks is not None
    relu = found.sel(layer="body.relu").compute()
    np.testing.assert_array_equal(relu.sel(quantile=0.1), 0)
    assert found["quantile"].values.tolist() == [0.1, 0.9]


def test_quantiles_outside_0_to_1_are_refused():
    with pytest.raises(AxisError, match="within 0 and 1"):
        quantile(counts_of([1.0]), [0.5, 1.1])
    with pytest.raises(AxisError, match="within 0 and 1"):
        quantile(counts_of([1.0]), np.nan)


histograms = st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any)


@given(histograms, histograms, histograms)
def test_total_variation_is_a_distance_of_shapes(a, b, c):
    a, b, c = (xr.DataArray(np.array(counts, float), dims="bin") for counts in (a, b, c))
    assert 0 <= total_variation(a, b, "bin") <= 1 + 1e-12
    assert total_variation(a, 3 * a, "bin") == pytest.approx(0)
    assert total_variation(a, b, "bin") == total_variation(b, a, "bin")
    assert total_variation(a, c, "bin") <= total_variation(a, b, "bin") + total_variation(b, c, "bin") + 1e-12


def test_total_variation_of_strangers_and_of_nothing():
    a = xr.DataArray([[4, 0], [1, 3]], dims=("layer", "bin"))
    b = xr.DataArray([[0, 2], [0, 0]], dims=("layer", "bin"))
    np.testing.assert_array_equal(total_variation(a, b, "bin"), [1, np.nan])
    assert float(total_variation(a, a + 0, ["layer", "bin"])) == 0


@given(
    st.lists(finite.filter(lambda value: abs(value) > 1e-3), min_size=1, max_size=50), st.floats(1e-3, 1e3)
)
def test_symmetric_range_is_nice_and_leaves_out_little(values, scale):
    data = np.array(values) * scale
    low, high = symmetric_range(counts_of(data))
    assert low == -high
    mantissa = float(f"{high:e}".split("e")[0])
    assert mantissa in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    kept = rebin(counts_of(data), LinearAxis(low, high, 1))
    assert float(max(kept.underflow, kept.overflow)) <= 0.001 * data.size + 1e-9
    assert high <= 1.5 * np.abs(data).max() * (1 + 2**-4)  # no nice step is larger than 1.5, no bucket wider


@pytest.mark.parametrize(
    ("values", "reach"), [([0.0, 0.0], 1), ([], 1), ([np.nan, np.inf], 1), ([0.0, -0.29], 0.3)]
)
def test_symmetric_range_of_little(values, reach):
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


def test_default_range_is_that_of_training_where_there_is_any(record_run):
    rows = {"train": [(0, {"a": np.full(9, 3.9)}, None)], "valid": [(0, {"a": np.full(9, 39.0)}, None)]}
    assert default_range(record_run(rows, ["a"], head=None, raw=False)) == (-4, 4)
    only_valid = {"valid": rows["valid"]}
    assert default_range(record_run(only_valid, ["a"], head=None, raw=False)) == (-40, 40)
    assert default_range(record_run({}, [])) == (-1, 1)
