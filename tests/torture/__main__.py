"""`make torture`: the long form of every harness, and their last counts in docs/reliability.md.

    python -m tests.torture [--seed N] [--quick]

As many harnesses run at a time as there are cores. The exit status is 1 if a store lost anything, or a
control did not fail.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.torture.common import ROOT, Result

HARNESSES = (  # the longest first
    "crash_points",
    "faults",
    "kills",
    "hypothesis_model",
    "object_storage",
    "live_readers",
    "mutations",
    "fuzz",
    "copies",
    "power_cut",
    "disk_full",
    "two_writers",
)
PAGE = ROOT / "docs" / "reliability.md"
_BEGIN, _END = "<!-- counts -->\n", "<!-- end of counts -->\n"
_LONGEST_NOTE = 160


def run_harness(name: str, seed: int, *, long: bool) -> tuple[list[Result], float]:
    """Run a harness in a process of its own; return its results and the seconds it took."""
    start = time.monotonic()
    command = [sys.executable, "-m", f"tests.torture.{name}", "--seed", str(seed), *(["--long"] * long)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    results = [Result(**json.loads(line)) for line in ended.stdout.splitlines() if line.startswith("{")]
    if not results or (ended.returncode != 0 and all(result.passed for result in results)):
        problem = " ".join(ended.stderr.split())[-_LONGEST_NOTE:]
        results.append(Result(f"{name}: ended with status {ended.returncode}", 0, seed=seed, notes=problem))
    seconds = time.monotonic() - start
    for result in results:
        sys.stdout.write(f"{'ok  ' if result.passed else 'FAIL'} {result.line()}\n")
    sys.stdout.write(f"     {name}: {seconds:.0f} s\n")
    sys.stdout.flush()
    return results, seconds


def table(results: list[Result], heading: str) -> str:
    """Return the results as Markdown."""
    lines = [
        f"| {heading} | tried | lost | wrong | torn | unopenable | bound, 95 % | seed | |",
        "|---|---" + "|---" * 7 + "|",
    ]
    for each in results:
        bound = f"{300 / each.tried:.2g} %" if each.tried and not each.bad else ""
        note = each.notes.replace("|", "/").replace("\n", " ")[:_LONGEST_NOTE]
        counts = (each.lost, each.wrong, each.torn, each.unopenable)
        cells = [each.name, f"{each.tried:,}", *map(str, counts), bound, str(each.seed), note]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Say where and when it ran, with what."""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("numpy", "numcodecs", "zarr", "xarray", "torch")
    )
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {system}, {packages}"


def publish(page: Path, results: list[Result], minutes: float) -> None:
    """Write the counts into the page, between its marks."""
    sound = [result for result in results if not result.control]
    controls = [result for result in results if result.control]
    failed = sum(result.passed for result in controls)
    text = f"{machine()}; {minutes:.0f} minutes.\n\n{table(sound, 'harness')}\n"
    text += f"Controls, which must fail ({failed} of {len(controls)} did):\n\n{table(controls, 'control')}"
    before, rest = page.read_text(encoding="utf-8").split(_BEGIN)
    page.write_text(before + _BEGIN + "\n" + text + "\n" + _END + rest.split(_END)[1], encoding="utf-8")


def main() -> None:
    """Run all harnesses and publish what they found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--quick", action="store_true", help="the short forms; the page stays as it is")
    options = parser.parse_args()
    start = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(
            pool.map(lambda name: run_harness(name, options.seed, long=not options.quick), HARNESSES)
        )
    results = [result for each, _ in found for result in each]
    minutes = (time.monotonic() - start) / 60
    if not options.quick:
        publish(PAGE, results, minutes)
    failed = [result.name for result in results if not result.passed]
    sys.stdout.write(f"{len(results)} results in {minutes:.1f} minutes, seed {options.seed}\n")
    sys.exit(f"not as they must be: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
