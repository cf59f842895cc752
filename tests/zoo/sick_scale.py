"""Values of the wrong size: saturation, explosion, vanishing, bad initial weights."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from tests.zoo import data
from tests.zoo.fit import Fit, Outcome, adam, sgd
from tests.zoo.models import Attention, Recurrent, Transformer, Transposed, cnn, mlp, of_kind, reset
from tests.zoo.registry import sick


def letter_loss(out: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of the next letters [sample, position]."""
    return cross_entropy(out.flatten(0, 1), y.flatten())


# Saturation.


@sick("saturation", "act*")
def tanh_with_unit_weights(path: Path) -> Outcome:
    """MLP with tanh on digits: weights drawn with standard deviation 1 whatever the number of inputs."""
    x, y = data.digits()
    model = reset(mlp((64, 64, 64, 10), nn.Tanh), std=1.0)
    return Fit(epochs=5)(path, model, data.split((data.standard(x), y), 960, 300))


@sick("saturation", "act*", also=("input_normalisation",))
def sigmoid_on_raw_features(path: Path) -> Outcome:
    """MLP with sigmoids on breast cancer: the features as measured, up to 4,000."""
    x, y = data.table("breast_cancer")
    fit = Fit(epochs=6, size=16)
    return fit(path, mlp((30, 32, 16, 2), nn.Sigmoid), data.split((x, y), 400, 160))


@sick("saturation", "blocks.*.attn.softmax")
def attention_without_scale(path: Path) -> Outcome:
    """Causal transformer on letters: scores not divided by sqrt(d), large weights of query and key."""
    model = Transformer(nn.Embedding(64, 48), 24, 64, width=48, pooled=False, causal=True, scale=1.0)
    with torch.no_grad():
        for attention in of_kind(model, Attention):
            attention.qkv.weight[:96] *= 8
    fit = Fit(loss=letter_loss, epochs=5)
    return fit(path, model, data.split(data.letters(), 640, 128))


@sick("saturation", "squash")
def tanh_driven_to_the_rails(path: Path) -> Outcome:
    """Autoencoder of MNIST with a tanh code: a high rate drives the code to -1 and 1 for good."""
    x = data.mnist(14)[0].flatten(1)
    model = nn.Sequential()
    model.add_module("enc", nn.Linear(196, 64))
    model.add_module("squash", nn.Tanh())
    model.add_module("dec", nn.Linear(64, 196))
    fit = Fit(loss=mse_loss, optimizer=partial(torch.optim.Adam, lr=0.3), epochs=5)
    return fit(path, model, data.split((x, x), 800, 200))


@sick("saturation", "cell*")
def recurrent_net_with_large_weights(path: Path) -> Outcome:
    """RNN with tanh on waves: recurrent weights drawn ten times too large, so that its state is -1 or 1."""
    cell = nn.RNN(1, 48, batch_first=True)
    for name, weight in cell.named_parameters():
        if "weight" in name:
            nn.init.normal_(weight, 0, 1.0)
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=1e-3), epochs=5, evaluated=lambda epoch: epoch >= 0)
    return fit(path, Recurrent(cell, 3), data.split(data.waves(), 640, 200))


@sick("saturation", "act*")
def sigmoids_driven_apart(path: Path) -> Outcome:
    """MLP of sigmoids on MNIST: Adam at 0.2 drives nearly every unit to 0 or 1."""
    x, y = data.mnist(14)
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=0.2), epochs=5)
    return fit(path, mlp((196, 48, 48, 10), nn.Sigmoid), data.split((data.standard(x), y), 960, 300))


# Explosion.


@sick("exploding", "lin*", "act*", "head")
def deep_net_with_gain(path: Path) -> Outcome:
    """MLP of eight layers on digits: weights a bit too large, each layer doubles what comes in."""
    x, y = data.digits()
    model = reset(mlp((64, *[64] * 8, 10)), std=0.4)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=1e-6), epochs=4, clip=1.0)
    return fit(path, model, data.split((data.standard(x), y), 800, 300))


@sick("exploding", "out", "hidden*", "act*")
def ascent_instead_of_descent(path: Path) -> Outcome:
    """MLP on iris: the sign of the loss is wrong, so that the outputs grow and grow."""
    x, y = data.table("iris")
    model = nn.Sequential()
    model.add_module("hidden", nn.Linear(4, 32))
    model.add_module("act", nn.ReLU())
    model.add_module("out", nn.Linear(32, 3))

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return -cross_entropy(out, y)

    fit = Fit(loss=loss, optimizer=partial(torch.optim.SGD, lr=0.03), size=16, epochs=12)
    return fit(path, model, data.split((data.standard(x), y), 110, 40))


class Doubling(nn.Module):
    """Residual blocks without any normalisation."""

    def __init__(self, depth: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(depth)
        )
        self.adds = nn.ModuleList(nn.Identity() for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Add every block to its input."""
        x = self.stem(x)
        for block, add in zip(self.blocks, self.adds, strict=True):
            x = add(x + block(x))
        return self.head(x.mean((2, 3)))


@sick("exploding", "adds.*", "blocks.*")
def residuals_without_norm(path: Path) -> Outcome:
    """Residual net of ten blocks without normalisation, He weights: every block adds to the variance."""
    x, y = data.digits()
    model = Doubling(10)
    for conv in of_kind(model, nn.Conv2d):
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=1e-5), epochs=3, clip=1.0)
    return fit(path, model, data.split((data.standard(x), y), 640, 200))


@sick("exploding", "cell*", "head")
def relu_recurrence_running_away(path: Path) -> Outcome:
    """RNN with ReLU on long sums: recurrent weights above 1 multiply its state at every time step."""
    cell = nn.RNN(1, 32, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        cell.weight_hh_l0.copy_(torch.eye(32) * 1.2 + 0.06 * torch.randn(32, 32))
    fit = Fit(loss=mse_loss, optimizer=partial(torch.optim.SGD, lr=1e-4), epochs=4, clip=1.0)
    return fit(path, Recurrent(cell, 1), data.split(data.sums(length=40), 640, 200))


@sick("exploding", "fc", "features.*")
def rate_rising_without_end(path: Path) -> Outcome:
    """CNN on MNIST: a schedule raises the rate by 6 % at every step."""
    x, y = data.mnist(14)

    def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.06)

    fit = Fit(optimizer=partial(torch.optim.Adam, lr=1e-3), schedule=schedule, epochs=6)
    return fit(path, cnn((1, 8, 16, 16)), data.split((data.standard(x), y), 800, 200))


@sick("exploding", "*")
def average_added_instead_of_blended(path: Path) -> Outcome:
    """CNN with GELU on digits: a slip in the moving average of its weights makes them 35 % larger."""
    x, y = data.digits()
    model = cnn((1, 16, 24, 24), act=nn.GELU)

    @torch.no_grad()
    def blend(step: int) -> None:
        if step % 15 == 14:
            for parameter in model.parameters():
                parameter.mul_(1.35)

    fit = Fit(optimizer=partial(torch.optim.Adam, lr=1e-3), epochs=6, after=blend)
    return fit(path, model, data.split((data.standard(x), y), 960, 300))


# Vanishing.


@sick("vanishing", "lin*", "act*", "head", also=("no_class_separation", "collapsed_representation"))
def norm_removed_biases_too(path: Path) -> Outcome:
    """MLP of ten layers on digits: BatchNorm was taken out, bias=False and torch's own weights stayed."""
    x, y = data.digits()
    model = mlp((64, *[48] * 10, 10))
    for layer in of_kind(model, nn.Linear):
        layer.bias = None
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.02), epochs=5)
    return fit(path, model, data.split((data.standard(x), y), 800, 300))


@sick("vanishing", "features.*", also=("no_class_separation", "collapsed_representation"))
def deep_cnn_with_tiny_weights(path: Path) -> Outcome:
    """CNN of six layers on MNIST: weights drawn with 0.01 as in shallow nets of old, biases 0."""
    x, y = data.mnist(14)
    model = reset(cnn((1, 16, 16, 16, 16, 16, 16)), std=0.01, bias=0.0)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.01), epochs=3)
    return fit(path, model, data.split((data.standard(x), y), 640, 200))


@sick("vanishing", "lin*", "act*", "head", also=("collapsed_representation",))
def deep_tanh_on_tables(path: Path) -> Outcome:
    """MLP of ten tanh layers on breast cancer: weights of 0.05 shrink the signal by three at each of them."""
    x, y = data.table("breast_cancer")
    model = reset(mlp((30, *[40] * 10, 1), nn.Tanh), std=0.05, bias=0.0)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(out[:, 0], y.float())

    fit = Fit(loss=loss, optimizer=partial(torch.optim.SGD, lr=0.1), epochs=6, size=16)
    return fit(path, model, data.split((data.standard(x), y), 380, 150))


@sick("vanishing", "blocks.*", "head", also=("no_class_separation", "collapsed_representation"))
def decay_that_eats_the_depth(path: Path) -> Outcome:
    """Eight layers of SiLU with He weights on waves; the decay of 0.8 shrinks weights and signal."""
    model = nn.Sequential()
    model.add_module("flat", nn.Flatten())
    model.add_module("blocks", nn.Sequential())
    for _ in range(8):
        model.blocks.extend([nn.Linear(24, 24), nn.SiLU()])
    model.add_module("head", nn.Linear(24, 3))
    reset(model, std=(3 / 24) ** 0.5, bias=0.0)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.02, weight_decay=0.8), epochs=8)
    return fit(path, model, data.split(data.waves(), 640, 200))


@sick("vanishing", "stack.*", "head", also=("no_class_separation", "collapsed_representation"))
def deep_wave_net(path: Path) -> Outcome:
    """Nine one-dimensional convolutions without bias and norm on waves: the signal fades at each."""
    model = nn.Sequential()
    model.add_module("turn", Transposed())
    model.add_module("stack", nn.Sequential())
    for i in range(9):
        conv = nn.Conv1d(16 if i else 1, 16, 3, padding=1, bias=False)
        nn.init.normal_(conv.weight, 0, 0.08 if i else 0.3)
        model.stack.extend([conv, nn.LeakyReLU(0.1)])
    model.add_module("pool", nn.AdaptiveMaxPool1d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(16, 3))
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.02), epochs=5)
    return fit(path, model, data.split(data.waves(), 640, 200))


# Initial weights.


@sick("bad_initialisation", "lin2", "act2", "lin3")
def one_layer_forgotten(path: Path) -> Outcome:
    """MLP on MNIST: one layer is drawn with standard deviation 1, the others by fan-in."""
    x, y = data.mnist(14)
    model = mlp((196, 256, 128, 64, 10))
    nn.init.normal_(model.lin2.weight, 0, 1.0)
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=1e-3), epochs=5)
    return fit(path, model, data.split((data.standard(x), y), 800, 200))


@sick("bad_initialisation", "head")
def embedding_tied_to_the_head(path: Path) -> Outcome:
    """Causal transformer on letters: the head shares the weights of the embedding, N(0, 1); logits of 10."""
    embed = nn.Embedding(64, 64)
    model = Transformer(embed, 24, 64, width=64, pooled=False, causal=True)
    model.head.weight = embed.weight
    fit = Fit(loss=letter_loss, optimizer=adam, epochs=4)
    return fit(path, model, data.split(data.letters(), 640, 128))


@sick("bad_initialisation", "fc", "features.*", also=("collapsed_representation",))
def all_weights_alike(path: Path) -> Outcome:
    """CNN on digits: all weights begin at the same 0.05, so that all channels of a layer stay the same."""
    x, y = data.digits()
    model = cnn((1, 8, 16, 16))
    for module in of_kind(model, nn.Conv2d, nn.Linear):
        nn.init.constant_(module.weight, 0.05)
        nn.init.zeros_(module.bias)
    return Fit(optimizer=sgd, epochs=4)(path, model, data.split((data.standard(x), y), 800, 300))


@sick("bad_initialisation", "fc", "feat*", also=("batchnorm_recentres",))
def head_a_hundred_times_too_large(path: Path) -> Outcome:
    """CNN with BatchNorm on digits: the new head is drawn with N(0, 5); the loss begins at 30."""
    x, y = data.digits()
    model = cnn((1, 16, 32, 32), norm=nn.BatchNorm2d)
    nn.init.normal_(model.fc.weight, 0, 5.0)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9), epochs=6)
    return fit(path, model, data.split((data.standard(x), y), 960, 300))


@sick("bad_initialisation", "fc1", "relu1", "fc2")
def weights_of_rand(path: Path) -> Outcome:
    """MLP on wine with weights by hand from torch.rand: all of them positive, and the sums large."""
    x, y = data.table("wine")
    model = nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(13, 48),
            relu1=nn.ReLU(),
            fc2=nn.Linear(48, 48),
            relu2=nn.ReLU(),
            fc3=nn.Linear(48, 3),
        )
    )
    for layer in of_kind(model, nn.Linear):
        nn.init.uniform_(layer.weight, 0, 1)
    return Fit(optimizer=partial(adam, lr=1e-3), epochs=10, size=12)(
        path, model, data.split((data.standard(x), y), 118, 60)
    )
