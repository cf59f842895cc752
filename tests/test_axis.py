"""The two axes by example: what numbers they refuse, which buckets there are."""

import numpy as np
import pytest

from actlab.axis import MAX_BINS, FloatAxis, LinearAxis
from actlab.errors import AxisError


def test_linear_axis_has_the_bins_of_numpy():
    axis = LinearAxis(-1, 1, 4)
    assert axis.edges.tolist() == [-1, -0.5, 0, 0.5, 1]
    assert axis.lower.tolist() == [-1, -0.5, 0, 0.5]
    assert axis.upper.tolist() == [-0.5, 0, 0.5, 1]
    assert axis.centers.tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert axis.index([-1, -0.5, 0.9, 1, -1.1, 1.1, np.nan, np.inf, -np.inf]).tolist() == [
        0,
        1,
        3,
        3,
        -1,
        4,
        5,
        4,
        -1,
    ]
    assert axis.index(0.1) == 2
    assert axis.index(np.zeros((2, 3))).shape == (2, 3)


def test_linear_axis_takes_numpy_numbers_and_compares_by_value():
    axis = LinearAxis(np.float32(-1), np.int64(1), np.int32(4))
    assert axis == LinearAxis(-1.0, 1.0, 4)
    assert type(axis.h_min) is float
    assert type(axis.n_bins) is int


@pytest.mark.parametrize(
    ("h_min", "h_max", "n_bins", "message"),
    [
        (1, 1, 2, "h_min must be below h_max, got h_min=1 and h_max=1"),
        (2, 1, 2, "h_min must be below h_max"),
        (np.nan, 1, 2, "h_min must be finite, got nan"),
        (0, np.inf, 2, "h_max must be finite, got inf"),
        ("0", 1, 2, "h_min must be a number, got '0'"),
        (True, 2, 2, "h_min must be a number, got True"),
        (0, 1, 0, "n_bins must be within 1 and 1000000, got 0"),
        (0, 1, MAX_BINS + 1, "n_bins must be within"),
        (0, 1, 2.5, "n_bins must be a whole number, got 2.5"),
        (0, 1, True, "n_bins must be a whole number, got True"),
        (1, np.nextafter(1, 2), 2, "too narrow for float64"),
        (-1.7e308, 1.7e308, 2, "too narrow for float64"),
    ],
)
def test_linear_axis_refuses_what_cannot_be(h_min, h_max, n_bins, message):
    with pytest.raises(AxisError, match=message):
        LinearAxis(h_min, h_max, n_bins)


def test_default_float_axis_has_3592_buckets_in_value_order():
    axis = FloatAxis()
    assert axis.n_buckets == 3592 == axis.lower.size == axis.upper.size
    assert axis.index([-np.inf, -(2.0**32), 0.0, -0.0, 2.0**32, np.inf, np.nan]).tolist() == [
        *(0, 1, axis.zero, axis.zero),
        *(3589, 3590, 3591),
    ]
    assert axis.index([-1e-9, 1e-9]).tolist() == [axis.zero - 1, axis.zero + 1]
    assert axis.index(np.float32(1)) == axis.index(1) == np.flatnonzero(axis.lower == 1)


def test_half_a_bucket_is_at_most_1_6_percent_of_the_value():
    axis = FloatAxis()
    ordinary = slice(axis.zero + 2, -3)
    half = (axis.upper[ordinary] / axis.lower[ordinary] - 1) / 2
    assert half.max() <= 2**-6


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((0,), "mantissa_bits must be within 1 and 10, got 0"),
        ((11,), "mantissa_bits must be within"),
        ((5, -127), "min_exponent must be within -126 and 127, got -127"),
        ((5, 0, 128), "max_exponent must be within"),
        ((5, 1, 0), "min_exponent must not exceed max_exponent, got 1 and 0"),
        ((5.0,), "mantissa_bits must be a whole number, got 5.0"),
    ],
)
def test_float_axis_refuses_what_cannot_be(parts, message):
    with pytest.raises(AxisError, match=message):
        FloatAxis(*parts)
