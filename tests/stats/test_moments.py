"""Moments pooled, and moments read off counts, against the values themselves."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from actlab.axis import FloatAxis
from actlab.errors import AxisError
from actlab.stats import count_moments, pool_moments

usual = st.floats(-1e6, 1e6, width=32)
nonfinite = st.sampled_from((np.nan, np.inf, -np.inf))
parts = st.lists(st.lists(usual | nonfinite), min_size=1, max_size=6)
grids = st.lists(st.tuples(*[st.lists(usual | nonfinite, max_size=5)] * 3), min_size=2, max_size=4)
far_out = st.sampled_from((1e10, -1e300, 2.0**32, -(2.0**32), 5e-324, -1e-30, 0.0))
NAMES = ("mean", "std", "min", "max")


@pytest.fixture(scope="session")
def rows_of():
    """Return a function that describes lists of values as rows [step], lists of such as [rank, step]."""
    axis = FloatAxis(1, 0, 1)

    def describe(rows, dims=("step",)):
        flat = [np.array(values, np.float64) for row in rows for values in (row if len(dims) > 1 else [row])]
        kept = [values[np.isfinite(values)] for values in flat]
        columns = {"n": np.array([values.size for values in flat], np.uint64)}
        for name in NAMES:
            columns[name] = np.array(
                [getattr(np, name)(values) if values.size else np.nan for values in kept]
            )
        shape = (len(rows), -1) if len(dims) > 1 else (-1,)
        found = xr.Dataset({name: (dims, column.reshape(shape)) for name, column in columns.items()})
        counts = [np.bincount(axis.index(values), minlength=axis.n_buckets) for values in flat]
        return found.assign(counts=((*dims, "bucket"), np.reshape(counts, (*shape, axis.n_buckets))))

    return describe


@settings(max_examples=40)
@given(parts)
def test_pooled_moments_are_those_of_all_values(rows_of, rows):
    found = pool_moments(rows_of(rows))
    values = np.array([value for row in rows for value in row], np.float64)
    kept = values[np.isfinite(values)]
    assert int(found.n) == values.size
    assert int(found.finite) == kept.size
    for name in NAMES:
        expected = getattr(np, name)(kept) if kept.size else np.nan
        np.testing.assert_allclose(
            found[name], expected, rtol=1e-12, atol=1e-12 * np.abs(kept).max(initial=0)
        )


@settings(max_examples=40)
@given(grids)
def test_ranks_and_steps_pool_in_any_order_and_grouping(rows_of, grid):
    ds = rows_of(grid, ("rank", "step"))
    at_once = pool_moments(ds, ("rank", "step"))
    cuts = [ds.isel(rank=slice(None, 1)), ds.isel(rank=slice(1, None))]
    groups = xr.concat([pool_moments(cut, ["step", "rank"]) for cut in cuts], "group")
    for found in (
        pool_moments(pool_moments(ds, "rank"), "step"),
        pool_moments(pool_moments(ds, "step"), "rank"),
        pool_moments(groups, "group"),
    ):
        xr.testing.assert_equal(found[["n", "finite", "min", "max"]], at_once[["n", "finite", "min", "max"]])
        largest = float(np.fmax(abs(at_once["min"]), abs(at_once["max"])).fillna(0))
        xr.testing.assert_allclose(found, at_once, rtol=1e-12, atol=1e-12 * largest)


def test_a_mean_far_larger_than_the_std_does_no_harm(rows_of):
    values = 1e8 + np.random.default_rng(0).normal(0, 1e-3, (50, 4, 100))
    ds = rows_of(values, ("rank", "step"))
    for found in (pool_moments(ds, ("rank", "step")), pool_moments(pool_moments(ds, "rank"))):
        assert float(found["std"]) == pytest.approx((values - 1e8).std(), rel=1e-5)
        assert float(found["mean"]) - 1e8 == pytest.approx((values - 1e8).mean(), abs=3e-8)


def test_parts_of_one_number_have_no_spread(rows_of):
    found = pool_moments(rows_of([[0.1] * (1 + row % 5) for row in range(1000)]))
    assert float(found["mean"]) == pytest.approx(0.1, rel=1e-15)
    assert float(found["std"]) < 1e-16


@pytest.mark.filterwarnings("error")
def test_pooled_moments_keep_other_dims_stay_lazy_and_are_those_of_numpy(small_run):
    train = small_run["train"]
    found = pool_moments(train)
    assert found["mean"].chunks is not None
    assert found["std"].dims == ("layer",)
    loaded = found.compute()
    assert int(loaded.n.sel(layer="wild") - loaded.finite.sel(layer="wild")) == 27 * 3
    assert np.isnan(loaded["mean"].sel(layer="body.dropout"))
    assert int(loaded.n.sel(layer="body.dropout")) == 0
    xr.testing.assert_allclose(pool_moments(train.compute()), loaded, rtol=1e-12, atol=0)
    assert pool_moments(train, ["step", "layer"])["std"].dims == ()


@given(
    st.lists(st.one_of(usual, nonfinite, far_out), max_size=30),
    st.sampled_from((FloatAxis(), FloatAxis(1, -3, 3), FloatAxis(3, -126, 127))),
)
def test_moments_of_counts_are_within_their_bounds(counts_of, values, axis):
    data = np.array(values, np.float64)
    found = count_moments(counts_of(data, axis))
    kept = data[np.isfinite(data)]
    bucket = axis.index(kept)
    assert int(found["n"]) == data.size
    assert int(found["finite"]) == kept.size
    endless = np.isin(bucket, (1, axis.n_buckets - 3))
    if not kept.size or endless.any():
        expected = np.nan if not kept.size else np.inf
        np.testing.assert_array_equal([found["mean_bound"], found["std_bound"]], expected)
        return
    slack = 1e-12 * np.abs(kept).max()
    assert abs(found["mean"] - kept.mean()) <= found["mean_bound"] + slack
    assert abs(found["std"] - kept.std()) <= found["std_bound"] + slack
    half = (axis.upper[bucket] - axis.lower[bucket]) / 2
    np.testing.assert_allclose(found["mean_bound"], half.mean(), rtol=1e-12)
    np.testing.assert_allclose(found["std_bound"], np.sqrt((half**2).mean()), rtol=1e-12)


def test_bounds_of_moments_are_1_6_percent_of_the_values(counts_of):
    values = np.random.default_rng(0).normal(0, 3, 10_000)
    found = count_moments(counts_of(values))
    assert float(found["mean_bound"]) < 0.016 * np.abs(values).mean()
    assert float(found["std_bound"]) < 0.016 * np.sqrt((values**2).mean())
    assert float(found["mean"]) == pytest.approx(values.mean(), abs=2e-3)
    assert float(found["std"]) == pytest.approx(values.std(), rel=1e-3)


def test_values_without_an_end_count_as_their_inner_end(counts_of):
    found = count_moments(counts_of([-1e300, 1e300, np.inf]))
    assert float(found["mean"]) == 0
    assert float(found["std"]) == 2.0**32


def test_moments_of_counts_alone_are_not_pooled(counts_of):
    with pytest.raises(AxisError, match=r"of a Dataset, such as run\['train'\], got a DataArray"):
        pool_moments(counts_of([1.0]))
