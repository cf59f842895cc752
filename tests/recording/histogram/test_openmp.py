"""Several threads and other machines: nothing is lost, and nothing around is harmed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from actlab.axis import FloatAxis
from actlab.recording.histogram import openmp
from actlab.recording.histogram.cpu import count

AXIS = FloatAxis()
START = """
import os, threading
import numpy as np
import torch
from actlab.axis import FloatAxis
from actlab.recording.histogram import openmp
from actlab.recording.histogram.cpu import count
axis, values = FloatAxis(), torch.zeros(1 << 20)
torch.set_num_threads(2)
def counted():
    out = np.zeros(axis.n_buckets, np.uint64)
    count(values, axis, out)
    return int(out[axis.zero]) == 1 << 20
"""


def run(script, **environment):
    """Run a script in a process of its own, for the threads and the compiled code are the process's."""
    subprocess.run(
        [sys.executable, "-c", START + script], check=True, timeout=100, env=os.environ | environment
    )


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_threads_of_torch_are_found_where_it_says_it_has_openmp():
    has_gnu_threads = sys.platform == "linux" and "backend: OpenMP" in torch.__config__.parallel_info()
    assert (openmp.functions() is not None) == has_gnu_threads


def test_four_threads_count_at_once(two_threads):
    tensors = [torch.full((400_000 + size,), float(size)) for size in range(8)]

    def counted(tensor):
        out = np.zeros(AXIS.n_buckets, np.uint64)
        for _ in range(20):
            count(tensor, AXIS, out)
        return out

    with ThreadPoolExecutor(4) as pool:
        for size, out in enumerate(pool.map(counted, tensors)):
            assert out.sum() == out[AXIS.index(float(size))] == 20 * (400_000 + size)


def test_large_tensors_take_the_threads_that_torch_has_and_small_ones_none(two_threads, monkeypatch):
    asked, run_all = [], openmp.run
    monkeypatch.setattr(openmp, "run", lambda *job: (asked.append(job[-1]), run_all(*job)))
    for size in (1 << 18, (1 << 18) - 1):
        count(torch.ones(size), AXIS, np.zeros(AXIS.n_buckets, np.uint64))
    torch.set_num_threads(1)
    count(torch.ones(1 << 18), AXIS, np.zeros(AXIS.n_buckets, np.uint64))
    assert asked == [2]


def test_without_threads_of_torch_one_is_enough(two_threads, monkeypatch):
    monkeypatch.setattr(openmp, "_library", lambda: None)
    out = np.zeros(AXIS.n_buckets, np.uint64)
    moments = count(torch.ones(300_000), AXIS, out)
    assert (moments.n, out[AXIS.index(1.0)]) == (300_000, 300_000)


def test_a_thread_that_does_not_count_is_noticed_before_anything_is_added(two_threads, monkeypatch):
    monkeypatch.setattr(openmp, "run", lambda function, job, n_threads: None)
    out = np.zeros(AXIS.n_buckets, np.uint64)
    with pytest.raises(MemoryError):
        count(torch.ones(300_000), AXIS, out)
    assert not out.any()


def test_a_forked_child_counts_with_its_only_thread():
    run("""
assert counted()
child = os.fork()
if child == 0:
    os._exit(0 if counted() and openmp.functions() is None else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert counted()
""")


def test_parallel_code_of_the_user_runs_beside_it():
    run(
        """
import numba
@numba.njit(parallel=True)
def work(n):
    total = 0
    for i in numba.prange(n):
        total += i % 3
    return total
before = numba.get_num_threads()
done = threading.Event()
def keep_counting():
    while not done.is_set():
        assert counted()
threads = [threading.Thread(target=keep_counting) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(50):
    assert work(30_000) == 30_000
done.set()
for thread in threads:
    thread.join()
assert numba.get_num_threads() == before
""",
        NUMBA_THREADING_LAYER="workqueue",
    )


def test_without_a_folder_for_compiled_code_it_is_compiled_anew():
    run(
        """
from actlab.recording.histogram import cpu_kernel
assert counted()
assert len(cpu_kernel.count.signatures) == 1, "only the dtype in use"
assert not cpu_kernel.count.stats.cache_path
""",
        NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator",
        NUMBA_CACHE_DIR=os.devnull,
    )


def test_a_processor_that_cannot_convert_float16_counts_it_too():
    run(
        """
values = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.float16)
out = np.zeros(axis.n_buckets, np.uint64)
moments = count(values, axis, out)
expected = np.bincount(axis.index(values.double().numpy()), minlength=axis.n_buckets)
np.testing.assert_array_equal(out, expected)
assert (moments.min, moments.max) == (-65504, 65504)
""",
        NUMBA_CPU_NAME="generic",
    )
