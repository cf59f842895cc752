"""Attempt after attempt, each in a process that may crash: rows stay bit by bit as they were recorded."""

import itertools
import json
import os
import traceback
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from actlab.schema import COUNTS, MOMENTS
from actlab.store import arrays
from actlab.store.files import RunDirectory
from actlab.store.layout import ROOT
from actlab.store.row import row_checksum
from actlab.store.writer import RunWriter

KINDS = ("channels", "samples", "head_counts", "label_moments")
ROWS = st.fixed_dictionaries(
    {
        "split": st.sampled_from(["train", "train", "valid"]),
        "samples": st.sampled_from([None, 1, 4]),
        "labels": st.booleans(),
        "kinds": st.sets(st.sampled_from(KINDS)),
        "logs": st.sets(st.sampled_from(["loss", "lr"])),
        "flush": st.sampled_from([False, True]),
    }
)
ATTEMPTS = st.fixed_dictionaries(
    {
        "rewind": st.sampled_from([None, None, 0, 1, 2, 5, -2]),
        "layers": st.integers(2, 12),
        "reverse": st.booleans(),
        "rows": st.lists(ROWS, max_size=6),
        "crash": st.none() | st.integers(0, 150),
    }
)


@pytest.fixture
def small_chunks(monkeypatch):
    """Make chunks so small that a few rows fill several."""
    monkeypatch.setattr(arrays, "_MOST_ROWS", 2)
    monkeypatch.setattr(arrays, "_MOST_SAMPLES", 4)


def attributes(path):
    return json.loads((path / ROOT).read_bytes())["attributes"]["actlab"]


@pytest.fixture(scope="session")
def make_rows(make_row, add_side):
    """Return a function that makes the rows of an attempt, a pure function of its arguments."""

    def make(plan, attempt, steps):
        steps = {"train": 0, "valid": 0} | steps
        for item in plan["rows"]:
            split, count = item["split"], plan["layers"]
            step = steps[split]
            labels = "index" if item["labels"] else None
            row = make_row(
                step, split, layers=count, logs=sorted(item["logs"]), samples=item["samples"], labels=labels
            )
            row = replace(row, train_step=steps["train"], time=1e9 + 1000 * attempt + step)
            row = add_side(row, item["kinds"], sampled={"layer1": (2, 3)})
            if plan["reverse"]:
                flip = {each.name: getattr(row, each.name)[::-1].copy() for each in (*MOMENTS, COUNTS)}
                row = replace(row, layers=row.layers[::-1], **flip)
            steps[split] += 1
            yield row, item["flush"]

    return make


def onto(row, names):
    """Bring a row onto the layers so far, to which its own are added."""
    names += [layer.name for layer in row.layers if layer.name not in names]
    mine = {layer.name: place for place, layer in enumerate(row.layers)}
    table = {layer.name: layer for layer in row.layers}
    changes = {}
    for each in (*MOMENTS, COUNTS):
        values = getattr(row, each.name)
        empty = np.full_like(values[0], float(each.fill))
        changes[each.name] = np.stack([values[mine[name]] if name in mine else empty for name in names])
    layers = tuple(table.get(name, replace(row.layers[0], name=name)) for name in names)
    return replace(row, layers=layers, **changes)


def record_in_a_child(path, axis, plan, start, make_rows):
    """Record one attempt in a process that may crash; return its first steps, and how many rows are safe."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            put, calls = RunDirectory.write, itertools.count()

            def put_or_die(directory, name, data):
                if next(calls) == plan["crash"]:
                    os._exit(0)
                put(directory, name, data)

            RunDirectory.write = put_or_die
            writer = RunWriter(
                path, axis=axis, attributes={}, fsync=False, flush_every=60, resume=True, resume_step=start
            )
            attempt, steps = (writer.resumed.attempt, writer.resumed.steps) if writer.resumed else (0, {})
            os.write(write, json.dumps(steps).encode() + b"\n")
            for number, (row, is_flushed) in enumerate(make_rows(plan, attempt, steps), 1):
                assert writer.append(row)
                if is_flushed:
                    writer.flush()
                    os.write(write, b"%d\n" % number)
            if plan["crash"] is None:
                writer.close()
                os.write(write, b"%d\n" % len(plan["rows"]))
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read().splitlines()
    assert os.waitpid(child, 0)[1] == 0
    return (json.loads(said[0]), int(said[-1]) if said[1:] else 0) if said else (None, 0)


def check(model, path, fingerprint, stored_rows, stored_side):
    """Compare all rows with what plain xarray finds."""
    tree = xr.open_datatree(path, engine="zarr")
    found = stored_rows(path) if model else []
    for split in ("train", "valid"):
        mine = [(row, attempt) for row, attempt in model if row.split == split]
        theirs = [each for each in found if each[0].split == split]
        assert len(mine) == len(theirs)
        for (row, attempt), (bare, stored_attempt, checksum) in zip(mine, theirs, strict=True):
            assert attempt == stored_attempt
            assert fingerprint(bare) == fingerprint(row)
            whole = stored_side(bare, tree, attempt)
            assert checksum == row_checksum(whole, attempt) == row_checksum(row, attempt)


@pytest.mark.usefixtures("small_chunks")
@settings(max_examples=6)
@given(plans=st.lists(ATTEMPTS, min_size=2, max_size=4))
def test_rows_of_all_attempts_stay_as_they_were_recorded(
    plans, small_axis, make_rows, fingerprint, stored_rows, stored_side, tmp_path_factory
):
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    model, names = [], []
    for plan in plans:
        is_there = (path / ROOT).exists()
        counted = attributes(path)["steps"].get("train", 0) if is_there else 0
        start = max(0, counted - plan["rewind"]) if plan["rewind"] is not None and is_there else None
        steps, safe = record_in_a_child(path, small_axis, plan, start, make_rows)
        if not (path / ROOT).exists():
            continue
        said = attributes(path)
        attempt = len(said["attempts"]) - 1
        rows = [] if steps is None else [row for row, _ in make_rows(plan, attempt, steps)]
        n_committed = sum(said["rows"].values()) - len(model)
        assert safe <= n_committed <= len(rows)
        model += [(onto(row, names), attempt) for row in rows[:n_committed]]
        assert [layer["name"] for layer in said["layers"]] == names
        check(model, path, fingerprint, stored_rows, stored_side)
    RunWriter(path, axis=small_axis, attributes={}, fsync=False, resume=True).close()
    check(model, path, fingerprint, stored_rows, stored_side)
    assert not list(path.rglob("*.partial"))
