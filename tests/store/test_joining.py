"""Rows of several ranks, in any interleaving: each row of the run whole, in order, or dropped and said."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlab.store.joining import End, Missing, RowJoin
from actlab.store.merging import merge_rows


@pytest.fixture(scope="module")
def row(make_row):
    """Return a function that makes a row of a rank: other values, the same place."""

    def make(step, split="train", rank=0, train_step=None, **options):
        place = {
            "step": step,
            "epoch": 0,
            "batch": step,
            "train_step": step if train_step is None else train_step,
        }
        return replace(make_row(step + 1000 * rank, split, **options), **place)

    return make


@pytest.fixture
def join():
    return RowJoin(2, 1 << 30)


def take(join):
    return [(row.split, row.step) for row in join.take(compare_epochs=True)]


def equal(one, two):
    return all(
        np.array_equal(getattr(one, name), getattr(two, name), equal_nan=True)
        for name in ("counts", "n", "mean", "std", "min", "max")
    )


def test_a_rank_that_comes_late_to_a_split_is_said_and_its_late_rows_are_no_gap(join, row):
    """Rank 1 passes by the first evaluation, and evaluates only after the second epoch."""
    for rank in (0, 1):
        join.put(rank, row(0, rank=rank))
    join.put(0, row(0, "valid", train_step=1))
    for rank in (0, 1):
        join.put(rank, row(1, rank=rank))
    assert sorted(take(join)) == [("train", 0), ("train", 1), ("valid", 0)]
    join.put(1, row(0, "valid", rank=1, train_step=2))
    assert any("rank 1 comes late to 'valid': rows up to step 0 lack its part" in news for news in join.news)
    for rank in (0, 1):
        join.put(rank, row(2, rank=rank))
    assert ("train", 2) in take(join)
    assert join.dropped.get("valid") is None


class TestOrder:
    @given(data=st.data(), ranks=st.integers(1, 4))
    def test_any_interleaving_gives_the_same_rows(self, data, ranks, row):
        """Train, evaluate on some ranks, train on; a few rows are missing on the way."""
        evaluating = data.draw(st.sets(st.integers(0, ranks - 1), min_size=1), label="evaluating")
        plan = [
            ("train", 0, 0),
            ("train", 1, 1),
            ("valid", 0, 2),
            ("valid", 1, 2),
            ("train", 2, 2),
            ("valid", 2, 3),
        ]
        lost = data.draw(
            st.sets(st.tuples(st.integers(0, ranks - 1), st.integers(0, 5)), max_size=2), label="lost"
        )
        streams = []
        for rank in range(ranks):
            mine = [
                Missing(*place) if (rank, index) in lost else row(place[1], place[0], rank, place[2])
                for index, place in enumerate(plan)
                if place[0] == "train" or rank in evaluating
            ]
            streams.append([*mine, End()])
        join, found = RowJoin(ranks, 1 << 30), []
        turns = data.draw(
            st.permutations([rank for rank in range(ranks) for _ in streams[rank]]), label="turns"
        )
        for rank in turns:
            join.put(rank, streams[rank].pop(0))
            found += join.take(compare_epochs=True)
        assert not join.awaited
        gone = {plan[index][:2] for rank, index in lost if plan[index][0] == "train" or rank in evaluating}
        for split in ("train", "valid"):
            steps = [each.step for each in found if each.split == split]
            assert steps == [step for name, step, _ in plan if name == split and (split, step) not in gone]
        assert join.n_dropped == len(gone)
        for each in found:
            parts = [
                row(each.step, each.split, rank, each.train_step)
                for rank in range(ranks)
                if each.split == "train" or rank in evaluating
            ]
            assert equal(each, merge_rows(parts, each.layers))

    def test_waits_for_every_rank(self, join, row):
        join.put(0, row(0))
        assert take(join) == []
        join.put(1, row(0, rank=1))
        assert take(join) == [("train", 0)]

    def test_a_rank_that_does_not_evaluate_has_passed_by_once_it_trains_on(self, join, row):
        for rank in (0, 1):
            join.put(rank, row(0, rank=rank))
        join.put(0, row(0, "valid", train_step=1))
        assert take(join) == [("train", 0)]
        join.put(1, row(1, rank=1))
        assert take(join) == [("valid", 0)]

    def test_the_end_of_a_rank_shows_it_too(self, join, row):
        join.put(0, row(0, "valid"))
        join.put(1, End())
        assert take(join) == [("valid", 0)]
        assert not join.dropped


class TestDropped:
    def test_a_row_that_a_rank_has_lost(self, join, row):
        join.put(0, row(0))
        join.put(1, Missing("train", 0, 0))
        for step in (1, 2):
            for rank in (0, 1):
                join.put(rank, row(step, rank=rank))
        assert take(join) == [("train", 1), ("train", 2)]
        assert join.dropped == {"train": [[0, 0]]}
        assert join.news == ["rank 1 has more rows than it can hand over, some are dropped"]

    def test_rows_of_a_split_that_all_record_need_all(self, join, row):
        for step in (0, 1, 2):
            join.put(0, row(step))
        for step in (0, 2):
            join.put(1, row(step, rank=1))
        assert take(join) == [("train", 0), ("train", 2)]
        assert join.dropped == {"train": [[1, 1]]}

    def test_nothing_is_whole_without_a_lost_rank(self, join, row):
        for step in range(4):
            join.put(0, row(step))
        join.put(1, row(0, rank=1))
        join.put(1, End(is_lost=True))
        assert take(join) == [("train", 0)]
        join.put(0, row(4))
        assert take(join) == []
        assert join.dropped == {"train": [[1, 4]]}
        assert join.news == ["rank 1 is lost, rows it has no part in are dropped"]
        assert join.awaited == [0]

    def test_a_lost_rank_that_had_passed_by_is_not_missed(self, join, row):
        join.put(0, row(0, "valid", train_step=1))
        join.put(1, row(1, rank=1))
        join.put(1, End(is_lost=True))
        assert take(join) == [("valid", 0)]

    def test_nothing_comes_after_the_end(self, join, row):
        join.put(1, End())
        join.put(1, row(0, rank=1))
        join.put(0, End())
        assert take(join) == []

    @pytest.mark.parametrize("place", [{"epoch": 3}, {"train_step": 3}])
    def test_ranks_in_different_places(self, place, join, row):
        join.put(0, row(0))
        join.put(1, replace(row(0, rank=1), **place))
        assert take(join) == []
        assert join.dropped == {"train": [[0, 0]]}

    def test_inferred_epochs_are_those_of_the_lowest_rank(self, join, row):
        join.put(1, replace(row(0, rank=1), epoch=3))
        join.put(0, row(0))
        assert [each.epoch for each in join.take(compare_epochs=False)] == [0]

    def test_heads_that_do_not_fit(self, join, row):
        join.put(0, row(0))
        join.put(1, replace(row(0, rank=1), head=np.zeros((2, 5), np.float32)))
        assert take(join) == []
        assert "cannot be merged" in join.news[0]

    def test_layers_only_grow_at_the_end(self, join, row):
        tables = []
        for step, (mine, others) in enumerate([(2, 4), (3, 4), (6, 5)]):
            join.put(0, row(step, layers=mine))
            join.put(1, row(step, rank=1, layers=others))
            tables += [[layer.name for layer in each.layers] for each in join.take(compare_epochs=True)]
        assert [len(table) for table in tables] == [4, 4, 6]
        assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(tables))


class TestRoom:
    def test_the_latest_rows_are_dropped_and_the_oldest_come_whole(self, row):
        join = RowJoin(2, 3 * row(0).nbytes)
        for step in range(10):
            join.put(0, row(step))
        found = []
        for step in range(10):
            join.put(1, row(step, rank=1))
            found += take(join)
        join.put(0, row(10))
        join.put(1, row(10, rank=1))
        assert [*found, *take(join)] == [("train", step) for step in (0, 1, 10)]
        assert join.dropped == {"train": [[2, 9]]}
        assert join.news == ["the ranks are too far apart, some rows are dropped"]

    def test_a_single_large_row_comes_through(self, row):
        join = RowJoin(2, 1)
        for rank in (0, 1):
            join.put(rank, row(0, rank=rank))
        assert take(join) == [("train", 0)]
