"""Quantiles and their bounds, against those of the values themselves."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError
from actlab.rebinning import LARGEST, rebin
from actlab.stats import quantile, quantile_bounds

AXIS = FloatAxis()
usual = st.floats(-1e6, 1e6, width=32)
on_buckets = st.builds(
    lambda mantissa, exponent: mantissa * 2.0**exponent, st.integers(-64, 64), st.integers(-30, 30)
)
special = st.sampled_from((0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, -1e-30, 1e300, -1e300, LARGEST))
anything = st.lists(st.one_of(usual, on_buckets, special), max_size=30)
shares = st.lists(st.floats(0, 1), max_size=4).map(lambda inner: [0.0, *inner, 0.1, 0.5, 1.0])


@given(st.lists(usual, min_size=1, max_size=30), shares)
def test_quantiles_lie_in_the_bucket_of_the_true_one(counts_of, values, shares):
    data = np.sort(np.array(values, np.float64))
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
def test_quantile_is_the_inverse_of_rebin(counts_of, values, share):
    counts = counts_of(np.array(values))
    at = float(quantile(counts, share)[0])
    view = rebin(counts, LinearAxis(-2e4, at, 1))
    assert float(view.counts[0]) == pytest.approx(share * len(values), abs=1e-6 * len(values))


@pytest.mark.parametrize("n", [3, 7, 10, 49, 1000])
def test_quantiles_that_end_with_a_bucket_are_exact(counts_of, n):
    ends = np.sort(AXIS.upper[AXIS.zero + 2 :][:n])
    inside = (AXIS.lower[AXIS.zero + 2 :][:n] + ends) / 2
    np.testing.assert_array_equal(quantile(counts_of(inside), np.arange(1, n + 1) / n), ends)


def test_quantiles_of_zeros_of_nothing_and_of_the_far_out(counts_of):
    np.testing.assert_array_equal(quantile(counts_of([0.0, -0.0]), [0, 0.5, 1]), 0)
    assert np.isnan(quantile(counts_of([np.nan, np.inf]), [0, 0.5, 1])).all()
    np.testing.assert_array_equal(quantile(counts_of([-1e300, 0, 0, 1e300]), [0.5, 0.75, 1]), [0, 0, LARGEST])
    mixed = counts_of([-2.0, 0.0, 0.0, 2.0, np.inf])
    np.testing.assert_array_equal(quantile(mixed, [0.25, 0.26, 0.75]), [-2, 0, 0])


@given(anything, shares, st.sampled_from((AXIS, FloatAxis(1, -3, 3), FloatAxis(10, -126, 127))))
@example([-1.0, -1.0], [0.5], AXIS)  # on a closed end below zero
@example([-1.0, 1.0], [0.5], AXIS)  # halfway between two buckets far apart
@example([1.0] * 7 + [2.0] * 93, [0.07], AXIS)  # 0.07 * 100 is a little more than 7
def test_bounds_hold_the_true_quantile_and_are_the_ends_of_its_bucket(counts_of, values, shares, axis):
    finite = np.sort([value for value in values if np.isfinite(value)])
    found = quantile_bounds(counts_of(np.array(values, np.float64), axis), shares)
    if not finite.size:
        assert np.isnan(found.lower).all()
        assert np.isnan(found.upper).all()
        return
    for method in ("linear", "lower", "higher", "nearest", "midpoint", "inverted_cdf"):
        true = np.quantile(finite, shares, method=method)
        assert (found.lower <= true).all()
        assert (true <= found.upper).all()
    rank = np.array(shares) * (finite.size - 1)
    below, above = (axis.index(finite[to_whole(rank).astype(int)]) for to_whole in (np.floor, np.ceil))
    np.testing.assert_array_equal(found.lower, axis.lower[below])
    np.testing.assert_array_equal(found.upper, axis.upper[above])


@given(anything, shares)
def test_bounds_hold_the_quantile_read_off_the_counts(counts_of, values, shares):
    counts = counts_of(np.array(values, np.float64))
    found, ends = quantile(counts, shares), quantile_bounds(counts, shares)
    assert ((ends.lower <= found) | np.isnan(found)).all()
    assert ((found <= ends.upper) | np.isnan(found)).all()


def test_bounds_have_no_end_where_the_buckets_have_none(counts_of):
    found = quantile_bounds(counts_of([-1e300, 0.0, 1e300]), [0, 0.5, 1])
    np.testing.assert_array_equal(found.lower, [-np.inf, 0, 2.0**32])
    np.testing.assert_array_equal(found.upper, [-(2.0**32), 0, np.inf])


def test_quantiles_keep_leading_dims_and_stay_lazy(small_run):
    counts = small_run["train"].counts
    found, ends = quantile(counts, [0.1, 0.9]), quantile_bounds(counts, [0.1, 0.9])
    for each in (found, ends.lower, ends.upper):
        assert each.dims == ("step", "layer", "quantile")
        assert each.chunks is not None
        assert each["quantile"].values.tolist() == [0.1, 0.9]
        np.testing.assert_array_equal(each.sel(layer="body.relu", quantile=0.1), 0)
        assert np.isnan(each.sel(layer="body.dropout")).all()


@pytest.mark.parametrize("statistic", [quantile, quantile_bounds])
@pytest.mark.parametrize("shares", [[0.5, 1.1], -0.1, np.nan])
def test_quantiles_outside_0_to_1_are_refused(counts_of, statistic, shares):
    with pytest.raises(AxisError, match="within 0 and 1"):
        statistic(counts_of([1.0]), shares)
