"""The errors of actlab: one tree, each also a builtin error, each message one clear line."""

from __future__ import annotations

import inspect
from bisect import bisect_left
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = [
    "ActlabError",
    "AxisError",
    "MissingDependencyError",
    "RecipeError",
    "SelectionError",
    "StoreError",
    "nearest",
    "nearest_number",
    "with_nearest",
]

P = ParamSpec("P")
T = TypeVar("T")


class ActlabError(Exception):
    """Base of every error that actlab raises on purpose."""

    def __str__(self) -> str:
        """Return the message alone: `KeyError` would quote it."""
        return str(self.args[0]) if self.args else type(self).__name__


class AxisError(ActlabError, ValueError):
    """An axis that cannot exist: empty, reversed, not finite, or too fine."""


class StoreError(ActlabError, OSError):
    """A run that cannot be opened or written: where, and what is wrong."""


class RecipeError(ActlabError, ValueError):
    """A recipe with an unknown key or a wrong value: file, key, what was expected."""


class SelectionError(ActlabError, KeyError):
    """A layer, split, epoch, label or unit that the run does not hold."""


class MissingDependencyError(ActlabError, ImportError):
    """An optional package that is not installed: the message names the pip line."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Say which known names are nearest to a wrong one.

    Parameters
    ----------
    name : str
        What the user wrote.
    known : iterable of str
        The valid names.
    count : int
        At most so many names are offered.

    Returns
    -------
    str
        ``"did you mean 'fc'?"``, or a list of valid names where none is near.
    """
    names = [str(item) for item in known]
    by_lower = {item.lower(): item for item in reversed(names)}
    near = [by_lower[key] for key in get_close_matches(str(name).lower(), by_lower, count, 0.5)]
    if near:
        return f"did you mean {' or '.join(repr(item) for item in near)}?"
    shown = ", ".join(repr(item) for item in names[:8]) + (", ..." if len(names) > 8 else "")
    return f"valid names: {shown}" if names else "there are none"


def nearest_number(number: int, known: Iterable[int]) -> str:
    """Say which known whole numbers are nearest to a wrong one, such as an epoch or a step.

    Parameters
    ----------
    number : int
        What the user asked for.
    known : iterable of int
        The valid numbers.

    Returns
    -------
    str
        ``"did you mean 2 or 8? known: 0 to 99"``.
    """
    values = sorted({int(value) for value in known})
    if not values:
        return "there are none"
    place = bisect_left(values, number)
    near = " or ".join(map(str, values[max(place - 1, 0) : place + 1]))
    return f"did you mean {near}? known: {values[0]}" + (f" to {values[-1]}" if len(values) > 1 else "")


def with_nearest(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function name the nearest of its keywords where an unknown one is given.

    Parameters
    ----------
    function : callable
        Takes no ``**keywords``.

    Returns
    -------
    callable
        The same; its `TypeError` for an unknown keyword says which was meant.
    """
    known = inspect.signature(function).parameters

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{function.__name__}() has no option {name!r}: {nearest(name, known)}")
        return function(*args, **kwargs)

    return call
