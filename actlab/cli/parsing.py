"""The words of the command line as values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import typer

__all__ = ["parse_epochs", "parse_patterns"]

_MOST_EPOCHS: Final = 100_000


def parse_patterns(layers: Sequence[str] | None) -> list[str] | None:
    """Split comma separated patterns; None where none are given."""
    if not layers:
        return None
    patterns = [part.strip() for text in layers for part in text.split(",")]
    return [pattern for pattern in patterns if pattern]


def parse_epochs(text: str | None) -> list[int] | None:
    """Read epoch labels such as ``0-3,5``; -1 is the evaluation before any training.

    Raises
    ------
    typer.BadParameter
        If the text is no such list.
    """
    if text is None:
        return None
    labels: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?", part)
        if found is None:
            raise typer.BadParameter(f"{text!r} is not a list of epochs such as 0-3,5", param_hint="--epochs")
        first = int(found[1])
        last = first if found[2] is None else int(found[2])
        if not first <= last < first + _MOST_EPOCHS:
            raise typer.BadParameter(f"{part.strip()!r} is empty or too long a range", param_hint="--epochs")
        labels.update(range(first, last + 1))
    return sorted(labels)
