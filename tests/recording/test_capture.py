"""The hooks at work: what is counted when, and what is not."""

import threading
import time
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from actlab.recording import capture
from actlab.recording.recorder import Recorder


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_in_backward_is_not_counted(writer, reentrant):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=reentrant)

    model = Net()
    with Recorder(model, "memory", on_error="raise") as recorder, recorder.batch("train", 0):
        model(torch.randn(4, 3, requires_grad=True)).sum().backward()
    assert writer().rows[0].n.tolist() == [12] * 4


def test_what_cannot_be_counted_is_skipped_with_one_warning(writer):
    class Odd(nn.Module):
        def forward(self, x):
            return x.long(), x > 0, torch.complex(x, x), x.to_sparse(), x

    model = nn.Sequential(Odd())
    with Recorder(model, "memory") as recorder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with recorder.batch("train", 0):
                model(torch.ones(3))
    assert ["int64" in str(warning.message) for warning in caught] == [True]
    assert [layer.name for layer in writer().rows[0].layers] == [
        "input",
        "0:2:real",
        "0:2:imag",
        "0:3",
        "0:4",
    ]


def test_a_module_that_was_replaced_is_pointed_out_in_the_next_epoch(writer):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    with Recorder(model, "memory") as recorder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in range(3):
            model[1] = model[1] if epoch == 0 else nn.Linear(2, 5)
            with recorder.batch("train", epoch):
                model(torch.ones(4, 2))
    reason = "the module was replaced after the recorder was made"
    assert [str(warning.message) for warning in caught] == [f"actlab: layer '1' is not counted: {reason}"]
    assert writer().attributes["skipped"] == {"1": reason}
    assert [row.n.tolist()[1:] for row in writer().rows] == [[8, 12], [8, 0], [8, 0]]


def test_threads_never_count_at_the_same_time(writer, monkeypatch):
    model, busy, overlaps = nn.Sequential(nn.Linear(1, 1)), threading.Lock(), []

    def add(*_):
        overlaps.append(not busy.acquire(blocking=False))
        time.sleep(0.002)
        if not overlaps[-1]:
            busy.release()

    monkeypatch.setattr(capture.Tallies, "add", add)
    with Recorder(model, "memory", on_error="raise") as recorder, recorder.batch("train", 0):
        threads = [threading.Thread(target=model, args=(torch.ones(1, 1),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert overlaps == [False] * 16
