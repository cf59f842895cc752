"""Whether a recorder's memory stays constant: resident memory and Python objects over many steps.

    python benchmarks/memory.py [--steps N]

Records every step of a tiny model (3 layers with the input) to a temporary folder and prints a table
for README.md. The memory of a bare training of as many steps stands beside it. Resident memory goes up
and down with what glibc keeps of freed buffers; what is allocated says whether anything is held. Both
are read when the rows so far are on disk.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import actlab
from models import describe_machine


def resident() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# Of struct mallinfo2, in order.
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd")
FIELDS += ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Mallinfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in FIELDS)


def allocated() -> float:
    """Return the MB that are allocated and not freed, by torch, numpy and all others that call malloc."""
    mallinfo2 = ctypes.CDLL("libc.so.6").mallinfo2
    mallinfo2.restype = Mallinfo
    found = mallinfo2()
    return float(found.uordblks + found.hblkhd) / 1e6


def count_objects() -> int:
    """Return the number of Python objects that the garbage collector knows."""
    gc.collect()
    return len(gc.get_objects())


class Look(NamedTuple):
    """The memory after so many steps."""

    step: int
    resident: float
    allocated: float
    objects: int

    def __str__(self) -> str:
        return f"{self.resident:.1f} | {self.allocated:.1f} | {self.objects:,}"


def train(model: nn.Module, n_steps: int, recorder: actlab.Recorder | None) -> list[Look]:
    """Train; look after 1,000 steps, 2,000, 5,000, 10,000 and so on."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = torch.randn(8, 4)
    steps = {base * 10**power for base in (1, 2, 5) for power in range(3, 9)} | {n_steps}
    looks = []
    for step in range(1, n_steps + 1):
        with nullcontext() if recorder is None else recorder.batch("train", epoch=0):
            loss = model(images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in steps:
            if recorder is not None:
                recorder.flush()
            looks.append(Look(step, resident(), allocated(), count_objects()))
    return looks


def main() -> None:
    """Train bare, then recorded, and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="steps, 100,000 by default")
    n_steps = parser.parse_args().steps
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    bare = train(model, n_steps, None)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.zarr"
        with actlab.Recorder(model, path) as recorder:
            recorded = train(model, n_steps, recorder)
        seconds = time.perf_counter() - start
        run = actlab.open_run(path)
        n_rows = run["train"].sizes["step"]
        disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"{describe_machine()}; {time.strftime('%Y-%m-%d')}\n")
    print(
        "| steps | recorded: resident, MB | allocated, MB | objects | bare: resident | allocated | objects |"
    )
    print("|---" * 7 + "|")
    for own, other in zip(recorded, bare, strict=True):
        print(f"| {own.step:,} | {own} | {other} |")
    # The first tenth loads modules and fills buffers.
    first, last = next(look for look in recorded if look.step >= n_steps / 10), recorded[-1]
    print(
        f"\nFrom step {first.step:,} to {last.step:,}: {last.allocated - first.allocated:+.1f} MB allocated, "
        f"{last.resident - first.resident:+.1f} MB resident, {last.objects - first.objects:+,} objects."
    )
    print(f"{n_rows:,} of {n_steps:,} rows on disk, {disk / n_rows:.0f} bytes each; {seconds:.0f} s.")


if __name__ == "__main__":
    main()
