"""Rows merged group by group: plain arrays, or dask arrays in a tree of few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import dask.array
import numpy as np
from numpy.typing import NDArray

__all__ = ["Merge", "add", "by_group"]

Merge = Callable[[NDArray[Any], NDArray[np.intp]], NDArray[Any]]
"""Merges rows [row, ...] into one for each group of consecutive ones, given the first row of each."""

_dask: Any = dask.array  # it has no annotations

_MERGED_BYTES: Final = 32 << 20  # of the rows that are merged in one task
_MOST_ROWS: Final = 16


def add(counts: NDArray[Any], starts: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Add up counts [row, ...] over groups of rows."""
    stops = [*starts[1:], len(counts)]
    # Four times as fast as np.add.reduceat, which converts number by number.
    return np.stack([counts[start:stop].sum(0, np.uint64) for start, stop in zip(starts, stops, strict=True)])


def by_group(array: Any, number: NDArray[np.intp], merge: Merge, dtype: Any) -> Any:
    """Merge the rows [row, ...] of each group, given the group of each, counted from 0."""
    array, number = _by_run(array, number, merge, dtype)
    if np.any(np.diff(number) < 1):  # some come again: put their parts side by side
        order = np.argsort(number, kind="stable")
        array, _ = _by_run(array[order], number[order], merge, dtype)
    return array


def _by_run(array: Any, number: NDArray[np.intp], merge: Merge, dtype: Any) -> tuple[Any, NDArray[np.intp]]:
    """Merge consecutive rows of the same group, in a tree of few rows at a time on dask.

    Every chunk is merged by itself first, so the graph grows with the chunks and not with the groups.
    """
    changes = np.diff(number, prepend=-1) != 0
    if isinstance(array, np.ndarray):
        return merge(array, np.flatnonzero(changes)), number[changes]
    array = array.rechunk({0: tuple(filter(None, array.chunks[0]))})  # empty chunks cannot be merged
    while True:
        array, number = _by_chunk(array, number, merge, dtype)
        if number.size == np.count_nonzero(changes):
            return array, number
        row_bytes = array.dtype.itemsize * int(np.prod(array.chunksize[1:]))
        most = int(np.clip(_MERGED_BYTES // row_bytes, 2, _MOST_ROWS))
        array = array.rechunk({0: _heights(number, most)})


def _by_chunk(array: Any, number: NDArray[np.intp], merge: Merge, dtype: Any) -> tuple[Any, NDArray[np.intp]]:
    """Merge consecutive rows of the same group that lie in the same chunk."""
    edges = np.cumsum([0, *array.chunks[0]])
    is_first = np.diff(number, prepend=-1) != 0
    is_first[edges[:-1][edges[:-1] < number.size]] = True
    heights = np.diff(np.searchsorted(np.flatnonzero(is_first), edges)).tolist()
    dims = tuple(range(array.ndim))
    merged = _dask.blockwise(
        _merge_block,
        dims,
        array,
        dims,
        _dask.from_array(is_first, chunks=(array.chunks[0],)),
        (0,),
        merge=merge,
        adjust_chunks={0: heights},
        dtype=dtype,
        meta=np.empty((0,) * array.ndim, dtype),
    )
    return merged, number[is_first]


def _merge_block(block: NDArray[Any], is_first: NDArray[np.bool_], merge: Merge) -> NDArray[Any]:
    """Merge the rows of one chunk, given which rows begin a group."""
    return merge(block, np.flatnonzero(is_first))


def _heights(number: NDArray[np.intp], most: int) -> tuple[int, ...]:
    """Cut rows into chunks of at most `most`, at the ends of groups where it can be."""
    heights, last = [], 0
    for rows in np.diff(np.flatnonzero(np.diff(number, prepend=-1)), append=number.size).tolist():
        if last and last + rows > most:
            heights.append(last)
            last = 0
        full = (last + rows - 1) // most
        heights += [most] * full
        last += rows - full * most
    return (*heights, last)
