"""What the README says of this run, measured."""

import numpy as np

import actlab
from actlab import peaks


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    epochs = run.epochs("valid")
    n_frozen = _n_frozen(run, epochs)
    trend = peaks.trend(run).sel(split="valid", epoch=epochs[1:])
    d, n_modes = trend.separation.values, trend.n_modes.values.astype(int)
    is_both = 0 < n_frozen < d.size
    last = n_frozen - 1 if is_both else 0  # the last epoch with a frozen body
    creep, jump = d[last] - d[max(last - 2, 0)], d[min(last + 2, d.size - 1)] - d[last]
    return [
        (f"for {n_frozen} of {d.size} epochs the body gives what it gave before the training", is_both),
        (
            f"d' of the validation comes to {d[last]:.1f} with the body frozen, to {d[-1]:.1f} after",
            d[-1] > d[last] + 1,
        ),
        (
            f"it rises by {creep:.2f} in the last two frozen epochs, by {jump:.2f} in the two that follow",
            jump > max(3 * creep, 0.5),
        ),
        (
            f"the validation has {n_modes[last]} significant mode with the body frozen, {n_modes[-1]} after",
            n_modes[last] == 1 and n_modes[-1] == 2,
        ),
    ]


def _n_frozen(run: actlab.Run, epochs: list[int]) -> int:
    """Return for how many epochs the body gives for the validation exactly what it gave untrained."""
    given = [run.select("valid", layers="body.flatten", epoch=e).counts.sum("step").values for e in epochs]
    changed = [not np.array_equal(given[0], each) for each in given[1:]]
    return changed.index(True) if True in changed else len(changed)
