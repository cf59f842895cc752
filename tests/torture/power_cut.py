"""Power cuts on a real ext4: the file system is stopped without its journal, unmounted and mounted again.

Needs root: the file system lies in a file, mounted by a loop device. What was not synced is gone
after EXT4_IOC_SHUTDOWN with NOLOGFLUSH, as after a real power cut on a disk that is honest about fsync.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.torture.common import Checker, Result, as_row, axis, main, scratch
from tests.torture.kills import Tally, has_attempt
from tests.torture.lives import Attempt, Child, History, Report
from tests.torture.rows import events

_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2
MOUNTS = ("commit=1", "defaults", "commit=1,noauto_da_alloc")


class Disk:
    """A file system of its own, in a file."""

    def __init__(self, folder: Path, options: str) -> None:
        self._image, self.path, self._options = folder / "disk.img", folder / "disk", options
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(128 << 20)
        _call("mkfs.ext4", "-q", "-F", self._image)
        self._mount()

    def cut(self) -> None:
        """Cut the power: nothing more reaches the disk."""
        handle = os.open(self.path, os.O_RDONLY)
        fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        os.close(handle)

    def restart(self) -> None:
        """Mount it again, once all who used it are gone."""
        self.close()
        self._mount()

    def close(self) -> None:
        _call("umount", self.path)

    def _mount(self) -> None:
        _call("mount", "-o", f"loop,{self._options}", self._image, self.path)


def _call(*command) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True)


@contextmanager
def own_disk(options: str) -> Iterator[Disk]:
    """Make a disk and take it away again."""
    with scratch() as folder:
        disk = Disk(folder, options)
        try:
            yield disk
        finally:
            disk.close()


def write_rows(
    report: Report, path: Path, seed: int, number: int, start: Attempt, how: dict, fsync: bool
) -> None:
    """Be a training that commits every two rows as fast as it can, until the disk is gone."""
    import warnings

    from actlab.errors import StoreError
    from actlab.store.writer import RunWriter

    warnings.simplefilter("ignore")
    try:
        writer = RunWriter(path, axis=axis(), attributes={}, flush_every=0, fsync=fsync, **how)
    except StoreError:  # the disk is gone already
        return
    report(0)
    due = {}
    for count, (split, step) in enumerate(events(start.train, start.valid), 1):
        writer.append(as_row(seed, number, step, split))
        due[split] = step
        if count % 2 == 0 and due.items() <= writer.flush().items():
            report(count)


def cut_power(options: str, n_cuts: int, seed: int, *, fsync: bool) -> Result:
    """Cut the power so many times, on disks mounted with these options."""
    chance = random.Random(f"{seed} {options}")
    name = f"power cuts, ext4 {options}{'' if fsync else ', no fsync'}"
    tally = Tally(name, seed, control=not fsync)
    with Checker() as checker:
        while tally.result.tried < n_cuts and (not tally.result.bad or not fsync):
            with own_disk(options) as disk:
                _cut_disk(tally, checker, disk, seed + tally.result.tried, chance, n_cuts, fsync)
    return tally.done()


def _cut_disk(
    tally: Tally, checker: Checker, disk: Disk, seed: int, chance: random.Random, n_cuts: int, fsync: bool
) -> None:
    """Cut the power of one disk up to five times, while a run on it is resumed."""
    path, history = disk.path / "run.zarr", History()
    for _ in range(min(5, n_cuts - tally.result.tried)):
        number, start = history.next()
        how = {"resume": True} if history.attempts else {}

        def job(report, number=number, start=start, how=how):
            write_rows(report, path, seed, number, start, how, fsync)

        child = Child(job)
        child.wait(chance.uniform(0.2, 1.2))
        disk.cut()
        told = max(child.kill(), default=-1)
        disk.restart()
        if told >= 0 or has_attempt(path, number, start):
            history.took(number, start, max(told, 0))
        if not tally.verify(checker, path, seed, history, max(told, 0)):
            return


def run(*, long: bool, seed: int) -> Iterator[Result]:
    """Yield the results for every way to mount, and of a writer without fsync, which must fail."""
    if os.geteuid() != 0:
        yield Result("power cuts", 0, seed=seed, notes="not root: not run")
        return
    import actlab.store.writer  # noqa: F401 - before the forks, which then cost no start

    for options in MOUNTS if long else MOUNTS[:1]:
        yield cut_power(options, 20 if long else 3, seed, fsync=True)
    yield cut_power(MOUNTS[0], 10 if long else 2, seed, fsync=False)


if __name__ == "__main__":
    main(run)
