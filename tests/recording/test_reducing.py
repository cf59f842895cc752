"""Rows sent to rank 0 and merged there: over real sockets, all ranks in one process."""

import json
import os
import socket
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from torch.distributed import HashStore

from actlab.errors import StoreError
from actlab.recording import reducing, resumption
from actlab.recording.distributed import Place
from actlab.recording.reducing import ReducingWriter, SendingWriter
from actlab.recording.resumption import tell_refused, tell_resumed
from actlab.run import open_run
from actlab.store.joining import Missing
from actlab.store.merging import merge_rows
from actlab.store.resuming import Resumed
from actlab.store.writer import RunWriter

# Warnings of the writers are raised by the calls that tell them.
LOST = pytest.mark.filterwarnings("ignore:.*run.zarr:RuntimeWarning")


@pytest.fixture
def row(make_row):
    """Return a function that makes a row of a rank: other values, the same place."""

    def make(step, split="train", rank=0, **options):
        place = {"step": step, "epoch": 0, "batch": step, "train_step": step}
        made = make_row(step + 1000 * rank, split, **options)
        counts = made.counts // 1000  # so that the sum over the ranks has room
        return replace(made, counts=counts, n=counts.sum(axis=1, dtype=np.uint64), **place)

    return make


@pytest.fixture
def start(tmp_path, small_axis):
    """Return a function that starts the writers of all ranks."""
    store, started = HashStore(), []

    def begin(world_size=2, ranks=None, job="a1", key="key", resume_step=None, **options):
        path = tmp_path / "run.zarr"
        places = [Place(rank, world_size, job, key, store) for rank in range(world_size)]
        attributes = {"ranks": places[0].attributes | {"merged": [0, 1]}}
        writer = RunWriter(path, axis=small_axis, attributes=attributes, fsync=False, resume_step=resume_step)
        writers = [ReducingWriter(writer, places[0], **options)]
        writers += [
            SendingWriter(path, places[rank], **options)
            for rank in (range(1, world_size) if ranks is None else ranks)
        ]
        started.extend(writers)
        return writers

    yield begin
    for writer in started:
        writer._deadline = 0.0
        writer._on_error = "warn"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reducing.warnings, "warn", lambda *_, **__: None)
            writer.close()


def close(*writers):
    """Close the writers of all ranks at once, as their processes do."""
    threads = [threading.Thread(target=writer.close) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


class TestRun:
    def test_is_that_of_all_ranks(self, start, row):
        writers = start(3)
        for step in range(5):
            for rank, writer in enumerate(writers):
                assert writer.append(row(step, rank=rank))
        writers[0].append(row(0, "valid"))
        close(*writers)
        run = open_run(writers[0].path)
        assert run.attributes["closed"]
        assert run.attributes["ranks"] == {
            "rank": 0,
            "world_size": 3,
            "job": "a1",
            "merged": [0, 1, 2],
            "dropped": {},
        }
        train = run["train"].load()
        assert train.step.values.tolist() == list(range(5))
        for step in range(5):
            whole = merge_rows([row(step, rank=rank) for rank in range(3)], row(step).layers)
            for name in ("counts", "n", "mean", "std", "min", "max"):
                np.testing.assert_array_equal(train[name][step], getattr(whole, name))
        assert run["valid"].n.sum() == row(0, "valid").n.sum()
        assert run.raw("train")["head"].shape == (5 * 3 * 2, 2)

    def test_describes_itself_on_rank_0(self, start):
        first, second = start()
        second.update_attributes(head="other")
        first.update_attributes(head="fc")
        close(first, second)
        assert open_run(first.path).attributes["head"] == "fc"

    def test_flush_waits_for_nobody(self, start, row):
        first, second = start()
        first.append(row(0))
        assert first.flush() == {}
        second.append(row(0, rank=1))
        deadline = time.monotonic() + 10
        while first.flush() != {"train": 0} and time.monotonic() < deadline:
            time.sleep(0.01)
        assert first.flush() == second.flush() == {"train": 0}

    @LOST
    def test_closing_twice_and_late_rows(self, start, row):
        writers = start()
        close(*writers)
        close(*writers)
        assert not any(writer.append(row(0)) for writer in writers)


class TestResume:
    def test_keeps_its_job_and_what_was_dropped_before(self, start, row):
        first, second = start()
        for step in range(6):
            first.append(row(step))
            second.append(Missing("train", step, step) if step in (1, 4, 5) else row(step, rank=1))
        with pytest.warns(RuntimeWarning, match="rank 1 has more rows than it can hand over"):
            close(first, second)
        assert open_run(first.path).attributes["ranks"]["dropped"] == {"train": [[1, 1], [4, 5]]}
        writers = start(job="a2", key="later", resume_step=5)
        for step in range(5, 8):
            for rank, writer in enumerate(writers):
                writer.append(row(step, rank=rank))
        close(*writers)
        run = open_run(first.path)
        assert run["train"].step.values.tolist() == [0, 2, 3, 5, 6, 7]
        assert run.attributes["ranks"]["job"] == "a1"
        assert run.attributes["ranks"]["dropped"] == {"train": [[1, 1], [4, 4]]}

    def test_a_rank_hears_of_it_from_rank_0(self, monkeypatch):
        place = Place(1, 2, "a1", "key", HashStore())
        resumed = Resumed(2, {"train": 7, "valid": 4}, {"train": (1, 2)}, "train", 1, (), "fc")
        marks = {"marks": [{"train_step": 7}], "head_unit_dim": -1, "epochs": "given"}
        tell_resumed(place, resumed, marks | {"model": "Net"})
        second = SendingWriter("run.zarr", place, resumes=True)
        assert (second.resumed, second.attributes) == (resumed, marks)
        tell_resumed(place, None, {})
        assert SendingWriter("run.zarr", place, resumes=True).resumed is None
        tell_refused(place, StoreError("run.zarr: no such run"))
        with pytest.raises(StoreError, match=r"run.zarr: no such run"):
            SendingWriter("run.zarr", place, resumes=True)

    def test_rank_0_that_says_nothing_is_not_waited_for_for_ever(self, monkeypatch):
        monkeypatch.setattr(resumption, "_PATIENCE", 0.1)
        with pytest.raises(StoreError, match="rank 0 does not say where the run goes on"):
            SendingWriter("run.zarr", Place(1, 2, "a1", "key", HashStore()), resumes=True)


class TestLostRanks:
    @LOST
    def test_one_that_dies(self, start, row):
        first, second = start()
        for step in range(3):
            second.append(row(step, rank=1))
        while second.flush() != {"train": 2}:
            time.sleep(0.01)
        second._links[0].close()  # what the kernel does for a process that was killed
        for step in range(6):
            first.append(row(step))
        first.close()
        run = open_run(first.path)
        assert run["train"].step.values.tolist() == [0, 1, 2]
        assert run.attributes["ranks"]["dropped"] == {"train": [[3, 5]]}
        assert run.attributes["closed"]

    @LOST
    def test_one_that_never_comes(self, start, row, monkeypatch):
        monkeypatch.setattr(reducing, "_PATIENCE", 0.2)
        (first,) = start(ranks=())
        first.append(row(0))
        with pytest.warns(RuntimeWarning, match="rank 1 does not answer"):
            first.close()
        run = open_run(first.path)
        assert run.splits == ()
        assert run.attributes["ranks"]["dropped"] == {"train": [[0, 0]]}

    @LOST
    def test_one_that_never_comes_is_not_waited_for_for_ever(self, start, row, monkeypatch):
        monkeypatch.setattr(reducing, "_MEETING", 0.1)
        first, second = start(3, ranks=(1,))
        for writer, rank in ((first, 0), (second, 1)):
            writer.append(row(0, rank=rank))
        time.sleep(0.3)
        close(first, second)
        assert open_run(first.path).attributes["ranks"]["dropped"] == {"train": [[0, 0]]}

    def test_rank_0_itself(self, start, row, monkeypatch):
        monkeypatch.setattr(reducing, "_PATIENCE", 0.2)
        second = SendingWriter("run.zarr", Place(1, 2, "a1", "another key", HashStore()))
        assert second.append(row(0, rank=1))
        with pytest.warns(RuntimeWarning, match="rank 1 lost its way to rank 0 .TimeoutError: it has no rec"):
            second.close()

    def test_rank_0_dies(self, start, row):
        first, second = start()
        for writer, rank in ((first, 0), (second, 1)):
            writer.append(row(0, rank=rank))
        while first.flush() != {"train": 0}:
            time.sleep(0.01)
        end = socket.socket(fileno=os.dup(first._links[-1].fileno()))
        end.shutdown(socket.SHUT_RDWR)  # what the kernel does for a process that was killed
        end.close()

        def go_on():
            step = 1
            while second.append(row(step, rank=1)):
                step += 1
                time.sleep(0.01)

        with pytest.warns(RuntimeWarning, match="rank 1 lost its way to rank 0"):
            go_on()
        assert open_run(first.path)["train"].step.values.tolist() == [0]

    def test_rank_0_does_not_answer(self, row, monkeypatch):
        monkeypatch.setattr(reducing, "_PATIENCE", 0.2)
        store = HashStore()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            store.set("key/address", json.dumps(["127.0.0.1", silent.getsockname()[1], "00" * 32]))
            second = SendingWriter("run.zarr", Place(1, 2, "a1", "key", store))
            assert second.append(row(0, rank=1))
            begun = time.monotonic()
            with pytest.warns(RuntimeWarning, match="rank 1: the other ranks take too long, rows are lost"):
                second.close()
            assert time.monotonic() - begun < 10

    def test_raises_if_asked_to(self, row, monkeypatch):
        monkeypatch.setattr(reducing, "_PATIENCE", 0.2)
        second = SendingWriter("run.zarr", Place(1, 2, "a1", "another key", HashStore()), on_error="raise")
        with pytest.raises(StoreError, match="lost its way"):
            second.close()

    @LOST
    def test_a_stranger_is_not_let_in(self, start, row):
        (first,) = start(ranks=())
        host, port, _ = json.loads(first._place.store.get("key/address"))
        assert host == "127.0.0.1"
        wrong = HashStore()
        wrong.set("key/address", json.dumps([host, port, "00" * 32]))
        silent = socket.create_connection((host, port))
        stranger = SendingWriter("run.zarr", Place(1, 2, "a1", "key", wrong))
        stranger.append(row(7, rank=1))
        stranger._thread.join(10)
        friend = SendingWriter("run.zarr", Place(1, 2, "a1", "key", first._place.store))
        first.append(row(0))
        friend.append(row(0, rank=1))
        close(first, friend, stranger)
        silent.close()
        assert open_run(first.path)["train"].step.values.tolist() == [0]

    def test_a_group_without_a_store_is_refused(self, tmp_path, small_axis):
        with pytest.raises(StoreError, match="without reduce each rank writes a store of its own"):
            SendingWriter("run.zarr", Place(1, 2, "a1", "key", None))
        writer = RunWriter(tmp_path / "run.zarr", axis=small_axis, attributes={}, fsync=False)
        with pytest.raises(StoreError, match="without reduce each rank writes a store of its own"):
            ReducingWriter(writer, Place(0, 2, "a1", "key", None))
        assert open_run(tmp_path / "run.zarr").attributes["closed"]


@LOST
def test_a_forked_child_leaves_the_rows_to_its_parent(start, row):
    first, second = start()
    for writer, rank in ((first, 0), (second, 1)):
        writer.append(row(0, rank=rank))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fork with threads
        child = os.fork()
    if child == 0:
        taken = first.append(row(1)) or second.append(row(1, rank=1))
        first.close()
        second.close()
        os._exit(int(taken))
    assert os.waitpid(child, 0)[1] == 0
    for writer, rank in ((first, 0), (second, 1)):
        writer.append(row(1, rank=rank))
    close(first, second)
    assert open_run(first.path)["train"].step.values.tolist() == [0, 1]
