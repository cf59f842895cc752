"""One task of the analysis in a process of its own: prints processor time, time (s) and peak memory (MB).

python benchmarks/analysis_task.py RUN.zarr TASK [--steps N] [--threads N]
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask

import actlab
from actlab.peaks import trend, twin_peaks
from actlab.rebinning import rebin_array
from actlab.stats import pool_moments, quantile
from actlab.steps import by_column

__all__ = ["ALL_TASKS", "COLUMNS", "N_BINS", "READ", "REBIN"]

N_BINS, COLUMNS = 200, 500
AXIS = actlab.LinearAxis(-10, 10, N_BINS)
READ, REBIN = "read", "read and re-bin"


def peak_memory() -> float:
    """Return the most that this process had resident, in MB: `ru_maxrss` would count its parent's, too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _each_block(rows: Any, function: Any) -> None:
    """Call a function with the counts of every block."""
    task = dask.delayed(function, traverse=False)  # one for all: to name each would cost more than its work
    dask.compute([task(block) for block in rows.counts.data.to_delayed().ravel()])


def _rebin_block(block: Any, ends: Any) -> int:
    """Re-bin every row of a block."""
    return len(rebin_array(block, *ends, AXIS).counts)


def _totals(rows: Any) -> None:
    """Add all rows up, as `Run.totals` does."""
    with dask.config.set(split_every=2):
        total = rows.counts.sum("step")
    total.compute()


def _columns(rows: Any) -> None:
    """Merge the steps into columns of whole batches, re-bin these, and add the bins up."""
    columns = by_column(rows, max_columns=COLUMNS)
    actlab.rebin(columns.counts, AXIS).counts.sum("column").compute()


def _page(run: actlab.Run) -> None:
    """Draw the page, which begins with the verdict."""
    with TemporaryDirectory() as folder:
        actlab.report(run, Path(folder) / "page.html")


TASKS = {
    READ: lambda rows: _each_block(rows, len),
    REBIN: lambda rows: _each_block(rows, partial(_rebin_block, ends=(rows.lower.values, rows.upper.values))),
    "totals": _totals,
    "re-bin every row": lambda rows: actlab.rebin(rows.counts, AXIS).counts.sum("step").compute(),
    f"re-bin {COLUMNS} columns": _columns,
    "quantiles of every step, one layer": lambda rows: quantile(rows.counts[:, 0], [0.1, 0.5, 0.9]).compute(),
    "moments": lambda rows: pool_moments(rows).compute(),
}
OF_A_RUN = {"twin_peaks": twin_peaks, "trend": trend, "check": actlab.check, "check and page": _page}
ALL_TASKS = (*TASKS, *OF_A_RUN)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("task", choices=ALL_TASKS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    run = actlab.open_run(options.path)
    rows = run["train"].isel(step=slice(options.steps))
    scheduler = "synchronous" if options.threads == 1 else "threads"
    with dask.config.set(scheduler=scheduler, num_workers=options.threads):
        if options.task in TASKS:
            TASKS[options.task](rows.isel(step=slice(1), layer=slice(1)))  # compiles
        process, wall = time.process_time(), time.perf_counter()
        OF_A_RUN[options.task](run) if options.task in OF_A_RUN else TASKS[options.task](rows)
        seconds = time.process_time() - process, time.perf_counter() - wall
    print(*seconds, peak_memory())


if __name__ == "__main__":
    main()
