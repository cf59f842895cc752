"""What the README says of this run, measured."""

import numpy as np

import actlab
from actlab import peaks


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    twin = peaks.twin_peaks(run)
    claimed = bool(np.isfinite(twin.separation).any()) or bool(np.isfinite(twin.yes_position).any())
    seen = [(f"the reading is '{twin.attrs['reading']}', no YES and NO are claimed", not claimed)]

    # The predictions of the last epoch, kept as they were: [sample, (x, y)].
    train = run.values(run.head, "train", run.rows("train", "last"))["head"].values
    valid = run.values(run.head, "valid", run.rows("valid", "last"))["head"].values
    for name, broad, narrow in zip("xy", train.std(axis=0), valid.std(axis=0), strict=True):
        words = f"{name} has standard deviation {narrow:.2f} in the validation, {broad:.2f} in train"
        seen.append((words, narrow < 0.6 * broad))
    middle = valid.mean(axis=0)
    words = f"the validation is around x {middle[0]:.2f}, y {middle[1]:.2f}: right of the middle and below it"
    seen.append((words, bool(middle.min() > 0.04)))

    rows = run["valid"].groupby("epoch").mean()["log_loss"]
    before, after = float(rows.sel(epoch=-1)) ** 0.5, float(rows[-1]) ** 0.5
    seen.append((f"the error of the validation falls from {before:.2f} to {after:.2f}", after < 0.06))
    return seen
