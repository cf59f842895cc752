"""Every value has exactly one bucket, the one whose ends say so; every bin is numpy's."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError

exponents = st.tuples(st.integers(-126, 127), st.integers(-126, 127)).map(sorted)
float_axes = st.one_of(
    st.just(FloatAxis()),
    st.builds(lambda bits, pair: FloatAxis(bits, *pair), st.integers(1, 10), exponents),
)
powers = st.integers(-140, 140).map(lambda exponent: 2.0**exponent)
anything = st.one_of(
    st.floats(width=64), st.floats(width=32), st.floats(width=16), powers, powers.map(lambda x: -x)
)


@given(float_axes, st.lists(anything, min_size=1))
def test_a_value_lies_between_the_ends_of_its_bucket(axis, values):
    data = np.array(values, np.float64)
    found = axis.index(data)
    lower, upper, zero = axis.lower[found], axis.upper[found], axis.zero
    infinite, nan = np.isinf(data), np.isnan(data)
    np.testing.assert_array_equal(found == axis.n_buckets - 1, nan)
    np.testing.assert_array_equal((found == 0) | (found == axis.n_buckets - 2), infinite)
    np.testing.assert_array_equal(found == zero, data == 0)
    for chosen, inside in (
        (infinite | (data == 0), (lower == data) & (upper == data)),
        ((data > 0) & ~infinite, (lower <= data) & (data < upper)),
        ((data < 0) & ~infinite, (lower < data) & (data <= upper)),
    ):
        assert inside[chosen].all()
    tiny = (found == zero + 1) | (found == zero - 1)
    np.testing.assert_array_equal(tiny, (data != 0) & (np.abs(data) < 2.0**axis.min_exponent))


@given(float_axes, st.lists(anything.filter(lambda value: not np.isnan(value))))
def test_buckets_are_in_value_order(axis, values):
    assert (np.diff(axis.index(np.sort(np.array(values, np.float64)))) >= 0).all()


@given(float_axes, st.lists(anything))
def test_buckets_mirror_about_zero(axis, values):
    data = np.array([value for value in values if not np.isnan(value)], np.float64)
    np.testing.assert_array_equal(axis.index(-data) - axis.zero, axis.zero - axis.index(data))


@given(float_axes)
def test_ends_join_without_gap_or_overlap(axis):
    lower, upper, zero = axis.lower, axis.upper, axis.zero
    np.testing.assert_array_equal(upper[1:-3], lower[2:-2])
    assert lower[zero] == upper[zero] == 0
    assert (np.diff(lower[1:-1]) >= 0).all()
    ordinary = np.r_[1:zero, zero + 1 : axis.n_buckets - 2]
    assert (upper[ordinary] > lower[ordinary]).all()
    # An end belongs to one bucket: the upper one of two positive, the lower one of two negative.
    inner = upper[np.r_[1 : zero - 1, zero + 1 : axis.n_buckets - 3]]
    side = np.r_[np.arange(1, zero - 1), np.arange(zero + 2, axis.n_buckets - 2)]
    np.testing.assert_array_equal(axis.index(inner), side)


@given(st.integers(2, 10), exponents, st.lists(anything))
def test_dropping_a_mantissa_bit_merges_neighbours(bits, pair, values):
    fine, coarse = FloatAxis(bits, *pair), FloatAxis(bits - 1, *pair)
    steps = fine.index(np.array(values, np.float64)) - fine.zero
    size = np.abs(steps)
    merged = np.where(size < 2, size, np.minimum(size - 2, fine.n_side) // 2 + 2)
    beyond = np.maximum(size - (fine.n_side + 2), 0)  # overflow, infinite, nan stay apart
    expected = coarse.zero + np.where(steps < 0, -1, 1) * (merged + beyond)
    np.testing.assert_array_equal(coarse.index(np.array(values, np.float64)), expected)


@given(hnp.arrays(st.sampled_from((np.float16, np.float32)), st.integers(0, 30)))
def test_narrow_floats_fall_where_their_float64_does(values):
    np.testing.assert_array_equal(FloatAxis().index(values), FloatAxis().index(values.astype(np.float64)))


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.integers(1, 50), st.lists(anything), st.data())
def test_linear_bins_are_those_of_numpy(first, second, n_bins, values, data):
    try:
        axis = LinearAxis(min(first, second), max(first, second), n_bins)
    except AxisError:
        assume(False)
    on_edges = data.draw(st.lists(st.sampled_from(axis.edges.tolist())))
    sample = np.array([*values, *on_edges], np.float64)
    found = axis.index(sample)
    inside = (found >= 0) & (found < n_bins)
    np.testing.assert_array_equal(
        np.bincount(found[inside], minlength=n_bins), np.histogram(sample, axis.edges)[0]
    )
    np.testing.assert_array_equal(found == -1, sample < axis.h_min)
    np.testing.assert_array_equal(found == n_bins, sample > axis.h_max)
    np.testing.assert_array_equal(found == n_bins + 1, np.isnan(sample))
