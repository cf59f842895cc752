"""Healthy trainings on images."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    normalize,
    smooth_l1_loss,
)

from tests.zoo import data
from tests.zoo.data import Pair
from tests.zoo.fit import Fit, Outcome, adam, one_cycle, sgd, warm_up
from tests.zoo.models import Transformer, Transposed, cnn, mlp, resnet
from tests.zoo.registry import healthy

RECENTRES = "batchnorm_recentres"


def scaled_digits() -> Pair:
    """Return the 8 x 8 digits with mean 0 and standard deviation 1."""
    x, y = data.digits()
    return data.standard(x), y


def scaled_mnist() -> Pair:
    """Return the 14 x 14 digits with mean 0 and standard deviation 1."""
    x, y = data.mnist(14)
    return data.standard(x), y


def yes_or_no(out: Tensor, y: Tensor) -> Tensor:
    """Return the loss of one logit a sample."""
    return binary_cross_entropy_with_logits(out[:, 0], y.float())


@healthy()
def mlp_on_digits(path: Path) -> Outcome:
    """MLP, ReLU, Adam."""
    return Fit(epochs=6)(path, mlp((64, 64, 32, 10)), data.split(scaled_digits(), 1200, 300))


@healthy()
def mlp_in_zero_to_one(path: Path) -> Outcome:
    """MLP on pixels in 0..1, not centred; dropout, SGD with momentum."""
    model = mlp((196, 96, 64, 10), drop=0.2)
    return Fit(optimizer=sgd, epochs=5, size=50)(path, model, data.split(data.mnist(14), 2000, 500))


@healthy(RECENTRES)
def cnn_with_batch_norm(path: Path) -> Outcome:
    """CNN with BatchNorm, one cycle of SGD, valid before training, test after it."""
    fit = Fit(optimizer=sgd, schedule=one_cycle, epochs=5, size=40, tested=True)
    return fit(path, cnn((1, 12, 24, 32), norm=nn.BatchNorm2d), data.split(scaled_mnist(), 1600, 400, 400))


@healthy()
def cnn_plain(path: Path) -> Outcome:
    """CNN without normalisation, ReLU, Adam at 1e-3."""
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=1e-3), epochs=7, evaluated=lambda epoch: epoch >= 0)
    return fit(path, cnn((1, 16, 32, 64)), data.split(scaled_mnist(), 1600, 400))


@healthy()
def cnn_with_group_norm(path: Path) -> Outcome:
    """CNN with GroupNorm and SiLU, AdamW, pixels in 0..1."""
    model = cnn((1, 16, 32, 32), act=nn.SiLU, norm=partial(nn.GroupNorm, 4))
    fit = Fit(optimizer=partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.01), epochs=6, size=48)
    return fit(path, model, data.split(data.mnist(14), 1500, 400))


@healthy()
def cnn_with_leaky_relu(path: Path) -> Outcome:
    """CNN with LeakyReLU on digits, SGD without momentum, constant rate."""
    model = cnn((1, 24, 48), act=partial(nn.LeakyReLU, 0.1))
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.15), epochs=12, size=32)
    return fit(path, model, data.split(scaled_digits(), 1200, 400))


@healthy()
def cnn_with_elu_one_epoch(path: Path) -> Outcome:
    """CNN with ELU: a single epoch."""
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=1e-2), epochs=1, size=32)
    return fit(path, cnn((1, 16, 32), act=nn.ELU), data.split(scaled_mnist(), 3200, 400))


@healthy()
def lenet_with_tanh(path: Path) -> Outcome:
    """LeNet: tanh, average pooling, He-free default weights, momentum."""
    model = nn.Sequential(
        OrderedDict(
            c1=nn.Conv2d(1, 6, 5, padding=2),
            t1=nn.Tanh(),
            s2=nn.AvgPool2d(2),
            c3=nn.Conv2d(6, 16, 3),
            t3=nn.Tanh(),
            s4=nn.AvgPool2d(2),
            flat=nn.Flatten(),
            f5=nn.Linear(64, 48),
            t5=nn.Tanh(),
            f6=nn.Linear(48, 10),
        )
    )
    return Fit(optimizer=sgd, epochs=5)(path, model, data.split(scaled_mnist(), 1600, 400))


@healthy(RECENTRES)
def resnet_with_zero_branches(path: Path) -> Outcome:
    """ResNet whose last BatchNorm of each block begins at 0; one cycle, weight decay."""
    fit = Fit(
        optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=5e-4),
        schedule=one_cycle,
        epochs=5,
    )
    return fit(path, resnet(zero=True), data.split(scaled_digits(), 1000, 300))


@healthy(RECENTRES)
def resnet_at_a_hundredth(path: Path) -> Outcome:
    """ResNet with BatchNorm: plain SGD at 1e-2, the healthy twin of the one at 1e2."""
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=1e-2, momentum=0.9), epochs=6)
    return fit(path, resnet(), data.split(scaled_digits(), 640, 300))


@healthy(RECENTRES)
def cnn_with_augmentation(path: Path) -> Outcome:
    """CNN with BatchNorm: train images are shifted and noisy, those of valid are not."""

    def shift(step: int, x: Tensor, y: Tensor) -> Pair:
        offset = torch.randint(-1, 2, (2,)).tolist()
        return torch.roll(x, offset, (2, 3)) + 0.1 * torch.randn_like(x), y

    fit = Fit(epochs=6, alter=shift)
    return fit(path, cnn((1, 12, 24, 32), norm=nn.BatchNorm2d), data.split(scaled_mnist(), 1200, 400))


@healthy(RECENTRES)
def three_or_seven_with_one_logit(path: Path) -> Outcome:
    """CNN with BatchNorm, one logit: 3 or 7."""
    x, y = scaled_mnist()
    chosen = (y == 3) | (y == 7)
    fit = Fit(loss=yes_or_no, epochs=6, size=25, tested=True)
    model = cnn((1, 8, 16, 32), n_out=1, norm=nn.BatchNorm2d)
    return fit(path, model, data.split((x[chosen], (y[chosen] == 7).long()), 600, 200, 200))


@healthy(RECENTRES)
def several_digits_in_one_picture(path: Path) -> Outcome:
    """CNN, multi-label: which of ten digits are among the three that lie on each other."""
    x, y = scaled_mnist()
    mixed = torch.randint(0, len(x), (2200, 3))
    hot = torch.zeros(2200, 10).scatter_(1, y[mixed], 1.0)
    pictures = torch.cat([x[mixed[:, i]] for i in range(3)], 1)  # side by side, as channels
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 32, 3, 2, 1), act1=nn.ReLU(), conv2=nn.Conv2d(32, 48, 3, 2, 1), act2=nn.ReLU()
        )
    )
    model.add_module("flat", nn.Flatten())
    model.add_module("hidden", nn.Linear(48 * 16, 64))
    model.add_module("norm", nn.BatchNorm1d(64))
    model.add_module("act3", nn.ReLU())
    model.add_module("logits", nn.Linear(64, 10))
    fit = Fit(loss=binary_cross_entropy_with_logits, optimizer=partial(adam, lr=1e-3), epochs=4, size=40)
    return fit(path, model, data.split((pictures, hot), 1800, 400))


@healthy()
def autoencoder(path: Path) -> Outcome:
    """Autoencoder of MNIST, ReLU, sigmoid at the end, no labels."""
    x = data.mnist(14)[0]
    model = nn.Sequential(
        OrderedDict(flat=nn.Flatten(), enc1=nn.Linear(196, 64), act1=nn.ReLU(), code=nn.Linear(64, 16))
    )
    model.add_module("dec1", nn.Linear(16, 64))
    model.add_module("act2", nn.ReLU())
    model.add_module("dec2", nn.Linear(64, 196))
    model.add_module("pixels", nn.Sigmoid())
    fit = Fit(loss=mse_loss, epochs=6, labelled=False)
    return fit(path, model, data.split((x, x.flatten(1)), 1600, 300))


@healthy()
def convolutional_denoiser(path: Path) -> Outcome:
    """Convolutions that take noise off digits; GELU, no labels, valid at the end only."""
    x = scaled_digits()[0]
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 16, 3, padding=1), nn.GELU()),
        nn.Conv2d(16, 1, 3, padding=1),
    )
    fit = Fit(loss=mse_loss, epochs=6, labelled=False, evaluated=lambda epoch: epoch == 5)
    return fit(path, model, data.split((x + 0.5 * torch.randn_like(x), x), 1200, 300))


@healthy()
def vision_transformer(path: Path) -> Outcome:
    """Transformer on patches, LayerNorm first, GELU, AdamW with warm-up."""
    embed = nn.Sequential(nn.Conv2d(1, 32, 2, 2), nn.Flatten(2), Transposed())
    fit = Fit(optimizer=partial(torch.optim.AdamW, lr=3e-3), schedule=warm_up, epochs=6)
    return fit(path, Transformer(embed, 16, 10), data.split(scaled_digits(), 1200, 300))


@healthy(RECENTRES)
def fine_tuning(path: Path) -> Outcome:
    """CNN taught digits 0 to 4, then given a new head for 5 to 9: body at a tenth of the rate of the head."""
    x, y = scaled_mnist()
    low = y < 5
    model = cnn((1, 16, 32, 32), n_out=5, norm=nn.BatchNorm2d)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for part in torch.randperm(int(low.sum()))[:1600].split(40):
        optimizer.zero_grad()
        cross_entropy(model(x[low][part]), y[low][part]).backward()
        optimizer.step()
    model.fc = nn.Linear(32, 5)

    def two_rates(parameters: object) -> torch.optim.Optimizer:
        body = {"params": model.features.parameters(), "lr": 1e-3}
        return torch.optim.Adam([body, {"params": model.fc.parameters()}], lr=1e-2)

    fit = Fit(optimizer=two_rates, epochs=6)
    return fit(path, model, data.split((x[~low], y[~low] - 5), 1200, 400))


@healthy()
def head_that_begins_at_zero(path: Path) -> Outcome:
    """MLP whose head has zero weights at first: all answers are alike until it has learned."""
    model = mlp((64, 64, 64, 10), nn.GELU)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return Fit(epochs=6)(path, model, data.split(scaled_digits(), 1200, 300))


@healthy(RECENTRES)
def every_fifth_batch(path: Path) -> Outcome:
    """CNN with BatchNorm: every fifth batch is recorded only."""
    fit = Fit(optimizer=sgd, epochs=6, size=16)
    model = cnn((1, 8, 16, 16), norm=nn.BatchNorm2d)
    return fit(path, model, data.split(scaled_mnist(), 2000, 600), every=5)


@healthy(RECENTRES)
def no_valid_at_all(path: Path) -> Outcome:
    """CNN with BatchNorm, no valid split, no labels given to the recorder."""
    fit = Fit(optimizer=sgd, epochs=4, evaluated=lambda epoch: False, labelled=False)
    return fit(path, cnn((1, 12, 24, 24), norm=nn.BatchNorm2d), data.split(scaled_mnist(), 1600, 400))


@healthy()
def where_is_the_digit(path: Path) -> Outcome:
    """CNN, regression of two coordinates: the digit's place on an empty field, in -1..1."""
    x = data.digits()[0]
    field, place = torch.zeros(1600, 1, 16, 16), torch.randint(0, 9, (1600, 2))
    for image, digit, (row, column) in zip(field, x, place.tolist(), strict=False):
        image[:, row : row + 8, column : column + 8] = digit
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, 2, 1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, 3, 2, 1),
            relu2=nn.ReLU(),
            flat=nn.Flatten(),
            hidden=nn.Linear(512, 48),
            relu3=nn.ReLU(),
            coordinates=nn.Linear(48, 2),
        )
    )
    fit = Fit(loss=smooth_l1_loss, epochs=6)
    return fit(path, model, data.split((field, place / 4 - 1), 1200, 300))


@healthy(RECENTRES)
def contrastive_pairs(path: Path) -> Outcome:
    """Two noisy views of each digit find each other among the batch (InfoNCE); normed embeddings."""
    x = scaled_digits()[0].flatten(1)
    views = torch.stack([x + 0.4 * torch.randn_like(x), x + 0.4 * torch.randn_like(x)], 1)
    model = nn.Sequential(OrderedDict(join=nn.Flatten(0, 1), project=mlp((64, 96, 32), norm=nn.BatchNorm1d)))

    def loss(out: Tensor, y: Tensor) -> Tensor:
        a, b = normalize(out, dim=1).reshape(-1, 2, 32).unbind(1)
        return cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))

    return Fit(loss=loss, epochs=6, labelled=False)(path, model, data.split((views, x), 1200, 256))


@healthy()
def half_precision(path: Path) -> Outcome:
    """CNN without normalisation in mixed precision (float16), as it should be."""
    fit = Fit(optimizer=partial(adam, lr=1e-3), half=True, epochs=5)
    return fit(path, cnn((1, 16, 32)), data.split(scaled_digits(), 1200, 300))
