"""Re-binning of labelled arrays, numpy or dask, and of whole Datasets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.axis import LinearAxis
from actlab.errors import AxisError, SelectionError, nearest
from actlab.rebinning.arrays import Rebinned, bin_array, check_dtype, rebin_planned
from actlab.rebinning.blocks import over_blocks
from actlab.rebinning.buckets import Buckets
from actlab.rebinning.kernel import make_plan

__all__ = ["bin_values", "buckets_of", "check_array", "label_bins", "rebin"]


def rebin(data: xr.DataArray | xr.Dataset, axis: LinearAxis | Mapping[str, LinearAxis]) -> xr.Dataset:
    """Bring counts onto the bins of a picture.

    The mass below an edge is the monotone cubic interpolation (PCHIP) of the cumulative counts over
    the finite, nonzero buckets; zero is a point mass in the bin that holds 0; underflow and overflow
    buckets are spread evenly out to the largest float32. Counts whose edges the axis meets come out
    as the very integers. Interpolation is not additive: pool first, then re-bin.

    A bucket is cut by an edge strictly inside it; by one on its closed end where that is an edge
    below zero (but the last edge); and by a last edge above zero on which it starts.

    Parameters
    ----------
    data : xarray.DataArray or xarray.Dataset
        Counts [..., bucket] with the coordinates `lower` and `upper` [bucket] of a `FloatAxis`:
        integers, or floats such as shares, finite and not negative; numpy, or dask, which stays lazy
        in its chunks over the leading dims. Or a Dataset with such `counts`.
    axis : LinearAxis or mapping of str to LinearAxis
        The bins wanted; or those of each layer, all with the same number of bins.

    Returns
    -------
    xarray.Dataset
        - counts [..., bin]: float64;
        - underflow, overflow [...]: finite values below and above the range;
        - neg_inf, pos_inf, nan [...]: as recorded; all six add up to n;
        - bound [..., bin]: mass of the buckets cut at the bin's two edges: no count is further from
          that of `numpy.histogram` over the values themselves;
        - exact [...]: bool, no edge cuts any mass;
        - of a Dataset also its other variables, as they are.

        Coordinates `bin` (centers), `lower` and `upper` [bin]; attributes h_min, h_max, n_bins. With an
        axis for each layer: `bin` (0 to n_bins - 1), `lower`, `center` and `upper` [layer, bin]; n_bins.

    Raises
    ------
    AxisError
        If there is no dim `bucket` with the coordinates of a `FloatAxis`, counts are negative, not
        finite or no numbers (of dask, once they are computed), the axes have different numbers of bins,
        or a Dataset has another variable [bucket] or of the same name as one of the above.
    SelectionError
        If a layer has no axis.
    """
    counts, others = _split(data)
    buckets = buckets_of(counts)
    check_dtype(counts.dtype)
    if counts.chunks is not None:
        counts = counts.copy(data=counts.variable.chunk(bucket=-1).data)  # the coordinates stay loaded
    axes, which = ([axis], xr.DataArray(0)) if isinstance(axis, LinearAxis) else _by_layer(counts, axis)
    kernel = partial(rebin_planned, buckets=buckets, plan=make_plan(buckets, axes))
    variables = xr.apply_ufunc(
        *over_blocks(kernel, counts.drop_vars(("lower", "upper")), which),
        input_core_dims=[[], ["bucket"], []],
        output_core_dims=[["bin"] if name in ("counts", "bound") else [] for name in Rebinned._fields],
        keep_attrs=False,  # they tell of buckets
        dask="parallelized",
        output_dtypes=[np.bool_ if name == "exact" else np.float64 for name in Rebinned._fields],
        dask_gufunc_kwargs={"output_sizes": {"bin": axes[0].n_bins}},
    )
    found = xr.Dataset(dict(zip(Rebinned._fields, variables, strict=True)))
    found = label_bins(found, axis) if isinstance(axis, LinearAxis) else _label_layers(found, axis)
    return found if others is None else others.assign(found.data_vars).assign_attrs(found.attrs)


def check_array(counts: object) -> xr.DataArray:
    """Return counts that are a labelled array.

    Raises
    ------
    AxisError
        If they are none: plain arrays do not say what their buckets are.
    """
    if isinstance(counts, xr.DataArray):
        return counts
    instead = ": take its 'counts'" if isinstance(counts, xr.Dataset) else ""
    raise AxisError(
        f"counts must be an xarray.DataArray [..., bucket], got a {type(counts).__name__}{instead}"
    )


def buckets_of(counts: xr.DataArray) -> Buckets:
    """Read the layout of the buckets that counts lie on.

    Raises
    ------
    AxisError
        If `counts` are not on a `FloatAxis`.
    """
    check_array(counts)
    if "bucket" not in counts.dims or not {"lower", "upper"} <= counts.coords.keys():
        raise AxisError(
            "counts need the dim 'bucket' with the coordinates 'lower' and 'upper' of a FloatAxis, "
            f"got the dims {[*counts.dims]} with the coordinates {[*counts.coords]}"
        )
    return Buckets.of(counts["lower"].values, counts["upper"].values)


def _split(data: xr.DataArray | xr.Dataset) -> tuple[xr.DataArray, xr.Dataset | None]:
    """Return the counts, and what else a Dataset has."""
    counts, others = data, None
    if isinstance(data, xr.Dataset):
        if "counts" not in data:
            raise AxisError(f"a Dataset to re-bin needs the variable 'counts', got {[*data.data_vars]}")
        counts = data["counts"]
        rest = data.drop_vars("counts")
        if clash := [name for name in (*Rebinned._fields, "bin") if name in rest.variables]:
            raise AxisError(f"the Dataset to re-bin has a {clash[0]!r} of its own: rename it first")
        if beside := [name for name, each in rest.data_vars.items() if "bucket" in each.dims]:
            raise AxisError(f"the Dataset to re-bin has {beside[0]!r} [bucket], too: drop it first")
        others = rest.drop_dims("bucket", errors="ignore")
    return check_array(counts), others


def _by_layer(counts: xr.DataArray, axes: Any) -> tuple[list[LinearAxis], xr.DataArray]:
    """Return axes, one at least, and which of them is that of each layer [layer] of the counts."""
    if not (isinstance(axes, Mapping) and all(isinstance(each, LinearAxis) for each in axes.values())):
        raise AxisError(f"axis must be a LinearAxis, or a mapping of layers to them, got {axes!r}")
    if "layer" not in counts.dims or "layer" not in counts.coords:
        raise AxisError(f"an axis for each layer needs the dim 'layer', got the dims {[*counts.dims]}")
    names = counts["layer"].values.tolist()
    if missing := [name for name in names if name not in axes]:
        raise SelectionError(f"no axis for the layer {missing[0]!r}: {nearest(missing[0], axes)}")
    if len(sizes := {axis.n_bins for axis in axes.values()}) != 1:
        raise AxisError(f"the axes of the layers need the same number of bins, got {sorted(sizes)}")
    which = xr.DataArray(np.arange(len(names)), dims="layer")
    if counts.chunks is not None:
        which = which.chunk(layer=counts.variable.chunksizes["layer"])
    return [axes[name] for name in names] or list(axes.values()), which


def bin_values(values: NDArray[Any], axis: LinearAxis) -> xr.Dataset:
    """Count values exactly: what `rebin` returns, without its error.

    Parameters
    ----------
    values : numpy.ndarray
        Real values of any shape, pooled.
    axis : LinearAxis
        The bins wanted.

    Returns
    -------
    xarray.Dataset
        The variables of `rebin`, `bound` 0 and `exact` True.
    """
    data = np.ravel(values)
    found = bin_array(data, np.zeros(data.size, np.int64), 1, axis)
    dims = {"counts": ("bin",), "bound": ("bin",)}
    named = {name: (dims.get(name, ()), each[0]) for name, each in found._asdict().items()}
    return label_bins(xr.Dataset(named), axis)


def label_bins(dataset: xr.Dataset, axis: LinearAxis) -> xr.Dataset:
    """Attach the coordinates `bin`, `lower` and `upper` [bin] of an axis, and its attributes."""
    labelled = dataset.assign_coords(bin=axis.centers, lower=("bin", axis.lower), upper=("bin", axis.upper))
    return labelled.assign_attrs(h_min=axis.h_min, h_max=axis.h_max, n_bins=axis.n_bins)


def _label_layers(dataset: xr.Dataset, axes: Mapping[str, LinearAxis]) -> xr.Dataset:
    """Attach the coordinates `lower`, `center` and `upper` [layer, bin] of the layers, and `bin`."""
    n_bins = dataset.sizes["bin"]
    edges = np.reshape([axes[name].edges for name in dataset["layer"].values], (-1, n_bins + 1))
    lower, upper = edges[:, :-1], edges[:, 1:]
    ends = {"lower": lower, "center": (lower + upper) / 2, "upper": upper}
    return dataset.assign_coords(
        {"bin": np.arange(n_bins)} | {name: (("layer", "bin"), each) for name, each in ends.items()}
    ).assign_attrs(n_bins=n_bins)
