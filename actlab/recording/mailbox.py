"""Rows on their way to another thread or process."""

from __future__ import annotations

import io
import pickle
import threading
from collections import deque
from typing import Any, TypeAlias

from actlab.schema import LayerInfo
from actlab.store.joining import End, Missing
from actlab.store.row import ChannelStats, HeadCounts, LabelMoments, RawSamples, Row

__all__ = ["LARGEST_MESSAGE", "Mailbox", "Message", "from_bytes", "to_bytes"]

Message: TypeAlias = Row | Missing | End

LARGEST_MESSAGE = 1 << 30
_MOST_WAITING = 10_000  # messages; those without a row take little room, but not none


class Mailbox:
    """Messages from any thread to one, in order, bounded in the bytes of their rows."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._messages: deque[tuple[int, Message]] = deque()
        self._is_closed = False
        self._wake = threading.Condition()

    def post(self, rank: int, message: Message, *, wait: bool = False) -> bool:
        """Add a message of a rank; of a row that finds no room only its place is added.

        Under `wait` there will be room. False if the row is left out or nobody reads any more.
        """
        with self._wake:
            size = message.nbytes if isinstance(message, Row) else 0
            if wait:
                self._wake.wait_for(lambda: self._is_closed or self._has_room(size))
            if self._is_closed:
                return False
            is_taken = self._has_room(size)
            if isinstance(message, Row) and not is_taken:
                message, size = Missing(message.split, message.step, message.train_step), 0
                if len(self._messages) > _MOST_WAITING:
                    return False
            self._messages.append((rank, message))
            self._held += size
            self._wake.notify_all()
        return is_taken

    def take(self, timeout: float) -> tuple[int, Message] | None:
        """Return the next message, None if there is none for so many seconds."""
        with self._wake:
            self._wake.wait_for(lambda: self._messages, min(timeout, threading.TIMEOUT_MAX))
            if not self._messages:
                return None
            rank, message = self._messages.popleft()
            self._held -= message.nbytes if isinstance(message, Row) else 0
            self._wake.notify_all()
        return rank, message

    def close(self) -> None:
        """Take nothing more, and let go of what is there."""
        with self._wake:
            self._is_closed = True
            self._messages.clear()
            self._wake.notify_all()

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes fit; a single larger row does where there is nothing else."""
        return size == 0 or self._held == 0 or self._held + size <= self._limit


def to_bytes(message: Message) -> bytes:
    """Return a message as it is sent."""
    return pickle.dumps(message, protocol=5)


def from_bytes(data: bytes) -> Message:
    """Read a message.

    Raises
    ------
    pickle.UnpicklingError
        If it is none.
    """
    message = _Unpickler(io.BytesIO(data)).load()
    if not isinstance(message, Row | Missing | End):
        raise pickle.UnpicklingError(f"{type(message).__name__} is no message")
    return message


class _Unpickler(pickle.Unpickler):
    """Reads rows and nothing else: a pickle could call anything."""

    _SENT = (Row, LayerInfo, ChannelStats, RawSamples, HeadCounts, LabelMoments, Missing, End)
    _KNOWN = frozenset((kind.__module__, kind.__qualname__) for kind in _SENT)
    _NUMPY = frozenset(("dtype", "ndarray", "_frombuffer", "_reconstruct", "scalar"))

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that a row is made of."""
        is_numpy = module.partition(".")[0] == "numpy" and name in self._NUMPY
        if not is_numpy and (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a row")
        return super().find_class(module, name)
