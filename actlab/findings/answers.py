"""What the head answered, epoch by epoch: to what it said YES, and whether that was right."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, ndtr

from actlab.findings.rule import Lacking
from actlab.peaks.pooling import marks_of, moments_by_label
from actlab.rebinning import middles
from actlab.run import Run
from actlab.steps.merging import last_quarter

__all__ = ["answers", "trained", "two_labels"]

_MOST: Final = 1 << 22  # outputs of one epoch's train batches that are looked at, the last ones
_TINY: Final = 1e-30  # a probability below it counts as this one, so that a loss is finite
_BY_UNIT: Final = ("n_yes", "n_no", "auc", "hits", "said", "hoped")
_OF_ALL: Final = ("n", "accuracy", "loss", "first_step", "last_step", "train_step")

_Part = dict[str, Any]


def answers(run: Run) -> xr.Dataset | Lacking:
    """Hold the outputs of the head against the labels, epoch by epoch.

    An answer is YES for the largest unit of a sample (one class a sample), or for every unit whose
    probability is above one half (one unit, or multi-hot). Probabilities are the softmax or the logistic
    function of the outputs, unless these lie in 0 to 1 in the whole run: then they are the probabilities.
    Samples with non-finite outputs are left out. Of train the last quarter of an epoch's rows is taken,
    rounded up.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    xarray.Dataset or Lacking
        Dims split, epoch (all that were recorded in any split) and unit; NaN where nothing is known.

        - n_yes, n_no [split, epoch, unit]: numbers of outputs that ought to be YES and NO;
        - auc [split, epoch, unit]: probability that a YES output exceeds a NO output of the same unit, ties
          half (Hanley and McNeil, Radiology 143, 1982); of the logarithms of the probabilities where there
          is one class a sample and outputs were kept;
        - hits, said, hoped [split, epoch, unit]: numbers of right YES answers and of YES answers, and sum
          of the probabilities of YES. Of outputs that were counted, one class a sample, only `hits` are known
          about: by how far means and deviations of the outputs by label are apart;
        - n, accuracy, loss [split, epoch]: labelled samples (of several labels each, outputs), share of
          right answers, mean cross-entropy in nats; NaN where outputs were counted, but for `n` and
          `accuracy` of units that answer each by itself;
        - first_step, last_step, train_step [split, epoch]: of the rows, the last one's for `train_step`.

        The attribute one_of says whether a sample has one class of several.
    """
    if run.head is None:
        return Lacking("the run has no head")
    if run.attributes.get("targets") == "float":
        return Lacking("the targets are those of a regression, outputs are no YES and NO")
    places = [(split, epoch) for split in run.splits for epoch in run.epochs(split)]
    is_sure = _is_probability(run)
    parts = {place: part for place in places if (part := _of_epoch(run, *place, is_sure=is_sure)) is not None}
    if not parts:
        return Lacking(_what_lacks(run))
    splits, epochs = list(run.splits), sorted({epoch for _, epoch in places})
    units = max(part["n_yes"].size for part in parts.values())
    found = {name: np.full((len(splits), len(epochs), units), math.nan) for name in _BY_UNIT}
    found |= {name: np.full((len(splits), len(epochs)), math.nan) for name in _OF_ALL}
    for (split, epoch), part in parts.items():
        for name, value in part.items():
            if name in found:
                found[name][splits.index(split), epochs.index(epoch)] = value
    dims = ("split", "epoch", "unit")
    return xr.Dataset(
        {name: (dims[: values.ndim], values) for name, values in found.items()},
        {"split": splits, "epoch": epochs},
        {"one_of": any(part["one_of"] for part in parts.values())},
    )


def _what_lacks(run: Run) -> str:
    """Say why nothing is known about the answers of the head: no outputs, no labels, or none that fit."""
    raw = [found for split in run.splits if (found := run.raw(split)) is not None]
    if not raw and all(run.head_counts(split) is None for split in run.splits):
        return "outputs of the head were not kept"
    if run.attributes.get("targets") is None and not any("label" in each for each in raw):
        return "no labels were given: use actlab.Recorder and batch(..., labels=y)"
    return "outputs of the head with labels that fit its units were not kept"


def _of_epoch(run: Run, split: str, epoch: int, *, is_sure: bool) -> _Part | None:
    """Describe the answers of a split in an epoch; None where outputs or labels were not kept."""
    assert run.head is not None
    chosen = run.rows(split, epoch)
    rows = chosen
    if split == "train":
        most = int(run[split]["n"].sel(layer=run.head).values[rows].max(initial=1))
        rows = last_quarter(rows)[-max(1, _MOST // most) :]
    raw = run.values(run.head, split, rows)
    if raw is None:
        counts = run.unit_counts(run.head, split, rows)
        moments = moments_by_label(run, split, rows)
        part = None if counts is None else _of_counts(counts, moments, is_sure=is_sure)
    else:
        part = _of_outputs(raw, is_sure=is_sure) if "label" in raw else None
    if part is None:
        return None
    step, train_step = (run[split][name].values[chosen] for name in ("step", "train_step"))
    return part | {"first_step": step[0], "last_step": step[-1], "train_step": train_step[-1]}


def _is_probability(run: Run) -> bool:
    """Tell whether all outputs of the head lie in 0 to 1."""
    ends = [run[split][["min", "max"]].sel(layer=run.head).compute() for split in run.splits]
    return all(float(each["min"].min()) >= 0 and float(each["max"].max()) <= 1 for each in ends)


def _of_outputs(raw: xr.Dataset, *, is_sure: bool) -> _Part | None:
    """Describe outputs [sample, unit] with their labels; `is_sure`: they are probabilities."""
    head, label = raw["head"].values.astype(np.float64), raw["label"].values
    finite = np.isfinite(head).all(axis=1)
    head, units = head[finite], head.shape[1]
    truth = marks_of(label, units, is_float=False)
    if not truth:
        return None
    yes, no = (mark[finite] for mark in truth)
    known, one_of = yes | no, label.ndim == 1 and units > 1
    scores = log_softmax(head, axis=1) if one_of and not is_sure else head
    shares = head if is_sure else np.exp(scores) if one_of else expit(head)
    said = (np.arange(units) == head.argmax(axis=1)[:, None]) & known if one_of else (shares > 0.5) & known
    hits = (said & yes).sum(axis=0)
    n = int(yes.sum() if one_of else known.sum())
    right = hits.sum() if one_of else (said == yes)[known].sum()
    cost = -np.log(np.maximum(np.where(yes, shares, 1 - shares), _TINY))
    return {
        "n_yes": yes.sum(axis=0),
        "n_no": no.sum(axis=0),
        "auc": [_exact_auc(scores[:, unit], yes[:, unit], no[:, unit]) for unit in range(units)],
        "hits": hits,
        "said": said.sum(axis=0),
        "hoped": (shares * known).sum(axis=0),
        "n": n,
        "accuracy": right / n if n else math.nan,
        "loss": cost[yes if one_of else known].mean() if n else math.nan,
        "one_of": one_of,
    }


def _of_counts(counts: xr.DataArray, moments: xr.Dataset | None, *, is_sure: bool) -> _Part | None:
    """Describe outputs that were counted [unit, truth, bucket], with their moments by label."""
    yes, no = (counts.sel(truth=kind, drop=True) for kind in ("yes", "no"))
    if not (yes.any() and no.any()):
        return None
    n_yes, n_no = (each.sum("bucket").values.astype(np.float64) for each in (yes, no))
    units = n_yes.size
    one_of = units > 1 and n_no.sum() == (units - 1) * n_yes.sum()
    part: _Part = {
        "n_yes": n_yes,
        "n_no": n_no,
        "auc": _auc(yes.values[:, :-1], no.values[:, :-1]),  # the last bucket is NaN, which has no order
        "one_of": one_of,
    }
    if one_of and moments is not None and moments.sizes["unit"] == units:
        part["hits"] = n_yes * _recall(moments)
    if not one_of:
        hits, wrong = (
            each.values[:, counts["lower"].values >= is_sure / 2].sum(axis=1) for each in (yes, no)
        )
        n = n_yes.sum() + n_no.sum()
        value = middles(counts["lower"].values, counts["upper"].values)[:-1]
        part |= {
            "hits": hits,
            "said": hits + wrong,
            "hoped": (yes + no).values[:, :-1] @ (value.clip(0, 1) if is_sure else expit(value)),
            "n": n,
            "accuracy": (hits.sum() + n_no.sum() - wrong.sum()) / n,
        }
    return part


def _recall(moments: xr.Dataset) -> NDArray[np.float64]:
    """Return about which share of the samples of each class [unit] get its YES, one class a sample.

    It is at most the share in which its output exceeds that of any one other class; outputs are taken as
    normal, and as independent of each other.
    """
    units = moments.sizes["unit"]
    n, mean, std = (moments[name].values[:, :units].astype(np.float64) for name in ("n", "mean", "std"))
    total = np.maximum(n.sum(axis=0), 1)
    center = np.nansum(n * mean, axis=0) / total
    variance = np.nansum(n * (std**2 + mean**2), axis=0) / total - center**2
    ahead = np.diag(center)[:, None] - center
    spread = np.sqrt(np.maximum(variance + np.diag(variance)[:, None], _TINY))
    share: NDArray[np.float64] = ndtr(ahead / spread)
    np.fill_diagonal(share, 1)
    recall: NDArray[np.float64] = share.min(axis=1)
    return recall


def _auc(yes: NDArray[Any], no: NDArray[Any]) -> NDArray[np.float64]:
    """Return the probability that a YES exceeds a NO, ties half, of counts [..., value]; NaN without any."""
    yes, no = yes.astype(np.float64), no.astype(np.float64)
    pairs = yes.sum(axis=-1) * no.sum(axis=-1)
    above = (yes * (np.cumsum(no, axis=-1) - no / 2)).sum(axis=-1)
    return np.asarray(above / np.where(pairs > 0, pairs, math.nan))


def _exact_auc(scores: NDArray[np.float64], yes: NDArray[np.bool_], no: NDArray[np.bool_]) -> float:
    """Return the same of values [sample], and which of them are YES and NO."""
    _, place = np.unique(scores, return_inverse=True)
    return float(_auc(*(np.bincount(place, mark, scores.size) for mark in (yes, no))))


def trained(table: xr.Dataset, split: str) -> xr.Dataset:
    """Return the epochs of a split in which anything was trained before, or while, it was recorded.

    Parameters
    ----------
    table : xarray.Dataset
        What `answers` returned.
    split : str
        Whether it was recorded or not.

    Returns
    -------
    xarray.Dataset
        The same [epoch, unit], with samples and mean_auc [epoch]: labelled samples, and the mean of `auc`
        over the units, each weighing as many YES as it has.
    """
    if split not in table["split"].values:
        return table.isel(split=0, epoch=slice(0), drop=True)
    part = table.sel(split=split, drop=True)
    part = part.isel(epoch=np.flatnonzero((part["epoch"] >= 0) & part["first_step"].notnull()))
    weights = part["n_yes"].where(part["auc"].notnull())
    mean = (part["auc"] * weights).sum("unit") / weights.sum("unit").where(weights.sum("unit") > 0)
    return part.assign(samples=(part["n_yes"] + part["n_no"]).max("unit"), mean_auc=mean)


def two_labels(part: xr.Dataset) -> xr.Dataset:
    """Take the NO of a single unit for the YES of a class 0.

    Parameters
    ----------
    part : xarray.Dataset
        What `trained` returned of a head of one unit.

    Returns
    -------
    xarray.Dataset
        n_yes, hits and hoped [epoch, 2], all else without units as it was.
    """
    n, said = part["n_yes"] + part["n_no"], part["said"]
    no = {"n_yes": part["n_no"], "hits": part["n_no"] - said + part["hits"], "hoped": n - part["hoped"]}
    both = {
        name: xr.concat([values, part[name]], "unit").transpose("epoch", "unit")
        for name, values in no.items()
    }
    return part.drop_dims("unit").assign(both)
