"""What recording costs on a GPU: the kernel's share of the card's bandwidth, and a ResNet-50's step.

    python benchmarks/gpu.py

Prints tables for README.md, with the card's name; without a GPU it says so. The kernel's bandwidth is
bytes read a second, that of a copy bytes read and written a second, both on a tensor far larger than
the card's caches. Steps are timed in turns, not recorded, every one, and every tenth, ten each: every
round gives one ratio of each.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import actlab
from actlab import FloatAxis
from actlab.recording.histogram.cuda import CudaCounters

N_BYTES = 1 << 29
N_LAUNCHES = 20
BATCHES = (64, 256)
N_ROUNDS = 10
N_STEPS = 10
N_WARM_UP = 3
EVERY = (1, N_STEPS)
N_CLASSES = 1000


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut around them; every leaf module is called once."""

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu3 = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if n_in != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x if self.shortcut is None else self.shortcut(x)
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        return self.relu3(self.bn3(self.conv3(y)) + kept)


def resnet50() -> nn.Sequential:
    """ResNet-50 (He et al. 2015, arXiv 1512.03385) for 224x224 images, stride in the 3x3 convolutions."""
    blocks: list[nn.Module] = []
    n_in = 64
    for width, number, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for position in range(number):
            blocks.append(Bottleneck(n_in, width, 1 if position else stride))
            n_in = 4 * width
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, N_CLASSES)]
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, padding=1), *blocks, *head)


def wait(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(job: Callable[[], object], number: int, device: torch.device) -> float:
    """Time `number` calls of a job, with all that they leave to the device; return those of one."""
    wait(device)
    start = time.perf_counter()
    for _ in range(number):
        job()
    wait(device)
    return (time.perf_counter() - start) / number


def kernel_rows(device: torch.device, n_bytes: int) -> list[str]:
    """Compare the kernel with a copy of the same tensor, in turns."""
    rows = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        normal = torch.randn(n_bytes // dtype.itemsize, dtype=dtype, device=device)
        target = torch.empty_like(normal)
        counters = CudaCounters(FloatAxis(), device)
        for name, values in (("normal", normal), ("relu", normal.relu())):

            def copy(source: torch.Tensor = values, target: torch.Tensor = target) -> object:
                return target.copy_(source)

            def count(source: torch.Tensor = values, counters: CudaCounters = counters) -> object:
                return counters.add(0, source)

            shares, speeds = [], []
            for job in (copy, count):
                seconds(job, 3, device)
            for _ in range(N_ROUNDS):
                copied = 2 * n_bytes / seconds(copy, N_LAUNCHES, device)
                read = n_bytes / seconds(count, N_LAUNCHES, device)
                shares.append(read / copied)
                speeds.append(copied)
            share, speed = statistics.median(shares), statistics.median(speeds)
            values_a_second = share * speed / dtype.itemsize
            kind = str(dtype).removeprefix("torch.")
            rows.append(f"| {kind}, {name} | {speed / 1e9:.0f} | {values_a_second / 1e9:.1f} | {share:.3f} |")
    return rows


def step_row(device: torch.device, batch: int, side: int, folder: Path) -> str:
    """Compare training steps of which every layer is recorded, in each or in one of ten, with bare ones."""
    images = torch.randn(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, N_CLASSES, (batch,), device=device)
    with ExitStack() as stack:
        arms = []
        for every in (None, *EVERY):
            torch.manual_seed(0)
            model = resnet50().to(device, memory_format=torch.channels_last)
            watch: Callable[[], AbstractContextManager[object]] = nullcontext
            if every is not None:
                recorder = actlab.Recorder(model, folder / f"{batch} {every}.zarr", every=every)
                watch = partial(stack.enter_context(recorder).batch, "train", epoch=0, labels=labels)
            arms.append((model, torch.optim.SGD(model.parameters(), lr=0.01), watch))

        def step(arm: int) -> None:
            model, optimizer, watch = arms[arm]
            with watch(), torch.autocast(device.type, torch.bfloat16):
                loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        took: list[list[float]] = [[] for _ in arms]
        for turn in range(N_WARM_UP + N_ROUNDS):
            # Who goes first changes, so that none always runs on the warmer card.
            for place in range(len(arms)):
                arm = (turn + place) % len(arms)
                took[arm].append(seconds(partial(step, arm), N_STEPS, device))
    bare, *recorded = [times[N_WARM_UP:] for times in took]
    cells = [f"{1e3 * statistics.median(bare):.1f}"]
    for times in recorded:
        low, middle, high = statistics.quantiles([a / b for a, b in zip(times, bare, strict=True)], n=4)
        cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
    return f"| {batch} | {' | '.join(cells)} |"


def main() -> None:
    """Measure on the first GPU and print the tables."""
    if not torch.cuda.is_available():
        print("There is no GPU here: nothing to measure.")
        return
    device = torch.device("cuda", 0)
    try:
        from triton import __version__ as triton  # noqa: PLC0415  # it may be missing
    except ImportError:
        triton = "missing"
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, Triton {triton}\n")
    print("| tensor of 512 MiB | copy, GB/s | kernel, 10^9 values/s | kernel / copy, bandwidth |")
    print("|---|---|---|---|")
    print(*kernel_rows(device, N_BYTES), sep="\n", flush=True)
    print("\nRatios to the bare step: median and quartiles.\n")
    print("| ResNet-50, bf16 autocast, 224x224, batch | bare step, ms | every step recorded | every tenth |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for batch in BATCHES:
            print(step_row(device, batch, 224, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
