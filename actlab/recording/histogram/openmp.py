"""Work shared out among the threads that torch itself computes with.

Threads of our own would only compete with them: on two cores a pool of Python threads was slower
than one thread. numba's own parallel loops were as fast as this, but bring a second set of threads,
and end the process where another thread, or a forked child, meets them at the wrong moment.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import torch

__all__ = ["functions", "run"]

_is_forked = False


def _forget() -> None:
    """Note that the threads stayed behind in the parent."""
    global _is_forked  # noqa: PLW0603 - a fact about the process
    _is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@cache
def _library() -> tuple[Any, int, int] | None:
    """Return how to start the threads, and addresses of `omp_get_thread_num` and `omp_get_num_threads`.

    None where torch is built on other threads (macOS, Windows).
    """
    try:
        library = ctypes.CDLL(torch._C.__file__)
        start = library.GOMP_parallel
        numbers = (library.omp_get_thread_num, library.omp_get_num_threads)
    except (OSError, AttributeError):
        return None
    start.argtypes, start.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    thread, n_threads = (ctypes.cast(number, ctypes.c_void_p).value or 0 for number in numbers)
    return start, thread, n_threads


def functions() -> tuple[int, int] | None:
    """Return the addresses of the C functions that say which thread calls them, and of how many.

    Returns
    -------
    tuple of int or None
        None where there is only the calling thread: other builds of torch, and forked children,
        where torch's threads do not exist.
    """
    library = None if _is_forked else _library()
    return None if library is None else library[1:]


def run(function: int, argument: int, n_threads: int) -> None:
    """Call a C function once in each of at most so many threads, and wait for all.

    Parameters
    ----------
    function : int
        Address of a C function void(void *).
    argument : int
        The pointer it gets.
    n_threads : int
        The calling thread is one of them.
    """
    if (library := _library()) is not None:
        library[0](function, argument, n_threads, 0)
