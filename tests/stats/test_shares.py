"""Shares of zeros and of values out of a range, and the entropy, against the values themselves."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import example, given
from hypothesis import strategies as st

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError
from actlab.rebinning import LARGEST, rebin
from actlab.stats import entropy, out_of_range, zero_share

special = st.sampled_from((0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, -1e-30, 1e300, -1e300, LARGEST))
anything = st.lists(st.one_of(st.floats(-50, 50), st.integers(-9, 9).map(float), special), max_size=30)
ends = st.tuples(st.floats(-60, 60) | st.integers(-9, 9).map(float), st.floats(1e-6, 60)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)


@given(anything)
def test_zero_share_is_that_of_the_values(counts_of, values):
    data = np.array(values, np.float64)
    expected = (data == 0).mean() if data.size else np.nan
    np.testing.assert_array_equal(zero_share(counts_of(data)), expected)


@given(anything, ends)
@example([-1.0, -1.0, 1.0], (-1.0, 1.0))  # both ends belong to the range
@example([1e300, -1e300, 2.0], (-1.0, 2.0))
def test_shares_out_of_range_are_within_their_bound(counts_of, values, ends):
    data = np.array(values, np.float64)
    found = out_of_range(counts_of(data), *ends)
    if not data.size:
        assert all(np.isnan(each) for each in found.values())
        return
    finite = data[np.isfinite(data)]
    below, above = (finite < ends[0]).sum() / data.size, (finite > ends[1]).sum() / data.size
    assert abs(found["below"] - below) <= found["bound"] + 1e-12
    assert abs(found["above"] - above) <= found["bound"] + 1e-12
    assert float(found["nonfinite"]) == (data.size - finite.size) / data.size
    if found["bound"] == 0:
        np.testing.assert_array_equal([found["below"], found["above"]], [below, above])


@given(anything.filter(len), ends, st.integers(1, 50))
def test_shares_out_of_range_are_the_flow_of_rebin(counts_of, values, ends, n_bins):
    counts = counts_of(np.array(values, np.float64))
    found, view = out_of_range(counts, *ends), rebin(counts, LinearAxis(*ends, n_bins))
    np.testing.assert_allclose(found["below"] * len(values), view["underflow"], atol=1e-9)
    np.testing.assert_allclose(found["above"] * len(values), view["overflow"], atol=1e-9)


def test_a_range_between_ends_of_buckets_is_exact(counts_of):
    values = np.random.default_rng(0).normal(0, 3, 1000)
    found = out_of_range(counts_of({"a": values, "none": []}), -4, 4)
    np.testing.assert_array_equal(found["above"], [(values > 4).mean(), np.nan])
    np.testing.assert_array_equal(found["bound"].sel(layer="a") < 0.02, True)
    assert found.attrs == {"h_min": -4, "h_max": 4}
    assert {*found.coords} == {"layer"}


def test_a_range_that_is_none_is_refused(counts_of):
    with pytest.raises(AxisError, match="h_min must be below h_max"):
        out_of_range(counts_of([1.0]), 2, 1)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=30).filter(any), st.integers(1, 1000))
def test_entropy_is_that_of_scipy_whatever_the_number_of_values(counts, factor):
    found = entropy(xr.DataArray(np.array(counts), dims="bin"), "bin")
    assert float(found) == pytest.approx(scipy.stats.entropy(counts, base=2), abs=1e-12)
    assert -1e-12 <= found <= np.log2(len(counts)) + 1e-12
    np.testing.assert_allclose(
        entropy(xr.DataArray(np.array(counts) * factor, dims="bin"), "bin"), found, atol=1e-12
    )
    np.testing.assert_allclose(
        entropy(xr.DataArray(np.array(counts) / 7, dims="bin"), "bin"), found, atol=1e-12
    )


def test_entropy_counts_every_slot_and_nothing_twice(counts_of):
    counts = counts_of(
        {"point": [3.0] * 9, "halves": [0.0, np.nan], "four": [1.0, 2.0, -np.inf, 1e300], "none": []}
    )
    np.testing.assert_array_equal(entropy(counts), [0, 1, 2, np.nan])
    assert float(entropy(counts, ["layer", "bucket"])) == pytest.approx(
        scipy.stats.entropy(counts.values.ravel(), base=2)
    )


def test_merging_buckets_loses_entropy(counts_of):
    values = np.random.default_rng(0).normal(0, 3, 1000)
    fine, coarse = (float(entropy(counts_of(values, FloatAxis(bits)))) for bits in (5, 3))
    assert coarse < fine < np.log2(1000)


def test_counts_without_the_dim_are_refused(counts_of):
    with pytest.raises(AxisError, match=r"no dim 'bin' to add counts up over, got the dims \['bucket'\]"):
        entropy(counts_of([1.0]), "bin")
    with pytest.raises(AxisError, match="need the dim 'bucket' with the coordinates"):
        zero_share(counts_of([1.0]).drop_vars("lower"))
