"""Every call that changes a file system, made to stop or fail at a given one."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

_CALLS = ("mkdir", "rmdir", "rename", "replace", "unlink", "remove", "link", "symlink", "truncate", "fsync")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _HalfFile:
    """A file that writes in two halves."""

    def __init__(self, file, step: Callable[[str], None]) -> None:
        self._file, self._step = file, step

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)

    def write(self, data) -> int:
        half = len(data) // 2
        self._step("first half")
        self._file.write(data[:half])
        self._file.flush()
        self._step("second half")
        return half + self._file.write(data[half:])


@contextmanager
def watched(step: Callable[[str], None]) -> Iterator[None]:
    """Call `step(kind)` before every primitive of this process: it may end the process or raise.

    Primitives are mkdir, open for writing, each half of a write, fsync, rename, unlink and the like.
    """
    opens = {"open": _open_handle(step, os.open), "write": _write(step, os.write)}
    calls = {name: _guard(step, name, getattr(os, name)) for name in _CALLS}
    open_file = _open_file(step, io.open)
    with ExitStack() as stack:
        for name, call in (opens | calls).items():
            stack.enter_context(patch.object(os, name, call))
        for module in (io, builtins):
            stack.enter_context(patch.object(module, "open", open_file))
        yield


def _guard(step, name, call):
    def guarded(*args, **options):
        step(name)
        return call(*args, **options)

    return guarded


def _open_file(step, real_open):
    def open_file(file, mode="r", *args, **options):
        if not set(mode) & set("wax+"):
            return real_open(file, mode, *args, **options)
        step("open")
        return _HalfFile(real_open(file, mode, *args, **options), step)

    return open_file


def _open_handle(step, real_open):
    def open_handle(path, flags, *args, **options):
        if flags & _WRITING:
            step("open")
        return real_open(path, flags, *args, **options)

    return open_handle


def _write(step, real_write):
    def write(handle, data):
        step("first half")
        data = bytes(data)
        done = real_write(handle, data[: len(data) // 2])
        step("second half")
        return done + real_write(handle, data[done:])

    return write


class Counter:
    """Only counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.kinds: dict[str, int] = {}

    def __call__(self, kind: str) -> None:
        self.calls += 1
        self.kinds[kind] = self.kinds.get(kind, 0) + 1


class Killer(Counter):
    """Ends the process before call number `place`, as kill -9 would."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self._place = place

    def __call__(self, kind: str) -> None:
        if self.calls == self._place:
            os._exit(9)
        super().__call__(kind)


class Fault(Counter):
    """Raises OSError at the calls from number `first` on, `times` of them."""

    def __init__(self, first: int, times: float, code: int = errno.ENOSPC) -> None:
        super().__init__()
        self._first, self._times, self._code = first, times, code

    def __call__(self, kind: str) -> None:
        super().__call__(kind)
        if self._first <= self.calls - 1 < self._first + self._times:
            raise OSError(self._code, os.strerror(self._code))
