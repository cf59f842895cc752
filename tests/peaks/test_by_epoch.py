"""The Twin Peaks over the epochs: distances, and whether they grow."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import linregress, wasserstein_distance

from actlab.errors import SelectionError
from actlab.peaks import trend, twin_peaks

PAIRS = ["train_valid", "train_test", "valid_test"]


@pytest.mark.parametrize("made", ["raw", "counts"])
def test_every_epoch_is_that_of_twin_peaks(train_digits, made):
    run = train_digits("classes", counted=made == "counts").run
    found = trend(run)
    assert found.epoch.values.tolist() == [-1, 0, 1, 2, 3, 4]
    assert found.split.values.tolist() == ["train", "valid", "test"]
    assert found.pair.values.tolist() == PAIRS
    assert found.attrs == {"layer": "3", "source": made, "reading": "two peaks expected"}
    for epoch in found.epoch.values:
        one = twin_peaks(run, int(epoch))
        for name in ("yes_position", "no_position", "peak_distance", "separation", "auc", "n_modes"):
            xr.testing.assert_equal(
                found[name].sel(epoch=epoch, split=one.split, drop=True), one[name].astype(found[name].dtype)
            )
        np.testing.assert_equal(found.distance.sel(epoch=epoch)[0].item(), one.train_valid_distance.item())
    assert bool(found.separation.sel(epoch=-1, split="train").isnull())


def test_the_gap_is_the_difference_of_the_separations_and_its_noise_that_of_samples(record_epochs):
    apart = np.full(60, 2)
    found = trend(record_epochs(np.random.default_rng(4), {"train": apart, "valid": apart}, n=100))
    separation = found.separation
    np.testing.assert_allclose(found.gap[:, 0], separation.sel(split="train") - separation.sel(split="valid"))
    assert float(found.gap[:, 0].std()) == pytest.approx(float(found.gap_noise[:, 0].mean()) / 2, rel=0.25)
    assert bool(found.gap[:, 1:].isnull().all())


def test_a_gap_may_grow_where_the_curves_are_alike(record_run):
    random = np.random.default_rng(6)

    def rows(wrong):
        # As many values are high as low, whatever the labels; more and more labels are not theirs.
        found = []
        for epoch, share in enumerate(wrong):
            label = np.arange(1000) % 2
            head = random.normal(0, 1, 1000) + 4 * np.where(random.random(1000) < share, 1 - label, label)
            found.append((epoch, {"fc": head[:, None]}, label))
        return found

    epochs = np.arange(16)
    found = trend(record_run({"train": rows(0 * epochs), "valid": rows(0.02 * epochs)}, ["fc"]))
    assert float(abs(found.slope[0])) < 3 * float(found.slope_error[0])
    assert found.drift[0].item() == "drifting apart"


def test_wasserstein_is_that_of_the_values(train_digits):
    made = train_digits("classes")
    found, counted = trend(made.run), trend(train_digits("classes", counted=True).run)
    for (a, b), pair in zip([("train", "valid"), ("train", "test"), ("valid", "test")], PAIRS, strict=True):
        exact = wasserstein_distance(*(made.outputs[split, made.last][0].ravel() for split in (a, b)))
        assert found.wasserstein.sel(epoch=made.last, pair=pair).item() == pytest.approx(exact, rel=1e-9)
        assert counted.wasserstein.sel(epoch=made.last, pair=pair).item() == pytest.approx(exact, abs=0.03)


@pytest.fixture
def record_epochs(record_run):
    """Return a function that records one batch an epoch, YES and NO so far apart as given for each split."""

    def record(random, apart, n=300, labelled=True):
        label = np.arange(n) % 2
        splits = {
            split: [
                (epoch, {"fc": (random.normal(0, 1, (n, 1)) + far * label[:, None])}, label)
                for epoch, far in enumerate(parts)
            ]
            for split, parts in apart.items()
        }
        return record_run(splits, ["fc"])

    return record


def test_overfitting_is_seen_to_drift_apart_and_its_slope_is_that_of_scipy(record_epochs):
    epochs = np.arange(12)
    run = record_epochs(np.random.default_rng(1), {"train": 2 + 0.5 * epochs, "valid": 2 + 0.1 * epochs})
    found = trend(run)
    last = found.isel(epoch=slice(6, None))
    line = linregress(last.epoch, last.distance.sel(pair="train_valid"))
    gap = linregress(last.epoch, abs(last.gap.sel(pair="train_valid")))
    assert found.gap_slope[0].item() == pytest.approx(gap.slope)
    assert found.gap_slope_error[0].item() == pytest.approx(gap.stderr)
    assert found.slope[0].item() == pytest.approx(line.slope)
    assert found.slope_error[0].item() == pytest.approx(line.stderr)
    assert found.drift.values.tolist() == ["drifting apart", "not enough epochs", "not enough epochs"]
    assert bool(found.slope[1:].isnull().all())


def test_splits_that_become_alike_draw_together(record_epochs):
    epochs = np.arange(12)
    run = record_epochs(np.random.default_rng(1), {"train": 9 - 0.6 * epochs, "valid": 0 * epochs + 2})
    assert trend(run).drift[0].item() == "drawing together"


@pytest.mark.parametrize("n_epochs", [3, 8, 16])
def test_noise_is_no_drift(record_epochs, n_epochs):
    apart = np.full(n_epochs, 3)
    for seed in range(4):
        run = record_epochs(np.random.default_rng(seed), {"train": apart, "valid": apart}, n=150)
        found = trend(run)
        assert found.drift[0].item() == "no significant trend"
        assert np.isfinite(found.slope[0])


def test_a_distance_that_stays_is_no_drift(record_epochs):
    apart = np.full(10, 3)
    found = trend(record_epochs(np.random.default_rng(2), {"train": apart + 2, "valid": apart}))
    assert (found.distance[:, 0] > 3 * found.noise[:, 0]).all()
    assert found.drift[0].item() == "no significant trend"


@pytest.mark.parametrize("n_epochs", [1, 2])
def test_two_epochs_have_no_trend(record_epochs, n_epochs):
    apart = np.array([1, 9])[:n_epochs]
    found = trend(record_epochs(np.random.default_rng(0), {"train": apart, "valid": 0 * apart}))
    assert found.drift.values.tolist() == ["not enough epochs"] * 3
    assert bool(found.slope.isnull().all() and found.slope_error.isnull().all())


def test_an_exact_line_has_no_error_and_a_constant_no_trend(record_run):
    def rows(shares):
        values = [np.repeat([0.0, 1.0], [100 - share, share])[:, None] for share in shares]
        return [(epoch, {"fc": each}, None) for epoch, each in enumerate(values)]

    same = trend(record_run({"train": rows([50] * 5), "valid": rows([50] * 5)}, ["fc"]))
    assert same.slope[0].item() == same.slope_error[0].item() == 0
    assert same.drift[0].item() == "no significant trend"


def test_a_single_split_has_positions_and_no_distances(record_epochs):
    found = trend(record_epochs(np.random.default_rng(0), {"train": np.arange(4)}))
    assert found.sizes == {"epoch": 4, "split": 1, "pair": 3}
    assert bool(found.distance.isnull().all() and found.wasserstein.isnull().all())
    assert (np.diff(found.separation[:, 0]) > 0).all()


def test_a_regression_has_distances_and_no_peaks(train_digits):
    found = trend(train_digits("float").run)
    assert found.attrs["reading"].startswith("no peaks expected: float targets")
    assert bool(found.yes_position.isnull().all() and found.auc.isnull().all())
    assert bool(np.isfinite(found.distance.sel(pair="train_valid", epoch=range(5))).all())


def test_another_layer_has_a_trend_of_its_own(train_digits):
    found = trend(train_digits("classes").run, layer="0")
    assert found.attrs == {"layer": "0", "source": "counts", "reading": "unknown: not the head"}
    assert bool(np.isfinite(found.distance.sel(pair="train_valid", epoch=range(5))).all())


def test_what_the_run_does_not_hold(small_run, record_run):
    with pytest.raises(SelectionError, match=r"no layer 'fd' in .*: did you mean 'fc'?"):
        trend(small_run, layer="fd")
    with pytest.raises(SelectionError, match="has no head: name a layer"):
        trend(record_run({}, ["fc"]))
