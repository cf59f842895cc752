"""What a failure becomes: one warning of each kind, an error where that is asked for."""

import warnings

import pytest
import torch
from torch import nn

from actlab.recording import capture
from actlab.recording.guard import Guard
from actlab.recording.recorder import Recorder


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
