"""The chunks of a run as dask arrays, of which some columns can be read alone."""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
from numpy.typing import NDArray

from actlab.store.decoding import Blocks

__all__ = ["lazy_array", "take_columns"]

_from_array: Any = dask.array.from_array  # it has no annotations


def lazy_array(blocks: Blocks) -> Any:
    """Return an array of a run as a `dask.array.Array`; a chunk of it is one or more on disk."""
    # With `fancy`, dask asks for one layer where only one is wanted.
    return _from_array(blocks, chunks=blocks.chunks, name=False, fancy=True)


def take_columns(values: Any, columns: NDArray[np.int64]) -> Any:
    """Select a list of entries along the second dim, at their cost where the store holds them apart.

    dask itself reads whole chunks for a list, and selects afterwards.

    Parameters
    ----------
    values : dask.array.Array
        Best as `lazy_array` made it.
    columns : numpy.ndarray
        int64: which ones, in any order.

    Returns
    -------
    dask.array.Array
        `values[:, columns]`.
    """
    blocks = values.dask.get(f"original-{values.name}")  # what `from_array` was given, as dask names it
    return lazy_array(blocks.take(columns)) if isinstance(blocks, Blocks) else values[:, columns]
