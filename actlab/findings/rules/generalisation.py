"""Rules about data that the training has not seen: learned by heart, or different from each other."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from actlab.findings.answers import trained, two_labels
from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule
from actlab.stats import psi
from actlab.steps.merging import last_quarter

__all__ = ["distribution_shift", "overfit"]


class OverfitLimits(Limits):
    """Thresholds of `overfit`."""

    gap: float = Field(
        0.1, gt=0, lt=1, description="by how much more answers are right in train than in valid"
    )
    gap_at_best: float = Field(
        0.07, gt=0, lt=1, description="the same where more than 0.9 are right in train"
    )
    auc_gap: float = Field(0.05, gt=0, lt=0.5, description="the same of the AUC, where answers are not known")
    small_gap: float = Field(
        0.03, ge=0, lt=1, description="a gap that counts where the valid loss has risen, too"
    )
    loss: float = Field(1.5, gt=1, description="how many times its minimum the valid loss is then")
    loss_alone: float = Field(1.2, gt=1, description="the same for a regression, which has no answers")
    far: float = Field(
        5, gt=1, description="how many times the loss of train that of valid is, where a quarter of it counts"
    )
    epochs: int = Field(3, ge=2, description="fewest epochs of train and valid")


@rule(
    name="Overfit",
    level="warning",
    limits=OverfitLimits,
    looks_at="how many more answers of the head are right in train (the last quarter of an epoch) than in "
    "valid, and whether the loss of valid rises while that of train falls",
    needs="train and valid in 3 epochs, with labels and outputs of the head, or a loss logged in both",
    why="The network learns the samples of train by heart: what it learns does not hold for others.",
    remedy="Stop at the best epoch, take more or augmented data, a smaller network, dropout or weight decay "
    "before {layer}. First see that valid is normalised as train, and that {layer} gets the same in train "
    "and evaluation mode: running statistics of BatchNorm that lag behind give the same picture (to tell, "
    "record train once in evaluation mode).",
    source="AUTOTRAINER: an accuracy 0.1 lower in valid than in train, 0.07 where train is above 0.9; here "
    "by more than the standard error, in the last two epochs. Amazon SageMaker Debugger, rule Overfit, "
    "looks at a ratio of losses of 0.1, which healthy trainings pass; the limits of loss and AUC are ours.",
)
def overfit(facts: Facts, limits: OverfitLimits) -> list[Sign] | Lacking:
    """Find a head that knows train much better than valid."""
    table, losses = facts.answers, _losses(facts)
    if isinstance(table, Lacking):
        return table if losses is None else _by_loss_alone(facts, losses, limits)
    train, valid = (trained(table, split) for split in ("train", "valid"))
    train, valid = xr.align(train, valid, join="inner")
    if train.sizes["epoch"] < limits.epochs:
        return Lacking(f"{train.sizes['epoch']} epochs of train and valid, {limits.epochs} are needed")
    right, error, is_answers = _right(train, valid)
    gap = right[0] - right[1] - error
    best = np.where(right[0] > 0.9, limits.gap_at_best, limits.gap)
    limit = best if is_answers else np.full(gap.size, limits.auc_gap)
    loss = train["loss"].values, valid["loss"].values
    low, is_known = int(right[1].argmax()), bool(np.isfinite(loss[1]).all())
    is_over = gap > limit
    if is_known:
        low = int(loss[1].argmin())
        is_over |= (gap > limits.small_gap) & _risen(loss, low, limits.loss)
    if not is_over[-2:].all():
        return []
    what = "of the answers are right" if is_answers else "is the AUC"
    words = f"{_share(right[0][-1], is_answers)} {what} in train, {_share(right[1][-1], is_answers)} in valid"
    words += f" ({valid['samples'].values[-1]:,.0f} samples)"
    if is_known:
        words += (
            f"; the valid loss was {loss[1][low]:.3g} at its best, in epoch {valid['epoch'].values[low]}, "
        )
        words += f"and is {loss[1][-1]:.3g}"
    start = min(low + 1, gap.size - 1)
    steps = int(valid["first_step"].values[start]), int(valid["last_step"].values[-1])
    assert facts.head is not None
    return [
        Sign(facts.head, "valid", steps, float(right[0][-1] - right[1][-1]), float(limit[-1]), words + ".")
    ]


def _right(train: xr.Dataset, valid: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Return the share of right answers [train or valid, epoch], the error of their difference, and True.

    Where answers are not known, or a sample has several, the AUC takes their place, and False.
    """
    n = np.stack([each["n_yes"].sum("unit").values for each in (train, valid)])
    n = np.where(n > 0, n, math.nan)  # of no samples nothing is known
    is_single = train.sizes["unit"] == 1
    if not (train.attrs["one_of"] or is_single) or not np.isfinite(train["accuracy"]).any():
        error = np.sqrt((1 / n).sum(axis=0) / 12)
        return np.stack([each["mean_auc"].values for each in (train, valid)]), error, False
    parts = [two_labels(each) if is_single else each for each in (train, valid)]
    # A class that train hardly has is none that is learned by heart.
    shares = [each["n_yes"].sum("epoch") / max(float(each["n_yes"].sum()), 1) for each in parts]
    known = (shares[0] > shares[1] / 3).values
    n, hits = (
        np.stack([each[name].values[:, known].sum(axis=1) for each in parts]) for name in ("n_yes", "hits")
    )
    width = max(1, n.shape[1] // 10)  # a quarter of a small epoch says little: take those of some epochs
    for each in (n, hits):
        total = np.cumsum(each[0])
        each[0, width:] = total[width:] - total[:-width]
    n = np.where(n > 0, n, math.nan)
    share = (hits + 1) / (n + 2)  # Laplace: none wrong of a few is no certainty
    return hits / n, np.sqrt((share * (1 - share) / n).sum(axis=0)), True


def _risen(
    loss: tuple[NDArray[np.float64], NDArray[np.float64]], low: int, times: float
) -> NDArray[np.bool_]:
    """Tell in which epochs after its minimum the valid loss has risen, while that of train has fallen."""
    train, valid = loss
    after = np.arange(valid.size) > low
    return np.asarray(after & (valid > times * valid[low]) & (train < 0.8 * train[low]) & (valid > 2 * train))


def _share(value: float, is_answers: bool) -> str:
    """Say a share in percent, an AUC as it is."""
    return f"{100 * value:.0f} %" if is_answers else f"{value:.2f}"


def _losses(facts: Facts) -> xr.Dataset | None:
    """Return what was logged as the loss of train and of valid [epoch], and the steps of valid; or None."""
    found = [_logged(facts, split) for split in ("train", "valid")]
    train, valid = found
    if train is None or valid is None:
        return None
    return xr.merge([train[["loss"]].rename(loss="train"), valid.rename(loss="valid")], join="inner")


def _logged(facts: Facts, split: str) -> xr.Dataset | None:
    """Return the mean loss of each trained epoch, of train in its last quarter, and its steps; or None."""
    values = facts.loss(split)
    if values is None:
        return None
    rows, epochs = facts.run[split], [epoch for epoch in facts.run.epochs(split) if epoch >= 0]
    if not epochs:
        return None
    chosen = [facts.run.rows(split, epoch) for epoch in epochs]
    means = [float(values[last_quarter(each) if split == "train" else each].mean()) for each in chosen]
    first, last = ([int(rows["step"].values[each[end]]) for each in chosen] for end in (0, -1))
    columns = {"loss": means, "first_step": first, "last_step": last}
    return xr.Dataset({name: ("epoch", column) for name, column in columns.items()}, {"epoch": epochs})


def _by_loss_alone(facts: Facts, losses: xr.Dataset, limits: OverfitLimits) -> list[Sign] | Lacking:
    """Find a valid loss that rises while that of train falls."""
    if losses.sizes["epoch"] < limits.epochs:
        return Lacking(
            f"{losses.sizes['epoch']} epochs with a loss of train and valid, {limits.epochs} are needed"
        )
    train, valid = losses["train"].values, losses["valid"].values
    if not np.isfinite(valid).all() or facts.head is None:
        return Lacking("needs losses of train and valid, and a head")
    if min(train.min(), valid.min()) <= 0:
        return Lacking("needs losses above 0: of others a ratio says nothing")
    low = int(valid.argmin())
    is_far = valid > limits.far * train  # then little more is enough
    is_over = _risen((train, valid), low, limits.loss_alone)
    is_over |= is_far & _risen((train, valid), low, 1 + (limits.loss_alone - 1) / 4)
    if not is_over[-2:].all():
        return []
    words = f"the valid loss was {valid[low]:.3g} at its best, in epoch {losses['epoch'].values[low]}, "
    words += f"and is {valid[-1]:.3g}, that of train went from {train[low]:.3g} to {train[-1]:.3g}."
    steps = int(losses["first_step"].values[low + 1]), int(losses["last_step"].values[-1])
    return [Sign(facts.head, "valid", steps, float(valid[-1] / valid[low]), limits.loss_alone, words)]


class DistributionShiftLimits(Limits):
    """Thresholds of `distribution_shift`."""

    psi: float = Field(0.25, gt=0, description="population stability index of test against valid")
    chance: float = Field(
        27.9,
        gt=0,
        description="and at least so many times 1/n + 1/m, of n and m samples; less where a sample has many "
        "values",
    )
    samples: int = Field(
        30, ge=1, description="fewest samples of each: with fewer, whole bins are empty by chance"
    )
    labels: float = Field(0.25, gt=0, description="the same index of the labels")
    accuracy: float = Field(
        0.1, gt=0, lt=1, description="by how much fewer answers are right in test, besides twice the error"
    )


@rule(
    name="Distribution shift",
    level="warning",
    limits=DistributionShiftLimits,
    looks_at="the histograms of every layer in test against those in valid, in the bins that hold a tenth "
    "of valid each",
    needs="valid and test without training between them (else the layer input alone is compared)",
    why="Test is not like valid: what was chosen on valid may not hold in test.",
    remedy="Compare how test and valid were made, beginning at {layer}, the first layer that shows it: "
    "normalisation, units, source, preprocessing and classes; if the inputs are alike, see whether another "
    "checkpoint was loaded.",
    source="Population stability index above 0.25: a major shift (Siddiqi, Credit Risk Scorecards, 2006); "
    "by chance 9 (1/n + 1/m) on average, 27.9 in one case of 1,000 (chi squared, 9 degrees of freedom; "
    "Yurdakul, 2018).",
)
def distribution_shift(facts: Facts, limits: DistributionShiftLimits) -> list[Sign] | Lacking:
    """Find layers in which test is not like valid."""
    if not {"valid", "test"} <= facts.rows.keys():
        return Lacking(
            "needs a test split to compare with valid" if "valid" in facts.rows else "needs a valid split"
        )
    ends = {split: _last_epoch(facts.rows[split]) for split in ("valid", "test")}
    trained_at = np.concatenate([each["train_step"].values for each in ends.values()])
    is_same = bool((trained_at == trained_at[0]).all())
    counts = [facts.latest[split] for split in ends]
    known = ((counts[0].sum("bucket") > 0) & (counts[1].sum("bucket") > 0)).values
    layers = [name for name in counts[0]["layer"].values[known].tolist() if is_same or _is_input(name)]
    if not layers:
        return Lacking("needs valid and test of the same state of the network")
    noise, n, m = _chance(ends["valid"].sel(layer=layers), ends["test"].sel(layer=layers))
    if min(n, m) < limits.samples:
        return Lacking(f"{min(n, m)} samples in valid or test, {limits.samples} are needed")
    steps = int(ends["test"]["step"].values[0]), int(ends["test"]["step"].values[-1])
    found = psi(counts[0].sel(layer=layers), counts[1].sel(layer=layers)).values
    signs = []
    for layer, value, limit in zip(layers, found, np.maximum(limits.psi, limits.chance * noise), strict=True):
        if value > limit:
            words = f"PSI {value:.2f} of test against valid ({m:,} and {n:,} samples)."
            signs.append(Sign(layer, "test", steps, float(value), float(limit), words))
    answers = _other_answers(facts, limits) if is_same else None
    if answers is not None and facts.head not in {sign.layer for sign in signs}:
        signs.append(answers)
    return signs


def _is_input(layer: str) -> bool:
    """Tell whether a layer is what comes into the model: that is the same however far it is trained."""
    return layer.rpartition(".")[2] == "input"


def _chance(valid: xr.Dataset, test: xr.Dataset) -> tuple[NDArray[np.float64], int, int]:
    """Return 1/n + 1/m of the samples [layer], less where a sample has many values, and the most n and m."""
    samples = [each["samples"].sum("step").values for each in (valid, test)]
    most = [max(int(each.max()), 1) for each in samples]
    n = [np.where(each > 0, each, top) for each, top in zip(samples, most, strict=True)]
    # The values of a sample are no samples of their own: any number of them counts for ten at most.
    values = np.clip(test["n"].sum("step").values / n[1], 1, 10)
    return (1 / n[0] + 1 / n[1]) / np.sqrt(values), most[0], most[1]


def _last_epoch(rows: xr.Dataset) -> xr.Dataset:
    """Return the rows of the last epoch."""
    return rows.isel(step=np.flatnonzero(rows["epoch"].values == rows["epoch"].values[-1]))


def _other_answers(facts: Facts, limits: DistributionShiftLimits) -> Sign | None:
    """Look for other labels, or far fewer right answers, in test than in valid."""
    table = facts.answers
    if isinstance(table, Lacking) or facts.head is None:
        return None
    parts = [trained(table, split) for split in ("valid", "test")]
    if not all(part.sizes["epoch"] for part in parts):
        return None
    valid, test = (part.isel(epoch=-1) for part in parts)
    steps = int(test["first_step"]), int(test["last_step"])
    n, m = float(valid["samples"]), float(test["samples"])
    if not (n and m):  # no sample has an answer: NaN in all of them
        return None
    yes = [
        np.append(part["n_yes"].values, part["n_no"].values[: part.sizes["unit"] == 1])
        for part in (valid, test)
    ]
    shares = [np.maximum(each / max(each.sum(), 1), 1e-4) for each in yes]  # the floor of `psi`
    index = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    limit = max(limits.labels, 3 * yes[0].size * (1 / n + 1 / m))
    if index > limit and table.attrs["one_of"] | (yes[0].size == 2):
        words = (
            f"PSI {index:.2f} of the labels of test against those of valid ({m:,.0f} and {n:,.0f} samples)."
        )
        return Sign(facts.head, "test", steps, index, limit, words)
    right = np.array([float(valid["accuracy"]), float(test["accuracy"])])
    error = math.sqrt(float((right * (1 - right) / [n, m]).sum()))
    if not right[0] - right[1] > limits.accuracy + 2 * error:
        return None
    words = f"{100 * right[0]:.0f} % of the answers are right in valid, {100 * right[1]:.0f} % in test "
    words += f"({n:,.0f} and {m:,.0f} samples)."
    return Sign(facts.head, "test", steps, float(right[0] - right[1]), limits.accuracy, words)
