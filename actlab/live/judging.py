"""The verdict on a run that grows, found beside whoever watches it."""

from __future__ import annotations

import threading
import time
from typing import Final

from actlab.errors import ActlabError
from actlab.findings.finding import Verdict
from actlab.findings.following import follow
from actlab.findings.verdict import read_limits
from actlab.run import Run, open_run

__all__ = ["Judge"]


_SHARE: Final = 0.05
"""Of one processor core at most this share is spent judging: the machine is the training's."""


class _StoppedError(Exception):
    """Nobody asks any more."""


class Judge(threading.Thread):
    """Checks a run again and again, in at most a twentieth of the time.

    Parameters
    ----------
    path : str
        The run, which is there.
    every : float
        Seconds between two verdicts, at least.

    Attributes
    ----------
    verdict : Verdict or None
        The latest one.
    run_id : str or None
        The run that it is of.
    is_done : bool
        Whether it is of all there is: the run is closed.
    """

    def __init__(self, path: str, every: float) -> None:
        super().__init__(name="actlab judge", daemon=True)
        self._path, self._every, self._stopped = path, every, threading.Event()
        self.verdict: Verdict | None = None
        self.run_id: str | None = None
        self.is_done = False
        self._spent: float | None = None  # seconds of the processor, until the last look

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()

    def run(self) -> None:
        """Check the run until `stop`."""
        while True:
            try:
                self._judge(open_run(self._path, verify=False))
            except ActlabError:  # it is being replaced; whoever watches it says so
                pass
            except _StoppedError:
                return
            except RuntimeError:  # Python has ended the pools that read
                if not self._stopped.is_set():
                    raise
                return
            if self._stopped.wait(1):
                return

    def _judge(self, run: Run) -> None:
        """Check a run while it grows, until another one takes its place."""
        own = run.attributes.get("run_id")
        while run.attributes.get("run_id") == own:
            for verdict, _ in follow(run, read_limits({}), every=self._every, sleep=self._sleep):
                if run.attributes.get("run_id") != own:
                    return
                self.verdict, self.run_id = verdict, own
            self.is_done = True
            while run.attributes.get("closed"):  # it may be gone on with
                self._sleep(1)
                if run.refresh().attributes.get("run_id") != own:
                    return
            self.is_done = False

    def _sleep(self, seconds: float) -> None:
        """Wait, unless nobody asks any more; not longer than what was spent since the last time asks for."""
        spent, self._spent = self._spent, time.thread_time()
        # The first look is at all that was recorded before, and counts for nothing.
        worked = 0.0 if spent is None else self._spent - spent
        if self._stopped.wait(min(seconds, max(self._every, worked / _SHARE))):
            raise _StoppedError
