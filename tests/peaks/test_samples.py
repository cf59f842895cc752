"""Samples of values and of counts: moments, the probability to exceed, Wasserstein."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from sklearn.metrics import roc_auc_score

from actlab.axis import FloatAxis, LinearAxis
from actlab.peaks.samples import Moments, Sample

AXIS = FloatAxis()
NUMBERS = st.lists(
    st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0, np.nan, np.inf]), min_size=1, max_size=40
)


def counted(values):
    counts = np.bincount(AXIS.index(np.asarray(values)), minlength=AXIS.n_buckets)
    coords = {"lower": ("bucket", AXIS.lower), "upper": ("bucket", AXIS.upper)}
    return Sample.of_counts(xr.DataArray(counts, coords, ("bucket",)))


def finite(values):
    found = np.array(values)
    return found[np.isfinite(found)]


@given(NUMBERS, NUMBERS)
def test_the_probability_to_exceed_is_the_area_under_the_roc_curve(yes, no):
    exact, bound = Sample.of_values(np.array(yes)).exceeds(Sample.of_values(np.array(no)))
    a, b = finite(yes), finite(no)
    if not (a.size and b.size):
        assert np.isnan(exact)
        return
    assert exact == pytest.approx(roc_auc_score(np.repeat([1, 0], [a.size, b.size]), np.append(a, b)))
    assert bound == 0
    found, bound = counted(yes).exceeds(counted(no))
    assert abs(found - exact) <= bound + 1e-12
    back, _ = counted(no).exceeds(counted(yes))
    assert found + back == pytest.approx(1)


@given(NUMBERS, NUMBERS)
def test_wasserstein_is_that_of_scipy_and_from_counts_within_a_bucket(first, second):
    a, b = finite(first), finite(second)
    exact = Sample.of_values(np.array(first)).wasserstein(Sample.of_values(np.array(second)))
    found = counted(first).wasserstein(counted(second))
    if not (a.size and b.size):
        assert np.isnan([exact, found]).all()
        return
    assert exact == pytest.approx(wasserstein_distance(a, b), abs=1e-9)
    assert found == pytest.approx(
        exact, abs=2 ** (-AXIS.mantissa_bits - 1) * (abs(a).mean() + abs(b).mean()) + 1e-6
    )


@given(NUMBERS)
def test_moments_are_those_of_the_finite_values_and_nothing_is_lost(values):
    exact, found = Sample.of_values(np.array(values)), counted(values)
    assert exact.n == found.n == len(values)
    kept = finite(values)
    assert exact.moments.n == found.moments.n == kept.size
    if kept.size:
        assert exact.moments[1:] == pytest.approx((kept.mean(), kept.std()), abs=1e-9)
        assert found.moments.mean == pytest.approx(kept.mean(), abs=0.016 * abs(kept).mean() + 1e-6)
    else:
        assert np.isnan(exact.moments[1:]).all()
    view = found.histogram(LinearAxis(-1, 1, 4))
    names = ("underflow", "overflow", "neg_inf", "pos_inf", "nan")
    assert float(view["counts"].sum() + sum(view[name] for name in names)) == pytest.approx(len(values))


@given(st.lists(st.lists(st.floats(-100, 100), max_size=10), min_size=1, max_size=5))
def test_merged_moments_are_those_of_all_values(parts):
    each = [Sample.of_values(np.array(part)).moments for part in parts]
    merged = Moments.merge(*(np.array(column) for column in zip(*each, strict=True)))
    whole = Sample.of_values(np.concatenate([np.array(part) for part in parts])).moments
    np.testing.assert_allclose(merged, whole, atol=1e-9)


def test_two_normals_are_as_far_apart_as_they_are():
    assert Moments(9, 3.0, 1.0).separation(Moments(9, 1.0, 1.0)) == 2
    assert np.isnan(Moments(9, 3.0, 0.0).separation(Moments(9, 1.0, 0.0)))
