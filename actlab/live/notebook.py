"""`watch`: a cell of a notebook that follows a run, epoch by epoch."""

from __future__ import annotations

import threading
import time
from importlib import import_module
from os import PathLike
from typing import Any, Final

from actlab.errors import ActlabError
from actlab.live.cell import as_html
from actlab.live.kernel import find_shell
from actlab.live.watched import Watched

__all__ = ["Watch", "watch"]

_EVERY: Final = 0.5
_SHARE: Final = 0.05
"""Of one processor core at most this share is spent looking: the training may run in this very process."""
_JUDGED: Final = 10.0  # seconds between two verdicts, at least

_watches: dict[str, Watch] = {}


class Watch:
    """A cell that follows a run, from a thread of its own; made by `actlab.watch`.

    Parameters
    ----------
    path : str or path-like
        The run.
    shell : object
        The `InteractiveShell` of the kernel.

    Raises
    ------
    StoreError
        If something else than a run lies there.
    """

    def __init__(self, path: str | PathLike[str], shell: Any) -> None:
        self._watched, self._shell = Watched(path, judge_every=_JUDGED), shell
        self._stopped = threading.Event()
        self._html = import_module("IPython.display").HTML
        self._shown = self._said()
        self._handle = import_module("IPython.display").display(self._draw(), display_id=True)
        self._thread = threading.Thread(target=self._follow, name="actlab watch", daemon=True)
        self._shell.events.register("post_run_cell", self._note)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the cell is still followed."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Follow no longer; the cell shows what was recorded until now."""
        self._stopped.set()
        self._thread.join()

    def __repr__(self) -> str:
        """Say what it does."""
        doing = "following" if self.is_running else "has followed"
        return f"<actlab.watch: {doing} {self._watched.growing.path}; .stop() ends it>"

    def _note(self, result: Any) -> None:
        """End with a cell that was interrupted."""
        if isinstance(result.error_in_exec, KeyboardInterrupt):
            self._stopped.set()

    def _follow(self) -> None:
        """Look until the run is closed, or nobody wants to see more."""
        pause = 0.0
        while not self._watched.is_over and not self._stopped.wait(pause):
            spent = time.thread_time()
            self._look()
            pause = max(_EVERY, self._watched.growing.every, (time.thread_time() - spent) / _SHARE)
        self._look()
        self._watched.stop()
        self._shell.events.unregister("post_run_cell", self._note)

    def _look(self) -> None:
        """Read what is new, and draw it where an epoch has ended or something else is to be said."""
        for is_read in self._watched.look():
            if not is_read and self._stopped.is_set():
                break
        now = self._said()
        if now != self._shown:
            self._shown = now
            self._handle.update(self._draw())

    def _said(self) -> tuple[Any, ...]:
        """Return what the cell depends on: all but the batches within an epoch."""
        growing, verdict = self._watched.growing, self._watched.verdict
        rows = growing.is_closed and [part.n_rows for part in growing.parts.values()]
        ended = [(split, sorted(set(part.epoch.tolist()))) for split, part in growing.parts.items()]
        notes = [] if growing.left else self._watched.pictures.notes()
        return ended, rows, notes, None if verdict is None else str(verdict.findings), self._stopped.is_set()

    def _draw(self) -> Any:
        """Return the cell: the epoch that has ended last, or the first one as far as it is."""
        growing = self._watched.growing
        train = growing.train
        is_under_way = train is not None and not growing.is_closed and len(growing.epochs) > 1
        ended = growing.epochs[-2] if is_under_way and not self._is_validated() else None
        return self._html(as_html(self._watched, ended))

    def _is_validated(self) -> bool:
        """Whether the latest epoch has more than its training."""
        growing = self._watched.growing
        latest = growing.epochs[-1]
        return any(latest in part.epoch for split, part in growing.parts.items() if split != "train")


def watch(path: str | PathLike[str]) -> Watch:
    """Follow a run in the output of this cell, drawn anew after each epoch, until it is closed.

    It returns at once, and may stand before the training in the same notebook: a thread looks in at most a
    twentieth of the time. A cell that is interrupted ends it, and so does watching the same run again.

    Parameters
    ----------
    path : str or path-like
        The run, which may not be there yet.

    Returns
    -------
    Watch
        Its `stop` ends it.

    Raises
    ------
    StoreError
        If something else than a run lies there.
    ActlabError
        Outside a notebook.
    """
    if (shell := find_shell()) is None:
        raise ActlabError(
            "actlab.watch draws in a cell of a notebook, and this is none: "
            f"in a terminal run `actlab watch {path}`, over ssh with --text"
        )
    if (old := _watches.pop(str(path), None)) is not None:
        old.stop()
    _watches[str(path)] = Watch(path, shell)
    return _watches[str(path)]
