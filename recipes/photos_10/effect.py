"""What the README says of this run, measured."""

from scipy.stats import spearmanr

import actlab
from actlab import peaks


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    ratio = float(peaks.twin_peaks(run).area_ratio.sel(split="valid"))
    epochs = run.epochs("valid")
    apart = peaks.trend(run).separation.sel(split="valid", epoch=epochs).values
    rank = float(spearmanr(apart, [_accuracy(run, epoch) for epoch in epochs]).statistic)
    photos = peaks.class_peaks(run).sel(split="valid")
    said_no = photos.no_mean.values
    firmness = float(spearmanr(said_no, photos.auc).statistic)
    return [
        (f"by the labels, the validation has {ratio:.2f} NO for each YES", abs(ratio - 9) < 0.1),
        (f"its d' ends at {apart[-1]:.1f}", apart[-1] > 1.5),
        (f"over the epochs, d' rises with accuracy: rank correlation {rank:.2f}", rank > 0.8),
        (
            f"the mean NO of a photo lies between {said_no.min():.1f} and {said_no.max():.1f}",
            said_no.max() - said_no.min() > 1.5,
        ),
        (
            f"the higher it lies, the worse the photo is told apart: rank correlation {firmness:.2f}",
            firmness < -0.5,
        ),
    ]


def _accuracy(run: actlab.Run, epoch: int) -> float:
    """Return the share of right answers in the validation of an epoch, by its labels and outputs."""
    raw = run.values(run.head, "valid", run.rows("valid", epoch))
    return float((raw["head"].argmax("unit") == raw["label"]).mean())
