"""Runs that grow: rows from this process, and from one that is killed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actlab.axis import FloatAxis
from actlab.live.watched import Watched
from actlab.schema import LayerInfo
from actlab.store.row import Row
from actlab.store.writer import RunWriter

NAMES = ("input", "body.relu", "fc")


def make_row(step, split="train", *, epoch=None, names=NAMES, value=None, label=True, seed=0):
    """Return a row of normal values; ReLUs have no negative ones; of `value` alone where one is given."""
    axis, random = FloatAxis(), np.random.default_rng([seed, step, len(split)])
    layers = tuple(LayerInfo(name, name.rpartition(".")[2], "", (16, 2), 1) for name in names)
    counts, moments = np.zeros((len(names), axis.n_buckets), np.uint32), np.full((4, len(names)), np.nan)
    values = random.normal(size=(len(names), 16, 2)).astype(np.float32)
    if value is not None:
        values[:] = value
    for place, name in enumerate(names):
        if "relu" in name:
            values[place] = np.maximum(values[place], 0)
        counts[place] = np.bincount(axis.index(values[place].ravel()), minlength=axis.n_buckets)
        if np.isfinite(values[place]).all():
            moments[:, place] = [getattr(values[place], kind)() for kind in ("mean", "std", "min", "max")]
    epoch = step // 4 if epoch is None else epoch
    truth = random.integers(0, 2, 16) if label else None
    n = np.full(len(names), 32, np.uint64)
    logs = {"loss": float(np.exp(-step / 10))}
    place = (split, step, epoch, step % 4, step, 1.7e9 + step)
    return Row(*place, layers, counts, n, *moments, logs=logs, head=values[-1], label=truth)


class Writer:
    """A training that commits rows when it is told to."""

    def __init__(self, path, **options):
        attributes = {"head": NAMES[-1], "model": "Small"} | options.pop("attributes", {})
        self.path = path
        self.writer = RunWriter(
            path, axis=FloatAxis(), attributes=attributes, fsync=False, flush_every=1e9, **options
        )

    def commit(self, *steps, split="train", **changes):
        for step in steps:
            assert self.writer.append(make_row(step, split, **changes))
        self.writer.flush()

    def close(self):
        self.writer.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


@pytest.fixture
def start(path):
    """Return a function that begins a run, or goes on with it."""
    made = []

    def begin(**options):
        made.append(Writer(path, **options))
        return made[-1]

    yield begin
    for writer in made:
        writer.close()


@pytest.fixture
def killed():
    """Return a function that commits rows from another process, which is then killed."""

    def commit(path, *steps, **options):
        folder = str(Path(__file__).parent)
        code = (
            f"import sys, os, pathlib; sys.path.insert(0, {folder!r}); from conftest import Writer\n"
            f"writer = Writer(pathlib.Path({str(path)!r}), **{options!r})\n"
            f"writer.commit(*{steps!r})\n"
            "os.kill(os.getpid(), 9)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9

    return commit


def look(watched):
    """Look once, and say whether anything was new."""
    return any([*watched.look()])


@pytest.fixture
def watch():
    """Return a function that watches a path, and looks once."""
    made = []

    def begin(path):
        made.append(Watched(path))
        look(made[-1])
        return made[-1]

    yield begin
    for watched in made:
        watched.stop()
