"""What recording costs: the demo's training step with and without a recorder, side by side.

Run by ``make bench``. Two equal models take turns, a few steps each, on one core. Every round gives
one ratio, so what slows the machine down for a while slows both. Prints rows for README.md.
"""

import runpy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import actlab

DEMO = runpy.run_path(str(Path(__file__).parent.parent / "recipes" / "mnist_3_vs_7" / "train.py"))
BATCH_SIZES = (50, 200, 800)
N_ROUNDS = 30
N_STEPS = 5


def learn(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Do what a training step does after the forward pass."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def seconds(job: Callable[[], object]) -> float:
    """Time one job."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def measure(batch_size: int, folder: Path) -> tuple[float, list[float], list[float]]:
    """Compare bare and recorded steps at one batch size.

    Returns
    -------
    tuple
        Milliseconds of a bare step (median), and two ratios to it for each round: the recorded steps
        alone, and with all writing to disk waited for.
    """
    images = torch.randn(batch_size, 1, 28, 28)
    labels = torch.randint(0, 2, (batch_size,))
    bare, recorded = DEMO["build_model"](), DEMO["build_model"]()
    optimizers = {model: torch.optim.SGD(model.parameters(), lr=0.01) for model in (bare, recorded)}
    times: list[float] = []
    ratios: list[float] = []
    ratios_written: list[float] = []
    with actlab.Recorder(recorded, folder / f"{batch_size}.zarr") as recorder:

        def bare_steps() -> None:
            for _ in range(N_STEPS):
                learn(cross_entropy(bare(images), labels), optimizers[bare])

        def recorded_steps() -> None:
            for _ in range(N_STEPS):
                with recorder.batch("train", epoch=0, labels=labels):
                    loss = cross_entropy(recorded(images), labels)
                learn(loss, optimizers[recorded])

        for warm_up in (bare_steps, recorded_steps, recorder.flush):
            warm_up()
        for _ in range(N_ROUNDS):
            with_recorder = seconds(recorded_steps)
            writing = seconds(recorder.flush)
            without = seconds(bare_steps)
            times.append(without / N_STEPS)
            ratios.append(with_recorder / without)
            ratios_written.append((with_recorder + writing) / without)
    return 1e3 * statistics.median(times), ratios, ratios_written


def spread(ratios: list[float]) -> str:
    """Write the median with the quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Measure every batch size and print one table row each."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("| batch size | bare step, ms | recorded / bare | the same, disk waited for |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for batch_size in BATCH_SIZES:
            bare, ratios, written = measure(batch_size, Path(folder))
            print(f"| {batch_size} | {bare:.1f} | {spread(ratios)} | {spread(written)} |", flush=True)


if __name__ == "__main__":
    main()
