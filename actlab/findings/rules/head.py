"""Rules about the answers of the head: YES and NO apart, every class answered, in the right proportion."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import bdtr, entr

from actlab.findings.answers import trained, two_labels
from actlab.findings.facts import Facts
from actlab.findings.rule import Lacking, Limits, Sign, rule
from actlab.findings.spans import since

__all__ = ["class_never_yes", "no_class_separation", "no_yes_ratio"]

_FEW_STEPS: Final = 50
"""After so many training batches a network has learned something, if it learns at all."""

_NAMED: Final = 5
"""So many classes are named, the rest is counted."""


_BY_HEART: Final = (
    "{layer} tells the classes apart in train alone. See whether the labels of train, or of {split}, are "
    "shuffled or shifted against their samples, and whether both are normalised alike; else there is nothing "
    "in the inputs that says the class, and {layer} learns the samples by heart."
)

_OTHER_SHARES: Final = (
    "See that train has the classes in the proportion of {split}, or undo what was done to it: weights of "
    "classes (pos_weight), another sampler, labels taken for others; or move the threshold of {layer}."
)

_WRONG_SHARES: Final = (
    "See what was done to the loss or to the labels of {layer}: weights of classes (pos_weight), labels "
    "taken for others. If nothing was, train longer: {layer} does not yet know how frequent each class is."
)


class NoClassSeparationLimits(Limits):
    """Thresholds of `no_class_separation`."""

    auc: float = Field(
        0.6,
        gt=0.5,
        lt=1,
        description="area under the ROC curve, mean of the units, below which YES and NO are not apart",
    )
    auc_unlearned: float = Field(
        0.75,
        gt=0.5,
        lt=1,
        description="the same where the loss is no better than that of guessing by the class sizes",
    )
    samples: int = Field(50, ge=1, description="fewest labelled samples")
    train_steps: int = Field(_FEW_STEPS, ge=1, description="fewest training batches before it is judged")


@rule(
    name="No class separation",
    level="warning",
    limits=NoClassSeparationLimits,
    looks_at="how far YES and NO of the head are apart after training: the probability that the unit of a "
    "class is higher for a sample of the class than for another one (AUC)",
    needs="labels, outputs of the head, 50 training batches, 50 labelled samples",
    why="The head cannot tell the classes apart: what it says has nothing to do with the labels.",
    remedy="Make sure that the outputs of {layer} are compared with the right labels: shuffled labels, or "
    "labels shifted by one, look like this. If they are right, {layer} gets no signal or does not learn: "
    "try to overfit ten samples, and raise the learning rate if even that fails; see that the parameters of "
    "{layer} are in the optimiser, and that what comes in differs by sample.",
    source="An AUC of 0.5 is chance (Hanley and McNeil, Radiology 143, 1982). 0.6 is ours, of trainings of "
    "our own: those that learned ended above 0.75, those that could not at most at 0.6. Two clean peaks "
    "would be an Ashman D above 2 (Ashman, Bird and Zepf, Astron. J. 108, 1994), too much to ask of a hard "
    "task.",
)
def no_class_separation(facts: Facts, limits: NoClassSeparationLimits) -> list[Sign] | Lacking:
    """Find a head whose YES are no higher than its NO."""
    table = facts.answers
    if isinstance(table, Lacking):
        return table
    steps = trained_steps(facts)
    if steps < limits.train_steps:
        return Lacking(f"{steps} training batches, {limits.train_steps} are needed")
    train = trained(table, "train")
    split = judged_split(table, limits.samples)
    if split is None:
        return Lacking(f"fewer than {limits.samples} labelled samples with finite outputs in the last epoch")
    part = trained(table, split)
    auc = part["mean_auc"].values
    # What is learned shows in the loss.
    guesses = _skill(part) < 0.01
    limit = np.where(guesses, max(limits.auc, limits.auc_unlearned), limits.auc)
    start = since(auc + _auc_error(part) < limit)
    if start is None:
        return []
    n = part["samples"].values[-1]
    words = f"AUC {auc[-1]:.2f} in {split}, where 0.5 is chance ({n:,.0f} labelled samples)"
    words += f", {_right(part)}" if np.isfinite(part["accuracy"].values[-1]) else ""
    words += ", the loss is no better than guessing by the sizes of the classes" if guesses[-1] else ""
    remedy = None
    if (
        split != "train" and train.sizes["epoch"] and train["mean_auc"].values[-1] > 0.75
    ):  # half-way from chance to 1
        words += f"; in train it is {train['mean_auc'].values[-1]:.2f}, learned by heart"
        remedy = _BY_HEART.replace("{split}", split)
    assert facts.head is not None
    return [Sign(facts.head, split, span(part, start), float(auc[-1]), float(limit[-1]), words + ".", remedy)]


def trained_steps(facts: Facts) -> int:
    """Return the number of training batches up to the last row of any split."""
    steps = [int(rows["train_step"].max()) + (split == "train") for split, rows in facts.rows.items()]
    return max(steps, default=0)


def judged_split(table: xr.Dataset, samples: int) -> str | None:
    """Return the first of valid, test and train whose last epoch has enough labelled samples."""
    for split in ("valid", "test", "train"):
        part = trained(table, split)
        if part.sizes["epoch"] and part["samples"].values[-1] >= samples:
            return split
    return None


def span(part: xr.Dataset, start: int) -> tuple[int, int]:
    """Return the first step of an epoch of `trained`, and the last one of all."""
    return int(part["first_step"].values[start]), int(part["last_step"].values[-1])


def _auc_error(part: xr.Dataset) -> NDArray[np.float64]:
    """Return the standard error of `mean_auc` where it is chance [epoch] (of Mann and Whitney's U)."""
    pairs = 1 / part["n_yes"].sum("unit") + 1 / part["n_no"].max("unit")
    error: NDArray[np.float64] = np.sqrt(pairs.values / 12)
    return error


def _skill(part: xr.Dataset) -> NDArray[np.float64]:
    """Return by which share the loss is below that of guessing by the class sizes [epoch], or NaN."""
    yes, no = part["n_yes"].values, part["n_no"].values
    with np.errstate(invalid="ignore", divide="ignore"):  # of a single class nothing is to be guessed
        if part.attrs["one_of"]:
            guess = entr(yes / yes.sum(axis=1, keepdims=True)).sum(axis=1)
        else:
            share = yes / (yes + no)
            guess = np.nanmean(entr(share) + entr(1 - share), axis=1)
        skill: NDArray[np.float64] = 1 - part["loss"].values / guess
    return skill


def _right(part: xr.Dataset) -> str:
    """Say how many answers are right in the last epoch."""
    return f"{100 * part['accuracy'].values[-1]:.0f} % of the answers are right"


class ClassNeverYesLimits(Limits):
    """Thresholds of `class_never_yes`."""

    recall: float = Field(
        0.02, ge=0, lt=1, description="share of a class's samples that may get a YES all the same"
    )
    right: float = Field(
        0.75,
        gt=0,
        le=1,
        description="share of right answers in the other classes, at least: else it still learns",
    )
    chance: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="probability, at most, that a class half as well known as the others gets so few YES",
    )
    hope: float = Field(
        5, gt=1, description="or: how many times more samples a class has than its probabilities add up to"
    )
    samples: int = Field(8, ge=1, description="fewest samples of the class")
    train_steps: int = Field(_FEW_STEPS, ge=1, description="fewest training batches before it is judged")


@rule(
    name="Class never answered",
    level="warning",
    limits=ClassNeverYesLimits,
    looks_at="for every class, the share of its samples that get its YES from the head, in the last two "
    "epochs",
    needs="labels, outputs of the head kept as they were, 8 samples of a class",
    why="The head never says YES to a class that is there: all its samples are taken for others.",
    remedy="See that the class has samples in train, is not left out of the loss (ignore_index, a weight of "
    "0, a mask) and has a unit of {layer} that learns; if it is rare, sample it more often, or give it more "
    "weight in the loss.",
    source="Ours: an exact binomial test against half the median recall of the other classes. Amazon "
    "SageMaker Debugger, rule ClassImbalance, fires where 0.7 of the predictions of a class are wrong.",
)
def class_never_yes(facts: Facts, limits: ClassNeverYesLimits) -> list[Sign] | Lacking:
    """Find classes that the head never answers with."""
    table = facts.answers
    part = table if isinstance(table, Lacking) else _judged_answers(facts, table, limits)
    if isinstance(part, Lacking):
        return part
    split = str(part.attrs["split"])
    # Where nothing is told apart, that is no matter of a class, unless it was never taught.
    is_untaught = _untaught(facts, part)
    is_never = _is_never(part, limits) & ((part["mean_auc"].values[:, None] >= 0.6) | is_untaught)
    lasting = is_never[-2:].all(axis=0)
    # Where most classes get no YES, that is not about a class.
    if not 0 < lasting.sum() <= (part["n_yes"].values[-1] > 0).sum() / 2:
        return []
    first = min(start for unit in np.flatnonzero(lasting) if (start := since(is_never[:, unit])) is not None)
    n, hits = (part[name].values[-1][lasting].sum() for name in ("n_yes", "hits"))
    others = float(np.nanmedian(_recall(part)[-1][~lasting]))
    words = f"{_names(np.flatnonzero(lasting))}: {hits:.0f} of {n:,.0f} samples in {split} get their own YES"
    words += f", of those of the other classes {100 * others:.0f} % (median)."
    if "said" in part and not np.isfinite(part["said"].values[-1]).any():
        words += " (Told by mean and deviation of the outputs by label: outputs were counted.)"
    if is_untaught[lasting].any():
        words += f" The labels of train hold none of {_names(np.flatnonzero(lasting & is_untaught))}."
    assert facts.head is not None
    return [Sign(facts.head, split, span(part, first), float(hits / n), limits.recall, words)]


def _judged_answers(facts: Facts, table: xr.Dataset, limits: ClassNeverYesLimits) -> xr.Dataset | Lacking:
    """Return the answers in which `class_never_yes` looks [epoch, unit], or what is lacking."""
    steps, split = trained_steps(facts), judged_split(table, 2 * limits.samples)
    if split is None:
        return Lacking(
            f"fewer than {2 * limits.samples} labelled samples with finite outputs in the last epoch"
        )
    part = trained(table, split).assign_attrs(split=split)
    if steps < limits.train_steps * (1 if part.sizes["epoch"] > 1 else 4):
        return Lacking(
            f"{steps} training batches, {limits.train_steps} are needed, in a single epoch four times that"
        )
    if part.sizes["unit"] == 1:
        part = two_labels(part)
    if not (part["n_yes"].values[-1] >= limits.samples).any():
        return Lacking(f"no class has {limits.samples} samples in {split}")
    if not np.isfinite(part["hits"].values[-1]).all():
        return Lacking("outputs of the head were counted, which says not what was answered")
    return part


def _untaught(facts: Facts, part: xr.Dataset) -> NDArray[np.bool_]:
    """Tell which classes [unit] have no sample in train, where it has labels."""
    assert not isinstance(facts.answers, Lacking)
    train = trained(facts.answers, "train")
    n = (two_labels(train) if train.sizes["unit"] == 1 else train)["n_yes"].sum("epoch").values
    return np.asarray((n == 0) & (n.sum() > 0)) if n.size == part.sizes["unit"] else np.zeros(1, np.bool_)


def _recall(part: xr.Dataset) -> NDArray[np.float64]:
    """Return the share of the samples of each class that get its YES [epoch, unit]."""
    recall: NDArray[np.float64] = (part["hits"] / part["n_yes"].where(part["n_yes"] > 0)).values
    return recall


def _is_never(part: xr.Dataset, limits: ClassNeverYesLimits) -> NDArray[np.bool_]:
    """Tell which classes never get their YES [epoch, unit]."""
    n, hits, hoped = (part[name].values for name in ("n_yes", "hits", "hoped"))
    recall = np.where(n >= limits.samples, _recall(part), math.nan)
    with np.errstate(invalid="ignore"):
        is_low = recall <= limits.recall
        kept = [row[row > limits.recall] for row in recall]
        others = np.array([np.median(row) if row.size else 0.0 for row in kept])
        chance = np.where(is_low, bdtr(hits, n.astype(np.int64), others[:, None] / 2), 1)
        n_kept = np.where(recall > limits.recall, n, 0).sum(axis=1)
        right = np.where(recall > limits.recall, hits, 0).sum(axis=1) / np.maximum(n_kept, 1)
        is_odd = (right[:, None] >= limits.right) & (chance < limits.chance)
        is_hopeless = (hoped * limits.hope < n) & (n >= 20)  # of fewer samples a fifth is easily none
    return np.asarray(is_low & (is_odd | is_hopeless))


def _names(numbers: NDArray[np.int64]) -> str:
    """Name some classes."""
    more = f" and {numbers.size - _NAMED} more" if numbers.size > _NAMED else ""
    return f"class{'es' if numbers.size > 1 else ''} {', '.join(map(str, numbers[:_NAMED]))}{more}"


class NoYesRatioLimits(Limits):
    """Thresholds of `no_yes_ratio`."""

    labels: float = Field(
        10, gt=1, description="how many times as large as the smallest class the largest one may be"
    )
    hot: float = Field(20, gt=1, description="the same for labels of which a sample may have several")
    answers: float = Field(3, gt=1, description="how many times more YES may be answered than there are")
    guessing: float = Field(
        2,
        gt=1,
        description="the same of units that answer each by itself, where classes are told apart but the loss "
        "is no better than that of guessing",
    )
    samples: int = Field(100, ge=1, description="fewest labelled samples")
    classes: int = Field(20, ge=2, description="with more classes rare ones are normal, and not looked for")


@rule(
    name="NO/YES ratio",
    level="warning",
    limits=NoYesRatioLimits,
    looks_at="how many samples each class has in train, and how many YES it gets for them in valid",
    needs="labels, outputs of the head, 100 labelled samples",
    why="The two peaks are not in the proportion of the classes, (C - 1) NO to a YES: rare classes are "
    "hardly learned, or a class gets far more YES than it has samples.",
    remedy="Sample the rare classes more often, or weigh them in the loss (by the inverse of their number, "
    "or pos_weight), and judge {layer} by the recall of each class instead of the accuracy.",
    source="Amazon SageMaker Debugger, rule ClassImbalance: no class 10 times as large as another. The "
    "limits of multi-hot labels and of answers are ours.",
)
def no_yes_ratio(facts: Facts, limits: NoYesRatioLimits) -> list[Sign] | Lacking:
    """Find classes that are rare in the labels, and those that are answered too often."""
    table = facts.answers
    if isinstance(table, Lacking):
        return table
    found = [_rare_labels(facts, table, limits), _wrong_answers(facts, table, limits)]
    if all(isinstance(each, Lacking) for each in found):
        return Lacking(f"fewer than {limits.samples} labelled samples with finite outputs in the last epoch")
    return [each for each in found if isinstance(each, Sign)]


def _rare_labels(facts: Facts, table: xr.Dataset, limits: NoYesRatioLimits) -> Sign | Lacking | None:
    """Look for rare classes among the labels; where a sample has labels at many places they are normal."""
    assert facts.head is not None
    split = "train" if trained(table, "train").sizes["epoch"] else judged_split(table, limits.samples)
    part = None if split is None else trained(table, split)
    if split is None or part is None or not part["samples"].sum() >= limits.samples:
        return Lacking("labels")
    units = part.sizes["unit"]
    if len(facts.layers["shape"][facts.head]) > 2 or units > limits.classes:
        return None
    yes, no = (part[name].sum("epoch").values for name in ("n_yes", "n_no"))
    # A class without any sample is none that is rare, but one that is not meant.
    sizes = np.append(no, yes) if units == 1 else np.where(yes > 0, yes, math.inf)
    rare, most = sizes.min(), (yes if units > 1 else sizes).max()
    limit = limits.labels if units == 1 or part.attrs["one_of"] else limits.hot
    # The batches looked at are a part of the samples: what they have fewest of may be twice its error more.
    if most <= limit * (rare + 2 * math.sqrt(rare) + 1):
        return None
    ratio = float(most / max(rare, 1))
    words = f"the largest class has {ratio:.0f} times as many samples in {split} as class {sizes.argmin()}"
    words += f", {most:,.0f} to {rare:,.0f} in the batches looked at."
    return Sign(facts.head, split, span(part, 0), ratio, limit, words)


def _wrong_answers(facts: Facts, table: xr.Dataset, limits: NoYesRatioLimits) -> Sign | Lacking | None:
    """Look for classes that get far more or fewer YES than they have samples, by the probabilities."""
    assert facts.head is not None
    split = judged_split(table, limits.samples)
    if split is None:
        return Lacking("labels")
    part = trained(table, split)
    n, hoped = part["n_yes"].values, part["hoped"].values
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio = np.maximum(hoped / np.maximum(n, 1), np.where(_recall(part) > 0.02, n / hoped, 0))
        guesses = (_skill(part) < 0.01) & (part["mean_auc"].values >= 0.7) & (not part.attrs["one_of"])
        limit = np.where(guesses, min(limits.guessing, limits.answers), limits.answers)
        is_wrong = (ratio > limit[:, None]) & (abs(hoped - n) > 4 * np.sqrt(np.maximum(hoped, n)) + 4)
    is_wrong &= part["mean_auc"].values[:, None] >= 0.6  # else nothing is told apart
    lasting = is_wrong[-2:].all(axis=0)
    if not lasting.any() or trained_steps(facts) < _FEW_STEPS:
        return None
    worst = int(np.where(lasting, ratio[-1], 0).argmax())
    start = since(is_wrong[:, worst])
    assert start is not None
    name, samples = (1 if part.sizes["unit"] == 1 else worst), part["samples"].values[-1]
    words = (
        f"class {name} has {n[-1, worst]:,.0f} of {samples:,.0f} samples in {split}; the probabilities that "
    )
    words += f"the head gives to it add up to {hoped[-1, worst]:,.0f}."
    remedy = _OTHER_SHARES.replace("{split}", split) if split != "train" else _WRONG_SHARES
    value = float(ratio[-1, worst])
    return Sign(facts.head, split, span(part, start), value, float(limit[-1]), words, remedy)
