"""The CPU kernel: precision, sizes, what it leaves alone."""

import numpy as np
import pytest
import torch

from actlab.axis import FloatAxis
from actlab.recording.histogram import cpu_kernel
from actlab.recording.histogram.cpu import count

AXIS = FloatAxis()
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def counted(values):
    out = np.zeros(AXIS.n_buckets, np.uint64)
    return count(values, AXIS, out), out


def check(values):
    """Compare with the axis, bucket by bucket, and the moments with numpy's."""
    moments, out = counted(values)
    exact = values.double().numpy().ravel()
    np.testing.assert_array_equal(out, np.bincount(AXIS.index(exact), minlength=AXIS.n_buckets))
    finite = exact[np.isfinite(exact)]
    assert (moments.n, moments.finite) == (exact.size, finite.size)
    if finite.size:
        assert (moments.min, moments.max) == (finite.min(), finite.max())
        digits = 1e-13 * np.abs(finite).max()
        assert moments.mean == pytest.approx(finite.mean(), rel=1e-12, abs=digits)
        assert moments.std == pytest.approx(finite.std(), rel=1e-12)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def normal(size, dtype=torch.float32):
    return torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 2047, 2048, 2049, 4097, 16_383, 16_384, 16_401, 100_001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size_of_block_and_tail_is_counted(size, dtype):
    check(normal(size, dtype))


@pytest.mark.parametrize("size", [262_143, 262_144, 300_001, 800_001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_tensors_are_shared_out_and_nothing_is_lost(size, dtype, threads):
    values = normal(size, dtype)
    check(values)
    values[[0, size // 2, -1]] = torch.tensor([np.inf, np.nan, -np.inf], dtype=dtype)
    check(values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pattern_of_16_bits_and_its_like_is_counted(dtype):
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32)
    narrow = torch.float16 if dtype == torch.float16 else torch.bfloat16
    check(patterns.to(torch.int16).view(narrow).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_pattern_of_16_bits_is_counted_wherever_it_lies(dtype, threads):
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).repeat(5)
    mixed = patterns[torch.randperm(patterns.numel(), generator=torch.Generator().manual_seed(0))]
    check(mixed.view(dtype))


@pytest.mark.parametrize("size", [1, 16, 100, 2048, 5000])
def test_a_block_begins_at_a_whole_vector(size):
    rings = [cpu_kernel._ring(size, 7) for _ in range(20)]  # all alive, so at different addresses
    assert {ring.ctypes.data % 64 for ring in rings} == {0}
    assert all(ring.tolist() == [7] * min(size, 2048) for ring in rings)


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_equal_neighbours_are_counted(kept):
    values = normal(300_000).clamp(-kept, kept)
    values[:100_000] = torch.linspace(-1, 1, 100_000)  # equal neighbours come late
    check(values)
    check(values.relu())


def test_values_too_small_for_the_processors_shortcut_keep_their_buckets():
    values = torch.tensor([2.0**-24, -(2.0**-15), 1.0]).half().repeat(20)
    tiny = torch.tensor([1e-40, -1e-45, 0.0]).repeat(20)
    expected = counted(values)[1], counted(tiny)[1]
    if torch.set_flush_denormal(True):
        try:
            flushed = counted(values)[1], counted(tiny)[1]
        finally:
            torch.set_flush_denormal(False)
        np.testing.assert_array_equal(flushed, expected)
    assert expected[0][AXIS.index(2.0**-24)] == expected[1][AXIS.zero + 1] == 20


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


LARGE = torch.zeros(1 << 22).reshape(1 << 11, 1 << 11)


@pytest.mark.parametrize(
    ("values", "most"),
    [
        (LARGE.t(), 0),
        (LARGE.bfloat16().t(), 0),
        (LARGE.half().view(2, 1 << 10, -1).permute(1, 2, 0), 0),
        (LARGE[:, :1].expand(-1, 1 << 20), 1 << 14),
        (LARGE[:1].expand(1 << 11, -1), 0),
        (LARGE[:, ::2], 1 << 20),
        (LARGE[..., 1:], 1 << 20),
        (LARGE.t()[::3, 5:], 1 << 20),
        (LARGE.view(-1)[1::2], 1 << 20),
        (LARGE.to(torch.float8_e4m3fn), 1 << 20),
    ],
)
def test_no_layout_is_copied_but_in_small_pieces(values, most):
    with torch.profiler.profile(profile_memory=True) as profile:
        moments, out = counted(values)
    assert max((event.cpu_memory_usage for event in profile.events()), default=0) <= most
    assert moments.n == moments.finite == out[AXIS.zero] == values.numel()


def test_a_row_that_many_read_counts_for_each():
    row = normal(1001)
    values = row.view(1, 7, 1, 143).expand(3, 7, 5, 143)
    once, each = counted(row), counted(values)
    np.testing.assert_array_equal(each[1], once[1] * np.uint64(15))
    assert (each[0].n, each[0].mean) == (15_015, once[0].mean)
    assert each[0].std == pytest.approx(once[0].std, rel=1e-14)


def test_numpy_arrays_and_negative_views_are_counted():
    _, out = counted(np.array([[1.0, -2.0]], np.float32))
    assert out[AXIS.index(-2.0)] == out[AXIS.index(1.0)] == 1
    imaginary = torch.tensor([1 + 3j, 2 + 4j]).conj().imag
    assert imaginary.is_neg()
    _, out = counted(imaginary)
    assert out[AXIS.index(-3.0)] == out[AXIS.index(-4.0)] == 1
    _, out = counted(torch._neg_view(torch.tensor([1.0, 2.0])))
    assert out[AXIS.index(-1.0)] == out[AXIS.index(-2.0)] == 1


def test_float8_is_counted_exactly():
    values = torch.tensor([0.5, -0.25, 448.0, float("nan")]).to(torch.float8_e4m3fn)
    moments, out = counted(values)
    assert (moments.max, moments.finite, out[-1]) == (448.0, 3, 1)


def freed():
    values = torch.ones(5)
    values.untyped_storage().resize_(0)
    return values


class Wrapper(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, function, kinds, args=(), kwargs=None):
        raise NotImplementedError


def wrapper():
    return torch.Tensor._make_wrapper_subclass(Wrapper, (5,), dtype=torch.float32)


def jagged():
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


@pytest.mark.parametrize("make", [freed, wrapper, jagged])
def test_a_tensor_without_memory_is_refused_not_read(make):
    with pytest.raises(TypeError, match="without memory"):
        counted(make())
