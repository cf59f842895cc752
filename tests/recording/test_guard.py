"""What a failure becomes: one warning of each kind, an error where that is asked for."""

import gc
import warnings
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import actlab
from actlab.recording import capture
from actlab.recording.guard import Guard
from actlab.recording.recorder import Recorder
from actlab.run import open_run


def messages_of(guard, failures):
    """Let every (what, error) fail, and return what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for what, error in failures:
            with guard(what):
                raise error
    return [str(warning.message) for warning in caught]


def test_every_kind_of_failure_is_told_once():
    failures = [("row", ValueError("a")), ("row", TypeError("b")), ("flush", ValueError("c"))]
    told = messages_of(Guard("warn"), failures * 3)
    assert told == [
        "actlab: row failed, training goes on without it: ValueError: a",
        "actlab: row failed, training goes on without it: TypeError: b",
        "actlab: flush failed, training goes on without it: ValueError: c",
    ]


def test_the_kinds_that_are_told_are_bounded():
    told = messages_of(Guard("warn"), [(f"layer {number}", OSError()) for number in range(100)])
    assert len(told) == 17
    assert told[-1] == "actlab: more than 16 kinds of failure; no more are shown"


def test_what_a_failure_had_in_hand_is_free_at_once():
    class Memory:
        """What can be referred to weakly."""

    def fail():
        memory = Memory()
        held.append(weakref.ref(memory))
        raise MemoryError

    held, guard = [], Guard("warn")
    gc.disable()
    try:
        with pytest.warns(RuntimeWarning, match="MemoryError"), guard("layers"), guard("layer"):
            fail()
        assert held[0]() is None
    finally:
        gc.enable()


def test_raise_raises_the_failure_itself_and_a_warning_that_is_an_error():
    guard = Guard("raise")
    with pytest.raises(ZeroDivisionError), guard("row"):
        raise ZeroDivisionError
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="actlab: news"):
            guard.warn("topic", "news")


def test_our_own_failure_is_one_warning_and_not_the_loops_concern(writer, monkeypatch):
    def fail(*_):
        raise MemoryError("no room")

    model = nn.Linear(1, 1)
    monkeypatch.setattr(capture.Tallies, "add", fail)

    def record(batches, on_error):
        with Recorder(model, "memory", on_error=on_error) as recorder:
            for _ in range(batches):
                with recorder.batch("train", 0):
                    model(torch.ones(1, 1))

    with pytest.warns(RuntimeWarning) as caught:
        record(3, "warn")
    messages = [str(warning.message) for warning in caught]
    assert [message.partition(",")[0] for message in messages] == [
        "actlab: layer 'input' failed",
        "actlab: layer 'Linear' failed",
    ]
    assert all("no room" in message for message in messages)
    with pytest.raises(MemoryError):
        record(1, "raise")


def test_batches_that_are_lost_are_counted_at_the_end(writer):
    model = nn.Linear(1, 1)
    recorder = Recorder(model, "memory")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for split in ("tain", "tain", "train"):
            with recorder.batch(split, 0):
                model(torch.ones(1, 1))
        recorder.close()
    assert len(caught) == 2
    assert str(caught[-1].message) == "actlab: 2 batches were not recorded"


def test_where_warnings_are_errors_the_training_goes_on(writer, caplog):
    model = nn.Linear(1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Recorder(model, "memory") as recorder:
            with recorder.batch("tain", 0):
                model(torch.ones(1, 1))
            with recorder.batch("train", 0, labels=[1, 2]):
                model(torch.ones(1, 1))
    assert [message.split(",")[0] for message in caplog.messages] == [
        "actlab: batch failed",
        "actlab: labels failed",
        "actlab: 1 batch was not recorded",
    ]
    assert len(writer().rows) == 1


def test_a_warning_points_at_the_line_of_the_user(writer, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(capture.Tallies, "add", fail)
    model = nn.Sequential(nn.Linear(1, 1))
    with Recorder(model, "memory") as recorder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with recorder.batch("tain", 0):
            pass
        with recorder.batch("train", 0):
            model(torch.ones(1, 1))
    assert len(caught) == 3
    assert {warning.filename for warning in caught} == {__file__}


class TestStop:
    """The first failure ends the recording, not the training."""

    def train(self, model, recorder, fail_at, monkeypatch, *, automatic):
        """Train for six batches; from one of them on nothing can be counted."""
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for number in range(6):
            if number == fail_at:
                monkeypatch.setattr(capture.Tallies, "add", lambda *_: 1 // 0)
            around = nullcontext() if automatic else recorder.batch("train", 0)
            with around:
                loss = model(torch.randn(8, 1, 8, 8)).square().mean()
            if recorder is not None:
                recorder.log(loss=loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @pytest.mark.parametrize("automatic", [False, True])
    @pytest.mark.parametrize("fail_at", [0, 3])
    def test_one_warning_no_hook_a_closed_run_and_the_same_training(
        self, tmp_path, make_model, hooks_of, monkeypatch, automatic, fail_at
    ):
        bare, model = make_model(), make_model()
        self.train(bare, None, None, monkeypatch, automatic=True)
        make = actlab.record if automatic else Recorder
        recorder = make(model, tmp_path / "run.zarr", on_error="stop")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.train(model, recorder, fail_at, monkeypatch, automatic=automatic)
            assert hooks_of(model) == 0
            recorder.close()
        (message,) = [str(warning.message) for warning in caught]
        assert message.startswith("actlab: layer 'input' failed, recording ends: ZeroDivisionError: integer")
        for name, value in bare.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name
        run = open_run(tmp_path / "run.zarr")
        assert run.attributes["closed"]
        found = run["train"].load() if fail_at else None
        assert run.splits == (("train",) if fail_at else ())
        assert found is None or (found.step.values.tolist() == [0, 1, 2] and found.log_loss.notnull().all())

    def test_a_slip_of_the_training_ends_it_too(self, writer, hooks_of):
        model = nn.Linear(1, 1)
        recorder = Recorder(model, "memory", on_error="stop")

        def train():
            for split in ("train", "tain", "train"):
                with recorder.batch(split, 0):
                    model(torch.ones(1, 1))
            recorder.close()

        with pytest.warns(RuntimeWarning, match="batch failed, recording ends.*did you mean") as caught:
            train()
        assert len(caught) == 1
        assert hooks_of(model) == 0
        assert writer().is_closed
        assert [row.step for row in writer().rows] == [0]

    def test_a_disk_that_fails_ends_it(self, tmp_path, hooks_of):
        model, path = nn.Linear(1, 1), tmp_path / "run.zarr"
        recorder = Recorder(model, path, on_error="stop")

        def batch():
            with recorder.batch("train", 0):
                model(torch.ones(1, 1))

        batch()
        assert recorder.flush() == {"train": 0}
        (path / "zarr.json").unlink()

        def go_on():
            batch()
            recorder.flush()
            batch()
            recorder.close()

        with pytest.warns(RuntimeWarning, match="flush failed, recording ends: StoreError") as caught:
            go_on()
        assert len(caught) == 1
        assert hooks_of(model) == 0
