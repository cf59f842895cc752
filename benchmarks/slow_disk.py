"""What a slow or a full disk does to the training: the step time over that of a run kept in memory.

Four equal trainings, each a process of its own, take turns of ten steps, in random order: on a RAM disk,
on it once more, on one where every file takes 0.4 s, and on one that is full from the first row on. A
ratio is a turn over that on the RAM disk in the same round. In the end the disks recover: every row that
was not dropped must be there, and the others in the run's `gaps`. Prints a table for README.md.

    python benchmarks/slow_disk.py [--rounds N]
"""

from __future__ import annotations

import argparse
import errno
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

import actlab
from actlab.recording import writers
from actlab.store.files import RunDirectory
from actlab.store.writer import RunWriter
from models import describe_machine

DISKS = {
    "memory": "a RAM disk",
    "memory again": "a RAM disk, once more",
    "slow": "0.4 s for every file",
    "full": "full from the first row on",
}
QUEUE = 8 << 20  # bytes of rows that may wait; the default, 256 MiB, would take minutes to fill
SECONDS_A_FILE = 0.4
TURN = 10  # steps
RAM = Path("/dev/shm")


class Disk:
    """Stands between the writer and the RAM disk, until it has recovered."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._write = RunDirectory.write

    def write(self, directory: RunDirectory, name: str, data: bytes) -> None:
        if self.kind == "slow":
            time.sleep(SECONDS_A_FILE)
        if self.kind == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(directory, name, data)


def train(kind: str, folder: Path) -> None:
    """Take a turn for each line that comes in, and print its seconds; in the end, what became of the rows."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the other core is the writer's
    layers = [
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(10),
    ]
    model = nn.Sequential(*layers)
    images, labels = torch.randn(32, 3, 24, 24), torch.randint(0, 10, (32,))
    model(images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    disk = Disk("memory")
    held = 0

    def write(directory: RunDirectory, name: str, data: bytes) -> None:
        disk.write(directory, name, data)

    with (
        patch.object(RunDirectory, "write", write),
        patch.object(writers, "RunWriter", partial(RunWriter, queue_bytes=QUEUE)),
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        recorder = actlab.Recorder(model, folder / "run.zarr", flush_every=0.2)
        disk.kind = kind
        for _ in sys.stdin:
            start = time.perf_counter()
            for _ in range(TURN):
                with recorder.batch("train", epoch=0, labels=labels):
                    loss = nn.functional.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                recorder.log(loss=loss.detach())
            print((time.perf_counter() - start) / TURN, flush=True)
            held = max(held, recorder._session.writer._queue.held)
        texts = [str(each.message) for each in told]
        disk.kind = "memory"
        recorder.close()
    print(json.dumps({"held": held, "told": texts}), flush=True)


def account(run: actlab.Run, n_steps: int) -> int:
    """Return how many steps are missing; every one must be in a gap, and no other."""
    steps = set(run["train"].step.values.tolist())
    gaps = [
        step for first, last in run.attributes["gaps"].get("train", []) for step in range(first, last + 1)
    ]
    if len(gaps) != len(set(gaps)) or steps & set(gaps) or steps | set(gaps) != set(range(n_steps)):
        raise AssertionError(f"{len(steps)} rows and {len(gaps)} in gaps are not the {n_steps} steps")
    return len(gaps)


def measure(folder: Path, n_rounds: int) -> dict[str, dict]:
    """Let the trainings take turns; return what is known of each."""
    processes = {}
    for kind in DISKS:
        (folder / kind).mkdir()
        command = [sys.executable, __file__, "--one", kind, "--folder", str(folder / kind)]
        processes[kind] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seconds: dict[str, list[float]] = {kind: [] for kind in DISKS}
    for _ in range(n_rounds):
        for kind in random.sample(list(DISKS), len(DISKS)):
            processes[kind].stdin.write("\n")
            processes[kind].stdin.flush()
            seconds[kind].append(float(processes[kind].stdout.readline()))
    found = {}
    for kind, process in processes.items():
        printed, _ = process.communicate()
        missing = account(actlab.open_run(folder / kind / "run.zarr"), n_rounds * TURN)
        found[kind] = json.loads(printed) | {"seconds": seconds[kind][1:], "missing": missing}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--one", choices=DISKS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.one:
        train(options.one, options.folder)
        return
    with tempfile.TemporaryDirectory(dir=RAM if RAM.exists() else None) as folder:
        found = measure(Path(folder), options.rounds)
    print("| disk | step time | rows dropped | most held | warnings |\n|---|---|---|---|---|")
    for kind, each in found.items():
        pairs = zip(each["seconds"], found["memory"]["seconds"], strict=True)
        low, middle, high = statistics.quantiles([mine / base for mine, base in pairs], n=4)
        text = f"{middle:.3f} ({low:.3f} to {high:.3f})"
        if kind == "memory":
            text = f"{1e3 * statistics.median(each['seconds']):.1f} ms"
        dropped = f"{each['missing']} of {options.rounds * TURN}"
        print(
            f"| {DISKS[kind]} | {text} | {dropped} | {each['held'] / 2**20:.1f} MiB | {len(each['told'])} |"
        )
    print(f"\nMedian and quartiles of {options.rounds - 1} rounds; {describe_machine()}")
    for text in [f"- {DISKS[kind]}: {text}" for kind, each in found.items() for text in each["told"]]:
        print(text)


if __name__ == "__main__":
    main()
