"""Every statistic is the same on numpy and dask, in any chunks, computed late and anywhere."""

import cloudpickle
import numpy as np
import pytest
import scipy.stats
import xarray as xr

from actlab import stats
from actlab.axis import FloatAxis
from actlab.errors import AxisError

STATISTICS = {
    "count_moments": stats.count_moments,
    "distances": lambda counts: stats.distances(counts.isel(step=0), counts),
    "entropy": stats.entropy,
    "out_of_range": lambda counts: stats.out_of_range(counts, -1.1, 2.3),
    "quantile": lambda counts: stats.quantile(counts, [0.1, 0.5]),
    "quantile_bounds": lambda counts: stats.quantile_bounds(counts, [0.1, 0.5]),
    "zero_share": stats.zero_share,
}


@pytest.fixture(scope="module")
def counts():
    """Counts [step, layer, bucket] of wild values; layer "none" has none."""
    axis = FloatAxis(3, -10, 10)
    values = np.random.default_rng(0).standard_cauchy((5, 3, 50)) * np.array([1, 100, 0])[:, None]
    values[:, 0, :3] = np.nan, np.inf, -np.inf
    found = np.apply_along_axis(
        lambda row: np.bincount(axis.index(row), minlength=axis.n_buckets), -1, values
    )
    found = np.append(found, np.zeros_like(found[:, :1]), axis=1).astype(np.uint32)
    attrs = {"long_name": "values in each bucket"}
    coords = {
        "lower": ("bucket", axis.lower),
        "upper": ("bucket", axis.upper),
        "layer": ["a", "b", "0", "none"],
    }
    return xr.DataArray(found, coords, ("step", "layer", "bucket"), "counts", attrs)


def dataset(found):
    return found if isinstance(found, xr.Dataset) else found.to_dataset(name="found")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", STATISTICS)
def test_dask_gives_the_numbers_of_numpy(counts, name):
    lazy = dataset(STATISTICS[name](counts.chunk(step=2, layer=3, bucket=50)))
    assert all(each.chunks is not None for each in lazy.values())
    expected = dataset(STATISTICS[name](counts))
    xr.testing.assert_allclose(lazy.compute(), expected, rtol=1e-12, atol=0)
    assert not any(each.attrs for each in expected.values())  # those of the counts would be wrong
    sent = cloudpickle.loads(cloudpickle.dumps(lazy))  # as to the worker of a cluster
    xr.testing.assert_identical(sent.compute(scheduler="synchronous"), lazy.compute())


@pytest.mark.parametrize("name", STATISTICS)
def test_any_order_and_dtype_of_counts_will_do(counts, name):
    expected = dataset(STATISTICS[name](counts))
    for other in (counts.astype(np.float64), counts.astype(np.uint64).transpose("bucket", "layer", "step")):
        xr.testing.assert_allclose(
            dataset(STATISTICS[name](other)), expected, rtol=1e-12, check_dim_order=False
        )


@pytest.mark.parametrize("name", STATISTICS)
def test_nothing_is_computed_at_the_call(counts, name):
    def forbidden(block):
        raise AssertionError("computed")

    lazy = counts.chunk(step=1)
    lazy.data = lazy.data.map_blocks(forbidden, dtype=np.uint32, meta=np.empty((0, 0, 0), np.uint32))
    with pytest.raises(AssertionError, match="computed"):
        dataset(STATISTICS[name](lazy)).compute()


@pytest.mark.parametrize("name", sorted(STATISTICS.keys() - {"entropy"}))
def test_counts_that_are_not_on_buckets_are_refused(counts, name):
    with pytest.raises(AxisError, match="'bucket'"):
        STATISTICS[name](counts.rename(bucket="bin"))
    with pytest.raises(AxisError, match=r"coordinates|buckets of a FloatAxis"):
        STATISTICS[name](counts.drop_vars(("lower", "upper")))


@pytest.mark.parametrize("name", sorted(STATISTICS.keys() - {"distances"} | {"fit_axis"}))
def test_what_is_no_labelled_array_is_one_clear_error(counts, name):
    statistic = {**STATISTICS, "fit_axis": stats.fit_axis}[name]
    with pytest.raises(AxisError, match=r"an xarray.DataArray .*, got a Dataset: take its 'counts'"):
        statistic(counts.to_dataset())
    with pytest.raises(AxisError, match=r"an xarray.DataArray .*, got a ndarray"):
        statistic(counts.values)


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("chunks", [None, {}, {"bucket": 7}])
def test_of_nothing_there_is_nothing(counts, name, chunks):
    nothing = (counts if chunks is None else counts.chunk(chunks)).isel(layer=slice(0))
    found = STATISTICS[name](nothing)
    assert found.compute().sizes["layer"] == 0


@pytest.mark.parametrize("name", ["distances", "total_variation", "wasserstein", "psi"])
def test_distances_of_what_is_no_labelled_array_are_one_clear_error(counts, name):
    for one, other in [(counts, counts.to_dataset()), (counts.to_dataset(), counts), (counts.values, counts)]:
        with pytest.raises(AxisError, match=r"an xarray.DataArray .*, got a (Dataset|ndarray)"):
            getattr(stats, name)(one, other)


@pytest.mark.parametrize("layer", ["input", "body.linear", "body.relu", "wild", "fc"])
def test_statistics_of_a_run_are_those_of_its_values(small_run, small_batches, layer):
    values, counts = [], []
    train = small_run["train"].sel(layer=layer)
    for epoch in (0, 2):
        of_epoch = [np.ravel(batch[layer]) for at, batch, _ in small_batches["train"] if at == epoch]
        values.append(np.concatenate(of_epoch).astype(np.float64))
        counts.append(train.counts.isel(step=np.flatnonzero(train.epoch == epoch)).sum("step").compute())
    (first, last), (one, other) = ([each[np.isfinite(each)] for each in values], counts)

    moments = stats.count_moments(one)
    assert int(moments["finite"]) == first.size
    assert abs(moments["mean"] - first.mean()) <= moments["mean_bound"]
    assert abs(moments["std"] - first.std()) <= moments["std_bound"]
    ends = stats.quantile_bounds(one, [0.01, 0.5, 0.99])
    assert (ends["lower"] <= np.quantile(first, [0.01, 0.5, 0.99])).all()
    assert (ends["upper"] >= np.quantile(first, [0.01, 0.5, 0.99])).all()
    assert float(stats.zero_share(one)) == (values[0] == 0).mean()
    outside = stats.out_of_range(one, -0.7, 1.1)
    assert abs(outside["below"] - (first < -0.7).sum() / values[0].size) <= outside["bound"] + 1e-12
    assert abs(outside["above"] - (first > 1.1).sum() / values[0].size) <= outside["bound"] + 1e-12

    found = stats.distances(one, other)
    bound = moments["mean_bound"] + stats.count_moments(other)["mean_bound"]
    assert abs(found["wasserstein"] - scipy.stats.wasserstein_distance(first, last)) <= bound
    if layer != "wild":  # its NaN have no place in the order of scipy
        true = scipy.stats.ks_2samp(*values, method="asymp").statistic
        widest = np.minimum(one / one.sum(), other / other.sum()).max()
        assert true - widest - 1e-12 <= found["kolmogorov_smirnov"] <= true + 1e-12


def test_public_names_are_all_there():
    assert [*stats.__all__] == sorted(stats.__all__)
    assert all(callable(getattr(stats, name)) for name in stats.__all__ if name != "OUTSIDE")
