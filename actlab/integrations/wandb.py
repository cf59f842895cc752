"""Weights & Biases: `WandbTracker` shows each epoch of a run beside what else is logged there."""

from __future__ import annotations

from typing import Any, Final

from actlab.errors import ActlabError, MissingDependencyError
from actlab.integrations.summary import GROUPS, summarise

try:
    import wandb
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "actlab.integrations.wandb needs wandb: pip install 'actlab[wandb]'"
    ) from error

__all__ = ["WandbTracker"]

_EPOCH: Final = "actlab_epoch"


class WandbTracker:
    """Push each epoch to Weights & Biases: the Twin Peaks as an image, and scalars of every layer.

    They are drawn over the epoch, `actlab_epoch`, and lie in the rows that you log, at the step where
    these are.

    Parameters
    ----------
    run : wandb.Run, optional
        Where to; by default the run that is active when an epoch ends.
    """

    def __init__(self, run: Any = None) -> None:
        self._run = run
        self._told: Any = None  # the run that knows of our axis
        self._step = -1

    def push(self, run: str, epoch: int) -> None:
        """Push what a run shows of an epoch.

        Parameters
        ----------
        run : str
            Path of the run, committed so far.
        epoch : int
            Label of the epoch; -1 for evaluation before any training.

        Raises
        ------
        ActlabError
            If no run of wandb is active.
        StoreError
            If there is no such run.
        SelectionError
            If it has no such epoch.
        """
        target = wandb.run if self._run is None else self._run
        if target is None:
            raise ActlabError("no wandb run is active: call wandb.init(), or give WandbTracker a run")
        found = summarise(run, epoch)
        if target is not self._told:
            for group in GROUPS:
                target.define_metric(f"{group}/*", step_metric=_EPOCH)
            self._told, self._step = target, -1
        row: dict[str, Any] = {**found.scalars, _EPOCH: epoch}
        if found.picture is not None:
            row["twin_peaks/picture"] = wandb.Image(found.picture)
        # Into the row that is open, so that no step of the user's own is passed; a new one if that is ours.
        self._step = max(target.step, self._step + 1)
        target.log(row, step=self._step)
