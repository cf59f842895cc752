"""The Twin Peaks of recorded runs against the values themselves."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from sklearn.metrics import roc_auc_score

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import AxisError, SelectionError
from actlab.peaks import head_axis, twin_peaks
from actlab.store.row import HeadCounts
from actlab.store.writer import RunWriter

PER_SPLIT = ["underflow", "overflow", "nonfinite", "n", "yes_position", "no_position", "peak_distance"]
PER_SPLIT += ["separation", "overlap", "auc", "auc_bound", "ashman_d", "area_ratio", "expected_ratio"]
PER_SPLIT += ["n_yes", "n_no", "n_modes"]


def truth(batches, split, epoch, last=None):
    rows = [(layers["fc"], label) for known, layers, label in batches[split] if known == epoch][
        -(last or 99) :
    ]
    head = np.concatenate([head for head, _ in rows]).astype(np.float64)
    yes = np.concatenate([label for _, label in rows])[:, None] == [0, 1]
    return head[yes], head[~yes]


def test_names_dims_and_attributes(small_run):
    found = twin_peaks(small_run)
    assert found.split.values.tolist() == ["train", "valid", "test"]
    assert {name: found[name].dims for name in ("curves", "yes", "no")} == dict.fromkeys(
        ("curves", "yes", "no"), ("split", "bin")
    )
    assert {found[name].dims for name in PER_SPLIT} == {("split",)}
    for name in ("mode_position", "mode_height", "mode_prominence"):
        assert found[name].dims == ("split", "mode")
    for name in ("valley_position", "valley_height", "valley_significance"):
        assert found[name].dims == ("split", "valley")
    assert found.train_valid_distance.dims == ()
    view = {"h_min": -8, "h_max": 8, "n_bins": 200}
    known = {"epoch": 2, "layer": "fc", "source": "raw", "reading": "two peaks expected"}
    assert found.attrs == view | known
    assert found.sizes["bin"] == 200


@pytest.mark.parametrize(("split", "last"), [("train", 3), ("valid", None), ("test", None)])
def test_curves_and_measures_are_those_of_the_values(small_run, small_batches, split, last):
    axis = LinearAxis(-6, 6, 40)
    found = twin_peaks(small_run, axis=axis).sel(split=split)
    yes, no = truth(small_batches, split, 2, last)
    n = yes.size + no.size
    assert int(found.n) == n
    np.testing.assert_allclose(found.yes, np.histogram(yes, axis.edges)[0] / n)
    np.testing.assert_allclose(found.no, np.histogram(no, axis.edges)[0] / n)
    np.testing.assert_allclose(found.curves, found.yes + found.no, atol=1e-12)
    assert float(found.curves.sum() + found.underflow + found.overflow + found.nonfinite) == pytest.approx(1)
    assert float(found.yes_position) == pytest.approx(yes.mean())
    assert float(found.no_position) == pytest.approx(no.mean())
    assert float(found.peak_distance) == pytest.approx(yes.mean() - no.mean())
    assert float(found.separation) == pytest.approx(
        (yes.mean() - no.mean()) / np.sqrt((yes.var() + no.var()) / 2)
    )
    assert int(found.n_modes) == 2
    np.testing.assert_allclose(found.mode_position, [no.mean(), yes.mean()], atol=0.7)
    assert float(found.mode_height.min()) > 0.5 * float(found.curves.max()) / 2


def test_untrained_outputs_have_one_mode_and_no_separation(small_run):
    found = twin_peaks(small_run, "untrained")
    assert found.attrs["epoch"] == -1
    assert found.split.values.tolist() == ["valid"]
    assert found.n_modes.values.tolist() == [1]
    assert abs(float(found.separation[0])) < 0.5
    assert float(found.overlap[0]) > 0.5
    assert np.isnan(found.train_valid_distance)


def test_training_drives_the_peaks_apart(small_run):
    separation = [
        float(twin_peaks(small_run, epoch).separation.sel(split="valid")) for epoch in (-1, 0, 1, 2)
    ]
    assert separation == sorted(separation)


def test_the_view_changes_neither_modes_nor_separation(small_run):
    wide, cut = twin_peaks(small_run), twin_peaks(small_run, axis=LinearAxis(0, 1, 5))
    for name in ("n_modes", "mode_position", "separation", "yes_position", "n"):
        xr.testing.assert_equal(wide[name], cut[name])
    np.testing.assert_allclose(cut.mode_height / wide.mode_height, 0.2 / 0.08)


def test_the_default_range_does_not_depend_on_the_epoch(small_run):
    axes = {(twin_peaks(small_run, epoch).h_min, twin_peaks(small_run, epoch).h_max) for epoch in (-1, 0, 2)}
    assert axes == {(-8, 8)}
    assert head_axis(small_run, "fc") == LinearAxis(-8, 8, 200)


def test_counts_alone_give_curves_and_modes_near_the_exact_ones(record_run, small_batches, small_run):
    names = ["input", "body.linear", "body.relu", "wild", "fc"]
    run = record_run(small_batches, names, raw=False)
    axis = LinearAxis(-8, 8, 20)
    found, exact = twin_peaks(run, axis=axis), twin_peaks(small_run, axis=axis)
    assert found.attrs["source"] == "counts"
    assert float(abs(found.curves - exact.curves).sum("bin").max()) < 0.15
    assert found.n_modes.values.tolist() == [2, 2, 2]
    np.testing.assert_allclose(found.mode_position, exact.mode_position, atol=0.3)
    xr.testing.assert_equal(found.yes_position, found.mode_position.isel(mode=1, drop=True))
    assert bool(found.separation.isnull().all() and found.yes.isnull().all() and found.overlap.isnull().all())
    xr.testing.assert_equal(found.n, exact.n)
    one = twin_peaks(run, "untrained")
    assert np.isnan(one.peak_distance).all()


def test_of_three_modes_the_tallest_on_each_side_of_the_deepest_valley_are_no_and_yes(record_run):
    random = np.random.default_rng(0)
    means = np.repeat([-3.0, 0.0, 9.0], [300, 2000, 900])
    head = (means + random.normal(0, 0.6, means.size)).reshape(-1, 2).astype(np.float32)
    run = record_run({"train": [(0, {"fc": head}, None)] * 4, "valid": [(0, {"fc": head}, None)]}, ["fc"])
    found = twin_peaks(run).sel(split="valid")
    assert found.n_modes == 3
    assert float(found.no_position) == pytest.approx(0, abs=0.3)
    assert float(found.yes_position) == pytest.approx(9, abs=0.3)


def counted(axis, head, label, pooled=False):
    """Count outputs [sample, unit] by unit and truth: no, yes, unlabelled."""
    units = head.shape[1]
    truth = (label[:, None] == np.arange(units)).astype(int) if units > 1 else label[:, None].copy()
    truth[label < 0] = 2
    place = np.zeros_like(truth) if pooled else np.broadcast_to(np.arange(units), head.shape)
    counts = np.zeros((1 if pooled else units, 3, axis.n_buckets), np.uint64)
    np.add.at(counts, (place, truth, axis.index(head)), 1)
    return HeadCounts(counts, pooled)


@pytest.fixture
def record_counted(record_run, monkeypatch):
    """Return a function that records batches of a head counted by unit and truth, nothing raw."""

    def record(batches, names, pooled=False):
        def append_counted(writer, row):
            _, layers, label = batches[row.split][row.step]
            found = counted(FloatAxis(), np.asarray(layers["fc"], float), np.asarray(label), pooled)
            return append(writer, replace(row, head_counts=found))

        with monkeypatch.context() as patch:
            append = RunWriter.append
            patch.setattr(RunWriter, "append", append_counted)
            return record_run(batches, names, raw=False)

    return record


@pytest.mark.parametrize("pooled", [False, True])
def test_a_head_counted_by_truth_gives_nearly_what_raw_outputs_give(
    pooled, record_counted, small_batches, small_run
):
    names = ["input", "body.linear", "body.relu", "wild", "fc"]
    axis = LinearAxis(-8, 8, 20)
    found = twin_peaks(record_counted(small_batches, names, pooled), axis=axis)
    exact = twin_peaks(small_run, axis=axis)
    assert found.attrs["source"] == "counts"
    for name in ("yes_position", "no_position", "peak_distance", "separation"):
        np.testing.assert_allclose(found[name], exact[name], rtol=0.01)
    np.testing.assert_allclose(found.overlap, exact.overlap, atol=0.02)
    assert float(abs(found.yes - exact.yes).sum("bin").max()) < 0.1
    np.testing.assert_allclose(found.yes + found.no, found.curves, atol=0.02)
    xr.testing.assert_equal(found.n, exact.n)


@pytest.mark.parametrize(
    ("values", "label", "positions"),
    [
        ([[3.0], [5.0], [-2.0], [np.nan], [9.0]], [1, 1, 0, 0, -100], (4, -2)),
        ([[1e30], [-1e30], [np.inf], [0.0]], [1, 0, 1, 0], (2.0**32, -(2.0**31))),  # buckets without end
        ([[1.0], [3.0]], [1, 1], (2, np.nan)),
        ([[1.0], [3.0]], [-100, -1], (np.nan, np.nan)),
    ],
)
def test_positions_of_a_single_unit_by_counts(values, label, positions, record_counted):
    found = twin_peaks(record_counted({"valid": [(0, {"fc": values}, label)]}, ["fc"])).isel(split=0)
    np.testing.assert_allclose([found.yes_position, found.no_position], positions, rtol=0.016)
    assert np.isnan(found.separation) == np.isnan(sum(positions))


def test_all_splits_come_from_counts_where_one_has_no_raw_outputs(record_run):
    row = (0, {"fc": np.array([[1.0], [2.0]])}, np.array([0, 1]))
    run = record_run({"train": [row, row], "valid": [row]}, ["fc"], raw=lambda index: index == 0)
    found = twin_peaks(run)
    assert found.split.values.tolist() == ["train", "valid"]
    assert found.attrs["source"] == "counts"
    np.testing.assert_allclose(found.curves.sum("bin"), 1)
    assert bool(found.separation.isnull().all())


def test_another_layer_has_counts_only(small_run):
    found = twin_peaks(small_run, 1, layer="wild")
    assert found.attrs["source"] == "counts"
    np.testing.assert_allclose(found.nonfinite, 3 / 405)
    assert found.split.values.tolist() == ["train", "valid"]


def test_a_layer_never_called_is_empty_and_no_error(small_run):
    found = twin_peaks(small_run, layer="body.dropout")
    assert found.n.values.tolist() == [0, 0, 0]
    assert found.n_modes.values.tolist() == [0, 0, 0]
    assert bool(found.curves.isnull().all())


@pytest.mark.parametrize(("n_rows", "last"), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_train_is_the_last_quarter_rounded_up(record_run, n_rows, last):
    rows = [(0, {"fc": np.full((2, 1), float(row))}, None) for row in range(n_rows)]
    found = twin_peaks(record_run({"train": rows}, ["fc"]), axis=LinearAxis(-0.5, 9.5, 10))
    assert int(found.n[0]) == 2 * last
    assert np.flatnonzero(found.curves[0]).tolist() == [*range(n_rows - last, n_rows)]


def describe(record_run, head, label):
    run = record_run({"valid": [(0, {"fc": np.array(head, np.float32)}, label)]}, ["fc"])
    return twin_peaks(run, axis=LinearAxis(-10, 10, 20)).isel(split=0)


def test_with_one_unit_label_1_is_yes_and_label_0_is_no(record_run):
    found = describe(record_run, [[3], [5], [-2], [-4], [9]], np.array([1, 1, 0, 0, -100]))
    assert (float(found.yes_position), float(found.no_position)) == (4, -3)
    assert float(found.separation) == pytest.approx(7)
    assert float(found.overlap) == 0
    assert float(found.yes.sum() + found.no.sum()) == pytest.approx(4 / 5)
    assert float(found.curves.sum()) == pytest.approx(1)


def test_with_several_units_the_true_class_is_yes_and_labels_outside_are_none(record_run):
    found = describe(record_run, [[1, 2, 3], [4, 5, 6], [7, 7, 7], [7, 7, 7]], np.array([2, 0, -100, 3]))
    assert float(found.yes_position) == pytest.approx((3 + 4) / 2)
    assert float(found.no_position) == pytest.approx((1 + 2 + 5 + 6) / 4)
    assert float(found.yes.sum()) == pytest.approx(2 / 12)


def test_multi_hot_labels_and_values_that_are_not_finite(record_run):
    found = describe(record_run, [[1, 2, 3], [4, np.nan, 6]], np.array([[1, 0, 1], [0, 1, -100]]))
    assert float(found.yes_position) == pytest.approx((1 + 3) / 2)
    assert float(found.no_position) == pytest.approx((2 + 4) / 2)
    assert float(found.nonfinite) == pytest.approx(1 / 6)


@pytest.mark.parametrize(("apart", "common"), [(0, 1), (1, 0.6171), (2, 0.3173), (4, 0.0455), (60, 0)])
def test_overlap_is_that_of_the_two_distributions_whatever_the_view(record_run, apart, common):
    random = np.random.default_rng(3)
    label = np.arange(2000) % 2
    head = (random.normal(0, 1, 2000) + apart * label)[:, None].astype(np.float32)
    run = record_run({"valid": [(0, {"fc": head}, label)]}, ["fc"])
    views = [None, LinearAxis(-1, 0, 7), LinearAxis(100, 200, 1000)]
    found = [float(twin_peaks(run, axis=view).overlap[0]) for view in views]
    assert found == [found[0]] * 3
    assert found[0] == pytest.approx(common, abs=0.05)  # 2 Phi(-apart / 2) for two normals of std 1


@pytest.mark.parametrize("label", [None, np.array([-100, -100]), np.array([7, 7])])
def test_without_usable_labels_there_is_no_yes_and_no(record_run, label):
    found = describe(record_run, [[1, 2], [3, 4]], label)
    assert bool(found.yes.isnull().all() and found.no.isnull().all())
    assert np.isnan(found.separation)


def test_only_one_kind_of_truth_has_a_position_but_no_separation(record_run):
    found = describe(record_run, [[1], [3]], np.array([1, 1]))
    assert float(found.yes_position) == 2
    assert np.isnan([found.no_position, found.separation, found.overlap, found.peak_distance]).all()


def test_train_valid_distance_counts_the_flow(record_run):
    run = record_run(
        {
            "train": [(0, {"fc": np.array([[1.0], [99.0]])}, None)],
            "valid": [(0, {"fc": np.array([[1.0], [np.nan]])}, None)],
        },
        ["fc"],
    )
    assert float(twin_peaks(run, axis=LinearAxis(-10, 10, 20)).train_valid_distance) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "values", [np.zeros((30, 2)), np.full((30, 2), 3.25), np.full((30, 2), 1e30), np.full((4, 2), np.nan)]
)
def test_outputs_that_are_all_alike(record_run, values):
    run = record_run({"train": [(0, {"fc": values}, None)]}, ["fc"])
    found = twin_peaks(run)
    assert found.n_modes.values.tolist() == [int(np.isfinite(values).any())]
    if np.isfinite(values).any():
        assert found.mode_position.item() == pytest.approx(values[0, 0], rel=0.01, abs=0.01)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"epoch": 17}, "no epoch 17 in .*run.zarr: did you mean 2[?] known: -1 to 2"),
        ({"epoch": np.int64(-3)}, "no epoch .* did you mean -1[?] known: -1 to 2"),
        ({"epoch": "lats"}, "no epoch 'lats' in .*: did you mean 'last'?"),
        ({"layer": "fd"}, "no layer 'fd' in .*: did you mean 'fc'?"),
    ],
)
def test_what_the_run_does_not_hold(small_run, ask, message):
    with pytest.raises(SelectionError, match=message):
        twin_peaks(small_run, **ask)


def test_a_range_in_words_is_no_axis(small_run):
    with pytest.raises(AxisError, match=r"axis must be a LinearAxis, got 'p0.1'"):
        twin_peaks(small_run, axis="p0.1")


def test_a_run_without_a_head_asks_for_a_layer(record_run):
    run = record_run({"train": [(0, {"fc": np.ones((2, 2))}, None)]}, ["fc"], head=None, raw=False)
    with pytest.raises(SelectionError, match="has no head: name a layer, valid names: 'fc'"):
        twin_peaks(run)
    assert int(twin_peaks(run, layer="fc").n[0]) == 4


@pytest.mark.parametrize("epoch", ["last", "untrained", 0])
def test_a_run_without_rows_has_no_epoch(record_run, epoch):
    with pytest.raises(SelectionError, match=r"no rows in .*run\.zarr$"):
        twin_peaks(record_run({}, ["fc"]), epoch)


def test_train_valid_distance_does_not_depend_on_the_view(small_run):
    views = [None, LinearAxis(-1, 1, 20), LinearAxis(-50, 50, 1000)]
    found = [float(twin_peaks(small_run, axis=view).train_valid_distance) for view in views]
    assert found == [found[0]] * 3
    assert 0 < found[0] < 1


@pytest.mark.parametrize(("shift", "low", "high"), [(0, 0, 0.12), (1, 0.3, 0.5), (50, 1, 1)])
def test_train_valid_distance_is_not_made_of_noise(record_run, shift, low, high):
    random = np.random.default_rng(5)
    values = {"train": random.normal(0, 1, (150, 2)), "valid": random.normal(shift, 1, (150, 2))}
    run = record_run({split: [(0, {"fc": part}, None)] for split, part in values.items()}, ["fc"])
    found = float(twin_peaks(run).train_valid_distance)  # 200 bins of 300 values differ by 0.4 in any case
    assert low - 1e-9 <= found <= high + 1e-9


LABELLED = ["binary", "classes", "multi-hot"]


@pytest.mark.parametrize("kind", LABELLED)
@pytest.mark.parametrize(("split", "epoch"), [("train", 2), ("valid", -1), ("valid", 4), ("test", 4)])
def test_yes_and_no_of_real_digits_are_those_of_the_values(train_digits, marks_of, kind, split, epoch):
    made = train_digits(kind)
    head, targets = made.outputs[split, epoch]
    is_yes = marks_of(kind, targets)
    yes, no = head[is_yes], head[~is_yes]
    separation = (yes.mean() - no.mean()) / np.sqrt((yes.var() + no.var()) / 2)
    expected = {
        "yes_position": yes.mean(),
        "no_position": no.mean(),
        "separation": separation,
        "ashman_d": abs(separation),
        "auc": roc_auc_score(is_yes.ravel(), head.ravel()),
        "auc_bound": 0,
        "n_yes": yes.size,
        "n_no": no.size,
        "area_ratio": no.size / yes.size,
        "expected_ratio": 9 if kind == "classes" else no.size / yes.size,
    }
    found = twin_peaks(made.run, epoch)
    assert found.attrs["reading"] == "two peaks expected"
    for name, value in expected.items():
        assert found[name].sel(split=split).item() == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("kind", LABELLED)
def test_counts_of_real_digits_are_within_a_hundredth(train_digits, kind):
    for epoch in range(5):
        exact = twin_peaks(train_digits(kind).run, epoch)
        found = twin_peaks(train_digits(kind, counted=True).run, epoch)
        assert found.attrs["source"] == "counts"
        for name in ("yes_position", "no_position", "separation", "ashman_d", "auc"):
            np.testing.assert_allclose(found[name], exact[name], rtol=0.01)
        assert (abs(found.auc - exact.auc) <= found.auc_bound + 1e-12).all()
        assert (found.auc_bound < 0.02).all()
        for name in ("n_yes", "n_no", "area_ratio", "expected_ratio"):
            np.testing.assert_array_equal(found[name], exact[name])


def test_the_mean_of_yes_and_no_lies_across_the_valley_of_a_trained_network(train_digits):
    found = twin_peaks(train_digits("classes").run).sel(split="valid")
    valley = found.valley_significance.argmax("valley")
    assert found.no_position < found.valley_position[valley] < found.yes_position
    assert found.valley_height[valley] < found.mode_height.min()
    assert (found.mode_prominence <= found.mode_height * (1 + 1e-12)).all()


def test_without_labels_the_shape_says_what_it_can(train_digits):
    found = twin_peaks(train_digits("classes", labelled=False).run).sel(split="valid")
    exact = twin_peaks(train_digits("classes").run).sel(split="valid")
    assert found.attrs["reading"] == "unknown: no labels were given"
    assert found.area_ratio.item() == pytest.approx(9, rel=0.25)
    assert np.isnan(found.expected_ratio)
    assert found.ashman_d.item() > 2
    assert found.ashman_d.item() == pytest.approx(exact.ashman_d.item(), rel=0.3)
    assert int(found.n_yes) == int(found.n_no) == 0
    assert np.isnan([found.auc, found.auc_bound, found.overlap]).all()


def test_counts_without_truth_still_know_how_many_classes_there_are(train_digits):
    found = twin_peaks(train_digits("classes", raw=None).run).sel(split="valid")
    assert (found.attrs["source"], found.attrs["reading"]) == ("counts", "two peaks expected")
    assert found.expected_ratio.item() == 9
    assert found.area_ratio.item() == pytest.approx(9, rel=0.25)


@pytest.mark.parametrize("raw", ["head", None])
def test_a_regression_has_curves_and_no_yes_and_no(train_digits, raw):
    found = twin_peaks(train_digits("float", raw=raw).run)
    assert found.attrs["reading"] == (
        "no peaks expected: float targets, the outputs are the predictions themselves"
    )
    np.testing.assert_allclose(found.curves.sum("bin") + found.underflow + found.overflow, 1)
    for name in ("yes_position", "no_position", "peak_distance", "separation", "auc", "area_ratio"):
        assert bool(found[name].isnull().all()), name
    assert bool(found.expected_ratio.isnull().all())
    assert (found.n_modes > 0).all()


def test_whole_numbers_to_be_predicted_by_one_unit_are_no_truth(record_run):
    head = np.arange(6.0)[:, None]
    found = twin_peaks(record_run({"valid": [(0, {"fc": head}, np.array([0, 1, 2, 3, 1, 0]))]}, ["fc"]))
    assert bool(found.yes.isnull().all())
    assert found.attrs["reading"] == "unknown: no labels were given"


@pytest.mark.parametrize(
    ("label", "reading"),
    [
        ([1, 0, -100, -100], "no peaks expected"),  # of floats, two happen to be 0 and 1
        ([1, 0, 1, 0], "two peaks expected"),  # smoothed in training, plain in validation
    ],
)
def test_floats_that_look_like_labels(record_run, monkeypatch, label, reading):
    run = record_run({"valid": [(0, {"fc": np.arange(4.0)[:, None]}, np.array(label))]}, ["fc"])
    monkeypatch.setitem(run.attributes, "targets", "float")
    found = twin_peaks(run)
    assert found.attrs["reading"].startswith(reading)
    assert bool(found.yes.isnull().all()) == (reading == "no peaks expected")


def test_a_layer_that_is_not_the_head_has_no_reading(small_run):
    assert twin_peaks(small_run, layer="wild").attrs["reading"] == "unknown: not the head"


def test_auc_counts_ties_half(record_run):
    head = np.array([[0.0], [1], [1], [2]])
    found = describe(record_run, head, np.array([0, 0, 1, 1]))
    assert found.auc.item() == (2 + 1.5) / 4
