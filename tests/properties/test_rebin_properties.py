"""Whatever was recorded, wherever the edges fall: re-binning stays within its stated bound."""

import numpy as np
import xarray as xr
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError
from actlab.rebinning import LARGEST, Buckets, rebin, rebin_array

FLOW = ("underflow", "overflow", "neg_inf", "pos_inf", "nan")

float_axes = st.one_of(
    st.just(FloatAxis()),
    st.tuples(st.integers(1, 7), st.integers(-126, 127), st.integers(-126, 127)).map(
        lambda parts: FloatAxis(parts[0], min(parts[1:]), max(parts[1:]))
    ),
)
powers = st.integers(-30, 40).map(lambda exponent: 2.0**exponent)
on_buckets = st.tuples(st.sampled_from((-1, 1)), st.integers(32, 64), powers).map(
    lambda f: f[0] * f[1] * f[2] / 64
)
wild = st.floats(allow_nan=True, allow_infinity=True, width=64)
tiny = st.floats(-1e-37, 1e-37, width=64) | st.sampled_from(
    (5e-324, -5e-324, 2.0**-149, -(2.0**-149), 2.0**-126)
)
usual = st.floats(-50, 50, width=32)


@st.composite
def linear_axes(draw):
    """Axes with edges anywhere, and with edges on the ends of buckets."""
    n_bins = draw(st.sampled_from((1, 2, 3, 7, 8, 64)) | st.integers(1, 40))
    ends = draw(
        st.sampled_from((usual, on_buckets, tiny, st.one_of(wild, st.sampled_from((0.0, LARGEST, -LARGEST)))))
    )
    try:
        return LinearAxis(*sorted((draw(ends), draw(ends))), n_bins)
    except AxisError:
        return assume(False)


@st.composite
def samples(draw):
    """An axis, and values everywhere, many of them exactly on its edges and on bucket ends."""
    axis = draw(linear_axes())
    on_edges = st.sampled_from(axis.edges.tolist())
    special = st.sampled_from((0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, -1e300, LARGEST, -LARGEST))
    near = st.tuples(on_edges, st.sampled_from((-np.inf, np.inf))).map(lambda pair: np.nextafter(*pair))
    within = st.floats(axis.h_min, axis.h_max)
    parts = draw(
        st.lists(st.lists(st.one_of(on_edges, near, within, on_buckets, usual, wild, tiny, special)))
    )
    seed = draw(st.integers(0, 2**32 - 1))
    normal = np.random.default_rng(seed).normal(0, draw(powers), draw(st.sampled_from((0, 10, 1000))))
    return axis, np.concatenate([*map(np.array, parts), normal]).astype(np.float64)


def count(values, axis):
    return np.bincount(axis.index(values), minlength=axis.n_buckets)


def example_of(values, *axis):
    return LinearAxis(*axis), np.array(values, np.float64)


@given(samples(), float_axes)
@example(example_of([-1.0, -1.0, -1.01], -2, 0, 2), FloatAxis())  # values on a closed end below zero
@example(example_of([-1.0, -1.01, -0.99], -2, -1, 2), FloatAxis())  # the same as the last edge
@example(example_of([1.0, 1.01, 0.99], 0, 1, 2), FloatAxis())  # a bucket that starts on the last edge
@example(example_of([0.0, -0.0, 1e-30, -1e-30], -1, 0, 2), FloatAxis())  # zero belongs to the last bin
@example(example_of([2.0**32, -(2.0**32), 1e300, -1e300], -(2.0**33), 2.0**33, 4), FloatAxis())
@example(example_of([-1e300, -1e20, 1e300], -LARGEST, LARGEST, 3), FloatAxis())
@example(example_of([2.0**32, 1e20], 0, 2.0**32, 4), FloatAxis())
@example(example_of([1.2, 1.3, 1.4, 1.45], 1.25, 1.35, 1), FloatAxis(1))  # both edges cut one bucket
@example(example_of([1.01, 1.0102], 1.0101, 1.0103, 3), FloatAxis())  # all edges cut one bucket
@example(example_of([5e-324, -5e-324, 0.0, -0.0, 1e-40], 0, 1e-39, 4), FloatAxis(5, -126, 127))  # denormals
@example(example_of([-3.0, -2.0, -1.0, 0.0, np.nan], -3, -1, 4), FloatAxis())  # below zero alone
def test_no_bin_is_further_from_numpy_than_the_bound(sample, float_axis):
    axis, values = sample
    found = rebin_array(count(values, float_axis), float_axis.lower, float_axis.upper, axis)
    true = np.histogram(values, axis.edges)[0]
    slack = 1e-9 * values.size
    assert np.all(np.abs(found.counts - true) <= found.bound + slack)
    assert np.all(found.counts >= 0)
    assert np.all(found.bound >= 0)
    np.testing.assert_array_equal(found.counts[found.bound == 0], true[found.bound == 0])
    if found.exact:
        assert not found.bound.any()
        finite = values[np.isfinite(values)]
        assert found.underflow == np.count_nonzero(finite < axis.h_min)
        assert found.overflow == np.count_nonzero(finite > axis.h_max)


@given(samples(), float_axes)
@example(example_of([-1e300, 1e300], -LARGEST, LARGEST, 1), FloatAxis())  # ends of the range are no knots
@example(example_of([-0.99], -2, -1, 1), FloatAxis())  # above a last edge below zero
@example(example_of([1e-30], -1, 0, 1), FloatAxis())  # above a last edge at zero
def test_the_bound_is_the_mass_of_the_buckets_cut_and_no_more(sample, float_axis):
    axis, values = sample
    counts = count(values, float_axis)
    found = rebin_array(counts, float_axis.lower, float_axis.upper, axis)
    lower, upper, edges = float_axis.lower, float_axis.upper, axis.edges[:, None]
    is_last = edges == axis.h_max
    cut = (lower < edges) & (edges < upper)
    cut |= (upper == edges) & (lower < upper) & (edges < 0) & ~is_last
    cut |= (lower == edges) & (lower < upper) & (edges > 0) & is_last
    np.testing.assert_array_equal(found.bound, (cut[:-1] | cut[1:]) @ counts)
    assert found.exact == (not (cut @ counts).any())


@given(samples(), float_axes)
def test_bins_and_flow_add_up_to_n(sample, float_axis):
    axis, values = sample
    found = rebin_array(count(values, float_axis), float_axis.lower, float_axis.upper, axis)
    assert min(getattr(found, name) for name in FLOW) >= 0
    total = found.counts.sum() + sum(getattr(found, name) for name in FLOW)
    assert abs(total - values.size) <= 1e-9 * values.size
    assert found.neg_inf == np.count_nonzero(values == -np.inf)
    assert found.pos_inf == np.count_nonzero(values == np.inf)
    assert found.nan == np.count_nonzero(np.isnan(values))


@given(samples(), float_axes)
@example(
    example_of([-7, -6.5, -6.1, 5, 5.5, 6.1, 6.5, 7, 7.9], -7.5, 7.5, 13), FloatAxis(1, 0, 2)
)  # its ends
def test_cumulative_counts_are_those_of_scipy(sample, float_axis):
    axis, values = sample
    counts = count(values, float_axis)
    found = rebin_array(counts, float_axis.lower, float_axis.upper, axis)
    knots = np.unique(
        [0.0, *float_axis.lower[2:-2][np.isfinite(float_axis.lower[2:-2])], float_axis.upper[-4]]
    )
    inside = (axis.edges >= knots[0]) & (axis.edges <= knots[-1])
    mass = np.delete(counts[1:-2], float_axis.zero - 1)
    smooth = PchipInterpolator(knots, np.cumsum(mass[:-1]))(axis.edges)
    smooth += np.where(axis.edges > 0, counts[float_axis.zero], 0)
    if axis.h_max == 0:
        smooth[-1] += counts[float_axis.zero]
    below = found.underflow + np.concatenate([[0], np.cumsum(found.counts)])
    np.testing.assert_allclose(below[inside], smooth[inside], rtol=0, atol=1e-9 * max(values.size, 1))


@given(samples(), float_axes, st.sampled_from((1, 2, 4)), st.booleans())
def test_edges_on_knots_meet_the_counts_exactly(sample, float_axis, n_bins, reach_below):
    _, values = sample
    knots = Buckets.of(float_axis.lower, float_axis.upper).ends[1:-1]
    axis = LinearAxis(-knots[-1] if reach_below else 0.0, knots[-1], n_bins)
    assume(np.isin(axis.edges, knots).all())
    counts = count(values, float_axis)
    found = rebin_array(counts, float_axis.lower, float_axis.upper, axis)
    inside = slice(1, -2)
    lower, upper = float_axis.lower[inside], float_axis.upper[inside]
    bins = zip(axis.lower, axis.upper, strict=True)
    true = [counts[inside][(lower >= low) & (upper <= high) & (lower < high)].sum() for low, high in bins]
    np.testing.assert_array_equal(found.counts, true)


@given(samples(), float_axes, st.floats(1e-9, 1e9))
def test_shares_are_rebinned_as_counts_are(sample, float_axis, scale):
    axis, values = sample
    counts = count(values, float_axis)
    found = rebin_array(counts * scale, float_axis.lower, float_axis.upper, axis)
    whole = rebin_array(counts, float_axis.lower, float_axis.upper, axis)
    for name in ("counts", "bound", *FLOW):
        expected = getattr(whole, name) * scale
        np.testing.assert_allclose(
            getattr(found, name), expected, rtol=1e-12, atol=1e-12 * scale * values.size
        )


@settings(max_examples=10)
@given(samples(), float_axes, st.integers(90_000, 110_000), st.integers(0, 2**32 - 1))
def test_very_fine_bins_keep_the_bound_and_the_total(sample, float_axis, n_bins, seed):
    coarse, values = sample
    try:
        axis = LinearAxis(coarse.h_min, coarse.h_max, n_bins)
    except AxisError:
        return assume(False)
    on_edges = np.random.default_rng(seed).choice(axis.edges, 100)
    values = np.concatenate([values, on_edges])
    found = rebin_array(count(values, float_axis), float_axis.lower, float_axis.upper, axis)
    true = np.histogram(values, axis.edges)[0]
    assert np.all(np.abs(found.counts - true) <= found.bound + 1e-9 * values.size)
    total = found.counts.sum() + sum(getattr(found, name) for name in FLOW)
    assert abs(total - values.size) <= 1e-9 * values.size
    return None


@settings(max_examples=20)
@given(linear_axes(), st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4))
def test_dask_gives_the_numbers_of_numpy(axis, seed, step_chunk, layer_chunk):
    float_axis = FloatAxis(3, -10, 10)
    values = np.random.default_rng(seed).standard_cauchy((5, 4, 30))
    counts = xr.DataArray(
        np.apply_along_axis(count, -1, values, float_axis).astype(np.uint32),
        dims=("step", "layer", "bucket"),
        coords={"lower": ("bucket", float_axis.lower), "upper": ("bucket", float_axis.upper)},
    )
    lazy = rebin(counts.chunk(step=step_chunk, layer=layer_chunk, bucket=7), axis)
    assert lazy.counts.chunksizes["step"][0] == step_chunk
    assert lazy.counts.chunksizes["layer"][0] == layer_chunk
    xr.testing.assert_identical(lazy.compute(), rebin(counts, axis))
