"""A CNN tells ten photos by small patches: hard, so YES is a shoulder of NO at best.

Run from where `runs/` shall be: ``python train.py``. The photos are those that come with scikit-image (eight)
and scikit-learn (two): nothing is downloaded.
"""

import argparse
from collections import OrderedDict

import numpy as np
import torch
from skimage import data
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import actlab

BLOCK, PATCH = 64, 32  # pixels
N_PATCHES = {"train": 300, "valid": 100, "test": 100}  # of each photo


def load_photos() -> list[np.ndarray]:
    """Return ten photos [row, column, RGB]; the label of a patch is the place in this list."""
    names = (
        "astronaut",
        "chelsea",
        "coffee",
        "rocket",
        "hubble_deep_field",
        "immunohistochemistry",
        "retina",
    )
    photos = [getattr(data, name)() for name in names]
    photos.append(data.stereo_motorcycle()[0])
    return photos + [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]


def load_patches() -> dict[str, DataLoader]:
    """Return the loaders of the three splits: patches from blocks of the photos that no other split sees."""
    parts: dict[str, list[torch.Tensor]] = {split: [] for split in N_PATCHES}
    for photo in load_photos():
        pixels = torch.tensor(photo).permute(2, 0, 1).float() / 255
        blocks = pixels.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).flatten(1, 2).transpose(0, 1)
        blocks = blocks[torch.randperm(len(blocks))]
        n = len(blocks) // 5
        for split, own in zip(N_PATCHES, blocks.split([len(blocks) - 2 * n, n, n]), strict=True):
            corners = torch.randint(BLOCK - PATCH + 1, (N_PATCHES[split], 2)).tolist()
            parts[split] += [
                own[i % len(own), :, top : top + PATCH, left : left + PATCH]
                for i, (top, left) in enumerate(corners)
            ]
    loaders = {}
    for split, patches in parts.items():
        x = (torch.stack(patches) - 0.4) / 0.3
        y = torch.arange(10).repeat_interleave(N_PATCHES[split])
        order = torch.randperm(len(x))
        loaders[split] = DataLoader(
            TensorDataset(x[order], y[order]), batch_size=100, shuffle=split == "train"
        )
    return loaders


def build_model() -> nn.Sequential:
    """Return three blocks of convolution, batch norm and ReLU, and a linear head with ten logits."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (3, 8, 16, 32)
    for i in (1, 2, 3):
        layers[f"conv{i}"] = nn.Conv2d(widths[i - 1], widths[i], kernel_size=3, stride=2, padding=1)
        layers[f"bn{i}"] = nn.BatchNorm2d(widths[i])
        layers[f"relu{i}"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
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

    loaders = load_patches()
    model = build_model().to(options.device)
    n_steps = options.epochs * len(loaders["train"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.03, total_steps=n_steps)
    with actlab.Recorder(model, "runs/photos_10.zarr", overwrite=True) as recorder:
        evaluate(model, loaders["valid"], recorder, "valid", -1, options.device)
        for epoch in range(options.epochs):
            model.train()
            for x, y in loaders["train"]:
                x, y = x.to(options.device), y.to(options.device)
                with recorder.batch("train", epoch=epoch, labels=y):
                    loss = cross_entropy(model(x), y)
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
