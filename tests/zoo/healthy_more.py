"""Healthy trainings of rarer kinds: other outputs, activations, containers and ways to train."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss, nll_loss

from tests.zoo import data
from tests.zoo.fit import Fit, Outcome, adam, one_cycle, sgd
from tests.zoo.healthy_images import RECENTRES, scaled_digits, scaled_mnist
from tests.zoo.models import Recurrent, Transformer, Transposed, cnn, conv_block, mlp
from tests.zoo.registry import healthy


class UNet(nn.Module):
    """One step down, one up, and the way across; a map of classes comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = conv_block(1, 12, norm=nn.BatchNorm2d, stride=1)
        self.down = conv_block(12, 24, norm=nn.BatchNorm2d)
        self.up = nn.ConvTranspose2d(24, 12, 2, 2)
        self.dec = conv_block(24, 12, norm=nn.BatchNorm2d, stride=1)
        self.outc = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [sample, class, row, column]."""
        high = self.enc(x)
        return self.outc(self.dec(torch.cat([self.up(self.down(high)), high], 1)))


@healthy(RECENTRES)
def segmentation(path: Path) -> Outcome:
    """U-Net finds the ink of noisy digits: two classes, a label for every pixel."""
    clean = data.digits()[0]
    noisy = data.standard(clean + 0.3 * torch.randn_like(clean))

    return Fit(epochs=5)(path, UNet(), data.split((noisy, (clean[:, 0] > 0.4).long()), 960, 200))


@healthy()
def mobile_net_of_groups(path: Path) -> Outcome:
    """Depthwise and pointwise convolutions, GroupNorm, Hardswish, RMSprop."""
    blocks = nn.Sequential()
    for before, after in ((16, 24), (24, 32)):
        blocks.append(nn.Conv2d(before, before, 3, 2, 1, groups=before))
        blocks.append(nn.Conv2d(before, after, 1))
        blocks.extend([nn.GroupNorm(4, after), nn.Hardswish()])
    model = nn.Sequential(
        OrderedDict(stem=nn.Conv2d(1, 16, 3, padding=1), blocks=blocks, pool=nn.AdaptiveAvgPool2d(1))
    )
    model.add_module("flat", nn.Flatten())
    model.add_module("classifier", nn.Linear(32, 10))
    fit = Fit(optimizer=partial(torch.optim.RMSprop, lr=2e-3), epochs=6)
    return fit(path, model, data.split(scaled_mnist(), 1600, 400))


@healthy()
def next_letter_lstm(path: Path) -> Outcome:
    """LSTM of two layers on letters, an answer at every position, clipped gradients."""
    model = EveryStep(nn.LSTM(24, 48, 2, batch_first=True))

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(out.flatten(0, 1), y.flatten())

    fit = Fit(loss=loss, optimizer=partial(adam, lr=5e-3), epochs=5, clip=1.0)
    return fit(path, model, data.split(data.letters(), 960, 160))


class EveryStep(nn.Module):
    """Embedding, recurrent layer, and a head at every position."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.wte = nn.Embedding(64, 24)
        self.rnn = rnn
        self.lm_head = nn.Linear(48, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [sample, position, letter]."""
        return self.lm_head(self.rnn(self.wte(x))[0])


@healthy()
def label_smoothing_and_dropout(path: Path) -> Outcome:
    """MLP with PReLU, much dropout, smoothed labels, batches of 64."""
    fit = Fit(loss=partial(cross_entropy, label_smoothing=0.1), epochs=10, size=64)
    return fit(path, mlp((196, 128, 128, 10), nn.PReLU, drop=0.4), data.split(scaled_mnist(), 2000, 500))


@healthy()
def rate_in_steps(path: Path) -> Outcome:
    """CNN with GroupNorm; the rate falls to a tenth twice."""

    def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, 3 * steps // 4])

    norm = partial(nn.GroupNorm, 8)
    fit = Fit(optimizer=partial(torch.optim.Adam, lr=5e-3), schedule=schedule, epochs=8)
    return fit(path, cnn((1, 16, 32), norm=norm), data.split(scaled_mnist(), 1200, 400))


@healthy(RECENTRES)
def tiny_batches(path: Path) -> Outcome:
    """CNN with BatchNorm, batches of 8."""
    fit = Fit(optimizer=partial(sgd, lr=0.01), epochs=4, size=8)
    return fit(path, cnn((1, 16, 32), norm=nn.BatchNorm2d), data.split(scaled_digits(), 960, 300))


class WideAndDeep(nn.Module):
    """A linear way and a deep one, added up."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(13, 3)
        self.deep = nn.ModuleList([nn.Linear(13, 24), nn.Linear(24, 24), nn.Linear(24, 3)])
        self.acts = nn.ModuleDict({"first": nn.Mish(), "second": nn.Softplus()})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [sample, class]."""
        hidden = self.acts["second"](self.deep[1](self.acts["first"](self.deep[0](x))))
        return torch.log_softmax(self.wide(x) + self.deep[2](hidden), 1)


@healthy()
def wide_and_deep(path: Path) -> Outcome:
    """Wine by a linear and a deep way, Mish and Softplus, log probabilities."""
    x, y = data.table("wine")
    fit = Fit(loss=nll_loss, optimizer=partial(adam, lr=3e-3), epochs=10, size=12)
    return fit(path, WideAndDeep(), data.split((data.standard(x), y), 118, 60))


class Siamese(nn.Module):
    """One encoder for two digits, and one logit: are they the same?"""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp((64, 96, 64, 32), nn.ReLU, nn.LayerNorm)
        self.compare = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit a pair of x [pair, 2, pixel]."""
        a, b = (self.encoder(x[:, i]) for i in range(2))
        return self.compare((a - b).abs())


@healthy()
def same_or_not(path: Path) -> Outcome:
    """Siamese net on pairs of digits; the encoder is called twice a batch."""
    x, y = scaled_digits()
    first, second = torch.randint(0, len(x), (2400,)), torch.randint(0, len(x), (2400,))
    alike = [torch.nonzero(y == y[i])[:, 0] for i in first[:1100].tolist()]
    second[:1100] = torch.stack([each[torch.randint(0, len(each), ())] for each in alike])
    pairs = torch.stack([x[first], x[second]], 1).flatten(2)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(out[:, 0], y.float())

    fit = Fit(loss=loss, optimizer=partial(adam, lr=1e-3), epochs=6, size=40)
    return fit(path, Siamese(), data.split((pairs, (y[first] == y[second]).long()), 2000, 400))


@healthy()
def residual_mlp_regression(path: Path) -> Outcome:
    """Residual MLP with LayerNorm, regression of a wave's next values, three outputs."""
    x, _ = data.waves(1300, length=27)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(24, 48), *(Skip(48) for _ in range(4)), nn.LayerNorm(48), nn.Linear(48, 3)
    )
    fit = Fit(loss=mse_loss, optimizer=partial(torch.optim.AdamW, lr=1e-3), schedule=one_cycle, epochs=6)
    return fit(path, model, data.split((x[:, :24], x[:, 24:, 0]), 1000, 250))


class Skip(nn.Module):
    """x + linear(GELU(linear(norm(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.act, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 96),
            nn.GELU(),
            nn.Linear(96, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x and what the block adds."""
        return x + self.down(self.act(self.up(self.norm(x))))


@healthy()
def deep_vision_transformer(path: Path) -> Outcome:
    """Transformer of five layers on MNIST, SiLU, clipped gradients, one cycle, test, every 2nd batch."""
    embed = nn.Sequential(nn.Conv2d(1, 32, 7, 7), nn.Flatten(2), Transposed())
    x, y = data.mnist(28)
    fit = Fit(
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        schedule=one_cycle,
        epochs=5,
        size=40,
        clip=1.0,
        tested=True,
    )
    model = Transformer(embed, 16, 10, depth=5, act=nn.SiLU)
    return fit(path, model, data.split((data.standard(x), y), 1600, 400, 400), every=2)


@healthy()
def moods_multi_label(path: Path) -> Outcome:
    """GRU on sentences, which of two moods they have: both, one or none."""
    x, _ = data.words(2600)
    hot = torch.stack([(x % 3 == 0).sum(1) > 4, (x % 3 == 1).sum(1) > 4], 1).float()
    model = Recurrent(nn.GRU(16, 24, batch_first=True), 2, nn.Embedding(200, 16))
    fit = Fit(loss=binary_cross_entropy_with_logits, optimizer=partial(adam, lr=5e-3), epochs=3, size=40)
    return fit(path, model, data.split((x, hot), 2000, 400))
