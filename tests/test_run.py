"""A run read back: what was recorded, what is asked of it, and every question it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import SelectionError, StoreError
from actlab.rebinning import rebin
from actlab.run import Run, open_run
from actlab.store.writer import RunWriter

VIEW = LinearAxis(-4, 4, 50)
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
    view = rebin(train.sel(layer="fc").isel(step=train.epoch == 2).counts.sum("step"), VIEW)
    assert float(view.counts.sum() + view.underflow + view.overflow) == pytest.approx(9 * 40)


def test_raw_outputs_know_their_step_and_epoch(small_run, small_batches):
    raw = small_run.raw("valid")
    head, label = head_of(small_batches, "valid")
    np.testing.assert_array_equal(raw["head"], head)
    np.testing.assert_array_equal(raw["label"], label)
    assert raw.step.dims == raw.epoch.dims == ("sample",)
    np.testing.assert_array_equal(raw.step, np.repeat(np.arange(12), 20))
    np.testing.assert_array_equal(raw.epoch, np.repeat([-1, 0, 1, 2], 60))


def test_layers_table(small_run):
    table = small_run.layers
    assert table.index.name == "name"
    assert [*table.columns] == ["kind", "description", "shape", "calls", "n", "never_called"]
    assert table.loc["fc", "shape"] == (20, 2)
    assert table.loc["fc", "n"] == (27 + 12 + 2) * 40
    assert table.index[table.never_called].tolist() == ["body.dropout"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (None, NAMES),
        ([], NAMES),
        ("fc", ["fc"]),
        ("body.*", ["body.linear", "body.relu", "body.dropout"]),
        (["fc", "*relu"], ["body.relu", "fc"]),
        (["body.*", "!*.dropout"], ["body.linear", "body.relu"]),
        ("!body.*", ["input", "wild", "fc"]),
        ("?c", ["fc"]),
    ],
)
def test_select_layers(small_run, patterns, expected):
    assert small_run.select_layers(patterns) == expected


def test_a_name_also_means_its_members(record_run):
    values = np.ones(3)
    names = ["encoder:0", "encoder:hidden", "encoder2", "list[0]"]
    run = record_run({"train": [(0, dict.fromkeys(names, values), None)]}, names, head=None, raw=False)
    assert run.select_layers("encoder") == ["encoder:0", "encoder:hidden"]
    assert run.select_layers("encoder:0") == ["encoder:0"]
    assert run.select_layers("list[0]") == ["list[0]"]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run["trian"], "no split 'trian' in .*run.zarr: did you mean 'train'?"),
        (lambda run: run.raw("dev"), "no split 'dev' in .*: valid names: 'train', 'valid', 'test'"),
        (lambda run: run.rows("train", 9), "no epoch 9 in split 'train': valid names: '0', '1', '2'"),
        (lambda run: run.select_layers(["fc", "boby.*"]), "no layer 'boby.*' in .*did you mean 'body"),
        (lambda run: run.select_layers(["fc", "!fc"]), r"no layer left by \['fc', '!fc'\]"),
        (lambda run: run.histogram(VIEW, layer="fd"), "no layer 'fd' in .*did you mean 'fc'?"),
        (lambda run: run.histogram(VIEW, layer="fc", split="val"), "no split 'val'"),
        (lambda run: run.histogram(VIEW, layer="fc", epoch=-1), "no epoch -1 in split 'train'"),
        (lambda run: run.histogram(VIEW, layer="fc", label=2), "no sample of label 2"),
        (lambda run: run.histogram(VIEW, layer="fc", unit=2), "no unit 2: the head has units 0 to 1"),
        (lambda run: run.histogram(VIEW, layer="fc", unit=-1), "no unit -1"),
        (lambda run: run.histogram(VIEW, layer="wild", unit=0), "label and unit need raw outputs"),
    ],
)
def test_what_the_run_does_not_hold_is_one_clear_error(small_run, ask, message):
    with pytest.raises(SelectionError, match=message) as caught:
        ask(small_run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("epoch", [None, 2])
@pytest.mark.parametrize("label", [None, 1])
@pytest.mark.parametrize("unit", [None, 0])
def test_histogram_of_the_head_is_exact(small_run, small_batches, epoch, label, unit):
    found = small_run.histogram(VIEW, layer="fc", split="valid", epoch=epoch, label=label, unit=unit)
    head, labels = head_of(small_batches, "valid", epoch)
    head = head if label is None else head[labels == label]
    head = head if unit is None else head[:, unit]
    np.testing.assert_array_equal(found.counts, np.histogram(head.astype(np.float64), VIEW.edges)[0])
    assert float(found.counts.sum() + found.underflow + found.overflow) == head.size
    assert bool(found.exact)


def test_histogram_of_another_layer_is_rebinned_from_pooled_counts(small_run, small_batches):
    found = small_run.histogram(VIEW, layer="wild", epoch=1)
    rows = [layers["wild"] for epoch, layers, _ in small_batches["train"] if epoch == 1]
    counts = small_run["train"].counts.sel(layer="wild", drop=True).isel(step=slice(9, 18)).sum("step")
    xr.testing.assert_identical(found, rebin(counts, VIEW).compute())
    true = np.histogram(np.concatenate(rows), VIEW.edges)[0]
    assert (np.abs(found.counts - true) <= found.bound + 1e-9).all()
    assert [float(found[name]) for name in ("neg_inf", "pos_inf", "nan")] == [9, 9, 9]


def test_head_without_raw_outputs_falls_back_on_counts(record_run, small_batches, small_run):
    run = record_run({"valid": small_batches["valid"]}, NAMES, raw=False)
    assert run.raw("valid") is None
    found = run.histogram(VIEW, layer="fc", split="valid")
    exact = small_run.histogram(VIEW, layer="fc", split="valid")
    assert not bool(found.exact)
    assert (np.abs(found.counts - exact.counts) <= found.bound + 1e-9).all()
    with pytest.raises(SelectionError, match="label and unit need raw outputs"):
        run.histogram(VIEW, layer="fc", split="valid", label=1)


def test_raw_outputs_of_some_rows_only_do_not_pass_for_all(record_run):
    values = np.array([[1.0], [2.0]])
    rows = [(0, {"fc": values}, None), (0, {"fc": np.repeat(values, 2, axis=0)}, None)]
    run = record_run({"train": rows}, ["fc"], raw=lambda index: index == 0)
    assert run.raw("train").sizes["sample"] == 2
    assert float(run.histogram(VIEW, layer="fc").counts.sum()) == 6


def test_multi_hot_labels(record_run):
    head = np.array([[1.0, -1.0, 2.0], [0.5, 3.0, -2.0]])
    label = np.array([[1, 0, 1], [1, -100, 0]])
    run = record_run({"train": [(0, {"fc": head}, label)]}, ["fc"])
    assert float(run.histogram(VIEW, layer="fc", label=0).counts.sum()) == 6
    assert float(run.histogram(VIEW, layer="fc", label=2, unit=0).counts.sum()) == 1
    with pytest.raises(SelectionError, match="no sample of label 1 "):
        run.histogram(VIEW, layer="fc", label=1)
    with pytest.raises(SelectionError, match="no sample of label 3 "):
        run.histogram(VIEW, layer="fc", label=3)


def test_a_run_without_labels_says_so(record_run):
    run = record_run({"train": [(0, {"fc": np.ones((2, 2))}, None)]}, ["fc"])
    with pytest.raises(SelectionError, match="recorded without labels"):
        run.histogram(VIEW, layer="fc", label=0)


def test_totals_pool_a_split(small_run):
    np.testing.assert_array_equal(small_run.totals("train"), small_run["train"].counts.sum("step"))
    assert small_run.totals("train") is small_run.totals("train")


def test_repr_says_what_how_much_and_what_is_missing(small_run, record_run):
    assert repr(small_run).splitlines() == [
        f"<actlab.Run {small_run.path}>",
        "  Small: 6 layers, head 'fc'",
        "  train: 27 rows, epochs 0 to 2, raw outputs of the head with labels",
        "  valid: 12 rows, epochs -1 to 2, raw outputs of the head with labels",
        "  test: 2 rows, epoch 2, raw outputs of the head with labels",
        "  missing: layers never called (body.dropout)",
    ]
    bare = record_run({"train": [(0, {"fc": np.ones((2, 2))}, None)]}, ["fc"], raw=False, closed=False)
    assert repr(bare).splitlines()[2:] == [
        "  train: 1 row, epoch 0, counts only",
        "  missing: split 'valid'; split 'test'; the end (the run is not closed)",
    ]


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
