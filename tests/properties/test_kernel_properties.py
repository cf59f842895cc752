"""The CPU kernel equals `FloatAxis.index` bucket by bucket, whatever the values, dtype and layout."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actlab.axis import FloatAxis
from actlab.recording.histogram import cpu
from actlab.recording.histogram.cpu import count
from actlab.recording.histogram.groups import count_groups
from actlab.recording.histogram.moments import Moments

DTYPES = {
    torch.float64: (torch.int64, 8),
    torch.float32: (torch.int32, 4),
    torch.bfloat16: (torch.int16, 2),
    torch.float16: (torch.int16, 2),
}
WILD = [
    0.0,
    -0.0,
    float("inf"),
    -float("inf"),
    float("nan"),
    1e-45,
    -1e-40,
    5e-324,
    6e-8,
    2.0**-24,
    -(2.0**-24),
]
WILD += [2.0**32, -(2.0**32), 3e38, -3e38, 65504.0, 1.0, -1.0]

axes = st.builds(
    lambda bits, ends: FloatAxis(bits, min(ends), max(ends)),
    st.integers(1, 10),
    st.tuples(st.integers(-126, 127), st.integers(-126, 127)),
)


@st.composite
def tensors(draw):
    """Any bit pattern of any float dtype: every NaN payload, denormal and sign of zero may come."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    integer, width = DTYPES[dtype]
    if draw(st.booleans()):
        patterns = draw(st.binary(max_size=60 * width).map(lambda raw: raw[: len(raw) // width * width]))
        flat = (
            torch.frombuffer(bytearray(patterns), dtype=integer).view(dtype) if patterns else torch.empty(0)
        )
        flat = flat.to(dtype)
    else:
        flat = torch.tensor(
            draw(st.lists(st.sampled_from(WILD) | st.floats(width=32), max_size=60)), dtype=dtype
        )
    # Long enough for whole blocks, a tail, and all tables.
    return flat.repeat(draw(st.sampled_from([1, 1, 40, 300])))


def reshape(flat, layout):
    """Lay a flat tensor out in memory in one of many ways, keeping its values."""
    size = flat.numel() // 4 * 4
    if layout == "flat" or size == 0:
        return flat
    square = flat[:size].reshape(4, -1)
    return {
        "transposed": square.t,
        "channels_last": lambda: square.reshape(2, 2, -1, 1).to(memory_format=torch.channels_last),
        "every second": lambda: square[:, ::2],
        "offset": lambda: square[1:],
        "expanded": lambda: square[:1].unsqueeze(0).expand(3, 2, -1),
        "flipped": lambda: square.flip(0).permute(1, 0),
        "inner": lambda: square.unsqueeze(1)[..., 1:-1],
        "overlapping": lambda: flat.unfold(0, 4, 3),
    }[layout]()


layouts = st.sampled_from(
    [
        *("flat", "transposed", "channels_last", "every second", "offset"),
        *("expanded", "flipped", "inner", "overlapping"),
    ]
)


@pytest.fixture(params=["whole", "shared"], scope="module")
def sharing(request):
    """Counting as it is, and with threads and pieces for tensors of any size."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        if request.param == "shared":
            torch.set_num_threads(3)
            for name, small in (("_LARGE", 8), ("_SHARE", 2), ("_PIECE", 256), ("_MOST", 1000)):
                patch.setattr(cpu, name, small)
        yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("sharing")
@given(tensors(), axes, layouts)
def test_counts_equal_the_axis_bucket_by_bucket(flat, axis, layout):
    tensor = reshape(flat, layout)
    out = np.zeros(axis.n_buckets, np.uint64)
    moments = count(tensor, axis, out)
    values = tensor.to(torch.float64).reshape(-1).numpy()
    np.testing.assert_array_equal(out, np.bincount(axis.index(values), minlength=axis.n_buckets))
    assert moments.n == out.sum() == tensor.numel()


@given(tensors(), axes, layouts, st.integers(1, 5), st.randoms(use_true_random=False))
def test_counts_by_group_equal_the_axis_bucket_by_bucket(flat, axis, layout, n_groups, random):
    tensor = reshape(flat, layout)
    groups = np.array([random.randrange(-1, n_groups) for _ in range(tensor.numel())], np.int64)
    out = np.zeros((n_groups, axis.n_buckets), np.uint64)
    count_groups(tensor, groups.reshape(tensor.shape), axis, out)
    index = axis.index(tensor.to(torch.float64).reshape(-1).numpy())
    for group in range(n_groups):
        expected = np.bincount(index[groups == group], minlength=axis.n_buckets)
        np.testing.assert_array_equal(out[group], expected)


@pytest.mark.usefixtures("sharing")
@given(tensors(), layouts)
def test_moments_are_over_the_finite_values(flat, layout):
    tensor = reshape(flat, layout)
    moments = count(tensor, FloatAxis(), np.zeros(FloatAxis().n_buckets, np.uint64))
    values = tensor.to(torch.float64).reshape(-1).numpy()
    finite = values[np.isfinite(values)]
    assert moments.finite == finite.size
    if not finite.size:
        assert np.isnan([moments.mean, moments.std, moments.min, moments.max]).all()
        return
    assert (moments.min, moments.max) == (finite.min(), finite.max())
    scale = np.abs(finite).max()
    assert moments.mean == pytest.approx(np.mean(finite / 64) * 64, rel=1e-12, abs=1e-13 * scale)
    if scale < 1e150:
        assert moments.std == pytest.approx(finite.std(), rel=1e-9, abs=1e-13 * scale)
    else:
        assert moments.std > 0 or finite.min() == finite.max()


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    st.lists(st.floats(-1e6, 1e6, width=32), max_size=40),
)
def test_parts_merge_to_the_whole(first, second):
    axis = FloatAxis()
    out, whole_out = np.zeros((2, axis.n_buckets), np.uint64)
    merged = count(torch.tensor(first), axis, out) + count(torch.tensor(second), axis, out)
    whole = count(torch.tensor(first + second), axis, whole_out)
    np.testing.assert_array_equal(out, whole_out)
    assert (merged.n, merged.finite, merged.min, merged.max) == (whole.n, whole.finite, whole.min, whole.max)
    assert merged.mean == pytest.approx(whole.mean, rel=1e-12, abs=1e-8)
    assert merged.std == pytest.approx(whole.std, rel=1e-9, abs=1e-6)
    assert merged == Moments() + merged == merged + Moments()
