"""Lives of a writer: the attempts of a store as the parent knows them, and children that may be killed."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

from tests.torture.rows import EPOCH, EVALUATION, SPLITS, events

Report = Callable[[object], None]


@dataclass
class Attempt:
    """Where an attempt began, and how many of its rows, in the order of `events`, are committed."""

    train: int = 0
    valid: int = 0
    rows: int = 0

    def events(self, count: int) -> list[tuple[str, int]]:
        """Return (split, step) of its first rows."""
        return list(islice(events(self.train, self.valid), count))

    def end(self) -> tuple[int, int]:
        """Return the next steps of train and valid after the committed rows."""
        splits = [split for split, _ in self.events(self.rows)]
        return self.train + splits.count("train"), self.valid + splits.count("valid")


def last_steps(start: Attempt, count: int) -> dict[str, int]:
    """Return what `flush` says after so many rows of an attempt."""
    ends = Attempt(start.train, start.valid, count).end()
    return {split: end - 1 for split, end in zip(("train", "valid"), ends, strict=True) if end > 0}


@dataclass
class History:
    """The attempts of one store: what must be there, and where the next one begins."""

    attempts: list[Attempt] = field(default_factory=list)

    def next(self, resume_step: int | None = None) -> tuple[int, Attempt]:
        """Return number and start of the attempt that a resume makes."""
        if not self.attempts:
            return 0, Attempt()
        train, valid = self.attempts[-1].end()
        if resume_step is not None and resume_step < train:
            train, valid = resume_step, EVALUATION * (resume_step // EPOCH + 1)
        is_idle = self.attempts[-1].rows == 0  # the next attempt takes it back
        return len(self.attempts) - is_idle, Attempt(train, valid)

    def took(self, number: int, start: Attempt, acked: int) -> None:
        """Note that an attempt began, as far as the parent knows, and what it was told is committed."""
        if number == len(self.attempts) or self.attempts[number].rows == 0:
            self.attempts[number:] = [Attempt(start.train, start.valid)]
        self.attempts[number].rows = max(self.attempts[number].rows, acked)

    def missing(self, found: dict) -> int:
        """Return how many committed rows a store lacks, has at the wrong place, or has too many.

        The rows of every attempt must be the first of its `events`, in order, at least those committed.
        What is found beyond is committed from now on.
        """
        missing = 0
        for number, attempt in enumerate(self.attempts):
            rows = {
                split: [step for each, step in found["rows"].get(split, []) if each == number]
                for split in SPLITS
            }
            attempt.rows = max(attempt.rows, sum(map(len, rows.values())))
            for split, steps in rows.items():
                expected = [step for each, step in attempt.events(attempt.rows) if each == split]
                missing += len(set(expected) ^ set(steps)) + (sorted(set(steps)) != steps)
        for rows in found["rows"].values():
            numbers = [number for number, _ in groupby(number for number, _ in rows)]
            missing += numbers != sorted(set(numbers))
            missing += sum(number >= len(self.attempts) for number in numbers)
        return missing


class Child:
    """A forked process that runs `job(report)`; what it reports comes back line by line."""

    def __init__(self, job: Callable[[Report], None]) -> None:
        read, write = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            _be(job, lambda value: _send(write, value))
        os.close(write)
        self._read, self._text = read, b""
        self.status: int | None = None

    def wait(self, seconds: float) -> bool:
        """Read reports for a while; return whether the child is still alive."""
        limit = time.monotonic() + seconds
        while (left := limit - time.monotonic()) > 0:
            if select.select([self._read], [], [], left)[0]:
                data = os.read(self._read, 65536)
                if not data:
                    return False
                self._text += data
        return True

    def await_report(self) -> None:
        """Wait until it has reported something, or ended."""
        while not self._text and self.wait(0.01):
            pass

    def kill(self) -> list:
        """Kill it, if it lives, and return all its reports."""
        os.kill(self.pid, signal.SIGKILL)
        return self.reports()

    def reports(self) -> list:
        """Wait for its end and return all its reports."""
        while data := os.read(self._read, 65536):
            self._text += data
        os.close(self._read)
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        whole = self._text[: self._text.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]


_write = os.write  # as it is before anyone makes it fail


def _send(handle: int, value: object) -> None:
    _write(handle, json.dumps(value).encode() + b"\n")


def _be(job: Callable[[Report], None], report: Report) -> None:
    """Be the child: nothing of the parent's, such as its atexit handlers, may run here."""
    code = 1
    try:
        warnings.simplefilter("error")
        job(report)
        code = 0
    except BaseException:  # noqa: BLE001 - it would run on in the parent's code
        traceback.print_exc(limit=-2)
    finally:
        os._exit(code)


def leftovers(path: Path) -> list[str]:
    """Return the temporary files and folders of a run and beside it."""
    inside = [each.name for each in path.rglob(".*.partial")]
    return inside + [each.name for each in path.parent.glob(f".{path.name}.*")]
