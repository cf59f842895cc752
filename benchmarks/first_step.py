"""What the first recorded step costs beyond a bare one, with compilation and once it is cached.

    python benchmarks/first_step.py

Each figure is the median of three processes of its own, the compiled code from an empty or a filled
NUMBA_CACHE_DIR. Prints a table for README.md.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from models import Setting, Training, describe_machine

N_REPEATS = 3
# Small, but its largest outputs have more than 2^18 values: all of the kernel's forms are compiled.
SETTINGS = (Setting(32, 8), Setting(32, 8, autocast=True))


def child(setting: Setting) -> None:
    """Print the seconds of import and constructor, and of the first step and a later one beyond bare."""
    training = Training(setting)
    bare = statistics.median([training.step() for _ in range(5)][1:])
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        from actlab import Recorder  # noqa: PLC0415 - a part of what is measured

        with Recorder(training.model, Path(folder) / "run.zarr") as recorder:
            ready = time.perf_counter() - start
            first, *later = (training.step(recorder.batch("train", epoch=0)) - bare for _ in range(5))
    print(ready, first, statistics.median(later))


def run_child(index: int, cache: str) -> list[float]:
    """Measure in a fresh process with this cache of compiled code."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    command = [sys.executable, __file__, str(index)]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return [float(number) for number in result.stdout.split()]


def main() -> None:
    """Measure each setting with an empty and with a filled cache; print one table."""
    print(f"{describe_machine()}; {time.strftime('%Y-%m-%d')}\n")
    print(
        "| ResNet-18, every leaf | compiled code | import, constructor, s | first step, s | a later one, s |"
    )
    print("|---|---|---|---|---|")
    for index, setting in enumerate(SETTINGS):
        found: dict[str, list[list[float]]] = {"none yet": [], "cached": []}
        for _ in range(N_REPEATS):
            with tempfile.TemporaryDirectory() as cache:
                for runs in found.values():
                    runs.append(run_child(index, cache))
        for state, runs in found.items():
            cells = " | ".join(f"{statistics.median(column):.2f}" for column in zip(*runs, strict=True))
            print(f"| {setting.name} | {state} | {cells} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(2)
    if len(sys.argv) > 1:
        child(SETTINGS[int(sys.argv[1])])
    else:
        main()
