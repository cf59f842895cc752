"""Healthy trainings on tables, sequences and text."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, mse_loss, nll_loss

from tests.zoo import data
from tests.zoo.fit import Fit, Outcome, adam, one_cycle, sgd, warm_up
from tests.zoo.healthy_images import RECENTRES, yes_or_no
from tests.zoo.models import Recurrent, Transformer, Transposed, mlp
from tests.zoo.registry import healthy
from tests.zoo.sick_scale import letter_loss


def scaled(name: str) -> data.Pair:
    """Return a table with standardised features."""
    x, y = data.table(name)
    return data.standard(x), y


@healthy()
def tumours_with_one_logit(path: Path) -> Outcome:
    """MLP on breast cancer, one logit, weight decay."""
    fit = Fit(
        loss=yes_or_no, optimizer=partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.1), epochs=6, size=16
    )
    return fit(path, mlp((30, 24, 12, 1)), data.split(scaled("breast_cancer"), 380, 180))


@healthy()
def tumours_by_probability(path: Path) -> Outcome:
    """MLP with tanh that ends in a sigmoid: probabilities near 0 and 1 are what it is for."""
    model = mlp((30, 24, 1), nn.Tanh)
    model.add_module("probability", nn.Sigmoid())

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return binary_cross_entropy(out[:, 0], y.float())

    fit = Fit(loss=loss, optimizer=sgd, epochs=8, size=20, evaluated=lambda epoch: epoch >= 0)
    return fit(path, model, data.split(scaled("breast_cancer"), 380, 180))


@healthy()
def wines(path: Path) -> Outcome:
    """MLP with SiLU on wine: few samples, small batches, a last smaller one."""
    fit = Fit(optimizer=partial(adam, lr=3e-3), epochs=12, size=12)
    return fit(path, mlp((13, 16, 3), nn.SiLU), data.split(scaled("wine"), 115, 60))


@healthy()
def flowers_softmax_regression(path: Path) -> Outcome:
    """Iris, a single linear layer and LogSoftmax."""
    model = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1))
    fit = Fit(loss=nll_loss, optimizer=partial(torch.optim.SGD, lr=0.1), epochs=12, size=10)
    return fit(path, model, data.split(scaled("iris"), 100, 50))


@healthy()
def diabetes_regression(path: Path) -> Outcome:
    """MLP with tanh, regression of a standardised target."""
    x, y = scaled("diabetes")
    fit = Fit(loss=mse_loss, optimizer=partial(torch.optim.SGD, lr=0.02), epochs=6, size=16)
    return fit(path, mlp((10, 16, 1), nn.Tanh), data.split((x, ((y - 1.52) / 0.77)[:, None]), 300, 140))


@healthy(RECENTRES)
def diabetes_with_batch_norm(path: Path) -> Outcome:
    """MLP with BatchNorm and dropout, regression, one cycle."""
    x, y = scaled("diabetes")
    model = mlp((10, 32, 16, 1), norm=nn.BatchNorm1d, drop=0.1)
    fit = Fit(loss=mse_loss, optimizer=partial(adam, lr=2e-3), schedule=one_cycle, epochs=6, size=20)
    return fit(path, model, data.split((x, ((y - 1.52) / 0.77)[:, None]), 300, 140))


@healthy()
def mlp_with_layer_norm(path: Path) -> Outcome:
    """MLP with LayerNorm and GELU on MNIST, AdamW, test split."""
    x, y = data.mnist(14)
    model = mlp((196, 64, 64, 64, 10), nn.GELU, nn.LayerNorm)
    fit = Fit(optimizer=partial(torch.optim.AdamW, lr=1e-3), epochs=5, tested=True)
    return fit(path, model, data.split((data.standard(x), y), 1600, 400, 400))


@healthy()
def self_normalising(path: Path) -> Outcome:
    """Deep MLP with SELU and LeCun weights: no normalisation, no vanishing."""
    x, y = data.digits()
    model = mlp((64, *[48] * 6, 10), nn.SELU)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9), epochs=6)
    return fit(path, model, data.split((data.standard(x), y), 1200, 300))


@healthy()
def next_letter_causal(path: Path) -> Outcome:
    """Causal transformer on letters, LayerNorm first, GELU, warm-up."""
    model = Transformer(nn.Embedding(64, 32), 24, 64, pooled=False, causal=True)
    fit = Fit(loss=letter_loss, optimizer=partial(torch.optim.AdamW, lr=3e-3), schedule=warm_up, epochs=5)
    return fit(path, model, data.split(data.letters(), 800, 160))


@healthy()
def next_letter_post_norm(path: Path) -> Outcome:
    """Causal transformer on letters, LayerNorm after, ReLU."""
    model = Transformer(nn.Embedding(64, 32), 24, 64, pooled=False, causal=True, before=False, act=nn.ReLU)
    fit = Fit(loss=letter_loss, optimizer=partial(adam, lr=2e-3), schedule=warm_up, epochs=5)
    return fit(path, model, data.split(data.letters(), 800, 160))


@healthy()
def next_letter_gru(path: Path) -> Outcome:
    """GRU on letters, embedding, one answer at the end of the piece."""
    x, y = data.letters()
    model = Recurrent(nn.GRU(24, 48, batch_first=True), 64, nn.Embedding(64, 24))
    fit = Fit(optimizer=partial(adam, lr=3e-3), epochs=4, size=32)
    return fit(path, model, data.split((x, y[:, -1]), 1200, 300))


@healthy()
def waves_lstm(path: Path) -> Outcome:
    """LSTM tells waves apart, clipped gradients."""
    model = Recurrent(nn.LSTM(1, 32, batch_first=True), 3)
    fit = Fit(optimizer=partial(adam, lr=1e-2), epochs=8, clip=1.0)
    return fit(path, model, data.split(data.waves(1200), 800, 300))


@healthy()
def waves_rnn(path: Path) -> Outcome:
    """Plain RNN with tanh tells waves apart."""
    model = Recurrent(nn.RNN(1, 32, batch_first=True), 3)
    fit = Fit(optimizer=partial(adam, lr=3e-3), epochs=8, clip=1.0, size=24)
    return fit(path, model, data.split(data.waves(1200, length=12), 800, 300))


@healthy()
def sums_gru(path: Path) -> Outcome:
    """GRU, regression on sequences, no labels given to the recorder."""
    model = Recurrent(nn.GRU(1, 24, batch_first=True), 1)
    fit = Fit(loss=mse_loss, optimizer=partial(adam, lr=5e-3), epochs=6, labelled=False)
    return fit(path, model, data.split(data.sums(1200), 800, 300))


@healthy(RECENTRES)
def waves_by_convolution(path: Path) -> Outcome:
    """One-dimensional CNN with BatchNorm on waves."""
    model = nn.Sequential(
        *(Transposed(), nn.Conv1d(1, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(16, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU(), nn.AdaptiveAvgPool1d(1)),
        *(nn.Flatten(), nn.Linear(32, 3)),
    )
    return Fit(epochs=5, size=32)(path, model, data.split(data.waves(1200), 800, 300))


@healthy()
def moods_bag_of_words(path: Path) -> Outcome:
    """Mean of embeddings, one hidden layer: the mood of sentences."""
    model = nn.Sequential()
    model.add_module("bag", nn.EmbeddingBag(200, 24))
    model.add_module("hidden", nn.Linear(24, 24))
    model.add_module("relu", nn.ReLU())
    model.add_module("classify", nn.Linear(24, 2))
    return Fit(optimizer=partial(adam, lr=1e-2), epochs=5)(
        path, model, data.split(data.words(3000), 2400, 500)
    )


@healthy()
def sentences_transformer_with_dropout(path: Path) -> Outcome:
    """torch's own TransformerEncoder, dropout, mean over the words."""
    model = Encoder()
    fit = Fit(optimizer=partial(torch.optim.AdamW, lr=2e-3), schedule=warm_up, epochs=3)
    return fit(path, model, data.split(data.words(3200), 2600, 500))


class Encoder(nn.Module):
    """Embedding, two layers of torch's TransformerEncoder, mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classifier = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the answers [sample, 2]."""
        return self.classifier(self.encoder(self.embed(x)).mean(1))


@healthy()
def games_against_each_other(path: Path) -> Outcome:
    """Discriminator of a GAN: real wines from mixed-up ones, spectral norm, LeakyReLU."""
    x, _ = scaled("breast_cancer")
    fake = torch.stack([x[torch.randperm(len(x)), column] for column in range(x.shape[1])], 1)
    spectral = nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(
        *(spectral(nn.Linear(30, 48)), nn.LeakyReLU(0.2), spectral(nn.Linear(48, 48)), nn.LeakyReLU(0.2)),
        nn.Linear(48, 1),
    )
    both = torch.cat([x, fake]), torch.cat([torch.ones(len(x)), torch.zeros(len(x))]).long()
    return Fit(loss=yes_or_no, epochs=6, size=24)(path, model, data.split(both, 800, 300))
