"""Side data of a run as labelled xarray: channels, samples, the head by unit and by label."""

from dataclasses import replace

import numpy as np
import pytest

from actlab.errors import SelectionError, StoreError
from actlab.run import open_run
from actlab.store import side_table, splits
from actlab.store.side_table import SideTable
from actlab.store.writer import RunWriter


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, small_axis, make_row, add_side):
    """Return a run and its rows: side data in every second one, layer2 has more channels later."""
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    writer = RunWriter(path, axis=small_axis, attributes={"head": "layer2"}, fsync=False)
    later = {"sizes": {"layer0": 3, "layer1": 2, "layer2": 4}, "n_labels": 5}
    rows = [add_side(make_row(step), **(later if step == 6 else {})) for step in (0, 2, 4, 6)]
    rows[2] = replace(
        rows[2], channels=replace(rows[2].channels, n=np.zeros(5, np.uint64), zeros=np.zeros(5, np.uint64))
    )
    for row in rows:
        writer.append(row)
        writer.append(make_row(row.step + 1))
    writer.append(make_row(0, "valid"))
    writer.close()
    return open_run(path), rows


def test_channels(recorded):
    run, rows = recorded
    found = run.channels("train")
    assert found.n.chunks is not None
    assert found.sizes == {"row": 4, "channel": 9}
    assert found.layer.values.tolist() == ["layer0"] * 3 + ["layer1"] * 2 + ["layer2"] * 4
    assert found["index"].values.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert found.step.values.tolist() == [0, 2, 4, 6]
    assert found.epoch.values.tolist() == [-1, -1, 0, 0]
    one = found.isel(row=1, channel=found.layer == "layer1")
    stats = rows[1].channels
    np.testing.assert_array_equal(one.zero_share, stats.zeros[3:] / stats.n[3:])
    np.testing.assert_array_equal(one.mean_abs, stats.mean_abs[3:])
    assert bool(found.zero_share[2].isnull().all())  # without values there is no share
    assert found.n[:3, 5:].sum() == 0


def test_samples(recorded):
    run, rows = recorded
    found = run.samples("train", "layer1")
    assert found["values"].chunks is not None
    assert found["values"].dims == ("sample", "dim_1", "dim_2")
    np.testing.assert_array_equal(
        found["values"], np.concatenate([row.samples["layer1"].values for row in rows])
    )
    np.testing.assert_array_equal(
        found["label"], np.concatenate([row.samples["layer1"].label for row in rows])
    )
    assert found["index"].values.tolist() == [2, 1, 0] * 4
    assert found.step.values.tolist() == np.repeat([0, 2, 4, 6], 3).tolist()
    assert found.epoch.values.tolist() == np.repeat([-1, -1, 0, 0], 3).tolist()


def test_head_counts(recorded):
    run, rows = recorded
    found = run.head_counts("train")
    assert found.attrs["units"] == "each"
    np.testing.assert_array_equal(found.counts, np.stack([row.head_counts.counts for row in rows]))
    assert found.counts.dims == ("row", "unit", "truth", "bucket")
    assert found.truth.values.tolist() == ["no", "yes", "unlabelled"]
    np.testing.assert_array_equal(found.lower, run.axis.lower)
    assert found.step.values.tolist() == [0, 2, 4, 6]


def test_label_moments_as_recorded(recorded):
    run, rows = recorded
    found = run.label_moments("train")
    assert found.sizes == {"row": 4, "label": 5, "unit": 2}
    np.testing.assert_array_equal(found["mean"][3], rows[3].label_moments.mean)
    np.testing.assert_array_equal(found["n"][0, 3:], 0)
    assert found.epoch.values.tolist() == [-1, -1, 0, 0]


def test_a_run_goes_through_its_splits(recorded):
    run, _ = recorded
    assert [*run] == [*run.splits]
    assert "train" in run
    assert "trian" not in run


def test_a_split_without_side_data_has_none(recorded):
    run, _ = recorded
    assert run.channels("valid") is run.head_counts("valid") is run.samples("valid", "layer1") is None
    assert run.samples("train", "layer0") is None


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.channels("trian"), "no split 'trian' in .*: did you mean 'train'?"),
        (lambda run: run.samples("trian", "layer1"), "no split 'trian'"),
        (lambda run: run.samples("train", "layr1"), "no layer 'layr1' in .*: did you mean 'layer1'"),
        (lambda run: run.head_counts("test"), "no split 'test'"),
        (lambda run: run.label_moments("test"), "no split 'test'"),
    ],
)
def test_a_wrong_name_is_one_clear_error(recorded, ask, message):
    with pytest.raises(SelectionError, match=message):
        ask(recorded[0])


def test_side_data_of_no_row_are_damage(tmp_path, small_axis, make_row, add_side, monkeypatch):
    add = SideTable.add
    monkeypatch.setattr(SideTable, "add", lambda self, row, attempt: add(self, replace(row, step=9), attempt))
    writer = RunWriter(tmp_path / "run.zarr", axis=small_axis, attributes={}, fsync=False)
    writer.append(add_side(make_row(0)))
    writer.close()
    run = open_run(tmp_path / "run.zarr")
    with pytest.raises(StoreError, match=r"run\.zarr: 'train/channels' has data of step 9, which is no row"):
        run.channels("train")


def test_a_truth_of_other_names_is_damage(tmp_path, small_axis, make_row, add_side, monkeypatch):
    monkeypatch.setattr(side_table, "TRUTHS", ("yes", "no", "unlabelled"))
    writer = RunWriter(tmp_path / "run.zarr", axis=small_axis, attributes={}, fsync=False)
    writer.append(add_side(make_row(0), ["head_counts"]))
    writer.close()
    with pytest.raises(StoreError, match=r"'train/head/truth' is \['yes', 'no', 'unlabelled'\], expected"):
        open_run(tmp_path / "run.zarr").head_counts("train")


class TestLabelMomentsOfRawOutputs:
    @pytest.fixture
    def record(self, tmp_path, small_axis, make_row):
        """Return a function that records heads and labels, one pair a row."""

        def record(pairs):
            writer = RunWriter(tmp_path / "run.zarr", axis=small_axis, attributes={}, fsync=False)
            for step, (head, label) in enumerate(pairs):
                writer.append(replace(make_row(10 * step), head=head, label=label))
            writer.close()
            return open_run(tmp_path / "run.zarr")

        return record

    @pytest.mark.parametrize("block", [1, 300, 4 << 20])
    @pytest.mark.parametrize(("units", "hot"), [(1, False), (4, False), (4, True), (130, False)])
    def test_are_those_of_the_values(self, units, hot, block, record, monkeypatch):
        monkeypatch.setattr(splits, "_BLOCK", block)
        random = np.random.default_rng(units)
        pairs = []
        for samples in (7, 1, 0, 20):
            head = random.normal(5, 2, (samples, units)).astype(np.float32)
            head[random.random(head.shape) < 0.2] = np.nan
            shape = head.shape if hot else samples
            pairs.append((head, random.integers(0, 2 if hot else 5, shape)))
        pairs[0][1].flat[0] = -100
        found = record(pairs).label_moments("train")
        assert found["mean"].chunks is not None
        assert found.step.values.tolist() == [0, 10, 30]
        assert found.sizes["unit"] == (units if units <= 128 else 1)
        found = found.compute()
        for row, (head, label) in enumerate(pair for pair in pairs if len(pair[0])):
            for each in range(found.sizes["label"]):
                mine = head[(label == 1)[:, each] if hot else label == each].astype(float)
                mine = mine.reshape(-1, found.sizes["unit"]) if units > 128 else mine
                cell = found.isel(row=row, label=each)
                assert cell.n.values.tolist() == [len(mine)] * found.sizes["unit"]
                for unit, column in enumerate(mine.T):
                    values = column[np.isfinite(column)]
                    expected = (values.mean(), values.std()) if values.size else (np.nan, np.nan)
                    np.testing.assert_allclose([cell["mean"][unit], cell["std"][unit]], expected, atol=1e-12)

    @pytest.mark.parametrize("label", [None, np.array([-100, -100]), np.array([5000, -1])])
    def test_without_usable_labels_there_are_none(self, label, record):
        assert record([(np.ones((2, 2), np.float32), label)]).label_moments("train") is None
