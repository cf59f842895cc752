"""The charts: each has an options model, `prepare() -> xarray.Dataset` and `draw() -> HoloViews`.

The short forms for a notebook are loaded on first use, because plotting is heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actlab.charts.class_panels import per_class as per_class
    from actlab.charts.colorful_chart import colorful as colorful
    from actlab.charts.twin_peaks_chart import twin_peaks as twin_peaks
    from actlab.charts.wall_chart import wall as wall

__all__ = ["colorful", "per_class", "twin_peaks", "wall"]

_MODULES = {
    "colorful": "colorful_chart",
    "per_class": "class_panels",
    "twin_peaks": "twin_peaks_chart",
    "wall": "wall_chart",
}


def __getattr__(name: str) -> Any:
    """Load a chart on first use."""
    if name in _MODULES:
        return getattr(import_module(f"actlab.charts.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'actlab.charts' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the charts only."""
    return __all__
