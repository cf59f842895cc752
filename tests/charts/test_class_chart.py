"""The small multiples of the classes: what is YES and NO, by unit and by label, held against the outputs."""

import numpy as np
import pytest

from actlab import peaks
from actlab.charts.class_chart import ClassOptions, prepare
from actlab.errors import SelectionError


@pytest.fixture(scope="module")
def outputs():
    random = np.random.default_rng(5)
    labels = np.array([0, 1, 2, 2, 1, 0, 0, 1, 1, 0, 2, 1])
    return random.normal(size=(12, 3)) + 3 * (labels[:, None] == np.arange(3)), labels


@pytest.fixture(scope="module")
def run(record_run, outputs):
    values, labels = outputs
    rows = [(epoch, {"fc": values + epoch}, labels) for epoch in (0, 1)]
    return record_run({"train": rows, "valid": rows}, ["fc"])


@pytest.fixture(scope="module")
def data(run):
    return prepare(run)


def test_each_value_is_counted_where_it_belongs(data, outputs):
    values, labels = outputs
    edges = np.linspace(data.attrs["h_min"], data.attrs["h_max"], data.attrs["n_bins"] + 1)
    mine = labels[:, None] == np.arange(3)
    for label in range(3):
        wanted = {
            ("unit", "yes"): values[mine[:, label], label],
            ("unit", "no"): values[~mine[:, label], label],
            ("label", "yes"): values[mine[:, label], label],
            ("label", "no"): values[mine[:, label]][~mine[mine[:, label]]],
        }
        for (by, truth), expected in wanted.items():
            one = data.sel(by=by, truth=truth, label=label, epoch=0)
            assert int(one["n"]) == expected.size
            counts, _ = np.histogram(expected.astype(np.float32).astype(np.float64), edges)
            np.testing.assert_allclose(one["share"] * expected.size, counts, atol=1e-9)


def test_the_numbers_are_those_of_the_class_peaks(data, run):
    known = peaks.class_peaks(run, 1).sel(split="valid")
    assert set(data["split"].values.tolist()) == {"valid"}
    for name in ("separation", "overlap", "auc"):
        np.testing.assert_allclose(data[name].sel(epoch=1), known[name])


def test_classes_and_names_are_chosen(run):
    data = prepare(run, ClassOptions(classes=[2, 0], names=["cat", "dog"], by="label"), epochs=[1])
    assert data["name"].values.tolist() == ["2", "0 cat"]
    assert data["epoch"].values.tolist() == [1]
    assert data.attrs["shown"] == "label"


def test_a_class_that_is_not_there_is_refused(run):
    with pytest.raises(SelectionError, match=r"no class 3 .*did you mean 2"):
        prepare(run, ClassOptions(classes=[3]))


def test_of_many_classes_those_least_apart_are_shown(record_run):
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(50), 3)
    # The higher the class, the farther is YES from NO.
    values = random.normal(size=(150, 50)) + (labels[:, None] == np.arange(50)) * np.arange(50)
    data = prepare(record_run({"train": [(0, {"fc": values}, labels)]}, ["fc"]))
    assert data["label"].values.tolist() == sorted(data["label"].values.tolist())
    assert data.sizes["label"] == 40
    assert set(range(25)) <= set(data["label"].values.tolist())
    assert "50" in data.attrs["note"]


def test_without_labels_there_is_nothing(record_run):
    rows = [(0, {"fc": np.ones((4, 3))}, None)]
    assert prepare(record_run({"train": rows}, ["fc"])) is None
