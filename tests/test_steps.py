"""Columns of batches, epochs and the oddest batch: nothing is lost, on numpy and on dask."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from actlab import steps
from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import SelectionError
from actlab.rebinning import rebin
from actlab.stats import pool_moments
from actlab.steps import grouping, merging, moments

AXIS = FloatAxis(mantissa_bits=1, min_exponent=-2, max_exponent=3)
MOMENTS = ("mean", "std", "min", "max")
WILD = [np.nan, np.inf, -np.inf, 0.0, 1e9]

epochs_of_rows = st.lists(st.integers(-1, 4), min_size=1, max_size=30)
chunk_lengths = st.lists(st.integers(1, 9), min_size=1, max_size=5)
fan_ins = st.sampled_from([2, 3, 16])


def _describe(values):
    finite = values[np.isfinite(values)]
    counts = np.bincount(AXIS.index(values), minlength=AXIS.n_buckets).astype(np.uint32)
    moments = [getattr(np, name)(finite) if finite.size else np.nan for name in MOMENTS]
    return counts, np.uint64(values.size), *moments


@pytest.fixture(scope="session")
def make_rows():
    """Return a function that makes rows of a split of two layers: as a dataset, and their values."""

    def make(epochs, seed=0):
        random = np.random.default_rng(seed)
        shape = (len(epochs), 2)
        values = np.empty(shape, object)
        for place in np.ndindex(shape):
            drawn = random.normal(random.normal(), 3, random.integers(0, 8))
            values[place] = np.append(drawn, random.choice(WILD, random.integers(0, 3)))
        table = [[_describe(each) for each in row] for row in values]
        variables = {
            name: (("step", "layer", "bucket")[: 3 if name == "counts" else 2], np.array(column))
            for name, column in zip(
                ("counts", "n", *MOMENTS),
                ([[each[i] for each in row] for row in table] for i in range(6)),
                strict=True,
            )
        }
        coords = {
            "step": 10 * np.arange(len(epochs)) + 5,
            "epoch": ("step", np.array(epochs)),
            "train_step": ("step", np.arange(len(epochs))),
            "layer": ["a", "b"],
            "lower": ("bucket", AXIS.lower),
            "upper": ("bucket", AXIS.upper),
        }
        return xr.Dataset(variables, coords), values

    return make


@pytest.fixture(scope="session")
def on_dask():
    """Return a function that puts rows on dask, the counts in chunks of these lengths over and over."""

    def put(ds, lengths):
        ends = np.minimum(np.cumsum(np.resize(lengths, ds.sizes["step"])), ds.sizes["step"])
        chunks = np.diff(np.unique(ends), prepend=0)
        return ds.chunk(step=4).assign(counts=ds["counts"].chunk(step=tuple(chunks.tolist())))

    return put


@pytest.fixture(scope="session")
def assert_same():
    """Return a function that asserts that what dask computes is what numpy has: counts to the last bit."""

    def check(lazy, found):
        assert all(dask.is_dask_collection(each.data) for each in lazy.data_vars.values())
        for name, each in lazy.compute(scheduler="synchronous").variables.items():
            assert each.dtype == found[name].dtype
            assert each.dims == found[name].dims
            if each.dtype.kind == "f" and name not in ("lower", "upper"):
                np.testing.assert_allclose(each, found[name], rtol=1e-12, atol=1e-12)
            else:
                np.testing.assert_array_equal(each, found[name])

    return check


@pytest.fixture(scope="session")
def assert_pooled():
    """Return a function that asserts that merged rows hold just these rows each, and their values."""

    def check(found, values, groups):
        arrays = {name: each.values for name, each in found.variables.items()}
        assert arrays["n_rows"].tolist() == [len(rows) for rows in groups]
        assert arrays["first_row"].tolist() == [rows[0] for rows in groups]
        for place in np.ndindex(len(groups), 2):
            single = values[groups[place[0]], place[1]]
            mine = np.concatenate(list(single))
            counts, n, *moments = _describe(mine)
            np.testing.assert_array_equal(arrays["counts"][place], counts)
            assert (arrays["n"][place], arrays["finite"][place]) == (n, np.isfinite(mine).sum())
            pooled = [arrays[name][place] for name in MOMENTS]
            np.testing.assert_allclose(pooled, moments, rtol=1e-9, atol=1e-12)
            of_rows = np.array([_describe(each)[2:4] for each in single])
            for name, column in zip(("mean", "std"), of_rows.T, strict=True):
                known = column[~np.isnan(column)]
                expected = [known.min(), known.max()] if known.size else [np.nan] * 2
                np.testing.assert_array_equal(
                    [arrays[f"{name}_{end}"][place] for end in ("min", "max")], expected
                )

    return check


class TestColumns:
    @settings(max_examples=60)
    @given(n_rows=st.integers(1, 30), k=st.integers(1, 31), lengths=chunk_lengths, fan_in=fan_ins)
    def test_hold_k_batches_each_and_nothing_is_lost(
        self, make_rows, on_dask, assert_same, assert_pooled, n_rows, k, lengths, fan_in
    ):
        rows, values = make_rows([0] * n_rows, n_rows)
        found = steps.by_column(rows, k)
        groups = [np.arange(start, min(start + k, n_rows)) for start in range(0, n_rows, k)]
        assert_pooled(found, values, groups)
        assert found["step"].values.tolist() == rows["step"].values[::k].tolist()
        assert found["counts"].sum() == rows["counts"].sum()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grouping, "_MOST_ROWS", fan_in)
            assert_same(steps.by_column(on_dask(rows, lengths), k), found)

    @given(n_rows=st.integers(1, 40), most=st.integers(1, 41))
    def test_are_as_few_as_wanted_with_the_smallest_k(self, make_rows, n_rows, most):
        rows, _ = make_rows([0] * n_rows)
        found = steps.by_column(rows, max_columns=most)
        k = next(k for k in range(1, n_rows + 1) if -(-n_rows // k) <= most)
        assert found.identical(steps.by_column(rows, k))

    def test_may_hold_the_end_of_an_epoch_and_the_start_of_the_next(self, make_rows):
        rows, _ = make_rows([0, 0, 0, 1, 1])
        found = steps.by_column(rows, 2)
        assert found["epoch"].values.tolist() == [0, 0, 1]
        assert found["n_rows"].values.tolist() == [2, 2, 1]

    @pytest.mark.parametrize("chosen", [{}, {"k": 2, "max_columns": 3}])
    def test_are_asked_for_in_one_way(self, make_rows, chosen):
        with pytest.raises(ValueError, match="give either k, the batches per column, or max_columns"):
            steps.by_column(make_rows([0])[0], **chosen)

    @pytest.mark.parametrize("chosen", [{"k": 0}, {"k": 1.5}, {"max_columns": -1}, {"k": True}])
    def test_hold_whole_batches(self, make_rows, chosen):
        with pytest.raises(ValueError, match="must be a whole number from 1, got"):
            steps.by_column(make_rows([0])[0], **chosen)


class TestEpochs:
    @settings(max_examples=60)
    @given(epochs=epochs_of_rows, quarter=st.booleans(), lengths=chunk_lengths, fan_in=fan_ins)
    def test_hold_all_their_rows_however_they_come(
        self, make_rows, on_dask, assert_same, assert_pooled, epochs, quarter, lengths, fan_in
    ):
        rows, values = make_rows(epochs, len(epochs))
        found = steps.by_epoch(rows, last_quarter=quarter)
        assert found["epoch"].values.tolist() == list(dict.fromkeys(epochs))
        groups = [np.flatnonzero(np.array(epochs) == label) for label in dict.fromkeys(epochs)]
        if quarter:
            groups = [rows_of[-int(np.ceil(rows_of.size / 4)) :] for rows_of in groups]
        assert_pooled(found, values, groups)
        if not quarter:
            assert found["counts"].sum() == rows["counts"].sum()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grouping, "_MOST_ROWS", fan_in)
            assert_same(steps.by_epoch(on_dask(rows, lengths), last_quarter=quarter), found)

    @settings(max_examples=20)
    @given(epochs=epochs_of_rows)
    def test_pool_moments_as_statistics_do(self, make_rows, epochs):
        rows, _ = make_rows(epochs)
        found = steps.by_epoch(rows)
        for label in dict.fromkeys(epochs):
            pooled = pool_moments(rows.isel(step=np.flatnonzero(np.array(epochs) == label)))
            for name, expected in pooled.data_vars.items():
                np.testing.assert_allclose(found[name].sel(epoch=label), expected, rtol=1e-9, atol=1e-12)

    def test_one_layer_is_merged_like_many(self, make_rows):
        rows, _ = make_rows([0, 1, 0, 1])
        for merge in (steps.by_epoch, lambda ds: steps.by_column(ds, 3), lambda ds: steps.oddest(ds, 3)):
            assert merge(rows.sel(layer="b")).equals(merge(rows).sel(layer="b"))
            assert merge(rows.chunk()).sel(layer="b").equals(merge(rows).sel(layer="b"))

    def test_are_those_of_a_run(self, small_run, small_batches):
        train = small_run["train"]
        epochs = steps.by_epoch(train)
        assert epochs["n_rows"].values.tolist() == [9, 9, 9]
        for epoch in range(3):
            batches = [batch["fc"] for label, batch, _ in small_batches["train"] if label == epoch]
            values = np.stack(batches).astype(np.float64)
            entry = epochs.sel(epoch=epoch, layer="fc").compute()
            expected = np.bincount(small_run.axis.index(values).ravel(), minlength=small_run.axis.n_buckets)
            np.testing.assert_array_equal(entry["counts"], expected)
            np.testing.assert_allclose([entry["mean"], entry["std"]], [values.mean(), values.std()])
        late = steps.by_epoch(train, last_quarter=True)
        assert late["n_rows"].values.tolist() == [3, 3, 3]
        assert late["step"].values.tolist() == [6, 15, 24]


class TestOddest:
    def naive(self, batches):
        """The definition, batch by batch: distances [row] of rows [row, bucket]."""
        for number, batch in enumerate(batches):
            rest = np.delete(batches, number, axis=0).sum(axis=0)
            known = batch.sum() > 0 and rest.sum() > 0
            yield np.abs(batch / batch.sum() - rest / rest.sum()).sum() / 2 if known else 0.0

    @given(n_rows=st.integers(1, 13), k=st.integers(1, 14), lengths=chunk_lengths, seed=st.integers(0, 99))
    def test_batch_is_that_of_the_definition(self, make_rows, on_dask, assert_same, n_rows, k, lengths, seed):
        rows, _ = make_rows([0] * n_rows, seed)
        found = steps.oddest(rows, k)
        for column, start in enumerate(range(0, n_rows, k)):
            for layer in range(2):
                expected = [*self.naive(rows["counts"].values[start : start + k, layer].astype(float))]
                entry = found.isel(column=column, layer=layer)
                assert float(entry["distance"]) == pytest.approx(max(expected), abs=1e-12)
                place = rows["step"].values.tolist().index(int(entry["step"])) - start
                assert expected[place] == pytest.approx(max(expected), abs=1e-12)
        assert_same(steps.oddest(on_dask(rows, lengths), k), found)

    def test_without_layers_there_is_none(self, make_rows, on_dask):
        rows = make_rows([0] * 5)[0].isel(layer=slice(0))
        for each in (rows, on_dask(rows, [2, 3])):
            assert steps.oddest(each, 2).compute().distance.shape == (3, 0)

    def test_a_batch_that_shares_no_bucket_is_at_distance_one(self, make_rows):
        rows, _ = make_rows([0] * 5)
        rows["counts"] = xr.zeros_like(rows["counts"])
        rows["counts"][..., 7] = 3
        rows["counts"].values[3, 1, [7, 9]] = 0, 11
        found = steps.oddest(rows, 5)
        assert found["distance"].values.tolist() == [[0, 1]]
        assert found["step"].values.tolist() == [[5, 35]]

    def test_large_counts_of_four_bytes_do_not_overflow(self, make_rows):
        rows, _ = make_rows([0] * 3)
        rows["counts"] = xr.full_like(rows["counts"], 2**32 - 1)
        assert not steps.oddest(rows, 3)["distance"].any()


class TestOnDask:
    @pytest.fixture
    def large(self):
        """Return a function that makes rows in chunks of 8, and a list of the chunks that were read."""

        def make(n_rows):
            read = []

            def chunk(block_info=None):
                read.append(block_info[None]["chunk-location"][0])
                return np.ones(block_info[None]["chunk-shape"], np.uint32)

            heights = (8,) * (n_rows // 8)
            counts = da.map_blocks(
                chunk, chunks=(heights, (3,), (10,)), dtype=np.uint32, meta=np.empty((0, 0, 0), np.uint32)
            )
            ones = da.ones((n_rows, 3), chunks=(256, 3))
            variables = dict.fromkeys(("n", *MOMENTS), (("step", "layer"), ones))
            coords = {"step": np.arange(n_rows), "epoch": ("step", np.arange(n_rows) // 100)}
            return xr.Dataset({"counts": (("step", "layer", "bucket"), counts), **variables}, coords), read

        return make

    MERGES = (
        lambda ds: steps.by_column(ds, 1),
        lambda ds: steps.by_column(ds, 20),
        lambda ds: steps.by_column(ds, max_columns=7),
        steps.by_epoch,
        lambda ds: steps.by_epoch(ds, last_quarter=True),
        lambda ds: steps.oddest(ds, 20),
    )

    @pytest.mark.parametrize("merge", MERGES)
    def test_nothing_is_read_before_and_every_chunk_once(self, large, merge):
        rows, read = large(1600)
        lazy = merge(rows)
        assert not read
        lazy.compute(scheduler="synchronous")
        assert len(read) == len(set(read)) > 0

    def test_what_needs_no_counts_reads_none(self, large):
        rows, read = large(160)
        steps.by_epoch(rows)[["n", "min", "max", "mean_min", "mean_max", "std_min", "std_max"]].compute()
        assert not read

    @pytest.mark.parametrize("merge", MERGES)
    def test_the_graph_is_small_and_grows_with_the_rows(self, large, merge):
        tasks = [len(dict(merge(large(n_rows)[0]).__dask_graph__())) for n_rows in (1600, 3200)]
        assert tasks[1] <= 2.1 * tasks[0]
        assert tasks[0] <= 25 * 200  # chunks

    def test_merging_takes_few_rows_at_a_time(self, large, monkeypatch):
        taken, add = [], grouping.add

        def watched(counts, starts):
            taken.append(len(counts))
            return add(counts, starts)

        monkeypatch.setattr("actlab.steps.merging.add", watched)
        rows, _ = large(1600)
        rows["epoch"] = xr.zeros_like(rows["epoch"])
        assert int(steps.by_epoch(rows)["counts"].sum()) == 1600 * 30
        assert max(taken) <= 16

    def test_empty_chunks_do_no_harm(self, make_rows, assert_same):
        rows, _ = make_rows([0, 0, 1])
        lazy = rows.chunk().assign(counts=rows["counts"].chunk(step=(0, 2, 0, 1, 0)))
        assert_same(steps.by_epoch(lazy), steps.by_epoch(rows))


@pytest.mark.parametrize(
    "merge", [steps.by_epoch, lambda ds: steps.by_column(ds, 2), lambda ds: steps.oddest(ds, 2)]
)
def test_what_is_no_split_is_one_clear_error(make_rows, merge):
    rows, _ = make_rows([0, 1])
    with pytest.raises(SelectionError, match=r"expected rows of a split, .*run\['train'\], .* lack counts"):
        merge(rows.drop_vars("counts"))
    with pytest.raises(SelectionError, match="they lack the dim 'step'"):
        merge(rows.isel(step=0))
    with pytest.raises(SelectionError, match="they lack the dim 'step'"):
        merge(steps.by_column(rows, 1))
    with pytest.raises(SelectionError, match="they lack the dim 'bucket'"):
        merge(rebin(rows, LinearAxis(-1, 1, 4)))
    with pytest.raises(SelectionError, match=r"such as .*, got a DataArray"):
        merge(rows["counts"])
    with pytest.raises(SelectionError, match="no rows to merge"):
        merge(rows.isel(step=[]))
    if merge is steps.by_epoch:
        with pytest.raises(SelectionError, match="lack epoch"):
            merge(rows.drop_vars("epoch"))


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=20))
def test_labels_are_numbered_in_the_order_they_come(labels):
    known, number = merging.in_order(np.array(labels))
    assert known == list(dict.fromkeys(labels))
    assert [known[position] for position in number] == labels


@given(st.integers(1, 50))
def test_the_last_quarter_is_rounded_up(n):
    quarter = merging.last_quarter(np.arange(n))
    assert quarter.size == np.ceil(n / 4)
    assert quarter[-1] == n - 1


@settings(max_examples=20)
@given(epochs=epochs_of_rows, k=st.integers(1, 4))
def test_groups_of_plain_arrays_are_pooled_likewise(make_rows, epochs, k):
    rows, _ = make_rows(epochs)
    columns = steps.by_column(rows, k)
    finite = (rows["n"] - rows["counts"][..., [0, -2, -1]].sum("bucket")).values.astype(float)
    pooled = moments.pool_groups(rows, finite, columns["first_row"].values)
    for name, values in pooled.items():
        np.testing.assert_array_equal(values.T, columns[name])
