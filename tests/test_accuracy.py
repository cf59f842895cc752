"""Re-binned counts of trained models against `numpy.histogram` of their very activations."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import actlab
from actlab import LinearAxis

# Round and odd ranges, coarse and fine bins, one side of zero, far out, and inside a few buckets.
AXES = [
    LinearAxis(*each)
    for each in [
        (-10, 10, 200),
        (-10, 10, 2000),
        (-100, 100, 2000),
        (-1, 1, 1000),
        (0, 0.5, 100),
        (-4, 4, 100),
        (-4, 4, 1),
        (-3.3, 7.1, 77),
        (0, 10, 200),
        (-10, 0, 200),
        (-8, 8, 256),
        (-2, 2, 128),
        (0.1, 0.9, 33),
        (-0.013, 0.017, 50),
        (1, 1.0625, 10),
        (-1e-3, 1e-3, 20),
        (-1e30, 1e30, 100),
        (5, 500, 300),
        (-0.5, -0.25, 7),
        (-6.28, 6.28, 512),
    ]
]


class Residual(nn.Module):
    """Two convolutions with BatchNorm and a shortcut, as in a ResNet."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


def residual_net():
    body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), Residual(16), Residual(16))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def plain_net():
    parts = [nn.Flatten(), nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 512), nn.Sigmoid()]
    return nn.Sequential(*parts, nn.Linear(512, 256), nn.LeakyReLU(), nn.Linear(256, 10))


class Attention(nn.Module):
    """A transformer block over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 64)
        self.block = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, activation="gelu", batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.block(self.embed(x.squeeze(1))).mean(dim=1))


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    return (images - images.mean()) / images.std(), torch.from_numpy(data.target)


@pytest.fixture(scope="module", params=[residual_net, plain_net, Attention])
def trained(request, digits, tmp_path_factory):
    """Return a run of one batch of a trained model, and every layer's values in it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, (x, y) = request.param(), digits
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for start in range(0, 1536, 128):
        loss = nn.functional.cross_entropy(model(x[start : start + 128]), y[start : start + 128])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    values = {}

    def keep(name):
        return lambda module, inputs, output: values.setdefault(name, []).append(output.detach().clone())

    path = tmp_path_factory.mktemp("accuracy") / "run.zarr"
    with actlab.Recorder(model, path, raw=None) as recorder, recorder.batch("train", epoch=0):
        leaves = {name: each for name, each in model.named_modules() if not [*each.children()]}
        hooks = [each.register_forward_hook(keep(name)) for name, each in leaves.items()]
        model(x)
        for hook in hooks:
            hook.remove()
    run = actlab.open_run(path)
    kept = {name: torch.cat([each.flatten() for each in parts]).numpy() for name, parts in values.items()}
    return run, {name: kept[name].astype(np.float64) for name in run.names if name in kept}


def pooled(run, layer):
    return run["train"].counts.sel(layer=layer).sum("step").compute()


def test_every_axis_conserves_the_values_and_keeps_its_bound(trained):
    run, values = trained
    assert len(values) >= 6
    for layer, raw in values.items():
        counts = pooled(run, layer)
        assert int(counts.sum()) == raw.size
        for axis in AXES:
            view = actlab.rebin(counts, axis)
            total = sum(float(view[name].sum()) for name in ("counts", "underflow", "overflow"))
            assert total == pytest.approx(raw.size, rel=1e-9)
            exact, _ = np.histogram(raw, axis.edges)
            assert (np.abs(view.counts - exact) <= view.bound + 1e-9 * raw.size).all(), (layer, axis)


def repeats(raw):
    """Whether one value but 0 makes up a thousandth: a blank background, seen through a convolution.

    It lies at one point of its bucket, which no count knows: for such a layer the bound alone holds.
    """
    _, times = np.unique(raw[raw != 0], return_counts=True)
    return times.max() > raw.size / 1000


def test_the_error_is_less_than_half_the_noise_of_the_counts(trained):
    run, values = trained
    large = {layer: raw for layer, raw in values.items() if raw.size > 1e5 and not repeats(raw)}
    assert len(large) >= 6
    axis = LinearAxis(-10, 10, 200)
    in_sigma = []
    for layer, raw in large.items():
        exact, _ = np.histogram(raw, axis.edges)
        error = actlab.rebin(pooled(run, layer), axis).counts.values - exact
        assert np.sqrt(np.sum(error**2) / exact.sum()) < 0.5, layer
        shown = exact > 100
        in_sigma.append(np.sqrt(np.mean(error[shown] ** 2 / exact[shown])))
    # Beyond 3.2 bins are narrower than buckets, and no count knows where in its bucket a value lies.
    assert np.median(in_sigma) < 0.5
    assert max(in_sigma) < 0.7
