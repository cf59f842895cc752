"""Modes on simulated samples, and the Twin Peaks of recorded runs against the values themselves."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import SelectionError
from actlab.peaks import head_axis, modes, twin_peaks
from actlab.rebinning import bin_values
from actlab.store.row import HeadCounts
from actlab.store.writer import RunWriter

PER_SPLIT = ["underflow", "overflow", "nonfinite", "n", "yes_position", "no_position", "peak_distance"]
PER_SPLIT += ["separation", "overlap", "n_modes"]


def modes_of(values, n_bins=400):
    low, high = np.quantile(values, (0.001, 0.999))
    axis = LinearAxis(low, high, n_bins)
    return modes(bin_values(values, axis)["counts"].values, axis.centers)


def mixture(n, share, apart, seed):
    """Return a sample of two normals of std 1, `share` of it `apart` from the rest."""
    random = np.random.default_rng(seed)
    return random.normal(0, 1, n) + np.where(random.random(n) < share, apart, 0)


ONE_PEAK = {
    "normal": lambda random, n: random.normal(size=n),
    "laplace": lambda random, n: random.laplace(size=n),
    "exponential": lambda random, n: random.exponential(size=n),
    "uniform": lambda random, n: random.uniform(size=n),
    "mirrored": lambda random, n: (half := random.normal(0.1, 1, n // 2), np.concatenate([half, -half]))[1],
    "rounded": lambda random, n: random.normal(0, 40, n).astype(np.float16).round(),
}


@pytest.mark.parametrize("n", [60, 320, 2000, 20_000])
@pytest.mark.parametrize("name", ONE_PEAK)
def test_one_peak_stays_one(name, n):
    found = [modes_of(ONE_PEAK[name](np.random.default_rng(seed), n))[0].size for seed in range(40)]
    assert sum(size != 1 for size in found) <= 1


@pytest.mark.parametrize(
    ("n", "share", "apart"),
    [
        *((60, 0.5, 10), (100, 0.5, 6), (320, 0.5, 5), (2000, 0.5, 3.5), (320, 0.5, 1000), (2000, 0.1, 6)),
        *((20_000, 0.1, 4.5), (20_000, 0.01, 20), (1_000_000, 0.5, 3), (1_000_000, 0.5, 1000)),
    ],
)
def test_two_peaks_are_told_apart_where_they_are(n, share, apart):
    for seed in range(1 if n > 10**5 else 15):
        positions, heights = modes_of(mixture(n, share, apart, seed), 1000)
        np.testing.assert_allclose(positions, [0, apart], atol=max(0.8, 0.06 * apart))
        assert (heights > 0).all()


@pytest.mark.parametrize(
    ("n", "share", "apart"), [(60, 0.5, 2), (20_000, 0.5, 2), (20_000, 0.1, 2.5), (60, 0.02, 10)]
)
def test_no_second_peak_where_the_sum_has_none_or_too_few_values(n, share, apart):
    found = [modes_of(mixture(n, share, apart, seed))[0].size for seed in range(20)]
    assert found == [1] * 20


def test_a_point_that_holds_most_values_does_not_stop_the_smoothing():
    for seed in range(10):
        random = np.random.default_rng(seed)
        values = np.where(random.random(20_000) < 0.8, 0.0, random.uniform(3, 13, 20_000))
        positions, _ = modes_of(values)
        assert positions.size == 2
        assert abs(positions[0]) < 0.1
        assert 3 < positions[1] < 13


def test_logits_of_ten_classes_of_mnist_show_two_peaks():
    # Measured: validation logits of a trained network, 30 bins of [-15, 15]; YES to NO is 1 to 9.
    counts = [18, 24, 65, 142, 260, 430, 710, 1049, 1439, 1914, 2385, 2443, 2352, 1925, 1435]
    counts += [823, 436, 284, 240, 258, 320, 389, 308, 188, 100, 50, 12, 1, 0, 0]
    positions, _ = modes(np.array(counts), LinearAxis(-15, 15, 30).centers)
    np.testing.assert_allclose(positions, [-3.5, 6.5], atol=1)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 10**6))
def test_modes_mirror_and_move_with_the_axis(counts, shift):
    data, centers = np.array(counts), np.arange(len(counts), dtype=float)
    positions, heights = modes(data, centers)
    assert (np.diff(positions) > 0).all()
    assert positions.size > 0 or not data.any()
    moved, same = modes(data, centers + shift)
    np.testing.assert_allclose(moved, positions + shift)
    np.testing.assert_allclose(same, heights)


@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 7, 0], [7], [5, 0, 0], [3, 3, 3]])
def test_modes_of_almost_nothing(counts):
    positions, heights = modes(np.array(counts), np.arange(len(counts), dtype=float))
    assert positions.size == heights.size == (1 if any(counts) else 0)


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
    assert found.mode_position.dims == found.mode_height.dims == ("split", "mode")
    assert found.train_valid_distance.dims == ()
    assert found.attrs == {"h_min": -8, "h_max": 8, "n_bins": 200, "epoch": 2, "layer": "fc", "source": "raw"}
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
        ({"epoch": 7}, "no epoch 7 in .*run.zarr: .*'untrained'"),
        ({"epoch": "lats"}, "no epoch 'lats' in .*: did you mean 'last'?"),
        ({"layer": "fd"}, "no layer 'fd' in .*: did you mean 'fc'?"),
    ],
)
def test_what_the_run_does_not_hold(small_run, ask, message):
    with pytest.raises(SelectionError, match=message):
        twin_peaks(small_run, **ask)


def test_a_run_without_a_head_asks_for_a_layer(record_run):
    run = record_run({"train": [(0, {"fc": np.ones((2, 2))}, None)]}, ["fc"], head=None, raw=False)
    with pytest.raises(SelectionError, match="has no head: name a layer, valid names: 'fc'"):
        twin_peaks(run)
    assert int(twin_peaks(run, layer="fc").n[0]) == 4


def test_a_run_without_rows_has_no_epoch(record_run):
    with pytest.raises(SelectionError, match="no epoch 'last'"):
        twin_peaks(record_run({}, ["fc"]))


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
