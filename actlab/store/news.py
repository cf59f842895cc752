"""What the thread of a writer has to say, kept until the training calls."""

from __future__ import annotations

import threading
import warnings
from typing import Literal

from actlab.errors import StoreError

__all__ = ["News"]


class News:
    """Messages for the caller's thread, where they can be seen and caught.

    Parameters
    ----------
    on_error : {"warn", "raise"}
        Whether `speak` raises, and always, or warns, of each kind once.
    """

    def __init__(self, on_error: Literal["warn", "raise"]) -> None:
        self._raises = on_error == "raise"
        self._lock = threading.Lock()
        self._waiting: dict[str, str] = {}
        self._told: set[str] = set()

    def tell(self, kind: str, message: str) -> None:
        """Keep a message for the next call; what is a consequence of "stopped" goes without saying."""
        with self._lock:
            is_known = kind in self._told and not self._raises
            if not is_known and not (kind == "closed" and "stopped" in self._waiting):
                self._told.add(kind)
                self._waiting[kind] = message

    def forget(self, kind: str) -> None:
        """Take back a message of a kind, which is over; the next one is news again."""
        with self._lock:
            self._told.discard(kind)
            self._waiting.pop(kind, None)

    def speak(self) -> None:
        """Warn of what is waiting, at the caller of the caller, or raise it.

        Raises
        ------
        StoreError
            Under ``on_error="raise"``.
        """
        if not self._waiting:
            return
        with self._lock:
            messages = list(self._waiting.values())
            self._waiting.clear()
        if messages and self._raises:
            raise StoreError("; ".join(messages))
        for message in messages:
            warnings.warn(message, RuntimeWarning, stacklevel=3)
