"""Inputs and layers: wrong normalisation, frozen layers, collapse, values out of view; BatchNorm at work."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from actlab.axis import LinearAxis
from tests.zoo import data
from tests.zoo.fit import Fit, Outcome, adam, one_cycle, sgd
from tests.zoo.healthy_images import scaled_digits, scaled_mnist, yes_or_no
from tests.zoo.models import Recurrent, Transformer, Transposed, cnn, mlp, reset, resnet
from tests.zoo.registry import sick

# Inputs.


@sick("input_normalisation", "input")
def pixels_up_to_255(path: Path) -> Outcome:
    """CNN on MNIST: pixels in 0..255 as they come."""
    x, y = data.mnist(14)
    fit = Fit(optimizer=partial(adam, lr=1e-3), epochs=5)
    return fit(path, cnn((1, 16, 32, 32)), data.split((255 * x, y), 1200, 300))


@sick("input_normalisation", "input", also=("no_class_separation",))
def divided_by_255_twice(path: Path) -> Outcome:
    """MLP on digits: the loader had scaled to 0..1 already, and 255 is divided by again."""
    x, y = data.digits()
    return Fit(optimizer=sgd, epochs=5)(
        path, mlp((64, 64, 32, 10), nn.GELU), data.split((x / 255, y), 1200, 300)
    )


@sick("input_normalisation", "input", also=("no_class_separation", "batchnorm_recentres"))
def mean_of_255_on_images_of_1(path: Path) -> Outcome:
    """ResNet: the mean and standard deviation of 0..255 images taken off images in 0..1."""
    x, y = data.digits()
    return Fit(optimizer=partial(sgd, lr=0.02), epochs=5)(
        path, resnet((8, 16, 16)), data.split(((x - 123.7) / 58.4, y), 800, 300)
    )


@sick("input_normalisation", "input", also=("batchnorm_recentres",))
def features_as_measured(path: Path) -> Outcome:
    """MLP with BatchNorm in the middle on wine: features from 0.1 to 1,700 side by side."""
    parts = data.split(data.table("wine"), 118, 60)
    return Fit(epochs=10, size=12)(path, mlp((13, 32, 3), norm=nn.BatchNorm1d), parts)


@sick("input_normalisation", "input")
def valid_normalised_otherwise(path: Path) -> Outcome:
    """CNN on MNIST: train is standardised, the transforms of valid forget it and give 0..1."""
    x, y = data.mnist(14)
    parts = data.split((x, y), 1200, 300)
    parts["train"] = (data.standard(parts["train"][0]), parts["train"][1])
    return Fit(epochs=5)(path, cnn((1, 16, 32, 32), act=nn.SiLU), parts)


@sick("input_normalisation", "input")
def number_of_the_patient_left_in(path: Path) -> Outcome:
    """MLP with tanh on diabetes: the running number of the patient, up to 40,000, is one of the features."""
    x, y = data.table("diabetes")
    x = torch.cat([data.standard(x), 100 * torch.arange(len(x))[:, None].float()], 1)
    fit = Fit(loss=mse_loss, optimizer=partial(adam, lr=1e-3), epochs=6, size=16)
    return fit(path, mlp((11, 24, 1), nn.Tanh), data.split((x, y[:, None]), 300, 140))


@sick("input_normalisation", "input", also=("collapsed_representation", "no_class_separation"))
def waves_far_from_zero(path: Path) -> Outcome:
    """LSTM on waves with an offset of 30, as the sensor gives them."""
    x, y = data.waves()
    model = Recurrent(nn.LSTM(1, 24, batch_first=True), 3)
    return Fit(optimizer=partial(adam, lr=3e-3), epochs=5)(path, model, data.split((x + 30, y), 640, 200))


# Layers that do not learn.


@sick("frozen_layer", "body.*")
def body_left_out_of_the_optimiser(path: Path) -> Outcome:
    """CNN on MNIST: the optimiser was given the parameters of the head only."""
    model = nn.Sequential(
        OrderedDict(
            body=nn.Sequential(
                *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten())
            ),
            neck=nn.Linear(512, 48),
            act=nn.ReLU(),
            fc=nn.Linear(48, 10),
        )
    )

    def some(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.Adam(chain(model.neck.parameters(), model.fc.parameters()), lr=2e-3)

    return Fit(optimizer=some, epochs=5)(path, model, data.split(scaled_mnist(), 1000, 300))


class TwoTowers(nn.Module):
    """Two halves of the features, each with an encoder; one of them is cut off from its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(15, 24), nn.Tanh(), nn.Linear(24, 16))
        self.right = nn.Sequential(nn.Linear(15, 24), nn.Tanh(), nn.Linear(24, 16))
        self.act = nn.ReLU()
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit a sample."""
        both = [self.left(x[:, :15]), self.right(x[:, 15:]).detach()]
        return self.head(self.act(torch.cat(both, 1)))


@sick("frozen_layer", "right.*")
def tower_detached(path: Path) -> Outcome:
    """Two towers on breast cancer: a `detach` forgotten after the second one."""
    x, y = data.table("breast_cancer")
    fit = Fit(loss=yes_or_no, epochs=6, size=16)
    return fit(path, TwoTowers(), data.split((data.standard(x), y), 380, 180))


@sick("frozen_layer", "embed")
def embedding_without_gradient(path: Path) -> Outcome:
    """GRU on letters: requires_grad of the embedding was turned off for a test and stayed off."""
    x, y = data.letters()
    embed = nn.Embedding(64, 24)
    embed.weight.requires_grad_(requires_grad=False)
    model = Recurrent(nn.GRU(24, 48, batch_first=True), 64, embed)
    return Fit(optimizer=partial(adam, lr=3e-3), epochs=4)(path, model, data.split((x, y[:, -1]), 1000, 300))


@sick("frozen_layer", "lin1", "act1", "lin2", "act2")
def lower_half_frozen(path: Path) -> Outcome:
    """MLP on digits: the lower layers are in a group of the optimiser whose rate is 0."""
    model = mlp((64, 48, 48, 48, 10), nn.GELU)

    def groups(parameters: object) -> torch.optim.Optimizer:
        low = chain(model.lin1.parameters(), model.lin2.parameters())
        high = chain(model.lin3.parameters(), model.head.parameters())
        return torch.optim.AdamW([{"params": low, "lr": 0.0}, {"params": high}], lr=2e-3)

    return Fit(optimizer=groups, epochs=6)(path, model, data.split(scaled_digits(), 1000, 300))


@sick("frozen_layer", "conv1", also=("batchnorm_recentres",))
def stem_still_frozen(path: Path) -> Outcome:
    """ResNet on digits: requires_grad of the first convolution was never turned on again."""
    model = resnet((8, 16, 32))
    model.conv1.weight.requires_grad_(requires_grad=False)
    return Fit(epochs=5)(path, model, data.split(scaled_digits(), 800, 300))


@sick("frozen_layer", "embed*", "blocks.0*")
def lower_blocks_frozen(path: Path) -> Outcome:
    """Transformer on patches of digits: embedding and first block are not given to the optimiser."""
    embed = nn.Sequential(nn.Conv2d(1, 32, 2, 2), nn.Flatten(2), Transposed())
    model = Transformer(embed, 16, 10)

    def upper(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            chain(model.blocks[1].parameters(), model.norm.parameters(), model.head.parameters()), lr=3e-3
        )

    return Fit(optimizer=upper, epochs=5)(path, model, data.split(scaled_digits(), 800, 300))


# Outputs that are the same whatever comes in.


class Posterior(nn.Module):
    """The means and log variances of a variational autoencoder, and a draw from them."""

    def __init__(self, before: int, code: int) -> None:
        super().__init__()
        self.mean, self.log_variance = nn.Linear(before, code), nn.Linear(before, code)
        self.penalty = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Return a code [sample, code]."""
        mean, log_variance = self.mean(x), self.log_variance(x)
        self.penalty = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean


@sick("collapsed_representation", "decode*", "posterior.*", "pixels", also=("vanishing",))
def posterior_collapse(path: Path) -> Outcome:
    """Variational autoencoder of MNIST: the weight of the KL term is so large that the code says nothing."""
    x = data.mnist(14)[0].flatten(1)
    posterior = Posterior(64, 8)
    nn.init.normal_(posterior.mean.weight, 0, 1e-4)
    model = nn.Sequential(
        OrderedDict(
            encode=nn.Linear(196, 64),
            act1=nn.Tanh(),
            posterior=posterior,
            decode=nn.Linear(8, 64),
            act2=nn.SiLU(),
        )
    )
    model.add_module("pixels", nn.Linear(64, 196))

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return mse_loss(out, y) + 20.0 * posterior.penalty

    decaying = partial(torch.optim.AdamW, lr=4e-3, weight_decay=0.5)
    fit = Fit(loss=loss, optimizer=decaying, schedule=one_cycle, epochs=10, labelled=False)
    return fit(path, model, data.split((x, x), 1200, 300))


class Smoothing(nn.Module):
    """A layer of a graph network: a linear map of the mean of a node and all its neighbours, the batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map, self.act = nn.Linear(width, width), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the new features of the nodes [node, width]."""
        return self.act(self.map(0.3 * x + 0.7 * x.mean(0, keepdim=True)))


@sick("collapsed_representation", "rounds.*", "fc", also=("no_class_separation",))
def over_smoothed_graph(path: Path) -> Outcome:
    """Graph network on breast cancer: eight rounds over dense neighbourhoods make all nodes one."""
    x, y = data.table("breast_cancer")
    model = nn.Sequential(
        OrderedDict(embed=nn.Linear(30, 32), rounds=nn.Sequential(*(Smoothing(32) for _ in range(8))))
    )
    model.add_module("fc", nn.Linear(32, 2))
    return Fit(epochs=5, size=16)(path, model, data.split((data.standard(x), y), 380, 180))


@sick("collapsed_representation", "lin*", "act*", "head", also=("vanishing", "no_class_separation"))
def deep_sigmoids(path: Path) -> Outcome:
    """MLP of eight sigmoid layers on digits: the differences between samples are gone at the end."""
    fit = Fit(optimizer=sgd, epochs=5)
    return fit(path, mlp((64, *[48] * 8, 10), nn.Sigmoid), data.split(scaled_digits(), 800, 300))


class SameForAll(nn.Module):
    """Attention pooling whose weights are taken over the batch instead of the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(13, 32)
        self.act = nn.Tanh()
        self.pool = nn.Identity()
        self.fc = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return answers [sample, 3], by a bug the same for all samples of the batch."""
        x = self.act(self.encode(x))
        return self.fc(self.pool(x.mean(0, keepdim=True).expand_as(x)))


@sick("collapsed_representation", "pool", "fc", also=("no_class_separation", "class_never_yes"))
def mean_over_the_wrong_dimension(path: Path) -> Outcome:
    """MLP on wine: a mean over the batch instead of the features makes all samples one."""
    x, y = data.table("wine")
    return Fit(epochs=8, size=12)(path, SameForAll(), data.split((data.standard(x), y), 118, 60))


@sick("collapsed_representation", "features.*", "fc", also=("no_class_separation", "vanishing"))
def decayed_to_nothing(path: Path) -> Outcome:
    """CNN on digits: weight decay of 0.5 with SGD leaves the biases only."""
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=0.5), epochs=6)
    return fit(path, cnn((1, 16, 32), act=nn.GELU), data.split(scaled_digits(), 960, 300))


# BatchNorm at work: a healthy sign.


@sick("batchnorm_recentres", "norm*")
def norm_puts_right_what_is_off(path: Path) -> Outcome:
    """MLP with BatchNorm on digits in 0..1, biases of 2: each norm brings mean 0 and deviation 1."""
    model = reset(mlp((64, 64, 64, 10), norm=nn.BatchNorm1d), bias=2.0)
    return Fit(epochs=5)(path, model, data.split(data.digits(), 1200, 300))


@sick("batchnorm_recentres", "features.*.1")
def norm_in_a_deep_cnn(path: Path) -> Outcome:
    """CNN of four layers with BatchNorm and LeakyReLU, pixels not centred, one cycle."""
    x, y = data.mnist(14)
    model = cnn((1, 12, 16, 24, 24), act=partial(nn.LeakyReLU, 0.1), norm=nn.BatchNorm2d)
    return Fit(optimizer=sgd, schedule=one_cycle, epochs=5, size=40)(
        path, model, data.split((x, y), 1600, 400)
    )


@sick("batchnorm_recentres", "*bn*")
def norm_in_a_resnet(path: Path) -> Outcome:
    """ResNet on digits, Adam: BatchNorm after every convolution."""
    fit = Fit(optimizer=partial(adam, lr=2e-3), epochs=4)
    return fit(path, resnet((8, 16, 32)), data.split(scaled_digits(), 1000, 300))


# Out of the view of the page.


@sick("out_of_view", "fc", "layer*", also=("batchnorm_recentres",), axis=LinearAxis(-6, 6, 100))
def logits_that_outgrow_the_rest(path: Path) -> Outcome:
    """ResNet of 58 layers on digits, from -6 to 6: the logits grow ten times as wide as all the rest."""
    fit = Fit(optimizer=partial(adam, lr=2e-3), epochs=6)
    model = resnet((8, 8, 8, 16, 16, 16, 32))
    return fit(path, model, data.split(scaled_digits(), 960, 300))


@sick("out_of_view", "lin*", "head", axis=LinearAxis(-1, 1, 100))
def view_from_minus_one_to_one(path: Path) -> Outcome:
    """MLP on digits, looked at from -1 to 1, which its linear layers leave more and more."""
    return Fit(epochs=6)(path, mlp((64, 48, 48, 10)), data.split(scaled_digits(), 1200, 300))


@sick("out_of_view", "cell*", "head", axis=LinearAxis(0, 1, 50))
def view_of_probabilities(path: Path) -> Outcome:
    """GRU on waves, looked at from 0 to 1 as if all its values were probabilities."""
    model = Recurrent(nn.GRU(1, 24, batch_first=True), 3)
    return Fit(optimizer=partial(adam, lr=5e-3), epochs=6)(path, model, data.split(data.waves(), 640, 200))
