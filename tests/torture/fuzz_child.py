"""The process in which mutated runs are opened: `fuzz_child READER FOLDER SEED CASES`, a JSON line a case."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import site
import sys
import sysconfig
from pathlib import Path
from time import process_time
from typing import Any

from tests.torture.hostile import CORPUS
from tests.torture.mutations import plain
from tests.torture.mutators import mutate
from tests.torture.samples import contents, files_of, lay_out

LIMIT_SECONDS, LIMIT_MEGABYTES = 1.0, 100.0
HEADROOM = 4 << 30  # bytes that a case may ask for: the machine must survive a wild one
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.remove", "os.rename")


class Guard:
    """Listens to what Python opens and starts while a case runs."""

    def __init__(self, store: Path) -> None:
        self.found: list[str] = []
        self.listening = False
        python = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *site.getsitepackages()}
        self._allowed = (f"{store.parent}/", *python, "/proc/self/", "/sys/")
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.listening:
            return
        if event.startswith(FORBIDDEN):
            self.found.append(f"{event}{args!r:.80}")
        elif event in ("open", "os.listdir", "os.scandir") and isinstance(args[0], str | bytes):
            path = os.fsdecode(args[0])
            if path[:1] == "/":
                is_inside = os.path.realpath(path).startswith(self._allowed)
            else:  # below a directory that is open already
                is_inside = os.sep not in path and path != ".." and args[-1] & os.O_NOFOLLOW
            if not is_inside:
                self.found.append(f"{event} {path!r:.80}")


def status(name: str) -> float:
    """Return a line of /proc/self/status, in MB."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) / 1024


def say(**line: Any) -> None:
    """Tell the parent a line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def look(store: Path, truth: dict[str, str]) -> tuple[str, list[str]]:
    """Open a mutated run in both ways; return what came of it and what should not have."""
    from actlab.run import open_run

    problems: list[str] = []
    outcomes = []
    for options in ({"verify": "rows", "all_attempts": True}, {}):
        try:
            run = open_run(store, **options)
            found = contents(run)
            assert repr(run)
            assert len(run.layers) == len(run.names)
        except OSError as error:
            text = str(error)
            outcomes.append("refused")
            if type(error).__name__ != "StoreError" or "\n" in text or not text.startswith(str(store)):
                problems.append(f"{type(error).__name__} {options}: {text[:200]!r}")
        except BaseException as error:  # noqa: BLE001 - a fuzzer wants to know all of them
            outcomes.append("error")
            problems.append(f"{type(error).__name__} {options}: {str(error)[:200]!r}")
        else:
            outcomes.append("same" if options == {} or found == truth else "wrong")
            if outcomes[-1] == "wrong":
                differs = [key for key in found.keys() | truth if found.get(key) != truth.get(key)]
                problems.append(f"silently wrong: {sorted(differs)[:4]}")
    return outcomes[0], problems


def look_plainly(store: Path, _: dict[str, str]) -> tuple[str, list[str]]:
    """Open a mutated run by plain xarray: the control."""
    try:
        plain(store)
    except Exception:  # noqa: BLE001 - plain readers have many
        return "refused", []
    return "read", []


def prepare(case: str, seed: int, store: Path, files: dict[str, bytes]) -> tuple[Path, str]:
    """Lay out one case; return where, and what it is."""
    lay_out(store, files)
    if case in CORPUS:
        CORPUS[case](store)
        return store, case
    name, data, what = mutate(files, f"{seed}:{case}")
    path = store / name if name else store.with_name("run.zarr.zip")
    path.write_bytes(data)
    return (store if name else path), f"{what} {name}"


def main(reader: str, folder: Path, seed: int, cases: list[str]) -> None:
    """Run the cases; the line before each one says which, should it be the last."""
    from actlab.run import open_run

    see = {"actlab": look, "plain": look_plainly}[reader]
    files = files_of(folder / "sample.zarr")
    store = folder / "store" / "run.zarr"  # alone in its folder but for an archive
    guard = Guard(store)
    lay_out(store, files)
    truth = contents(open_run(store, verify="rows", all_attempts=True))
    contents(open_run(store))
    see(store, truth)
    (store / "zarr.json").write_text("{}")
    see(store, truth)
    size = int(status("VmSize") * (1 << 20)) + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    for case in cases:
        path, what = prepare(case, seed, store, files)
        say(case=case)
        ctypes.CDLL(None).malloc_trim(0)  # what laying out took
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before = status("VmRSS")
        guard.found.clear()
        guard.listening, begun = True, process_time()
        outcome, problems = see(path, truth)
        guard.listening, seconds = False, process_time() - begun
        megabytes = status("VmHWM") - before
        if seconds > LIMIT_SECONDS:
            problems.append(f"took {seconds:.1f} s")
        if megabytes > LIMIT_MEGABYTES:
            problems.append(f"took {megabytes:.0f} MB")
        problems += [f"touched {each}" for each in dict.fromkeys(guard.found)]
        problems = [f"{what}: {each}" for each in problems]
        say(case=case, outcome=outcome, seconds=seconds, megabytes=megabytes, problems=problems)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(","))
