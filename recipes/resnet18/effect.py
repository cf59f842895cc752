"""What the README says of this run, measured."""

import numpy as np

import actlab
from actlab import peaks, stats


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    norms = run.select_layers(kind="BatchNorm2d")
    convs = [run.names[run.names.index(norm) - 1] for norm in norms]  # each comes right after its convolution
    moments = stats.pool_moments(run.select("train", epoch="last"))
    off, off_after = (float(abs(moments["mean"].sel(layer=each)).max()) for each in (convs, norms))
    std, std_after = (moments["std"].sel(layer=each).values for each in (convs, norms))
    width, width_after = std.max() / std.min(), std_after.max() / std_after.min()
    before = float(peaks.twin_peaks(run, epoch="untrained").separation.sel(split="valid"))
    valid = peaks.twin_peaks(run).sel(split="valid")
    n_modes, after = int(valid.n_modes), float(valid.separation)
    heights = valid.mode_height.values[:n_modes]
    return [
        (
            f"convolutions have means up to {off:.2f} off zero, the batch norms behind them {off_after:.2g}",
            off > 0.1 and off_after < off / 4,
        ),
        (f"the widest convolution is {width:.1f} times as wide as the narrowest", width > 3),
        (f"the widest batch norm is {width_after:.2f} times as wide as the narrowest", width_after < 1.5),
        (
            f"d' of the validation rises from {round(before, 1) + 0.0:.1f} to {after:.1f}",
            after > max(before, 0) + 2,
        ),
        (f"the outputs of the validation have {n_modes} significant modes, two expected", n_modes == 2),
        (
            f"the lower one has {np.min(heights) / np.max(heights):.2f} of the other's height",
            bool(np.min(heights) > 0.4 * np.max(heights)),
        ),
    ]
