"""What the README says of this run, measured."""

from scipy.stats import spearmanr

import actlab
from actlab import peaks


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    valid = peaks.twin_peaks(run).sel(split="valid")
    n_modes, by_labels = int(valid.n_modes), float(valid.area_ratio)
    by_shape = _below_to_above(run, float(valid.valley_position[0])) if n_modes == 2 else float("nan")
    epochs = run.epochs("valid")
    apart = peaks.trend(run).separation.sel(split="valid", epoch=epochs).values
    rank = float(spearmanr(apart, [_accuracy(run, epoch) for epoch in epochs]).statistic)
    return [
        (f"by the labels, the validation has {by_labels:.2f} NO for each YES", abs(by_labels - 9) < 0.1),
        (f"it has {n_modes} significant modes, two expected", n_modes == 2),
        (f"{by_shape:.1f} times as many outputs lie below the valley as above it", 7 < by_shape < 13),
        (f"its d' ends at {apart[-1]:.1f}", apart[-1] > 3),
        (f"over the epochs, d' rises with accuracy: rank correlation {rank:.2f}", rank > 0.8),
    ]


def _below_to_above(run: actlab.Run, valley: float) -> float:
    """Return how many outputs of the last validation lie below the valley for each above it."""
    above = actlab.LinearAxis(valley, 1e6, 1)
    sides = run.histogram(above, layer=run.head, split="valid", epoch="last")
    return float(sides.underflow / sides.counts.sum())


def _accuracy(run: actlab.Run, epoch: int) -> float:
    """Return the share of right answers in the validation of an epoch, by its labels and outputs."""
    raw = run.values(run.head, "valid", run.rows("valid", epoch))
    return float((raw["head"].argmax("unit") == raw["label"]).mean())
