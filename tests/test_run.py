"""A run read back: what was recorded, what is asked of it, and every question it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import SelectionError, StoreError
from actlab.rebinning import rebin
from actlab.run import Run, open_run
from actlab.store.row import ChannelStats, HeadCounts, RawSamples
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
    assert [*table.columns] == ["kind", "description", "shape", "calls", "n", "never_called", "skipped"]
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


def test_layers_say_why_outputs_were_skipped(record_run):
    run = record_run({"train": [(0, {"fc": np.ones((2, 2))}, None)]}, ["fc", "embed"])
    assert run.layers["skipped"].tolist() == ["", ""]
    root = Path(run.path) / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["actlab"]["skipped"] = {"embed": "its outputs are int64", "gone": "?"}
    root.write_text(json.dumps(document))
    assert open_run(run.path).layers["skipped"].tolist() == ["", "its outputs are int64"]


# Raw samples and large heads: what the recorder keeps besides counts.


@pytest.fixture
def add_to_rows(monkeypatch):
    """Return a function that gives all rows appended later side data: side(row) -> fields."""

    def add(side):
        append = RunWriter.append
        monkeypatch.setattr(RunWriter, "append", lambda self, row: append(self, replace(row, **side(row))))

    return add


SAMPLES = [np.random.default_rng(step).normal(0, 2, (5, 2, 3)).astype(np.float32) for step in range(4)]
SAMPLES[0][0, 0, 0] = np.nan
CLASSES = np.array([[0, 1, 1, -100, 2]] * 4)


def samples_of(layer, values=SAMPLES, labels=CLASSES):
    """Return side data: the values and labels of a layer by step."""

    def side(row):
        label = None if labels is None else labels[row.step]
        return {"samples": {layer: RawSamples(values[row.step], np.arange(len(values[row.step])), label)}}

    return side


def batches(layer, values=SAMPLES):
    return {"train": [(step // 2, {layer: block}, None) for step, block in enumerate(values)]}


class TestSamples:
    @pytest.mark.parametrize("epoch", [None, 1])
    @pytest.mark.parametrize("label", [None, 1])
    def test_a_histogram_of_them_is_exact(self, epoch, label, record_run, add_to_rows):
        add_to_rows(samples_of("conv"))
        run = record_run(batches("conv"), ["conv"], head=None, raw=False)
        found = run.histogram(VIEW, layer="conv", epoch=epoch, label=label)
        values = np.stack(SAMPLES if epoch is None else SAMPLES[2:])
        values = values if label is None else values[:, 1:3]
        finite = values[np.isfinite(values)].astype(float)
        np.testing.assert_array_equal(found.counts, np.histogram(finite, VIEW.edges)[0])
        assert float(found.nan) == values.size - finite.size
        assert bool(found.exact)

    def test_some_of_them_do_not_pass_for_all(self, record_run, add_to_rows):
        add_to_rows(samples_of("conv", [block[:4] for block in SAMPLES], CLASSES[:, :4]))
        run = record_run(batches("conv"), ["conv"], head=None, raw=False)
        assert not bool(run.histogram(VIEW, layer="conv").exact)
        assert run.samples("train", "conv").sizes["sample"] == 16
        with pytest.raises(SelectionError, match="label and unit need raw outputs"):
            run.histogram(VIEW, layer="conv", label=1)

    def test_labels_of_several_classes_each(self, record_run, add_to_rows):
        hot = np.array([[[1, 0]] * 2 + [[1, 1]] * 3] * 4)
        add_to_rows(samples_of("conv", labels=hot))
        run = record_run(batches("conv"), ["conv"], head=None, raw=False)
        assert float(run.histogram(LinearAxis(-99, 99, 1), layer="conv", label=1).counts.sum()) == 4 * 3 * 6
        with pytest.raises(SelectionError, match="no sample of label 2 "):
            run.histogram(VIEW, layer="conv", label=2)

    @pytest.mark.parametrize(
        ("labels", "ask", "message"),
        [
            (CLASSES, {"label": 7}, "no sample of label 7 among"),
            (None, {"label": 1}, "recorded without labels"),
            (np.full((4, 5, 2), 3), {"label": 3}, "no label 3: every sample has several classes"),
            (CLASSES, {"unit": 0}, "no unit 0: only the outputs of the head have units"),
        ],
    )
    def test_what_they_cannot_tell(self, labels, ask, message, record_run, add_to_rows):
        add_to_rows(samples_of("conv", labels=labels))
        run = record_run(batches("conv"), ["conv"], head=None, raw=False)
        with pytest.raises(SelectionError, match=message):
            run.histogram(VIEW, layer="conv", **ask)

    @pytest.mark.parametrize(("unit_dim", "size"), [(1, 2), (-1, 3)])
    def test_those_of_the_head_have_units(self, unit_dim, size, record_run, add_to_rows):
        add_to_rows(samples_of("fc"))
        run = record_run(batches("fc"), ["fc"], raw=False)
        run.attributes["head_unit_dim"] = unit_dim
        found = run.histogram(VIEW, layer="fc", unit=1, label=2)
        values = np.stack(SAMPLES)[:, 4].astype(float)
        values = values[:, 1] if unit_dim == 1 else values[..., 1]
        np.testing.assert_array_equal(found.counts, np.histogram(values, VIEW.edges)[0])
        with pytest.raises(SelectionError, match=f"no unit 5: the head has units 0 to {size - 1}"):
            run.histogram(VIEW, layer="fc", unit=5)


def counted(head, label, pooled=False):
    """Count outputs [sample, unit] by unit and truth, the slow way."""
    units, axis = head.shape[1], FloatAxis()
    counts = np.zeros((1 if pooled else units, 3, axis.n_buckets), np.uint64)
    for row, true in zip(head, label, strict=True):
        for unit, value in enumerate(row):
            truth = 2 if true < 0 else int(true == unit) if units > 1 else int(true)
            counts[0 if pooled else unit, truth, axis.index(value)] += 1
    return HeadCounts(counts, pooled)


class TestLargeHeads:
    @pytest.fixture
    def record(self, record_run, add_to_rows):
        """Return a function that records 3 rows of a head that is counted by unit and truth."""

        def record(units, pooled=False, in_rows=(0, 1, 2)):
            random = np.random.default_rng(units)
            heads = [random.normal(0, 2, (12, units)) for _ in range(3)]
            labels = [random.integers(-1, max(units, 2), 12) for _ in range(3)]
            counts = [counted(head, label, pooled) for head, label in zip(heads, labels, strict=True)]
            add_to_rows(lambda row: {"head_counts": counts[row.step]} if row.step in in_rows else {})
            rows = [(epoch, {"fc": head}, None) for epoch, head in zip((0, 0, 1), heads, strict=True)]
            return record_run({"train": rows}, ["fc"], raw=False), np.stack(heads), np.stack(labels)

        return record

    def same(self, found, values):
        """Assert that a histogram has these values, as far as re-binned counts can tell."""
        assert float(found.counts.sum() + found.underflow + found.overflow) == pytest.approx(values.size)
        true = np.histogram(values, VIEW.edges)[0]
        assert (np.abs(found.counts - true) <= found.bound + 1e-9).all()

    def test_units_are_known(self, record):
        run, heads, _ = record(3)
        self.same(run.histogram(VIEW, layer="fc"), heads)
        self.same(run.histogram(VIEW, layer="fc", unit=2), heads[..., 2])
        self.same(run.histogram(VIEW, layer="fc", unit=0, epoch=1), heads[2, :, 0])

    def test_a_class_is_known_in_its_own_unit(self, record):
        run, heads, labels = record(3)
        self.same(run.histogram(VIEW, layer="fc", label=1, unit=1), heads[..., 1][labels == 1])
        self.same(run.histogram(VIEW, layer="fc", label=0, unit=0, epoch=0), heads[:2, :, 0][labels[:2] == 0])

    @pytest.mark.parametrize("unit", [None, 0])
    @pytest.mark.parametrize("label", [0, 1])
    def test_both_answers_of_a_single_unit_are_known(self, label, unit, record):
        run, heads, labels = record(1)
        self.same(run.histogram(VIEW, layer="fc", label=label, unit=unit), heads[..., 0][labels == label])

    @pytest.mark.parametrize(
        ("options", "ask", "message"),
        [
            ({"units": 3}, {"label": 1}, "no counts of label 1 alone: .*label=1 with unit=1 is known"),
            ({"units": 3}, {"label": 1, "unit": 2}, "no counts of label 1 alone"),
            ({"units": 3}, {"unit": 3}, "no unit 3: the head has units 0 to 2"),
            ({"units": 3}, {"label": 3, "unit": 3}, "no unit 3: the head has units 0 to 2"),
            ({"units": 1}, {"label": 2}, "no sample of label 2 among"),
            ({"units": 1}, {"label": -1}, "no sample of label -1 among"),
            ({"units": 30}, {"label": 0, "unit": 0, "epoch": 1}, "no sample of label 0 among"),
            ({"units": 3, "pooled": True}, {"unit": 0}, "its units were counted together"),
            ({"units": 3, "in_rows": (0, 2)}, {"unit": 0}, "label and unit need raw outputs"),
        ],
    )
    def test_what_they_cannot_tell(self, options, ask, message, record):
        run, *_ = record(**options)
        with pytest.raises(SelectionError, match=message) as caught:
            run.histogram(VIEW, layer="fc", **ask)
        assert "\n" not in str(caught.value)

    def test_rows_that_were_counted_answer_for_themselves(self, record):
        run, heads, _ = record(3, in_rows=(0, 2))
        self.same(run.histogram(VIEW, layer="fc", unit=1, epoch=1), heads[2, :, 1])

    def test_repr_says_how_it_was_counted(self, record):
        run, *_ = record(2)
        assert repr(run).splitlines()[2] == (
            "  train: 3 rows, epochs 0 to 1, the head counted by unit and truth"
        )


def test_repr_says_what_else_was_kept(record_run, add_to_rows):
    ones = np.ones(2, np.uint64)
    stats = ChannelStats(("conv",), (2,), ones, ones, np.ones(2))
    add_to_rows(lambda row: samples_of("conv")(row) | {"channels": stats})
    run = record_run(batches("conv"), ["conv"], head=None, raw=False)
    assert repr(run).splitlines()[2] == (
        "  train: 4 rows, epochs 0 to 1, counts only, channels, samples of 1 layer"
    )


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
