"""What watching costs the training that is watched: step times with and without a watcher beside it.

One training of ResNet-18 is recorded all the time. `actlab watch` stands beside it in a process of its
own, with its page open in headless Chromium. In turns of some seconds, in random order, both are stopped
(SIGSTOP) and let go on (SIGCONT), so what slows the machine down for a while slows both. The first steps of
a turn are left out. A ratio is the median step of a watched turn over that of the other turn of its pair.

    python benchmarks/watch.py [--threads N] [--pairs N] [--seconds S] [--no-page]
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from playwright.sync_api import sync_playwright

import actlab
from models import Setting, Training, describe_machine

SETTING = Setting(32, 32)
LEFT_OUT = 2  # steps at the start of a turn
SHORTEST = 5


@contextmanager
def watcher(path: Path, *, page: bool) -> Iterator[list[psutil.Process]]:
    """Watch a run, and yield the processes that do."""
    words = [sys.executable, "-m", "actlab", "watch", str(path), "--port", "0"]
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        assert server.stdout is not None
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        before = {each.pid for each in psutil.Process().children(recursive=True)}
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        if page:
            opened = browser.new_page(viewport={"width": 1440, "height": 900})
            opened.goto(address)
            opened.wait_for_selector("html[data-ready]")
        everyone = psutil.Process().children(recursive=True)
        yield [each for each in everyone if each.pid == server.pid or each.pid not in before]
        browser.close()
        server.send_signal(signal.SIGINT)


def tell(processes: list[psutil.Process], what: signal.Signals) -> None:
    """Stop processes, or let them go on."""
    for each in processes:
        os.kill(each.pid, what)


def measure(n_pairs: int, seconds: float, *, page: bool) -> list[dict[bool, float]]:
    """Return the median step of each turn, by whether it was watched."""
    chance, pairs = random.Random(0), list[dict[bool, float]]()
    with tempfile.TemporaryDirectory() as folder:
        path, training = Path(folder) / "run.zarr", Training(SETTING)
        with actlab.Recorder(training.model, path) as recorder, watcher(path, page=page) as processes:
            for number in range(n_pairs + 1):
                pair = dict[bool, float]()
                for watched in chance.sample([True, False], 2):
                    tell(processes, signal.SIGCONT if watched else signal.SIGSTOP)
                    steps, end = list[float](), time.perf_counter() + seconds
                    while time.perf_counter() < end or len(steps) < LEFT_OUT + SHORTEST:
                        steps.append(training.step(recorder.batch("train", epoch=number)))
                    pair[watched] = statistics.median(steps[LEFT_OUT:])
                pairs.append(pair)
            tell(processes, signal.SIGCONT)
    return pairs[1:]  # the first pair warms up


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--no-page", dest="page", action="store_false")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pairs = measure(options.pairs, options.seconds, page=options.page)
    low, middle, high = statistics.quantiles([pair[True] / pair[False] for pair in pairs], n=4)
    step = statistics.median(pair[False] for pair in pairs)
    print(f"step {1000 * step:.0f} ms; watched / unwatched {middle:.3f} ({low:.3f} to {high:.3f})")
    print(f"Median and quartiles of {len(pairs)} pairs of turns; {describe_machine()}.")


if __name__ == "__main__":
    main()
