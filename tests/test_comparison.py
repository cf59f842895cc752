"""Runs side by side: what they share is compared, and what one lacks is said."""

from pathlib import Path

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import actlab
from actlab import comparison, stats, steps
from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError, SelectionError
from actlab.rebinning import rebin
from actlab.store.merging import rank_path

VIEW = LinearAxis(-2, 2, 20)
DISTANCES = ("total_variation", "jensen_shannon", "wasserstein", "kolmogorov_smirnov", "psi")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Return a function that trains a tiny model, 6 batches an epoch, and returns the run."""

    def run(name, seed=0, n_epochs=3, extra=False, path=None, first=0, **options):
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        parts = {"one": nn.Linear(4, 16), "relu": nn.ReLU()}
        parts |= {"extra": nn.Linear(16, 16)} if extra else {}
        model = nn.Sequential()
        for key, part in (parts | {"out": nn.Linear(16, 2)}).items():
            model.add_module(key, part)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        path = path or tmp_path_factory.mktemp("runs") / f"{name}.zarr"
        with actlab.Recorder(model, path, **options) as recorder:
            for epoch in range(first, n_epochs):
                random = torch.Generator().manual_seed(epoch)
                for split, n_batches in (("train", 6), ("valid", 2)):
                    for _ in range(n_batches):
                        x = torch.randn(32, 4, generator=random)
                        y = (x.sum(1) > 0).long()
                        with recorder.batch(split, epoch=epoch, labels=y):
                            loss = nn.functional.cross_entropy(model(x), y)
                        if split == "train":
                            optimizer.zero_grad()
                            loss.backward()
                            optimizer.step()
        return actlab.open_run(path)

    return run


@pytest.fixture(scope="module")
def one(train):
    return train("one")


@pytest.fixture(scope="module")
def two(train):
    """Return the same training with another seed."""
    return train("two", seed=1)


@pytest.fixture(scope="module")
def pair(one, two):
    return actlab.compare([one, two], axis=VIEW)


def values_of(found):
    return {name: found[name] for name in ("difference", *DISTANCES)}


class TestTwoSeeds:
    def test_lie_side_by_side_on_the_same_bins(self, pair, one, two):
        assert pair.run.values.tolist() == ["one", "two"]
        assert pair.layer.values.tolist() == one.names
        assert pair.epoch.values.tolist() == [0, 1, 2]
        assert pair.counts.dims == ("run", "layer", "epoch", "bin")
        assert pair.total_variation.dims == ("run", "layer", "epoch")
        np.testing.assert_array_equal(pair.bin, VIEW.centers)
        assert pair.attrs["missing"] == "nothing"
        assert (pair.n_rows == 6).all()

    def test_counts_are_pooled_first_and_then_rebinned(self, pair, one, two):
        for position, run in enumerate((one, two)):
            epochs = steps.by_epoch(run["train"])
            expected = rebin(epochs["counts"], VIEW).compute()
            for name, each in expected.data_vars.items():
                np.testing.assert_array_equal(pair[name].isel(run=position).transpose(*each.dims), each)
            for name in ("n", "finite", "mean", "std", "min", "max"):
                mine = pair[name].isel(run=position).transpose("epoch", "layer")
                np.testing.assert_array_equal(mine, epochs[name])

    def test_shares_count_all_values(self, pair):
        ends = ("underflow", "overflow", "neg_inf", "pos_inf", "nan")
        total = pair.share.sum("bin") + sum(pair[name] for name in ends) / pair.n
        np.testing.assert_allclose(total, 1, rtol=1e-12)

    def test_differences_and_distances_are_those_from_the_first(self, pair, one, two):
        shares = pair.share.values
        np.testing.assert_array_equal(pair.difference, shares - shares[:1])
        first, second = (steps.by_epoch(run["train"])["counts"] for run in (one, two))
        for name, expected in stats.distances(first, second).compute().data_vars.items():
            np.testing.assert_array_equal(pair[name].sel(run="two").transpose(*expected.dims), expected)
            assert (pair[name].sel(run="two", layer="one") > 0).all()
            assert not pair[name].sel(run="one").any()

    def test_the_input_was_the_same(self, pair):
        assert all(not each.sel(layer="input").any() for each in values_of(pair).values())

    def test_are_lazy(self, pair):
        assert all(dask.is_dask_collection(each.data) for each in pair.data_vars.values())

    def test_are_compared_in_validation(self, one, two):
        found = actlab.compare([one, two], axis=VIEW, split="valid")
        assert (found.n_rows == 2).all()
        expected = rebin(one.select("valid", epoch=1)["counts"].sum("step"), VIEW)
        np.testing.assert_array_equal(found.counts.sel(epoch=1, run="one"), expected.counts)


class TestBins:
    def test_fit_all_runs_by_default(self, one, two):
        found = actlab.compare([one, two])
        totals = one.totals("train") + two.totals("train")
        axis = stats.fit_axis(totals, range="symmetric")
        assert [found.attrs[name] for name in ("h_min", "h_max", "n_bins")] == [axis.h_min, axis.h_max, 200]

    def test_are_those_of_a_range(self, one, two):
        found = actlab.compare([one, two], range="p0")
        assert not (found.underflow + found.overflow).any()

    def test_may_be_different_for_each_layer(self, one, two):
        axes = {name: LinearAxis(-1 - place, 1, 10) for place, name in enumerate(one.names)}
        found = actlab.compare([one, two], axis=axes)
        for name, axis in axes.items():
            alone = actlab.compare([one, two], axis=axis, layers=name)
            np.testing.assert_array_equal(found.share.sel(layer=name), alone.share.sel(layer=name))


def test_a_run_does_not_differ_from_itself(one):
    for by in ("epoch", "step", 4):
        found = actlab.compare([one, one, one.path], by=by).compute()
        assert found.run.values.tolist() == ["one", "one (2)", "one (3)"]
        assert all(not each.any() and not each.isnull().any() for each in values_of(found).values())


class TestWhatOneLacks:
    def test_layers(self, one, two, train):
        deep = train("deep", extra=True)
        found = actlab.compare({"first": one, "second": two, "deep": deep}, axis=VIEW)
        assert found.layer.values.tolist() == one.names
        assert found.attrs["missing_layers"] == {"first": ["extra"], "second": ["extra"], "deep": []}
        assert found.attrs["missing"] == "first lacks layer extra; second lacks layer extra"
        assert found.sizes["run"] == 3

    def test_layers_that_were_asked_for(self, one, train):
        deep = train("deep", extra=True)
        found = actlab.compare([one, deep], axis=VIEW, layers=["extra", "o*", "!out"])
        assert found.layer.values.tolist() == ["one"]
        assert found.attrs["missing_layers"] == {"one": ["extra"], "deep": []}
        with pytest.raises(SelectionError, match=r"no layer is in all runs: one has none; deep has extra"):
            actlab.compare([one, deep], axis=VIEW, layers="extra")
        with pytest.raises(
            SelectionError, match=r"no layer 'exrta' in any of the runs: did you mean 'extra'"
        ):
            actlab.compare([one, deep], axis=VIEW, layers=["exrta", "one"])

    def test_epochs(self, one, train):
        short = train("short", n_epochs=1)
        found = actlab.compare([short, one], axis=VIEW)
        assert found.epoch.values.tolist() == [0]
        assert found.attrs["missing"] == "short lacks epochs 1, 2"
        assert found.attrs["missing_epochs"] == {"short": [1, 2], "one": []}
        assert all(not each.any() for each in values_of(found).values())  # the same seed so far

    def test_epochs_in_another_order(self, record_run):
        random = np.random.default_rng(3)
        runs = [
            record_run(
                {"train": [(epoch, {"fc": random.normal(size=(9, 2))}, None) for epoch in order]}, ["fc"]
            )
            for order in ([1, 0, 2, 1], [0, 1, 3])
        ]
        found = actlab.compare(dict(zip("ab", runs, strict=True)), axis=VIEW)
        assert found.epoch.values.tolist() == [1, 0]
        assert found.n_rows.values.tolist() == [[2, 1], [1, 1]]
        assert found.attrs["missing"] == "a lacks epoch 3; b lacks epoch 2"
        mine = runs[1]["train"]["counts"].isel(step=[1, 0])
        expected = rebin(mine, VIEW).counts.transpose("layer", "step", "bin")
        np.testing.assert_array_equal(found.counts.sel(run="b"), expected)

    def test_steps(self, one, train):
        thin = train("thin", every=4)
        assert thin["train"].step.values.tolist() == [0, 4, 8, 12, 16]
        found = actlab.compare([one, thin], axis=VIEW, by="step")
        assert found.step.values.tolist() == [0, 4, 8, 12, 16]
        assert found.attrs["missing"] == "thin recorded 1 step in 4"
        assert found.attrs["lacks"] == {"one": [], "thin": ["recorded 1 step in 4"]}
        assert all(not each.any() for each in values_of(found).values())  # the same seed
        columns = actlab.compare([one, thin], axis=VIEW, by=2)
        assert columns.step.values.tolist() == [0, 8, 16]
        assert columns.n_rows.values.tolist() == [[2, 2, 1]] * 2
        assert all(not each.any() for each in values_of(columns).values())

    @pytest.mark.parametrize(
        ("mine", "said"),
        [
            (range(0, 1000, 10), ["recorded 1 step in 10"]),
            (range(500), ["lacks steps 500 to 999"]),
            (range(0, 500, 10), ["recorded 1 step in 10", "lacks steps 500 to 999"]),
            (range(20, 1000, 20), ["recorded 1 step in 20", "lacks steps 0 to 19"]),
            ([step for step in range(1000) if step not in (3, 7, 8)], ["lacks steps 3, 7, 8"]),
            ([step for step in range(1000) if step != 3], ["lacks step 3"]),
            ([step for step in range(1000) if step % 4 < 2], ["lacks 500 of 1,000 steps"]),
            ([0, 600, 1], ["lacks steps 2 to 599, 601 to 999"]),
            (range(1000), []),
        ],
    )
    def test_steps_of_a_long_run_are_told_in_few_words(self, mine, said):
        has = {"mine": list(mine), "all": list(range(1000))}
        assert comparison._lacking_numbers("step", has, "mine") == said
        assert comparison._lacking_numbers("step", has, "all") == []

    def test_steps_that_no_run_has_are_not_told(self):
        has = {"short": list(range(0, 500, 10)), "long": list(range(0, 1000, 10))}
        assert comparison._lacking_numbers("step", has, "short") == ["lacks steps 500 to 990"]

    def test_values(self, record_run):
        rows = [(0, {"fc": np.ones((2, 2))}, None)]
        runs = [record_run({"train": rows}, names) for names in (["fc"], ["fc", "never"])]
        runs.append(
            record_run({"train": [(0, {"fc": np.ones((2, 2)), "never": np.ones(3)}, None)]}, ["fc", "never"])
        )
        found = actlab.compare({"a": runs[1], "b": runs[2]}, axis=VIEW).sel(layer="never").compute()
        assert found.n.values.ravel().tolist() == [0, 3]
        assert found.share.sel(run="a").isnull().all()
        assert all(each.sel(run="b").isnull().all() for each in values_of(found).values())


@pytest.fixture(scope="module")
def resumed(train):
    """Return a training of two epochs that went on, once more, from the end of the first."""
    run = train("resumed", n_epochs=2)
    return train("resumed", path=Path(run.path), first=1, resume=True, resume_step=6)


class TestResumed:
    def test_rows_that_were_replaced_do_not_count(self, resumed, one):
        found = actlab.compare([one, resumed], axis=VIEW)
        assert found.epoch.values.tolist() == [0, 1, 2]
        assert (found.n_rows == 6).all()
        assert not found.difference.sel(epoch=0).any()
        assert (found.total_variation.sel(run="resumed", layer="out", epoch=1) > 0).all()

    def test_of_a_step_recorded_twice_the_last_counts(self, resumed):
        every = actlab.open_run(resumed.path, all_attempts=True)
        assert every["train"].sizes["step"] == resumed["train"].sizes["step"] + 6
        found = actlab.compare([resumed, every], axis=VIEW, by="step")
        assert found.attrs["missing"] == "nothing"
        assert all(not each.any() for each in values_of(found).values())


def test_merged_ranks_are_one_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import synthetic

    size = {"n_layers": 2, "rows": {"train": 6}, "n_epochs": 2}
    parts = []
    for rank in (0, 1):
        said = {"rank": rank, "world_size": 2, "job": "a1"}
        path = rank_path(tmp_path / "ranks.zarr", rank)
        synthetic.write_run(path, **size, seed=rank, ranks=said, epochs="given")
        synthetic.write_run(tmp_path / f"part{rank}.zarr", **size, seed=rank)
        parts.append(tmp_path / f"part{rank}.zarr")
    found = actlab.compare([tmp_path / "ranks.zarr", *parts], range="p0").compute()
    assert found.run.values.tolist() == ["ranks", "part0", "part1"]
    np.testing.assert_array_equal(found.n[0], found.n[1] + found.n[2])
    assert (found.total_variation[1:] > 0).all()


class TestRecordingAxes:
    @given(
        values=st.lists(st.floats(width=32), max_size=40),
        one=st.tuples(st.integers(1, 7), st.integers(-24, 0), st.integers(0, 31)),
        two=st.tuples(st.integers(1, 7), st.integers(-24, 0), st.integers(0, 31)),
        lazy=st.booleans(),
    )
    def test_are_brought_to_the_coarser_without_error(self, values, one, two, lazy):
        axes = [FloatAxis(*one), FloatAxis(*two)]
        coarse = comparison._coarsest(axes)
        expected = np.bincount(coarse.index(values), minlength=coarse.n_buckets)
        for axis in axes:
            counts = np.bincount(axis.index(values), minlength=axis.n_buckets).astype(np.uint64)
            coords = {"lower": ("bucket", axis.lower), "upper": ("bucket", axis.upper)}
            array = xr.DataArray(counts, coords, ("bucket",))
            found = comparison._coarsen(array.chunk() if lazy else array, axis, coarse)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(found.lower, coarse.lower)
            np.testing.assert_array_equal(found.upper, coarse.upper)

    def test_of_runs_may_differ(self, one, train):
        coarse = train("coarse", axis=FloatAxis(mantissa_bits=3, min_exponent=-10, max_exponent=40))
        for by in ("epoch", 5):
            found = actlab.compare([one, coarse], by=by).compute()
            assert all(not each.any() for each in values_of(found).values())  # the same seed

    def test_that_share_nothing_are_refused(self, train):
        runs = [
            train("low", n_epochs=1, axis=FloatAxis(max_exponent=-5)),
            train("high", n_epochs=1, axis=FloatAxis(min_exponent=0)),
        ]
        with pytest.raises(AxisError, match="axes that share no exponent: -24 to -5, 0 to 31"):
            actlab.compare(runs, axis=VIEW)


class TestNames:
    @pytest.mark.parametrize(
        ("paths", "names"),
        [
            (["runs/a.zarr", "runs/b.zarr.zip"], ["a", "b"]),
            (["x/run.zarr", "y/run.zarr"], ["x/run", "y/run"]),
            (["x/run.zarr", "y/run.zarr", "x/run.zarr"], ["x/run", "y/run", "x/run (2)"]),
            (["run.zarr", "y/run.zarr"], ["run", "y/run"]),
            (["s3://b/run.zarr", "s3://b/run.zarr"], ["run", "run (2)"]),
            (["run.zarr", "run.zarr.zip"], ["run", "run (2)"]),
        ],
    )
    def test_are_the_ends_of_the_paths(self, paths, names):
        assert comparison._names(paths) == names

    def test_may_be_given(self, one, two):
        found = actlab.compare({"calm": one, "hot": two.path}, axis=VIEW)
        assert found.run.values.tolist() == ["calm", "hot"]
        assert found.total_variation.sel(run="hot").notnull().all()


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda a, b: actlab.compare([a]), SelectionError, "at least two runs"),
        (lambda a, b: actlab.compare(a.path), SelectionError, "at least two runs"),
        (lambda a, b: actlab.compare(a), SelectionError, "at least two runs"),
        (lambda a, b: actlab.compare(5), SelectionError, "at least two runs"),
        (
            lambda a, b: actlab.compare({"a": a, "b": b}, split="test"),
            SelectionError,
            "split 'test' is not in all runs: a has train, valid; b has train",
        ),
        (
            lambda a, b: actlab.compare({"a": a, "b": b}),
            SelectionError,
            "no layer is in all runs: a has input, one, relu, out; b has fc",
        ),
        (
            lambda a, b: actlab.compare([a, a], by="epcoh"),
            SelectionError,
            "by 'epcoh', only by 'epoch', 'step' or a whole number: did you mean 'epoch'",
        ),
        (lambda a, b: actlab.compare([a, a], by=None), SelectionError, "cannot compare by None, only by"),
        (lambda a, b: actlab.compare([a, a], by=2.5), SelectionError, "cannot compare by 2.5, only by"),
        (lambda a, b: actlab.compare([a, a], by=0), ValueError, "whole number from 1, got 0"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_error(one, record_run, ask, error, message):
    other = record_run({"train": [(7, {"fc": np.ones((2, 2))}, None)]}, ["fc"])
    with pytest.raises(error, match=message) as caught:
        ask(one, other)
    assert "\n" not in str(caught.value)


def test_no_epoch_in_common_names_those_of_each(record_run):
    runs = {
        name: record_run({"train": [(epoch, {"fc": np.ones((2, 2))}, None)]}, ["fc"])
        for name, epoch in (("a", 0), ("b", 7))
    }
    with pytest.raises(SelectionError, match="no epoch is in all runs: a has 0; b has 7"):
        actlab.compare(runs, axis=VIEW)
    assert actlab.compare(runs, axis=VIEW, by="step").step.values.tolist() == [0]
