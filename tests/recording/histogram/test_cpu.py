"""The CPU kernel: precision, sizes, what it leaves alone."""

import numpy as np
import pytest
import torch

from actlab.axis import FloatAxis
from actlab.recording.histogram.cpu import count

AXIS = FloatAxis()


def counted(values):
    out = np.zeros(AXIS.n_buckets, np.uint64)
    return count(values, AXIS, out), out


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 2047, 2048, 2049, 14_367, 14_368, 14_369, 300_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_size_of_block_and_tail_is_counted(size, dtype):
    values = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
    moments, out = counted(values)
    expected = np.bincount(AXIS.index(values.double().numpy()), minlength=AXIS.n_buckets)
    np.testing.assert_array_equal(out, expected)
    assert moments.n == size


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e6, 1e7])
def test_a_large_mean_costs_no_digits_of_the_deviation(mean):
    values = (torch.randn(100_000, generator=torch.Generator().manual_seed(0)) * 0.5 + mean).float()
    moments, _ = counted(values)
    exact = values.double().numpy()
    assert moments.mean == pytest.approx(exact.mean(), rel=1e-13, abs=1e-13)
    assert moments.std == pytest.approx(exact.std(), rel=1e-10)


def test_a_float64_beyond_the_square_root_of_the_largest_keeps_its_mean():
    moments, out = counted(torch.tensor([1.7e308, 1.7e308, -1e-300], dtype=torch.float64))
    assert moments.mean == pytest.approx(1.7e308 / 3 * 2)
    assert (moments.std, moments.min, moments.max) == (np.inf, -1e-300, 1.7e308)
    assert out[AXIS.n_buckets - 3] == 2


def test_one_infinite_value_leaves_the_moments_of_its_block():
    values = torch.linspace(-1, 1, 5000)
    values[[100, 4990]] = torch.tensor([np.inf, np.nan])
    moments, out = counted(values)
    finite = values[values.isfinite()].double().numpy()
    assert (moments.n, moments.finite, out[-1], out[-2]) == (5000, 4998, 1, 1)
    assert moments.std == pytest.approx(finite.std(), rel=1e-12)
    assert (moments.min, moments.max) == (-1, 1)


def test_counts_are_added_to_what_is_there():
    _, out = counted(torch.ones(5))
    count(torch.zeros(7), AXIS, out)
    assert (out[AXIS.index(1.0)], out[AXIS.zero], out.sum()) == (5, 7, 12)


def test_the_tensor_is_neither_changed_nor_copied():
    values = torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last).requires_grad_()
    before, version = values.detach().clone(), values._version
    counted(values)
    assert torch.equal(values, before)
    assert values._version == version
    large = torch.zeros(1 << 22).reshape(1 << 11, 1 << 11).t()
    with torch.profiler.profile(profile_memory=True) as profile:
        counted(large)
    assert max((event.cpu_memory_usage for event in profile.events()), default=0) < large.nbytes


def test_numpy_arrays_and_negative_views_are_counted():
    _, out = counted(np.array([[1.0, -2.0]], np.float32))
    assert out[AXIS.index(-2.0)] == out[AXIS.index(1.0)] == 1
    imaginary = torch.tensor([1 + 3j, 2 + 4j]).conj().imag
    assert imaginary.is_neg()
    _, out = counted(imaginary)
    assert out[AXIS.index(-3.0)] == out[AXIS.index(-4.0)] == 1


def test_float8_is_counted_exactly():
    values = torch.tensor([0.5, -0.25, 448.0, float("nan")]).to(torch.float8_e4m3fn)
    moments, out = counted(values)
    assert (moments.max, moments.finite, out[-1]) == (448.0, 3, 1)
