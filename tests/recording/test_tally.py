"""The layer table: which entries it has, in which order, and what they count."""

import numpy as np
import torch
from torch import nn

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
