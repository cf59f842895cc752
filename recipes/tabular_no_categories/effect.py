"""What the README says of this run, measured."""

import actlab
from actlab import peaks


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    before = peaks.twin_peaks(run, epoch="untrained").sel(split="valid")
    after = peaks.twin_peaks(run).sel(split="valid")
    d_before, d_after = float(before.separation), float(after.separation)
    silent = run.layers.index[run.layers.never_called].tolist()
    broken = [finding.name for finding in actlab.check(run) if finding.worst in ("error", "warning")]
    return [
        (
            f"never called are {' and '.join(silent)}, the empty ModuleList and what follows it",
            silent == ["embeds", "embed_dropout"],
        ),
        (f"the verdict names {', '.join(broken) or 'no error and no warning'}", not broken),
        (
            f"d' of the validation rises from {round(d_before, 1) + 0.0:.1f} to {d_after:.1f}",
            d_after > max(1, d_before + 0.5),
        ),
    ]
