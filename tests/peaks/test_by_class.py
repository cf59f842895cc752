"""YES and NO of single classes on real digits, against numpy and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from actlab.errors import SelectionError
from actlab.peaks import class_peaks, twin_peaks

LABELLED = ["binary", "classes", "multi-hot"]


def expected(head, is_yes):
    """Describe one unit [sample] by numpy and scikit-learn."""
    yes, no = head[is_yes], head[~is_yes]
    return {
        "yes_mean": yes.mean(),
        "yes_std": yes.std(),
        "no_mean": no.mean(),
        "no_std": no.std(),
        "n_yes": yes.size,
        "n_no": no.size,
        "separation": (yes.mean() - no.mean()) / np.sqrt((yes.var() + no.var()) / 2),
        "auc": roc_auc_score(is_yes, head),
        "area_ratio": no.size / yes.size,
    }


@pytest.mark.parametrize("kind", LABELLED)
@pytest.mark.parametrize(("split", "epoch"), [("train", 2), ("valid", -1), ("valid", 4), ("test", 4)])
def test_every_class_is_that_of_the_values(train_digits, marks_of, kind, split, epoch):
    made = train_digits(kind)
    head, targets = made.outputs[split, epoch]
    is_yes = marks_of(kind, targets)
    found = class_peaks(made.run, epoch).sel(split=split)
    assert found.label.values.tolist() == ([1] if kind == "binary" else [*range(head.shape[1])])
    for unit in range(head.shape[1]):
        for name, value in expected(head[:, unit], is_yes[:, unit]).items():
            assert float(found[name][unit]) == pytest.approx(value, rel=1e-9), name
    assert not found.auc_bound.any()
    np.testing.assert_allclose(found.expected_ratio, (~is_yes).sum() / is_yes.sum())


@pytest.mark.parametrize("kind", LABELLED)
def test_counts_by_unit_and_truth_are_within_a_hundredth(train_digits, kind):
    exact, found = class_peaks(train_digits(kind).run), class_peaks(train_digits(kind, counted=True).run)
    assert (exact.attrs["source"], found.attrs["source"]) == ("raw", "counts")
    for name in ("yes_mean", "no_mean", "yes_std", "no_std", "separation", "auc"):
        np.testing.assert_allclose(found[name], exact[name], rtol=0.01)
    if kind != "multi-hot":  # moments by label are those of one class
        for name in ("yes_mean", "no_mean", "yes_std", "no_std", "separation"):
            np.testing.assert_allclose(found[name], exact[name], rtol=1e-6)
    for name in ("n_yes", "n_no", "area_ratio", "expected_ratio"):
        np.testing.assert_array_equal(found[name], exact[name])
    assert (abs(found.auc - exact.auc) <= found.auc_bound + 1e-12).all()
    np.testing.assert_allclose(found.overlap, exact.overlap, atol=0.02)


def test_the_expected_ratio_of_ten_classes_is_nine_to_one(train_digits):
    found = class_peaks(train_digits("classes").run)
    assert (found.expected_ratio == 9).all()
    np.testing.assert_allclose(1 / (1 / (1 + found.area_ratio)).sum("label"), 1)


def test_training_makes_every_class_better(train_digits):
    run = train_digits("classes").run
    before, after = (class_peaks(run, epoch).sel(split="valid") for epoch in ("untrained", "last"))
    assert (after.separation > before.separation + 1).all()
    assert (after.auc > 0.9).all()
    assert (after.overlap < before.overlap).all()


def test_a_class_never_seen_is_not_known(record_run):
    head = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    run = record_run({"valid": [(0, {"fc": head}, np.arange(20) % 2)]}, ["fc"])
    found = class_peaks(run).isel(split=0)
    assert found.n_yes.values.tolist() == [10, 10, 0]
    assert found.n_no.values.tolist() == [10, 10, 20]
    last = found.sel(label=2)
    for name in ("yes_mean", "yes_std", "separation", "overlap", "auc", "auc_bound", "area_ratio"):
        assert np.isnan(last[name])
    assert float(last.no_mean) == pytest.approx(head[:, 2].mean(), rel=1e-6)


def test_a_split_without_labels_knows_nothing_of_its_classes(record_run):
    row = {"fc": np.arange(4.0).reshape(2, 2)}
    run = record_run({"train": [(0, row, np.array([0, 1]))], "valid": [(0, row, None)]}, ["fc"])
    found = class_peaks(run).sel(split="valid")
    assert not found.n_yes.any()
    assert not found.n_no.any()
    assert bool(found.yes_mean.isnull().all() and found.expected_ratio.isnull().all())


@pytest.mark.parametrize("units", [2, 5])
def test_values_that_are_not_finite_are_counted_and_nothing_else(record_run, units):
    head = np.ones((4, units), np.float32)
    head[0] = np.nan
    found = class_peaks(record_run({"valid": [(0, {"fc": head}, np.zeros(4, int))]}, ["fc"]))
    assert found.n_yes.values.tolist() == [[4] + [0] * (units - 1)]
    assert float(found.yes_mean[0, 0]) == 1


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"kind": "float"}, "no peaks expected: float targets"),
        ({"kind": "classes", "labelled": False}, "unknown: no labels were given"),
        ({"kind": "classes", "raw": None}, "labels or outputs of the head were not kept"),
    ],
)
def test_without_yes_and_no_there_are_no_classes(train_digits, made, reason):
    with pytest.raises(SelectionError, match=f"no YES and NO of layer '3' in epoch 4 of .*: {reason}"):
        class_peaks(train_digits(**made).run)


@pytest.mark.parametrize("n", [50, 200])  # 200: of label 1 there are as many values as YES has
def test_a_pooled_head_says_why_it_has_no_classes(tmp_path, n):
    import torch

    import actlab

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 200))
    x, label = torch.randn(n, 3), torch.arange(n)
    with (
        actlab.Recorder(model, tmp_path / "run.zarr", on_error="raise") as recorder,
        recorder.batch("train", 0, label),
    ):
        head = model(x).detach().numpy()
    run = actlab.open_run(tmp_path / "run.zarr")
    found = class_peaks(run)
    assert found.label.values.tolist() == [-1]
    assert "its 200 units were counted together, as they are more than 128" in found.attrs["note"]
    whole = twin_peaks(run)
    for name in ("separation", "overlap", "auc", "area_ratio", "expected_ratio", "n_yes"):
        assert found[name].item() == whole[name].item()
    assert found.area_ratio.item() == 199
    assert found.yes_mean.item() == pytest.approx(head[label, label].mean(), abs=0.02)
    assert "note" not in whole.attrs
