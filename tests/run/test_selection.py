"""Layers, rows and epochs of a run, and every question it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from actlab.axis import LinearAxis
from actlab.errors import SelectionError
from actlab.run import open_run
from actlab.schema import LayerInfo
from actlab.store.writer import RunWriter

VIEW = LinearAxis(-4, 4, 50)
NAMES = ["input", "body.linear", "body.relu", "body.dropout", "wild", "fc"]


def test_layers_table(small_run):
    table = small_run.layers
    assert table.index.name == "name"
    assert [*table.columns] == [
        "kind",
        "description",
        "shape",
        "calls",
        "depth",
        "n",
        "never_called",
        "skipped",
    ]
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


def test_layers_say_why_outputs_were_skipped(record_run):
    run = record_run({"train": [(0, {"fc": np.ones((2, 2))}, None)]}, ["fc", "embed"])
    assert run.layers["skipped"].tolist() == ["", ""]
    root = Path(run.path) / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["actlab"]["skipped"] = {"embed": "its outputs are int64", "gone": "?"}
    root.write_text(json.dumps(document))
    assert open_run(run.path).layers["skipped"].tolist() == ["", "its outputs are int64"]


KINDS = {
    "input": "",
    "stem.conv": "Conv2d",
    "stem.conv:hidden.state": "Conv2d",
    "body.0.conv": "Conv2d",
    "body.0.norm": "BatchNorm2d",
    "body.1.relu": "ReLU",
    "fc": "Linear",
}


@pytest.fixture(scope="module")
def deep_run(tmp_path_factory, make_row, small_axis):
    """A run of layers of several kinds and depths, every 10th batch recorded, some dropped, then resumed."""
    path = tmp_path_factory.mktemp("deep") / "run.zarr"
    layers = tuple(LayerInfo(name, kind) for name, kind in KINDS.items())
    for start, steps in ((0, range(0, 120, 10)), (80, range(80, 160, 10))):
        writer = RunWriter(
            path, axis=small_axis, attributes={}, fsync=False, resume=start > 0, resume_step=start or None
        )
        for step in steps:
            row = make_row(step, layers=len(KINDS), logs=(), samples=None)
            if step not in (30, 40):
                assert writer.append(replace(row, layers=layers, train_step=step, epoch=step // 40))
        writer.close()
    root = path / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["actlab"]["gaps"] = {"train": [[30, 40]]}
    root.write_text(json.dumps(document))
    return open_run(path)


class TestLayers:
    def test_depth_counts_the_parts_of_a_name_without_its_member(self, deep_run):
        assert deep_run.layers["depth"].tolist() == [1, 2, 2, 3, 3, 3, 1]
        assert deep_run.layers["depth"].dtype == np.int64

    @pytest.mark.parametrize(
        ("ask", "expected"),
        [
            ({"kind": "Conv*"}, ["stem.conv", "stem.conv:hidden.state", "body.0.conv"]),
            ({"kind": ["Linear", "ReLU"]}, ["body.1.relu", "fc"]),
            ({"kind": ["*2d", "!Batch*"]}, ["stem.conv", "stem.conv:hidden.state", "body.0.conv"]),
            ({"kind": "!*2d"}, ["input", "body.1.relu", "fc"]),
            ({"depth": 1}, ["input", "fc"]),
            ({"depth": np.int64(3)}, ["body.0.conv", "body.0.norm", "body.1.relu"]),
            ({"depth": (1, 2)}, ["input", "stem.conv", "stem.conv:hidden.state", "fc"]),
            ({"patterns": "body.*", "kind": "Conv*"}, ["body.0.conv"]),
            ({"patterns": "!stem.*", "kind": "Conv*", "depth": (2, 9)}, ["body.0.conv"]),
            ({"patterns": ("fc", "input"), "depth": 1}, ["input", "fc"]),
        ],
    )
    def test_are_selected_by_name_kind_and_depth(self, deep_run, ask, expected):
        assert deep_run.select_layers(**ask) == expected

    @pytest.mark.parametrize(
        ("ask", "message"),
        [
            ({"kind": "Conv"}, "no layer of kind 'Conv' in .*run.zarr: did you mean 'Conv2d'"),
            ({"kind": ["*2d", "!Relu"]}, "no layer of kind 'Relu' in .*: did you mean 'ReLU'"),
            ({"depth": 7}, "no layer of depth 7 in .*: did you mean 3[?] known: 1 to 3"),
            ({"depth": (4, 9)}, "no layer of depth 4 to 9 in .*: did you mean 3"),
            ({"patterns": "fc", "kind": "Conv*"}, "no layer left by 'fc', kind 'Conv[*]' in"),
            ({"kind": ["ReLU", "!ReLU"]}, r"no layer left by kind \['ReLU', '!ReLU'\] in"),
            ({"patterns": 3}, "layer must be a name or a pattern, got 3"),
            ({"patterns": ["fc", None]}, "layer must be a name or a pattern, got None"),
            ({"depth": True}, r"depth must be a whole number or \(first, last\), .* got True"),
            ({"depth": "2"}, "depth must be .* got '2'"),
            ({"depth": (3, 1)}, r"depth must be .* in order, got \(3, 1\)"),
        ],
    )
    def test_a_miss_names_the_nearest(self, deep_run, ask, message):
        with pytest.raises(SelectionError, match=message) as caught:
            deep_run.select_layers(**ask)
        assert "\n" not in str(caught.value)


class TestSelect:
    @given(
        epochs=st.none() | st.lists(st.integers(0, 3), min_size=1),
        ends=st.none() | st.tuples(st.integers(-20, 200), st.integers(-20, 200)),
        names=st.none() | st.lists(st.sampled_from(sorted(KINDS.keys() - {"stem.conv"})), min_size=1),
    )
    def test_takes_the_rows_and_layers_asked_for_and_no_others(self, deep_run, epochs, ends, names):
        train = deep_run["train"]
        steps = None if ends is None else (min(ends), max(ends))
        hit = np.ones(train.sizes["step"], bool) if epochs is None else np.isin(train.epoch, epochs)
        hit &= True if steps is None else (steps[0] <= train.step.values) & (train.step.values <= steps[1])
        ask = {"epoch": epochs, "steps": steps, "layers": names}
        if not hit.any():
            with pytest.raises(SelectionError, match="no step"):
                deep_run.select(**ask)
            return
        chosen = [name for name in KINDS if names is None or name in names]
        expected = train.sel(layer=chosen).isel(step=hit)
        xr.testing.assert_identical(deep_run.select(**ask).compute(), expected.compute())

    def test_is_lazy_and_its_coordinates_are_loaded(self, deep_run):
        found = deep_run.select(layers="body.*", steps=(0, 60))
        assert all(dask.is_dask_collection(each.data) for each in found.data_vars.values())
        assert not any(dask.is_dask_collection(each.data) for each in found.coords.values())
        assert found.layer.values.tolist() == ["body.0.conv", "body.0.norm", "body.1.relu"]
        assert found.counts.dims == ("step", "layer", "bucket")

    @pytest.mark.parametrize(
        ("ask", "steps"),
        [
            ({"epoch": 0}, [0, 10, 20]),
            ({"epoch": np.int32(1)}, [50, 60, 70]),
            ({"epoch": [0, 2]}, [0, 10, 20, 80, 90, 100, 110]),
            ({"epoch": np.array([3, 3])}, [120, 130, 140, 150]),
            ({"epoch": range(2)}, [0, 10, 20, 50, 60, 70]),
            ({"epoch": "last"}, [120, 130, 140, 150]),
            ({"steps": (20, 50)}, [20, 50]),
            ({"steps": [np.int64(75), 81]}, [80]),
            ({"epoch": 2, "steps": (100, 999)}, [100, 110]),
        ],
    )
    def test_epochs_and_steps(self, deep_run, ask, steps):
        assert deep_run.select(**ask).step.values.tolist() == steps

    def test_untrained_is_the_evaluation_before_training(self, small_run):
        assert small_run.select("valid", epoch="untrained").epoch.values.tolist() == [-1] * 3
        assert small_run.select("test", epoch="last").epoch.values.tolist() == [2, 2]

    def test_replaced_rows_are_there_where_all_attempts_are(self, deep_run):
        everything = open_run(deep_run.path, all_attempts=True).select(steps=(70, 90))
        assert everything.step.values.tolist() == [70, 80, 90, 80, 90]
        assert everything.attempt.values.tolist() == [0, 0, 0, 1, 1]
        live = deep_run.select(steps=(70, 90))
        assert live.attempt.values.tolist() == [0, 1, 1]

    @pytest.mark.parametrize(
        ("ask", "message"),
        [
            ({"split": "valid"}, "no split 'valid' in .*: valid names: 'train'"),
            ({"layers": "body.0.cnv"}, "no layer 'body.0.cnv' in .*: did you mean 'body.0.conv'"),
            ({"epoch": 9}, "no epoch 9 in split 'train': did you mean 3[?] known: 0 to 3"),
            ({"epoch": [0, 4]}, "no epoch 4 in split 'train'"),
            ({"epoch": "untrained"}, "no epoch -1 in split 'train': did you mean 0[?]"),
            ({"epoch": []}, "epoch names no epoch"),
            ({"epoch": "3"}, "epoch must be a whole number, several of them, 'last' or 'untrained', got '3'"),
            ({"epoch": True}, "epoch must be .*got True"),
            ({"epoch": 1.0}, "epoch must be .*got 1.0"),
            ({"epoch": [1, None]}, "epoch must be .*got None"),
            ({"epoch": np.array([0.0])}, "epoch must be .*got 0.0"),
            (
                {"steps": (25, 45)},
                "no step 25 to 45 .*did you mean 20 or 50[?].* steps 30 to 40 were dropped",
            ),
            ({"steps": (1, 9)}, "no step 1 to 9 in split 'train': did you mean 0 or 10[?] known: 0 to 150"),
            ({"steps": (999, 1000)}, "no step 999 to 1000 in split 'train': did you mean 150[?]"),
            (
                {"epoch": 0, "steps": (50, 60)},
                "no step 50 to 60 in split 'train', epoch 0: did you mean 20[?] known: 0 to 20",
            ),
            ({"steps": (9, 1)}, r"steps must be \(first, last\), two whole numbers in order, got \(9, 1\)"),
            ({"steps": 3}, "steps must be .*got 3"),
            ({"steps": (0, 1.5)}, "steps must be"),
            ({"steps": (False, True)}, "steps must be"),
            ({"steps": "01"}, "steps must be .*got '01'"),
            ({"steps": (1, 2, 3)}, "steps must be"),
        ],
    )
    def test_a_miss_is_one_line_that_names_the_nearest(self, deep_run, ask, message):
        with pytest.raises(SelectionError, match=message) as caught:
            deep_run.select(**ask)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run["trian"], "no split 'trian' in .*run.zarr: did you mean 'train'?"),
        (lambda run: run.raw("dev"), "no split 'dev' in .*: valid names: 'train', 'valid', 'test'"),
        (lambda run: run.rows("train", 9), "no epoch 9 in split 'train': did you mean 2[?] known: 0 to 2"),
        (lambda run: run.select_layers(["fc", "boby.*"]), "no layer 'boby.*' in .*did you mean 'body"),
        (lambda run: run.select_layers(["fc", "!fc"]), r"no layer left by \['fc', '!fc'\]"),
        (lambda run: run.histogram(VIEW, layer="fd"), "no layer 'fd' in .*did you mean 'fc'?"),
        (lambda run: run.histogram(VIEW, layer="fc", split="val"), "no split 'val'"),
        (lambda run: run.histogram(VIEW, layer="fc", epoch=-1), "no epoch -1 in split 'train'"),
        (lambda run: run.histogram(VIEW, layer="fc", label=2), "no sample of label 2 .*did you mean 1[?]"),
        (lambda run: run.histogram(VIEW, layer="fc", unit=2), "no unit 2: the head has units 0 to 1"),
        (lambda run: run.histogram(VIEW, layer="fc", unit=-1), "no unit -1"),
        (lambda run: run.histogram(VIEW, layer="wild", unit=0), "label and unit need raw outputs"),
    ],
)
def test_what_the_run_does_not_hold_is_one_clear_error(small_run, ask, message):
    with pytest.raises(SelectionError, match=message) as caught:
        ask(small_run)
    assert "\n" not in str(caught.value)
