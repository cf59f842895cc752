"""Activation functions called without a module."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from actlab.recording.automatic import AutomaticRecorder
from actlab.recording.recorder import Recorder


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), nn.GELU()

    def forward(self, x):
        return self.act(functional.relu(self.fc(x), inplace=True))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Block(), Block()

    def forward(self, x):
        x = self.b(torch.tanh(self.a(x)))
        return x.sigmoid() * functional.softmax(x, 1).add_(1)


NAMES = [
    "input",
    "a.fc",
    "a.F.relu",
    "a.act",
    "F.tanh",
    "b.fc",
    "b.F.relu",
    "b.act",
    "F.sigmoid",
    "F.softmax",
]


def test_functions_are_layers_in_the_order_of_their_calls(writer):
    model, x = Net(), torch.randn(3, 4)
    with Recorder(model, "memory", on_error="raise", functional=True) as recorder:
        for _ in range(2):
            with recorder.batch("train", 0):
                model(x)
        model(x)
    for row in writer().rows:
        assert [layer.name for layer in row.layers] == NAMES
        assert row.n.tolist() == [12] * 10
        assert row.counts.sum(1).tolist() == [12] * 10
    layer = dict(zip(NAMES, row.layers, strict=True))["a.F.relu"]
    assert (layer.kind, layer.shape, layer.calls) == ("relu", (3, 4), 1)
    with torch.no_grad():
        after = functional.relu(model.a.fc(x))
    assert row.max[2] == after.max()


def test_functions_are_not_looked_at_unless_that_is_asked_for(writer):
    with Recorder(Net(), "memory", on_error="raise") as recorder, recorder.batch("train", 0):
        recorder_model = Net()
        recorder_model(torch.randn(3, 4))
    assert not any("F." in layer.name for layer in writer().rows[0].layers)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["*F.relu"], ["a.F.relu", "b.F.relu"]),
        (["b.*"], ["b.fc", "b.F.relu", "b.act"]),
        (["fc"], None),
        (["a.fc", "F.tanh"], ["a.fc", "F.tanh"]),
    ],
)
def test_patterns_choose_among_functions(writer, layers, expected):
    model = Net()
    if expected is None:
        with pytest.raises(KeyError, match="nothing in the model matches 'fc'"):
            Recorder(model, "memory", layers=layers, functional=True)
        return
    with (
        Recorder(model, "memory", layers=layers, functional=True, on_error="raise") as recorder,
        recorder.batch("train", 0),
    ):
        model(torch.randn(3, 4))
    assert [layer.name for layer in writer().rows[0].layers] == expected


def test_calls_of_a_function_may_be_told_apart(writer):
    class Twice(nn.Module):
        def forward(self, x):
            return functional.relu(functional.relu(x - 1) - 1)

    model = Twice()
    with (
        Recorder(model, "memory", functional=True, calls="separate", on_error="raise") as recorder,
        recorder.batch("train", 0),
    ):
        model(torch.tensor([[0.0, 1.5, 3.0]]))
    names = [layer.name for layer in writer().rows[0].layers]
    assert names == ["input", "F.relu#1", "F.relu#2", "Twice"]
    assert writer().rows[0].max.tolist() == [3, 2, 1, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_no_mode_is_left_behind(writer, fails):
    before = torch._C._len_torch_function_stack()
    model = nn.Sequential(nn.Linear(1, 1))
    if fails:
        model.register_forward_hook(lambda *_: 1 // 0)
    for kind in (Recorder, AutomaticRecorder):
        with kind(model, "memory", functional=True, on_error="raise") as recorder:
            around = recorder.batch("train", 0) if kind is Recorder else torch.no_grad()
            try:
                with torch.device("cpu"), around:
                    model(torch.ones(1, 1))
                    assert torch.device("cpu") == torch.empty(1).device
            except ZeroDivisionError:
                assert fails
        assert torch._C._len_torch_function_stack() == before
    assert sum(map(len, (model._forward_hooks, model._forward_pre_hooks))) == fails


def test_copies_and_pickles_do_nothing(writer):
    model = Net()
    with (
        Recorder(model, "memory", functional=True, on_error="raise") as recorder,
        recorder.batch("train", 0),
    ):
        copy.deepcopy(model)(torch.randn(2, 4)), pickle.loads(pickle.dumps(model))(torch.randn(2, 4))
        model(torch.randn(2, 4))
    row = writer().rows[0]
    counted = dict(zip([layer.name for layer in row.layers], row.n.tolist(), strict=True))
    assert counted["a.fc"] == 8


def test_the_result_is_that_of_the_bare_model(writer):
    torch.manual_seed(0)
    model, x = Net(), torch.randn(5, 4)
    expected = model(x)
    with (
        Recorder(model, "memory", functional=True, on_error="raise") as recorder,
        recorder.batch("train", 0),
    ):
        found = model(x)
    np.testing.assert_array_equal(found.detach(), expected.detach())


def test_what_is_called_outside_of_the_model_is_no_layer(writer):
    model, teacher = Net(), Net()
    with (
        Recorder(model.a, "memory", functional=True, on_error="raise") as recorder,
        recorder.batch("train", 0),
    ):
        functional.softmax(model(torch.randn(3, 4)), 1), teacher(torch.randn(3, 4))
    row = writer().rows[0]
    assert [layer.name for layer in row.layers] == ["input", "fc", "F.relu", "act"]
    assert row.n.tolist() == [12] * 4


def test_modes_of_the_user_stay_whatever_the_order(writer):
    before = torch._C._len_torch_function_stack()
    recorder = Recorder(Net(), "memory", functional=True, on_error="raise")
    batch = recorder.batch("train", 0)
    batch.__enter__()
    with torch.device("meta"):
        batch.__exit__(None, None, None)
        assert torch.empty(1).is_meta
    assert torch._C._len_torch_function_stack() == before
    recorder.close()


def test_attention_in_evaluation_gives_what_it_gave(writer):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, mask = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    mask[:, 3:] = True
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=mask)
        with (
            Recorder(model, "memory", functional=True) as recorder,
            pytest.warns(RuntimeWarning, match="functions are not counted where attention is evaluated"),
            recorder.batch("valid", 0),
        ):
            found = model(x, src_key_padding_mask=mask)
    assert torch.equal(found, expected)
