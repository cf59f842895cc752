import numpy as np
import pytest

from actlab.axis import LinearAxis
from actlab.charts import sources
from actlab.charts.columns import columns
from actlab.errors import SelectionError
from actlab.rebinning import rebin
from actlab.run import Run

VIEW = LinearAxis(-3, 5, 16)
COUNTED = ["grows", "relu", "odd", "unused"]


@pytest.fixture(scope="module")
def five(charted):
    """Columns of 4 batches: 26 rows on at most 7 columns."""
    return columns(charted.run, VIEW, layers=charted.run.names, max_columns=7)


def pooled(charted, name, rows, split="train"):
    return np.concatenate([charted.values[split, row][name].ravel() for row in rows]).astype(np.float64)


def column_rows(data, column):
    first = int(data.first_row[column])
    return range(first, first + int(data.n_rows[column]))


def test_columns_are_whole_batches_on_multiples_of_k(five):
    assert five.attrs["batches_per_column"] == 4
    assert five.first_row.values.tolist() == [0, 4, 8, 12, 16, 20, 24]
    assert five.n_rows.values.tolist() == [4, 4, 4, 4, 4, 4, 2]
    assert five.step.values.tolist() == five.first_row.values.tolist()
    assert (five.attrs["rows"], five.attrs["first_step"], five.attrs["step_stride"]) == (26, 0, 1)


def test_counts_are_pooled_first_then_rebinned(charted, five):
    recorded = charted.run["train"].counts
    for column in range(five.sizes["column"]):
        rows = column_rows(five, column)
        view = rebin(recorded.isel(step=list(rows)).sum("step"), VIEW).compute()
        for name in COUNTED:
            expected = view.counts.sel(layer=name).values / len(rows)
            np.testing.assert_allclose(five.counts.sel(layer=name)[column], expected, rtol=1e-6)
            if name != "unused":
                n = len(rows) * float(five.n_per_batch.sel(layer=name)[column])
                np.testing.assert_allclose(
                    five.underflow.sel(layer=name)[column], view.underflow.sel(layer=name) / n
                )


def test_the_head_is_exact_from_its_raw_outputs(charted, five):
    for column in range(five.sizes["column"]):
        rows = column_rows(five, column)
        values = pooled(charted, "head", rows)
        counts = np.histogram(values, VIEW.edges)[0]
        np.testing.assert_array_equal(five.counts.sel(layer="head")[column] * len(rows), counts)
        assert float(five.overflow.sel(layer="head")[column]) == np.mean(values > 5)
        assert float(five.underflow.sel(layer="head")[column]) == np.mean(values < -3)
    assert float(five.bound_share.sel(layer="head")) == 0


def test_moments_are_those_of_all_values_of_the_column(charted, five):
    for name in ("grows", "odd", "head"):
        for column in range(five.sizes["column"]):
            rows = column_rows(five, column)
            values = pooled(charted, name, rows)
            finite = values[np.isfinite(values)]
            at = {"layer": name, "column": column}
            np.testing.assert_allclose(five["mean"].sel(layer=name)[column], finite.mean(), rtol=1e-9)
            np.testing.assert_allclose(five["std"].sel(layer=name)[column], finite.std(), rtol=1e-9)
            assert float(five.nonfinite.sel(layer=name).isel(column=column)) == np.mean(~np.isfinite(values))
            batches = [pooled(charted, name, [row]) for row in rows]
            means = [batch[np.isfinite(batch)].mean() for batch in batches]
            extremes = [float(five[key].loc[at]) for key in ("mean_min", "mean_max")]
            np.testing.assert_allclose(extremes, [min(means), max(means)], rtol=1e-9)


def test_everything_adds_up(five):
    called = five.sel(layer=["grows", "relu", "odd", "head"])
    shown = called.counts.sum("bin") / called.n_per_batch
    np.testing.assert_allclose(shown + called.underflow + called.overflow + called.nonfinite, 1, rtol=1e-6)


def test_the_oddest_batch_is_found(five):
    odd = five.sel(layer="odd")
    assert odd.oddest.argmax("column") == 3
    assert odd.oddest_step[3] == 13
    assert odd.oddest[3] == 1  # it shares no bin with the other batches


def test_one_batch_a_column_hides_nothing(charted):
    data = columns(charted.run, VIEW, layers=["odd"])
    assert data.attrs["batches_per_column"] == 1
    assert not data.oddest.values.any()
    np.testing.assert_array_equal(data.oddest_step.values[0], data.step.values)


def test_epochs_hold_the_mean_batch_its_last_quarter_and_validation(charted, five):
    head = five.sel(layer="head")
    assert head.epoch.values.tolist() == [0, 1, 2]
    assert head.epoch_first_row.values.tolist() == [0, 10, 19]
    assert head.epoch_n_rows.values.tolist() == [10, 9, 7]
    lasts = {0: range(7, 10), 1: range(16, 19), 2: range(24, 26)}  # the last ceil(n/4) rows
    for epoch, rows in {0: range(10), 1: range(10, 19), 2: range(19, 26)}.items():
        expected = np.histogram(pooled(charted, "head", rows), VIEW.edges)[0] / len(rows)
        np.testing.assert_allclose(head.epoch_counts.sel(epoch=epoch), expected)
        last = np.histogram(pooled(charted, "head", lasts[epoch]), VIEW.edges)[0] / len(lasts[epoch])
        np.testing.assert_allclose(head.quarter_counts.sel(epoch=epoch), last)
    valid = np.histogram(pooled(charted, "head", [4, 5, 6], "valid"), VIEW.edges)[0] / 3
    np.testing.assert_allclose(head.valid_counts.sel(epoch=2), valid)
    assert head.valid_counts.sel(epoch=1).isnull().all()  # epoch 1 was not evaluated


def test_totals_are_those_of_all_values(charted, five):
    for name in ("grows", "relu", "odd", "head"):
        values = pooled(charted, name, range(26))
        finite = values[np.isfinite(values)]
        one = five.sel(layer=name)
        assert int(one.n) == values.size
        found = [float(one[f"total_{key}"]) for key in ("mean", "std", "min", "max", "zero_share")]
        expected = [finite.mean(), finite.std(), finite.min(), finite.max(), np.mean(values == 0)]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    beyond = np.mean((pooled(charted, "head", range(26)) > 5) | (pooled(charted, "head", range(26)) < -3))
    assert float(five.sel(layer="head").total_out_of_range) == beyond


def test_a_layer_never_called_is_there_and_empty(five):
    unused = five.sel(layer="unused")
    assert int(unused.n) == 0
    assert not unused.counts.values.any()
    assert unused["mean"].isnull().all()
    assert unused.underflow.isnull().all()


@pytest.mark.parametrize("rows_per_block", [1, 3, 5])
def test_blocks_that_cut_columns_change_nothing(charted, five, monkeypatch, rows_per_block):
    whole = Run.__getitem__
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 8 * rows_per_block * (VIEW.n_bins + 6))
    monkeypatch.setattr(Run, "__getitem__", lambda run, split: whole(run, split).chunk(step=rows_per_block))
    again = columns(charted.run, VIEW, layers=charted.run.names, max_columns=7)
    assert again.identical(five)


def test_selected_epochs_and_layers_keep_their_order(charted):
    data = columns(charted.run, VIEW, layers=["head", "grows"], epochs=[2, 0], max_columns=5)
    assert data.layer.values.tolist() == ["head", "grows"]
    assert data.epoch.values.tolist() == [0, 2]
    assert data.attrs["rows"] == 17
    assert data.attrs["step_stride"] == 0  # epoch 1 is missing between them
    assert data.step.values.tolist() == [0, 4, 8, 21, 25]
    assert data.epoch_first_row.values.tolist() == [0, 10]


def test_other_splits_have_columns_too(charted):
    data = columns(charted.run, VIEW, layers=["head"], split="valid")
    assert data.epoch.values.tolist() == [-1, 0, 2]
    assert data.valid_counts.isnull().all()


def test_progress_counts_the_rows(charted):
    seen = []
    columns(charted.run, VIEW, layers=charted.run.names, progress=lambda *pair: seen.append(pair))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_a_miss_names_what_is_near(charted):
    with pytest.raises(SelectionError, match=r"no layer 'grow'.*did you mean 'grows'"):
        columns(charted.run, VIEW, layers=["grow"])
    with pytest.raises(SelectionError, match="no epoch 7"):
        columns(charted.run, VIEW, layers=["head"], epochs=[7])
    with pytest.raises(SelectionError, match="no rows of split 'train'"):
        columns(charted.run, VIEW, layers=["head"], epochs=[])
    with pytest.raises(SelectionError, match="no layers"):
        columns(charted.run, VIEW, layers=[])
