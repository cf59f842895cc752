"""Transfers to the host: values, what is copied and what is not, and the order of the copies."""

from contextlib import nullcontext
from unittest.mock import MagicMock, call

import pytest
import torch

from actlab.recording.histogram import transfer
from actlab.recording.histogram.transfer import Transfer

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.bool,
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_arrive_in_order_and_in_their_dtypes(device, dtype):
    sources = [torch.randn(shape).to(dtype) for shape in [(3, 4), (), (0, 2), (2, 3, 5, 7)]]
    arrived = Transfer([source.to(device) for source in sources]).result()
    assert [each.shape for each in arrived] == [source.shape for source in sources]
    for source, each in zip(sources, arrived, strict=True):
        assert (each.device.type, each.dtype) == ("cpu", dtype)
        assert torch.equal(each.double(), source.double())


@pytest.mark.parametrize("device", DEVICES)
def test_layouts_and_negative_views_keep_their_values(device):
    square = torch.randn(4, 6, device=device)
    sources = [
        square.t(),
        square[:, ::2],
        square[:1].expand(5, 6),
        torch.tensor([1 + 2j], device=device).conj().imag,
    ]
    for source, each in zip(sources, Transfer(sources).result(), strict=True):
        assert torch.equal(each, source.cpu())


@pytest.mark.parametrize("device", DEVICES)
def test_what_has_a_gradient_arrives_without(device):
    source = torch.randn(3, device=device, requires_grad=True) * 2
    with torch.inference_mode():
        (arrived,) = Transfer([source]).result()
    assert not arrived.requires_grad
    assert torch.equal(arrived, source.detach().cpu())


def test_tensors_in_cpu_memory_pass_through_as_they_are():
    source = torch.randn(5)
    moving = Transfer([source])
    assert moving.is_ready()
    assert moving.result()[0].data_ptr() == source.data_ptr()


def test_nothing_to_move_is_ready():
    moving = Transfer([])
    assert moving.is_ready()
    assert moving.result() == []


def test_a_copy_starts_after_the_work_at_hand_and_is_marked_done_after_the_last(monkeypatch):
    log = MagicMock()
    monkeypatch.setattr(torch, "empty", log.empty)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: log.use(stream) or nullcontext())
    tensors = [log.first, log.second]
    snapshots = [tensor.resolve_neg.return_value.clone.return_value for tensor in tensors]
    buffers, event = transfer._start(tensors, log.current, log.side)
    happened = [entry for entry in log.mock_calls if "shape" not in str(entry) and "dtype" not in str(entry)]
    clones = [
        getattr(call, name).resolve_neg().clone(memory_format=torch.contiguous_format)
        for name in ("first", "second")
    ]
    # The snapshots are work of the current stream, for which the copies wait.
    wait, use, done = call.side.wait_stream(log.current), call.use(log.side), call.side.record_event()
    copies = [call.empty().copy_(snapshot, non_blocking=True) for snapshot in snapshots]
    ordered = [happened.index(entry) for entry in [*clones, wait, use, *copies, done]]
    assert ordered == sorted(ordered)
    for snapshot in snapshots:
        snapshot.record_stream.assert_called_once_with(log.side)
    assert len(buffers) == 2
    assert event is log.side.record_event.return_value


def test_the_result_waits_for_the_events_alone():
    moving = Transfer([])
    moving._events = [MagicMock(), MagicMock()]
    moving._events[0].query.return_value = True
    moving._events[1].query.return_value = False
    assert not moving.is_ready()
    moving._events[1].query.return_value = True
    assert moving.is_ready()
    for event in moving._events:
        event.synchronize.assert_not_called()
    moving.result()
    for event in moving._events:
        event.synchronize.assert_called_once_with()


if torch.cuda.is_available():  # what only a GPU can show

    def test_later_changes_in_place_do_not_show():
        source = torch.zeros(1 << 24, device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            moving = Transfer([source])
            source.add_(1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert not moving.result()[0].any()

    def test_freed_sources_are_not_reused_too_early():
        moving = Transfer([torch.full((1 << 24,), 3.0, device="cuda")])
        noise = [torch.zeros(1 << 24, device="cuda") for _ in range(4)]
        assert (moving.result()[0] == 3).all()
        assert len(noise) == 4
