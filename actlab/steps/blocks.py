"""Rows of counts read block by block, each chunk of the store once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["row_blocks"]

_BLOCK_BYTES: Final = 64 << 20


def row_blocks(
    counts: xr.DataArray, rows: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.unsignedinteger[Any]]]]:
    """Load some rows of counts, a few whole chunks at a time.

    Parameters
    ----------
    counts : xarray.DataArray
        Counts [step, layer, bucket], lazy.
    rows : numpy.ndarray
        Numbers of the rows wanted [row], ascending.

    Yields
    ------
    chosen : slice
        Which of `rows`.
    block : numpy.ndarray
        Their counts [row, layer, bucket].
    """
    chunk = counts.chunks[0][0] if counts.chunks is not None else 1
    row_bytes = max(counts.nbytes // max(counts.sizes["step"], 1), 1)
    height = chunk * max(1, _BLOCK_BYTES // (chunk * row_bytes))
    starts = np.flatnonzero(np.diff(rows // height, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], rows.size], strict=True):
        wanted = counts.isel(step=rows[start:stop]).transpose("step", "layer", "bucket")
        yield slice(int(start), int(stop)), wanted.values
