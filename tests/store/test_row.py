"""Which rows can be written, and the checksum of a row."""

import re
from dataclasses import replace

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlab.schema import LayerInfo
from actlab.store.row import Row, RowRules, row_checksum


@given(
    field=st.sampled_from(
        ["step", "epoch", "batch", "train_step", "time", "counts", "n", "mean", "head", "label"]
    ),
    where=st.integers(0, 5),
)
def test_any_change_of_a_row_changes_its_checksum(field, where, make_row):
    row = make_row(3)
    value = getattr(row, field)
    if isinstance(value, np.ndarray):
        changed = np.nan_to_num(value.copy())
        changed.flat[where % changed.size] += 1
    else:
        changed = value + 1
    assert row_checksum(replace(row, **{field: changed})) != row_checksum(row)
    assert row_checksum(row, attempt=1) != row_checksum(row)


def test_checksum_is_the_one_of_the_format(small_axis):
    zero, one = np.zeros(1), np.ones(1)
    counts = np.arange(small_axis.n_buckets, dtype=np.uint64)[None]
    row = Row(
        *("valid", 7, 1, 2, 3, 0.5, (LayerInfo("fc"),), counts, np.array([120]), zero, one, zero, one),
        logs={"b": 2.0, "none": float("nan"), "a": 1.0},
        head=np.array([[1.5]], np.float32),
        label=np.array([-100]),
    )
    integers = np.array([7, 1, 2, 3, 4], "<i8").tobytes()
    moments = np.array([120], "<u8").tobytes() + np.array([0, 1, 0, 1], "<f8").tobytes()
    logs = b"a" + np.float64(1).tobytes() + b"b" + np.float64(2).tobytes()
    data = integers + np.float64(0.5).tobytes() + moments + counts.astype("<u4").tobytes() + logs
    data += np.array([1.5], "<f4").tobytes()
    assert row_checksum(row, attempt=4) == google_crc32c.value(data)
    assert row_checksum(replace(row, label=np.array([1])), attempt=4) == google_crc32c.value(
        data + np.array([1], "<i8").tobytes()
    )


class TestRules:
    def test_steps_increase_within_a_split(self, make_row, small_axis):
        rules = RowRules(small_axis.n_buckets)
        assert [rules.misplaced(make_row(step)) for step in (0, 1, 5)] == [None, None, None]
        assert rules.misplaced(make_row(5)) == "step 5 of 'train' is not after the last one, 5"
        assert rules.misplaced(make_row(0, "valid")) is None

    def test_an_unknown_split_names_the_nearest(self, make_row, small_axis):
        row = replace(make_row(0), split="validation")
        assert RowRules(small_axis.n_buckets).misplaced(row) == (
            "unknown split 'validation', did you mean 'valid'?"
        )

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            (
                {"counts": np.zeros((3, 16), np.int64)},
                r"counts are int64 \(3, 16\), expected uint32 or uint64",
            ),
            ({"counts": np.zeros((2, 16), np.uint32)}, r"counts are uint32 \(2, 16\), .* \(3, 16\)"),
            ({"counts": np.full((3, 16), 2**32, np.uint64)}, "a count of 4294967296 exceeds 4294967295"),
            ({"std": np.zeros(4)}, r"std has shape \(4,\), expected \(3,\)"),
            ({"layers": (LayerInfo("layer0"), LayerInfo("other"), LayerInfo("layer2"))}, "may only grow"),
            ({"layers": (LayerInfo("layer0"),)}, "may only grow"),
        ],
    )
    def test_a_row_that_breaks_the_format_is_refused_in_one_line(self, changes, reason, make_row, small_axis):
        rules = RowRules(small_axis.n_buckets)
        assert rules.broken(make_row(0)) is None
        found = rules.broken(replace(make_row(1), **changes))
        assert found is not None
        assert found.startswith("step 1 of 'train': ")
        assert "\n" not in found
        assert re.search(reason, found)
        assert rules.broken(make_row(2)) is None

    @pytest.mark.parametrize(
        ("head", "reason"),
        [
            (np.zeros((2, 2)), "head is float64"),
            (np.zeros(2, np.float32), r"expected float32 \[sample, unit\]"),
            (np.zeros((2, 3), np.float32), "head has 3 units, expected 2"),
            (np.zeros((2, 0), np.float32), "head has 0 units"),
        ],
    )
    def test_outputs_that_break_the_format_cost_only_themselves(self, head, reason, make_row, small_axis):
        rules = RowRules(small_axis.n_buckets)
        assert rules.broken(make_row(0)) is None
        row, problem = rules.sound_side(replace(make_row(1), head=head))
        assert (row.head, row.label) == (None, None)
        assert problem.startswith("step 1 of 'train': ")
        assert re.search(reason, problem)
        assert rules.broken(row) is None
        assert rules.sound_side(make_row(2))[1] is None

    @pytest.mark.parametrize(
        ("label", "reason"),
        [
            (np.zeros(3, np.int64), r"label is int64 \(3,\), expected int64 \(2,\) or \(2, 2\)"),
            (np.zeros(2, np.float32), "label is float32"),
            (np.zeros((2, 2), np.int64), "label has 2 dims, before it had 1"),
        ],
    )
    def test_labels_that_break_the_format_cost_only_themselves(self, label, reason, make_row, small_axis):
        rules = RowRules(small_axis.n_buckets)
        assert rules.broken(make_row(0)) is None
        row, problem = rules.sound_side(replace(make_row(1), label=label))
        assert row.label is None
        assert row.head is not None
        assert problem.startswith("step 1 of 'train': ")
        assert re.search(reason, problem)
        assert rules.broken(row) is None

    def test_the_largest_count_is_fine(self, make_row, small_axis):
        row = replace(make_row(0), counts=np.full((3, 16), 2**32 - 1, np.uint64))
        assert RowRules(small_axis.n_buckets).broken(row) is None


class TestLogs:
    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("../../x", 1.0, "log name '../../x' must be 1 to 120 of A-Z a-z 0-9 _ . -"),
            (3, 1.0, "log name 3 must be 1 to 120 of A-Z a-z 0-9 _ . -"),
            ("loss", "low", "log 'loss' must be a number, got str"),
            ("loss", 1j, "log 'loss' must be a number, got complex"),
            ("loss", 10**400, "log 'loss' is too large for a float64"),
        ],
    )
    def test_a_scalar_the_format_cannot_hold_goes_alone(self, name, value, reason, make_row):
        row = replace(make_row(4), logs={"a": 1, name: value, "b": float("inf")})
        assert RowRules(1).sound_logs(row) == ({"a": 1.0, "b": float("inf")}, f"step 4 of 'train': {reason}")

    def test_sound_ones_stay(self, make_row):
        row = make_row(4, logs=("loss", "lr.head"))
        assert RowRules(1).sound_logs(row) == (row.logs, None)

    def test_names_are_limited_for_each_split(self, make_row, monkeypatch):
        monkeypatch.setattr("actlab.store.row.MOST_LOGS", 3)
        rules = RowRules(1, logs={"train": {"a", "b"}})
        found, problem = rules.sound_logs(replace(make_row(4), logs={"c": 1.0, "d": 2.0, "a": 3.0}))
        assert found == {"c": 1.0, "a": 3.0}
        assert problem == "step 4 of 'train': log 'd' is one name more than 3"
        row = replace(make_row(4, "valid"), logs={"d": 1.0})
        assert rules.sound_logs(row) == (row.logs, None)
