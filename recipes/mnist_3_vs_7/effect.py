"""What the README says of this run, measured."""

import actlab
from actlab import peaks


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    before = peaks.twin_peaks(run, epoch="untrained").sel(split="valid")
    after = peaks.twin_peaks(run).sel(split="valid")
    d_before, d_after = float(before.separation), float(after.separation)
    heights = after.mode_height.values[: int(after.n_modes)]
    alike = min(heights) / max(heights)
    return [
        (
            f"d' of the validation rises from {round(d_before, 1) + 0.0:.1f} to {d_after:.1f}",
            d_after > max(d_before, 0) + 2,
        ),
        (f"the validation has {len(heights)} significant modes, two expected", len(heights) == 2),
        (f"the lower one has {alike:.2f} of the other's height", alike > 0.4),
    ]
