import numpy as np
import pytest

from actlab.axis import LinearAxis
from actlab.charts import paged, sources
from actlab.charts.columns import columns
from actlab.charts.paged import columns_with_slots, read_window, slot_axis, sum_totals
from actlab.charts.slotted import CURVES
from actlab.rebinning import Slots, rebin_array
from actlab.run import Run
from actlab.steps.merging import last_quarter

VIEW = LinearAxis(-3, 5, 16)


def layouts(run, **changes):
    return {
        name: Slots(slot_axis(run, name), 3, -8) if name not in changes else changes[name]
        for name in run.names
    }


@pytest.fixture(scope="module")
def made(charted):
    """Columns of 4 of the 26 rows, on bins and on slots."""
    return columns_with_slots(charted.run, VIEW, layouts(charted.run), charted.run.rows("train"), k=4)


def slots_of(part, values):
    """Count values on the slots kept."""
    place = part.slots.slot_of[part.slots.axis.index(values)] - part.first
    finite = np.isfinite(values)
    return np.bincount(place[finite], minlength=len(part.columns))


def pooled(charted, name, rows, split="train"):
    return np.concatenate([charted.values[split, row][name].ravel() for row in rows]).astype(np.float64)


def test_the_bins_are_those_of_the_columns_without_slots(charted, made):
    plain = columns(charted.run, VIEW, layers=charted.run.names, max_columns=7)
    assert made[0].drop_vars(["oddest", "oddest_step"]).identical(plain.drop_vars(["oddest", "oddest_step"]))
    assert made[0]["oddest"].sel(layer="odd").argmax("column") == 3
    assert made[0]["oddest_step"].sel(layer="odd")[3] == 13


@pytest.mark.parametrize("name", ["grows", "relu", "odd", "unused", "head"])
def test_slots_hold_every_finite_value_of_columns_and_epochs(charted, made, name):
    part, data = made[1][name], made[0]
    for column in range(data.sizes["column"]):
        first = int(data.first_row[column])
        values = pooled(charted, name, range(first, first + int(data.n_rows[column])))
        assert np.array_equal(part.columns[:, column], slots_of(part, values))
    labels = charted.run["train"].epoch.values
    for number, epoch in enumerate(data["epoch"].values):
        rows = np.flatnonzero(labels == epoch)
        after = np.flatnonzero(charted.run["valid"].epoch.values == epoch)
        wanted = dict(
            zip(CURVES, ((rows, "train"), (last_quarter(rows), "train"), (after, "valid")), strict=True)
        )
        for curve, (chosen, split) in wanted.items():
            found = part.epochs[CURVES.index(curve), :, number]
            values = pooled(charted, name, chosen, split) if len(chosen) else np.empty(0)
            assert np.array_equal(found, slots_of(part, values))


def test_raw_outputs_are_kept_finer_than_they_were_counted(charted, made):
    assert made[1]["head"].slots.axis.mantissa_bits > charted.run.axis.mantissa_bits
    assert made[1]["odd"].slots.axis == charted.run.axis


def test_recorded_buckets_give_the_very_picture(charted):
    recorded = {name: Slots.recorded(charted.run.axis) for name in ("odd", "grows")}
    data, slots = columns_with_slots(charted.run, VIEW, recorded, charted.run.rows("train"), k=5)
    for name, part in slots.items():
        whole = np.zeros((part.columns.shape[1], part.slots.starts.size))
        whole[:, part.first : part.first + len(part.columns)] = part.columns.T
        binned = rebin_array(whole, part.slots.lower, part.slots.upper, VIEW).counts
        means = binned / data["n_rows"].values[:, None]
        np.testing.assert_allclose(means, data["counts"].sel(layer=name), rtol=1e-6)


@pytest.mark.parametrize("name", ["odd", "head"])
def test_a_window_holds_single_batches(charted, made, name):
    rows, part = np.array([3, 4, 5, 20]), made[1][name]
    found = read_window(charted.run, name, rows, part)
    for place, row in enumerate(rows):
        assert np.array_equal(found[:, place], slots_of(part, pooled(charted, name, [row])))


def test_blocks_that_cut_columns_change_nothing(charted, made, monkeypatch):
    whole = Run.__getitem__
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(Run, "__getitem__", lambda run, split: whole(run, split).chunk(step=3))
    again = columns_with_slots(charted.run, VIEW, layouts(charted.run), charted.run.rows("train"), k=4)
    for name, part in made[1].items():
        assert np.array_equal(part.columns, again[1][name].columns)
        assert np.array_equal(part.epochs, again[1][name].epochs)


def test_validation_counted_only_stands_at_the_middle_of_its_buckets(charted, made, monkeypatch):
    for module in (paged, sources):
        monkeypatch.setattr(module, "is_kept", lambda run, split: split == "train")
    _, slots = columns_with_slots(charted.run, VIEW, layouts(charted.run), charted.run.rows("train"), k=4)
    counted, exact = slots["head"], made[1]["head"]
    assert np.array_equal(counted.columns, exact.columns)
    assert np.array_equal(counted.epochs[2].sum(axis=0), exact.epochs[2].sum(axis=0))


def test_totals_are_of_train_and_validation(charted):
    found = sum_totals(charted.run, ["head", "odd"])
    assert found["layer"].values.tolist() == ["head", "odd"]
    n = sum(
        charted.values[split, row]["head"].size
        for split in ("train", "valid")
        for row in range(len(charted.epochs[split]))
    )
    assert int(found.sel(layer="head").sum()) == n
