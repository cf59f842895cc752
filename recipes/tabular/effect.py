"""What the README says of this run, measured."""

import actlab
from actlab import peaks


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    before = peaks.twin_peaks(run, epoch="untrained").sel(split="valid")
    after = peaks.twin_peaks(run).sel(split="valid")
    d_before, d_after, auc = float(before.separation), float(after.separation), float(after.auc)

    # The outputs of the last validation, kept as they were: the height of YES is that of its labels.
    outputs = run.values(run.head, "valid", run.rows("valid", "last"))
    head, label = outputs["head"].values[:, 0], outputs["label"].values
    asked, given = (label == 0).sum() / (label == 1).sum(), (head <= 0).sum() / max((head > 0).sum(), 1)
    embeddings = run.layers[run.layers.kind == "Embedding"]
    return [
        (
            f"d' of the validation rises from {round(d_before, 1) + 0.0:.1f} to {d_after:.1f}",
            d_after > max(1.2, d_before + 0.5),
        ),
        (f"who leaves has the higher output with a probability of {auc:.2f}", auc > 0.83),
        (
            f"{asked:.1f} stay for each who leaves, the network says {given:.1f}",
            asked / 2.5 < given < asked * 2.5,
        ),
        (f"{len(embeddings)} embeddings, all called", not embeddings.never_called.any()),
    ]
