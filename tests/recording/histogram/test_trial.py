"""The trial of a kernel: one that counts right passes; any other is replaced, which is said once."""

import warnings

import pytest
import torch

from actlab.axis import FloatAxis
from actlab.recording.histogram import cuda, torch_ops, triton_kernel
from actlab.recording.histogram.cuda import CudaCounters
from actlab.recording.histogram.trial import passes

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CPU = torch.device("cpu")


def right(flat, axis, counts, moments, programs):
    """Count as a kernel that is right would."""
    torch_ops.accumulate(flat, axis, counts, moments)


def wrong(name):
    """Return a kernel with one fault."""

    def launch(flat, axis, counts, moments, programs):
        if name == "raises":
            raise ValueError("no such instruction")
        if name == "tail":
            flat = flat[: flat.numel() // 8192 * 8192]
        right(flat, axis, counts, moments, programs)
        if name == "nan":
            counts[-1] -= 1
            counts[-2] += 1
        elif name == "bucket":
            counts.copy_(counts.roll(1))
        elif name == "zero":
            counts[axis.zero] -= 1
        elif name in ("total", "squares", "low", "high"):
            moments[["total", "squares", "low", "high"].index(name)] *= 1.001
        elif name == "no sum":
            moments[0] = torch.nan

    return launch


@pytest.fixture
def kernel(monkeypatch):
    """Return a function that puts another launch in the place of the kernel's."""

    def put(launch):
        monkeypatch.setattr(triton_kernel, "serves", lambda *_: True)
        monkeypatch.setattr(triton_kernel, "launch", launch)

    return put


@pytest.mark.parametrize("axis", [FloatAxis(), FloatAxis(1, 0, 1), FloatAxis(8, -126, 127)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_kernel_passes_without_a_word(dtype, axis):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert passes(right, axis, dtype, CPU)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "fault", ["raises", "tail", "nan", "bucket", "zero", "total", "squares", "low", "high", "no sum"]
)
def test_each_fault_is_found(fault, dtype):
    launch = wrong(fault)
    with pytest.warns(RuntimeWarning, match="PyTorch's operations count") as caught:
        results = [passes(launch, FloatAxis(), dtype, CPU) for _ in range(2)]
    assert results == [False, False]
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("fault", ["raises", "bucket"])
def test_where_the_kernel_fails_pytorch_counts(fault, kernel):
    kernel(wrong(fault))
    values = torch.tensor([0.0, 1.0, -2.0, torch.nan])
    counters = CudaCounters(FloatAxis(), "cpu")
    with pytest.warns(RuntimeWarning, match="torch.float32") as caught:
        counters.add(0, values.repeat(1))
    counters.add(0, values.repeat(2))
    assert len(caught) == 1
    counts, moments = counters.take().result()[0]
    assert (counts[FloatAxis().zero], counts[-1], counts.sum()) == (3, 3, 12)
    assert (moments.min, moments.max) == (-2, 1)


def test_where_warnings_are_errors_pytorch_counts_all_the_same(kernel):
    kernel(wrong("raises"))
    counters = CudaCounters(FloatAxis(), "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counters.add(0, torch.ones(3))
    assert counters.take().result()[0][1].n == 3


def test_each_dtype_has_one_trial_before_it_is_counted(kernel, monkeypatch):
    log = []
    monkeypatch.setattr(cuda.trial, "passes", lambda launch, axis, dtype, device: log.append(dtype) or True)
    kernel(lambda flat, *_: log.append(flat.numel()))
    counters = CudaCounters(FloatAxis(), "cpu")
    for dtype in (torch.float32, torch.bfloat16, torch.float32, torch.float8_e5m2, torch.float64):
        counters.add(0, torch.ones(4).to(dtype))
    assert log == [torch.float32, 4, torch.bfloat16, 4, 4, 4]


def test_there_is_no_trial_while_a_graph_is_captured(kernel, monkeypatch):
    tried = []
    monkeypatch.setattr(cuda.trial, "passes", lambda *_: tried.append(1) or True)
    kernel(right)
    counters = CudaCounters(FloatAxis(), "cpu")
    counters.add(0, torch.ones(2))
    assert len(tried) == 1
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        patch.setattr(counters, "_is_cuda", True)
        counters.add(0, torch.ones(3, dtype=torch.bfloat16))
        assert len(tried) == 1
    counters.add(0, torch.ones(3, dtype=torch.bfloat16))
    assert len(tried) == 2
    assert counters.take().result()[0][1].n == 8


def test_the_debug_mode_is_put_aside_and_restored(monkeypatch):
    modes = [2]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.warns(RuntimeWarning, match="trial on cuda:9"):
        assert not passes(right, FloatAxis(), torch.float32, torch.device("cuda", 9))  # there is none
    assert modes == [2, "default", 2]


def test_random_numbers_and_modes_are_left_alone():
    before = torch.random.get_rng_state()
    with torch.inference_mode(), torch.device("meta"):
        assert passes(right, FloatAxis(2), torch.float32, CPU)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.random.get_rng_state(), before)


if torch.cuda.is_available():  # what only a GPU can show

    @pytest.mark.parametrize("axis", [FloatAxis(), FloatAxis(1, 0, 1)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_kernel_passes_here(dtype, axis):
        torch.cuda.set_sync_debug_mode("error")
        try:
            assert passes(triton_kernel.launch, axis, dtype, torch.device("cuda", 0))
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("mode", "calls"), [(0, []), (2, ["default", 2])])
def test_the_mode_that_finds_waits_is_set_only_where_it_is_on(monkeypatch, mode, calls):
    """Setting it warns that it is a prototype, whatever it is set to."""
    seen = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", seen.append)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there may be no such device
        passes(lambda *_: None, FloatAxis(), torch.float32, torch.device("cuda", 0))
    assert seen == calls
