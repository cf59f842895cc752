"""Counters on a device: the kernel runs in Triton's interpreter here, and on the GPU where there is one."""

import subprocess
import sys
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime import JITFunction
from triton.runtime.interpreter import InterpretedFunction

from actlab.axis import FloatAxis
from actlab.recording.histogram import cuda, triton_kernel
from actlab.recording.histogram.cuda import CudaCounters

# The interpreter computes with numpy, which warns of what the kernel sorts out afterwards.
pytestmark = pytest.mark.filterwarnings(
    "ignore:invalid value encountered:RuntimeWarning",
    "ignore:overflow encountered:RuntimeWarning",
    "ignore:All-NaN slice:RuntimeWarning",
)

HAS_CUDA = torch.cuda.is_available()
DEVICES = ["cpu (interpreter)"] + (["cuda"] if HAS_CUDA else [])
TILE = triton_kernel._TILE
FLOATS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float8_e4m3fn: torch.int8,
}


@contextmanager
def interpreted():
    """Run the kernel in Triton's interpreter, which TRITON_INTERPRET=1 would do for the whole process."""

    def reduction(name):
        combine = getattr(tl.standard, name)
        return lambda tensor, axis: tl.reduce(tensor, axis, combine)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in list(vars(triton_kernel).items()):
            if isinstance(value, JITFunction):
                patch.setattr(triton_kernel, name, InterpretedFunction(value.fn))
        patch.setattr(tl, "sum", reduction("_sum_combine"))
        patch.setattr(tl, "max", reduction("_elementwise_max"))
        patch.setattr(tl, "min", reduction("_elementwise_min"))
        yield


@pytest.fixture(params=DEVICES)
def device(request):
    with nullcontext() if request.param == "cuda" else interpreted():
        yield torch.device(request.param.partition(" ")[0])


@pytest.fixture(params=["kernel", "torch ops"])
def engine(request, monkeypatch):
    """Each way to count: with Triton, and without it."""
    if request.param == "torch ops":
        monkeypatch.setattr(cuda, "kernel", None)
    return request.param


def counted(*tensors, axis=FloatAxis(), counters=None):  # noqa: B008  # it is frozen
    """Count tensors into one slot, and return the counts and moments."""
    counters = counters or CudaCounters(axis, tensors[0].device)
    for tensor in tensors:
        counters.add(0, tensor)
    assert all(counters._is_right.values())  # else PyTorch's operations counted
    return counters.take().result()[0]


def check(result, values, axis=FloatAxis(), rel=1e-6):  # noqa: B008
    """Compare counts and moments with numpy's, the deviation to `rel` of itself."""
    counts, moments = result
    values = values.detach().double().cpu().numpy().ravel()
    np.testing.assert_array_equal(counts, np.bincount(axis.index(values), minlength=axis.n_buckets))
    finite = values[np.isfinite(values)]
    assert counts.dtype == np.uint32
    assert (moments.n, moments.finite) == (values.size, finite.size)
    if not finite.size:
        assert np.isnan([moments.mean, moments.min, moments.max]).all()
        return
    assert (moments.min, moments.max) == (finite.min(), finite.max())
    reach = np.abs(finite).max()
    if reach < 1e150:
        assert moments.mean == pytest.approx(
            finite.mean(), rel=1e-12, abs=1e-7 * finite.std() + 1e-15 * reach
        )
        assert moments.std == pytest.approx(finite.std(), rel=rel, abs=1e-7 * reach)


@st.composite
def tensors(draw):
    """Any bit pattern of any float dtype, in sizes around the edges of tiles and programs."""
    dtype = draw(st.sampled_from(list(FLOATS)))
    width = dtype.itemsize
    raw = draw(st.binary(min_size=width, max_size=60 * width))
    some = torch.frombuffer(bytearray(raw[: len(raw) // width * width]), dtype=FLOATS[dtype])
    size = draw(st.sampled_from([1, 5, TILE - 1, TILE, TILE + 1, 3 * TILE + 7]))
    filler = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype).view(FLOATS[dtype])
    position = draw(st.integers(0, size - 1))
    part = filler[position : position + some.numel()]
    part.copy_(some[: part.numel()])
    return filler.view(dtype)


axes = st.builds(
    lambda bits, ends: FloatAxis(bits, min(ends), max(ends)),
    st.integers(1, 8),
    st.tuples(st.integers(-126, 127), st.integers(-126, 127)),
)


@pytest.mark.parametrize("where", DEVICES)
@settings(max_examples=60)
@given(tensors(), axes)
def test_counts_equal_the_axis_bucket_by_bucket(where, values, axis):
    with interpreted() if where != "cuda" else nullcontext():
        check(counted(values.to(where.partition(" ")[0]), axis=axis), values, axis)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_value_of_a_narrow_dtype_is_counted(device, engine, dtype):
    values = torch.arange(1 << 16, device=device).to(torch.int16).view(dtype)
    check(counted(values), values)


def normal(size=20_000, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


CASES = {
    "normal": normal(),
    "relu": normal().relu(),
    "constant": torch.full((20_000,), 0.1),
    "mean of 1e3": normal() * 0.5 + 1e3,
    "mean of -1e6": normal() * 0.5 - 1e6,
    "one outlier": torch.cat([torch.tensor([1e6]), normal()]),
    "masked scores": torch.where(normal(seed=1) > 0, normal(), -1e9),
    "squares beyond float32": normal() * 1e30,
    "largest": torch.tensor([3.4e38, -3.4e38]).repeat(5000),
    "squares below float32": normal() * 1e-30,
    "denormals": normal() * 1e-42,
    "some not finite": torch.where(
        normal(seed=1) > 2, torch.tensor([torch.nan, torch.inf]).repeat(10_000), normal()
    ),
    "both infinities": torch.tensor([torch.inf, -torch.inf, 1.0]),
    "nothing finite": torch.tensor([torch.nan, -torch.nan, torch.inf]).repeat(4000),
}


@pytest.mark.parametrize("case", CASES)
def test_moments_are_over_the_finite_values(device, engine, case):
    check(counted(CASES[case].to(device)), CASES[case])


def test_a_large_mean_costs_few_digits_of_the_deviation(device, engine):
    values = normal() * 0.5 + 1e3
    _, moments = counted(values.to(device))
    assert moments.std == pytest.approx(float(values.double().std(correction=0)), rel=1e-7)


def test_calls_add_up_to_the_whole(device, engine):
    parts = [normal(size, size) + size for size in (1, 70, 9000)]
    check(counted(*[part.to(device) for part in parts], torch.empty(0, device=device)), torch.cat(parts))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.t(),
        lambda tensor: tensor.reshape(2, 3, 50, 10).to(memory_format=torch.channels_last),
        lambda tensor: tensor[:, ::3],
        lambda tensor: tensor[1:],
        lambda tensor: tensor[:1].expand(3, -1),
        lambda tensor: tensor[0, 1:],
        lambda tensor: tensor[0, 0],
        lambda tensor: tensor[:, ::2],  # like the next two a view of one dim that is not dense
        lambda tensor: torch.complex(tensor, tensor + 1).real,
        lambda tensor: tensor[0, :1].expand(20_000),
    ],
)
def test_every_layout_is_counted(device, change):
    tensor = change(normal(3000).reshape(30, 100))
    check(counted(tensor.to(device)), tensor)


def test_an_axis_too_wide_for_shared_memory_is_counted_all_the_same(device):
    axis = FloatAxis(10, -126, 127)
    check(counted(normal().to(device), axis=axis), normal(), axis)


def test_slots_are_apart_and_empty_ones_absent(device, engine):
    counters = CudaCounters(FloatAxis(), device)
    for slot in (70, 0, 3):
        counters.add(slot, torch.full((slot + 1,), float(slot), device=device))
    counters.add(1, torch.empty(0, 4, device=device))
    result = counters.take().result()
    assert sorted(result) == [0, 3, 70]
    for slot, (counts, moments) in result.items():
        assert counts[FloatAxis().index(float(slot))] == counts.sum() == moments.n == slot + 1
        assert (moments.min, moments.max) == (slot, slot)
        assert (moments.mean, moments.std) == (pytest.approx(slot), pytest.approx(0, abs=1e-4))


def test_taking_starts_from_zero(device):
    counters = CudaCounters(FloatAxis(), device)
    assert counters.take().result() == {}
    counters.add(0, torch.ones(4, device=device))
    first = counters.take()
    counters.add(0, torch.full((2,), -5.0, device=device))
    second = counters.take()
    assert (second.result()[0][1].n, second.result()[0][1].max) == (2, -5)
    assert (first.result()[0][1].n, first.result()[0][1].max) == (4, 1)
    assert first.is_ready()
    assert counters.take().result() == {}


def test_clearing_forgets(device):
    counters = CudaCounters(FloatAxis(), device)
    counters.add(0, torch.ones(4, device=device))
    counters.clear()
    counters.add(1, torch.ones(1, device=device))
    assert sorted(counters.take().result()) == [1]


def test_zeros_are_added_without_a_tensor(device, engine):
    counters = CudaCounters(FloatAxis(), device)
    counters.add(0, torch.tensor([2.0, 4.0], device=device))
    counters.add_zeros(0, 4)
    counters.add_zeros(0, 0)
    counters.add_zeros(1, 3)
    counters.add(2, torch.tensor([-1.0], device=device))
    result = counters.take().result()
    check(result[0], torch.tensor([2.0, 4, 0, 0, 0, 0]))
    check(result[1], torch.zeros(3))
    check(result[2], torch.tensor([-1.0]))


def test_more_slots_never_move_the_first(device):
    counters = CudaCounters(FloatAxis(3), device)
    counters.add(0, torch.ones(1, device=device))
    address = counters._rows[0][0].data_ptr()
    counters.add(500, torch.ones(1, device=device))
    counters.take()
    counters.add(0, torch.ones(1, device=device))
    assert counters._rows[0][0].data_ptr() == address
    assert sorted(counters.take().result()) == [0]


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_do_not_matter(device, engine, mode):
    values = normal(100).to(device).requires_grad_()
    with mode(), torch.autocast(device.type, torch.bfloat16):
        counters = CudaCounters(FloatAxis(), device)
        counters.add(0, values * 1)
        pending = counters.take()
    check(pending.result()[0], values)
    check(counted(values, values, counters=counters), torch.cat([values, values]))
    with mode():
        check(counted(values, counters=counters), values)
        counters.clear()


def test_a_layer_first_seen_in_a_capture_is_refused(device, monkeypatch):
    counters = CudaCounters(FloatAxis(), device)
    counters.add(0, torch.ones(2, device=device))
    assert not counters.has_captured
    # What the code sees while a graph is captured.
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(counters, "_is_cuda", True)
    counters.add(0, torch.ones(3, device=device))
    assert counters.has_captured
    with pytest.raises(RuntimeError, match="run one batch before capture"):
        counters.add(1, torch.ones(3, device=device))
    monkeypatch.undo()
    assert counters.take().result()[0][1].n == 5


def test_work_on_another_stream_waits_for_the_last_one(monkeypatch):
    class Stream:
        def __init__(self):
            self.waited, self.cuda_stream = [], id(self)

        def wait_stream(self, stream):
            self.waited.append(stream)

    first, second = Stream(), Stream()
    now, recorded = [first], []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: now[0])
    number = "_cuda_getCurrentRawStream"  # not in a build for CPUs alone
    monkeypatch.setattr(torch._C, number, lambda index: now[0].cuda_stream, raising=False)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: recorded.append(stream))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    counters = CudaCounters(FloatAxis(), "cpu")
    counters.add(0, torch.ones(1))
    monkeypatch.setattr(counters, "_is_cuda", True)
    monkeypatch.setattr(counters, "_stream", first)
    counters.add(0, torch.ones(1))
    counters.add(0, torch.ones(1))
    assert (first.waited, second.waited) == ([], [])
    now[0] = second
    counters.clear()
    assert (first.waited, second.waited, recorded) == ([], [first], [second])


def test_without_triton_pytorch_counts():
    code = """
import sys
sys.modules["triton"] = None
import torch
from actlab.axis import FloatAxis
from actlab.recording.histogram import cuda
counters = cuda.CudaCounters(FloatAxis(), "cpu")
counters.add(0, torch.tensor([1.0, float("nan")], dtype=torch.bfloat16))
counts, moments = counters.take().result()[0]
assert cuda.kernel is None and (moments.n, moments.finite, moments.max) == (2, 1, 1.0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


if HAS_CUDA:  # what only a GPU can show

    def test_nothing_waits_for_the_device(engine):
        values = normal().cuda()
        counters = CudaCounters(FloatAxis(), "cuda")
        counters.add(0, values)
        counters.take().result()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for dtype in FLOATS:
                counters.add(0, values.to(dtype))
            counters.add(1, values.reshape(100, 200)[:, ::2])
            counters.add_zeros(2, 5)
            pending = counters.take()
            pending.is_ready()
            counters.clear()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert [pending.result()[slot][1].n for slot in range(3)] == [len(FLOATS) * 20_000, 10_000, 5]

    def test_replays_of_a_captured_graph_count_each_time(engine):
        values = normal().cuda()
        counters = CudaCounters(FloatAxis(), "cuda")
        counters.add(0, values)
        counters.clear()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            doubled = values * 2
            counters.add(0, doubled)
        assert counters.has_captured
        counters.clear()
        for number in (3, 1):
            for _ in range(number):
                graph.replay()
            check(counters.take().result()[0], (values * 2).repeat(number))

    def test_the_first_values_may_come_on_another_stream(engine):
        values = normal().cuda()
        counted(values)  # compiles
        torch.cuda.synchronize()
        torch.cuda._sleep(200_000_000)
        counters = CudaCounters(FloatAxis(), "cuda")  # whose zeros are still to be written
        with torch.cuda.stream(torch.cuda.Stream()):
            check(counted(values, counters=counters), values)

    def test_any_stream_will_do(engine):
        values = normal(1 << 22).cuda()
        counters = CudaCounters(FloatAxis(), "cuda")
        counters.add(0, values)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            moved = values + 1
            counters.add(0, moved)
            del moved
        pending = counters.take()
        torch.cuda.current_stream().wait_stream(side)
        check(pending.result()[0], torch.cat([values, values + 1]))
