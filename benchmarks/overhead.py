"""What recording costs: the step time of ResNet-18 under several recorders, over that of none.

Run by ``make bench``. Equal trainings, one for each recorder, take turns: in every round each takes
one step, in random order. A ratio is a step over the unrecorded step of the same round, so what slows
the machine down for a while slows both. Nothing is left out but the two rounds that warm up. The row of
every 10th step weighs the ratio of the recorded step with one tenth, and the median of the nine others
with nine. Prints a table for README.md.

    python benchmarks/overhead.py [--quick] [--threads N] [--rounds N]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

import actlab
from models import Setting, Training, describe_machine

SETTINGS = (Setting(32, 32), Setting(224, 8), Setting(32, 32, autocast=True))
N_WARM_UP = 2
PERIOD = 10  # "every 10th step"; rounds come in blocks of so many
EVERY_10TH = "actlab, every 10th step"
STEPS_A_COMMIT = 4  # a second of training, more or less: the default of `flush_every`
HISTORY = 10  # steps that the others' recorders keep: theirs grows, and would slow them further


class Watcher:
    """What stands beside a training: `batch` goes round its forward pass, `settle` ends a step."""

    charge = 0.0  # processor seconds a step, spent elsewhere on what the steps left for later

    def batch(self) -> AbstractContextManager[object] | None:
        return None

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class Hooked(Watcher):
    """One number, histogram or other `summary` of every leaf's output, put together by `keep`."""

    def __init__(
        self,
        model: nn.Module,
        summary: Callable[[torch.Tensor], object],
        keep: Callable[[list[object]], object] | None = None,
    ) -> None:
        self._stored: list[object] = []
        self._keep = deque[object](maxlen=HISTORY).append if keep is None else keep

        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            self._stored.append(summary(output.detach()))

        for module in model.modules():
            if not any(True for _ in module.children()):
                module.register_forward_hook(hook)

    @contextmanager
    def batch(self) -> Iterator[None]:
        yield
        self._keep(self._stored)
        self._stored = []


class Actlab(Watcher):
    """The recorder, with every leaf and the input.

    Its rows are written by a thread of its own. So that no other training pays for that, the thread
    works only in `settle`, once in about a second of training as by default, and its processor time is
    charged to the steps: in a real training the two share the cores.
    """

    def __init__(self, model: nn.Module, folder: str, *, every: int = 1) -> None:
        others = set(threading.enumerate())
        self._recorder = actlab.Recorder(model, Path(folder) / "run.zarr", every=every, flush_every=1e6)
        self._clocks = [
            time.pthread_getcpuclockid(thread.ident)
            for thread in set(threading.enumerate()) - others
            if thread.ident is not None
        ]
        self._start = self._read_clocks()
        self._n_steps = 0

    def _read_clocks(self) -> float:
        return sum(map(time.clock_gettime, self._clocks))

    @property
    def charge(self) -> float:  # type: ignore[override]
        return (self._read_clocks() - self._start) / self._n_steps

    def batch(self) -> AbstractContextManager[object]:
        return self._recorder.batch("train", epoch=0)

    def settle(self) -> None:
        self._n_steps += 1
        if self._n_steps % STEPS_A_COMMIT == 0:
            self._recorder.flush()

    def close(self) -> None:
        self._recorder.close()


def colorfuldim(model: nn.Module) -> Watcher:
    """The first *colorful dimension*: histc of a copy, stacked over the layers, appended for each batch.

    By artste/colorfuldim, fastai/v1: one histogram of fixed range for each layer. `float()` is the
    way round its failure in mixed precision (its issue 2).
    """
    history = torch.empty(0)

    def summary(output: torch.Tensor) -> object:
        return output.clone().cpu().float().histc(200, -10, 10).unsqueeze(1)

    def keep(stored: list[torch.Tensor]) -> None:
        nonlocal history
        row = torch.stack(stored).unsqueeze(1)
        history = torch.cat([history[:, 1 - HISTORY :], row], dim=1) if history.numel() else row

    return Hooked(model, summary, keep)  # type: ignore[arg-type]


def fastai_summary(output: torch.Tensor) -> object:
    """fastai 2's `ActivationStats(with_hist=True)`: moments, share of values near zero, 40 bins."""
    values = output.cpu().float()
    return {
        "mean": values.mean().item(),
        "std": values.std().item(),
        "near_zero": (values <= 0.05).long().sum().item() / values.numel(),
        "hist": values.histc(40, 0, 10),
    }


def min_max_summary(output: torch.Tensor) -> object:
    """64 bins between the smallest and the largest value, as experiment trackers keep them."""
    values = output.float()
    low, high = values.aminmax()
    return low.item(), high.item(), values.histc(64, low.item(), high.item())


WATCHERS: dict[str, Callable[[nn.Module, str], Watcher]] = {
    "none": lambda _model, _folder: Watcher(),
    "none, once more": lambda _model, _folder: Watcher(),
    "actlab": Actlab,
    EVERY_10TH: lambda model, folder: Actlab(model, folder, every=PERIOD),
    "one `x.sum()`": lambda model, _: Hooked(model, torch.sum),
    "64 min-max bins": lambda model, _: Hooked(model, min_max_summary),
    "colorfuldim's 200 bins": lambda model, _: colorfuldim(model),
    "fastai's `ActivationStats`, 40 bins": lambda model, _: Hooked(model, fastai_summary),
}


def measure(setting: Setting, n_rounds: int) -> dict[str, list[float]]:
    """Let all trainings take turns; return the seconds of every step, by watcher."""
    trainings = {name: Training(setting) for name in WATCHERS}
    seconds: dict[str, list[float]] = {name: [] for name in WATCHERS}
    order = list(WATCHERS)
    with ExitStack() as stack:
        watchers = {}
        for name, training in trainings.items():
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            watchers[name] = WATCHERS[name](training.model, folder)
            stack.callback(watchers[name].close)
        for number in range(N_WARM_UP + n_rounds):
            random.shuffle(order)
            for name in order:
                took = trainings[name].step(watchers[name].batch())
                watchers[name].settle()
                if number >= N_WARM_UP:
                    seconds[name].append(took)
        return {name: [took + watchers[name].charge for took in each] for name, each in seconds.items()}


def ratios(seconds: dict[str, list[float]], name: str) -> list[float]:
    """Return the ratio to no recording of each round; for every 10th step, of each block of ten rounds."""
    each = [own / bare for own, bare in zip(seconds[name], seconds["none"], strict=True)]
    if name != EVERY_10TH:
        return each
    # The recorder counts the warm-up as well: one round of each block is a multiple of ten to it.
    recorded = -N_WARM_UP % PERIOD
    blocks = [each[start : start + PERIOD] for start in range(0, len(each), PERIOD)]
    others = [statistics.median(block[:recorded] + block[recorded + 1 :]) for block in blocks]
    return [
        (block[recorded] + (PERIOD - 1) * other) / PERIOD for block, other in zip(blocks, others, strict=True)
    ]


def spread(values: list[float]) -> str:
    """Write the median with the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measure every setting, and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="10 rounds instead of 50")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch, 2 by default")
    parser.add_argument("--rounds", type=int, help="rounds, a multiple of 10")
    options = parser.parse_args()
    n_rounds = options.rounds or (10 if options.quick else 50)
    if n_rounds % PERIOD:
        parser.error(f"--rounds must be a multiple of {PERIOD}")
    random.seed(0)
    torch.set_num_threads(options.threads)
    measured = [measure(setting, n_rounds) for setting in SETTINGS]
    print(f"n = {n_rounds} rounds; {describe_machine()}; {time.strftime('%Y-%m-%d')}\n")
    print("| recorded by | " + " | ".join(setting.name for setting in SETTINGS) + " |")
    print("|---" * (1 + len(SETTINGS)) + "|")
    steps = [f"{1e3 * statistics.median(seconds['none']):.0f} ms" for seconds in measured]
    print("| none | " + " | ".join(steps) + " |")
    for name in list(WATCHERS)[1:]:
        cells = [spread(ratios(seconds, name)) for seconds in measured]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
