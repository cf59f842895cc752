"""What the README says of this run, measured."""

from scipy import stats

import actlab
from actlab import peaks


def measure(run: actlab.Run) -> list[tuple[str, bool]]:
    """Return what there is to see, each with whether it is there."""
    loss = run["valid"].groupby("epoch").mean()["log_loss"]
    best, last = int(loss.idxmin("epoch")), int(loss.epoch[-1])
    best_loss, last_loss = float(loss.min()), float(loss[-1])

    trend = peaks.trend(run)
    since = slice(max(best, 0), last)  # epoch -1 has no training to compare
    pair = trend.sel(pair="train_valid", epoch=since)
    gap, gap_noise, distance = pair.gap.values, float(pair.gap_noise.max()), pair.distance.values
    together = stats.spearmanr(loss.sel(epoch=since), distance).statistic
    return [
        (
            f"the validation loss is best in epoch {best}, {best_loss:.2f}, and {last_loss:.2f} at last",
            last > best and last_loss > 1.2 * best_loss,
        ),
        (
            f"from there on the gap of d', train less validation, grows from {gap[0]:.1f} to {gap[-1]:.1f}",
            gap[-1] > gap[0] + 2 * gap_noise,
        ),
        (
            f"the curves grow apart, {distance[0]:.1%} to {distance[-1]:.1%}, with the loss ({together:.2f})",
            distance[-1] > distance[0] and together > 0.6,
        ),
        (
            f"train and validation: {trend.drift.sel(pair='train_valid').item()}",
            trend.drift.sel(pair="train_valid").item() == "drifting apart",
        ),
        (
            "the verdict flags it as overfit",
            any(each.rule == "overfit" for finding in actlab.check(run) for each in finding.every),
        ),
    ]
