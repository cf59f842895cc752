"""What a failure of actlab's own does inside the training loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

__all__ = ["Guard"]


class Guard:
    """Keep failures out of the training loop: warn of the first one, or raise if that is asked for.

    Parameters
    ----------
    on_error : {"warn", "raise"}
        What to do about a failure.
    """

    def __init__(self, on_error: Literal["warn", "raise"]) -> None:
        self._on_error = on_error
        self._told: set[str] = set()

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Run a block that may fail; `what` says in the warning what could not be done."""
        try:
            yield
        except Exception as error:
            if self._on_error == "raise":
                raise
            self.warn(
                "failure", f"{what} failed, training goes on without it: {type(error).__name__}: {error}"
            )

    def warn(self, topic: str, message: str) -> None:
        """Warn once per topic."""
        if topic not in self._told:
            self._told.add(topic)
            warnings.warn(f"actlab: {message}", RuntimeWarning, stacklevel=2)
