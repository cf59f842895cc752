"""`open_run(path) -> Run`: a recorded run as lazy xarray, and the selections made on it."""

from actlab.run.opening import Run, open_run

__all__ = ["Run", "open_run"]
