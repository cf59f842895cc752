"""Distances between histograms taken as shares: 0 for equal shapes, however many values they hold."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from actlab.errors import AxisError
from actlab.rebinning import buckets_of, check_array, over_blocks
from actlab.stats.rows import in_slots

__all__ = [
    "distances",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "psi",
    "total_variation",
    "wasserstein",
]

_Floats = NDArray[np.float64]

FLOOR: Final = 1e-4
"""A bin of `psi` with a smaller share counts as this one, so that an empty bin gives a finite number."""


@njit(cache=True, nogil=True)
def _total_variation(a: _Floats, b: _Floats) -> float:
    """Half the summed difference of the shares."""
    total_a, total_b, found = a.sum(), b.sum(), 0.0
    for slot in range(a.size):
        if a[slot] > 0 or b[slot] > 0:
            found += abs(a[slot] / total_a - b[slot] / total_b)
    return min(found / 2, 1.0)


@njit(cache=True, nogil=True)
def _jensen_shannon(a: _Floats, b: _Floats) -> float:
    """Mean divergence of the shares from their mean, in bits."""
    total_a, total_b, found = a.sum(), b.sum(), 0.0
    for slot in range(a.size):
        if a[slot] <= 0 and b[slot] <= 0:
            continue
        p, q, both = a[slot] / total_a, b[slot] / total_b, 0.0
        if p > 0:
            both += p * np.log2(2 * p / (p + q))
        if q > 0:
            both += q * np.log2(2 * q / (p + q))
        found += both  # at once, so that it is symmetric to the last bit
    return min(max(found / 2, 0.0), 1.0)


@njit(cache=True, nogil=True)
def _kolmogorov_smirnov(a: _Floats, b: _Floats) -> float:
    """Largest difference of the cumulative shares at the ends of slots."""
    total_a, total_b, found = a.sum(), b.sum(), 0.0
    below_a, below_b = 0.0, 0.0
    for slot in range(a.size):
        if a[slot] > 0 or b[slot] > 0:
            below_a += a[slot]
            below_b += b[slot]
            found = max(found, abs(below_a / total_a - below_b / total_b))
    return min(found, 1.0)


@njit(cache=True, nogil=True)
def _wasserstein(a: _Floats, b: _Floats, width: _Floats) -> float:
    """Area between the cumulative shares, straight within each slot of some width."""
    total_a, total_b, found = a.sum(), b.sum(), 0.0
    below_a, below_b, left, right = 0.0, 0.0, 0.0, 0.0
    for slot in range(a.size):
        if a[slot] > 0 or b[slot] > 0:
            below_a += a[slot]
            below_b += b[slot]
            # Divided last: outside of all mass it is exactly 0, however wide the buckets are there.
            right = below_a / total_a - below_b / total_b
        height = abs(left) + abs(right)
        if left * right < 0:  # the two cross: two triangles
            height = (left * left + right * right) / height
        found += height / 2 * width[slot]
        left = right
    return found


@njit(cache=True, nogil=True)
def _psi(expected: _Floats, actual: _Floats, n_bins: int) -> float:
    """Sum (a - e) ln(a / e) over bins of `expected`; the last slot, NaN, is a bin of its own."""
    share = np.zeros((n_bins + 1, 2))
    total_e, total_a = expected.sum(), actual.sum()
    ordered = total_e - expected[-1]
    below = 0.0
    for slot in range(expected.size):
        target = n_bins
        if slot < expected.size - 1:
            middle = (below + expected[slot] / 2) / ordered if ordered > 0 else 0.0
            below += expected[slot]
            # A middle on a cut stays there when counts become shares, whatever they round to.
            target = min(int(n_bins * middle + 1e-9), n_bins - 1)
        share[target, 0] += expected[slot]
        share[target, 1] += actual[slot]
    found = 0.0
    for target in range(n_bins + 1):
        e = max(share[target, 0] / total_e, FLOOR)
        a = max(share[target, 1] / total_a, FLOOR)
        found += (a - e) * np.log(a / e)
    return found


def total_variation(
    a: xr.DataArray, b: xr.DataArray, dim: str | Sequence[Hashable] = "bucket"
) -> xr.DataArray:
    """Return half the summed difference of two histograms, each taken as shares.

    The largest difference of the probabilities that the two give to any event made of slots (Levin and
    Peres, Markov Chains and Mixing Times, 2017, prop. 4.2).

    Parameters
    ----------
    a, b : xarray.DataArray
        Counts or shares, not negative; their other dims are broadcast.
    dim : str or sequence of str
        The dims over which each adds up to one, every slot counted: on buckets also underflow, overflow
        and those of non-finite values.

    Returns
    -------
    xarray.DataArray
        [...], 0 for equal shapes to 1 for histograms that share no slot; symmetric; NaN where one is empty.

    Raises
    ------
    AxisError
        If the two do not lie on the same slots and labels.
    """
    return _between(_total_variation, a, b, dim)


def jensen_shannon(
    a: xr.DataArray, b: xr.DataArray, dim: str | Sequence[Hashable] = "bucket"
) -> xr.DataArray:
    """Return the Jensen-Shannon divergence of two histograms, each taken as shares.

    (KL(a | m) + KL(b | m)) / 2 with m = (a + b) / 2 (Lin, IEEE Trans. Inf. Theory 37, 1991);
    its square root is a metric (Endres and Schindelin, IEEE Trans. Inf. Theory 49, 2003).

    Parameters
    ----------
    a, b : xarray.DataArray
        Counts or shares, not negative; their other dims are broadcast.
    dim : str or sequence of str
        The dims over which each adds up to one, every slot counted, as in `total_variation`.

    Returns
    -------
    xarray.DataArray
        [...] in bits, 0 for equal shapes to 1 for histograms that share no slot; symmetric; NaN where one
        is empty.

    Raises
    ------
    AxisError
        If the two do not lie on the same slots and labels.
    """
    return _between(_jensen_shannon, a, b, dim)


def kolmogorov_smirnov(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """Return the largest difference of the cumulative shares of two histograms.

    The statistic of the two-sample test (Smirnov, Ann. Math. Stat. 19, 1948), with the slots in the order
    of the buckets: neg_inf, underflow, the finite values, overflow, pos_inf, NaN. It is taken at the ends
    of buckets, so that of the values themselves is never smaller, and larger by at most the largest
    min(share of a, share of b) of one bucket.

    Parameters
    ----------
    a, b : xarray.DataArray
        Counts or shares [..., bucket], not negative; their other dims are broadcast.

    Returns
    -------
    xarray.DataArray
        [...], 0 for equal shapes to 1; symmetric; NaN where one is empty.

    Raises
    ------
    AxisError
        If the two do not lie on the same buckets and labels.
    """
    return _between(_kolmogorov_smirnov, a, b, "bucket")


def wasserstein(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """Return the Wasserstein-1 (earth mover's) distance of the finite values of two histograms.

    The integral of |F_a - F_b| over the values, F the cumulative share (Vallender, Theory Probab. Appl.
    18, 1974), exact for mass spread evenly within each bucket; zero is a point, underflow and overflow lie
    at their inner end. It is no further from that of the values themselves than the `mean_bound` of
    `count_moments` of a plus that of b (each half the mean width of the buckets that hold the values).

    Parameters
    ----------
    a, b : xarray.DataArray
        Counts or shares [..., bucket], not negative, with the coordinates `lower` and `upper` of a
        `FloatAxis`; their other dims are broadcast.

    Returns
    -------
    xarray.DataArray
        [...] in the units of the activations, 0 for equal shapes on; symmetric; NaN where one has no
        finite values.

    Raises
    ------
    AxisError
        If the two do not lie on the same buckets of a `FloatAxis` and the same labels.
    """
    buckets_of(a), buckets_of(b)
    finite = slice(1, -2)
    width = a["upper"].values[finite] - a["lower"].values[finite]
    width[[0, -1]] = 0
    return _between(_wasserstein, a.isel(bucket=finite), b.isel(bucket=finite), "bucket", width)


def psi(expected: xr.DataArray, actual: xr.DataArray, n_bins: int = 10) -> xr.DataArray:
    """Return the population stability index of a histogram against the one expected.

    sum((a - e) ln(a / e)) over the shares of bins that hold equal parts of `expected`, each share taken
    for at least 1e-4 (Siddiqi, Credit Risk Scorecards, 2006, whose reading is: below 0.1 no significant
    change, up to 0.25 a small one to look into, above it a major shift). Two samples of n and m values of one
    distribution give about (n_bins - 1) (1/n + 1/m) by chance (Yurdakul, Statistical Properties of
    Population Stability Index, 2018).

    The bins are the deciles of `expected`, cut at the nearest ends of buckets: every bucket goes whole to the
    decile in which the middle of its mass lies, deciles cut at the same end are one. The order is that of
    the buckets, infinite values at the two ends; NaN is a bin of its own.

    Parameters
    ----------
    expected, actual : xarray.DataArray
        Counts or shares [..., bucket], not negative; their other dims are broadcast.
    n_bins : int
        How many bins besides that of NaN, at least 2; 10 for deciles.

    Returns
    -------
    xarray.DataArray
        [...], 0 for equal shapes on; not symmetric, for the bins are those of `expected`; NaN where one is
        empty.

    Raises
    ------
    AxisError
        If the two do not lie on the same buckets and labels, or `n_bins` is no such number.
    """
    if n_bins < 2 or n_bins != int(n_bins):
        raise AxisError(f"n_bins must be a whole number of at least 2, got {n_bins!r}")
    return _between(_psi, expected, actual, "bucket", int(n_bins))


def distances(a: xr.DataArray, b: xr.DataArray) -> xr.Dataset:
    """Return all distances of two histograms.

    Parameters
    ----------
    a, b : xarray.DataArray
        Counts or shares [..., bucket] with the coordinates `lower` and `upper` of a `FloatAxis`; their
        other dims are broadcast. `a` is the reference, expected by `psi`.

    Returns
    -------
    xarray.Dataset
        total_variation, jensen_shannon (bits), wasserstein (units of the activations),
        kolmogorov_smirnov, psi [...]: see the functions of these names.

    Raises
    ------
    AxisError
        If the two do not lie on the same buckets of a `FloatAxis` and the same labels.
    """
    measures = (total_variation, jensen_shannon, wasserstein, kolmogorov_smirnov, psi)
    return xr.Dataset({measure.__name__: measure(a, b) for measure in measures})


def _between(
    kernel: Callable[..., float], a: xr.DataArray, b: xr.DataArray, dim: str | Sequence[Hashable], *extra: Any
) -> xr.DataArray:
    """Measure every pair of histograms [..., dim] with a compiled kernel; NaN where one is empty."""
    a, b = check_array(a), check_array(b)
    _check_labels(a, b)
    a, b = in_slots(a, dim), in_slots(b, dim)

    def measure(a: NDArray[Any], b: NDArray[Any]) -> _Floats:
        leading = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        a, b = (np.broadcast_to(each, (*leading, each.shape[-1])) for each in (a, b))
        found = np.full(leading, np.nan)
        for row in np.ndindex(leading):
            pair = [np.array(each[row], np.float64) for each in (a, b)]  # one dtype and layout to compile for
            if pair[0].sum() > 0 and pair[1].sum() > 0:
                found[row] = kernel(*pair, *extra)
        return found

    measured: xr.DataArray = xr.apply_ufunc(
        *over_blocks(measure, a.chunk() if b.chunks else a, b),
        input_core_dims=[[], ["slot"], ["slot"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )
    return measured.rename(kernel.__name__.lstrip("_"))


def _check_labels(a: xr.DataArray, b: xr.DataArray) -> None:
    """Raise `AxisError` unless two arrays have the same labels on every dim they share, and the same ends."""
    for dim in [dim for dim in a.dims if dim in b.dims]:
        if a.sizes[dim] != b.sizes[dim]:
            raise AxisError(f"the two differ along {dim!r}: {a.sizes[dim]} and {b.sizes[dim]} long")
        if dim in a.indexes and dim in b.indexes and not a.indexes[dim].equals(b.indexes[dim]):
            pairs = zip(a.indexes[dim], b.indexes[dim], strict=True)
            pair = next(pair for pair in pairs if pair[0] != pair[1])
            raise AxisError(
                f"the two differ along {dim!r}: {pair[0]!r} in one where the other has {pair[1]!r}; "
                "select the same labels, in the same order"
            )
    for name in ("lower", "upper"):
        if name in a.coords and name in b.coords:
            one, other = xr.broadcast(a[name], b[name])
            if not np.array_equal(one, other, equal_nan=True):
                raise AxisError(f"the two lie on different axes: their coordinates {name!r} differ")
