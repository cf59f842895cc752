"""`compare`: two or more runs side by side, by layer and by epoch or step.

All runs are shown in the same bins and as shares of their own values, so a layer of one can be laid over
that of another however many values each recorded; one limit for the heights, `share.max()`, serves all.
By how much they differ is told by distances, which are taken on the recording buckets and know no range.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Final, TypeVar, Unpack

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab import stats, steps
from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError, SelectionError, nearest
from actlab.rebinning import middles, rebin
from actlab.run import Run, open_run
from actlab.run.selection import is_whole
from actlab.stats.ranges import RangeChoice, check_choice
from actlab.steps.merging import in_order

__all__ = ["compare", "open_runs"]

_Label = TypeVar("_Label", str, int)

_MOMENTS: Final = ("n", "finite", "mean", "std", "min", "max")
_MOST_LISTED: Final = 8


def compare(
    runs: Mapping[str, Run | str | PathLike[str]] | Sequence[Run | str | PathLike[str]],
    *,
    axis: LinearAxis | Mapping[str, LinearAxis] | None = None,
    layers: str | Sequence[str] | None = None,
    split: str = "train",
    by: str | int = "epoch",
    **choice: Unpack[RangeChoice],
) -> xr.Dataset:
    """Compare runs with the first of them, in what all have recorded.

    Layers are matched by name, epochs by label, batches by `step`. Counts are pooled and only then
    re-binned, because interpolation is not additive.

    Parameters
    ----------
    runs : mapping of str to Run, or sequence of Run
        At least two runs, or their paths; without names they are named by their paths.
    axis : LinearAxis or mapping of str to LinearAxis, optional
        The bins; or those of each layer, equally many; without them `range` and `n_bins` say which.
    layers : str or sequence of str, optional
        Patterns as in `Run.select_layers`; one that some runs do not know is missing there.
    split : str
        Which part of the data.
    by : "epoch", "step" or int
        Whole epochs; or single batches; or columns of so many of the batches that all have.
    range, n_bins : optional
        As in `actlab.stats.fit_axis`, `range="p0.1"`; by default "symmetric" and 200. They are fitted to the
        whole split of all runs, which is read once for it.

    Returns
    -------
    xarray.Dataset
        Lazy, along run, layer (in the order of the first run), and epoch or step (that of the first
        batch of a column):

        - counts, bound [run, layer, epoch, bin], underflow, overflow, neg_inf, pos_inf, nan, exact
          [run, layer, epoch]: as `rebin`;
        - share [run, layer, epoch, bin]: counts / n; NaN where n is 0, like all that follows from it;
        - difference [run, layer, epoch, bin]: share minus that of the first run;
        - n, finite, mean, std, min, max [run, layer, epoch]: as `steps.by_epoch`;
        - total_variation, jensen_shannon, wasserstein, kolmogorov_smirnov, psi [run, layer, epoch]:
          distances from the first run, as `stats.distances`.

        Coordinates as `rebin`, and n_rows [run, epoch], the number of batches. The attribute `missing`
        says in a sentence what single runs lack, `lacks` the same in phrases by run; missing_layers and
        missing_epochs (missing_steps) are the lists, by run. Runs recorded on different axes are brought to
        the coarser one, by sums.

    Raises
    ------
    SelectionError
        If there are fewer than two runs, or they have no split, layer, epoch or step in common.
    AxisError
        If the recording axes share no exponent, or the bins are given twice.
    ValueError
        If `by` is a number below 1.
    """
    check_choice(axis, choice)
    if by not in ("epoch", "step") and not is_whole(by):
        near = nearest(str(by), ("epoch", "step"))
        raise SelectionError(f"cannot compare by {by!r}, only by 'epoch', 'step' or a whole number: {near}")
    opened = open_runs(runs)
    _check_split(opened, split)
    common, missing_layers = _shared("layer", _select(opened, layers))
    rows = {name: run[split].sel(layer=common) for name, run in opened.items()}
    dim = "epoch" if by == "epoch" else "step"
    has = {name: in_order(ds[dim].values)[0] for name, ds in rows.items()}
    labels, missing = _shared(dim, has)

    recorded = _coarsest([run.axis for run in opened.values()])
    merge = _epochs if dim == "epoch" else _columns(1 if isinstance(by, str) else by)
    parts = [_with_axis(merge(ds, labels), opened[name].axis, recorded) for name, ds in rows.items()]
    if axis is None:
        totals = [
            _coarsen(run.totals(split).sel(layer=common), run.axis, recorded) for run in opened.values()
        ]
        axis = stats.fit_axis(sum(totals[1:], totals[0]), **choice)
    found = _compare(_side_by_side(list(opened), parts), axis)
    lists: dict[str, Any] = {"missing_layers": missing_layers, f"missing_{dim}s": missing}
    lists["lacks"] = {
        name: _lacking_names(missing_layers[name]) + _lacking_numbers(dim, has, name) for name in opened
    }
    said = [f"{name} {each}" for name, lacks in lists["lacks"].items() for each in lacks]
    return found.transpose("run", "layer", dim, ...).assign_attrs(
        missing="; ".join(said) or "nothing", **lists
    )


def _compare(pooled: xr.Dataset, axis: LinearAxis | Mapping[str, LinearAxis]) -> xr.Dataset:
    """Re-bin pooled counts [run, ...], and compare those of each run with the first's."""
    counts, view = pooled["counts"], rebin(pooled, axis)
    share = view["counts"] / view["n"].where(view["n"] > 0)
    distances = stats.distances(counts.isel(run=0, drop=True), counts)
    difference = share - share.isel(run=0, drop=True)
    return view.assign({"share": share, "difference": difference, **distances.data_vars})


def open_runs(runs: Any) -> dict[str, Run]:
    """Open the runs to be compared, and name them.

    Parameters
    ----------
    runs : mapping of str to Run, or sequence of Run
        As in `compare`.

    Returns
    -------
    dict of str to Run
        By the names given, else by the ends of the paths that tell them apart.

    Raises
    ------
    SelectionError
        If there are fewer than two.
    """
    if isinstance(runs, str) or not isinstance(runs, Mapping | Sequence) or len(runs) < 2:
        raise SelectionError("comparing takes at least two runs, as a list or by name: got fewer")
    given = [*runs.values()] if isinstance(runs, Mapping) else [*runs]
    opened = [each if isinstance(each, Run) else open_run(each) for each in given]
    names = [*runs] if isinstance(runs, Mapping) else _names([run.path for run in opened])
    return dict(zip(names, opened, strict=True))


def _names(paths: Sequence[str]) -> list[str]:
    """Name runs by the ends of their paths, as long as it takes to tell them apart; number equal ones."""
    parts = {path: path.removesuffix(".zip").removesuffix(".zarr").split("/") for path in paths}
    longest = max(map(len, parts.values()))
    depth = 1
    while depth < longest and len({tuple(part[-depth:]) for part in parts.values()}) < len(parts):
        depth += 1
    ends = ["/".join(parts[path][-depth:]) for path in paths]
    before = [ends[:place].count(end) for place, end in enumerate(ends)]
    return [f"{end} ({count + 1})" if count else end for end, count in zip(ends, before, strict=True)]


def _check_split(runs: Mapping[str, Run], split: str) -> None:
    """Refuse a split that some run has not."""
    if not all(split in run.splits for run in runs.values()):
        has = "; ".join(f"{name} has {_listing(run.splits)}" for name, run in runs.items())
        raise SelectionError(f"split {split!r} is not in all runs: {has}")


def _select(runs: Mapping[str, Run], layers: str | Sequence[str] | None) -> dict[str, list[str]]:
    """Return the names that patterns select in each run, none where it knows none; some run knows each."""
    patterns = [layers] if isinstance(layers, str) else [*(layers or ())]
    known = {name: [each for each in patterns if _knows(run, each)] for name, run in runs.items()}
    if unknown := [each for each in patterns if not any(each in mine for mine in known.values())]:
        names = dict.fromkeys(name for run in runs.values() for name in run.names)
        raise SelectionError(f"no layer {unknown[0]!r} in any of the runs: {nearest(unknown[0], names)}")
    includes = any(not pattern.startswith("!") for pattern in patterns)
    return {
        name: []
        if includes and all(pattern.startswith("!") for pattern in known[name])
        else run.select_layers(known[name])
        for name, run in runs.items()
    }


def _knows(run: Run, pattern: str) -> bool:
    """Tell whether a pattern selects, or excludes, any layer of a run."""
    try:
        run.select_layers(pattern.removeprefix("!"))
    except SelectionError:
        return False
    return True


def _shared(what: str, has: Mapping[str, list[_Label]]) -> tuple[list[_Label], dict[str, list[_Label]]]:
    """Return the labels that all runs have, in the order of the first, and those that single runs lack."""
    known = list(dict.fromkeys(label for labels in has.values() for label in labels))
    sets = {name: set(labels) for name, labels in has.items()}
    shared = [label for label in known if all(label in mine for mine in sets.values())]
    if not shared:
        listed = "; ".join(f"{name} has {_listing(labels)}" for name, labels in has.items())
        raise SelectionError(f"no {what} is in all runs: {listed}")
    return shared, {name: [label for label in known if label not in mine] for name, mine in sets.items()}


def _listing(labels: Iterable[Hashable]) -> str:
    """List some labels, the first eight by name."""
    names = [str(label) for label in labels]
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more if names else "none"


def _lacking_names(layers: list[str]) -> list[str]:
    """Say which layers a run lacks."""
    return [f"lacks layer{'s' if len(layers) > 1 else ''} {_listing(layers)}"] if layers else []


def _lacking_numbers(what: str, has: Mapping[str, list[int]], name: str) -> list[str]:
    """Say which epochs or steps of all runs one lacks: by a stride, in ranges, or only how many."""
    known = np.unique(np.concatenate([np.array(labels) for labels in has.values()]))
    mine = np.sort(has[name])
    lacking, stride, said = np.setdiff1d(known, mine), _stride(mine), []
    if stride > 1:
        inside = (lacking > mine[0]) & (lacking < mine[-1] + stride)
        said = [f"recorded 1 {what} in {stride:,}"] if inside.any() else []
        lacking = lacking[~inside]
    return said + ([f"lacks {_ranges(what, lacking, known)}"] if lacking.size else [])


def _stride(labels: NDArray[np.int64]) -> int:
    """Return the distance of neighbours among ascending labels, 0 where it is not always the same."""
    gaps = np.unique(np.diff(labels))
    return int(gaps[0]) if labels.size > 2 and gaps.size == 1 else 0


def _ranges(what: str, labels: NDArray[np.int64], known: NDArray[np.int64]) -> str:
    """Write ascending labels as ranges of neighbours among those known; only how many, if there are many."""
    starts = np.flatnonzero(np.diff(np.searchsorted(known, labels), prepend=-2) != 1)
    if starts.size > _MOST_LISTED:
        return f"{labels.size:,} of {known.size:,} {what}s"
    spans = np.split(labels, starts[1:])
    texts = [
        (" to " if each.size > 2 else ", ").join(f"{end:,}" for end in np.unique(each[[0, -1]]))
        for each in spans
    ]
    return f"{what}{'s' if labels.size > 1 else ''} {', '.join(texts)}"


def _epochs(ds: xr.Dataset, labels: Sequence[int]) -> xr.Dataset:
    """Merge the rows of some epochs [epoch]."""
    rows = np.flatnonzero(np.isin(ds["epoch"].values, labels))
    return steps.by_epoch(ds.isel(step=rows)).sel(epoch=labels).drop_vars("step")


def _columns(k: int) -> Callable[[xr.Dataset, Sequence[int]], xr.Dataset]:
    """Return a function that merges the rows of some steps in columns of k [step]."""

    def merge(ds: xr.Dataset, labels: Sequence[int]) -> xr.Dataset:
        # Of a step that was recorded again, the last row.
        rows = {step: row for row, step in enumerate(ds["step"].values.tolist())}
        merged = steps.by_column(ds.isel(step=[rows[label] for label in labels]), k)
        return merged.swap_dims(column="step").drop_vars("epoch")

    return merge


def _side_by_side(names: list[str], parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put merged rows of several runs along `run`."""
    wanted = [part.reset_coords("n_rows")[["counts", *_MOMENTS, "n_rows"]] for part in parts]
    options: dict[str, Any] = {"coords": "minimal", "compat": "override", "join": "override"}
    found = xr.concat(wanted, xr.Variable("run", names), data_vars="all", **options)
    return found.drop_vars("first_row").set_coords("n_rows")


def _coarsest(axes: Sequence[FloatAxis]) -> FloatAxis:
    """Return the finest axis onto which counts on all these can be brought by sums."""
    low, high = max(axis.min_exponent for axis in axes), min(axis.max_exponent for axis in axes)
    if low > high:
        spans = ", ".join(f"{axis.min_exponent} to {axis.max_exponent}" for axis in axes)
        raise AxisError(f"the runs were recorded on axes that share no exponent: {spans}")
    return FloatAxis(min(axis.mantissa_bits for axis in axes), low, high)


def _with_axis(ds: xr.Dataset, fine: FloatAxis, coarse: FloatAxis) -> xr.Dataset:
    """Bring the counts of merged rows onto a coarser axis."""
    return ds.drop_dims("bucket").assign(counts=_coarsen(ds["counts"], fine, coarse))


def _coarsen(counts: xr.DataArray, fine: FloatAxis, coarse: FloatAxis) -> xr.DataArray:
    """Bring counts [..., bucket] onto a coarser axis: every bucket of it is a sum of neighbours."""
    if fine == coarse:
        return counts
    starts = np.flatnonzero(np.diff(coarse.index(middles(fine.lower, fine.upper)), prepend=-1))

    def add(block: NDArray[Any]) -> NDArray[np.uint64]:
        sums: NDArray[np.uint64] = np.add.reduceat(block, starts, axis=-1, dtype=np.uint64)
        return sums

    merged: xr.DataArray = xr.apply_ufunc(
        add,
        counts.drop_vars(("lower", "upper")),
        input_core_dims=[["bucket"]],
        output_core_dims=[["bucket"]],
        exclude_dims={"bucket"},
        dask="parallelized",
        output_dtypes=[np.uint64],
        dask_gufunc_kwargs={"output_sizes": {"bucket": coarse.n_buckets}},
    )
    return merged.assign_coords(lower=("bucket", coarse.lower), upper=("bucket", coarse.upper))
