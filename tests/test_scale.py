"""Large runs: the same numbers wherever they are computed, nothing read that is not asked for."""

from pathlib import Path

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback
from distributed import Client, LocalCluster

from actlab.axis import LinearAxis
from actlab.charts.columns import columns
from actlab.peaks import trend, twin_peaks
from actlab.rebinning import rebin
from actlab.run import open_run
from actlab.stats import count_moments, distances, fit_axis, pool_moments, quantile
from actlab.steps import by_column, by_epoch, oddest
from actlab.store import arrays, decoding
from actlab.store.compacting import compact
from actlab.store.layout import ArrayLayout
from actlab.store.merging import rank_path
from actlab.store.packing import pack

N_LAYERS, ROWS = 12, {"train": 43, "valid": 10}
AXIS = LinearAxis(-3, 3, 50)


@pytest.fixture(scope="module")
def write_run():
    """Return what writes a synthetic run, in chunks of 4 rows and tasks of 8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
        import synthetic

        patch.setattr(arrays, "_LARGEST_CHUNK", 1 << 20)
        patch.setattr(decoding, "_TASK", 3 << 19)
        yield synthetic.write_run


@pytest.fixture(scope="module")
def stores(write_run, tmp_path_factory):
    """Return the paths of a run, of the same one packed and compacted, and of one that two ranks recorded."""
    folder = tmp_path_factory.mktemp("runs")
    run, ranks = folder / "run.zarr", folder / "ranks.zarr"
    write_run(run, N_LAYERS, ROWS, n_epochs=2)
    for rank in (0, 1):
        said = {"rank": rank, "world_size": 2, "job": "a1"}
        write_run(rank_path(ranks, rank), N_LAYERS, ROWS, n_epochs=2, seed=rank, ranks=said, epochs="given")
    archive = folder / "archive.zarr.zip"
    pack(run, archive)
    compacted = folder / "compacted.zarr"
    compact(run, compacted)
    return {"directory": run, "archive": archive, "compacted": compacted, "ranks": ranks}


@pytest.fixture(scope="module")
def cluster():
    """Two processes of one thread each."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(processes=True, **options) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def decoded(monkeypatch):
    """Return a list, for each chunk of counts that is decoded the number of its columns."""
    found, decode = [], ArrayLayout.decode_columns

    def spy(layout, data, wanted):
        found.append(wanted.size)
        return decode(layout, data, wanted)

    monkeypatch.setattr(ArrayLayout, "decode_columns", spy)
    return found


LAZY = {
    "totals": lambda rows: rows.counts.sum("step"),
    "an epoch": lambda rows: rows.isel(step=rows.epoch.values == 1).counts.sum("step"),
    "some layers": lambda rows: rows.isel(layer=[7, 2, 3]),
    "rebin": lambda rows: rebin(rows.counts, AXIS),
    "rebin of a pool": lambda rows: rebin(rows.counts.sum("step"), AXIS),
    "quantile": lambda rows: quantile(rows.counts, [0.01, 0.5, 0.99]),
    "pool_moments": pool_moments,
    "count_moments": lambda rows: count_moments(rows.counts),
    "distances": lambda rows: distances(rows.counts[:-1], rows.counts[1:].assign_coords(step=rows.step[:-1])),
    "by_column": lambda rows: by_column(rows, 5),
    "by_epoch": lambda rows: by_epoch(rows, last_quarter=True),
    "oddest": lambda rows: oddest(rows, 5),
}
OF_A_RUN = {
    "totals": lambda run: run.totals("train"),
    "layers": lambda run: run.layers[["n"]].to_xarray(),
    "select": lambda run: run.select(layers=["block0.*"], epoch=1).counts.sum("step").compute(),
    "histogram": lambda run: run.histogram(AXIS, layer="block0.relu", epoch=1),
    "twin_peaks": twin_peaks,
    "trend": trend,
    "columns": lambda run: columns(run, AXIS, layers=run.names[:3], max_columns=7),
}
EVERYWHERE = [("directory", name) for name in LAZY]
EVERYWHERE += [
    (store, name) for store in ("archive", "ranks") for name in ("totals", "rebin", "pool_moments")
]


def check_equal(found, expected):
    """Integers are the same bit for bit, floats to 1e-12."""
    pair = (found, expected)
    found, expected = (each if isinstance(each, xr.Dataset) else each.to_dataset(name="it") for each in pair)
    assert found.variables.keys() == expected.variables.keys()
    for name, variable in expected.variables.items():
        assert found[name].dtype == variable.dtype
        if variable.dtype.kind == "f":
            np.testing.assert_allclose(found[name], variable, rtol=1e-12, atol=0)
        else:
            np.testing.assert_array_equal(found[name], variable)


class TestTheSameEverywhere:
    """On numpy, on threads, and on processes that share nothing."""

    @pytest.mark.parametrize(("store", "name"), EVERYWHERE)
    def test_of_lazy_arrays(self, stores, cluster, store, name):
        rows = open_run(stores[store])["train"]
        assert len(rows.counts.chunks[0]) > 4
        lazy = LAZY[name](rows)
        assert dask.is_dask_collection(lazy)
        expected = LAZY[name](rows.compute(scheduler="synchronous"))
        for scheduler in ("threads", cluster):
            check_equal(lazy.compute(scheduler=scheduler), expected)

    @pytest.mark.parametrize("name", OF_A_RUN)
    def test_of_a_run(self, stores, cluster, name):
        results = []
        for scheduler in ("synchronous", "threads", cluster):
            with dask.config.set(scheduler=scheduler):
                results.append(OF_A_RUN[name](open_run(stores["directory"])))
        for found in results[1:]:
            check_equal(found, results[0])

    @pytest.mark.parametrize("name", LAZY)
    def test_no_task_carries_more_than_its_own(self, stores, name):
        (lazy,) = dask.optimize(LAZY[name](open_run(stores["directory"])["train"]))
        sizes = {True: [0], False: []}  # of tasks that need others, and of what they share
        for task in dict(lazy.__dask_graph__()).values():
            sizes[bool(task.dependencies)].append(len(cloudpickle.dumps(task)))
        assert max(sizes[True]) < 1 << 13
        assert sum(sizes[False]) < 1 << 19


class TestSelecting:
    """What was not asked for is not decompressed."""

    @pytest.mark.parametrize("wanted", [["block1.bn"], ["block3.relu", "block0.conv", "block1.bn"]])
    def test_layers(self, stores, decoded, wanted):
        run = open_run(stores["directory"])
        picked = run.pick("train", wanted).compute()
        assert decoded == [len(wanted)] * 11
        xr.testing.assert_identical(picked, run["train"].sel(layer=wanted).compute())

    def test_an_epoch(self, stores, decoded):
        rows = open_run(stores["directory"])["train"]
        chosen = rows.epoch.values == 1  # rows from 21 on
        found = rows.counts.isel(step=chosen).compute()
        assert len(decoded) == 7  # from row 16 on, where a task begins
        np.testing.assert_array_equal(found, rows.counts.compute()[chosen])

    @pytest.mark.parametrize("store", ["archive", "compacted", "ranks"])
    def test_layers_however_they_are_stored(self, stores, store):
        run, wanted = open_run(stores[store]), ["block3.relu", "block0.conv"]
        for steps in (slice(None), slice(3, 17), 5):
            picked = run.pick("train", wanted).isel(step=steps)
            xr.testing.assert_identical(
                picked.compute(), run["train"].sel(layer=wanted).isel(step=steps).compute()
            )

    @pytest.mark.parametrize("store", ["directory", "archive", "compacted", "ranks"])
    @pytest.mark.parametrize("layers", [slice(0), slice(None, None, -1), [1, 0, 1], 1])
    @pytest.mark.parametrize("steps", [slice(0), slice(30, 3, -4), [7, 2, 2, -1], -1])
    def test_some_of_the_layers_selected(self, stores, store, steps, layers):
        run, wanted = open_run(stores[store]), ["block3.relu", "block0.conv"]
        part = {"step": steps, "layer": layers}
        picked, rows = run.pick("train", wanted), run["train"].sel(layer=wanted)
        xr.testing.assert_identical(picked.isel(part).compute(), rows.compute().isel(part))


@pytest.mark.parametrize("name", ["totals", "histogram", "twin_peaks", "trend"])
def test_progress_is_told_of_a_few_computations_not_of_each_row(stores, name):
    """What `dask.diagnostics.ProgressBar` shows: a bar for each."""
    started = []

    class Counter(Callback):
        def _start(self, dsk):
            started.append(len(dsk))

    with Counter():
        OF_A_RUN[name](open_run(stores["directory"]))
    assert 0 < len(started) < 30


class TestSyntheticRun:
    """It stands for a real one in the benchmarks."""

    def test_is_sound_and_the_same_for_the_same_seed(self, write_run, stores, tmp_path):
        run = open_run(stores["directory"], verify="rows")
        assert {split: run[split].sizes["step"] for split in run.splits} == ROWS
        assert run.epochs("train") == run.epochs("valid") == [0, 1]
        assert run["valid"].train_step.values.tolist() == [21] * 5 + [43] * 5
        for seed in (0, 1):
            write_run(tmp_path / f"{seed}.zarr", N_LAYERS, ROWS, n_epochs=2, seed=seed)
        again, other = (open_run(tmp_path / f"{seed}.zarr")["train"] for seed in (0, 1))
        np.testing.assert_array_equal(again.row_crc32c, run["train"].row_crc32c)
        assert not np.isin(other.row_crc32c, again.row_crc32c).any()

    def test_does_not_repeat_itself(self, stores):
        counts = open_run(stores["directory"])["train"].counts.values
        assert len(np.unique(counts.reshape(-1, counts.shape[-1]), axis=0)) == counts[..., 0].size

    def test_moments_are_those_of_the_counts(self, stores):
        rows = open_run(stores["directory"])["train"].compute()
        read = count_moments(rows.counts)
        np.testing.assert_array_equal(rows.n, read.n)
        np.testing.assert_allclose(rows["mean"], read["mean"], atol=1e-9)
        np.testing.assert_allclose(rows["std"], read["std"], rtol=1e-6)
        assert (rows["min"] <= rows["mean"]).all()
        assert (rows["mean"] <= rows["max"]).all()

    def test_range_and_shape_are_those_of_activations(self, stores):
        axis = fit_axis(open_run(stores["directory"]).totals("train"))
        assert 1 < axis.h_max < 100
