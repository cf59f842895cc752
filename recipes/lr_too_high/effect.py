"""What the README says of this run, measured."""

import numpy as np

import actlab


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    weighted = run.select_layers(kind=("Conv2d", "Linear"))
    found = [finding for finding in actlab.check(run) if finding.rule == "lr_too_high"]
    since = found[0].steps[0] if found else -1
    told = len(set(found[0].layers) & set(weighted)) if found else 0
    train = run.select("train", layers=weighted)
    std = train["std"].values
    growth = float(np.median(std[-1] / std[0]))
    loss = run["train"]["log_loss"].values
    return [
        (
            f"the verdict has {len(found)} finding lr_too_high, from step {since} on",
            bool(found) and found[0].level == "error" and since <= 2,
        ),
        (f"it names {told} of the {len(weighted)} layers with weights", told == len(weighted)),
        (f"their outputs end {growth:,.0f} times as wide as they began (the median)", growth > 1000),
        (f"the loss goes from {loss[0]:.2f} as far as {loss.max():,.0f}", loss.max() > 1000 * loss[0]),
    ]
