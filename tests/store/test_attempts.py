"""Which rows a resumed training has replaced: the rule, and what is shown of a run."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from actlab.errors import StoreError
from actlab.run import open_run
from actlab.store.attempts import live_rows
from actlab.store.layout import ArrayLayout
from actlab.store.merging import rank_path
from actlab.store.reader import open_snapshot
from actlab.store.writer import RunWriter


@st.composite
def runs(draw):
    """Draw a run as a list of (train_step, attempt) in order, and where its attempts began."""
    starts, rows = [0], []
    for attempt in range(draw(st.integers(1, 4))):
        if attempt:
            starts.append(draw(st.integers(0, 12)))
        steps = sorted(draw(st.lists(st.integers(starts[-1], 14), max_size=6)))
        rows += [(step, attempt) for step in steps]
    return rows, starts


def is_live(split, row, rows, starts):
    """Say the rule in words: the slow way."""
    step, attempt = row
    for later in range(attempt + 1, len(starts)):
        if starts[later] < step or (starts[later] == step and split == "train"):
            return False
        if starts[later] == step and any(other == step and number > attempt for other, number in rows):
            return False
    return True


@given(runs(), st.sampled_from(["train", "valid"]))
def test_the_rule(run, split):
    rows, starts = run
    table = np.array(rows, np.int64).reshape(-1, 2)
    found = live_rows(split, table[:, 0], table[:, 1], starts)
    assert found.tolist() == [is_live(split, row, rows, starts) for row in rows]


@given(runs())
def test_live_training_rows_are_in_order(run):
    rows, starts = run
    table = np.array(rows, np.int64).reshape(-1, 2)
    steps = table[:, 0][live_rows("train", table[:, 0], table[:, 1], starts)]
    assert (np.diff(steps) >= 0).all()


def test_an_attempt_that_is_not_listed():
    with pytest.raises(StoreError, match="rows of 'train' belong to attempt 2, of 2 that there were"):
        live_rows("train", np.array([0]), np.array([2]), [0, 3])


@pytest.fixture(scope="module")
def resume(tmp_path_factory, small_axis):
    """Return a function that records attempts [(resume_step, rows)], and returns the path."""

    def record(*attempts, path=None, **attributes):
        path = path or tmp_path_factory.mktemp("run") / "run.zarr"
        for start, rows in attempts:
            options = {"attributes": {"head": "layer2"} | attributes, "fsync": False}
            writer = RunWriter(path, axis=small_axis, resume_step=start, **options)
            for row in rows:
                assert writer.append(row)
            writer.close()
        return path

    return record


@pytest.fixture(scope="module")
def rows(make_row, add_side):
    """Return a function that makes rows with side data: their values tell the attempt by `seed`."""

    def make(steps, split="train", seed=0):
        return [
            replace(
                add_side(make_row(step + 1000 * seed, split)),
                step=step,
                epoch=step // 2,
                batch=step % 2,
                train_step=step,
            )
            for step in steps
        ]

    return make


@pytest.fixture(scope="module")
def resumed(resume, rows):
    """Return a run of 6 batches, resumed at 3, and its attempts."""
    first, second = rows(range(6)), rows(range(3, 8), seed=1)
    return resume((None, first), (3, second)), first, second


class TestShown:
    def test_live_rows_only(self, resumed):
        path, first, second = resumed
        run, rows = open_run(path), [*first[:3], *second]
        train = run["train"]
        assert train.step.values.tolist() == [row.step for row in rows]
        assert train.attempt.values.tolist() == [0] * 3 + [1] * 5
        np.testing.assert_array_equal(train.counts, np.stack([row.counts for row in rows]))
        assert run.attributes["rows"] == {"train": 8}
        assert "2 attempts, without the rows that a later one has replaced" in repr(run)

    def test_all_rows(self, resumed):
        path, first, second = resumed
        run, rows = open_run(path, all_attempts=True), [*first, *second]
        train = run["train"]
        assert train.step.values.tolist() == [row.step for row in rows]
        assert train.attempt.values.tolist() == [0] * 6 + [1] * 5
        np.testing.assert_array_equal(train.counts, np.stack([row.counts for row in rows]))
        assert "2 attempts, with the rows that a later one has replaced" in repr(run)

    @pytest.mark.parametrize("all_attempts", [False, True])
    def test_side_data_follow_their_rows(self, all_attempts, resumed):
        path, first, second = resumed
        run = open_run(path, all_attempts=all_attempts)
        rows = [*first, *second] if all_attempts else [*first[:3], *second]
        attempts = ([0] * 6 if all_attempts else [0] * 3) + [1] * 5
        for data in (run.channels("train"), run.head_counts("train"), run.label_moments("train")):
            assert data.step.values.tolist() == [row.step for row in rows]
            assert data.attempt.values.tolist() == attempts
            assert data.epoch.values.tolist() == [row.epoch for row in rows]
        np.testing.assert_array_equal(run.channels("train").n, np.stack([row.channels.n for row in rows]))
        raw, samples = run.raw("train"), run.samples("train", "layer1")
        np.testing.assert_array_equal(raw["head"], np.concatenate([row.head for row in rows]))
        assert raw.attempt.values.tolist() == np.repeat(attempts, 2).tolist()
        np.testing.assert_array_equal(
            samples["values"], np.concatenate([row.samples["layer1"].values for row in rows])
        )

    def test_rows_of_one_step_keep_apart(self, resumed):
        path, first, second = resumed
        run = open_run(path, all_attempts=True)
        rows = run.rows("train", 2)
        assert rows.tolist() == [4, 5, 7, 8]
        for place, row in ((4, first[4]), (7, second[1])):
            found = run.samples("train", "layer1")
            chosen = run["train"].isel(step=[place])
            kept = found.isel(sample=(found.step == row.step) & (found.attempt == int(chosen.attempt[0])))
            np.testing.assert_array_equal(kept["values"], row.samples["layer1"].values)
            counts = run.head_counts("train").isel(row=place).counts
            np.testing.assert_array_equal(counts, row.head_counts.counts)

    def test_moments_by_label_of_raw_outputs_keep_apart(self, resume, make_row):
        def plain(steps, seed):
            return [replace(make_row(step + 1000 * seed), step=step, train_step=step) for step in steps]

        path = resume((None, plain(range(4), 0)), (2, plain(range(2, 4), 1)))
        assert open_run(path).label_moments("train").step.values.tolist() == [0, 1, 2, 3]
        found = open_run(path, all_attempts=True).label_moments("train")
        assert found.step.values.tolist() == [0, 1, 2, 3, 2, 3]
        assert found.attempt.values.tolist() == [0, 0, 0, 0, 1, 1]

    def test_an_evaluation_holds_until_it_is_repeated(self, resume, rows):
        def valid(steps, seed=0):
            return [replace(row, train_step=4, epoch=1) for row in rows(steps, "valid", seed)]

        path = resume((None, [*rows(range(4)), *valid(range(2))]), (4, rows(range(4, 6), seed=1)))
        assert open_run(path)["valid"].attempt.values.tolist() == [0, 0]
        path = resume((4, valid(range(2, 4), seed=2)), path=path)
        assert open_run(path)["valid"].attempt.values.tolist() == [2, 2]

    def test_a_split_without_live_rows_is_none(self, resume, rows):
        valid = [replace(row, train_step=4, epoch=1) for row in rows(range(2), "valid")]
        path = resume((None, [*rows(range(4)), *valid]), (1, rows(range(1, 3), seed=1)))
        assert open_run(path).splits == ("train",)
        assert open_run(path).attributes["rows"] == {"train": 3}
        assert open_run(path, all_attempts=True).splits == ("train", "valid")

    def test_one_layer_is_read_alone(self, resumed, monkeypatch):
        decoded = []
        decode = ArrayLayout.decode_columns

        def spy(layout, data, columns):
            decoded.append(columns.size)
            return decode(layout, data, columns)

        monkeypatch.setattr(ArrayLayout, "decode_columns", spy)
        run = open_run(resumed[0])
        one = run["train"].counts.sel(layer="layer1", drop=True)
        chunks = len(one.chunks[0])
        one.compute()
        one.isel(step=np.array([0, 2, 5])).sum("step").compute()
        assert decoded == [1] * 2 * chunks
        one.compute(), run["train"].counts.compute()
        assert decoded[2 * chunks :] != [1] * chunks


class TestRanks:
    def test_each_is_reduced_before_they_are_merged(self, resume, rows):
        for rank in range(2):
            said = {"ranks": {"rank": rank, "world_size": 2, "job": "a1"}}
            path = resume((None, rows(range(4), seed=10 + rank)), **said)
            resume((2, rows(range(2, 5), seed=20 + rank)), path=path, **said)
            if rank == 0:
                run = path
            else:
                path.rename(rank_path(run, 1))
        merged = open_run(run)
        assert merged["train"].step.values.tolist() == [0, 1, 2, 3, 4]
        assert merged["train"].attempt.values.tolist() == [0, 0, 1, 1, 1]
        assert merged.channels("train").attempt.values.tolist() == [0, 0, 1, 1, 1]
        assert merged.raw("train").sizes["sample"] == 5 * 2 * 2
        with pytest.raises(StoreError, match=r"recorded by 2 ranks, .*: open 'run\.rank0\.zarr'"):
            open_run(run, all_attempts=True)
        alone = open_run(run.with_name("run.rank0.zarr"), all_attempts=True)
        assert alone["train"].sizes["step"] == 7


def test_the_tree_of_all_attempts_is_the_plain_one(resumed):
    snapshot = open_snapshot(resumed[0])
    plain = xr.open_datatree(resumed[0], engine="zarr")
    xr.testing.assert_identical(snapshot.tree["train"].to_dataset(), plain["train"].to_dataset())
