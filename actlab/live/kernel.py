"""Whether this is a notebook."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["find_shell"]


def find_shell() -> Any | None:
    """Return the `InteractiveShell` of the kernel that this runs in; None outside a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell if hasattr(shell, "kernel") else None
