"""Disks that are full, limited or read-only, and every way in which a training may end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path

from tests.torture.common import ROOT, Checker, Result, as_row, axis, main, scratch
from tests.torture.lives import Attempt, Child, History, Report, last_steps
from tests.torture.rows import events

_NOBODY = 65534
_ROWS = 60


# What a disk may do. Each of these stands for a while between a writer and the rows it wants to write.


@contextmanager
def filled(path: Path) -> Iterator[None]:
    """Fill the file system up."""
    ballast = path.parent / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    yield
    ballast.unlink()


@contextmanager
def limited(_: Path) -> Iterator[None]:
    """Limit the size of files."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Take the right to write away; a second writer, and a new run within, are refused, too."""
    from actlab.errors import StoreError
    from actlab.store.writer import RunWriter

    folders = [path, *(each for each in path.rglob("*") if each.is_dir())]
    for each in folders:
        each.chmod(0o555)
    for where in (path / "other.zarr", path):
        with suppress(StoreError):
            RunWriter(where, axis=axis(), attributes={}, resume=True)
            raise AssertionError(f"{where} could be opened")
    yield
    for each in folders:
        each.chmod(0o755)


def record_through(report: Report, path: Path, seed: int, obstacle: Callable) -> None:
    """Be a training that meets an obstacle; report how many rows it recorded, and its warnings."""
    from actlab.store.writer import RunWriter

    as_row(seed, 0, 0)  # which imports what nobody else may read
    if obstacle is read_only and os.geteuid() == 0:
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    rows = events()

    def append(number: int) -> None:
        for split, step in islice(rows, number):
            assert writer.append(as_row(seed, 0, step, split))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        writer = RunWriter(path, axis=axis(), attributes={}, flush_every=3600, fsync=False)
        append(20)
        assert writer.flush() == last_steps(Attempt(), 20)
        with obstacle(path):
            for _ in range(3):
                append(_ROWS // 3)
                assert writer.flush() == last_steps(Attempt(), 20)
            report("refused")
        limit = time.monotonic() + 60
        while writer.flush() != last_steps(Attempt(), 20 + _ROWS):
            assert time.monotonic() < limit
        writer.close()
    report([str(each.message) for each in told])


def meet(name: str, obstacle: Callable, number: int, seed: int) -> Result:
    """Meet an obstacle so many times; all rows must be there in the end, after one warning."""
    result = Result(name, 0, seed=seed)
    with Checker() as checker:
        for _ in range(number):
            with scratch() as outside, ExitStack() as stack:
                outside.chmod(0o755)
                folder = outside / "disk"
                folder.mkdir()
                folder.chmod(0o777)
                if obstacle is filled:
                    _call("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder)
                    stack.callback(_call, "umount", "-l", folder)
                path = folder / "run.zarr"
                child = Child(lambda report, path=path: record_through(report, path, seed, obstacle))
                reports = child.reports()
                result.tried += 1
                if child.status != 0:
                    result.lost += 1
                    result.notes = result.notes or f"the training noticed, after {reports}"
                    continue
                _judge(result, checker.check(path, seed), 20 + _ROWS)
                if len(told := reports[-1]) != 1 or "tried again" not in told[0]:
                    result.wrong += 1
                    result.notes = result.notes or f"warnings: {told}"
    return result


def _call(*command) -> None:
    subprocess.run([*map(str, command)], check=True)


def _judge(result: Result, found: dict, count: int) -> None:
    """Count what is bad about a store that must hold the first `count` rows."""
    result.unopenable += bool(found["error"])
    result.torn += bool(found["torn"])
    result.wrong += bool(found["wrong"])
    problem = found["error"] or next(iter([*found["torn"], *found["wrong"]]), "")
    if not found["error"]:
        history = History([Attempt(rows=count)])
        is_short = bool(history.missing(found)) or history.attempts[0].rows != count
        result.lost += is_short
        problem = problem or (f"rows {found['rows']}, expected {count}" if is_short else "")
    result.notes = result.notes or str(problem)[:300]


# How a training may end. Each is a program of its own, and holds 20 rows that are not committed yet.

_BEGIN = """
import os, signal, sys, threading, time
from itertools import islice
from tests.torture.common import as_row, axis
from tests.torture.rows import events
from actlab.store.writer import RunWriter
path, seed = sys.argv[1], int(sys.argv[2])
writer = RunWriter(path, axis=axis(), attributes={}, flush_every=3600, fsync=False)
rows = events()
def append(n):
    for split, step in islice(rows, n):
        assert writer.append(as_row(seed, 0, step, split))
append(10)
writer.flush()
append(20)
"""
_CHILDREN = """
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        assert not writer.append(as_row(seed, 0, 99)) and writer.flush() == {}
        return index
assert len(list(torch.utils.data.DataLoader(Data(), num_workers=2))) == 8
"""
_FORK = """
child = os.fork()
if child == 0:
    assert not writer.append(as_row(seed, 0, 99)) and writer.flush() == {}
    writer.close()
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
append(5)
"""
_HANDLER = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"

# A shell lets what it starts in the background ignore SIGINT.
_LISTEN = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
ENDS: dict[str, tuple[str, int, int]] = {
    "end of main": ("", 0, 30),
    "sys.exit": ("sys.exit(3)", 3, 30),
    "exception": ("raise KeyError", 1, 30),
    "exception in a thread": ("threading.Thread(target=lambda: 1 / 0).start()", 0, 30),
    "SIGINT": (_LISTEN + "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -2, 30),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -15, 10),
    "SIGTERM with a handler": (_HANDLER + "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 7, 30),
    "os._exit": ("os._exit(5)", 5, 10),
    "forked child": (_FORK, 0, 35),
    "DataLoader workers": ("import torch, torch.utils.data\n" + _CHILDREN, 0, 30),
}
"""Name -> (how the program goes on, its exit status, how many rows must be there)."""


def end(checker: Checker, path: Path, seed: int, name: str, result: Result) -> None:
    """End a training in one way and look at what is there."""
    code, status, count = ENDS[name]
    program = [sys.executable, "-c", _BEGIN + code, path, str(seed)]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    result.tried += 1
    if ended.returncode != status:
        result.lost += 1
        result.notes = result.notes or f"{name}: status {ended.returncode}: {ended.stderr[-300:]}"
    _judge(result, checker.check(path, seed), count)


def end_all(names: list[str], number: int, seed: int) -> Result:
    """End trainings in all these ways, so many times each."""
    result = Result("ends of a training", 0, seed=seed)
    with scratch() as folder, Checker() as checker:
        for index in range(number):
            for name in names:
                end(checker, folder / f"{name}{index}.zarr".replace(" ", "_"), seed, name, result)
    result.notes = "; ".join(filter(None, [f"{len(names)} ways", result.notes]))
    return result


def run(*, long: bool, seed: int) -> Iterator[Result]:
    """Yield the results of all disks and ends."""
    import actlab.store.writer  # noqa: F401 - before the forks, which then cost no start

    number = 20 if long else 1
    if os.geteuid() == 0:
        yield meet("disk full, then freed", filled, number, seed)
    elif long:
        yield Result("disk full, then freed", 0, seed=seed, notes="not root: not run")
    yield meet("files limited, then not", limited, number, seed)
    yield meet("read-only, then not", read_only, number, seed)
    names = list(ENDS) if long else ["exception", "SIGTERM", "SIGTERM with a handler", "forked child"]
    yield end_all(names, 5 if long else 1, seed)


if __name__ == "__main__":
    main(run)
