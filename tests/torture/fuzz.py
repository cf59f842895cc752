"""Fuzz: damaged metadata, chunks that lie under a right checksum, and runs made to harm who opens them.

Every case is a finished run, mutated by a random generator that is a pure function of (seed, number), and
opened in a child process. All that may come of it is one `StoreError` or the data as recorded, within a
second of work and 100 MB of memory counted after import, without a crash, a hang, or a look at anything
outside the run.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.torture.common import ROOT, Result, main, scratch
from tests.torture.hostile import CORPUS
from tests.torture.samples import record_sample

QUICK, LONG, BATCH = 100, 1200, 200
CONTROLS = ("gzip-bomb", "chunk-link", "folder-link", "chunk-fifo")  # memory, files outside, a hang
PATIENCE = {"actlab": 20.0, "plain": 5.0, "": 120.0}  # seconds without a word from the child: it hangs


@dataclass
class Tally:
    """What came of the cases so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    largest: float = 0.0

    def take(self, line: dict[str, Any]) -> None:
        """Count one case as the child reports it."""
        self.outcomes[line["outcome"]] += 1
        self.slowest, self.largest = max(self.slowest, line["seconds"]), max(self.largest, line["megabytes"])
        if line["problems"]:
            self.failures.append(f"case {line['case']}: {', '.join(line['problems'])}")

    def result(self, name: str, seed: int) -> Result:
        """Return the line that is published."""
        shares = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        notes = f"{shares}; at most {self.slowest:.2f} s, {self.largest:.0f} MB"
        wrong = self.outcomes["wrong"]
        return Result(
            name,
            tried=self.outcomes.total(),
            wrong=wrong,
            unopenable=len(self.failures) - wrong,
            notes="; ".join([notes, *self.failures[:20]]),
            seed=seed,
        )


def run_cases(folder: Path, seed: int, cases: list[str], tally: Tally, reader: str = "actlab") -> list[str]:
    """Run cases in one child; return those that are left where it ended early."""
    command = [sys.executable, "-m", "tests.torture.fuzz_child", reader]
    command += [str(folder), str(seed), ",".join(cases)]
    errors = folder / "errors.txt"
    with errors.open("wb") as sink:
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=sink, bufsize=0)
    running, hangs = "", False
    with child:
        while True:
            # Unbuffered: what `select` cannot see must not wait in a buffer.
            patience = PATIENCE[reader if running else ""]
            hangs = not select.select([child.stdout], [], [], patience)[0]
            if hangs or not (text := child.stdout.readline()):
                break
            line = json.loads(text)
            running = "" if "outcome" in line else line["case"]
            if not running:
                tally.take(line)
        if hangs:
            child.kill()
    if not running and child.returncode == 0:
        return []
    assert running, errors.read_text()[-2000:]
    tally.outcomes["crash"] += 1
    why = "hangs" if hangs else f"ends the process with status {child.returncode}"
    tally.failures.append(f"case {running}: {why}: {errors.read_text()[-300:]}")
    return cases[cases.index(running) + 1 :]


def run(*, long: bool, seed: int, count: int = 0) -> Iterator[Result]:
    """Run the hostile corpus and as many random cases as the form has, or `count`."""
    count = count or (LONG if long else QUICK)
    numbers = [str(number) for number in range(count)]
    with scratch() as folder:
        record_sample(folder / "sample.zarr", seed, attempts=2, side=long)
        for name, cases in (("hostile stores", list(CORPUS)), ("fuzzed stores", numbers)):
            tally, left = Tally(), cases
            while left:
                left = run_cases(folder, seed, left[:BATCH], tally) + left[BATCH:]
            yield tally.result(name, seed)
        control, left = Tally(), list(CONTROLS)
        while left:
            left = run_cases(folder, seed, left, control, "plain")
        yield replace(control.result("hostile stores, plain xarray", seed), control=True)


if __name__ == "__main__":
    main(run)
