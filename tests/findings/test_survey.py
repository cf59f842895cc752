"""The facts: what is gathered of a run, and that reading on is the same as reading once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import actlab
from actlab.findings.facts import QUANTILES
from actlab.findings.survey import Survey
from actlab.run import open_run
from actlab.stats import default_range, quantile, total_variation
from actlab.store.writer import RunWriter


@pytest.fixture(scope="module")
def facts(small_run):
    return Survey(small_run).read()


class TestFacts:
    def test_moments_are_those_recorded(self, facts, small_run):
        for split in small_run.splits:
            for name in ("n", "mean", "std", "min", "max"):
                np.testing.assert_array_equal(facts.rows[split][name], small_run[split][name])

    def test_every_value_is_in_one_place(self, facts, small_run):
        for split, totals in facts.totals.items():
            xr.testing.assert_equal(
                totals.drop_vars(("lower", "upper")),
                small_run.totals(split).drop_vars(("lower", "upper")).astype(np.uint64),
            )

    def test_sums_are_those_of_the_values(self, facts, small_batches):
        for split, batches in small_batches.items():
            for row, (_, layers, _) in enumerate(batches):
                for name, values in layers.items():
                    one = facts.rows[split].isel(step=row).sel(layer=name)
                    assert one["zeros"] == (values == 0).sum()
                    assert one["nan"] == np.isnan(values).sum()
                    assert one["pos_inf"] == np.isposinf(values).sum()
                    assert one["samples"] == (len(values) if values.ndim > 1 else 0)

    def test_layers_never_called_are_left_out(self, facts, small_run):
        assert "body.dropout" in small_run.names
        assert "body.dropout" not in facts.layers.index

    def test_epochs(self, facts, small_run):
        found = facts.epochs["valid"]
        assert found["epoch"].values.tolist() == [-1, 0, 1, 2]
        assert found["rows"].values.tolist() == [3] * 4
        assert found["first_step"].values.tolist() == [0, 3, 6, 9]
        assert found["last_step"].values.tolist() == [2, 5, 8, 11]
        counts = small_run["valid"].counts.compute()
        pooled = [counts.isel(step=slice(start, start + 3)).sum("step") for start in (0, 3, 6, 9)]
        for place in (1, 2, 3):
            expected = total_variation(pooled[place], pooled[place - 1])
            np.testing.assert_allclose(found["moved"][place], expected, rtol=1e-12)
            np.testing.assert_array_equal(found["quantile"][place], quantile(pooled[place], QUANTILES))
        assert np.isnan(found["moved"][0]).all()

    def test_latest_is_the_last_epoch(self, facts, small_run):
        expected = small_run["valid"].counts.isel(step=slice(9, 12)).sum("step")
        np.testing.assert_array_equal(facts.latest["valid"], expected)

    def test_the_view_is_that_of_the_page(self, facts, small_run):
        assert (facts.view.h_min, facts.view.h_max) == default_range(small_run)

    def test_head_and_labels(self, facts):
        assert facts.head == "fc"
        assert facts.answers.sizes == {"split": 3, "epoch": 4, "unit": 2}
        assert facts.channels == {}

    def test_loss_is_the_one_that_was_logged(self, facts, small_run):
        np.testing.assert_array_equal(facts.loss("valid"), small_run["valid"]["log_loss"])

    def test_a_run_without_a_row(self, record_run):
        facts = Survey(record_run({}, ["fc"])).read()
        assert (facts.rows, facts.epochs, facts.latest) == ({}, {}, {})
        assert facts.loss("train") is None
        assert facts.view.n_bins == 200


def test_channels_of_a_long_run_are_thinned(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    with torch.no_grad(), actlab.Recorder(model, tmp_path / "run.zarr", fsync=False) as recorder:
        for step in range(50 * 8):
            with recorder.batch("train", epoch=step // 8):
                model(torch.randn(2, 4))
    run = open_run(tmp_path / "run.zarr")
    whole = Survey(run).read().channels["train"]
    assert whole.sizes["row"] == run.channels("train").sizes["row"] > 40
    monkeypatch.setattr("actlab.findings.facts._CHANNEL_BYTES", 1)
    thinned = Survey(run).read().channels["train"]
    assert thinned.sizes["row"] == 32
    assert thinned["step"].values[[0, -1]].tolist() == whole["step"].values[[0, -1]].tolist()


class TestReadingOn:
    @pytest.fixture
    def grow(self, tmp_path, small_axis, make_row):
        """Return a path and a function that commits rows there."""
        writer = RunWriter(tmp_path / "run.zarr", axis=small_axis, attributes={"head": "layer1"}, fsync=False)

        def commit(*steps, layers=3, split="train"):
            for step in steps:
                assert writer.append(make_row(step, split, layers=layers))
            writer.flush()

        yield tmp_path / "run.zarr", commit
        writer.close()

    def assert_same(self, one, other):
        assert one.rows.keys() == other.rows.keys()
        for split in other.rows:
            xr.testing.assert_identical(one.rows[split], other.rows[split])
            xr.testing.assert_identical(one.epochs[split], other.epochs[split])
            xr.testing.assert_identical(one.latest[split], other.latest[split])
            xr.testing.assert_identical(one.totals[split], other.totals[split])

    def test_is_the_same_as_reading_once(self, grow):
        path, commit = grow
        commit(0, 1, 2)
        run = open_run(path)
        survey = Survey(run)
        survey.read()
        commit(3, 4, 5, 6)
        commit(0, 1, split="valid")
        run.refresh()
        survey.read()
        commit(7, 8)
        run.refresh()
        self.assert_same(survey.read(), Survey(open_run(path)).read())

    def test_reads_only_what_is_new(self, grow):
        path, commit = grow
        commit(0, 1, 2)
        run, done = open_run(path), []
        survey = Survey(run)
        survey.read(lambda *rows: done.append(rows))
        assert done[-1] == (3, 3)
        survey.read(lambda *rows: done.append(rows))
        assert len(done) == 1
        commit(3)
        run.refresh()
        survey.read(lambda *rows: done.append(rows))
        assert done[-1] == (1, 1)

    def test_a_layer_that_comes_later(self, grow):
        path, commit = grow
        commit(0, 1)
        run = open_run(path)
        survey = Survey(run)
        survey.read()
        commit(2, 3, layers=5)
        run.refresh()
        self.assert_same(survey.read(), Survey(open_run(path)).read())

    def test_rows_that_a_resumed_training_replaced(self, tmp_path, small_axis, make_row):
        path = tmp_path / "run.zarr"
        options = {"axis": small_axis, "attributes": {"head": "layer1"}, "fsync": False}
        first = RunWriter(path, **options)
        assert all(first.append(replace(make_row(step), train_step=step)) for step in range(6))
        first.close()
        run = open_run(path)
        survey = Survey(run)
        survey.read()
        again = RunWriter(path, resume_step=4, **options)
        assert all(
            again.append(replace(make_row(step + 9), step=step, train_step=step)) for step in (4, 5, 6)
        )
        again.close()
        run.refresh()
        self.assert_same(survey.read(), Survey(open_run(path)).read())
