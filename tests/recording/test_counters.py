"""Counters in CPU memory: slots, exact zeros, rows; plain torch where numba is missing."""

import subprocess
import sys

import numpy as np
import torch

from actlab.axis import FloatAxis
from actlab.recording.counters import CpuCounters, make_counters

AXIS = FloatAxis()


def test_slots_are_counted_apart_and_taken_together():
    counters, values = make_counters(torch.device("cpu"), AXIS), torch.randn(50, 40)
    for slot in (3, 40, 3):
        counters.add(slot, values[slot:])
    taken = counters.take()
    counters.add(3, values)
    assert taken.is_ready()
    found = taken.result()
    assert sorted(found) == [3, 40]
    for slot, times in ((3, 2), (40, 1)):
        counts, moments = found[slot]
        expected = np.bincount(AXIS.index(values[slot:].ravel().numpy()), minlength=AXIS.n_buckets)
        np.testing.assert_array_equal(counts, times * expected)
        assert counts.dtype == np.uint32
        assert moments.n == times * values[slot:].numel()
    ((counts, moments),) = counters.take().result().values()
    assert counts.sum() == moments.n == values.numel(), "what is added after a take belongs to the next"


def test_exact_zeros_join_the_moments():
    counters = CpuCounters(AXIS)
    counters.add(0, torch.tensor([2.0, 4.0]))
    counters.add_zeros(0, 4)
    counters.add_zeros(1, 0)
    found = counters.take().result()
    counts, moments = found[0]
    assert (counts[AXIS.zero], counts.sum()) == (4, 6)
    assert (moments.mean, moments.min, moments.max) == (1.0, 0.0, 4.0)
    assert found[1][1].n == 0


def test_what_is_cleared_is_gone():
    counters = CpuCounters(AXIS)
    counters.add(2, torch.ones(3))
    counters.clear()
    assert counters.take().result() == {}
    counters.add(2, torch.zeros(3))
    assert counters.take().result()[2][0][AXIS.index(1.0)] == 0


def test_without_numba_torch_counts_the_same(tmp_path):
    code = (
        "import sys; {block}\n"
        "import torch, actlab\n"
        "from torch import nn\n"
        "torch.set_num_threads(1)\n"
        "torch.manual_seed(0)\n"
        "model = nn.Sequential(nn.Linear(8, 200), nn.ReLU(), nn.Linear(200, 30))\n"
        "x, y = torch.randn(400, 8), torch.randint(0, 30, (400,))\n"
        "x[0, 0] = float('nan')\n"
        "with actlab.Recorder(model, {path!r}, on_error='raise') as recorder:\n"
        "    for _ in range(2):\n"
        "        with recorder.batch('train', 0, y): model(x)\n"
        "print('numba.core' in sys.modules)"
    )
    for name, block in (("with", ""), ("without", "sys.modules['numba'] = None")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(block=block, path=str(tmp_path / f"{name}.zarr"))],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stdout.split() == [str(name == "with")]
    import actlab

    ours, plain = (actlab.open_run(tmp_path / f"{name}.zarr") for name in ("with", "without"))
    for variable in ("counts", "n", "min", "max"):
        np.testing.assert_array_equal(ours["train"][variable], plain["train"][variable])
    np.testing.assert_allclose(ours["train"]["std"], plain["train"]["std"], rtol=1e-12)
    np.testing.assert_array_equal(ours.head_counts("train").counts, plain.head_counts("train").counts)
