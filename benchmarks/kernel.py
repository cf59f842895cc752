"""How fast the CPU kernel counts, in units of ``x.sum()`` of the same tensor.

Run by ``python benchmarks/kernel.py`` (about two minutes). The candidates take turns in every round,
on one core, so what slows the machine down for a while slows all. The clock is the thread's own
processor time, but for the threads' speed-up, which needs the clock on the wall and two free cores.
Prints three markdown tables: medians, with the quartiles in parentheses.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from actlab.axis import FloatAxis
from actlab.recording.histogram.cpu import count

AXIS = FloatAxis()
OUT = np.zeros(AXIS.n_buckets, np.uint64)
N_VALUES = 10_000_000
N_ROUNDS = 25
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def seconds(job: Callable[[], object], clock: Callable[[], float], repeats: int = 1) -> float:
    """Time one job."""
    start = clock()
    for _ in range(repeats):
        job()
    return (clock() - start) / repeats


def spread(figures: list[float], digits: int) -> str:
    """Write the median with the quartiles."""
    low, middle, high = (f"{figure:.{digits}f}" for figure in statistics.quantiles(figures, n=4))
    return f"{middle} ({low} to {high})"


def throughput(values: torch.Tensor) -> tuple[float, list[float], list[float]]:
    """Return 10^9 values per second of `x.sum()` (median); shares of it of `count` and of `torch.histc`."""
    is_narrow = values.dtype.itemsize == 2
    jobs = (
        values.sum,
        lambda: count(values, AXIS, OUT),
        lambda: torch.histc(values.float() if is_narrow else values, 200),
    )
    for warm_up in jobs:
        warm_up()
    rounds = [[seconds(job, time.thread_time) for job in jobs] for _ in range(N_ROUNDS)]
    speed = statistics.median(values.numel() / sum_ / 1e9 for sum_, _, _ in rounds)
    return speed, [sum_ / mine for sum_, mine, _ in rounds], [sum_ / histc for sum_, _, histc in rounds]


def speed_up(job: Callable[[], object]) -> list[float]:
    """Return how many times as fast a job is with two threads as with one."""

    def wall(n_threads: int) -> float:
        torch.set_num_threads(n_threads)
        # The fastest of some: one call in which another process held a core tells nothing.
        return min(seconds(job, time.perf_counter) for _ in range(20))

    for n_threads in (1, 2):
        wall(n_threads)
    return [wall(1) / wall(2) for _ in range(N_ROUNDS)]


def main() -> None:
    """Measure, and print one table after the other."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    normal = torch.randn(N_VALUES)
    print("| dtype | values | `x.sum()`, 10^9/s | actlab / sum | histc / sum |\n|---|---|---|---|---|")
    for dtype in DTYPES:
        for name, values in (("normal", normal), ("relu", normal.relu())):
            speed, mine, histc = throughput(values.to(dtype))
            row = (str(dtype)[6:], name, f"{speed:.1f}", spread(mine, 3), spread(histc, 3))
            print(f"| {' | '.join(row)} |", flush=True)
    print("\n| values (float32) | microseconds a call |\n|---|---|")
    for size in (100, 1_000, 10_000, 100_000, 1_000_000):
        job = lambda values=normal[:size]: count(values, AXIS, OUT)  # noqa: E731 - bound at once
        times = [1e6 * seconds(job, time.thread_time, max(5, 200_000 // size)) for _ in range(N_ROUNDS)]
        print(f"| {size} | {spread(times, 1)} |", flush=True)
    print("\n| values (float32) | actlab, one thread / two | `x.sum()`, one / two |\n|---|---|---|")
    for size in (300_000, 1_000_000, N_VALUES):
        part = normal[:size]
        mine, sum_ = speed_up(lambda values=part: count(values, AXIS, OUT)), speed_up(part.sum)
        print(f"| {size} | {spread(mine, 2)} | {spread(sum_, 2)} |", flush=True)


if __name__ == "__main__":
    main()
