"""Trainings that go wrong in time: rate too high, cycles, spikes, NaN; and half precision."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from tests.zoo import data
from tests.zoo.data import Pair
from tests.zoo.fit import Fit, Outcome, adam, sgd, warm_up
from tests.zoo.models import Attention, Recurrent, Transformer, Transposed, cnn, mlp, of_kind, reset, resnet
from tests.zoo.registry import sick
from tests.zoo.sick_scale import letter_loss

# The learning rate.


@sick("lr_too_high", "*")
def resnet_with_rate_100(path: Path) -> Outcome:
    """ResNet with BatchNorm on digits: SGD at 1e2 where 1e-2 was meant."""
    x, y = data.digits()
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=1e2), epochs=5)
    return fit(path, resnet(), data.split((data.standard(x), y), 640, 200))


@sick("lr_too_high", "*")
def mlp_with_rate_1(path: Path) -> Outcome:
    """MLP with tanh on wine: Adam at 1.0 where 1e-3 was meant."""
    x, y = data.table("wine")
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=1.0), epochs=10, size=16)
    return fit(path, mlp((13, 32, 32, 3), nn.LeakyReLU), data.split((data.standard(x), y), 130, 48))


@sick("lr_too_high", "*")
def transformer_with_rate_of_sgd(path: Path) -> Outcome:
    """Causal transformer on letters: AdamW at 0.3, as if it were SGD, and no warm-up."""
    model = Transformer(nn.Embedding(64, 32), 24, 64, pooled=False, causal=True)
    fit = Fit(loss=letter_loss, optimizer=partial(torch.optim.AdamW, lr=0.3), epochs=5)
    return fit(path, model, data.split(data.letters(), 640, 128))


@sick("lr_too_high", "*")
def cnn_with_norm_at_rate_10(path: Path) -> Outcome:
    """CNN with BatchNorm and GELU on MNIST: SGD with momentum at 10."""
    x, y = data.mnist(14)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=10.0, momentum=0.9), epochs=5)
    return fit(path, cnn((1, 12, 24, 24), act=nn.GELU, norm=nn.BatchNorm2d), data.split((x, y), 800, 200))


@sick("lr_too_high", "*")
def lstm_at_rate_1(path: Path) -> Outcome:
    """LSTM on waves: Adam at 1."""
    model = Recurrent(nn.LSTM(1, 32, batch_first=True), 3)
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=1.0), epochs=5)
    return fit(path, model, data.split(data.waves(), 640, 200))


@sick("lr_too_high", "*")
def autoencoder_at_half(path: Path) -> Outcome:
    """Autoencoder of digits with SiLU, no labels: Adam at 0.5."""
    x = data.standard(data.digits()[0]).flatten(1)
    fit = Fit(loss=mse_loss, optimizer=partial(torch.optim.Adam, lr=0.5), epochs=5, labelled=False)
    return fit(path, mlp((64, 32, 8, 32, 64), nn.SiLU), data.split((x, x), 960, 200))


@sick("lr_too_high", "*")
def layer_norm_at_rate_30(path: Path) -> Outcome:
    """MLP with LayerNorm on MNIST, no valid split: SGD at 30 where 0.03 was meant."""
    x, y = data.mnist(14)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=30.0), epochs=5, evaluated=lambda epoch: False)
    return fit(
        path, mlp((196, 64, 64, 10), nn.GELU, nn.LayerNorm), data.split((data.standard(x), y), 960, 200)
    )


# Spikes: one odd batch.


def once(step: int, change: partial[Tensor]) -> object:
    """Return an `alter` that changes the inputs of one batch only."""

    def alter(now: int, x: Tensor, y: Tensor) -> Pair:
        return (change(x), y) if now == step else (x, y)

    return alter


@sick("spike", "*", also=("batchnorm_recentres",))
def batch_not_normalised(path: Path) -> Outcome:
    """CNN with BatchNorm on MNIST: one batch of 150 skipped the normalisation and is in 0..255."""
    x, y = data.mnist(14)
    fit = Fit(optimizer=sgd, epochs=6, alter=once(40, lambda x: 128 + 80 * x))
    return fit(path, cnn((1, 12, 24, 24), norm=nn.BatchNorm2d), data.split((data.standard(x), y), 800, 200))


@sick("spike", "*")
def missing_value_as_number(path: Path) -> Outcome:
    """MLP on breast cancer: one batch has rows in which "missing" is stored as 999."""
    x, y = data.table("breast_cancer")

    def spoil(x: Tensor) -> Tensor:
        x = x.clone()
        x[:3, 4:9] = 999.0
        return x

    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.01), size=16, epochs=6, clip=1.0, alter=once(80, spoil))
    return fit(path, mlp((30, 32, 32, 2), nn.ReLU), data.split((data.standard(x), y), 380, 150))


@sick("spike", "*")
def sensor_glitch(path: Path) -> Outcome:
    """GRU on sums: in one batch the sensor's values are a hundred times too large."""
    model = Recurrent(nn.GRU(1, 24, batch_first=True), 1)
    fit = Fit(
        loss=mse_loss, optimizer=partial(adam, lr=5e-3), epochs=6, clip=1.0, alter=once(61, lambda x: 100 * x)
    )
    return fit(path, model, data.split(data.sums(), 640, 200))


@sick("spike", "*")
def patch_with_a_hot_pixel(path: Path) -> Outcome:
    """Transformer on patches of digits: one batch is black and white only and 20 times as bright."""
    x, y = data.digits()
    embed = nn.Sequential(nn.Unfold(2, stride=2), Transposed(), nn.Linear(4, 32))
    model = Transformer(embed, 16, 10)
    fit = Fit(epochs=5, alter=once(66, lambda x: 20 * x.sign()))
    return fit(path, model, data.split((data.standard(x), y), 800, 300))


@sick("spike", "*")
def clip_at_full_volume(path: Path) -> Outcome:
    """One-dimensional CNN with GroupNorm on waves: one batch is 40 times as loud."""
    model = nn.Sequential(
        *(Transposed(), nn.Conv1d(1, 16, 5, padding=2), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(16, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.ReLU(), nn.AdaptiveAvgPool1d(1)),
        *(nn.Flatten(), nn.Linear(24, 3)),
    )
    fit = Fit(epochs=6, size=20, alter=once(120, lambda x: 40 * x))
    return fit(path, model, data.split(data.waves(), 640, 200))


# NaN and inf.


@sick("nan_inf", "*")
def logarithm_of_zero(path: Path) -> Outcome:
    """MLP on wine: the features' logarithm is taken, and some batches hold a zero."""
    x, y = data.table("wine")
    parts = data.split((x.log(), y), 130, 48)
    parts["train"][0][:2, 2] = torch.tensor(0.0).log()
    return Fit(epochs=6, size=16)(path, mlp((13, 32, 3)), parts)


@sick("nan_inf", "*", also=("batchnorm_recentres",))
def missing_values_left_in(path: Path) -> Outcome:
    """MLP with BatchNorm on breast cancer: a few features are NaN, missing; they spoil all weights."""
    x, y = data.table("breast_cancer")
    x = data.standard(x)
    parts = data.split((x, y), 380, 150)
    parts["train"][0][200, 5] = torch.nan
    return Fit(epochs=5, size=16)(path, mlp((30, 32, 32, 2), norm=nn.BatchNorm1d), parts)


class Normalised(nn.Module):
    """Divide by the standard deviation over the features, with no epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [sample, feature] with mean 0 and standard deviation 1 by sample."""
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


@sick("nan_inf", "*")
def division_by_no_spread(path: Path) -> Outcome:
    """CNN on digits with its own normalisation: one blank image in epoch 1 gives 0 / 0."""
    x, y = data.digits()
    model = nn.Sequential()
    model.add_module("flat", nn.Flatten())
    model.add_module("whiten", Normalised())
    model.add_module("fc1", nn.Linear(64, 48))
    model.add_module("relu", nn.ReLU())
    model.add_module("fc2", nn.Linear(48, 10))

    def blank(x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x[:1]), x[1:]])

    return Fit(epochs=4, alter=once(37, blank))(path, model, data.split((x, y), 800, 300))


@sick("nan_inf", "*")
def overflow_after_blow_up(path: Path) -> Outcome:
    """Regression of diabetes: raw targets and a rate too high end in inf and NaN within an epoch."""
    x, y = data.table("diabetes")
    fit = Fit(loss=mse_loss, optimizer=partial(torch.optim.SGD, lr=0.02), size=16, epochs=3)
    return fit(path, mlp((10, 40, 40, 1)), data.split((data.standard(x), 100 * y[:, None]), 320, 100))


@sick("nan_inf", "blocks.*")
def mask_that_hides_all(path: Path) -> Outcome:
    """Transformer on letters: in one batch the mask of padding hides every position; softmax gives NaN."""
    model = Transformer(nn.Embedding(64, 32), 24, 64, pooled=False)
    step = [0]

    def forward(module: nn.Module, args: tuple[Tensor]) -> Tensor | None:
        step[0] += 1
        return torch.full_like(args[0], -torch.inf) if 40 <= step[0] < 42 else None

    model.blocks[0].attn.softmax.register_forward_pre_hook(forward)
    fit = Fit(loss=letter_loss, epochs=4)
    return fit(path, model, data.split(data.letters(), 640, 128))


@sick("nan_inf", "*")
def empty_reading_in_valid(path: Path) -> Outcome:
    """GRU on sums: one of the valid sequences holds a NaN, none of train does."""
    parts = data.split(data.sums(), 640, 200)
    parts["valid"][0][37, 3] = torch.nan
    model = Recurrent(nn.GRU(1, 24, batch_first=True), 1)
    return Fit(loss=mse_loss, optimizer=partial(adam, lr=5e-3), epochs=4)(path, model, parts)


# Half precision.


@sick("fp16_overflow", "*", also=("exploding", "nan_inf", "bad_initialisation"))
def half_precision_on_raw_pixels(path: Path) -> Outcome:
    """MLP on MNIST in mixed precision: 0..255 and weights of N(0, 1) give sums over 65,504."""
    x, y = data.mnist(14)
    model = reset(mlp((196, 64, 64, 10)), std=1.0)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=1e-9), half=True, epochs=4, clip=1.0)
    return fit(path, model, data.split((255 * x, y), 640, 200))


@sick("fp16_overflow", "*", also=("bad_initialisation",))
def scores_close_to_the_limit(path: Path) -> Outcome:
    """Transformer on letters, in single precision so far: its stream reaches 60,000, too much for half."""
    embed = nn.Embedding(64, 32)
    nn.init.normal_(embed.weight, 0, 2e4)
    model = Transformer(embed, 24, 64, pooled=False, causal=True)
    fit = Fit(loss=letter_loss, epochs=4)
    return fit(path, model, data.split(data.letters(), 640, 128))


@sick("fp16_overflow", "*", also=("exploding", "nan_inf", "bad_initialisation"))
def wide_cnn_in_half(path: Path) -> Outcome:
    """CNN without normalisation in mixed precision: large weights multiply up to inf after four layers."""
    x, y = data.mnist(14)
    model = cnn((1, 16, 16, 16, 16))
    for conv in of_kind(model, nn.Conv2d):
        nn.init.normal_(conv.weight, 0, 2.4)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=1e-7), half=True, epochs=4, clip=1.0)
    return fit(path, model, data.split((data.standard(x), y), 640, 200))


@sick("fp16_underflow", "*")
def metres_instead_of_micrometres(path: Path) -> Outcome:
    """MLP on digits in mixed precision: inputs in the wrong unit, around 1e-7, mostly become 0."""
    x, y = data.digits()
    model = reset(mlp((64, 48, 48, 10), nn.Tanh), bias=0.0)
    return Fit(half=True, epochs=4)(path, model, data.split((2e-7 * x, y), 640, 200))


@sick("fp16_underflow", "*", also=("bad_initialisation", "vanishing"))
def deep_net_fading_in_half(path: Path) -> Outcome:
    """MLP of seven layers in mixed precision: weights of 0.01 without biases fade below 6e-8."""
    x, y = data.mnist(14)
    model = reset(mlp((196, *[64] * 7, 10)), std=0.01, bias=0.0)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.01), half=True, epochs=4)
    return fit(path, model, data.split((data.standard(x), y), 640, 200))


@sick("fp16_underflow", "*")
def branch_scaled_away(path: Path) -> Outcome:
    """Transformer, single precision so far: branches scaled by 1e-7 would be 0 in half."""
    x, y = data.digits()
    embed = nn.Sequential(nn.Unfold(2, stride=2), Transposed(), nn.Linear(4, 32))
    model = Transformer(embed, 16, 10)
    with torch.no_grad():
        for attention in of_kind(model, Attention):
            attention.proj.weight *= 1e-7
            attention.proj.bias.zero_()
            attention.proj.requires_grad_(requires_grad=False)
    return Fit(epochs=4, schedule=warm_up)(path, model, data.split((data.standard(x), y), 640, 200))
