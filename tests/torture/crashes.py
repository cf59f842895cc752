"""A writer that dies as if its process were killed, without a process of its own."""

from __future__ import annotations

from collections.abc import Callable

from tests.torture.primitives import Counter, watched


class CrashError(Exception):
    """No OSError, so that nobody cleans up after it."""


class Crashing(Counter):
    """Lets no primitive happen from call number `place` on."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self._place = place

    def __call__(self, kind: str) -> None:
        super().__call__(kind)
        if self.calls > self._place:
            raise CrashError


def abandon(writer) -> None:
    """Drop a writer: what it has not committed is lost, its lock is free, and nothing was written."""
    crash(writer, 0, lambda: None)


def crash(writer, place: int, during: Callable[[], object]) -> None:
    """Drop a writer before primitive number `place` of what it does `during` a call."""
    from actlab.store import writer as module

    with watched(Crashing(place)):
        during()
    with watched(Crashing(0)):
        with writer._wake:
            # There is always a root record to be written then, which ends the thread.
            writer._changes += 1
            writer._urgent = True
            writer._wake.notify_all()
        writer._thread.join()
        writer._committer.release()
    module._open_writers.discard(writer)
