"""Since when something holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["since"]


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
    # Share of the rows from each one on in which it holds.
    lasting = np.cumsum(holds[::-1])[::-1] / np.arange(holds.size, 0, -1)
    return int(np.flatnonzero(holds & (lasting >= share))[0])
