"""What the README says of this run, measured."""

import numpy as np

import actlab
from actlab import peaks, stats


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    # How often each letter comes tells the loss of who knows no more than that.
    labels = run.label_moments("valid")
    share = labels.n.isel(unit=0).sum("row").values / labels.n.isel(unit=0).values.sum()
    entropy = float(-(share[share > 0] * np.log(share[share > 0])).sum())
    loss = float(run.select("valid", epoch="last")["log_loss"].mean())

    before = stats.pool_moments(run.select("valid", epoch="untrained"))["std"].compute()
    after = stats.pool_moments(run.select("valid", epoch="last"))["std"].compute()
    blocks = range(run.layers.index.str.endswith(".stream").sum())
    stream = after.sel(layer=["stream", *(f"blocks.{i}.stream" for i in blocks)]).values
    untrained = float(before.sel(layer=f"blocks.{blocks[-1]}.stream"))
    norms = after.sel(layer=run.select_layers(kind="LayerNorm")).values
    ratios = [
        float(after.sel(layer=f"blocks.{i}.down") / after.sel(layer=f"blocks.{i}.attention.out"))
        for i in blocks
    ]

    trend = peaks.trend(run).separation.sel(split="valid").values
    return [
        (
            f"the validation loss, {loss:.2f}, is far below the entropy of single letters, {entropy:.2f}",
            loss < entropy - 0.7,
        ),
        (
            f"the residual stream grows from block to block: {', '.join(f'{size:.2f}' for size in stream)}",
            bool((np.diff(stream) > 0).all()) and stream[-1] > 3 * stream[0],
        ),
        (
            f"behind the last block it was {untrained:.2f} untrained, and is {stream[-1]:.2f}",
            stream[-1] > 1.5 * untrained,
        ),
        (
            f"layer norms give standard deviations of {norms.min():.2f} to {norms.max():.2f}",
            norms.min() > 0.5 and norms.max() < 2,
        ),
        (
            f"the two-layer networks write {min(ratios):.1f} to {max(ratios):.1f} times as much as attention",
            min(ratios) > 1.5,
        ),
        (
            f"d' of the validation rises from {round(float(trend[0]), 1) + 0.0:.1f} to {trend[-1]:.1f}",
            trend[-1] > max(trend[0], 0) + 1,
        ),
    ]
