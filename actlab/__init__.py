"""actlab: see what happens inside a neural network while it trains.

Public names are loaded on first use (PEP 562), so `import actlab` costs next to nothing and
recording never loads plotting, nor rendering torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actlab import charts as charts
    from actlab import errors as errors
    from actlab import peaks as peaks
    from actlab import stats as stats
    from actlab import steps as steps
    from actlab.axis import FloatAxis as FloatAxis
    from actlab.axis import LinearAxis as LinearAxis
    from actlab.charts.exporting import export as export
    from actlab.comparison import compare as compare
    from actlab.findings.verdict import check as check
    from actlab.live.notebook import watch as watch
    from actlab.pages.build import report as report
    from actlab.pages.comparison_build import compare_report as compare_report
    from actlab.rebinning import rebin as rebin
    from actlab.recording.automatic import record as record
    from actlab.recording.recorder import Recorder as Recorder
    from actlab.run import Run as Run
    from actlab.run import open_run as open_run
    from actlab.store.branching import branch as branch
    from actlab.store.compacting import compact as compact
    from actlab.store.packing import pack as pack
    from actlab.store.repairing import repair as repair

__version__ = "0.1.0"

_HOMES = {
    "FloatAxis": "actlab.axis",
    "LinearAxis": "actlab.axis",
    "Recorder": "actlab.recording.recorder",
    "Run": "actlab.run",
    "branch": "actlab.store.branching",
    "check": "actlab.findings.verdict",
    "compact": "actlab.store.compacting",
    "compare": "actlab.comparison",
    "compare_report": "actlab.pages.comparison_build",
    "export": "actlab.charts.exporting",
    "open_run": "actlab.run",
    "pack": "actlab.store.packing",
    "rebin": "actlab.rebinning",
    "record": "actlab.recording.automatic",
    "repair": "actlab.store.repairing",
    "report": "actlab.pages.build",
    "watch": "actlab.live.notebook",
}
_MODULES = ("charts", "errors", "peaks", "stats", "steps")

__all__ = [
    "FloatAxis",
    "LinearAxis",
    "Recorder",
    "Run",
    "branch",
    "charts",
    "check",
    "compact",
    "compare",
    "compare_report",
    "errors",
    "export",
]
__all__ += ["open_run", "pack", "peaks", "rebin", "record", "repair", "report", "stats", "steps", "watch"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"actlab.{name}")
    raise AttributeError(f"module 'actlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names only."""
    return __all__
