"""Healthy trainings that were written after the rules, to see whether these hold elsewhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from tests.zoo import data
from tests.zoo.fit import Fit, Outcome, adam, one_cycle, sgd, warm_up
from tests.zoo.healthy_images import RECENTRES, scaled_digits, scaled_mnist, yes_or_no
from tests.zoo.models import Recurrent, Transformer, cnn, mlp, resnet
from tests.zoo.registry import healthy
from tests.zoo.sick_scale import letter_loss


@healthy()
def spirals_in_full_batches(path: Path) -> Outcome:
    """MLP with tanh on spirals: one batch is all the data, 120 epochs of one row each."""
    fit = Fit(optimizer=partial(adam, lr=2e-2), epochs=120, size=600)
    return fit(path, mlp((2, 32, 32, 3), nn.Tanh), data.split(data.spirals(), 600, 250))


@healthy()
def wide_mlp_on_blobs(path: Path) -> Outcome:
    """Wide MLP with ReLU on clouds of points, plain SGD, batches of 128."""
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.1), epochs=6, size=128)
    return fit(path, mlp((20, 256, 256, 5)), data.split(data.blobs(3000), 2400, 500))


@healthy()
def sine_by_regression(path: Path) -> Outcome:
    """One number in, its sine out: MLP with tanh, Adam at 1e-2."""
    x = 6 * torch.rand(1200, 1) - 3
    fit = Fit(loss=mse_loss, optimizer=partial(adam, lr=1e-2), epochs=8)
    return fit(path, mlp((1, 32, 32, 1), nn.Tanh), data.split((x, torch.sin(2 * x)), 900, 300))


@healthy()
def raw_targets_of_regression(path: Path) -> Outcome:
    """Regression of diabetes with targets as they are, 25 to 346: the head has a long way to go."""
    x, y = data.table("diabetes")
    fit = Fit(loss=nn.functional.l1_loss, optimizer=partial(adam, lr=1e-2), epochs=10, size=16)
    return fit(path, mlp((10, 32, 1)), data.split((data.standard(x), 100 * y[:, None]), 300, 140))


@healthy()
def linear_regression(path: Path) -> Outcome:
    """A single linear layer and nothing else."""
    x = torch.randn(900, 8)
    y = x @ torch.randn(8, 1) + 0.5 * torch.randn(900, 1)
    fit = Fit(loss=mse_loss, optimizer=partial(torch.optim.SGD, lr=0.02), epochs=5)
    return fit(path, nn.Linear(8, 1), data.split((x, y), 640, 200))


@healthy()
def sigmoid_units(path: Path) -> Outcome:
    """MLP with two layers of sigmoids on digits, as in the textbook."""
    fit = Fit(optimizer=partial(adam, lr=5e-3), epochs=8)
    return fit(path, mlp((64, 48, 32, 10), nn.Sigmoid), data.split(scaled_digits(), 1200, 300))


@healthy()
def words_as_flags(path: Path) -> Outcome:
    """MLP on 200 flags, nearly all of them 0: which words a sentence has."""
    x, y = data.words(3200)
    flags = torch.zeros(len(x), 200).scatter_(1, x, 1.0)
    fit = Fit(optimizer=partial(adam, lr=1e-3), epochs=5)
    return fit(path, mlp((200, 24, 2)), data.split((flags, y), 2600, 500))


@healthy()
def labels_with_some_noise(path: Path) -> Outcome:
    """MLP on clouds, a tenth of the labels wrong, stopped in time: nine of ten is the best there is."""
    x, y = data.blobs(3000)
    y = torch.where(torch.rand(len(y)) < 0.12, torch.randint_like(y, 5), y)
    return Fit(epochs=3)(path, mlp((20, 24, 5)), data.split((x, y), 2400, 500))


@healthy()
def one_in_five(path: Path) -> Outcome:
    """MLP with one logit, one positive in five samples."""
    x, y = data.blobs(2400)
    return Fit(loss=yes_or_no, epochs=5)(
        path, mlp((20, 24, 1), nn.ELU), data.split((x, (y == 0).long()), 1800, 500)
    )


class Copy(nn.Module):
    """Find the marked position and say what stands there: attention has to be sharp."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Transformer(nn.Linear(11, 32), 12, 10, depth=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [sample, digit]."""
        return self.body(x)


@healthy()
def copying_by_attention(path: Path) -> Outcome:
    """Transformer that has to look at one of twelve places."""
    digits, place = torch.randint(0, 10, (3200, 12)), torch.randint(0, 12, (3200,))
    mark = nn.functional.one_hot(place, 12)[:, :, None].float()
    x = torch.cat([nn.functional.one_hot(digits, 10).float(), 3 * mark], 2)
    y = digits.gather(1, place[:, None])[:, 0]
    fit = Fit(optimizer=partial(torch.optim.AdamW, lr=4e-3), schedule=warm_up, epochs=4)
    return fit(path, Copy(), data.split((x, y), 2800, 400))


@healthy(RECENTRES)
def resnet_for_long(path: Path) -> Outcome:
    """ResNet on MNIST for 600 batches, weight decay, one cycle, test split."""
    fit = Fit(
        optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.05),
        schedule=one_cycle,
        epochs=6,
        size=32,
        tested=True,
    )
    return fit(path, resnet((8, 16, 24)), data.split(scaled_mnist(), 3200, 500, 500))


@healthy()
def gpt_with_dropout(path: Path) -> Outcome:
    """Causal transformer of three layers on letters: dropout on the embedding, small weights, decay."""
    embed = nn.Sequential(nn.Embedding(64, 48), nn.Dropout(0.1))
    model = Transformer(embed, 24, 64, width=48, depth=3, pooled=False, causal=True)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0, 0.02)
    fit = Fit(
        loss=letter_loss,
        optimizer=partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.1),
        schedule=warm_up,
        epochs=4,
        clip=1.0,
    )
    return fit(path, model, data.split(data.letters(), 960, 160))


@healthy()
def forecast_by_lstm(path: Path) -> Outcome:
    """LSTM forecasts the next value of a wave."""
    x, _ = data.waves(1200, length=25)
    model = Recurrent(nn.LSTM(1, 24, batch_first=True), 1)
    fit = Fit(loss=mse_loss, optimizer=partial(adam, lr=5e-3), epochs=6)
    return fit(path, model, data.split((x[:, :24], x[:, 24]), 900, 250))


@healthy()
def cnn_with_strong_dropout(path: Path) -> Outcome:
    """CNN with ReLU6 and a dropout of one half before the head."""
    model = cnn((1, 16, 32, 48), act=nn.ReLU6)
    model.flat = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    fit = Fit(optimizer=sgd, epochs=6, size=40)
    return fit(path, model, data.split(scaled_mnist(), 2000, 400))


@healthy(RECENTRES)
def many_classes(path: Path) -> Outcome:
    """Clouds of forty classes, BatchNorm, momentum."""
    fit = Fit(loss=cross_entropy, optimizer=sgd, epochs=5)
    model = mlp((30, 64, 64, 40), norm=nn.BatchNorm1d)
    return fit(path, model, data.split(data.blobs(3200, classes=40, width=30), 2400, 600))
