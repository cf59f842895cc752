"""What a failure of actlab's own does inside the training loop."""

from __future__ import annotations

import inspect
import logging
import warnings
from types import TracebackType
from typing import Literal, NamedTuple

__all__ = ["Guard"]

_MAX_FAILURES = 16  # of different kinds that are told

# Packages and modules whose frames lie between the user's line and the warning.
_BETWEEN = ("actlab", "contextlib", "torch", "weakref")

_log = logging.getLogger(__name__)


class Guard:
    """Keep failures out of the training loop: warn of each kind once, or as it is asked for.

    Parameters
    ----------
    on_error : {"warn", "raise", "stop"}
        What to do about a failure: "stop" warns of the first one, after which nothing is said any more.

    Attributes
    ----------
    is_stopped : bool
        Whether there was a failure that ends the recording.
    """

    def __init__(self, on_error: Literal["warn", "raise", "stop"]) -> None:
        self.is_stopped = False
        self._on_error = on_error
        self._told: set[str] = set()
        self._failures: set[tuple[str, type[Exception]]] = set()

    def __call__(self, what: str, cost: str = "training goes on without it") -> _Guarded:
        """Run a block that may fail; the warning says `what` could not be done, and at what `cost`."""
        return _Guarded(self, what, cost)

    def takes(self, what: str, cost: str, error: BaseException | None) -> bool:
        """Say whether a failure ends here; if so, it is told."""
        if not isinstance(error, Exception) or self._on_error == "raise":
            return False
        self._tell(what, cost, error)
        return True

    def warn(self, topic: str, message: str) -> None:
        """Warn once per topic; where warnings are errors, a log entry keeps the training alive."""
        if topic in self._told or self.is_stopped:
            return
        self._told.add(topic)
        try:
            warnings.warn(f"actlab: {message}", RuntimeWarning, stacklevel=_user_level())
        except Exception:  # warnings may be errors, or a showwarning of the user's own may fail
            if self._on_error == "raise":
                raise
            _log.warning("actlab: %s", message)

    def _tell(self, what: str, cost: str, error: Exception) -> None:
        """Warn of a failure if it is the first of its kind, and of not too many kinds."""
        kind = (what, type(error))
        if kind in self._failures:
            return
        if len(self._failures) == _MAX_FAILURES:
            self.warn("further failures", f"more than {_MAX_FAILURES} kinds of failure; no more are shown")
            return
        self._failures.add(kind)
        cost = "recording ends" if self._on_error == "stop" else cost
        self.warn(f"failure: {kind}", f"{what} failed, {cost}: {type(error).__name__}: {error}")
        self.is_stopped = self._on_error == "stop"


class _Guarded(NamedTuple):
    """A block that may fail.

    No generator: from Python 3.12 on, what one swallows keeps all that the failure had in hand, until
    the garbage is collected. On a device that is the memory which was missing.
    """

    guard: Guard
    what: str
    cost: str

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Take the failure, if there is one to be taken."""
        return error is not None and self.guard.takes(self.what, self.cost, error)


def _user_level() -> int:
    """Return the stacklevel, for the caller, of the innermost frame that is the user's own."""
    # From Python 3.12 on this is `skip_file_prefixes`.
    frame = inspect.currentframe()
    frame = frame.f_back if frame is not None else None
    level = 1
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    return level
