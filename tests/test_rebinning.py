"""Re-binning by example: labels, laziness, refusals. What holds for all values: tests/properties."""

from typing import ClassVar

import numpy as np
import pytest
import xarray as xr

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError, SelectionError
from actlab.rebinning import Buckets, bin_values, rebin, rebin_array

AXIS = FloatAxis()
VIEW = LinearAxis(-4, 4, 8)
VARIABLES = ["counts", "underflow", "overflow", "neg_inf", "pos_inf", "nan", "bound", "exact"]


def counts_of(*rows, axis=AXIS):
    data = np.stack([np.bincount(axis.index(row), minlength=axis.n_buckets) for row in rows])
    coords = {
        "lower": ("bucket", axis.lower),
        "upper": ("bucket", axis.upper),
        "layer": ["a", "b"][: len(rows)],
    }
    return xr.DataArray(data.astype(np.uint32), coords, ("layer", "bucket"))


@pytest.fixture
def two_layers():
    random = np.random.default_rng(0)
    return counts_of(
        random.normal(0, 2, 1000), np.append(random.normal(0, 9, 500), [np.nan, np.inf, -np.inf, 0])
    )


def test_variables_coordinates_and_attributes(two_layers):
    found = rebin(two_layers.assign_attrs(long_name="values in each bucket"), LinearAxis(-4, 4, 100))
    assert [*found.data_vars] == VARIABLES
    assert not any(variable.attrs for variable in found.data_vars.values())
    assert found.counts.dims == found.bound.dims == ("layer", "bin")
    assert found.nan.dims == found.exact.dims == ("layer",)
    assert found.layer.values.tolist() == ["a", "b"]
    np.testing.assert_allclose(found.bin, np.linspace(-3.96, 3.96, 100))
    np.testing.assert_allclose(found.upper - found.lower, 0.08)
    assert found.attrs == {"h_min": -4, "h_max": 4, "n_bins": 100}
    assert found.counts.dtype == found.bound.dtype == found.underflow.dtype == np.float64
    assert found.exact.dtype == bool
    assert [float(found[name][1]) for name in ("neg_inf", "pos_inf", "nan")] == [1, 1, 1]


def test_a_single_histogram_needs_no_leading_dim(two_layers):
    found = rebin(two_layers.sum("layer"), LinearAxis(-4, 4, 8))
    assert found.counts.dims == ("bin",)
    assert found.underflow.dims == ()


def test_one_value_in_a_bucket_wider_than_the_bins_is_spread_over_them():
    found = rebin(counts_of([1.01]), LinearAxis(1, 1 + 1 / 32, 4)).isel(layer=0)
    np.testing.assert_allclose(found.counts, 0.25, atol=0.15)
    assert found.counts.sum() == 1
    # The bucket is cut three times, counted once in each bin: even where both edges cut it.
    np.testing.assert_array_equal(found.bound, [1, 1, 1, 1])
    assert not found.exact


def test_edges_on_bucket_ends_are_exact_above_zero_and_cut_the_closed_ends_below():
    found = rebin(counts_of([0.5, 0.75, 1.5], [-0.5, -0.75, -1.5]), LinearAxis(-2, 2, 8))
    assert found.exact.values.tolist() == [True, False]
    np.testing.assert_array_equal(found.counts[0], [0, 0, 0, 0, 0, 2, 0, 1])
    np.testing.assert_array_equal(found.bound[1], [1, 1, 1, 1, 0, 0, 0, 0])


def test_rounding_makes_no_bin_negative():
    axis, counts = FloatAxis(1, -2, 3), np.zeros(32, np.int64)
    counts[18:25] = [100, 10, 1, 10_000, 10, 100, 10]
    view = LinearAxis(1.4997959662675, 1.4997959662675877, 47)  # a few steps of float64 wide
    assert rebin_array(counts, axis.lower, axis.upper, view).counts.min() == 0


def test_values_beyond_float32_fall_within_it_and_the_bound_says_so():
    found = rebin(counts_of([1e300, -1e300]), LinearAxis(-1e39, 1e39, 2)).isel(layer=0)
    np.testing.assert_array_equal(found.counts, [1, 1])
    np.testing.assert_array_equal(found.bound, [1, 1])


def test_pooling_first_differs_from_pooling_last(two_layers):
    axis = LinearAxis(-3, 3, 500)
    pooled = rebin(two_layers.sum("layer"), axis).counts
    assert np.abs(pooled - rebin(two_layers, axis).counts.sum("layer")).max() > 0.01


def test_dask_counts_are_not_computed_at_the_call(two_layers):
    def forbidden(block):
        raise AssertionError("computed")

    lazy = two_layers.chunk(layer=1).copy()
    lazy.data = lazy.data.map_blocks(forbidden, dtype=np.uint32, meta=np.empty((0, 0), np.uint32))
    found = rebin(lazy, LinearAxis(-4, 4, 10))
    assert found.counts.chunksizes == {"layer": (1, 1), "bin": (10,)}
    assert found.exact.dtype == bool
    with pytest.raises(AssertionError, match="computed"):
        found.compute()


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.int64, np.float64])
def test_any_dtype_order_and_read_only_data(dtype):
    data = counts_of([1.0, 2.0, 2.5], [-1.0, 3.0, np.nan]).values.astype(dtype)
    strange = np.asfortranarray(np.repeat(data, 2, axis=0))[::2]
    strange.flags.writeable = False
    found = rebin_array(strange, AXIS.lower, AXIS.upper, LinearAxis(0, 4, 4))
    np.testing.assert_array_equal(found.counts, [[0, 1, 2, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(found.nan, [0, 1])


def test_no_rows_give_no_rows():
    found = rebin_array(np.zeros((0, 3, AXIS.n_buckets)), AXIS.lower, AXIS.upper, LinearAxis(0, 4, 4))
    assert found.counts.shape == (0, 3, 4)
    assert found.exact.shape == (0, 3)


@pytest.mark.parametrize("axis", [FloatAxis(1, 0, 0), FloatAxis(7), FloatAxis(10, -126, 127)])
def test_the_layout_is_read_from_the_ends_of_the_buckets(axis):
    buckets = Buckets.of(axis.lower, axis.upper)
    assert buckets.zero == axis.zero
    assert buckets.bucket.size == axis.n_buckets - 4
    np.testing.assert_array_equal(buckets.ends[1:-1], -buckets.ends[-2:0:-1])
    assert (buckets.width > 0).all()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lower, upper: (lower[:-1], upper[:-1]),
        lambda lower, upper: (lower[:8], upper[:8]),
        lambda lower, upper: (lower, upper[:-2]),
        lambda lower, upper: (lower[::-1], upper[::-1]),
        lambda lower, upper: (np.where(lower == 1, 1.001, lower), upper),
        lambda lower, upper: (np.where(lower == 1, 0.5, lower), np.where(upper == 1, 0.5, upper)),
        lambda lower, upper: (np.nan_to_num(lower), upper),
    ],
)
def test_ends_that_are_no_float_axis_are_refused(spoil):
    with pytest.raises(AxisError, match="not the buckets of a FloatAxis"):
        Buckets.of(*spoil(AXIS.lower, AXIS.upper))


def test_counts_without_buckets_or_their_ends_are_refused(two_layers):
    axis = LinearAxis(-1, 1, 2)
    with pytest.raises(AxisError, match=r"dim 'bucket'.*got the dims \['layer'\]"):
        rebin(two_layers.sum("bucket"), axis)
    with pytest.raises(AxisError, match="coordinates 'lower' and 'upper'"):
        rebin(two_layers.drop_vars("upper"), axis)
    with pytest.raises(AxisError, match=r"an xarray.DataArray \[..., bucket\], got a ndarray"):
        rebin(two_layers.values, axis)
    with pytest.raises(AxisError, match=r"shape \(2, 3\) do not end with 3592 buckets"):
        rebin_array(np.zeros((2, 3)), AXIS.lower, AXIS.upper, axis)


@pytest.mark.parametrize("value", [-1, -1e-9, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 15, 20, 31])
def test_counts_that_are_none_are_refused(place, value):
    axis = FloatAxis(1, -2, 3)
    counts = np.ones(axis.n_buckets, type(value))
    counts[place] = value
    with pytest.raises(AxisError, match="must be finite and not negative"):
        rebin_array(counts, axis.lower, axis.upper, LinearAxis(-1, 1, 2))


@pytest.mark.parametrize("dtype", [object, bool, complex, "U3", "datetime64[s]"])
def test_what_is_no_number_is_refused(dtype):
    counts = np.zeros((2, AXIS.n_buckets)).astype(dtype)
    with pytest.raises(AxisError, match="must be integers or floats, got"):
        rebin_array(counts, AXIS.lower, AXIS.upper, LinearAxis(-1, 1, 2))


class TestAxisOfEachLayer:
    AXES: ClassVar = {"b": LinearAxis(-30, 30, 7), "a": LinearAxis(-1, 4, 7), "unused": LinearAxis(0, 1, 7)}

    @pytest.mark.parametrize("chunks", [None, {"layer": 1}, {"layer": 2, "bucket": 100}])
    def test_each_layer_is_as_by_itself(self, two_layers, chunks):
        counts = xr.concat([two_layers, 3 * two_layers], "step")
        found = rebin(counts if chunks is None else counts.chunk(chunks), self.AXES)
        assert found.counts.dims == ("step", "layer", "bin")
        assert found.attrs == {"n_bins": 7}
        assert found.bin.values.tolist() == [*range(7)]
        for name in ("a", "b"):
            one, alone = found.sel(layer=name), rebin(counts.sel(layer=name), self.AXES[name])
            for variable in VARIABLES:
                np.testing.assert_array_equal(one[variable], alone[variable])
            assert one.center.dims == ("bin",)
            np.testing.assert_array_equal(one.center, alone.bin)
            np.testing.assert_array_equal(one.lower, alone.lower)
            np.testing.assert_array_equal(one.upper, alone.upper)

    def test_no_layers_have_as_many_bins(self, two_layers):
        found = rebin(two_layers.isel(layer=slice(0)), self.AXES)
        assert found.counts.shape == (0, 7)
        assert found.center.shape == (0, 7)

    @pytest.mark.parametrize(
        ("axes", "error", "message"),
        [
            ({"a": VIEW, "c": VIEW}, SelectionError, "no axis for the layer 'b': "),
            ({"a": VIEW, "b": LinearAxis(-1, 1, 5)}, AxisError, r"same number of bins, got \[5, 8\]"),
            ({}, SelectionError, "no axis for the layer 'a': there are none"),
            ((-1, 1, 3), AxisError, r"a LinearAxis, or a mapping of layers to them, got \(-1, 1, 3\)"),
            ({"a": (-1, 1, 3)}, AxisError, "a LinearAxis, or a mapping of layers to them, got {'a'"),
        ],
    )
    def test_axes_that_do_not_fit_are_refused(self, two_layers, axes, error, message):
        with pytest.raises(error, match=message):
            rebin(two_layers, axes)

    def test_counts_without_layers_are_refused(self, two_layers):
        with pytest.raises(AxisError, match="needs the dim 'layer', got the dims"):
            rebin(two_layers.sum("layer"), self.AXES)


class TestDataset:
    @pytest.fixture
    def dataset(self, two_layers):
        """Return counts [layer, bucket] with what a split of a run has beside them."""
        extra = {"n": two_layers.sum("bucket"), "mean": ("layer", [0.0, 1.0]), "loss": 2.5}
        return xr.Dataset({"counts": two_layers, **extra}, {"epoch": 3}, {"run": "x"})

    @pytest.mark.parametrize("axis", [VIEW, {"a": VIEW, "b": LinearAxis(-1, 1, 8)}])
    @pytest.mark.parametrize("chunks", [{}, {"layer": 1}])
    def test_keeps_its_other_variables(self, dataset, axis, chunks):
        data = dataset.chunk(chunks) if chunks else dataset
        found = rebin(data, axis)
        expected = rebin(dataset.counts, axis)
        assert {*found.data_vars} == {*VARIABLES, "n", "mean", "loss"}
        assert found.attrs == {"run": "x", **expected.attrs}
        assert "bucket" not in found.dims
        xr.testing.assert_equal(found[VARIABLES].compute(), expected[VARIABLES])
        xr.testing.assert_equal(
            found[["n", "mean", "loss"]]
            .drop_vars(["bin", "lower", "upper", "center"], errors="ignore")
            .compute(),
            dataset[["n", "mean", "loss"]],
        )
        assert found.counts.chunks == (((1, 1), (8,)) if chunks else None)

    def test_what_it_has_already_is_refused(self, dataset):
        for name in ("bound", "nan", "bin"):
            with pytest.raises(AxisError, match=f"has a '{name}' of its own: rename it first"):
                rebin(dataset.assign({name: 1.0}), VIEW)
        with pytest.raises(AxisError, match=r"has 'more' \[bucket\], too: drop it first"):
            rebin(dataset.assign(more=dataset.counts), VIEW)
        with pytest.raises(AxisError, match=r"needs the variable 'counts', got \['n'"):
            rebin(dataset.drop_vars("counts"), VIEW)
        with pytest.raises(AxisError, match="need the dim 'bucket'"):
            rebin(dataset.assign(counts=dataset.n), VIEW)

    def test_a_split_of_a_run_goes_in_whole(self, small_run):
        found = rebin(small_run["train"], VIEW)
        assert found.counts.dims == ("step", "layer", "bin")
        assert found.epoch.dims == ("step",)
        flow = found[VARIABLES[1:6]].to_array().sum("variable")
        xr.testing.assert_allclose(
            (found.counts.sum("bin") + flow).compute(), found.n.astype(float).compute(), rtol=1e-12
        )
        assert found.counts.chunksizes["step"] == small_run["train"].counts.chunksizes["step"]


def test_bin_values_is_numpy_with_the_flow(two_layers):
    values = np.array([[-2.0, -1.0, 0.0], [0.5, 1.0, 1.5], [np.nan, np.inf, -np.inf]], np.float32)
    found = bin_values(values, LinearAxis(-1, 1, 4))
    assert [*found.data_vars] == VARIABLES
    assert found.counts.values.tolist() == [1, 0, 1, 2]
    assert [float(found[name]) for name in VARIABLES[1:6]] == [1, 1, 1, 1, 1]
    assert bool(found.exact)
    assert not found.bound.any()
    xr.testing.assert_equal(
        found.coords.to_dataset(),
        rebin(two_layers[0], LinearAxis(-1, 1, 4)).coords.to_dataset().drop_vars("layer"),
    )
