"""Whatever is appended, plain xarray gives it back, bit by bit, after every commit."""

import json
from copy import deepcopy
from dataclasses import replace
from itertools import count
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actlab.errors import StoreError
from actlab.run import open_run
from actlab.schema import SPLITS
from actlab.store import arrays
from actlab.store.layout import ROOT, chunk_length
from actlab.store.reader import open_snapshot
from actlab.store.row import ChannelStats, HeadCounts, LabelMoments, RawSamples, row_checksum
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
    monkeypatch.setattr(arrays, "_MOST_ROWS", 2)
    monkeypatch.setattr(arrays, "_MOST_SAMPLES", 4)


@pytest.mark.usefixtures("small_chunks")
class TestRoundTrip:
    @settings(max_examples=15)
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


# A damaged root record: refused in one line, or a run that can be looked at; never another error.


def places(node, path=()):
    """Yield the path of every node of a JSON document."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def at(document, path):
    for key in path:
        document = document[key]
    return document


def mutate(document, data):
    """Replace, delete or swap nodes at random places."""
    inner = [path for path in places(document) if path]
    *above, key = data.draw(st.sampled_from(inner), label="where")
    parent = at(document, above)
    match data.draw(st.sampled_from(["replace", "delete", "swap"]), label="how"):
        case "replace":
            parent[key] = deepcopy(data.draw(JUNK, label="by"))
        case "delete":
            del parent[key]
        case "swap":
            *others, other = data.draw(st.sampled_from(inner), label="with")
            there = at(document, others)
            parent[key], there[other] = deepcopy(there[other]), deepcopy(parent[key])


JUNK = st.one_of(
    st.none(),
    st.sampled_from([True, False, -1, 0, 1, 3, 2**40, 10**30, 0.5, 1e300, "", "x", "step", "..", [], {}]),
    st.lists(st.integers(-1, 9), max_size=3),
    st.dictionaries(st.sampled_from(["name", "train", "x"]), st.none() | st.integers(0, 2), max_size=2),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, small_axis, make_row):
    """Return the path and the root record of a small closed run."""
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    writer = RunWriter(path, axis=small_axis, attributes={"head": "layer2", "model": "Net"}, fsync=False)
    for step in range(3):
        writer.append(make_row(step))
    ones = np.ones((2, 1), np.uint64)
    side = {
        "channels": ChannelStats(("layer0",), (2,), ones[:, 0], ones[:, 0], np.ones(2)),
        "samples": {"layer1": RawSamples(np.ones((3, 2), np.float16), np.arange(3), np.arange(3))},
        "head_counts": HeadCounts(np.ones((2, 3, small_axis.n_buckets), np.uint32), pooled=False),
        "label_moments": LabelMoments(ones, np.ones((2, 1)), np.ones((2, 1))),
    }
    writer.append(replace(make_row(0, "valid"), **side))
    writer.close()
    return path, (path / ROOT).read_bytes()


def look_at(run):
    """Compute all that a run shows."""
    assert repr(run)
    assert len(run.layers) == len(run.names)
    for split in run.splits:
        run[split].compute()
        views = [run.raw, run.channels, run.head_counts, run.label_moments]
        found = [view(split) for view in views] + [run.samples(split, layer) for layer in run.names]
        for view in found:
            if view is not None:
                view.compute()


@settings(max_examples=150)
@given(data=st.data(), times=st.sampled_from([1, 1, 1, 2, 4]))
def test_a_damaged_record_gives_a_store_error_or_a_run(data, times, recorded):
    path, record = recorded
    document = json.loads(record)
    for _ in range(times):
        mutate(document, data)
    (path / ROOT).write_text(json.dumps(document))
    message = f"{path}: "
    try:
        look_at(open_run(path))
    except StoreError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
