"""Writers that end, and a disk that can be made to fail, for the tests of the store."""

import errno
import os
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

from actlab.store.writer import RunWriter


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


@pytest.fixture
def start(path, small_axis):
    """Return a function that starts a writer; all are closed at the end."""
    started = []

    def begin(**options):
        options = {"attributes": {}, "fsync": False, "flush_every": 0.01} | options
        started.append(RunWriter(path, axis=small_axis, **options))
        return started[-1]

    yield begin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for writer in started:
            writer.close()


class FailingDisk:
    """Counts every call that changes the disk, and refuses some of them: [first, first + times)."""

    def __init__(self, first, times):
        self.first, self.times, self.calls = first, times, 0

    def step(self):
        self.calls += 1
        if self.first <= self.calls < self.first + self.times:
            raise OSError(errno.ENOSPC, "No space left on device")

    def guard(self, call):
        def guarded(*args, **options):
            self.step()
            return call(*args, **options)

        return guarded


class HalfWrittenFile:
    """A file whose write leaves half of the data when the disk is full."""

    def __init__(self, disk, file):
        self.disk, self.file = disk, file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        try:
            self.disk.step()
        except OSError:
            self.file.write(data[: len(data) // 2])
            raise
        self.file.write(data)


@pytest.fixture
def failing_disk():
    """Return a context manager: within it the disk refuses calls `first` to `first + times - 1`."""

    @contextmanager
    def fail(first=10**9, times=1):
        disk = FailingDisk(first, times)
        real_open = Path.open

        def open_file(path, mode="r", *args, **options):
            if "w" not in mode:
                return real_open(path, mode, *args, **options)
            disk.step()
            return HalfWrittenFile(disk, real_open(path, mode, **options))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "open", open_file)
            for name in ("mkdir", "replace", "unlink"):
                patch.setattr(Path, name, disk.guard(getattr(Path, name)))
            patch.setattr(os, "fsync", disk.guard(os.fsync))
            yield disk

    return fail
