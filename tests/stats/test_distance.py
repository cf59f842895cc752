"""Distances between histograms, against scipy on the values and shares behind them."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError
from actlab.rebinning import rebin
from actlab.stats import (
    count_moments,
    distances,
    jensen_shannon,
    kolmogorov_smirnov,
    psi,
    total_variation,
    wasserstein,
)

AXES = st.sampled_from((FloatAxis(), FloatAxis(1, -3, 3)))
SLOTS = 16  # of FloatAxis(1, 0, 1)
MEASURES = (total_variation, jensen_shannon, wasserstein, kolmogorov_smirnov, psi)
usual = st.floats(-1e4, 1e4, width=32) | st.integers(-9, 9).map(float)
values = st.lists(usual, min_size=1, max_size=30).map(np.array)
beyond = st.lists(usual | st.sampled_from((-np.inf, np.inf)), min_size=1, max_size=30).map(np.array)
histograms = st.lists(st.integers(0, 50), min_size=SLOTS, max_size=SLOTS).filter(
    lambda counts: any(counts[1:-2])
)


@pytest.fixture(scope="session")
def labelled():
    """Return a function that puts counts on the buckets of a tiny axis."""
    axis = FloatAxis(1, 0, 1)
    ends = {"lower": ("bucket", axis.lower), "upper": ("bucket", axis.upper)}
    return lambda counts: xr.DataArray(np.array(counts), ends, ("bucket",))


@given(histograms, histograms)
def test_all_are_distances_of_shapes(labelled, a, b):
    a, b = labelled(a), labelled(b)
    assert a.size == SLOTS
    there, back = distances(a, b), distances(b, a)
    for measure in MEASURES:
        name = measure.__name__
        assert float(measure(a, b)) == float(there[name]) >= 0
        assert float(measure(a, 3 * a)) == 0
        np.testing.assert_allclose(measure(a / 7, b * 5), there[name], rtol=1e-9, atol=1e-9)
        assert measure is psi or back[name] == there[name]
        if measure in {total_variation, jensen_shannon, kolmogorov_smirnov}:
            assert there[name] <= 1
    assert there["kolmogorov_smirnov"] <= there["total_variation"] + 1e-12
    # Pinsker and Lin: the divergence lies between squared and plain total variation.
    assert there["total_variation"] ** 2 / (2 * np.log(2)) <= there["jensen_shannon"] + 1e-12
    assert there["jensen_shannon"] <= there["total_variation"] + 1e-12


@given(histograms, histograms, histograms)
def test_triangle_inequality(labelled, a, b, c):
    a, b, c = labelled(a), labelled(b), labelled(c)
    for measure in (
        total_variation,
        wasserstein,
        kolmogorov_smirnov,
        lambda a, b: jensen_shannon(a, b) ** 0.5,
    ):
        assert measure(a, c) <= measure(a, b) + measure(b, c) + 1e-7


def test_histograms_that_share_nothing_are_as_far_apart_as_can_be(counts_of):
    found = distances(counts_of([1.0, 2.0]), counts_of([np.nan, np.inf, 3.0]))
    for name in ("total_variation", "jensen_shannon", "kolmogorov_smirnov"):
        assert float(found[name]) == pytest.approx(1, abs=1e-15)
    assert float(kolmogorov_smirnov(counts_of([-np.inf, np.nan]), counts_of([0.0]))) == 0.5


def test_an_empty_side_is_no_distance(counts_of):
    some, none = counts_of({"a": [1.0], "b": [], "c": [np.nan]}), counts_of([])
    for name, found in distances(some, none).items():
        assert np.isnan(found).all(), name
    found = distances(some, counts_of([1.0]))
    np.testing.assert_array_equal(found["total_variation"], [0, np.nan, 1])
    np.testing.assert_array_equal(found["wasserstein"], [0, np.nan, np.nan])


@given(histograms, histograms)
def test_jensen_shannon_is_that_of_scipy(labelled, a, b):
    expected = jensenshannon(a, b, base=2) ** 2
    np.testing.assert_allclose(jensen_shannon(labelled(a), labelled(b)), expected, atol=1e-7)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scipy's p-value of few values
@given(beyond, beyond, AXES)
def test_kolmogorov_smirnov_is_within_one_bucket_of_the_values(counts_of, a, b, axis):
    p, q = (counts_of(each, axis).values / each.size for each in (a, b))
    found = kolmogorov_smirnov(counts_of(a, axis), counts_of(b, axis))
    true = scipy.stats.ks_2samp(a, b, method="asymp").statistic
    assert true - np.minimum(p, q).max() - 1e-12 <= found <= true + 1e-12


@given(values, values, AXES)
def test_wasserstein_is_within_the_bounds_of_the_means(counts_of, a, b, axis):
    a, b = (np.clip(each, axis.lower[2] * (1 - 1e-9), axis.upper[-4] * (1 - 1e-9)) for each in (a, b))
    one, other = counts_of(a, axis), counts_of(b, axis)
    bound = count_moments(one)["mean_bound"] + count_moments(other)["mean_bound"]
    true = scipy.stats.wasserstein_distance(a, b)
    assert np.isfinite(bound)
    assert abs(wasserstein(one, other) - true) <= bound + 1e-12 * np.abs([*a, *b]).max()


@given(histograms, histograms)
def test_wasserstein_spreads_mass_evenly_over_buckets(labelled, a, b):
    one, other = labelled(a), labelled(b)
    inside = slice(1, -2)
    lower, upper = one["lower"].values[inside].copy(), one["upper"].values[inside].copy()
    lower[0], upper[-1] = upper[0], lower[-1]  # underflow and overflow lie at their inner end
    parts = (np.arange(500) + 0.5) / 500
    points = (lower[:, None] + parts * (upper - lower)[:, None]).ravel()
    weights = [np.repeat(np.array(each[inside], float), parts.size) for each in (a, b)]
    expected = scipy.stats.wasserstein_distance(points, points, *weights)
    assert float(wasserstein(one, other)) == pytest.approx(expected, abs=2e-3)


def test_wasserstein_is_in_units_of_the_values_whatever_the_width_of_buckets_beyond(counts_of):
    near = wasserstein(counts_of([0.0] * 3), counts_of([0.0] * 7 + [np.nan]))
    assert float(near) == 0
    wide = FloatAxis(5, -126, 127)
    third, same = counts_of([1.0, 2.0, 3.0], wide), counts_of([1.0, 2.0, 3.0] * 7, wide)
    assert float(wasserstein(third / 3, same / 21)) < 1e-15
    shifted = wasserstein(counts_of(np.arange(64) + 64.0), counts_of(np.arange(64) + 128.0))
    assert float(shifted) == pytest.approx(64, abs=2)
    assert float(wasserstein(counts_of([1e300]), counts_of([0.0]))) == 2.0**32


def test_psi_of_ten_buckets_is_the_sum_over_them(counts_of):
    powers = 2.0 ** np.arange(10)
    actual = np.repeat(powers, np.arange(10))
    e, a = np.full(10, 0.1), np.maximum(np.arange(10) / 45, 1e-4)
    found = psi(counts_of(powers), counts_of(actual))
    assert float(found) == pytest.approx(((a - e) * np.log(a / e)).sum())


@pytest.mark.parametrize("moved", [-5.0, 5.0, -np.inf, np.inf, np.nan])
def test_psi_sees_what_leaves_a_constant_to_any_side(counts_of, moved):
    found = psi(counts_of([1.0] * 10), counts_of([1.0] * 9 + [moved]))
    assert float(found) == pytest.approx((0.1 - 1e-4) * np.log(0.1 / 1e-4) - 0.1 * np.log(0.9))


def test_psi_is_near_that_of_deciles_of_the_values(counts_of):
    random = np.random.default_rng(0)
    expected, actual = random.normal(0, 1, 20_000), random.normal(0.4, 1.2, 20_000)
    edges = np.quantile(expected, np.arange(1, 10) / 10)
    e, a = (np.bincount(np.searchsorted(edges, each)) / each.size for each in (expected, actual))
    true = ((a - e) * np.log(a / e)).sum()
    assert float(psi(counts_of(expected), counts_of(actual))) == pytest.approx(true, rel=0.03)


def test_psi_of_two_samples_of_one_distribution_is_what_chance_gives(counts_of):
    random = np.random.default_rng(0)
    found = [psi(*(counts_of(random.normal(size=n)) for n in (2000, 3000))) for _ in range(100)]
    assert np.mean(found) == pytest.approx(9 * (1 / 2000 + 1 / 3000), rel=0.15)


def test_psi_refuses_bins_that_are_none(counts_of):
    for n_bins in (1, 2.5):
        with pytest.raises(AxisError, match="n_bins must be a whole number of at least 2"):
            psi(counts_of([1.0]), counts_of([1.0]), n_bins)


def test_one_reference_goes_against_many_epochs(small_run):
    counts = small_run["train"].counts
    reference = counts.isel(step=0, drop=True)
    found = distances(reference, counts)
    assert {each.chunks is not None for each in found.values()} == {True}
    found = found.compute()
    loaded = counts.compute()
    for measure in MEASURES:
        each = found[measure.__name__]
        assert {*each.dims} == {"step", "layer"}
        np.testing.assert_array_equal(each.isel(step=0).drop_sel(layer="body.dropout"), 0)
        assert np.isnan(each.sel(layer="body.dropout")).all()
        alone = measure(loaded[0].sel(layer="fc"), loaded[5].sel(layer="fc"))
        assert float(each[{"step": 5}].sel(layer="fc")) == float(alone)
    np.testing.assert_array_equal(
        distances(loaded, reference)["jensen_shannon"], found["jensen_shannon"].transpose("step", "layer")
    )


def test_total_variation_and_jensen_shannon_go_over_any_dims(counts_of):
    a = xr.DataArray([[4, 0], [1, 3]], dims=("layer", "bin"))
    b = xr.DataArray([[0, 2], [0, 0]], dims=("layer", "bin"))
    np.testing.assert_array_equal(total_variation(a, b, "bin"), [1, np.nan])
    assert float(total_variation(a, a.T, ["layer", "bin"])) == 0
    assert float(total_variation(a, b, ["layer", "bin"])) == 1
    assert float(jensen_shannon(a, b, ["layer", "bin"])) == 1
    views = [rebin(counts_of([1.0, value]), LinearAxis(0, 4, 4)).counts for value in (1.5, 2.5)]
    assert float(total_variation(*views, "bin")) == 0.5


def test_histograms_of_different_axes_or_labels_are_refused(counts_of):
    both = counts_of({"a": [1.0], "b": [2.0]})
    with pytest.raises(AxisError, match="differ along 'layer': 'a' in one where the other has 'b'"):
        total_variation(both, both[::-1])
    with pytest.raises(AxisError, match="differ along 'layer': 2 and 1 long"):
        distances(both, both[:1])
    with pytest.raises(AxisError, match="different axes: their coordinates 'lower' differ"):
        kolmogorov_smirnov(both, counts_of([1.0], FloatAxis(5, -23, 32)))
    with pytest.raises(AxisError, match="no dim 'bucket'"):
        psi(both.sum("bucket"), both.sum("bucket"))
    with pytest.raises(AxisError, match="coordinates 'lower' and 'upper' of a FloatAxis"):
        wasserstein(both, both.drop_vars("upper"))
    views = [rebin(both, LinearAxis(0, reach, 4)).counts for reach in (4, 8)]
    with pytest.raises(AxisError, match="differ along 'bin'"):
        jensen_shannon(*views, "bin")
