"""Rules about scale."""

from __future__ import annotations

__all__: list[str] = []
