"""Writers that end, and a disk that can be made to fail, for the tests of the store."""

import errno
import os
import threading
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actlab.store.files import RunDirectory
from actlab.store.row import ChannelStats, HeadCounts, LabelMoments, RawSamples
from actlab.store.writer import RunWriter


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


@pytest.fixture
def start(path, small_axis):
    """Return a function that starts a writer; all are closed at the end."""
    started = []

    def begin(**options):
        options = {"attributes": {}, "fsync": False, "flush_every": 0.01} | options
        started.append(RunWriter(path, axis=small_axis, **options))
        return started[-1]

    yield begin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for writer in started:
            writer.close()


@pytest.fixture
def gate(monkeypatch):
    """Return an event: while it is cleared, the disk hangs."""
    event, write = threading.Event(), RunDirectory.write
    event.set()

    def wait_and_write(directory, name, data):
        assert event.wait(30)
        write(directory, name, data)

    monkeypatch.setattr(RunDirectory, "write", wait_and_write)
    yield event
    event.set()


class FailingDisk:
    """Counts every call that changes the disk, and refuses some of them: [first, first + times)."""

    def __init__(self, first, times):
        self.first, self.times, self.calls = first, times, 0

    def step(self):
        self.calls += 1
        if self.first <= self.calls < self.first + self.times:
            raise OSError(errno.ENOSPC, "No space left on device")

    def guard(self, call):
        def guarded(*args, **options):
            self.step()
            return call(*args, **options)

        return guarded


class HalfWrittenFile:
    """A file whose write leaves half of the data when the disk is full."""

    def __init__(self, disk, file):
        self.disk, self.file = disk, file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        try:
            self.disk.step()
        except OSError:
            self.file.write(data[: len(data) // 2])
            raise
        self.file.write(data)


@pytest.fixture
def failing_disk():
    """Return a context manager: within it the disk refuses calls `first` to `first + times - 1`."""

    @contextmanager
    def fail(first=10**9, times=1):
        disk = FailingDisk(first, times)
        real_open = Path.open

        def open_file(path, mode="r", *args, **options):
            if "w" not in mode:
                return real_open(path, mode, *args, **options)
            disk.step()
            return HalfWrittenFile(disk, real_open(path, mode, **options))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "open", open_file)
            for name in ("mkdir", "replace", "unlink"):
                patch.setattr(Path, name, disk.guard(getattr(Path, name)))
            patch.setattr(os, "fsync", disk.guard(os.fsync))
            yield disk

    return fail


# Side data for rows, and what plain xarray gives back of them.

KINDS = ("channels", "samples", "head_counts", "label_moments")


def _channels(random, sizes):
    n = random.integers(1, 9, sum(sizes.values())).astype(np.uint64)
    zeros, mean_abs = random.integers(0, n, endpoint=True, dtype=np.uint64), random.normal(size=n.size) ** 2
    return ChannelStats(tuple(sizes), tuple(sizes.values()), n, zeros, mean_abs)


def _samples(random, count, shape, dtype, labels):
    label = {None: None, "index": random.integers(0, 9, count), "hot": random.integers(0, 2, (count, 3))}
    values = random.normal(size=(count, *shape)).astype(dtype)
    return RawSamples(values, np.arange(count)[::-1].copy(), label[labels])


@pytest.fixture(scope="session")
def add_side(small_axis):
    """Return a function that gives a row side data, a pure function of its arguments."""

    def add(
        row,
        kinds=KINDS,
        *,
        sizes=None,
        sampled=None,
        count=3,
        dtype=np.float32,
        labels="index",
        units=2,
        pooled=False,
        n_labels=3,
    ):
        random = np.random.default_rng([row.step, 7])
        shapes = {"layer1": (2, 3), "layer2": ()} if sampled is None else sampled
        n, mean, std = random.normal(10, 2, (3, n_labels, units))
        mean[0] = std[0] = np.nan
        side = {
            "channels": _channels(random, {"layer0": 3, "layer1": 2} if sizes is None else sizes),
            "samples": {each: _samples(random, count, shapes[each], dtype, labels) for each in shapes},
            "head_counts": HeadCounts(
                random.integers(0, 99, (units, 3, small_axis.n_buckets), dtype=np.uint64), pooled
            ),
            "label_moments": LabelMoments(n.astype(np.uint64), mean, std),
        }
        return replace(row, **{name: side[name] for name in kinds})

    return add


@pytest.fixture(scope="session")
def stored_side():
    """Return a function that adds to a row what plain xarray finds of its side data in a tree."""

    def find(row, tree, attempt=0):
        node = tree[row.split]
        found = {"samples": {}}
        makers = {
            "channels": lambda n, zeros, mean_abs: ChannelStats((), (), n, zeros, mean_abs),
            "head_counts": lambda counts: HeadCounts(counts, node["head"].attrs["units"] == "pooled"),
            "label_moments": LabelMoments,
        }
        names = {"channels": "channels", "head_counts": "head", "label_moments": "labels"}
        variables = {
            "channels": ("n", "zeros", "mean_abs"),
            "head_counts": ("counts",),
            "label_moments": ("n", "mean", "std"),
        }
        for kind, name in names.items():
            if name in node.children:
                data = node[name].to_dataset(inherit=False)
                is_mine = (data["row_step"].values == row.step) & (data["row_attempt"].values == attempt)
                place = np.flatnonzero(is_mine)
                if place.size:
                    assert place.size == 1
                    found[kind] = makers[kind](*(data[each].values[place[0]] for each in variables[kind]))
        groups = node["samples"].children.values() if "samples" in node.children else ()
        for group in groups:
            data = group.to_dataset(inherit=False)
            is_mine = (data["sample_step"].values == row.step) & (data["attempt"].values == attempt)
            data = data.isel(sample=is_mine)
            if data.sizes["sample"]:
                label = data["label"].values if "label" in data else None
                found["samples"][group.attrs["layer"]] = RawSamples(
                    data["values"].values, data["index"].values, label
                )
        return replace(row, **found)

    return find


# Runs with all that a row can have.


@pytest.fixture
def later(make_row):
    """Return a function that makes a row of a training that evaluates after every third batch."""

    def make(step, split="train", **form):
        train_step = step if split == "train" else 3 * (step + 1)
        return replace(make_row(step, split, **form), time=1.7e9 + train_step, train_step=train_step)

    return make


@pytest.fixture
def record(start, later, add_side):
    """Return a function that records rows of two splits with all side data while layers come in."""

    def run(rows=12, close=True):
        writer = start()
        for step in range(rows):
            layers = 3 if step < rows // 2 else 5
            writer.append(add_side(later(step, layers=layers)))
            if step % 3 == 2:
                writer.append(later(step // 3, "valid", layers=layers))
        writer.flush()
        if close:
            writer.close()
        return writer

    return run
