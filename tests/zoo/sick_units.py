"""Units that say nothing: dead ReLUs, dying channels, dormant channels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from tests.zoo import data
from tests.zoo.fit import Fit, Outcome, one_cycle, sgd
from tests.zoo.models import cnn, conv_block, mlp, reset
from tests.zoo.registry import sick


@sick("dead_relu", "act*")
def mlp_killed_by_first_steps(path: Path) -> Outcome:
    """MLP on digits: a learning rate ten times too high without warm-up kills its units in a few steps."""
    parts = data.split((data.standard(data.digits()[0]), data.digits()[1]), 960, 300)
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=0.1), epochs=5)
    return fit(path, mlp((64, 64, 64, 64, 10)), parts)


@sick("dead_relu", "features.*.1")
def cnn_with_negative_biases(path: Path) -> Outcome:
    """CNN on MNIST: biases set to -1 by hand, where the weights cannot make up for it."""
    x, y = data.mnist(14)
    model = reset(cnn((1, 12, 16, 16)), std=0.05, bias=-1.0)
    return Fit(epochs=4)(path, model, data.split((x, y), 800, 200))


@sick("dead_relu", "encoder.code_relu")
def sparse_autoencoder_too_sparse(path: Path) -> Outcome:
    """Autoencoder of digits: the penalty on the code's activity is so strong that the code dies."""
    encoder = nn.Sequential()
    encoder.add_module("hidden", nn.Linear(64, 48))
    encoder.add_module("hidden_relu", nn.ReLU())
    encoder.add_module("code", nn.Linear(48, 24))
    encoder.add_module("code_relu", nn.ReLU())
    decoder = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 64))
    model = nn.Sequential()
    model.add_module("encoder", encoder)
    model.add_module("decoder", decoder)
    codes: list[Tensor] = []
    encoder.register_forward_hook(lambda module, args, out: codes.append(out))
    x = data.digits()[0].flatten(1)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return mse_loss(out, y) + 2.0 * codes.pop().abs().mean()

    return Fit(loss=loss, epochs=8)(path, model, data.split((x, x), 960, 300))


@sick("dead_relu", "act*")
def mlp_with_too_much_momentum(path: Path) -> Outcome:
    """MLP on MNIST: SGD with momentum 0.9 at the rate of plain SGD pushes nearly all units off."""
    x, y = data.mnist(14)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.3, momentum=0.9), epochs=8)
    return fit(path, mlp((196, 64, 64, 10)), data.split((data.standard(x), y), 960, 200))


@sick("dead_relu", "relu*")
def weights_below_zero(path: Path) -> Outcome:
    """CNN on MNIST in 0..1: one layer drawn from -0.2..0, not -0.1..0.1, so nothing gets above 0."""
    model = nn.Sequential()
    for i, (before, after) in enumerate(((1, 12), (12, 16), (16, 24)), start=1):
        model.add_module(f"conv{i}", nn.Conv2d(before, after, 3, 2, 1))
        model.add_module(f"relu{i}", nn.ReLU())
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(96, 10))
    nn.init.uniform_(model.conv2.weight, -0.2, 0)
    return Fit(optimizer=sgd, epochs=4)(path, model, data.split(data.mnist(14), 960, 200))


@sick("dying_channels", "act*", also=("spike", "exploding"))
def outliers_kill_units(path: Path) -> Outcome:
    """MLP on breast cancer, no clipping: after two batches of outliers many units are off for good."""
    x, y = data.table("breast_cancer")

    def spoil(step: int, x: Tensor, y: Tensor) -> data.Pair:
        return (x * 12, 1 - y) if step in (50, 51) else (x, y)

    fit = Fit(optimizer=partial(sgd, lr=0.03), size=16, epochs=8, alter=spoil)
    return fit(path, mlp((30, 64, 48, 2)), data.split((data.standard(x), y), 380, 150))


@sick("dying_channels", "features.*.1")
def cnn_losing_channels(path: Path) -> Outcome:
    """CNN without normalisation on MNIST, Adam at 0.04: it learns, but loses a good part of its channels."""
    x, y = data.mnist(14)
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=0.04), epochs=6)
    return fit(path, cnn((1, 16, 32, 32)), data.split((data.standard(x), y), 960, 200))


@sick("dying_channels", "features.*.2", also=("batchnorm_recentres", "dead_relu"))
def slimming_too_strong(path: Path) -> Outcome:
    """CNN with BatchNorm: the L1 penalty on its scales ("network slimming") switches channels off."""
    x, y = data.digits()
    model = cnn((1, 16, 24, 24), norm=nn.BatchNorm2d)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    @torch.no_grad()
    def shrink(step: int) -> None:
        for norm in norms if step < 150 else ():
            norm.weight.copy_((norm.weight - 0.008).clamp_min(0))
            norm.bias.sub_(0.001)

    return Fit(epochs=9, after=shrink)(path, model, data.split((data.standard(x), y), 800, 200))


@sick("dying_channels", "act*")
def cycle_too_high(path: Path) -> Outcome:
    """MLP on digits: a one-cycle schedule whose peak is too high loses units on the way up."""
    x, y = data.digits()
    fit = Fit(
        optimizer=partial(torch.optim.SGD, lr=0.06, momentum=0.9), schedule=one_cycle, epochs=8, tested=True
    )
    return fit(path, mlp((64, 80, 80, 10)), data.split((data.standard(x), y), 1000, 300, 300), every=2)


@sick("dormant_channels", "act*")
def gelu_pushed_down(path: Path) -> Outcome:
    """MLP with GELU on wine: half the units begin with a bias of -5 and hardly ever leave its flat side."""
    x, y = data.table("wine")
    model = mlp((13, 48, 48, 3), nn.GELU)
    with torch.no_grad():
        model.lin2.bias[::2] = -5
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=5e-4), size=16, epochs=12)
    return fit(path, model, data.split((data.standard(x), y), 130, 48))


@sick("dormant_channels", "conv2", "tanh2")
def widened_with_tiny_filters(path: Path) -> Outcome:
    """CNN on digits, widened after half its life: the new filters begin at 1e-5 and learn nothing."""
    x, y = data.digits()
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 16, 3, padding=1))
    model.add_module("tanh1", nn.Tanh())
    model.add_module("conv2", nn.Conv2d(16, 32, 3, stride=2, padding=1))
    model.add_module("tanh2", nn.Tanh())
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(512, 10))
    with torch.no_grad():
        model.conv2.weight[12:] *= 1e-4
        model.conv2.bias[12:] = 0
        model.fc.weight[:, 12 * 16 :] = 0
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.02), epochs=6)
    return fit(path, model, data.split((data.standard(x), y), 960, 300))


@sick("dormant_channels", "body.*")
def group_penalty_on_units(path: Path) -> Outcome:
    """MLP with SiLU on breast cancer: a group penalty shrinks most units to almost nothing."""
    x, y = data.table("breast_cancer")
    body = nn.Sequential(nn.Linear(30, 40), nn.SiLU(), nn.Linear(40, 40), nn.SiLU())
    model = nn.Sequential()
    model.add_module("body", body)
    model.add_module("out", nn.Linear(40, 2))

    @torch.no_grad()
    def shrink(step: int) -> None:
        for layer in (body[0], body[2]):
            rows = torch.cat([layer.weight, layer.bias[:, None]], 1).norm(dim=1, keepdim=True)
            keep = (1 - (0.014 if step < 70 else 0.011) / rows).clamp_min(0.01)
            layer.weight.mul_(keep)
            layer.bias.mul_(keep[:, 0])

    return Fit(epochs=8, size=16, after=shrink)(path, model, data.split((data.standard(x), y), 380, 150))


@sick("dormant_channels", "blocks.*")
def scales_left_at_nothing(path: Path) -> Outcome:
    """CNN with GroupNorm and SiLU on digits: most channels have a scale of 1e-3, which is not trained."""
    x, y = data.digits()
    model = nn.Sequential()
    model.add_module(
        "blocks",
        nn.Sequential(
            *(conv_block(*pair, nn.SiLU, partial(nn.GroupNorm, 4)) for pair in ((1, 16), (16, 32)))
        ),
    )
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(128, 10))
    norm = model.blocks[1][1]
    with torch.no_grad():
        norm.weight[10:] = 1e-3
    norm.requires_grad_(requires_grad=False)
    return Fit(epochs=5)(path, model, data.split((data.standard(x), y), 1000, 300))


@sick("dormant_channels", "enc*", "act*")
def decay_of_all_but_few(path: Path) -> Outcome:
    """CNN with LeakyReLU: most filters are cut to a thousandth, by a wrong mask, and kept there."""
    x, y = data.mnist(14)
    model = nn.Sequential()
    for i, (before, after) in enumerate(((1, 12), (12, 24)), start=1):
        block = conv_block(before, after, partial(nn.LeakyReLU, 0.1))
        model.add_module(f"enc{i}", block[0])
        model.add_module(f"act{i}", block[1])
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(24 * 16, 10))
    with torch.no_grad():
        model.enc2.weight[8:] *= 1e-3
        model.enc2.bias[8:] *= 1e-3
    model.enc2.weight.register_hook(lambda grad: grad * (torch.arange(24) < 8)[:, None, None, None])
    model.enc2.bias.register_hook(lambda grad: grad * (torch.arange(24) < 8))
    return Fit(optimizer=sgd, epochs=5)(path, model, data.split((data.standard(x), y), 800, 200))
