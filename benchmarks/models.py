"""ResNet-18 (He et al. 2015, arXiv 1512.03385), and one training step of it, for the benchmarks."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

__all__ = ["ResNet18", "Setting", "Training", "describe_machine"]

N_CLASSES = 10


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut around them; every leaf module is called once."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x if self.shortcut is None else self.shortcut(x)
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + kept)


class ResNet18(nn.Sequential):
    """ResNet-18 with the stem for 32x32 images (60 leaf modules) or for 224x224 ones (61)."""

    def __init__(self, size: int) -> None:
        small = size < 64
        stem: list[nn.Module] = [
            nn.Conv2d(3, 64, 3, padding=1, bias=False) if small else nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        ]
        if not small:
            stem.append(nn.MaxPool2d(3, 2, padding=1))
        blocks = [
            Block(n_in, n_out, stride)
            for n_in, n_out, first_stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
            for n_in, stride in ((n_in, first_stride), (n_out, 1))
        ]
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, N_CLASSES))


@dataclass(frozen=True)
class Setting:
    """Side of the images, number of them in a batch, and whether bf16 autocast is on."""

    size: int
    batch: int
    autocast: bool = False

    @property
    def name(self) -> str:
        return f"{self.size}x{self.size}, batch {self.batch}" + (", bf16 autocast" if self.autocast else "")


class Training:
    """A model that learns one batch of noise again and again; equal settings make equal trainings."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        self.model = ResNet18(setting.size)
        self.images = torch.randn(setting.batch, 3, setting.size, setting.size)
        self.labels = torch.randint(0, N_CLASSES, (setting.batch,))
        self._autocast = setting.autocast
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    def step(self, watched: AbstractContextManager[object] | None = None) -> float:
        """Take one training step, its forward pass inside `watched`, and return its seconds."""
        start = time.perf_counter()
        with (
            nullcontext() if watched is None else watched,
            torch.autocast("cpu", torch.bfloat16, enabled=self._autocast),
        ):
            loss = cross_entropy(self.model(self.images), self.labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return time.perf_counter() - start


def describe_machine() -> str:
    """Say on what the figures were measured."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return (
        f"torch {torch.__version__}, {threads} thread{'s' * (threads > 1)}, "
        f"{len(names)} cores: {names[0] if names else 'unknown processor'}"
    )
