"""What the analysis costs: re-binning beside reading, memory, and whether time grows with the steps alone.

Synthetic runs are written and analysed, each task in a process of its own. First the processor time of one
thread: in every round, in random order, all counts are read and decompressed, and read and then re-binned row
by row; a ratio is the difference of the two over the reading of the same round. Then time and peak memory of
some analyses with two threads, and both on more and more steps of a wide run. Prints tables for README.md.

    python benchmarks/analysis.py [--long] [--rounds N] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analysis_task import ALL_TASKS, COLUMNS, N_BINS, READ, REBIN
from synthetic import write_run

from models import describe_machine

NARROW, WIDE = {False: (62, 1000), True: (62, 20_000)}, {False: (200, 200), True: (1000, 10_000)}
OF_THE_WIDE = ("totals", f"re-bin {COLUMNS} columns")


def start(task: str, path: Path, steps: int, threads: int = 2) -> tuple[float, float, float]:
    """Let a new process do a task; return processor time, time and peak memory."""
    command = [sys.executable, str(Path(__file__).with_name("analysis_task.py")), str(path), task]
    command += ["--steps", str(steps), "--threads", str(threads)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    process, wall, memory = map(float, printed.split())
    return process, wall, memory


def quartiles(values: list[float], digits: int) -> str:
    """Write a median and, in parentheses, the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def write(folder: Path, n_layers: int, steps: int) -> Path:
    """Write a run, and say how large it is."""
    path, begun = folder / f"{n_layers}.zarr", time.perf_counter()
    write_run(path, n_layers, {"train": steps})
    seconds = time.perf_counter() - begun
    held = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    each = held / n_layers / steps
    size = f"{n_layers:,} layers x {steps:,} steps"
    print(f"\n{size}: {held / 1e9:.2f} GB, {each:.0f} bytes each, in {seconds:.0f} s\n", flush=True)
    return path


def compare(path: Path, steps: int, n_rounds: int) -> None:
    """Print the processor time of re-binning over that of reading."""
    found: dict[str, list[float]] = {READ: [], REBIN: []}
    for _ in range(n_rounds):
        for task in random.sample(list(found), len(found)):
            found[task].append(start(task, path, steps, threads=1)[0])
    spent = [both - alone for alone, both in zip(*found.values(), strict=True)]
    ratios = [each / alone for each, alone in zip(spent, found[READ], strict=True)]
    row = f"| re-bin every row to {N_BINS} bins | {quartiles(spent, 1)} | {quartiles(ratios, 2)} |\n"
    print("| one thread | processor time, s | over reading |\n|---|---|---|")
    print(f"| read and decompress | {quartiles(found[READ], 1)} | 1 |")
    print(row, flush=True)


def profile(path: Path, steps: int) -> None:
    """Print time and peak memory of all tasks."""
    print("| task | time, s | processor time, s | peak memory, MB |\n|---|---|---|---|")
    for task in ALL_TASKS:
        process, wall, memory = start(task, path, steps)
        print(f"| {task} | {wall:.1f} | {process:.1f} | {memory:.0f} |", flush=True)


def scale(path: Path, steps: list[int]) -> None:
    """Print time and peak memory of tasks on more and more of the steps."""
    print(f"| task | {' | '.join(f'{each:,} steps' for each in steps)} |\n|---|{'---|' * len(steps)}")
    for task in OF_THE_WIDE:
        found = [start(task, path, each) for each in steps]
        cells = (f"{process:.1f} s, {memory:.0f} MB" for process, _, memory in found)
        print(f"| {task} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        n_layers, steps = NARROW[options.long]
        path = write(Path(folder), n_layers, steps)
        compare(path, steps, options.rounds)
        profile(path, steps)
        n_layers, steps = WIDE[options.long]
        path = write(Path(folder), n_layers, steps)
        scale(path, [steps // 4, steps // 2, steps])
    print(f"\nMedian and quartiles of {options.rounds} rounds; {describe_machine()}")


if __name__ == "__main__":
    main()
