"""`reduce`: the rows of all ranks merged while they are recorded, into one run that rank 0 writes.

Without a collective, so that no rank waits for another: the ranks send their rows to rank 0 over
sockets, from background threads. The key-value store of the process group tells them where it is.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from os import PathLike
from time import monotonic
from typing import Any, Literal, TypeAlias

from actlab.errors import StoreError
from actlab.recording.distributed import Place
from actlab.recording.mailbox import LARGEST_MESSAGE, Mailbox, Message, from_bytes, to_bytes
from actlab.recording.resumption import hear_resumed, spans_before
from actlab.store.joining import End, RowJoin
from actlab.store.resuming import Resumed
from actlab.store.row import Row
from actlab.store.writer import RunWriter

__all__ = ["ReducingWriter", "SendingWriter"]

_OnError: TypeAlias = Literal["warn", "raise"]

_PATIENCE = 30.0  # seconds that `close` waits for the other ranks
_MEETING = 300.0  # seconds after which a rank without a recorder is waited for no more
_POLL = 0.05  # seconds between two looks for the address of rank 0
_MOST_BYTES = 256 << 20  # of rows on their way to another thread, and of rows that wait for other ranks

_open_writers: weakref.WeakSet[_Writer] = weakref.WeakSet()


class _Writer:
    """What the writers of all ranks share: the thread that works, and its news for the training.

    Parameters
    ----------
    place : Place
        This rank.
    on_error : {"warn", "raise"}
        What the next call does about news.
    limit : int
        Bytes of rows on their way to the thread; beyond it whole rows are dropped.

    Raises
    ------
    StoreError
        If the process group has no key-value store.
    """

    def __init__(self, place: Place, on_error: _OnError, limit: int) -> None:
        if place.store is None:
            raise StoreError(
                "reduce=True needs a process group with a key-value store, as gloo and nccl have; "
                "without reduce each rank writes a store of its own, which open_run merges"
            )
        self._place = place
        self._on_error = on_error
        self._mail = Mailbox(limit)
        self._deadline = inf
        self._news: deque[str] = deque()
        self._links: list[Connection | socket.socket] = []
        self._is_forked = False
        self._thread = threading.Thread(target=self._work, name=f"actlab rank {place.rank}", daemon=True)

    def append(self, row: Row) -> bool:
        """Hand over a row; never waits. False if there is no room for it, or recording has ended."""
        if self._is_forked:
            return False
        is_taken = self._mail.post(self._place.rank, row)
        self._speak()
        return is_taken

    def count(self, split: str, steps: int) -> None:
        """Do nothing: only rows that are whole and written tell how far the ranks are together."""

    def _start(self) -> None:
        """Start the thread."""
        self._thread.start()
        _open_writers.add(self)

    def _finish(self) -> None:
        """Say that nothing more comes, and wait for the thread, for a limited time."""
        self._deadline = min(self._deadline, monotonic() + _PATIENCE)
        self._mail.post(self._place.rank, End())
        self._thread.join(_PATIENCE + 1.0)
        if self._thread.is_alive():
            self._news.append(f"rank {self._place.rank}: the other ranks take too long, rows are lost")
        self._mail.close()
        _open_writers.discard(self)

    def _work(self) -> None:
        """Be the thread."""
        raise NotImplementedError

    def _speak(self) -> None:
        """Warn or raise on the caller's thread, where it can be seen and caught."""
        messages = [self._news.popleft() for _ in range(len(self._news))]
        if messages and self._on_error == "raise":
            raise StoreError("; ".join(messages))
        for message in messages:
            warnings.warn(message, RuntimeWarning, stacklevel=3)

    def _forget(self) -> None:
        """Become a no-op in a forked child: the thread is the parent's, and the sockets must end with it."""
        self._is_forked = True
        for link in self._links:
            link.close()


class SendingWriter(_Writer):
    """Under `reduce`, the writer of every rank but 0: its rows go to rank 0, from a background thread.

    Parameters
    ----------
    path : str or path
        The run, which rank 0 writes.
    place : Place
        This rank.
    on_error : {"warn", "raise"}
        What the next call does where rank 0 cannot be reached.
    limit : int
        Bytes of rows not yet sent; beyond it whole rows are dropped.
    resumes : bool
        Wait until rank 0 says whether and where the run goes on.

    Attributes
    ----------
    resumed : Resumed or None
        Where the run goes on; None for a new one.
    attributes : dict
        What rank 0 told of the root attribute of a run that goes on.

    Raises
    ------
    StoreError
        If the process group has no key-value store, or rank 0 refuses or does not answer.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        place: Place,
        *,
        on_error: _OnError = "warn",
        limit: int = _MOST_BYTES,
        resumes: bool = False,
    ) -> None:
        super().__init__(place, on_error, limit)
        self.path = os.fspath(path)
        self.resumed: Resumed | None = None
        self.attributes: dict[str, Any] = {}
        if resumes:
            self.resumed, self.attributes = hear_resumed(place)
        self._sent: dict[str, int] = {}
        self._start()

    def update_attributes(self, **values: Any) -> None:
        """Do nothing: rank 0 describes the run."""

    def flush(self) -> dict[str, int]:
        """Return the last step of each split that was sent; waits for nothing."""
        return dict(self._sent)

    def close(self) -> None:
        """Send what is left, for 30 seconds at most. May be called again.

        Raises
        ------
        StoreError
            Under ``on_error="raise"`` only: if rows were lost.
        """
        if not self._is_forked:
            self._finish()
            self._speak()

    def _work(self) -> None:
        """Be the thread: send every row as it comes."""
        try:
            with self._connect() as connection:
                message: Message | None = None
                while not isinstance(message, End):
                    if (found := self._mail.take(self._deadline - monotonic())) is None:
                        raise TimeoutError("rank 0 is too slow")
                    message = found[1]
                    connection.send_bytes(to_bytes(message))
                    if isinstance(message, Row):
                        self._sent[message.split] = message.step
        except Exception as error:  # noqa: BLE001 - whatever it is, the training must hear of it
            reason = f"{type(error).__name__}: {error}"
            self._news.append(f"{self.path}: rank {self._place.rank} lost its way to rank 0 ({reason})")
        finally:
            self._mail.close()

    def _connect(self) -> Connection:
        """Find out where rank 0 is, as soon as it says so, and connect."""
        store, key = self._place.store, f"{self._place.key}/address"
        last = monotonic() + _MEETING
        while not store.check([key]):
            if monotonic() > min(last, self._deadline):
                raise TimeoutError("it has no recorder")
            time.sleep(_POLL)
        host, port, secret = json.loads(store.get(key))
        link = socket.create_connection((host, port), timeout=_PATIENCE)
        link.settimeout(None)
        connection = Connection(link.detach())
        self._links.append(connection)
        answer_challenge(connection, bytes.fromhex(secret))
        deliver_challenge(connection, bytes.fromhex(secret))
        connection.send_bytes(str(self._place.rank).encode())
        return connection


class ReducingWriter(_Writer):
    """Under `reduce`, the writer of rank 0: merges the rows of all ranks and writes the whole ones.

    A row is written once every rank has sent its part, or has passed by it; `RowJoin` has the rules.
    Steps that are dropped stand in the root attribute `ranks`, under `dropped`. The rows of a rank
    that is lost are those it had sent; from then on the others miss its part and are dropped.

    Parameters
    ----------
    writer : RunWriter
        Writes the run; is closed with this one.
    place : Place
        Rank 0.
    on_error : {"warn", "raise"}
        What the next call does about rows that were dropped.
    limit : int
        Bytes of rows that wait for other ranks; beyond it whole rows are dropped.

    Raises
    ------
    StoreError
        If the process group has no key-value store, or there is no port to listen on.
    """

    def __init__(
        self, writer: RunWriter, place: Place, *, on_error: _OnError = "warn", limit: int = _MOST_BYTES
    ) -> None:
        self.path, self.attributes = writer.path, writer.attributes
        self.resumed = writer.resumed
        self._writer = writer
        self._join = RowJoin(place.world_size, limit)
        self._n_dropped = 0
        if self.resumed is not None:
            self._join.dropped |= spans_before(self.resumed, writer.attributes["ranks"].get("dropped", {}))
        self._secret = secrets.token_bytes(32)
        self._present: set[int] = set()
        try:
            super().__init__(place, on_error, limit)
            self._server = self._listen()
        except Exception as error:
            writer.close()
            raise StoreError(f"{writer.path}: the rows of all ranks cannot be merged: {error}") from error
        self._links.append(self._server)
        self._describe()
        threading.Thread(target=self._accept, name="actlab ranks", daemon=True).start()
        self._start()

    def update_attributes(self, **values: Any) -> None:
        """Merge JSON values into the root attribute, see `RunWriter`."""
        self._writer.update_attributes(**values)

    def flush(self) -> dict[str, int]:
        """Commit the rows that are whole by now, see `RunWriter`; waits for no other rank."""
        return self._writer.flush()

    def close(self) -> None:
        """Wait for the other ranks, for 30 seconds at most, and close the run. May be called again.

        Raises
        ------
        StoreError
            Under ``on_error="raise"`` only: if rows were lost.
        """
        if self._is_forked:
            return
        self._finish()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # `accept` would wait on
        self._server.close()
        self._writer.close()
        self._speak()

    def _work(self) -> None:
        """Be the thread: merge rows as they come."""
        meeting = monotonic() + _MEETING
        while self._join.awaited and (now := monotonic()) < self._deadline:
            if (found := self._mail.take(min(self._deadline, meeting) - now)) is not None:
                self._put(*found)
            elif now >= meeting:
                meeting = inf
                self._give_up([rank for rank in self._join.awaited if rank not in self._present | {0}])
        self._give_up(self._join.awaited)
        self._mail.close()

    def _give_up(self, ranks: Iterable[int]) -> None:
        """Wait for some ranks no more."""
        for rank in ranks:
            self._news.append(f"{self.path}: rank {rank} does not answer, what comes of it now is lost")
            self._put(rank, End(is_lost=True))

    def _put(self, rank: int, message: Message) -> None:
        """Take one message, and write the rows that are whole now."""
        try:
            self._join.put(rank, message)
            is_given = self._writer.attributes.get("epochs") != "inferred"
            for row in self._join.take(compare_epochs=is_given):
                self._writer.append(row)
            if self._n_dropped != self._join.n_dropped:
                self._n_dropped = self._join.n_dropped
                self._describe()
        except Exception as error:  # noqa: BLE001 - whatever it is, the training must hear of it
            self._news.append(f"{self.path}: {type(error).__name__}: {error}")
        self._news.extend(f"{self.path}: {message}" for message in self._join.news)
        self._join.news.clear()

    def _describe(self) -> None:
        """Tell the run that it is that of all ranks, and which rows it lacks."""
        merged = {"merged": list(range(self._place.world_size)), "dropped": self._join.dropped}
        ranks = self._place.attributes | merged
        if self.resumed is not None:
            ranks["job"] = self.attributes["ranks"]["job"]  # a run keeps its own
        self._writer.update_attributes(ranks=ranks)

    def _listen(self) -> socket.socket:
        """Listen, and tell the other ranks where."""
        host = _master(self._place.store)
        if host is None:
            server = socket.create_server(("127.0.0.1", 0), backlog=self._place.world_size)
            host = "127.0.0.1"
        else:
            is_dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if is_dual else socket.AF_INET
            server = socket.create_server(
                ("", 0), family=family, backlog=self._place.world_size, dualstack_ipv6=is_dual
            )
        address = json.dumps([host, server.getsockname()[1], self._secret.hex()])
        self._place.store.set(f"{self._place.key}/address", address)
        return server

    def _accept(self) -> None:
        """Be a thread: give every caller a thread of its own, so that a silent one stops no other."""
        while True:
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            connection = Connection(link.detach())
            threading.Thread(
                target=self._receive, args=(connection,), name="actlab rank", daemon=True
            ).start()

    def _receive(self, connection: Connection) -> None:
        """Be a thread: take what one rank sends."""
        rank = None
        self._links.append(connection)
        try:
            deliver_challenge(connection, self._secret)
            answer_challenge(connection, self._secret)
            number = int(connection.recv_bytes(16))
            if not 0 < number < self._place.world_size or number in self._present:
                return
            rank = number
            self._present.add(rank)
            message: Message | None = None
            while not isinstance(message, End):
                message = from_bytes(connection.recv_bytes(LARGEST_MESSAGE))
                self._mail.post(rank, message, wait=True)
        except Exception:  # noqa: BLE001 - the rank is gone, or was none
            if rank is not None:
                self._mail.post(rank, End(is_lost=True))
        finally:
            connection.close()


def _master(store: Any) -> str | None:
    """Return the machine of rank 0 as the other ranks know it, None if all are on the same."""
    while (below := getattr(store, "underlying_store", None)) is not None:
        store = below
    host = getattr(store, "host", None)  # a store in a file has none
    is_local = host is None or host in ("localhost", "::1") or host.startswith("127.")
    return None if is_local else str(host)


def _forget_all() -> None:
    """Disown every writer in a forked child."""
    for writer in list(_open_writers):
        writer._forget()
    _open_writers.clear()


os.register_at_fork(after_in_child=_forget_all)
