"""Since when something holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["since"]

_SOON = 10  # rows, in half of which it must hold at first


def since(holds: NDArray[np.bool_], share: float = 0.9) -> int | None:
    """Return the first row from which on something holds in almost all rows, to the end.

    Parameters
    ----------
    holds : numpy.ndarray
        Whether it does [row].
    share : float
        At least this share of the rows, the last one among them.

    Returns
    -------
    int or None
        Number of that row; None where it does not hold in the end.
    """
    if not holds.size or not holds[-1]:
        return None
    count, rows = np.append(0, np.cumsum(holds)), np.arange(holds.size)
    lasting = (count[-1] - count[:-1]) / (holds.size - rows)
    # A single row long before the others is no beginning.
    soon = np.minimum(rows + _SOON, holds.size)
    goes_on = (count[soon] - count[:-1]) * 2 >= soon - rows
    return int(np.flatnonzero(holds & (lasting >= share) & goes_on)[0])
