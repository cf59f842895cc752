"""record: splits, epochs and rows inferred from the forwards of the model."""

import numpy as np
import pytest
import torch
from torch import nn

import actlab
from actlab.errors import ActlabError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)

    def forward(self, x, fail=False):
        y = self.fc(x)
        if fail:
            raise ZeroDivisionError
        return y


X = torch.randn(4, 2)


def rows(writer):
    return [(row.split, row.step, row.epoch, row.batch, row.train_step) for row in writer().rows]


def run(model, modes):
    """One forward per letter: t for training, v for evaluation."""
    for mode in modes:
        model.train(mode == "t")(X)


def test_a_new_epoch_begins_when_training_resumes_after_evaluation(writer):
    model = Net()
    with actlab.record(model, "memory", on_error="raise"):
        run(model, "vvttvttvv")
    assert rows(writer) == [
        ("valid", 0, -1, 0, 0),
        ("valid", 1, -1, 1, 0),
        ("train", 0, 0, 0, 0),
        ("train", 1, 0, 1, 1),
        ("valid", 2, 0, 0, 2),
        ("train", 2, 1, 0, 2),
        ("train", 3, 1, 1, 3),
        ("valid", 3, 1, 0, 4),
        ("valid", 4, 1, 1, 4),
    ]
    assert writer().attributes["epochs"] == "inferred"


def test_without_evaluation_there_is_one_epoch(writer):
    model = Net()
    with actlab.record(model, "memory", on_error="raise"):
        run(model, "tttt")
    assert {row.epoch for row in writer().rows} == {0}


def test_a_forward_that_raises_makes_no_row_and_no_epoch(writer, hooks_of):
    model = Net()
    with actlab.record(model, "memory", on_error="raise") as recorder:
        run(model, "t")
        recorder.log(loss=1.0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                model(X, fail=True)
        recorder.log(loss=2.0)
        run(model, "vt")
        with pytest.raises(ZeroDivisionError):
            model(X, fail=True)
    assert rows(writer) == [("train", 0, 0, 0, 0), ("valid", 0, 0, 0, 1), ("train", 1, 1, 0, 1)]
    assert [row.logs for row in writer().rows] == [{"loss": 1.0}, {}, {}]
    assert all(row.n.tolist() == [8, 12] for row in writer().rows)
    assert hooks_of(model) == 0


def test_epoch_labels_and_split_speak_of_the_next_forward(writer):
    model = Net()
    with actlab.record(model, "memory", on_error="raise") as recorder:
        recorder.epoch(7)
        recorder.labels([0, 1, 2, 0])
        run(model, "tt")
        recorder.split("test")
        run(model, "vv")
        recorder.epoch(8)
        run(model, "tv")
    assert rows(writer) == [
        ("train", 0, 7, 0, 0),
        ("train", 1, 7, 1, 1),
        ("test", 0, 7, 0, 2),
        ("test", 1, 7, 1, 2),
        ("train", 2, 8, 0, 2),
        ("valid", 0, 8, 0, 3),
    ]
    np.testing.assert_array_equal(writer().rows[0].label, [0, 1, 2, 0])
    assert [row.label is None for row in writer().rows[1:]] == [True] * 5
    assert writer().attributes["epochs"] == "given"


def test_every_and_pause(writer):
    model = Net()
    with actlab.record(model, "memory", every=2, on_error="raise") as recorder:
        run(model, "ttt")
        with recorder.pause():
            run(model, "tvvt")
        run(model, "tv")
    assert rows(writer) == [("train", 0, 0, 0, 0), ("train", 2, 0, 2, 2), ("valid", 0, 0, 0, 4)]


def test_a_model_of_one_module_counts_its_output_once(writer):
    model = nn.Linear(2, 3)
    with actlab.record(model, "memory", on_error="raise"):
        run(model, "t")
    (row,) = writer().rows
    assert ([layer.name for layer in row.layers], row.n.tolist()) == (["input", "Linear"], [8, 12])
    assert row.head.shape == (4, 3)


def test_batch_is_an_error_that_names_recorder(writer):
    with actlab.record(Net(), "memory") as recorder, pytest.raises(ActlabError, match="Recorder"):
        recorder.batch("train", 0)


def test_a_slip_is_a_warning_and_changes_nothing(writer):
    model = Net()
    with actlab.record(model, "memory") as recorder:
        with pytest.warns(RuntimeWarning, match="did you mean 'test'"):
            recorder.split("tset")
        recorder.epoch("first")
        run(model, "v")
    assert rows(writer) == [("valid", 0, -1, 0, 0)]
