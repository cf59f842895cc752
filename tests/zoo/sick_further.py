"""Sick trainings that were written after the rules, to see whether these hold elsewhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from tests.zoo import data
from tests.zoo.data import Pair
from tests.zoo.fit import Fit, Outcome, adam, sgd
from tests.zoo.healthy_images import scaled_digits, scaled_mnist, yes_or_no
from tests.zoo.healthy_more import UNet
from tests.zoo.models import Recurrent, Transformer, cnn, mlp, of_kind, reset
from tests.zoo.registry import sick
from tests.zoo.sick_scale import letter_loss


@sick("dead_relu", "act2")
def one_layer_pushed_below(path: Path) -> Outcome:
    """Wide MLP on clouds: the biases of the second layer begin at -10."""
    model = mlp((20, 256, 128, 64, 5))
    nn.init.constant_(model.lin2.bias, -10.0)
    return Fit(optimizer=sgd, epochs=4)(path, model, data.split(data.blobs(), 900, 250))


@sick("dead_relu", "head.1")
def recurrent_net_with_dead_head(path: Path) -> Outcome:
    """GRU on waves with a head of three layers, whose biases begin at -2."""
    model = Recurrent(nn.GRU(1, 24, batch_first=True), 3)
    model.head = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 3))
    with torch.no_grad():
        model.head[0].bias.fill_(-2.0)
    return Fit(optimizer=partial(torch.optim.SGD, lr=0.05), epochs=4)(
        path, model, data.split(data.waves(), 640, 200)
    )


@sick("dead_relu", "act*", also=("dying_channels", "exploding", "lr_too_high"))
def wide_mlp_losing_most_units(path: Path) -> Outcome:
    """Wide MLP on overlapping clouds: Adam at 0.08 switches off most units within an epoch."""
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=0.08), epochs=6)
    return fit(path, mlp((20, 128, 128, 5)), data.split(data.blobs(1500, spread=3.0), 1100, 300))


@sick("dying_channels", "act*", also=("exploding", "lr_too_high"))
def mlp_at_a_rising_rate(path: Path) -> Outcome:
    """MLP on MNIST: the rate rises all the time instead of falling, and units die on the way."""

    def rise(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 1.6 * step / steps))

    fit = Fit(optimizer=partial(sgd, lr=0.16), schedule=rise, epochs=8)
    return fit(path, mlp((196, 96, 64, 10)), data.split(scaled_mnist(), 960, 200))


@sick("dormant_channels", "act1", "lin1", "act2", "lin2")
def pruned_but_not_removed(path: Path) -> Outcome:
    """MLP with ELU on clouds: two thirds of a layer's rows were pruned to 1e-4 and are held there."""
    model = mlp((20, 96, 48, 5), nn.ELU)
    kept = (torch.arange(96) < 32).float()

    @torch.no_grad()
    def prune(step: int) -> None:
        model.lin1.weight.mul_(torch.where(kept > 0, 1.0, 1e-3 if step == 0 else 0.9)[:, None])
        model.lin1.bias.mul_(torch.where(kept > 0, 1.0, 1e-3 if step == 0 else 0.9))

    return Fit(optimizer=sgd, epochs=5, after=prune)(path, model, data.split(data.blobs(), 900, 250))


@sick("saturation", "act*", also=("input_normalisation",))
def points_in_millimetres(path: Path) -> Outcome:
    """MLP with tanh on spirals whose coordinates are a hundred times too large."""
    x, y = data.spirals()
    return Fit(epochs=6)(path, mlp((2, 32, 32, 3), nn.Tanh), data.split((100 * x, y), 640, 200))


@sick("exploding", "lin*", "act*", "head", also=("bad_initialisation",))
def twelve_layers_of_randn(path: Path) -> Outcome:
    """MLP of twelve layers on clouds, weights of randn / 5: each layer makes the values larger."""
    model = reset(mlp((20, *[96] * 12, 5)), std=0.25)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=1e-9), epochs=4)
    return fit(path, model, data.split(data.blobs(), 640, 200))


@sick(
    "vanishing",
    "lin*",
    "act*",
    "head",
    also=("bad_initialisation", "no_class_separation", "collapsed_representation"),
)
def weights_of_a_hundredth(path: Path) -> Outcome:
    """MLP of eight tanh layers on digits, weights of 0.01 randn: nothing arrives."""
    model = reset(mlp((64, *[64] * 8, 10), nn.Tanh), std=0.01, bias=0.0)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.05), epochs=4)
    return fit(path, model, data.split(scaled_digits(), 900, 300))


@sick("bad_initialisation", "blocks.*", "embed", "head", also=("saturation",))
def transformer_of_unit_weights(path: Path) -> Outcome:
    """Causal transformer on letters: every weight matrix from N(0, 1)."""
    model = Transformer(nn.Embedding(64, 32), 24, 64, pooled=False, causal=True)
    for layer in of_kind(model, nn.Linear):
        nn.init.normal_(layer.weight, 0, 1.0)
    fit = Fit(loss=letter_loss, optimizer=partial(adam, lr=1e-3), epochs=4)
    return fit(path, model, data.split(data.letters(), 640, 128))


@sick("lr_too_high", "*")
def full_batches_at_rate_50(path: Path) -> Outcome:
    """MLP with tanh on spirals in full batches, SGD with momentum at 50."""
    fit = Fit(optimizer=partial(sgd, lr=50.0), epochs=80, size=600)
    return fit(path, mlp((2, 32, 32, 3), nn.Tanh), data.split(data.spirals(), 600, 250))


@sick("lr_too_high", "*")
def unet_at_rate_1(path: Path) -> Outcome:
    """U-Net with BatchNorm on digits: Adam at 1.0."""
    clean = data.digits()[0]
    noisy = data.standard(clean + 0.3 * torch.randn_like(clean))
    fit = Fit(optimizer=partial(adam, lr=1.0), epochs=4)
    return fit(path, UNet(), data.split((noisy, (clean[:, 0] > 0.4).long()), 800, 200))


@sick("spike", "*")
def batch_of_another_table(path: Path) -> Outcome:
    """MLP with LayerNorm on clouds: one batch comes from another source, far away from the rest."""

    def swap(step: int, x: Tensor, y: Tensor) -> Pair:
        return (x * 0.1 + 60, y) if step == 88 else (x, y)

    fit = Fit(optimizer=partial(torch.optim.AdamW, lr=1e-3), epochs=5, alter=swap)
    return fit(path, mlp((20, 64, 64, 5), nn.GELU, nn.LayerNorm), data.split(data.blobs(), 900, 250))


@sick("nan_inf", "*", also=("batchnorm_recentres",))
def infinite_pixel(path: Path) -> Outcome:
    """CNN with BatchNorm on MNIST: one pixel of one image is inf, in the third epoch's data."""
    parts = data.split(scaled_mnist(), 800, 200)
    parts["train"][0][400, 0, 5, 5] = torch.inf
    return Fit(epochs=3)(path, cnn((1, 12, 24), norm=nn.BatchNorm2d), parts)


@sick("frozen_layer", "embed", "cell*")
def only_the_head_learns(path: Path) -> Outcome:
    """LSTM on letters: the optimiser was made from the parameters of the head."""
    x, y = data.letters()
    model = Recurrent(nn.LSTM(24, 48, batch_first=True), 64, nn.Embedding(64, 24))

    def head_only(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.head.parameters(), lr=5e-3)

    return Fit(optimizer=head_only, epochs=4)(path, model, data.split((x, y[:, -1]), 1000, 300))


@sick("no_class_separation", "head")
def coin_tosses(path: Path) -> Outcome:
    """MLP with one logit on clouds, labels by tossing a coin."""
    x, y = data.blobs(2200)
    fit = Fit(loss=yes_or_no, epochs=3)
    return fit(path, mlp((20, 24, 1)), data.split((x, torch.randint_like(y, 2)), 1800, 300))


@sick("overfit", "head")
def small_cloud_in_full_batches(path: Path) -> Outcome:
    """Wide MLP on 90 points with 60 features, full batches, 80 epochs of one row each."""
    x, y = data.blobs(500, classes=3, width=60, spread=8.0)
    fit = Fit(optimizer=partial(adam, lr=2e-3), epochs=80, size=90)
    return fit(path, mlp((60, 128, 128, 3)), data.split((x, y), 90, 300))


@sick("distribution_shift", "*")
def test_moved_by_two(path: Path) -> Outcome:
    """MLP on clouds: the test set lies two standard deviations aside."""
    parts = data.split(data.blobs(1500), 900, 250, 250)
    parts["test"] = parts["test"][0] + 2, parts["test"][1]
    return Fit(epochs=4, tested=True)(path, mlp((20, 48, 5), nn.SiLU), parts)


@sick("class_never_yes", "head")
def last_class_taken_for_another(path: Path) -> Outcome:
    """MLP on five clouds, the last of which train calls by the name of the one before."""
    parts = data.split(data.blobs(1600), 1200, 350)
    x, y = parts["train"]
    parts["train"] = x, y.clamp_max(3)
    return Fit(loss=cross_entropy, optimizer=sgd, epochs=4)(path, mlp((20, 48, 5)), parts)


@sick("no_yes_ratio", "head")
def one_in_a_hundred(path: Path) -> Outcome:
    """MLP with two logits on clouds: one positive in a hundred."""
    x, y = data.blobs(6000)
    kept = (y != 0) | (torch.rand(len(y)) < 0.04)
    return Fit(epochs=3, size=48)(
        path, mlp((20, 32, 2)), data.split((x[kept], (y[kept] == 0).long()), 2400, 900)
    )


@sick("input_normalisation", "input", also=("batchnorm_recentres",))
def coloured_pictures_up_to_255(path: Path) -> Outcome:
    """CNN with BatchNorm, regression of a spot's place in coloured pictures of 0..255."""
    place = torch.randint(2, 14, (1200, 2))
    x = 40 * torch.rand(1200, 3, 16, 16)
    for picture, (row, column) in zip(x, place.tolist(), strict=True):
        picture[:, row - 2 : row + 2, column - 2 : column + 2] += 200
    fit = Fit(loss=mse_loss, epochs=4)
    return fit(
        path, cnn((3, 16, 24, 32), n_out=2, norm=nn.BatchNorm2d), data.split((x, place / 8 - 1), 900, 250)
    )


@sick("collapsed_representation", "*", also=("no_class_separation", "input_normalisation", "dead_relu"))
def always_the_first_sample(path: Path) -> Outcome:
    """MLP on digits: the data set gives its first picture whatever is asked for."""
    x, y = scaled_digits()
    return Fit(optimizer=sgd, epochs=4)(
        path, mlp((64, 48, 10)), data.split((x[:1].expand_as(x), y), 900, 300)
    )
