"""`Run`: a view of one commit of a recorded run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any, Final, Literal, Unpack

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError, SelectionError
from actlab.rebinning import rebin
from actlab.run.parts import Part, bin_kept, choose_counts
from actlab.run.selection import Selecting
from actlab.run.summary import as_html, as_text
from actlab.schema import HEAD_COUNTS, axis_from_attributes
from actlab.stats import fit_axis
from actlab.stats.ranges import RangeChoice, check_choice
from actlab.store.ranks import open_merged
from actlab.store.reader import Snapshot
from actlab.store.splits import belong
from actlab.store.verifying import verify_snapshot

__all__ = ["Run", "open_run"]

_dask: Any = dask  # it has no annotations

_SMALL: Final = 32 << 20  # bytes


def open_run(
    path: str | PathLike[str],
    *,
    verify: Literal["presence", "rows"] | bool = "presence",
    all_attempts: bool = False,
) -> Run:
    """Open a recorded run; a run still being written is shown as of its last commit.

    Parameters
    ----------
    path : str or path-like
        The Zarr store, `runs/NAME.zarr`, an archive `NAME.zarr.zip`, or a URL, `s3://bucket/NAME.zarr`;
        `~` is the home directory.
    verify : {"presence", "rows"} or bool, optional
        What to make sure of: that all chunks are there, or that every row, of every attempt, is as it
        was recorded, which reads all of them. True is "rows", False nothing.
    all_attempts : bool, optional
        Show the rows, too, that a later attempt of the training has replaced.

    Returns
    -------
    Run
        Its data are read when they are asked for.

    Raises
    ------
    StoreError
        If there is no readable run, or it is not as it was recorded: one line that says what is wrong.
    MissingDependencyError
        If the package for a URL is not installed.
    ValueError
        If `verify` is none of these.
    """
    if verify not in ("presence", "rows", True, False):
        raise ValueError(f"verify must be 'presence', 'rows', True or False, got {verify!r}")
    reopen = partial(_open, path, verify, all_attempts)
    return Run(reopen(), reopen)


def _open(path: str | PathLike[str], verify: str | bool, all_attempts: bool) -> Snapshot:
    """Open and verify a run."""
    snapshot = open_merged(path, check_files=verify is not False, all_attempts=all_attempts)
    if verify in ("rows", True):
        verify_snapshot(snapshot)
    return snapshot


class Run(Selecting):
    """One training, recorded: a view of one commit of its store, until `refresh`.

    Parameters
    ----------
    snapshot : Snapshot
        What `open_merged` read.
    reopen : callable, optional
        Reads it again; by default as `open_run` does.

    Attributes
    ----------
    path : str
        The store: a path, or a URL.
    attributes : dict
        The root attribute `actlab`: run id, versions, layers, gaps and more.
    axis : FloatAxis
        The recording axis.
    splits : tuple of str
        Those of train, valid, test that have rows.
    head : str or None
        Name of the head layer; None also before the first row that has it.
    names : list of str
        All layers in the model's order, those never called included.
    """

    def __init__(self, snapshot: Snapshot, reopen: Callable[[], Snapshot] | None = None) -> None:
        super().__init__(snapshot)
        self._reopen = reopen or partial(open_merged, snapshot.path)

    def _show(self, snapshot: Snapshot) -> None:
        """Take a snapshot, and forget what was read of another."""
        super()._show(snapshot)
        self.axis: FloatAxis = axis_from_attributes(self.attributes["axis"])
        head: str | None = self.attributes.get("head")
        self.head = head if head in self.names else None
        self._totals: dict[str, xr.DataArray] = {}
        self._small: dict[str, xr.Dataset | None] = {}
        self._n: dict[str, xr.Dataset] = {}

    def refresh(self) -> Run:
        """Show what was committed since, as the run was opened.

        Datasets handed out before do not change. Where nothing was committed, only the root record is
        read.

        Returns
        -------
        Run
            The run itself.

        Raises
        ------
        StoreError
            As `open_run`; the run shows what it did before.
        """
        if not self._snapshot.is_current():
            self._show(self._reopen())
        return self

    def totals(self, split: str) -> xr.DataArray:
        """Return the counts of a whole split [layer, bucket], pooled over its rows and kept."""
        if split not in self._totals:
            with _dask.config.set(split_every=2):  # of a tree of pairs the fewest sums wait in memory
                counts = self[split]["counts"].sum("step")
            self._totals[split] = counts.compute()
        return self._totals[split]

    def keep_totals(self, totals: Mapping[str, xr.DataArray]) -> None:
        """Keep counts of whole splits [layer, bucket] that were summed up elsewhere, for `totals`."""
        self._totals |= totals

    def values(self, layer: str, split: str, rows: NDArray[np.int64]) -> xr.Dataset | None:
        """Return the raw outputs of a layer in some rows, where every one of them was kept.

        Returns
        -------
        xarray.Dataset or None
            As `raw`, loaded.

        Raises
        ------
        SelectionError
            If the run has no such split or layer.
        """
        found = self._raw_values(layer, split, rows)
        return None if found is None else found.compute()

    def _raw_values(self, layer: str, split: str, rows: NDArray[np.int64]) -> xr.Dataset | None:
        """Return what `values` loads."""
        chosen = self._sizes(split).isel(step=rows)
        raw = self._outputs_of_head(split) if self.find_layer(layer) == self.head else None
        if raw is None:
            return None
        raw = raw.isel(sample=belong(raw, chosen))
        return raw if raw["head"].size == int(chosen.n.sel(layer=layer).sum()) else None

    def _outputs_of_head(self, split: str) -> xr.Dataset | None:
        """Return `raw`, kept in memory where it is small: charts ask for it epoch by epoch, several times."""
        if split not in self._small:
            raw = self.raw(split)
            self._small[split] = raw.compute() if raw is not None and raw.nbytes <= _SMALL else raw
        return self._small[split]

    def _sizes(self, split: str) -> xr.Dataset:
        """Return how many values each layer had in each row, n [step, layer], kept in memory."""
        if split not in self._n:
            self._n[split] = self[split][["n"]].compute()
        return self._n[split]

    def unit_counts(self, layer: str, split: str, rows: NDArray[np.int64]) -> xr.DataArray | None:
        """Return the counts of a large head in some rows, pooled, where every value was counted by unit.

        Returns
        -------
        xarray.DataArray or None
            Counts [unit, truth, bucket], as `head_counts`, loaded.

        Raises
        ------
        SelectionError
            If the run has no such split or layer.
        """
        chosen = self._sizes(split).isel(step=rows)
        found = self.head_counts(split) if self.find_layer(layer) == self.head else None
        if found is None:
            return None
        counts = found[HEAD_COUNTS.name].isel(row=belong(found, chosen)).sum("row").compute()
        whole = int(counts.sum()) == int(chosen["n"].sel(layer=layer).sum())
        return counts.assign_attrs(found.attrs) if whole else None

    def _outputs(self, layer: str, split: str, rows: NDArray[np.int64]) -> xr.Dataset | None:
        """Return the outputs of a layer in some rows as values [sample, ...], lazily, where all were kept."""
        raw = self._raw_values(layer, split, rows)
        if raw is not None:
            return raw.rename(head="values")
        found, chosen = self.samples(split, layer), self._sizes(split).isel(step=rows)
        if found is None:
            return None
        found = found.isel(sample=belong(found, chosen))
        if found["values"].size != int(chosen["n"].sel(layer=layer).sum()):
            return None
        unit_dim = self.attributes.get("head_unit_dim")
        dims = dict(enumerate(found["values"].dims))
        dim = dims.get(unit_dim % len(dims)) if layer == self.head and unit_dim is not None else "sample"
        return found if dim == "sample" else found.rename({dim: "unit"})

    def histogram(
        self,
        axis: LinearAxis | None = None,
        *,
        layer: str,
        split: str = "train",
        epoch: int | str | Collection[int] | None = None,
        steps: tuple[int, int] | None = None,
        label: int | None = None,
        unit: int | None = None,
        by: str | Sequence[str] | None = None,
        **choice: Unpack[RangeChoice],
    ) -> xr.Dataset:
        """Return a histogram: exact from the outputs where all were kept, else from pooled counts.

        Exact means: of the values as kept, which a `raw_dtype` may have rounded. Of a large head that
        was counted by unit, `unit=u`, `label=c` with `unit=c`, `by="unit"`, and everything of a single unit
        are known, too.

        Parameters
        ----------
        axis : LinearAxis, optional
            The bins wanted; without them `range` and `n_bins` say which.
        layer, split : str
            What was recorded where.
        epoch, steps : optional
            As in `rows`; all rows by default.
        label : int, optional
            Only samples of this true class (multi-hot: those that have it).
        unit : int, optional
            Only this column of the head's output.
        by : {"label", "unit"} or both, optional
            One histogram for each true class that occurs, or for each column of the head's output. A
            sample without a label has the label -100, so that nothing is lost. With multi-hot labels a
            sample counts once in every class that it has.
        range, n_bins : optional
            As in `actlab.stats.fit_axis`, `range="p0.1"`; by default "symmetric" and 200. They are fitted to
            the values of the layer in these rows, whatever their label and unit.

        Returns
        -------
        xarray.Dataset
            As `rebin`, the leading dims those of `by`, with coordinates.

        Raises
        ------
        SelectionError
            If the run does not hold what is asked for, or does not know it by label and unit.
        AxisError
            If the bins are none of the above, or given twice.
        """
        check_choice(axis, choice)
        part, chosen = Part.of(label, unit, by), self.rows(split, epoch, steps)
        counts = self[split]["counts"].sel(layer=self.find_layer(layer), drop=True)
        counts = counts.isel(step=chosen).sum("step")
        if axis is None:
            counts = counts.compute()
            axis = fit_axis(counts, **choice)
        elif not isinstance(axis, LinearAxis):
            raise AxisError(f"expected a LinearAxis, or range and n_bins instead of it, got {axis!r}")
        outputs = self._outputs(layer, split, chosen)
        if outputs is not None:
            return bin_kept(outputs, axis, part)
        if part == Part():
            return rebin(counts, axis).compute()
        by_unit = self.unit_counts(layer, split, chosen)
        if by_unit is None:
            raise SelectionError(
                f"label and unit need raw outputs, {self.path} has none of layer {layer!r} in {split!r}"
            )
        return rebin(choose_counts(by_unit, part), axis)

    def __repr__(self) -> str:
        """Say what was recorded, how much, and what is missing."""
        return as_text(self)

    def _repr_html_(self) -> str:
        """Say the same in a notebook, with a table of the splits and of the layers."""
        return as_html(self)
