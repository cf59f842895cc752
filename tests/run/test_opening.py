"""A run read back: what was recorded, and what is no run."""

import json
from pathlib import Path

import numpy as np
import pytest

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import SelectionError, StoreError
from actlab.rebinning import rebin
from actlab.run import Run, open_run
from actlab.store.writer import RunWriter

NAMES = ["input", "body.linear", "body.relu", "body.dropout", "wild", "fc"]


def head_of(batches, split, epoch=None):
    rows = [(layers["fc"], label) for known, layers, label in batches[split] if epoch in (None, known)]
    return np.concatenate([head for head, _ in rows]), np.concatenate([label for _, label in rows])


def test_a_run_knows_what_was_recorded(small_run):
    assert small_run.splits == ("train", "valid", "test")
    assert small_run.names == NAMES
    assert small_run.head == "fc"
    assert small_run.axis == FloatAxis()
    assert small_run.epochs("valid") == [-1, 0, 1, 2]
    assert small_run.attributes["model"] == "Small"


def test_splits_are_lazy_with_loaded_coordinates(small_run, small_batches):
    train = small_run["train"]
    assert train.counts.chunks is not None
    assert all(coordinate.chunks is None for coordinate in train.coords.values())
    assert train.epoch.values.tolist() == [epoch for epoch, *_ in small_batches["train"]]
    one = train.sel(layer="wild").isel(step=4)
    expected = np.bincount(FloatAxis().index(small_batches["train"][4][1]["wild"]), minlength=3592)
    np.testing.assert_array_equal(one.counts, expected)
    assert int(train.n.sel(layer="wild")[4]) == expected.sum()


def test_counts_rebin_without_ado(small_run):
    train = small_run["train"]
    view = rebin(train.sel(layer="fc").isel(step=train.epoch == 2).counts.sum("step"), LinearAxis(-4, 4, 50))
    assert float(view.counts.sum() + view.underflow + view.overflow) == pytest.approx(9 * 40)


def test_raw_outputs_know_their_step_and_epoch(small_run, small_batches):
    raw = small_run.raw("valid")
    head, label = head_of(small_batches, "valid")
    np.testing.assert_array_equal(raw["head"], head)
    np.testing.assert_array_equal(raw["label"], label)
    assert raw.step.dims == raw.epoch.dims == ("sample",)
    np.testing.assert_array_equal(raw.step, np.repeat(np.arange(12), 20))
    np.testing.assert_array_equal(raw.epoch, np.repeat([-1, 0, 1, 2], 60))


def test_totals_pool_a_split(small_run):
    np.testing.assert_array_equal(small_run.totals("train"), small_run["train"].counts.sum("step"))
    assert small_run.totals("train") is small_run.totals("train")


def test_an_empty_run_opens(tmp_path):
    with_nothing = RunWriter(tmp_path / "run.zarr", axis=FloatAxis(), attributes={}, fsync=False)
    with_nothing.close()
    run = open_run(tmp_path / "run.zarr")
    assert isinstance(run, Run)
    assert run.splits == ()
    assert run.layers.empty
    assert run.select_layers() == []
    with pytest.raises(SelectionError, match=r"no split 'train' in .*: there are none"):
        run["train"]


def test_no_run_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="no such run"):
        open_run(tmp_path / "none.zarr")


@pytest.mark.parametrize("table", [[{"kind": "Linear"}], ["fc"], [{"name": "fc", "shape": 3}]])
def test_a_damaged_table_of_layers_is_a_store_error(record_run, table):
    run = record_run({"train": [(0, {"fc": np.ones((2, 2))}, None)]}, ["fc"])
    root = Path(run.path) / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["actlab"]["layers"] = table
    root.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"run\.zarr: the table of layers is damaged") as caught:
        open_run(run.path)
    assert "\n" not in str(caught.value)


def test_entries_of_a_later_format_do_no_harm(record_run):
    run = record_run({"train": [(0, {"fc": np.ones((2, 2))}, None)]}, ["fc"])
    root = Path(run.path) / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["actlab"]["layers"][0]["parameters"] = 6
    root.write_text(json.dumps(document))
    assert open_run(run.path).layers.loc["fc", "shape"] == (2, 2)
