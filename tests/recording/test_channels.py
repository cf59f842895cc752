"""Channels: which dimension they are, when they are recorded, what they hold."""

import numpy as np
import pytest
import torch
from torch import nn

from actlab.recording import channels as module
from actlab.recording.channels import Channels
from actlab.recording.recorder import Recorder
from actlab.recording.sites import find_sites


def record(writer, model, x):
    seen = {}
    for name, layer in model.named_modules():
        layer.register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output.detach().clone()})
        )
    with Recorder(model, "memory", on_error="raise") as recorder, recorder.batch("train", 0):
        model(x)
    block, place, found = writer().rows[0].channels, 0, {}
    for layer, size in zip(block.layers, block.sizes, strict=True):
        part = slice(place, place + size)
        found[layer] = block.n[part], block.zeros[part], block.mean_abs[part]
        place += size
    assert place == len(block.n)
    return found, seen


CASES = {
    "image": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), (3, 1, 6, 6), 1),
    "sound": (nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU()), (3, 2, 9), 1),
    "volume": (nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU()), (2, 1, 4, 4, 4), 1),
    "table": (nn.Sequential(nn.Linear(3, 7), nn.ReLU()), (5, 3), -1),
    "sequence": (nn.Sequential(nn.Linear(3, 7), nn.LayerNorm(7), nn.GELU()), (5, 4, 3), -1),
}


@pytest.mark.parametrize("case", CASES)
def test_every_channel_has_its_number_zeros_and_mean_size(writer, case):
    model, shape, dim = CASES[case]
    found, seen = record(writer, model, torch.randn(shape))
    for name, output in seen.items():
        if name == "":
            continue
        values = output.movedim(dim, 0).flatten(1).double().numpy()
        n, zeros, mean_abs = found[name]
        assert n.tolist() == [values.shape[1]] * len(values)
        np.testing.assert_array_equal(zeros, (values == 0).sum(1))
        np.testing.assert_allclose(mean_abs, np.abs(values).mean(1), rtol=1e-6)


def test_what_several_devices_have_of_a_layer_adds_up():
    sums = [torch.tensor([[4.0, 4], [1, 0], [3, 4], [6, 8]], dtype=torch.float64) for _ in range(2)]
    stats = module._stats([("a", 2), ("b", 1)], ["a", "a"], sums)
    assert (stats.n.tolist(), stats.zeros.tolist()) == ([8, 8, 0], [2, 0, 0])
    np.testing.assert_array_equal(stats.mean_abs, [2, 2, np.nan])


def test_what_is_not_finite_leaves_the_mean_and_stays_in_the_number(writer):
    x = torch.ones(4, 3)
    x[0, 0], x[1, 1], x[:, 2] = float("nan"), -float("inf"), float("nan")
    found, _ = record(writer, nn.Sequential(nn.Identity()), x)
    n, zeros, mean_abs = found["0"]
    assert (n.tolist(), zeros.tolist()) == ([4] * 3, [0] * 3)
    np.testing.assert_array_equal(mean_abs, [1, 1, np.nan])


def test_the_cadence_begins_at_once_and_follows_the_epochs():
    channels = Channels()

    def rows(epochs, split="train"):
        found = []
        for row, epoch in enumerate(epochs):
            channels.begin(split, row, epoch)
            found += [row] if channels.is_on else []
        return found

    assert rows([0] * 70) == [0, 32, 64]
    assert rows([row // 10 for row in range(45)], "valid") == [0, 10, 20, 30, 40]
    assert rows(range(20), "test") == [0, 8, 16]


def test_a_layer_with_too_many_channels_or_another_number_of_them_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "MOST_OF_A_LAYER", 4)
    channels = Channels()
    channels.begin("train", 0, 0)
    site = find_sites(nn.Sequential(nn.Identity()))[2]
    for shape in ((2, 5), (2, 4), (2, 3), (0, 4), (3,), (2, 4)):
        channels.add((site, 1, ""), torch.ones(shape))
    stats = channels.take(lambda key: key[0].name)
    block = stats.build(list(stats.tensors))
    assert (block.layers, block.sizes, block.n.tolist()) == (("0",), (4,), [4] * 4)
    assert channels.take(lambda key: "") is None


def test_rows_without_channels_between(writer):
    model = nn.Sequential(nn.Linear(2, 2))
    with Recorder(model, "memory", on_error="raise", every=2) as recorder:
        for _ in range(70):
            with recorder.batch("train", 0):
                model(torch.ones(1, 2))
    assert [row.step for row in writer().rows if row.channels is not None] == [0, 64]
