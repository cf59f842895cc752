"""Going on with a run: rows of every attempt stay bit by bit, crashes, faults and old layouts included."""

import json
import os
import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import zarr

from actlab.axis import FloatAxis
from actlab.errors import StoreError
from actlab.store import arrays, beginning, commit, layout
from actlab.store.files import RunDirectory
from actlab.store.layout import ROOT, ArrayLayout, to_json
from actlab.store.repairing import repair
from actlab.store.writer import RunWriter


def attributes(path):
    return json.loads((path / ROOT).read_bytes())["attributes"]["actlab"]


@pytest.fixture
def resume(path, small_axis):
    """Return a function that goes on with the run, and is closed at the end."""
    started = []

    def go_on(**options):
        options = {"attributes": {}, "fsync": False, "flush_every": 60, "resume": True} | options
        started.append(RunWriter(path, **({"axis": small_axis} | options)))
        return started[-1]

    yield go_on
    for writer in started:
        writer.close()


@pytest.fixture
def train(make_row, add_side):
    """Return a function that appends training rows [first, stop) to a writer, and returns them."""

    def append(writer, first, stop, *, side=False, **options):
        rows = [replace(make_row(step, **options), train_step=step) for step in range(first, stop)]
        rows = [add_side(row) for row in rows] if side else rows
        for row in rows:
            assert writer.append(row)
        return rows

    return append


@pytest.fixture
def old_run(path, resume, train):
    """A run of six rows, closed."""
    writer = resume(attributes={"model": "Net", "head": "layer0"})
    train(writer, 0, 6)
    writer.close()
    return path


class TestAttributes:
    def test_stay_but_for_those_of_the_writer(self, old_run, resume, train):
        before = attributes(old_run)
        writer = resume(attributes={"model": "Other", "epochs": "given"})
        after = attributes(old_run)
        assert writer.attributes == {"model": "Net", "head": "layer0", "epochs": "given"}
        assert writer.resumed.head == "layer0"
        changed = {"writer", "commit", "closed", "attempts", "epochs"}
        assert {key: after[key] for key in before.keys() - changed} == {
            key: before[key] for key in before.keys() - changed
        }
        assert after["writer"] != before["writer"]
        assert after["commit"] > before["commit"]
        assert (after["closed"], after["attempts"]) == (False, [0, 6])

    def test_steps_count_every_batch(self, path, resume, train):
        writer = resume()
        train(writer, 0, 1)
        writer.flush()
        writer.count("train", 8)
        writer.count("valid", 3)
        writer.count("train", 7)
        assert attributes(path)["steps"] == {"train": 1}
        writer.flush()
        assert attributes(path)["steps"] == {"train": 8, "valid": 3}
        commit_number = attributes(path)["commit"]
        writer.flush()
        assert attributes(path)["commit"] == commit_number
        writer.count("valid", 4)
        writer.close()
        assert attributes(path)["steps"] == {"train": 8, "valid": 4}
        again = resume()
        assert again.resumed.steps == {"train": 8, "valid": 4}
        assert again.flush() == {"train": 0}
        assert attributes(path)["attempts"] == [0, 8]

    def test_gaps_go_on(self, old_run, resume, train):
        writer = resume(resume_step=9, queue_bytes=1)
        assert attributes(old_run)["gaps"] == {"train": [[6, 8]]}
        train(writer, 9, 10)
        writer.close()
        resume(resume_step=8).close()
        said = attributes(old_run)
        assert (said["gaps"], said["attempts"]) == ({"train": [[6, 7]]}, [0, 9, 8])

    def test_a_step_of_another_attempt_is_taken_once_more(self, old_run, resume, train, make_row):
        writer = resume(resume_step=3)
        with pytest.warns(RuntimeWarning, match="step 2 of 'train' is not after the last one, 2"):
            assert not writer.append(make_row(2))
        train(writer, 3, 4)
        assert writer.flush() == {"train": 3}


class TestNothingToGoOnWith:
    def test_is_a_new_run(self, path, resume):
        assert resume().resumed is None
        assert attributes(path)["attempts"] == [0]

    def test_is_refused_at_a_step(self, path, resume):
        with pytest.raises(StoreError, match="no such run, to go on with at step 3"):
            resume(resume_step=3)
        assert not path.exists()
        resume(resume_step=0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"overwrite": True}, "overwrite replaces a run and resume goes on with it"),
        ({"overwrite": True, "resume": False, "resume_step": 3}, "overwrite replaces a run"),
        ({"resume_step": -1}, "resume_step must be a train_step of 0 or more, got -1"),
    ],
)
def test_wrong_arguments_raise_before_anything_is_made(options, reason, path, resume):
    with pytest.raises(ValueError, match=reason):
        resume(**options)
    assert not path.exists()


class TestRefused:
    """What a recorder cannot go on with is refused, and stays as it is."""

    @pytest.fixture
    def refuse(self, old_run, resume):
        def refuse(reason, **options):
            before = {file: file.read_bytes() for file in old_run.rglob("*") if file.is_file()}
            with pytest.raises(StoreError, match=reason) as error:
                resume(**options)
            assert str(error.value).startswith(f"{old_run}: ")
            assert "\n" not in str(error.value)
            assert before == {file: file.read_bytes() for file in old_run.rglob("*") if file.is_file()}

        return refuse

    @pytest.fixture
    def change(self, old_run):
        def change(**values):
            record = json.loads((old_run / ROOT).read_bytes())
            record["attributes"]["actlab"] |= values
            (old_run / ROOT).write_bytes(to_json(record))

        return change

    def test_another_axis(self, refuse):
        refuse("was recorded on FloatAxis.*cannot be gone on with on FloatAxis", axis=FloatAxis())

    def test_another_process(self, refuse, change):
        ranks = {"rank": 1, "world_size": 4, "job": "x"}
        refuse(
            "was recorded by one process, and cannot be gone on with by rank 1 of 4",
            attributes={"ranks": ranks},
        )
        change(ranks=ranks)
        refuse("was recorded by rank 1 of 4, and .* by one process")
        refuse(
            "was recorded by rank 1 of 4, and .* by rank 1 of 2",
            attributes={"ranks": ranks | {"world_size": 2}},
        )

    def test_the_same_rank_of_another_job_goes_on(self, resume, old_run, change):
        ranks = {"rank": 1, "world_size": 4, "job": "x"}
        change(ranks=ranks)
        resume(attributes={"ranks": ranks | {"job": "y"}})
        assert attributes(old_run)["ranks"] == ranks

    def test_rows_merged_while_recording_are_those_of_one_process(self, resume, change):
        change(ranks={"rank": 0, "world_size": 4, "job": "x", "merged": [0, 1, 2, 3], "dropped": {}})
        resume()

    @pytest.mark.parametrize("version", [[1, 3], [2, 0]])
    def test_a_newer_format(self, version, refuse, change):
        change(format_version=version)
        refuse(rf"has format {version[0]}\.{version[1]}, this actlab")

    def test_a_compacted_run(self, refuse, change):
        change(compacted=True)
        refuse("is compacted, and can only be read")

    def test_attempts_that_are_not_listed(self, refuse, change, resume, train):
        writer = resume()
        train(writer, 6, 7)
        writer.close()
        change(attempts=[0])
        refuse("rows of 'train' belong to attempt 1, of 1 that there were")

    def test_a_missing_tail(self, refuse, old_run):
        (old_run / "train" / "n" / "c.0.0").unlink()
        refuse("half a run: the chunk 'train/n/c.0.0' is missing")

    def test_a_damaged_tail(self, refuse, old_run):
        chunk = old_run / "train" / "layer" / "c.0"
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
        refuse("the chunk 'train/layer/c.0' is damaged: its checksum does not match")

    def test_a_tail_that_is_no_file(self, refuse, old_run):
        chunk = old_run / "train" / "n" / "c.0.0"
        chunk.rename(old_run / "train" / "n" / "c.9")
        chunk.symlink_to("c.9")
        refuse("cannot be written: Too many levels of symbolic links")

    def test_a_layout_that_is_only_read(self, refuse, old_run):
        record = json.loads((old_run / ROOT).read_bytes())
        record["consolidated_metadata"]["metadata"]["train/n"]["codecs"][1]["configuration"]["clevel"] = 9
        (old_run / ROOT).write_bytes(to_json(record))
        refuse("'train/n' is stored in a way that can only be read")

    def test_a_run_that_is_being_written(self, refuse, resume):
        writer = resume()
        refuse("is being written by another recorder")
        writer.close()


def chunk_of(path, name, key):
    """Return a chunk as it is in its file."""
    node = json.loads((path / ROOT).read_bytes())["consolidated_metadata"]["metadata"][name]
    return ArrayLayout.from_node(node).decode((path / name / key).read_bytes())


@pytest.fixture
def lose(monkeypatch, train):
    """Return a function that appends rows whose chunks are written, but not their commit."""
    put = RunDirectory.write

    def put_all_but_the_record(directory, name, data):
        if name == ROOT:
            raise OSError(28, "No space left on device")
        put(directory, name, data)

    def lose(writer, first, stop, **options):
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            patch.setattr(RunDirectory, "write", put_all_but_the_record)
            patch.setattr("actlab.store.writer._PATIENCE", 0.0)
            train(writer, first, stop, **options)
            writer.close()
        assert "all rows are lost but train up to" in str(caught[-1].message)

    return lose


def test_rows_behind_the_last_commit_are_gone(
    path, resume, train, lose, fingerprint, stored_rows, monkeypatch
):
    monkeypatch.setattr(arrays, "_MOST_ROWS", 8)
    monkeypatch.setattr(arrays, "_MOST_SAMPLES", 8)
    writer = resume()
    kept = train(writer, 0, 3)
    writer.flush()
    lose(writer, 3, 12, layers=11, side=True)
    assert chunk_of(path, "train/step", "c.0").tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    again = resume()
    assert again.resumed.steps == {"train": 3}
    assert again.resumed.layers == kept[0].layers
    assert [fingerprint(row) for row, *_ in stored_rows(path)] == [fingerprint(row) for row in kept]
    kept += train(again, 3, 4, logs=("lr",), samples=None)
    again.close()
    assert [fingerprint(row) for row, *_ in stored_rows(path)] == [fingerprint(row) for row in kept]
    assert chunk_of(path, "train/step", "c.0").tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    counts = chunk_of(path, "train/counts", "c.0.0.0")
    np.testing.assert_array_equal(counts[3, :3], kept[3].counts)
    assert not counts[4:].any()
    assert not counts[:, 3:].any()
    more = resume()
    kept += train(more, 4, 5, layers=5)
    more.close()
    assert [fingerprint(row) for row, *_ in stored_rows(path)] == [fingerprint(row) for row in kept]
    assert chunk_of(path, "train/layer", "c.0").tolist() == [*(f"layer{n}" for n in range(5)), *[""] * 3]


def test_rows_keep_the_layers_of_their_time(path, resume, train, fingerprint, stored_rows):
    rows = []
    for first, layers in enumerate([3, 5, 5, 9]):
        writer = resume()
        rows += train(writer, first, first + 1, layers=layers)
        writer.close()
    assert [fingerprint(row) for row, *_ in stored_rows(path)] == [fingerprint(row) for row in rows]
    assert attributes(path)["layer_growth"] == {"train": [[0, 3], [1, 5], [3, 9]]}


def test_what_others_put_beside_the_arrays_stays(old_run, resume, train):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata are no standard
        group = zarr.open_group(old_run, mode="r+", use_consolidated=False)
        group["train"].create_array("mine", data=np.arange(6), dimension_names=["step"])
        group.create_group("train/notes").create_array("x", data=np.arange(3), dimension_names=["y"])
        zarr.consolidate_metadata(old_run)
    with pytest.raises(StoreError, match="'train/mine' is stored in a way that can only be read"):
        resume()
    record = json.loads((old_run / ROOT).read_bytes())
    del record["consolidated_metadata"]["metadata"]["train/mine"]
    (old_run / ROOT).write_bytes(to_json(record))
    writer = resume()
    train(writer, 6, 8)
    writer.close()
    tree = xr.open_datatree(old_run, engine="zarr")
    assert tree["train"].step.values.tolist() == [*range(8)]
    assert tree["train/notes"]["x"].values.tolist() == [0, 1, 2]


@pytest.fixture
def as_of_1_1(monkeypatch):
    """Return a context in which runs are written as by version 1.1 of the format."""
    old = layout._codecs_of_1_1

    def context():
        patch = pytest.MonkeyPatch.context()
        with patch as patched:
            patched.setattr(layout, "_codecs", lambda dims, dtype, chunks: old(dims, dtype))
            patched.setattr(arrays, "_LARGEST_CHUNK", 4 << 20)
            patched.setattr(beginning, "FORMAT_VERSION", (1, 1))
            patched.setattr(commit, "FORMAT_VERSION", (1, 1))
            yield

    return contextmanager(context)


def test_a_run_of_an_older_format_goes_on_in_its_own_layout(
    as_of_1_1, path, resume, train, make_row, fingerprint, stored_rows
):
    with as_of_1_1():
        writer = resume()
        rows = train(writer, 0, 3, side=True)
        writer.close()
    old = json.loads((path / ROOT).read_bytes())["consolidated_metadata"]["metadata"]
    assert "transpose" not in json.dumps(old)
    writer = resume()
    rows += train(writer, 3, 5, side=True)
    writer.flush()
    now = json.loads((path / ROOT).read_bytes())["consolidated_metadata"]["metadata"]
    assert {name: node | {"shape": 0} for name, node in now.items()} == {
        name: node | {"shape": 0} for name, node in old.items()
    }
    assert attributes(path)["format_version"] == [1, 1]
    rows.append(make_row(0, "valid"))
    assert writer.append(rows[-1])
    writer.close()
    assert attributes(path)["format_version"] == [1, 2]
    assert [fingerprint(row) for row, *_ in stored_rows(path)] == [fingerprint(row) for row in rows]
    assert [fingerprint(row) for row, *_ in stored_rows(path, consolidated=False)] == [
        fingerprint(row) for row in rows
    ]


def test_an_error_anywhere_leaves_a_run_that_can_be_gone_on_with(
    path, resume, train, failing_disk, fingerprint, stored_rows, monkeypatch
):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # counted as a call, but not waited for
    writer = resume()
    rows = train(writer, 0, 3, side=True)
    writer.close()
    expected = [fingerprint(row) for row in rows]
    for leftover in (".0a1b2c3d.partial", "train/.4e5f6a7b.partial"):
        (path / leftover).write_bytes(b"x")
    with failing_disk() as disk:
        resume(fsync=True).close()
    points = disk.calls
    assert points > 100
    refused = []
    for point in [*range(1, 12, 2), *range(12, points, 61)]:
        (path / ".0a1b2c3d.partial").write_bytes(b"x")
        with failing_disk(point), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                resume(fsync=True).close()
            except StoreError as error:
                refused.append(str(error))
        assert [fingerprint(row) for row, *_ in stored_rows(path)] == expected
        again = resume()
        assert again.resumed.steps == {"train": 3}
        again.close()
        assert attributes(path)["attempts"] == [0, 3]
        alone = stored_rows(path, consolidated=False)
        assert [fingerprint(row) for row, *_ in alone] == expected
        assert not list(path.rglob("*.partial"))
    assert len(refused) > 2
    assert all("No space left on device" in message for message in refused)
    again = resume()
    expected += [fingerprint(row) for row in train(again, 3, 5, side=True)]
    again.close()
    assert [fingerprint(row) for row, *_ in stored_rows(path)] == expected


@pytest.mark.usefixtures("old_run")
def test_an_older_record_put_over_the_newest_is_no_beginning(path, resume, train):
    older = (path / ROOT).read_bytes()
    writer = resume()
    train(writer, 6, 9)
    writer.close()
    (path / ROOT).write_bytes(older)
    with pytest.raises(StoreError, match=r"knows 6 rows of 'train', its arrays 9: .* `actlab repair`"):
        resume()
    assert repair(path).done
    assert resume().resumed.steps["train"] == 9
