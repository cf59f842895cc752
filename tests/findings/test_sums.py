"""Sums over regions of buckets: each held against plain numpy on the values themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlab.axis import FloatAxis
from actlab.findings.sums import SUMS, regions, sum_rows

AXES = [FloatAxis(), FloatAxis(mantissa_bits=2), FloatAxis(min_exponent=-30), FloatAxis(min_exponent=-10)]
SPECIAL = [
    0.0,
    -0.0,
    np.nan,
    np.inf,
    -np.inf,
    1.0,
    -1.0,
    63 / 64,
    -63 / 64,
    1 / 64,
    2.0**-25,
    -(2.0**-24),
    1e30,
]
VALUES = st.lists(st.sampled_from(SPECIAL) | st.floats(width=32), min_size=1, max_size=60)


def sums_of(values, axis, samples=0, units=0):
    """Sum up one row of one layer, and return the sums by name and the pooled counts."""
    counts = np.bincount(axis.index(np.asarray(values)), minlength=axis.n_buckets)[None, None].astype(
        np.uint32
    )
    pooled = np.zeros((1, axis.n_buckets), np.uint64)
    found = sum_rows(counts, regions(axis), np.array([[samples]]), np.array([units]), pooled)
    return dict(zip(SUMS, found[0, 0], strict=True)), pooled[0]


@pytest.mark.parametrize("axis", AXES, ids=str)
@given(values=VALUES)
def test_regions_hold_whole_buckets_only(axis, values):
    sums, pooled = sums_of(values, axis)
    values = np.asarray(values)
    size, code = np.abs(values), axis.index(values)
    lower, upper = axis.lower[code], axis.upper[code]
    with np.errstate(invalid="ignore"):
        assert sums["zeros"] == (values == 0).sum()
        assert sums["nan"] == np.isnan(values).sum()
        assert (sums["pos_inf"], sums["neg_inf"]) == ((values == np.inf).sum(), (values == -np.inf).sum())
        # What surely lies in a region is counted there, and nothing that lies outside.
        finite = np.isfinite(values)
        inner = np.maximum(np.abs(lower), np.abs(upper))
        for name, limit, part in (("near_zero", 1 / 64, size), ("tiny", 2.0**-24, size)):
            assert (finite & (inner <= limit)).sum() - (sums["zeros"] if name == "tiny" else 0) == sums[name]
            assert sums[name] <= (finite & (part <= limit)).sum()
        assert sums["high"] == (finite & (lower >= 63 / 64)).sum()
        assert sums["low"] == (finite & (upper <= -63 / 64)).sum()
    assert pooled.sum() == values.size


@given(values=VALUES)
def test_the_number_of_buckets_that_hold_any(values):
    axis = FloatAxis()
    sums, _ = sums_of(values, axis)
    held = np.bincount(axis.index(np.asarray(values)), minlength=axis.n_buckets)[1:-2]
    assert sums["occupied"] == (held > 0).sum()


def test_values_beyond_the_axis_are_not_known_to_be_the_same():
    sums, _ = sums_of([1e20, 2e20, -1e20, -3e20], FloatAxis(), samples=2, units=2)
    assert (sums["same"], sums["alike"]) == (0, 0)


@given(row=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20), samples=st.integers(2, 40))
def test_the_same_outputs_for_every_sample_are_told(row, samples):
    sums, _ = sums_of(np.tile(row, samples), FloatAxis(), samples=samples)
    assert sums["same"] == len(row) * samples
    sums, _ = sums_of(np.repeat(row, samples), FloatAxis(), units=samples)
    assert (sums["alike"], sums["same"]) == (len(row) * samples, 0)


def test_outputs_that_have_nothing_in_common_are_the_same_by_chance_only():
    random = np.random.default_rng(3)
    sums, _ = sums_of(random.normal(size=64 * 500), FloatAxis(), samples=64, units=500)
    assert sums["same"] < 0.1 * 64 * 500
    assert sums["alike"] < 0.1 * 64 * 500


def test_rows_are_added_to_their_epoch():
    axis = FloatAxis(mantissa_bits=1, min_exponent=0, max_exponent=1)
    counts = np.random.default_rng(0).integers(0, 9, (4, 3, axis.n_buckets)).astype(np.uint16)
    pooled = np.ones((3, axis.n_buckets), np.uint64)
    sum_rows(counts, regions(axis), np.zeros((4, 3), np.int64), np.zeros(3, np.int64), pooled)
    np.testing.assert_array_equal(pooled, counts.sum(axis=0) + 1)
