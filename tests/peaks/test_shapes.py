"""Modes on simulated samples, and the distance of smoothed samples."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import find_peaks, peak_prominences

from actlab.axis import FloatAxis, LinearAxis
from actlab.peaks import modes
from actlab.peaks.samples import Sample
from actlab.peaks.shapes import _prominence as prominence
from actlab.peaks.shapes import distance
from actlab.rebinning import bin_values


def modes_of(values, n_bins=400):
    low, high = np.quantile(values, (0.001, 0.999))
    axis = LinearAxis(low, high, n_bins)
    return modes(bin_values(values, axis)["counts"].values, axis.centers)


def mixture(n, share, apart, seed):
    """Return a sample of two normals of std 1, `share` of it `apart` from the rest."""
    random = np.random.default_rng(seed)
    return random.normal(0, 1, n) + np.where(random.random(n) < share, apart, 0)


ONE_PEAK = {
    "normal": lambda random, n: random.normal(size=n),
    "laplace": lambda random, n: random.laplace(size=n),
    "exponential": lambda random, n: random.exponential(size=n),
    "uniform": lambda random, n: random.uniform(size=n),
    "mirrored": lambda random, n: (half := random.normal(0.1, 1, n // 2), np.concatenate([half, -half]))[1],
    "rounded": lambda random, n: random.normal(0, 40, n).astype(np.float16).round(),
}


@pytest.mark.parametrize("n", [60, 320, 2000, 20_000])
@pytest.mark.parametrize("name", ONE_PEAK)
def test_one_peak_stays_one(name, n):
    found = [modes_of(ONE_PEAK[name](np.random.default_rng(seed), n)).sizes["mode"] for seed in range(40)]
    assert sum(size != 1 for size in found) <= 1


@pytest.mark.parametrize(
    ("n", "share", "apart"),
    [
        *((60, 0.5, 10), (100, 0.5, 6), (320, 0.5, 5), (2000, 0.5, 3.5), (320, 0.5, 1000), (2000, 0.1, 6)),
        *((20_000, 0.1, 4.5), (20_000, 0.01, 20), (1_000_000, 0.5, 3), (1_000_000, 0.5, 1000)),
    ],
)
def test_two_peaks_are_told_apart_where_they_are(n, share, apart):
    for seed in range(1 if n > 10**5 else 15):
        found = modes_of(mixture(n, share, apart, seed), 1000)
        np.testing.assert_allclose(found.position, [0, apart], atol=max(0.8, 0.06 * apart))
        assert 0 < float(found.valley_position[0]) < apart
        assert float(found.significance[0]) > 3
        assert 0 <= float(found.valley_height[0]) < float(found.height.min())


@pytest.mark.parametrize(
    ("n", "share", "apart"), [(60, 0.5, 2), (20_000, 0.5, 2), (20_000, 0.1, 2.5), (60, 0.02, 10)]
)
def test_no_second_peak_where_the_sum_has_none_or_too_few_values(n, share, apart):
    found = [modes_of(mixture(n, share, apart, seed)).sizes["mode"] for seed in range(20)]
    assert found == [1] * 20


def test_a_point_that_holds_most_values_does_not_stop_the_smoothing():
    for seed in range(10):
        random = np.random.default_rng(seed)
        values = np.where(random.random(20_000) < 0.8, 0.0, random.uniform(3, 13, 20_000))
        positions = modes_of(values).position.values
        assert positions.size == 2
        assert abs(positions[0]) < 0.1
        assert 3 < positions[1] < 13


def test_logits_of_ten_classes_of_mnist_show_two_peaks():
    # Measured: validation logits of a trained network, 30 bins of [-15, 15]; YES to NO is 1 to 9.
    counts = [18, 24, 65, 142, 260, 430, 710, 1049, 1439, 1914, 2385, 2443, 2352, 1925, 1435]
    counts += [823, 436, 284, 240, 258, 320, 389, 308, 188, 100, 50, 12, 1, 0, 0]
    found = modes(np.array(counts), LinearAxis(-15, 15, 30).centers)
    np.testing.assert_allclose(found.position, [-3.5, 6.5], atol=1)
    np.testing.assert_allclose(found.valley_position, [3.5], atol=1)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 10**6))
def test_modes_mirror_and_move_with_the_axis(counts, shift):
    data, centers = np.array(counts), np.arange(len(counts), dtype=float)
    found = modes(data, centers)
    assert (np.diff(found.position) > 0).all()
    assert found.sizes["mode"] > 0 or not data.any()
    moved = modes(data, centers + shift)
    for name in ("position", "valley_position"):
        np.testing.assert_allclose(moved[name], found[name] + shift)
    for name in ("height", "prominence", "valley_height", "significance"):
        np.testing.assert_allclose(moved[name], found[name])


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60))
def test_a_valley_lies_between_two_modes_and_is_deep(counts):
    found = modes(np.array(counts), np.arange(len(counts), dtype=float))
    assert found.sizes["valley"] == max(found.sizes["mode"] - 1, 0)
    assert (found.significance > 3).all()
    positions, heights = found.position.values, found.height.values
    assert (positions[:-1] < found.valley_position).all()
    assert (found.valley_position < positions[1:]).all()
    assert (found.valley_height < np.minimum(heights[:-1], heights[1:])).all()


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=60))
def test_prominence_is_that_of_scipy(counts):
    smooth = np.pad(np.array(counts, float), 1)
    for peak in find_peaks(smooth)[0]:
        assert prominence(smooth, peak) == peak_prominences(smooth, [peak])[0][0]


@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 7, 0], [7], [5, 0, 0], [3, 3, 3]])
def test_modes_of_almost_nothing(counts):
    found = modes(np.array(counts), np.arange(len(counts), dtype=float))
    assert found.sizes == {"mode": int(any(counts)), "valley": 0}


def test_more_values_make_the_same_valley_more_significant():
    found = [float(modes_of(mixture(n, 0.5, 5, 1)).significance[0]) for n in (1000, 4000, 16_000)]
    assert found == sorted(found)


def samples(values):
    """Return the values as they are, and as counts."""
    axis = FloatAxis()
    counts = np.bincount(axis.index(values), minlength=axis.n_buckets)
    coords = {"lower": ("bucket", axis.lower), "upper": ("bucket", axis.upper)}
    return Sample.of_values(values), Sample.of_counts(xr.DataArray(counts, coords, ("bucket",)))


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("sizes", [(300, 300), (300, 3000), (3000, 3000)])
def test_samples_of_one_distribution_are_as_far_apart_as_the_noise_says(sizes, kind):
    found = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        a, b = (samples(random.normal(size=n))[kind] for n in sizes)
        found.append(distance(a, b))
    values, noise = np.array(found).T
    assert values.mean() == pytest.approx(noise.mean(), rel=0.2)


def test_the_distance_of_one_sample_from_itself_is_nothing_and_its_noise_shrinks_with_its_size():
    few, many = (samples(np.random.default_rng(1).normal(size=n))[0] for n in (100, 10_000))
    assert distance(few, few).value == distance(many, many).value == 0
    assert distance(few, few).noise > 4 * distance(many, many).noise


@pytest.mark.parametrize("empty", [[], [np.nan, np.inf]])
def test_the_distance_from_nothing_is_not_known(empty):
    for some, none in zip(samples(np.arange(5.0)), samples(np.array(empty)), strict=True):
        assert np.isnan(distance(some, none)).all()
