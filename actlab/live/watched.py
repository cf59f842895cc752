"""A run with all that is shown of it: for the page, the notebook and the terminal alike."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike

from actlab.findings.finding import Verdict
from actlab.live.growing import Growing
from actlab.live.judging import Judge
from actlab.live.pictures import Pictures

__all__ = ["Watched"]


class Watched:
    """A run that is read, drawn and judged while it grows.

    Parameters
    ----------
    path : str or path-like
        Where the run is, or will be.
    judge_every : float
        Seconds between two verdicts, at least.

    Attributes
    ----------
    growing : Growing
        What was read.
    pictures : Pictures
        What is drawn of it.

    Raises
    ------
    StoreError
        If something else than a run lies there.
    """

    def __init__(self, path: str | PathLike[str], *, judge_every: float = 1.0) -> None:
        self.growing = Growing(path)
        self.pictures = Pictures(self.growing)
        self._judge: Judge | None = None
        self._judge_every = judge_every

    @property
    def verdict(self) -> Verdict | None:
        """The latest verdict on this very run; None before there was anything to judge."""
        judge = self._judge
        if judge is None or judge.run_id != self.growing.run_id:
            return None
        return judge.verdict if judge.verdict is not None and judge.verdict.checked else None

    @property
    def is_over(self) -> bool:
        """Whether the run is closed, and all of it was judged."""
        return self.growing.is_closed and self._judge is not None and self._judge.is_done

    def look(self) -> Iterator[bool]:
        """Look for what is new, see `Growing.look`."""
        for is_read in self.growing.look():
            if is_read and self._judge is None:
                self._judge = Judge(self.growing.path, self._judge_every)
                self._judge.start()
            yield is_read

    def stop(self) -> None:
        """Judge no more."""
        if self._judge is not None:
            self._judge.stop()
