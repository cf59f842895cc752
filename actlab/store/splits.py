"""`Splits`: the groups of a run as lazy, labelled xarray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dask
import dask.array
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from actlab.errors import SelectionError, StoreError, nearest
from actlab.schema import (
    CHANNELS_GROUP,
    COUNTS,
    HEAD_GROUP,
    LABEL,
    LABEL_MOMENTS,
    LABELS_GROUP,
    MOST_LABELS,
    MOST_UNITS,
    RAW_GROUP,
    SAMPLES_GROUP,
    SPLITS,
    TRUTH,
    TRUTHS,
    axis_from_attributes,
)
from actlab.store.attempts import index_names
from actlab.store.lazy import take_columns
from actlab.store.reader import Snapshot

__all__ = ["Splits", "belong", "places"]

_dask: Any = dask  # it has no annotations
_BLOCK = 4 << 20  # bytes of one array of moments that are computed together


class Splits:
    """The data of one commit of a run, by split.

    Parameters
    ----------
    snapshot : Snapshot
        What `open_snapshot` read.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._show(snapshot)

    def _show(self, snapshot: Snapshot) -> None:
        """Take a snapshot, and forget what was read of another."""
        self.path = snapshot.path
        self.attributes: dict[str, Any] = snapshot.attributes
        self.splits = tuple(split for split in SPLITS if split in snapshot.tree.children)
        self.names: list[str] = [layer["name"] for layer in self.attributes["layers"]]
        self._snapshot = snapshot
        self._tree = snapshot.tree
        self._datasets: dict[str, xr.Dataset] = {}
        self._raw: dict[str, xr.Dataset | None] = {}

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the splits, as `in` does, too."""
        return iter(self.splits)

    def __getitem__(self, split: str) -> xr.Dataset:
        """Return a split: counts [step, layer, bucket] and moments lazily, coordinates loaded.

        Raises
        ------
        SelectionError
            If the run has no such split.
        """
        if split not in self.splits:
            raise SelectionError(f"no split {split!r} in {self.path}: {nearest(split, self.splits)}")
        if split not in self._datasets:
            rows = self._tree.children[split].to_dataset(inherit=False)
            loaded = rows.assign_coords(rows.coords.to_dataset().compute().coords)
            self._check_coordinates(split, loaded)
            self._datasets[split] = loaded
        return self._datasets[split]

    def pick(self, split: str, layers: Sequence[str]) -> xr.Dataset:
        """Return a split with some layers alone: `run[split].sel(layer=[...])`, at the cost of these.

        Parameters
        ----------
        split : str
            Its name.
        layers : sequence of str
            Whole names, in the order wanted.

        Returns
        -------
        xarray.Dataset
            As `run[split]`, lazy; the counts of other layers are not decompressed.

        Raises
        ------
        SelectionError
            If the run has no such split or layer.
        """
        rows = self[split]
        numbers = np.array([self.names.index(self.find_layer(name)) for name in layers], np.int64)
        counts = rows[COUNTS.name].variable
        picked = xr.Variable(counts.dims, take_columns(counts.data, numbers), counts.attrs, counts.encoding)
        return rows.drop_vars(COUNTS.name).isel(layer=numbers).assign({COUNTS.name: picked})

    def raw(self, split: str) -> xr.Dataset | None:
        """Return the head's outputs as they were, where they were kept.

        Returns
        -------
        xarray.Dataset or None
            head [sample, unit] and, where labels were given, label [sample] or [sample, unit], with
            the coordinates step, attempt and epoch [sample]; lazy.

        Raises
        ------
        SelectionError
            If the run has no such split.
        """
        if split not in self._raw:
            found = self._labelled(split, self._children(split).get(RAW_GROUP), "sample")
            names = [name for name in ("head", "label") if found is not None and name in found]
            self._raw[split] = None if found is None else found[names]
        return self._raw[split]

    def channels(self, split: str) -> xr.Dataset | None:
        """Return what was kept of every channel, in the rows in which it was.

        Returns
        -------
        xarray.Dataset or None
            n and zeros (uint64: values, and those equal to 0), mean_abs (mean |a| of the finite values)
            and zero_share (zeros / n) [row, channel], NaN and 0 where the layer was not called; with the
            coordinates step, attempt and epoch [row], layer and index in it [channel]; lazy.

        Raises
        ------
        SelectionError
            If the run has no such split.
        """
        group = self._children(split).get(CHANNELS_GROUP)
        found = self._labelled(split, group, "row")
        if group is None or found is None:
            return None
        labels = {name: ("channel", group[f"channel_{name}"].values) for name in ("layer", "index")}
        share = found["zeros"] / found["n"].where(found["n"] > 0)
        return found.assign(zero_share=share).assign_coords(labels)

    def samples(self, split: str, layer: str) -> xr.Dataset | None:
        """Return the outputs of a layer as they were, where they were kept.

        Returns
        -------
        xarray.Dataset or None
            values [sample, dim_1, ...], index [sample] (position in its batch) and, where labels were
            given, label [sample] or [sample, label_dim] (-100 for none), with the coordinates step,
            attempt and epoch [sample]; lazy.

        Raises
        ------
        SelectionError
            If the run has no such split or layer.
        """
        groups = self._sampled(split)
        return self._labelled(split, groups.get(self.find_layer(layer)), "sample")

    def head_counts(self, split: str) -> xr.Dataset | None:
        """Return the outputs of a large head, counted by unit and truth instead of kept.

        Returns
        -------
        xarray.Dataset or None
            counts [row, unit, truth, bucket] (uint32), truth "no" (the other units of a labelled sample),
            "yes" (the unit of the true class) or "unlabelled"; with the coordinates step, attempt and
            epoch [row], lower and upper [bucket]; lazy. The attribute `units` says whether `unit` is "each"
            of the head's or all of them "pooled".

        Raises
        ------
        SelectionError
            If the run has no such split.
        StoreError
            If the counts are not those of no, yes and unlabelled.
        """
        found = self._labelled(split, self._children(split).get(HEAD_GROUP), "row")
        if found is None:
            return None
        if (truth := found[TRUTH.name].values.tolist()) != list(TRUTHS):
            raise StoreError(f"{self.path}: '{split}/{HEAD_GROUP}/truth' is {truth}, expected {list(TRUTHS)}")
        return found.assign_coords({name: self[split][name] for name in ("lower", "upper")})

    def label_moments(self, split: str) -> xr.Dataset | None:
        """Return moments of the head's outputs by true label: as recorded, else from the raw outputs.

        Returns
        -------
        xarray.Dataset or None
            n (uint64, non-finite values included), mean and std (ddof 0, of the finite values)
            [row, label, unit]; one unit for all of more than 128; with the coordinates step, attempt
            and epoch [row]; lazy. None without labels.

        Raises
        ------
        SelectionError
            If the run has no such split.
        """
        found = self._labelled(split, self._children(split).get(LABELS_GROUP), "row")
        raw = self.raw(split)
        return found if found is not None or raw is None else _moments_by_label(raw)

    def find_layer(self, name: str) -> str:
        """Return the name of a layer, if the run has it.

        Raises
        ------
        SelectionError
            If it has not; names the nearest ones.
        """
        if name not in self.names:
            raise SelectionError(f"no layer {name!r} in {self.path}: {nearest(name, self.names)}")
        return name

    def _children(self, split: str) -> Mapping[str, xr.DataTree]:
        """Return the child groups of a split."""
        self[split]  # which refuses a split that is not there
        return self._tree.children[split].children

    def _sampled(self, split: str) -> dict[str, xr.DataTree]:
        """Return the groups of raw samples of a split, by layer."""
        samples = self._children(split).get(SAMPLES_GROUP)
        groups = [] if samples is None else samples.children.values()
        return {group.attrs["layer"]: group for group in groups}

    def _check_coordinates(self, split: str, rows: xr.Dataset) -> None:
        """Check what the rest is read by: the buckets are those of the axis, the attempts are known ones."""
        axis = axis_from_attributes(self.attributes["axis"])
        for name in ("lower", "upper"):
            if not np.array_equal(rows[name], getattr(axis, name), equal_nan=True):
                raise StoreError(f"{self.path}: '{split}/{name}' is damaged, it is not that of the axis")
        n_attempts = len(self.attributes.get("attempts", [0]))
        attempts = rows["attempt"].values
        if attempts.size and not 0 <= attempts.min() <= attempts.max() < n_attempts:
            raise StoreError(f"{self.path}: '{split}/attempt' is damaged, expected 0 to {n_attempts - 1}")

    def _labelled(self, split: str, group: xr.DataTree | None, dim: str) -> xr.Dataset | None:
        """Return the data of a child group of a split, every entry with step, attempt, epoch of its row."""
        if group is None:
            return None
        rows, data = self[split], group.to_dataset(inherit=False)
        _, step, attempt = index_names(data)
        place = places(rows["step"], rows["attempt"]).get_indexer(places(data[step], data[attempt]))
        if (place < 0).any():
            lost = data[step].values[place < 0][0]
            raise StoreError(f"{self.path}: {group.path[1:]!r} has data of step {lost}, which is no row")
        data = data[list(data.data_vars)].reset_coords(drop=True)
        return data.assign_coords(
            {name: (dim, rows[name].values[place]) for name in ("step", "attempt", "epoch")}
        )


def belong(entries: xr.Dataset, rows: xr.Dataset) -> NDArray[np.bool_]:
    """Say which entries of a child group [entry] belong to some rows of its split."""
    return places(entries["step"], entries["attempt"]).isin(places(rows["step"], rows["attempt"]))


def _moments_by_label(raw: xr.Dataset) -> xr.Dataset | None:
    """Compute moments of raw outputs by true label, as the format has them for a large head.

    Parameters
    ----------
    raw : xarray.Dataset
        head [sample, unit], label [sample] or [sample, unit] (0/1), step, attempt and epoch [sample], in
        the order of the rows.

    Returns
    -------
    xarray.Dataset or None
        n (uint64), mean, std [row, label, unit], lazy; step, attempt and epoch [row]. One unit for all of
        more than 128, labels from 0 to at most 1,023. None without any.
    """
    if LABEL.name not in raw:
        return None
    label = raw[LABEL.name].values
    if label.ndim == 2:
        sample, which = np.nonzero(label == 1)
    else:
        sample = np.flatnonzero((label >= 0) & (label < MOST_LABELS))
        which = label[sample]
    if sample.size == 0:
        return None
    inverse, rows = pd.factorize(places(raw["step"], raw["attempt"]))
    first = np.searchsorted(inverse, np.arange(len(rows)))
    order = np.argsort(inverse[sample], kind="stable")
    sample, which, row = sample[order], which[order], inverse[sample[order]]
    units = raw.sizes["unit"] if raw.sizes["unit"] <= MOST_UNITS else 1
    labels = int(which.max()) + 1
    length = max(1, _BLOCK // (8 * labels * units))
    blocks = []
    for start in range(0, len(rows), length):
        count = min(length, len(rows) - start)
        mine = slice(*np.searchsorted(row, (start, start + count)))
        cell = (row[mine] - start) * labels + which[mine]
        shape = (count * labels, units)
        block = _dask.delayed(_moments)(raw["head"].data[sample[mine]], cell, shape)
        found = _dask.array.from_delayed(block, (3, *shape), np.float64)
        blocks.append(found.reshape(3, count, labels, units))
    moments = _dask.array.concatenate(blocks, axis=1)
    return xr.Dataset(
        {each.name: (each.dims, moments[i].astype(each.dtype)) for i, each in enumerate(LABEL_MOMENTS)},
        {name: ("row", raw[name].values[first]) for name in ("step", "attempt", "epoch")},
    )


def _moments(values: NDArray[Any], cell: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return n, mean and std [moment, cell, unit] of values [sample, unit], each sample in a cell."""
    if values.shape[1] != shape[1]:
        values, cell = values.reshape(-1, 1), np.repeat(cell, values.shape[1])
    values = values.astype(np.float64)
    finite = np.isfinite(values)

    def total(parts: NDArray[Any]) -> NDArray[np.float64]:
        found = np.zeros(shape)
        np.add.at(found, cell, parts)
        return found

    with np.errstate(invalid="ignore"):  # cells without finite values have no moments
        n_finite = total(finite)
        mean = total(np.where(finite, values, 0)) / n_finite
        std = np.sqrt(total(np.where(finite, (values - mean[cell]) ** 2, 0)) / n_finite)
    return np.stack([total(np.ones_like(values)), mean, std])


def places(step: xr.DataArray, attempt: xr.DataArray) -> pd.MultiIndex:
    """Return step and attempt of rows, which name them."""
    return pd.MultiIndex.from_arrays([step.values, attempt.values])
