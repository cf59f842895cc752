"""Answers that are wrong: no class told apart, learned by heart, another distribution, a class forgotten."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from tests.zoo import data
from tests.zoo.data import Pair, Parts
from tests.zoo.fit import Fit, Outcome, adam, sgd, warm_up
from tests.zoo.healthy_images import scaled_digits, scaled_mnist, yes_or_no
from tests.zoo.models import Recurrent, Transformer, Transposed, cnn, mlp, resnet
from tests.zoo.registry import sick
from tests.zoo.sick_scale import letter_loss

# No separation.


@sick("no_class_separation", "fc", also=("batchnorm_recentres",))
def labels_shuffled(path: Path) -> Outcome:
    """CNN with BatchNorm on MNIST: images were sorted anew, labels were not."""
    x, y = scaled_mnist()
    y = y[torch.randperm(len(y))]
    return Fit(optimizer=partial(sgd, lr=0.01), epochs=3)(
        path, cnn((1, 8, 12), norm=nn.BatchNorm2d), data.split((x, y), 1800, 400)
    )


@sick("no_class_separation", "head")
def rate_a_thousand_times_too_low(path: Path) -> Outcome:
    """MLP on digits: SGD at 1e-6, nothing moves in six epochs."""
    fit = Fit(optimizer=partial(torch.optim.SGD, lr=1e-6), epochs=6)
    return fit(path, mlp((64, 64, 10), nn.GELU), data.split(scaled_digits(), 960, 300))


class Blind(nn.Module):
    """A classifier that reads the wrong part of its features: the padding, which tells nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(30, 32)
        self.act = nn.ReLU()
        self.logit = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit a sample, from noise put in the place of the features."""
        return self.logit(self.act(self.hidden(torch.randn_like(x))))


@sick("no_class_separation", "logit")
def head_that_sees_noise(path: Path) -> Outcome:
    """MLP with one logit on breast cancer: by a bug the features never reach it."""
    x, y = data.table("breast_cancer")
    return Fit(loss=yes_or_no, epochs=6, size=16)(path, Blind(), data.split((data.standard(x), y), 380, 180))


@sick("no_class_separation", "head")
def moods_that_are_none(path: Path) -> Outcome:
    """GRU on sentences whose mood was drawn at random."""
    x, y = data.words(1200)
    model = Recurrent(nn.GRU(16, 24, batch_first=True), 2, nn.Embedding(200, 16))
    fit = Fit(optimizer=partial(adam, lr=1e-3), epochs=3)
    return fit(path, model, data.split((x, torch.randint(0, 2, y.shape)), 900, 250))


@sick("no_class_separation", "logits")
def several_labels_of_nobody(path: Path) -> Outcome:
    """Multi-label CNN on MNIST: the table of labels belongs to other pictures."""
    x, y = scaled_mnist()
    hot = torch.stack([y % 2 == 0, y < 4, y % 3 == 0], 1)[torch.randperm(len(y))].float()
    model = nn.Sequential(*(cnn((1, 8, 16), n_out=3, act=nn.SiLU)[:-1]))
    model.add_module("logits", nn.Linear(16, 3))
    fit = Fit(loss=binary_cross_entropy_with_logits, optimizer=partial(adam, lr=1e-3), epochs=4)
    return fit(path, model, data.split((x, hot), 1800, 400))


# Overfitting.


def noisy(y: Tensor, share: float, classes: int) -> Tensor:
    """Return labels a share of which was drawn at random."""
    return torch.where(torch.rand(y.shape) < share, torch.randint_like(y, classes), y)


@sick("overfit", "head")
def few_noisy_digits(path: Path) -> Outcome:
    """Wide MLP, 160 digits, a third of the labels wrong, many epochs."""
    x, y = scaled_digits()
    fit = Fit(optimizer=partial(adam, lr=2e-3), epochs=14, size=16)
    return fit(path, mlp((64, 256, 256, 10)), data.split((x, noisy(y, 0.35, 10)), 160, 300))


@sick("overfit", "fc", also=("batchnorm_recentres",))
def resnet_on_a_handful(path: Path) -> Outcome:
    """ResNet on 120 images of MNIST with some wrong labels, no augmentation."""
    x, y = scaled_mnist()
    parts = data.split((x, noisy(y, 0.2, 10)), 128, 300)
    fit = Fit(optimizer=partial(adam, lr=3e-3), epochs=12, size=16)
    return fit(path, resnet((16, 32, 32)), parts)


@sick("overfit", "head")
def sentences_by_heart(path: Path) -> Outcome:
    """LSTM with a large embedding on 200 sentences."""
    model = Recurrent(nn.LSTM(48, 48, batch_first=True), 2, nn.Embedding(200, 48))
    fit = Fit(optimizer=partial(adam, lr=5e-3), epochs=12, size=16)
    return fit(path, model, data.split(data.words(800), 200, 400))


@sick("overfit", "head")
def doctors_notes_by_heart(path: Path) -> Outcome:
    """Wide MLP with one logit, diabetes above or below the mean, 150 patients, many epochs."""
    x, y = data.table("diabetes")
    fit = Fit(loss=yes_or_no, optimizer=partial(adam, lr=3e-3), epochs=16, size=16, tested=True)
    model = mlp((10, 256, 256, 1))
    return fit(path, model, data.split((data.standard(x), (y > 1.4).long()), 160, 140, 140))


@sick("overfit", "head")
def letters_by_heart(path: Path) -> Outcome:
    """Causal transformer on 48 short pieces of text, many epochs."""
    model = Transformer(nn.Embedding(64, 48), 24, 64, width=48, pooled=False, causal=True)
    fit = Fit(loss=letter_loss, optimizer=partial(adam, lr=1e-2), epochs=24, size=12)
    return fit(path, model, data.split(data.letters(), 48, 48))


# Another distribution.


def shifted(parts: Parts, change: partial[Tensor] | object) -> Parts:
    """Return the parts with the inputs of the test split changed."""
    x, y = parts["test"]
    return parts | {"test": (change(x), y)}


@sick("distribution_shift", "*", also=("batchnorm_recentres",))
def test_images_inverted(path: Path) -> Outcome:
    """CNN on MNIST: the test images are black on white."""
    parts = shifted(data.split(scaled_mnist(), 1200, 320, 320), lambda x: 2.4 - x)
    return Fit(epochs=4, tested=True)(path, cnn((1, 12, 24, 24), norm=nn.BatchNorm2d), parts)


@sick("distribution_shift", "*")
def test_in_other_units(path: Path) -> Outcome:
    """MLP on breast cancer: a second hospital measures in other units, all 1.6 times as large and shifted."""
    x, y = data.table("breast_cancer")
    parts = shifted(data.split((data.standard(x), y), 300, 130, 130), lambda x: 1.6 * x + 1.2)
    return Fit(epochs=6, size=16, tested=True)(path, mlp((30, 24, 2), nn.Tanh), parts)


@sick("distribution_shift", "*")
def test_with_a_noisy_sensor(path: Path) -> Outcome:
    """GRU on waves: the sensor of the test set is noisy and has an offset."""
    model = Recurrent(nn.GRU(1, 24, batch_first=True), 3)
    parts = shifted(data.split(data.waves(1300), 640, 300, 300), lambda x: x + 1.0 + torch.randn_like(x))
    return Fit(optimizer=partial(adam, lr=5e-3), epochs=6, tested=True)(path, model, parts)


@sick("distribution_shift", "*")
def test_in_the_dark(path: Path) -> Outcome:
    """Transformer on patches of digits: the test set is from a camera with less light."""
    embed = nn.Sequential(nn.Conv2d(1, 32, 2, 2), nn.Flatten(2), Transposed())
    parts = shifted(data.split(data.digits(), 900, 300, 300), lambda x: 0.35 * x)
    fit = Fit(optimizer=partial(torch.optim.AdamW, lr=3e-3), schedule=warm_up, epochs=5, tested=True)
    return fit(path, Transformer(embed, 16, 10), parts)


@sick("distribution_shift", "*")
def test_of_two_words(path: Path) -> Outcome:
    """Mean of embeddings on sentences: those of the test set are two words, said again and again."""
    parts = data.split(data.words(2600), 1600, 400, 400)
    x = parts["test"][0][:, :2].repeat(1, 6)
    parts["test"] = x, ((x % 3 == 0).sum(1) > (x % 3 == 1).sum(1)).long()
    model = nn.Sequential(OrderedDict(bag=nn.EmbeddingBag(200, 24), hidden=nn.Linear(24, 24), relu=nn.ReLU()))
    model.add_module("classify", nn.Linear(24, 2))
    return Fit(optimizer=partial(adam, lr=1e-2), epochs=4, tested=True)(path, model, parts)


# A class that never says yes.


@sick("class_never_yes", "fc", also=("batchnorm_recentres",))
def class_left_out_of_training(path: Path) -> Outcome:
    """CNN on MNIST: the folder of the fives was missing in training, valid has them."""
    x, y = scaled_mnist()
    parts = data.split((x, y), 1700, 400)
    kept = parts["train"][1] != 5
    parts["train"] = parts["train"][0][kept], parts["train"][1][kept]
    return Fit(optimizer=sgd, epochs=5)(path, cnn((1, 16, 32, 32), norm=nn.BatchNorm2d), parts)


@sick("class_never_yes", "head")
def ignored_class(path: Path) -> Outcome:
    """MLP on digits: cross-entropy with ignore_index=0, copied from a text model; nobody says 0."""
    fit = Fit(loss=partial(cross_entropy, ignore_index=0), epochs=6)
    return fit(path, mlp((64, 64, 10)), data.split(scaled_digits(), 1200, 400))


@sick("class_never_yes", "head")
def two_classes_merged(path: Path) -> Outcome:
    """MLP on wine: a slip in the table of names makes the third kind the second one, in training only."""
    parts = data.split((data.standard(data.table("wine")[0]), data.table("wine")[1]), 118, 60)
    x, y = parts["train"]
    parts["train"] = x, torch.tensor([0, 1, 1])[y]
    return Fit(epochs=10, size=12)(path, mlp((13, 24, 3), nn.Tanh), parts)


@sick("class_never_yes", "logits")
def masked_label(path: Path) -> Outcome:
    """Multi-label MLP, digits side by side: the loss of label 3 is only taken where it is absent."""
    x, y = data.digits()
    pair = torch.randint(0, len(x), (1800, 2))
    hot = torch.zeros(1800, 10).scatter_(1, y[pair], 1.0)
    model = nn.Sequential(nn.Linear(128, 96), nn.ReLU())
    model.add_module("logits", nn.Linear(96, 10))

    def loss(out: Tensor, y: Tensor) -> Tensor:
        target = y.clone()
        target[:, 3] = 0
        return binary_cross_entropy_with_logits(out, target)

    return Fit(loss=loss, epochs=8)(path, model, data.split((x[pair].flatten(1), hot), 1400, 400))


@sick("class_never_yes", "head")
def kind_of_wave_not_in_the_loss(path: Path) -> Outcome:
    """GRU on waves: the samples of one kind are masked out of the loss by a filter of another experiment."""
    model = Recurrent(nn.GRU(1, 32, batch_first=True), 3)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(out[y != 1], y[y != 1])

    fit = Fit(loss=loss, optimizer=partial(adam, lr=5e-3), epochs=9)
    return fit(path, model, data.split(data.waves(1200), 800, 300))


# YES and NO out of balance.


@sick("no_yes_ratio", "head")
def rare_disease(path: Path) -> Outcome:
    """MLP with one logit on breast cancer: one sick in thirty."""
    x, y = data.table("breast_cancer")
    kept = torch.cat([torch.nonzero(y == 1)[:, 0], torch.nonzero(y == 0)[:12, 0]])
    pair = data.standard(x[kept]), 1 - y[kept]
    return Fit(loss=yes_or_no, epochs=8, size=16)(path, mlp((30, 24, 1)), data.split(pair, 240, 120))


@sick("no_yes_ratio", "fc", also=("batchnorm_recentres",))
def mostly_ones(path: Path) -> Outcome:
    """CNN with BatchNorm on MNIST: two thirds of the samples are ones."""
    x, y = scaled_mnist()
    kept = (y == 1) | (torch.rand(len(y)) < 0.06)
    return Fit(epochs=8, size=16)(
        path, cnn((1, 12, 24), norm=nn.BatchNorm2d), data.split((x[kept], y[kept]), 500, 220)
    )


@sick("no_yes_ratio", "head")
def rare_labels(path: Path) -> Outcome:
    """Multi-label MLP on digits: is it odd, under five, a seven? The last one is given for one in 250."""
    x, y = scaled_digits()
    hot = torch.stack([y % 2 == 1, y < 5, (y == 7) & (torch.rand(len(y)) < 0.04)], 1).float()
    fit = Fit(loss=binary_cross_entropy_with_logits, epochs=6)
    return fit(path, mlp((64, 64, 3), nn.SiLU), data.split((x, hot), 1300, 400))


@sick("no_yes_ratio", "logit")
def says_yes_to_everybody(path: Path) -> Outcome:
    """MLP with one logit on overlapping clouds: a weight of 60 for the positives, one sample in five."""
    x, y = data.blobs(1600, spread=8.0)
    model = nn.Sequential(OrderedDict(hidden=nn.Linear(20, 32), act=nn.Mish(), logit=nn.Linear(32, 1)))

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(out[:, 0], y.float(), pos_weight=torch.tensor(60.0))

    fit = Fit(loss=loss, optimizer=partial(adam, lr=3e-3), epochs=5)
    return fit(path, model, data.split((x, (y == 0).long()), 1200, 300))


@sick("no_yes_ratio", "fc")
def one_class_in_forty(path: Path) -> Outcome:
    """CNN on digits, two classes: eights against all others, of which all but a few were dropped."""
    x, y = scaled_digits()
    kept = (y != 8) | (torch.rand(len(y)) < 0.2)
    pair: Pair = x[kept], (y[kept] == 8).long()
    return Fit(optimizer=sgd, epochs=6)(path, cnn((1, 16, 32), n_out=2), data.split(pair, 1100, 400))
