"""`RunWriter`: rows in, commits out, by one background thread. The protocol is in docs/format.md."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from time import monotonic
from typing import Any, Literal

from actlab.axis import FloatAxis
from actlab.errors import StoreError
from actlab.store.beginning import begin, go_on
from actlab.store.commit import Committer, json_values
from actlab.store.files import choose_mode, letting_go, open_directory
from actlab.store.news import News
from actlab.store.queue import RowQueue
from actlab.store.resuming import Resumed
from actlab.store.row import Row

__all__ = ["Row", "RunWriter"]

# Seconds: first and longest pause after a failed write, patience of `close` with a failing disk and with
# one that takes no file, and of `append` with a full queue.
_FIRST_PAUSE, _LONGEST_PAUSE, _PATIENCE, _LONGEST_SILENCE, _LONGEST_WAIT = 0.1, 30.0, 30.0, 60.0, 60.0

_open_writers: set[RunWriter] = set()


class RunWriter:
    """Records one run into one directory; training never waits for a disk, nor fails because of one.

    After kill -9, out of memory or preemption the store opens with plain xarray and holds,
    bit-identical, every step committed; only steps of the last `flush_every` and the commit in
    flight can be missing; with fsync this also holds after power loss; no committed row ever changes.

    Parameters
    ----------
    path : str or path-like
        Directory of the run, ``~`` for the home directory, or the URL of an object store; an empty run
        is committed there at once.
    axis : FloatAxis
        The recording axis.
    attributes : mapping
        JSON values that describe the run (model, head, versions, ...), shown in the root attribute
        ``actlab``. A run that is gone on with keeps those it has.
    overwrite : bool
        Replace an existing run. Anything else that exists is refused even then.
    resume : bool
        Go on with an existing run, in a new attempt; without one begin a new run.
    resume_step : int, optional
        The `train_step` to go on from, which implies `resume`; what was recorded from there on is kept,
        but dead. By default the number of training batches of the last commit.
    same_attempt : bool
        A run that is gone on with where it ended is one training: nothing of it is evaluated again.
    flush_every : float
        Seconds between two commits.
    queue_bytes : int
        Bound of the rows not yet committed.
    fsync : bool or "auto"
        Survive power loss, too; "auto" does so on a local disk.
    on_full : {"drop", "block"}
        What `append` does beyond `queue_bytes`: drop the row and record the gap, or wait for room, for
        at most 60 seconds between two commits, and then drop it.
    on_error : {"warn", "raise"}
        What the next call does about a row, a log or side data that cannot be written, or a disk that
        fails.

    Attributes
    ----------
    path : str
        Where the run is.
    resumed : Resumed or None
        Where the run stands that is gone on with; None for a new one.

    Raises
    ------
    StoreError
        If the path holds something, is being written, or cannot be written; if the run cannot be gone
        on with, or there is none to go on with at a `resume_step` above 0.
    ValueError
        If another argument is wrong; nothing has been written then.
    """

    def __init__(  # noqa: PLR0913 - the public signature; all but one are keywords
        self,
        path: str | os.PathLike[str],
        *,
        axis: FloatAxis,
        attributes: Mapping[str, Any],
        overwrite: bool = False,
        resume: bool = False,
        resume_step: int | None = None,
        same_attempt: bool = False,
        flush_every: float = 1.0,
        queue_bytes: int = 256 << 20,
        fsync: bool | Literal["auto"] = "auto",
        on_full: Literal["drop", "block"] = "drop",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise', got {on_error!r}")
        if on_full not in ("drop", "block"):
            raise ValueError(f"on_full must be 'drop' or 'block', got {on_full!r}")
        if not flush_every >= 0:
            raise ValueError(f"flush_every must be a number of seconds, got {flush_every!r}")
        mode = choose_mode(overwrite=overwrite, resume=resume, resume_step=resume_step)
        given = json_values(attributes)
        self._flush_every = flush_every
        self._waits = on_full == "block"
        directory = open_directory(path, mode, fsync)
        with letting_go(directory):
            beginning = begin(axis)
            if mode == "resume":
                beginning = go_on(directory, axis, given, resume_step, same_attempt=same_attempt)
        self.path = directory.path
        self.resumed: Resumed | None = beginning.resumed
        self.attributes = given | beginning.attributes
        # Guarded by `_wake`, shared with the thread.
        self._wake = threading.Condition()
        self._rules, self._layer_map = beginning.rules, beginning.layer_map
        self._queue = RowQueue(queue_bytes, beginning.gaps)
        self._steps = dict(beginning.steps)
        self._changes, self._saved = 1, 0
        self._is_counted = False
        self._tries, self._failed_try = 0, 0
        self._urgent = self._closing = self._stopped = False
        self._trouble: str | None = None  # what is wrong with the disk
        self._full_until: float | None = None
        self._last_steps = dict(beginning.last_steps)
        self._news = News(on_error)
        self._forked = False
        # From here on the thread's own.
        self._committer = Committer(directory, beginning)
        with letting_go(directory):
            self._commit(closing=False)
        self._next_commit = 0.0  # the first row is committed as soon as it comes
        self._thread = threading.Thread(target=self._work, name=f"actlab {self.path}", daemon=True)
        self._thread.start()
        _open_writers.add(self)

    def append(self, row: Row) -> bool:
        """Queue one row. Never touches the disk, and waits only under ``on_full="block"``.

        Parameters
        ----------
        row : Row
            The row; its arrays must not change any more.

        Returns
        -------
        bool
            False if it was dropped: the queue is full or the row breaks the format, and its step is
            recorded as a gap; or it has no step of its own, or recording has ended. Logged scalars and
            side data that break the format are left out alone.

        Raises
        ------
        StoreError
            Under ``on_error="raise"`` only: for such a row, or a disk that fails.
        """
        if self._forked:
            return False
        with self._wake:
            if self._layer_map is not None:
                row = self._layer_map.apply(row)
            if self._waits:
                self._await_room(row)
            idle = self._changes == self._saved
            taken = self._take(row)
            self._changes += 1
            if self._queue.crowded and self._trouble is None:
                self._urgent = True
            if idle or self._urgent:
                self._wake.notify_all()
        self._news.speak()
        return taken

    def count(self, split: str, steps: int) -> None:
        """Tell how many batches of a split there were so far, with or without a row of their own.

        Goes with the next commit of a row, `flush` or `close`, so that a run that is gone on with
        counts on from there. Appended rows count themselves: call it after the row, if there is one.

        Parameters
        ----------
        split : str
            One of `schema.SPLITS`.
        steps : int
            Batches: the step of the last one, and one more.
        """
        if self._forked:
            return
        with self._wake:
            if steps > self._steps.get(split, 0):
                self._steps[split] = int(steps)
                self._is_counted = True

    def update_attributes(self, **values: Any) -> None:
        """Merge JSON values into the root attribute ``actlab`` at the next commit.

        Raises
        ------
        StoreError
            If a value is not JSON.
        """
        checked = json_values(values)
        if self._forked:
            return
        with self._wake:
            self.attributes |= checked
            self._changes += 1
            self._wake.notify_all()

    def flush(self, timeout: float | None = None) -> dict[str, int]:
        """Commit all rows appended so far.

        Waits for one attempt at most, so a full disk does not stop the training: compare what comes
        back.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        dict of str to int
            Last committed step of each split that has rows.

        Raises
        ------
        StoreError
            Under ``on_error="raise"`` only: if the disk fails.
        """
        if self._forked:
            return {}
        with self._wake:
            if self._is_counted:
                self._changes += 1
            target, begun = self._changes, self._tries
            if self._saved < target and not self._stopped:
                self._urgent = True
                self._wake.notify_all()
                self._wake.wait_for(
                    lambda: self._saved >= target or self._failed_try > begun or self._stopped, timeout
                )
            committed = dict(self._last_steps)
        self._news.speak()
        return committed

    def close(self) -> None:
        """Commit everything, mark the run closed and let go of it. May be called again.

        A disk that keeps failing is given 30 seconds, one that takes no file 60; the warning then names
        the last steps kept.

        Raises
        ------
        StoreError
            Under ``on_error="raise"`` only: if rows were lost.
        """
        if self._forked:
            return
        with self._wake:
            if not self._closing:
                self._closing = self._urgent = True
                self._changes += 1
                self._wake.notify_all()
        written = -1
        while self._thread.is_alive() and written != self._committer.written:
            written = self._committer.written
            self._thread.join(_LONGEST_SILENCE)
        if self._thread.is_alive():
            self._fail(f"{self.path}: the disk does not answer; {self._kept()}")
        else:
            self._committer.release()
        _open_writers.discard(self)
        self._news.speak()

    def _await_room(self, row: Row) -> None:
        """Wait until a row fits, but not for ever: a disk that does not recover is not waited for again."""
        if self._queue.has_room(row):
            return
        if self._full_until is None:
            self._full_until = monotonic() + _LONGEST_WAIT
        if self._trouble is None:
            self._urgent = True
            self._wake.notify_all()
        self._wake.wait_for(
            lambda: self._queue.has_room(row) or self._closing or self._stopped,
            max(0.0, self._full_until - monotonic()),
        )

    def _take(self, row: Row) -> bool:
        """Queue a row, or drop it and say why."""
        if self._closing or self._stopped:
            self._news.tell("closed", f"{self.path}: recording has ended, step {row.step} is dropped")
            return False
        if (problem := self._rules.misplaced(row)) is not None:
            self._news.tell("row", f"{self.path}: row dropped: {problem}")
            return False
        self._steps[row.split] = max(self._steps.get(row.split, 0), int(row.step) + 1)
        logs, problem = self._rules.sound_logs(row)
        if problem is not None:
            self._news.tell("log", f"{self.path}: log dropped: {problem}")
            row = replace(row, logs=logs)
        row, problem = self._rules.sound_side(row)
        if problem is not None:
            self._news.tell("side", f"{self.path}: raw or side data dropped: {problem}")
        if (problem := self._rules.broken(row)) is not None:
            self._news.tell("row", f"{self.path}: row dropped: {problem}")
        elif self._queue.put(row):
            return True
        elif self._trouble is not None:
            self._news.tell("disk", self._trouble)
        else:
            self._news.tell(
                "full", f"{self.path}: the disk is too slow, rows are dropped (see the run's gaps)"
            )
        self._queue.drop(row)
        return False

    def _work(self) -> None:
        """Be the thread: commit until the run is closed or lost."""
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001 - whatever it is, the training must hear of it
            text = " ".join([f"{type(error).__name__}:", *str(error).split()]).rstrip(":")
            self._fail(f"{self.path}: {text}; recording has stopped, {self._kept()}")
        finally:
            with self._wake:
                self._stopped = True
                self._wake.notify_all()

    def _serve(self) -> None:
        """Commit whenever it is time, and again after an error."""
        pause, give_up = _FIRST_PAUSE, float("inf")
        while True:
            closing = self._await_turn()
            if closing:
                give_up = min(give_up, monotonic() + _PATIENCE)
            try:
                self._commit(closing=closing)
            except StoreError as error:
                self._fail(f"{error}; recording has stopped")
                return
            except OSError as error:
                reason = error.strerror or str(error)
                if monotonic() >= give_up:
                    self._fail(f"{self.path}: cannot write ({reason}); {self._kept()}")
                    return
                self._degrade(reason, min(pause, give_up - monotonic()))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
                if closing:
                    return

    def _await_turn(self) -> bool:
        """Wait until something is to be committed and it is time; return whether to close."""
        with self._wake:
            while not self._urgent:
                left = self._next_commit - monotonic()
                if self._changes == self._saved:
                    self._wake.wait()
                elif left > 0:
                    self._wake.wait(left)
                else:
                    break
            self._urgent = False
            return self._closing

    def _degrade(self, reason: str, pause: float) -> None:
        """Note a failed commit: everything is kept and tried again."""
        with self._wake:
            kept = "rows are kept and tried again, as far as there is room (see the run's gaps)"
            self._trouble = f"{self.path}: cannot write ({reason}); {kept}"
            self._failed_try = self._tries
            self._next_commit = monotonic() + pause
            self._news.tell("disk", self._trouble)
            self._wake.notify_all()

    def _kept(self) -> str:
        """Say which rows a run that cannot be written any more has kept."""
        steps = ", ".join(f"{split} up to step {step}" for split, step in self._last_steps.items())
        return f"all rows are lost but {steps}" if steps else "all rows are lost"

    def _fail(self, message: str) -> None:
        """Note that nothing more can be written."""
        with self._wake:
            self._stopped = True
            self._news.tell("stopped", message)

    def _commit(self, *, closing: bool) -> None:
        """Commit what is queued and tell the training side."""
        with self._wake:
            self._tries += 1
            changes, rows = self._changes, self._queue.take()
            gaps = {split: [list(gap) for gap in gaps] for split, gaps in self._queue.gaps.items()}
            attributes = self.attributes | {"gaps": gaps, "steps": dict(self._steps), "closed": closing}
            self._is_counted = False
        self._committer.add(rows)
        self._committer.commit(attributes)
        with self._wake:
            self._saved = changes
            self._queue.release()
            self._last_steps = dict(self._committer.last_steps)
            self._full_until = None
            self._next_commit = monotonic() + self._flush_every
            self._trouble = None
            self._news.forget("disk")
            self._wake.notify_all()
        # The commit holds already, so an error here can wait for the next one.
        with suppress(OSError):
            self._committer.write_children(closing=closing)

    def _forget(self) -> None:
        """Become a no-op in a forked child: the run, its thread and its lock are the parent's."""
        self._forked = True
        self._committer.release()


def _close_all() -> None:
    """Drain every writer at interpreter exit, whatever happens to another."""
    with ExitStack() as stack:
        for writer in _open_writers:
            stack.callback(writer.close)


def _forget_all() -> None:
    """Disown every writer in a forked child."""
    for writer in _open_writers:
        writer._forget()
    _open_writers.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
