"""TensorBoard: `TensorBoardTracker` shows each epoch of a run beside what else is logged there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from actlab.errors import MissingDependencyError
from actlab.integrations.summary import summarise

__all__ = ["TensorBoardTracker"]

if find_spec("tensorboard") is None:
    raise MissingDependencyError(
        "actlab.integrations.tensorboard needs tensorboard: pip install 'actlab[tensorboard]'"
    )


class TensorBoardTracker:
    """Push each epoch to TensorBoard: the Twin Peaks as an image, and scalars of every layer.

    Parameters
    ----------
    writer : torch.utils.tensorboard.SummaryWriter
        Where to; it stays open. The step of what is pushed is the epoch.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

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
        StoreError
            If there is no such run.
        SelectionError
            If it has no such epoch.
        """
        found = summarise(run, epoch)
        for name, value in found.scalars.items():
            self._writer.add_scalar(name, value, epoch)
        if found.picture is not None:
            self._writer.add_image("twin_peaks/picture", found.picture, epoch, dataformats="HWC")
        self._writer.flush()
