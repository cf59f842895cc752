"""Whatever is appended, plain xarray gives it back, bit by bit, after every commit."""

from itertools import count
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actlab.schema import SPLITS
from actlab.store import table
from actlab.store.layout import chunk_length
from actlab.store.reader import open_snapshot
from actlab.store.row import row_checksum
from actlab.store.writer import RunWriter

ROWS = st.fixed_dictionaries(
    {
        "split": st.sampled_from(SPLITS),
        "more_layers": st.sampled_from([0, 0, 0, 1, 7, 20]),
        "skipped": st.sampled_from([0, 0, 5]),
        "logs": st.sets(st.sampled_from(["loss", "accuracy", "lr.head"])),
        "samples": st.sampled_from([None, 0, 1, 4]),
        "labels": st.booleans(),
        "wide": st.booleans(),
        "flush": st.sampled_from([False, False, True]),
    }
)

PLAIN = {
    "split": "train",
    "more_layers": 0,
    "skipped": 0,
    "logs": set(),
    "samples": 4,
    "labels": False,
    "wide": False,
    "flush": False,
}
LATE = PLAIN | {"more_layers": 7, "logs": {"loss"}, "labels": True}


@pytest.fixture
def small_chunks(monkeypatch):
    """Make chunks so small that a few rows fill several."""
    monkeypatch.setattr(table, "_MOST_ROWS", 2)
    monkeypatch.setattr(table, "_MOST_SAMPLES", 4)


@pytest.mark.usefixtures("small_chunks")
class TestRoundTrip:
    @settings(max_examples=20)
    @example(plan=[PLAIN] * 5 + [LATE], hot=False, layers=3)  # late arrays and layers over full chunks
    @given(plan=st.lists(ROWS, max_size=10), hot=st.booleans(), layers=st.integers(1, 9))
    def test_plain_xarray_holds_exactly_what_was_appended(
        self, plan, hot, layers, small_axis, make_row, fingerprint, stored_rows
    ):
        model = []
        steps = {split: count() for split in SPLITS}
        with TemporaryDirectory() as folder:
            path = f"{folder}/run.zarr"
            writer = RunWriter(path, axis=small_axis, attributes={}, flush_every=60, fsync=False)
            held = (open_snapshot(path), [])
            for item in plan:
                layers += item["more_layers"]
                for _ in range(item["skipped"]):
                    next(steps[item["split"]])
                row = make_row(
                    next(steps[item["split"]]),
                    item["split"],
                    layers=layers,
                    logs=sorted(item["logs"]),
                    samples=item["samples"],
                    labels=("hot" if hot else "index") if item["labels"] else None,
                    wide=item["wide"],
                )
                assert writer.append(row)
                model.append(row)
                if item["flush"]:
                    assert writer.flush() == {row.split: row.step for row in model}
                    self.check(model, stored_rows(path), fingerprint)
                    held = held if held[1] else (open_snapshot(path), list(model))
            writer.close()
            self.check(model, stored_rows(path), fingerprint)
            open_snapshot(path)  # refuses a run that lacks a chunk, which plain xarray would fill
            # A snapshot taken long ago still reads as it did.
            for split, node in held[0].tree.children.items():
                assert node.step.values.tolist() == [row.step for row in held[1] if row.split == split]
                assert (node.counts.sum("bucket") == node.n).all().compute()

    @staticmethod
    def check(model, found, fingerprint):
        by_place = {(row.split, row.step): row for row in model}
        assert len(found) == len(model)
        for row, attempt, checksum in found:
            expected = by_place[row.split, row.step]
            assert fingerprint(row) == fingerprint(expected)
            assert checksum == row_checksum(row, attempt) == row_checksum(expected)


@given(
    entry=st.lists(st.integers(1, 5000), max_size=2).map(tuple),
    itemsize=st.sampled_from([4, 8]),
    limit=st.integers(1, 1 << 24),
    most=st.integers(0, 12).map(lambda bits: 1 << bits),
)
def test_chunk_length_is_the_largest_power_of_two_that_fits(entry, itemsize, limit, most):
    size = itemsize
    for length in entry:
        size *= length
    length = chunk_length(entry, itemsize, limit, most)
    assert length in {1 << bits for bits in range(13)}
    assert length == 1 or (length <= most and length * size <= limit)
    assert length == most or 2 * length * size > limit
