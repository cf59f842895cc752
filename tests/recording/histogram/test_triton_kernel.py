"""The kernel as it is compiled for GPUs that are not here; NVIDIA's code is run on the CPU, see ptx.py."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from actlab.axis import FloatAxis
from actlab.recording.histogram import torch_ops, triton_kernel
from actlab.recording.histogram.trial import passes

spec = importlib.util.spec_from_file_location("ptx", Path(__file__).with_name("ptx.py"))
ptx = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ptx)

AXES = [FloatAxis(), FloatAxis(6, -31, 31), FloatAxis(3, -126, 127), FloatAxis(1, 0, 1)]
H100 = ("cuda", 90, 32)
N_THREADS = 32 * triton_kernel._WARPS
POINTERS = {torch.float32: "*i32", torch.bfloat16: "*i16", torch.float16: "*i16"}


def test_triton_needs_a_compiler_and_a_gpu(monkeypatch):
    monkeypatch.setenv("CC", sys.executable)
    assert triton_kernel.serves(FloatAxis(), torch.device("cuda"))
    assert not triton_kernel.serves(FloatAxis(), torch.device("cpu"))
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    assert not triton_kernel.serves(FloatAxis(), torch.device("cuda"))


def test_what_was_compiled_is_launched_without_another_look(monkeypatch):
    """Where sizes of pointers or values differ, something else was compiled."""
    log = []

    class Compiled:
        def __getitem__(self, grid):
            return lambda *arguments: log.append((grid, arguments))

    class Count:
        def __getitem__(self, grid):
            return lambda *arguments, **options: log.append("compiles") or Compiled()

    monkeypatch.setattr(triton_kernel, "_count", Count())
    monkeypatch.setattr(triton_kernel, "_compiled", {})
    monkeypatch.setattr(triton_kernel, "has_table", lambda: False)
    axis, state = FloatAxis(), (torch.zeros(3592, dtype=torch.int64), torch.zeros(4, dtype=torch.float64))
    values = torch.zeros(20_001)
    for flat in (values, values[4:], values[1:], values[5:], values.half()):
        triton_kernel.launch(flat, axis, *state, 2)
    fixed = tuple(triton_kernel.constants(axis, torch.float32, False).values())
    pointers = tuple(tensor.data_ptr() for tensor in state)
    again = [((2, 1, 1), (values[start:].data_ptr(), *pointers, 20_001 - start, *fixed)) for start in (4, 5)]
    assert log == ["compiles", again[0], "compiles", again[1], "compiles"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Return a function that compiles the kernel, once for each set of arguments."""
    done = {}
    folder = str(tmp_path_factory.mktemp("triton"))

    def compile_for(target, dtype, axis, is_aligned):
        is_nvidia = target[0] == "cuda"
        constants = triton_kernel.constants(axis, dtype, triton_kernel.has_table() and is_nvidia)
        size = "i32" if is_aligned else "i64"
        signature = {"values": POINTERS[dtype], "counts": "*i64", "moments": "*fp64", "n": size}
        signature |= dict.fromkeys(constants, "constexpr")
        aligned = {(place,): [["tt.divisibility", 16]] for place in range(0 if is_aligned else 1, 3)}
        source = ASTSource(triton_kernel._count, signature, constants, aligned)
        registers = {"maxnreg": triton_kernel._REGISTERS} if is_nvidia else {}
        options = {"num_warps": triton_kernel._WARPS, **registers}
        return triton.compile(source, GPUTarget(*target), options)

    def get(*arguments):
        if arguments not in done:
            done[arguments] = compile_for(*arguments)
        return done[arguments]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.knobs.cache, "dir", folder)
        yield get


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(("dtype", "arch"), [(torch.bfloat16, 75), (torch.float16, 80), (torch.float32, 100)])
def test_the_kernel_compiles_for_nvidia(compiled, dtype, arch, axis):
    assert triton_kernel.serves(axis, torch.device("cuda"))
    assert compiled(("cuda", arch, 32), dtype, axis, True).metadata.shared <= 1 << 16


def test_the_kernel_compiles_for_amd(compiled):
    assert compiled(("hip", "gfx942", 64), torch.bfloat16, FloatAxis(), True).metadata.shared <= 1 << 16


def simulated(code, is_aligned=True):
    """Return a stand-in for `triton_kernel.launch` that runs PTX on the CPU."""
    kernel = ptx.Kernel(code, N_THREADS)

    def launch(flat, axis, counts, moments, programs):
        raw = flat.view(torch.uint8).numpy()
        start = 16 if is_aligned else flat.itemsize
        first = -(-(start + raw.size) // 16) * 16
        memory = np.zeros(first + 8 * (axis.n_buckets + 4), np.uint8)
        memory[start : start + raw.size] = raw
        state = memory[first:].view(np.int64)
        state[:-4], state[-4:] = counts.numpy(), moments.numpy().view(np.int64)
        n_blocks = min(-(-flat.numel() // triton_kernel._LEAST), programs)
        kernel.launch([start, first, first + 8 * axis.n_buckets, flat.numel()], memory, n_blocks)
        counts.copy_(torch.from_numpy(state[:-4]))
        moments.copy_(torch.from_numpy(state[-4:].view(np.float64)))

    return launch


@st.composite
def patterns(draw):
    """Any bit patterns, repeated or among zeros, in sizes around the edges of tiles."""
    width = draw(st.sampled_from([2, 4]))
    dtype = torch.float32 if width == 4 else draw(st.sampled_from([torch.bfloat16, torch.float16]))
    raw = draw(st.binary(min_size=width, max_size=60 * width))
    some = torch.frombuffer(bytearray(raw[: len(raw) // width * width]), dtype=dtype)
    tile = triton_kernel._TILE
    values = torch.zeros(draw(st.sampled_from([1, 5, tile - 1, tile, tile + 1, 5 * tile + 7])), dtype=dtype)
    for start in range(0, values.numel(), draw(st.sampled_from([60, 1000, 10_000]))):
        part = values[start : start + some.numel()]
        part.copy_(some[: part.numel()])
    return values


if triton_kernel.has_table():  # from Triton 3.8 on there is no assembly of ours

    @pytest.mark.parametrize("axis", AXES)
    @pytest.mark.parametrize("dtype", list(POINTERS))
    @pytest.mark.parametrize("is_aligned", [True, False])
    def test_the_code_for_nvidia_passes_its_trial(compiled, axis, dtype, is_aligned):
        code = compiled(H100, dtype, axis, is_aligned).asm["ptx"]
        assert passes(simulated(code, is_aligned), axis, dtype, torch.device("cpu"))

    @settings(max_examples=60)
    @given(values=patterns(), axis=st.sampled_from(AXES))
    def test_the_code_for_nvidia_counts_any_pattern(compiled, values, axis):
        counts = torch.zeros(axis.n_buckets, dtype=torch.int64)
        moments = torch.tensor([0, 0, torch.inf, -torch.inf], dtype=torch.float64)
        launch = simulated(compiled(H100, values.dtype, axis, True).asm["ptx"])
        launch(values, axis, counts, moments, 2)
        found = torch_ops.bucket_index(values, axis)
        assert torch.equal(counts, torch.bincount(found, minlength=axis.n_buckets))
        finite = values[values.isfinite()].double()
        if finite.numel():
            assert moments[2:].tolist() == [finite.min(), finite.max()]

    @pytest.mark.parametrize(
        ("pattern", "number", "fault"),
        [
            (r"bar\.sync\s+0;", 0, "a race of red and st"),
            (r"red\.shared\.add\.u32 \[%r\d+\], 1;", 7, "values miscounted"),
            (r"st\.shared\.b32 \[%r\d+\], 0;", 3, "values miscounted"),
        ],
    )
    def test_what_is_left_out_of_the_code_is_missed(compiled, pattern, number, fault):
        code = compiled(H100, torch.bfloat16, FloatAxis(), True).asm["ptx"]
        found = list(re.finditer(pattern, code))[number]
        launch = simulated(code[: found.start()] + code[found.end() :])
        with pytest.warns(RuntimeWarning, match=fault):
            assert not passes(launch, FloatAxis(), torch.bfloat16, torch.device("cpu"))
