"""The writer: what training sees of a slow, full or vanished disk, of forks and of the end."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from actlab.errors import StoreError
from actlab.store import writer as writer_module
from actlab.store.writer import RunWriter


def attributes(path):
    return xr.open_datatree(path, engine="zarr").attrs["actlab"]


class TestCommits:
    def test_the_constructor_commits_an_empty_run(self, start, path):
        start(attributes={"model": "Net"})
        tree = xr.open_datatree(path, engine="zarr")
        assert not tree.children
        said = tree.attrs["actlab"]
        assert (said["format"], said["format_version"], said["model"]) == ("actlab", [1, 2], "Net")
        assert (said["rows"], said["gaps"], said["closed"], said["commit"]) == ({}, {}, False, 1)

    def test_rows_are_committed_without_being_asked(self, start, path, make_row):
        writer = start()
        writer.append(make_row(0))
        limit = time.monotonic() + 30
        while attributes(path)["rows"] != {"train": 1}:
            assert time.monotonic() < limit
            time.sleep(0.01)

    def test_commits_keep_their_distance(self, start, path, make_row):
        writer = start(flush_every=3600)
        writer.append(make_row(0))
        writer.flush()
        for step in range(1, 20):
            writer.append(make_row(step))
        time.sleep(0.05)
        assert attributes(path)["rows"] == {"train": 1}
        assert writer.flush() == {"train": 19}
        assert attributes(path)["commit"] == 3

    def test_flush_of_nothing_commits_nothing(self, start, path):
        writer = start()
        assert [writer.flush(), writer.flush()] == [{}, {}]
        assert attributes(path)["commit"] == 1

    def test_attributes_can_be_added(self, start, path):
        writer = start(attributes={"head": None, "rows": "mine"})
        writer.update_attributes(head="fc")
        writer.flush()
        said = attributes(path)
        assert (said["head"], said["rows"]) == ("fc", {})
        with pytest.raises(StoreError, match="must be JSON"):
            writer.update_attributes(head=float("nan"))

    def test_close_marks_the_run_and_may_be_repeated(self, start, path, make_row):
        writer = start()
        writer.append(make_row(0))
        writer.close()
        writer.close()
        assert attributes(path)["closed"] is True
        with pytest.warns(RuntimeWarning, match="recording has ended, step 1 is dropped"):
            assert not writer.append(make_row(1))
        assert writer.flush() == {"train": 0}

    def test_layer_table_is_the_newest(self, start, path, make_row):
        writer = start()
        row = make_row(0)
        writer.append(row)
        called = tuple(replace(layer, shape=(2, 3), calls=1) for layer in row.layers)
        writer.append(replace(make_row(1), layers=called))
        writer.flush()
        assert attributes(path)["layers"][0] == {
            "name": "layer0", "kind": "", "description": "", "shape": [2, 3], "calls": 1
        }  # fmt: skip

    @pytest.mark.parametrize(
        "options", [{"on_error": "ignore"}, {"flush_every": -1}, {"flush_every": np.nan}]
    )
    def test_wrong_options_raise_before_anything_is_made(self, options, start, path):
        with pytest.raises(ValueError, match="must be"):
            start(**options)
        assert not path.exists()


class TestRefusedRows:
    def test_a_row_that_does_not_fit_is_a_gap_and_one_warning(self, start, path, make_row):
        writer = start()
        assert writer.append(make_row(0))
        huge = replace(make_row(1), counts=np.full((3, 16), 2**32, np.uint64))
        with pytest.warns(RuntimeWarning, match="a count of 4294967296 exceeds 4294967295") as caught:
            taken = [writer.append(replace(huge, step=step)) for step in (1, 2)]
        assert taken == [False, False]
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert writer.append(make_row(3))
        writer.close()
        tree = xr.open_datatree(path, engine="zarr")
        assert tree["train"].step.values.tolist() == [0, 3]
        assert tree.attrs["actlab"]["gaps"] == {"train": [[1, 2]]}

    def test_a_row_without_a_place_is_no_gap(self, start, path, make_row):
        writer = start()
        writer.append(make_row(0))
        with pytest.warns(RuntimeWarning, match="is not after the last one"):
            assert not writer.append(make_row(0))
        writer.flush()
        assert attributes(path)["gaps"] == {}

    def test_bad_side_data_cost_only_themselves_and_are_told_once(self, start, path, make_row, add_side):
        writer = start()
        writer.append(add_side(make_row(0)))
        rows = [add_side(make_row(step), units=5, n_labels=7) for step in (1, 2)]
        with pytest.warns(RuntimeWarning, match="side data dropped: step 1 of 'train': counts of") as caught:
            assert [writer.append(row) for row in rows] == [True, True]
        assert len(caught) == 1
        writer.close()
        train = xr.open_datatree(path, engine="zarr")["train"]
        assert train["step"].values.tolist() == train["channels/row_step"].values.tolist() == [0, 1, 2]
        assert train["head/row_step"].values.tolist() == train["labels/row_step"].values.tolist() == [0]

    def test_a_bad_log_costs_only_itself_and_is_told_once(self, start, path, make_row):
        writer = start()
        rows = [replace(make_row(step), logs={"loss": step / 2, "x": "high", "y/z": 1}) for step in (0, 1)]
        with pytest.warns(RuntimeWarning, match="log dropped: step 0 of 'train': log 'x' must be") as caught:
            assert [writer.append(row) for row in rows] == [True, True]
        assert len(caught) == 1
        writer.close()
        tree = xr.open_datatree(path, engine="zarr")
        assert tree["train"].log_loss.values.tolist() == [0.0, 0.5]
        assert [name for name in tree["train"].data_vars if name.startswith("log_")] == ["log_loss"]
        assert tree.attrs["actlab"]["gaps"] == {}

    def test_on_error_raise_raises_every_time(self, start, make_row):
        writer = start(on_error="raise")
        for step in (0, 1):
            with pytest.raises(StoreError, match="std has shape"):
                writer.append(replace(make_row(step), std=np.zeros(7)))


class TestSlowDisk:
    def test_a_full_queue_drops_whole_rows_and_knows_which(
        self, start, path, gate, make_row, fingerprint, stored_rows
    ):
        size = make_row(0).nbytes
        writer = start(queue_bytes=3 * size)
        rows = [make_row(10 * step) for step in range(6)] + [make_row(step, "valid") for step in range(2)]
        gate.clear()
        with pytest.warns(RuntimeWarning, match="the disk is too slow, rows are dropped") as caught:
            taken = [writer.append(row) for row in rows]
        assert len(caught) == 1
        assert taken == [True] * 3 + [False] * 5
        gate.set()
        writer.flush()
        assert writer.append(make_row(60))
        writer.close()
        kept = [make_row(step) for step in (0, 10, 20, 60)]
        found = [row for row, *_ in stored_rows(path)]
        assert [fingerprint(row) for row in found] == [fingerprint(row) for row in kept]
        assert attributes(path)["gaps"] == {"train": [[30, 50]], "valid": [[0, 1]]}

    def test_append_and_flush_do_not_wait_for_a_hanging_disk(self, start, gate, make_row):
        writer = start()
        writer.append(make_row(0))
        writer.flush()
        gate.clear()
        begun = time.monotonic()
        assert all(writer.append(make_row(step)) for step in range(1, 50))
        assert writer.flush(timeout=0.05) == {"train": 0}
        assert time.monotonic() - begun < 5
        gate.set()
        assert writer.flush() == {"train": 49}


class TestFullDisk:
    def test_nothing_is_lost_and_training_never_raises(
        self, start, path, make_row, failing_disk, fingerprint, stored_rows
    ):
        writer = start()
        writer.append(make_row(0))
        assert writer.flush() == {"train": 0}
        rows = [make_row(step, layers=3 + step // 10) for step in range(30)]
        with failing_disk(1, times=10**9):
            with pytest.warns(RuntimeWarning, match="No space left") as caught:
                answers = [(writer.append(row), writer.flush()) for row in rows[1:]]
            assert answers == [(True, {"train": 0})] * 29
            assert len(caught) == 1
            assert [row.step for row, *_ in stored_rows(path)] == [0]
        assert writer.flush() == {"train": 29}
        found = [row for row, *_ in stored_rows(path)]
        assert [fingerprint(row) for row in found] == [fingerprint(row) for row in rows]

    def test_it_heals_without_being_asked(self, start, path, make_row, failing_disk):
        writer = start()
        with failing_disk(5, times=3):
            writer.append(make_row(0))
            limit = time.monotonic() + 30
            while attributes(path)["rows"] != {"train": 1}:
                assert time.monotonic() < limit
                time.sleep(0.02)

    def test_on_error_raise_raises_at_the_next_call(self, start, make_row, failing_disk):
        writer = start(on_error="raise")
        with failing_disk(1, times=10**9):
            writer.append(make_row(0))
            with pytest.raises(StoreError, match="cannot write"):
                writer.flush()
        assert writer.flush() == {"train": 0}

    def test_close_gives_up_in_the_end_and_says_what_is_kept(
        self, start, path, make_row, failing_disk, monkeypatch
    ):
        monkeypatch.setattr(writer_module, "_PATIENCE", 0.2)
        writer = start(flush_every=3600)
        writer.append(make_row(0))
        writer.flush()
        writer.append(make_row(1))
        with failing_disk(1, times=10**9), pytest.warns(RuntimeWarning) as caught:
            writer.close()
        assert "all rows are lost but train up to step 0" in str(caught[-1].message)
        said = attributes(path)
        assert (said["rows"], said["closed"]) == ({"train": 1}, False)

    def test_a_constructor_that_cannot_write_raises(self, start, failing_disk):
        with failing_disk(2, times=10**9), pytest.raises(StoreError, match="No space left"):
            start()


def test_a_removed_run_ends_the_recording(start, path, make_row):
    writer = start(flush_every=3600)
    writer.append(make_row(0))
    writer.flush()
    while path.exists():  # the writer may still be at its children's metadata
        shutil.rmtree(path, ignore_errors=True)
    writer.append(make_row(1))
    with pytest.warns(RuntimeWarning, match="was removed while it was being recorded; recording has stopped"):
        assert writer.flush() == {"train": 0}
    with pytest.warns(RuntimeWarning, match="recording has ended"):
        assert not writer.append(make_row(2))
    assert not path.exists()


class TestSecondWriter:
    def test_is_refused_in_the_same_process(self, start, make_row):
        writer = start()
        for overwrite in (False, True):
            with pytest.raises(StoreError, match="is being written by another recorder"):
                start(overwrite=overwrite)
        writer.append(make_row(0))
        assert writer.flush() == {"train": 0}

    def test_is_refused_in_another_process(self, start, path, small_axis):
        start()

        def try_it(pipe):
            try:
                RunWriter(path, axis=small_axis, attributes={}, overwrite=True)
            except StoreError as error:
                pipe.send(str(error))

        context = multiprocessing.get_context("fork")
        mine, theirs = context.Pipe()
        child = context.Process(target=try_it, args=(theirs,))
        child.start()
        assert mine.poll(30)
        assert mine.recv().endswith("is being written by another recorder")
        child.join()

    def test_may_start_after_the_first_has_closed(self, start, path, make_row):
        writer = start()
        writer.append(make_row(0))
        writer.close()
        with pytest.raises(StoreError, match="overwrite=True"):
            start()
        start(overwrite=True)
        assert attributes(path)["rows"] == {}


def test_in_a_forked_child_the_writer_does_nothing(start, path, make_row):
    writer = start(flush_every=3600)
    writer.append(make_row(0))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = (writer.append(make_row(1)), writer.flush(), writer.update_attributes(x=1), writer.close())
        os.write(write, repr(said).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 100).decode() == "(False, {}, None, None)"
    assert writer.flush() == {"train": 0}
    # The child must not have opened the lock, nor hold it.
    with pytest.raises(StoreError, match="is being written"):
        start()
    assert "x" not in attributes(path)


# A recording that is never closed, up to how it ends.
UNCLOSED = """
import numpy as np, os, sys
from actlab.axis import FloatAxis
from actlab.schema import LayerInfo
from actlab.store.writer import Row, RunWriter
axis = FloatAxis(1, 0, 0)
writer = RunWriter(sys.argv[1], axis=axis, attributes={}, flush_every=3600)
table, one = (LayerInfo("a"),), np.ones(1)
for step in range(50):
    counts = np.full((1, axis.n_buckets), step, np.uint32)
    writer.append(Row("train", step, 0, step, step, 0.0, table, counts, one, one, one, one, one, {}))
"""


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "1 / 0", "os.kill(os.getpid(), 2)"])
def test_the_end_of_the_program_drains_the_queue(end, path):
    subprocess.run([sys.executable, "-c", UNCLOSED + end, path], check=False, capture_output=True, timeout=60)
    tree = xr.open_datatree(path, engine="zarr")
    assert tree["train"].counts[:, 0, 0].values.tolist() == list(range(50))
    assert tree.attrs["actlab"]["closed"] is True


def test_recording_loads_no_reader():
    heavy = "{'xarray', 'zarr', 'pandas', 'dask', 'torch', 'pydantic'} & set(sys.modules)"
    code = f"import sys, actlab.store.writer; assert not {heavy}, {heavy}"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).stderr == b""


class TestKill:
    """kill -9 at a random time: every row that was acknowledged is there, and every row is right."""

    @staticmethod
    def record(path, axis, make_row, pipe):
        writer = RunWriter(path, axis=axis, attributes={}, fsync=False, flush_every=0.001)
        for step in range(100_000):
            writer.append(make_row(step, layers=3 + step // 40))
            if step % 7 == 0:
                pipe.send(writer.flush())

    @pytest.mark.parametrize("seed", range(6))
    def test_acknowledged_rows_survive(self, seed, path, small_axis, make_row, fingerprint, stored_rows):
        context = multiprocessing.get_context("fork")
        mine, theirs = context.Pipe()
        child = context.Process(target=self.record, args=(path, small_axis, make_row, theirs))
        child.start()
        theirs.close()
        assert mine.poll(30)
        time.sleep(np.random.default_rng(seed).uniform(0, 0.4))
        child.kill()
        child.join()
        acknowledged = {}
        while mine.poll():
            try:
                acknowledged = mine.recv()
            except EOFError:
                break
        found = [row for row, *_ in stored_rows(path)]
        assert len(found) > acknowledged["train"]
        for step, row in enumerate(found):
            assert fingerprint(row) == fingerprint(make_row(step, layers=3 + step // 40))
