"""Where frameworks keep the labels of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

__all__ = ["find_labels"]

_NAMES: Final = ("labels", "label", "targets", "target", "y")


def find_labels(batch: Any) -> Any:
    """Find the labels in a batch, as data loaders give it.

    Parameters
    ----------
    batch : object
        A mapping with one of the usual names; a sequence of two or more, whose last part is the target; or an
        object with one of these names.

    Returns
    -------
    torch.Tensor, numpy.ndarray or None
        None where there are none, or several.
    """
    if isinstance(batch, Mapping):
        found = next((batch[name] for name in _NAMES if name in batch), None)
    elif isinstance(batch, (torch.Tensor, np.ndarray, str, bytes)):
        return None
    elif isinstance(batch, Sequence):
        found = batch[-1] if len(batch) > 1 else None
    else:
        found = next((value for name in _NAMES if (value := getattr(batch, name, None)) is not None), None)
    if isinstance(found, (torch.Tensor, np.ndarray)) or found is None:
        return found
    if isinstance(found, Sequence) and not isinstance(found, (str, bytes)):
        if len(found) == 1:
            return find_labels(("", found[0]))
        return np.asarray(found) if _is_flat(found) else None
    return find_labels(found)


def _is_flat(values: Sequence[Any]) -> bool:
    """Say whether a sequence holds plain numbers."""
    return bool(values) and all(isinstance(each, (bool, int, float, np.number)) for each in values)
