"""`run.histogram`: exact from what was kept, else re-binned from pooled counts."""

import numpy as np
import pytest
import xarray as xr

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError, SelectionError
from actlab.rebinning import rebin
from actlab.stats import fit_axis
from actlab.store.row import HeadCounts, RawSamples

VIEW = LinearAxis(-4, 4, 50)
FLOW = ["counts", "underflow", "overflow", "neg_inf", "pos_inf", "nan"]
NAMES = ["input", "body.linear", "body.relu", "body.dropout", "wild", "fc"]


def head_of(batches, split, epoch=None):
    rows = [(layers["fc"], label) for known, layers, label in batches[split] if epoch in (None, known)]
    return np.concatenate([head for head, _ in rows]), np.concatenate([label for _, label in rows])


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


class TestRange:
    def test_is_fitted_to_the_rows_chosen_whatever_the_label(self, small_run):
        counts = small_run.select("valid", layers="fc", epoch=2).counts.sum(("step", "layer"))
        by_label = small_run.histogram(range="p0.1", layer="fc", split="valid", epoch=2, by="label")
        fitted = fit_axis(counts, range="p0.1")
        assert by_label.attrs == {"h_min": fitted.h_min, "h_max": fitted.h_max, "n_bins": 200}
        one = small_run.histogram(range="p0.1", layer="fc", split="valid", epoch=2, label=1)
        xr.testing.assert_identical(one, by_label.sel(label=1, drop=True))

    def test_is_symmetric_by_default_and_takes_a_number_of_bins(self, small_run):
        found = small_run.histogram(layer="body.linear")
        assert found.sizes["bin"] == 200
        assert found.attrs["h_min"] == -found.attrs["h_max"]
        assert small_run.histogram(range="p1", layer="fc", n_bins=30).sizes["bin"] == 30

    @pytest.mark.parametrize(
        ("axis", "choice"),
        [
            ("p1", {}),
            ((-1, 1), {}),
            (None, {"range": 3}),
            (None, {"range": (1, 2, 3)}),
            (None, {"range": "p77"}),
            (None, {"n_bins": 0}),
            (None, {"range": "p1", "n_bins": True}),
            (VIEW, {"n_bins": 9}),
            (VIEW, {"range": "p1"}),
        ],
    )
    def test_what_is_none_is_one_line(self, small_run, axis, choice):
        with pytest.raises(AxisError) as caught:
            small_run.histogram(axis, layer="fc", **choice)
        assert "\n" not in str(caught.value)


class TestBy:
    @pytest.mark.parametrize(
        "rows", [{}, {"epoch": [0, 2]}, {"steps": (3, 7)}, {"epoch": 1, "steps": (7, 99)}]
    )
    @pytest.mark.parametrize("by", ["label", "unit", ("label", "unit"), ("unit", "label")])
    def test_adds_up_to_the_whole_and_each_is_exact(self, small_run, small_batches, rows, by):
        found = small_run.histogram(VIEW, layer="fc", split="valid", by=by, **rows)
        dims = (by,) if isinstance(by, str) else by
        assert found.counts.dims == (*dims, "bin")
        whole = small_run.histogram(VIEW, layer="fc", split="valid", **rows)
        xr.testing.assert_equal(found[FLOW].sum(dims), whole[FLOW])
        assert found.exact.all()
        chosen = small_run.rows("valid", rows.get("epoch"), rows.get("steps"))
        batches = [small_batches["valid"][row] for row in chosen]
        head = np.concatenate([layers["fc"] for _, layers, _ in batches]).astype(float)
        label = np.concatenate([labels for *_, labels in batches])
        for each in np.ndindex(*(2 for _ in dims)):
            ask = dict(zip(dims, each, strict=True))
            values = head[label == ask["label"]] if "label" in ask else head
            values = values[:, ask["unit"]] if "unit" in ask else values
            np.testing.assert_array_equal(found.sel(ask).counts, np.histogram(values, VIEW.edges)[0])
            xr.testing.assert_identical(
                found.sel(ask, drop=True), small_run.histogram(VIEW, layer="fc", split="valid", **ask, **rows)
            )

    @pytest.mark.parametrize(
        ("ask", "message"),
        [
            ({"layer": "wild", "by": "unit"}, "label and unit need raw outputs"),
            ({"layer": "fc", "by": "lable"}, "did you mean 'label'"),
            ({"layer": "fc", "by": "label", "label": 1}, "tells all apart"),
            ({"layer": "fc", "by": "label", "unit": 2}, "the head has units 0 to 1"),
            ({"layer": "fc", "by": "unit", "label": 2}, "no sample of label 2 .*: did you mean 1"),
            ({"layer": "fc", "by": "unit", "label": True}, "label must be a whole number, got True"),
        ],
    )
    def test_what_makes_no_sense_is_one_line(self, small_run, ask, message):
        with pytest.raises(SelectionError, match=message) as caught:
            small_run.histogram(VIEW, **ask)
        assert "\n" not in str(caught.value)

    def test_without_labels_there_are_none(self, record_run):
        run = record_run({"train": [(0, {"fc": np.ones((2, 2))}, None)]}, ["fc"])
        assert run.histogram(VIEW, layer="fc", by="unit").sizes["unit"] == 2
        with pytest.raises(
            SelectionError, match="no histograms by label: the run was recorded without labels"
        ):
            run.histogram(VIEW, layer="fc", by="label")


# Raw samples and large heads: what the recorder keeps besides counts.


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

    def test_labels_tell_them_apart_and_none_is_lost(self, record_run, add_to_rows):
        add_to_rows(samples_of("conv"))
        run = record_run(batches("conv"), ["conv"], head=None, raw=False)
        found = run.histogram(VIEW, layer="conv", by="label")
        assert found.label.values.tolist() == [-100, 0, 1, 2]
        xr.testing.assert_equal(found[FLOW].sum("label"), run.histogram(VIEW, layer="conv")[FLOW])

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

    @pytest.mark.parametrize(("units", "by"), [(3, "unit"), (1, "label"), (1, ("unit", "label"))])
    def test_what_is_known_adds_up_to_the_whole(self, units, by, record):
        run, heads, labels = record(units)
        found = run.histogram(VIEW, layer="fc", by=by, epoch=0)
        dims = (by,) if isinstance(by, str) else by
        assert found.counts.dims == (*dims, "bin")
        total = float(found.counts.sum() + found.underflow.sum() + found.overflow.sum())
        assert total == pytest.approx(heads[:2].size, rel=1e-9)
        if "label" in dims:
            assert found.label.values.tolist() == sorted(
                {-100 if true < 0 else true for true in labels[:2].flat}
            )
            self.same(found.sel(label=1).squeeze(drop=True), heads[:2, :, 0][labels[:2] == 1])
        else:
            self.same(found.sel(unit=2), heads[:2, :, 2])

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
            ({"units": 3}, {"by": "label"}, "no histograms by label: .* by='unit' is known"),
            ({"units": 3}, {"by": ("label", "unit")}, "no histograms by label"),
            ({"units": 3, "pooled": True}, {"by": "unit"}, "its units were counted together"),
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
