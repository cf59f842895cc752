"""Counting with PyTorch alone: the same buckets as the axis, the moments of the finite values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actlab.axis import FloatAxis
from actlab.recording.histogram.torch_ops import accumulate, bucket_index, count, flatten

FLOATS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float8_e4m3fn: torch.int8,
    torch.float8_e5m2: torch.int8,
}
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])

axes = st.builds(
    lambda bits, ends: FloatAxis(bits, min(ends), max(ends)),
    st.integers(1, 10),
    st.tuples(st.integers(-126, 127), st.integers(-126, 127)),
)


@st.composite
def patterns(draw):
    """Any bit pattern of any float dtype: every NaN payload, denormal and sign of zero may come."""
    dtype = draw(st.sampled_from(list(FLOATS)))
    width = dtype.itemsize
    raw = draw(st.binary(min_size=width, max_size=40 * width))
    return torch.frombuffer(bytearray(raw[: len(raw) // width * width]), dtype=FLOATS[dtype]).view(dtype)


def every(dtype):
    """Return every value of a dtype of at most 16 bits."""
    integer = FLOATS[dtype]
    ends = torch.iinfo(integer)
    return torch.arange(ends.min, ends.max + 1, dtype=torch.int32).to(integer).view(dtype)


def counted(values, axis):
    out = np.zeros(axis.n_buckets, np.uint64)
    return count(values, axis, out), out


def accumulated(tensor, axis):
    counts = torch.zeros(axis.n_buckets, dtype=torch.int64, device=tensor.device)
    moments = torch.tensor([0, 0, torch.inf, -torch.inf], dtype=torch.float64, device=tensor.device)
    accumulate(flatten(tensor), axis, counts, moments)
    return counts.cpu().numpy(), moments.cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
@given(patterns(), axes)
def test_buckets_are_those_of_the_axis(device, values, axis):
    found = bucket_index(values.to(device), axis)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.cpu().numpy(), axis.index(values.double().numpy()))


@pytest.mark.parametrize("dtype", [dtype for dtype in FLOATS if dtype.itemsize <= 2])
@pytest.mark.parametrize("bits", [1, 5, 7, 10])
def test_every_value_of_a_narrow_dtype_finds_its_bucket(dtype, bits):
    axis, values = FloatAxis(bits), every(dtype)
    np.testing.assert_array_equal(bucket_index(values, axis).numpy(), axis.index(values.double().numpy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smallest_nan_is_none_of_the_infinite(dtype):
    values = torch.tensor([torch.inf, -torch.inf], dtype=dtype)
    found = bucket_index((values.view(FLOATS[dtype]) + 1).view(dtype), FloatAxis())
    assert found.tolist() == [FloatAxis().n_buckets - 1] * 2


@settings(max_examples=50)
@given(patterns(), axes, st.sampled_from([1, 7]))
def test_the_two_ways_to_count_agree_with_the_axis(values, axis, times):
    values = values.repeat(times)
    expected = np.bincount(axis.index(values.double().numpy()), minlength=axis.n_buckets)
    moments, out = counted(values, axis)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(accumulated(values, axis)[0], expected)
    finite = values.double().numpy()
    finite = finite[np.isfinite(finite)]
    assert (moments.n, moments.finite) == (values.numel(), finite.size)
    if finite.size:
        assert (moments.min, moments.max) == (finite.min(), finite.max())
        assert moments.mean == pytest.approx(
            np.mean(finite / 64) * 64, rel=1e-12, abs=np.abs(finite).max() / 1e13
        )


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 150_000])
def test_chunks_add_up(size):
    values = torch.randn(size, generator=torch.Generator().manual_seed(size))
    axis = FloatAxis()
    moments, out = counted(values, axis)
    np.testing.assert_array_equal(out, np.bincount(axis.index(values.numpy()), minlength=axis.n_buckets))
    assert (moments.n, moments.finite) == (size, size)
    if size:
        exact = values.double()
        assert moments.mean == pytest.approx(float(exact.mean()), rel=1e-11, abs=1e-13)
        assert moments.std == pytest.approx(float(exact.std(correction=0)), rel=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e6, 1e7])
def test_a_large_mean_costs_no_digits_of_the_deviation(mean):
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0)) * 0.5 + mean
    exact = values.double()
    assert counted(values, FloatAxis())[0].std == pytest.approx(float(exact.std(correction=0)), rel=1e-10)


def test_a_float64_beyond_the_square_root_of_the_largest_keeps_its_mean():
    moments, _ = counted(torch.tensor([1.7e308, 1.7e308, -1e-300], dtype=torch.float64), FloatAxis())
    assert moments.mean == pytest.approx(1.7e308 / 3 * 2)
    assert (moments.m2, moments.min, moments.max) == (np.inf, -1e-300, 1.7e308)


@pytest.mark.parametrize("device", DEVICES)
def test_sums_on_the_device_are_over_the_finite_values(device):
    values = torch.tensor([1.0, -3.0, torch.nan, torch.inf, 0.5], dtype=torch.float64, device=device)
    counts, moments = accumulated(values, FloatAxis())
    assert counts.sum() == 5
    assert moments.tolist() == [-1.5, 10.25, -3.0, 1.0]


def test_counts_are_added_to_what_is_there():
    axis = FloatAxis()
    out = np.ones(axis.n_buckets, np.uint64)
    count(np.zeros(3, np.float32), axis, out)
    assert (out[axis.zero], out.sum()) == (4, axis.n_buckets + 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.transpose(0, 3),
        lambda tensor: tensor.to(memory_format=torch.channels_last),
        lambda tensor: tensor[:, :, None].permute(4, 2, 0, 1, 3),
    ],
)
def test_dense_tensors_are_read_in_place(change):
    tensor = change(torch.randn(2, 3, 4, 5))
    flat = flatten(tensor)
    assert flat.data_ptr() == tensor.data_ptr()
    assert sorted(flat.tolist()) == sorted(tensor.reshape(-1).tolist())


@pytest.mark.parametrize(
    "change",
    [lambda tensor: tensor[:, ::2], lambda tensor: tensor[:1].expand(4, 6), lambda tensor: tensor.flip(0)],
)
def test_other_tensors_are_counted_value_by_value(change):
    tensor, axis = change(torch.randn(3, 6)), FloatAxis()
    _, out = counted(tensor, axis)
    np.testing.assert_array_equal(
        out, np.bincount(axis.index(tensor.numpy()).ravel(), minlength=axis.n_buckets)
    )


def test_a_negative_view_is_counted_with_its_sign():
    imaginary = torch.tensor([1 + 3j, 2 + 4j]).conj().imag
    assert imaginary.is_neg()
    axis = FloatAxis()
    expected = [axis.index(-3.0), axis.index(-4.0)]
    assert bucket_index(imaginary, axis).tolist() == expected
    assert np.flatnonzero(counted(imaginary, axis)[1]).tolist() == sorted(expected)


def test_the_tensor_and_its_graph_are_left_alone():
    values = torch.randn(2, 3, requires_grad=True)
    before, version = values.detach().clone(), values._version
    counted(values, FloatAxis())
    assert torch.equal(values, before)
    assert values._version == version
