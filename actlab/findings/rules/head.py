"""Rules about head."""

from __future__ import annotations

__all__: list[str] = []
