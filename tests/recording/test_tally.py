"""The layer table: which entries it has, in which order, and what they count."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from actlab.recording import tally
from actlab.recording.recorder import Recorder


def test_layers_called_twice_never_or_empty(writer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.relu, self.unused = nn.Linear(2, 2), nn.ReLU(), nn.Dropout()

        def forward(self, x):
            return self.relu(self.fc(self.relu(x)))

    model = Net()
    with Recorder(model, "memory", on_error="raise") as recorder:
        for size in (3, 0):
            with recorder.batch("train", 0):
                model(torch.randn(size, 2))
    first, empty = writer().rows
    assert [(layer.name, layer.calls, layer.shape) for layer in first.layers] == [
        ("input", 1, (3, 2)),
        ("fc", 1, (3, 2)),
        ("relu", 2, (3, 2)),
        ("unused", 0, ()),
    ]
    assert first.n.tolist() == [6, 6, 12, 0]
    assert empty.n.tolist() == [0] * 4
    assert np.isnan([empty.mean, empty.std, empty.min, empty.max]).all()


def test_members_take_the_place_of_their_layer_and_late_ones_the_end(writer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.late, self.fc = nn.LSTM(2, 2), nn.LSTM(2, 2), nn.Linear(2, 2)

        def forward(self, x, late):
            return self.fc((self.late if late else self.lstm)(x)[0])

    model = Net()
    with Recorder(model, "memory", on_error="raise") as recorder:
        for late in (False, True):
            with recorder.batch("train", 0):
                model(torch.randn(3, 2), late=late)
    tables = [[layer.name for layer in row.layers] for row in writer().rows]
    assert tables[0] == ["input", "lstm:0", "lstm:1:0", "lstm:1:1", "late", "fc"]
    assert tables[1] == tables[0] + ["late:0", "late:1:0", "late:1:1"]
    assert writer().rows[1].n.tolist() == [6, 0, 0, 0, 0, 6, 6, 2, 2]
    assert writer().rows[1].layers[4].calls == 1, "a layer whose members came late was called"


def test_an_input_without_floating_point_values_is_no_layer(writer):
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    with Recorder(model, "memory", on_error="raise") as recorder, recorder.batch("train", 0):
        model(torch.tensor([0, 4]))
    assert [layer.name for layer in writer().rows[0].layers] == ["0", "1"]


def test_every_layer_has_a_name_of_its_own(writer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.relu = nn.LSTM(2, 2), nn.ReLU()
            self.add_module("lstm:0", nn.Linear(2, 2))
            self.add_module("relu#2", nn.Linear(2, 2))

        def forward(self, x):
            x = self.get_submodule("lstm:0")(self.lstm(x)[0])
            return self.relu(self.get_submodule("relu#2")(self.relu(x)))

    model = Net()
    with Recorder(model, "memory", on_error="raise", calls="separate") as recorder:
        for _ in range(2):
            with recorder.batch("train", 0):
                model(torch.randn(3, 2))
    names = [layer.name for layer in writer().rows[1].layers]
    assert sorted(names) == sorted(set(names))
    assert {"lstm:0", "(lstm:0)", "relu#2", "(relu#2)", "relu#1"} <= set(names)


def test_a_table_does_not_grow_with_the_keys_of_an_output(writer, monkeypatch):
    monkeypatch.setattr(tally, "MOST_MEMBERS", 5)

    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = 0

        def forward(self, x):
            self.step += 1
            return {f"{self.step}.{i}": x + i for i in range(3)}

    model = nn.Sequential(Images())
    with Recorder(model, "memory") as recorder:
        for step in range(4):
            with recorder.batch("train", 0), pytest.warns() if step == 1 else nullcontext() as said:
                model(torch.randn(3, 2))
            if step == 1:
                assert "more than 5 tensors" in str(said[0].message)
    assert len(writer().rows[-1].layers) <= 6


def test_a_lazy_module_says_what_it_is_once_it_was_called(writer):
    model = nn.Sequential(nn.LazyLinear(3))
    with Recorder(model, "memory", on_error="raise") as recorder, recorder.batch("train", 0):
        model(torch.randn(4, 2))
    layer = writer().rows[0].layers[1]
    assert (layer.kind, layer.description) == ("Linear", "in_features=2, out_features=3, bias=True")
