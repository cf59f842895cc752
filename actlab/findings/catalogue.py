"""All rules, in the order in which they are told."""

from __future__ import annotations

from typing import Final

from actlab.findings.rule import Rule
from actlab.findings.rules import (
    collapse,
    generalisation,
    half,
    head,
    motion,
    scale,
    spikes,
    start,
    stillness,
    units,
    values,
)

__all__ = ["RULES"]

RULES: Final[dict[str, Rule]] = {
    rule.id: rule
    for module in (
        start,
        values,
        half,
        scale,
        motion,
        spikes,
        stillness,
        units,
        collapse,
        head,
        generalisation,
    )
    for rule in (getattr(module, name) for name in module.__all__)
}
"""The rules by their ids."""
