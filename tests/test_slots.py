import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlab.axis import FloatAxis, LinearAxis
from actlab.rebinning import Buckets, Slots, octave, rebin_array

AXES = (FloatAxis(), FloatAxis(3, -12, 12), FloatAxis(1, 0, 1), FloatAxis(7, -3, 4))


@st.composite
def all_slots(draw):
    axis = draw(st.sampled_from(AXES))
    floor = draw(st.integers(axis.min_exponent - axis.mantissa_bits, axis.max_exponent - 1))
    return Slots(axis, draw(st.integers(0, axis.mantissa_bits)), floor)


@given(all_slots())
def test_slots_are_buckets_merged_and_as_wide_as_stated(slots):
    buckets = Buckets.of(slots.lower, slots.upper)
    half = buckets.width.size // 2
    assert np.array_equal(buckets.ends[half + 1 : -1], slots.magnitudes)
    assert slots.lower[slots.zero] == slots.upper[slots.zero] == 0
    assert slots.slot_of[slots.axis.zero] == slots.zero
    width = np.diff(slots.magnitudes)
    assert np.all(width >= 2.0 ** max(slots.floor, slots.axis.min_exponent - slots.bits))
    assert np.all(width >= slots.magnitudes[:-1] * 2.0 ** -(slots.bits + 1))


@given(all_slots(), st.integers(0, 99))
def test_merging_keeps_every_count_and_its_value(slots, seed):
    random = np.random.default_rng(seed)
    values = random.normal(0, 2.0 ** random.integers(-9, 9), 400)
    values[:4] = 0, np.inf, -np.inf, np.nan
    bucket = slots.axis.index(values)
    counts = np.bincount(bucket, minlength=slots.axis.n_buckets)
    merged = slots.merge(counts)
    assert merged.sum() == values.size
    assert np.array_equal(merged, np.bincount(slots.slot_of[bucket], minlength=slots.starts.size))
    inside = np.isfinite(values)
    place = slots.slot_of[bucket][inside]
    assert np.all((slots.lower[place] <= values[inside]) & (values[inside] <= slots.upper[place]))


@pytest.mark.parametrize("axis", AXES)
def test_all_bits_are_the_buckets_as_recorded(axis):
    recorded = Slots.recorded(axis)
    assert np.array_equal(recorded.starts, np.arange(axis.n_buckets))
    np.testing.assert_array_equal(recorded.lower, axis.lower)


@given(all_slots(), st.floats(-9, 9), st.floats(-9, 9))
def test_a_span_holds_all_values_between_its_ends(slots, one, other):
    low, high = sorted((one, other))
    span = slots.span(low, high)
    for value in np.linspace(low, high, 9):
        assert span.start <= slots.slot_of[slots.axis.index(value)] < span.stop


@given(all_slots(), st.integers(0, 99))
def test_edges_that_slots_meet_are_exact_after_merging(slots, seed):
    counts = np.random.default_rng(seed).poisson(3, slots.axis.n_buckets)
    top = float(slots.magnitudes[-2])
    axis = LinearAxis(-top, top, 2)
    coarse = rebin_array(slots.merge(counts), slots.lower, slots.upper, axis)
    fine = rebin_array(counts, slots.axis.lower, slots.axis.upper, axis)
    np.testing.assert_allclose(coarse.counts, fine.counts)


def test_the_octave_is_that_of_all_but_the_largest_values():
    axis = FloatAxis()
    values = np.append(np.full(9_999, 3.0), 1e6)
    assert octave(np.bincount(axis.index(values), minlength=axis.n_buckets), axis) == 1
    assert octave(np.zeros(axis.n_buckets), axis) == 0
    assert octave(np.bincount(axis.index(np.zeros(5)), minlength=axis.n_buckets), axis) == axis.min_exponent
