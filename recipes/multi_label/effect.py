"""What the README says of this run, measured."""

import numpy as np

import actlab
from actlab import peaks


def separation(yes: np.ndarray, no: np.ndarray) -> float:
    """Return d' of two samples."""
    return float((yes.mean() - no.mean()) / np.sqrt((yes.var() + no.var()) / 2))


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    before = peaks.twin_peaks(run, epoch="untrained").sel(split="valid")
    after = peaks.twin_peaks(run).sel(split="valid")
    d_before, d_after = float(before.separation), float(after.separation)

    # The outputs of the last validation, kept as they were, and their labels.
    outputs = run.values(run.head, "valid", run.rows("valid", "last"))
    head, label = outputs["head"].values, outputs["label"].values
    asked, given = (label == 0).sum() / (label == 1).sum(), (head <= 0).sum() / max((head > 0).sum(), 1)
    one, three = (
        separation(head[rows][label[rows] == 1], head[rows][label[rows] == 0])
        for rows in (label.sum(axis=1) == 1, label.sum(axis=1) == 3)
    )
    return [
        (
            f"d' of the validation rises from {round(d_before, 1) + 0.0:.1f} to {d_after:.1f}",
            d_after > max(d_before, 0) + 2,
        ),
        (
            f"the labels have {asked:.1f} NO for each YES, the outputs {given:.1f} below zero for each above",
            abs(given / asked - 1) < 0.35,
        ),
        (f"d' is {one:.1f} with one label in a picture, {three:.1f} with three", one > three + 0.5),
    ]
