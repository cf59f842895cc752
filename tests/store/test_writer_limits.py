"""What the writer does at its limits: a full queue, a disk that fails, and how much it keeps meanwhile."""

import os
import threading
import time
import tracemalloc
import warnings
from dataclasses import replace

import pytest
import xarray as xr

from actlab.store import arrays
from actlab.store import writer as writer_module


def attributes(path):
    return xr.open_datatree(path, engine="zarr").attrs["actlab"]


class TestOnFullBlock:
    def test_every_row_is_kept(self, start, path, make_row, fingerprint, stored_rows):
        rows = [make_row(step) for step in range(40)]
        writer = start(on_full="block", queue_bytes=2 * rows[0].nbytes, flush_every=3600)
        assert all(writer.append(row) for row in rows)
        writer.close()
        found = [row for row, *_ in stored_rows(path)]
        assert [fingerprint(row) for row in found] == [fingerprint(row) for row in rows]
        assert attributes(path)["gaps"] == {}

    def test_a_disk_that_hangs_is_waited_for_once(self, start, path, gate, make_row, monkeypatch):
        monkeypatch.setattr(writer_module, "_LONGEST_WAIT", 0.5)
        writer = start(on_full="block", queue_bytes=2 * make_row(0).nbytes)
        gate.clear()
        begun = time.monotonic()
        with pytest.warns(RuntimeWarning, match="the disk is too slow, rows are dropped") as caught:
            taken = [writer.append(make_row(step)) for step in range(20)]
        assert 0.5 <= time.monotonic() - begun < 5
        assert taken == [True] * 2 + [False] * 18
        assert len(caught) == 1
        gate.set()
        assert writer.flush() == {"train": 1}
        assert writer.append(make_row(20))
        writer.close()
        assert attributes(path)["gaps"] == {"train": [[2, 19]]}

    def test_a_wait_ends_with_the_recording(self, start, gate, make_row):
        writer = start(on_full="block", queue_bytes=1)
        gate.clear()
        writer.append(make_row(0))
        waiting = threading.Thread(target=writer.append, args=[make_row(1)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            waiting.start()
            closing = threading.Thread(target=writer.close)
            closing.start()
            waiting.join(10)
            assert not waiting.is_alive()
            gate.set()
            closing.join(10)
            assert not closing.is_alive()
            assert not writer.append(make_row(2))

    def test_a_forked_child_does_not_wait(self, start, gate, make_row):
        writer = start(on_full="block", queue_bytes=1)
        gate.clear()
        writer.append(make_row(0))
        child = os.fork()
        if child == 0:
            os._exit(writer.append(make_row(1)))
        assert os.waitpid(child, 0)[1] == 0
        gate.set()


@pytest.mark.parametrize("options", [{"on_full": "wait"}, {"on_error": "ignore"}])
def test_wrong_options_raise_before_anything_is_made(options, start, path):
    with pytest.raises(ValueError, match="must be"):
        start(**options)
    assert not path.exists()


@pytest.mark.parametrize("chunk_rows", [4, 1024])
def test_memory_stays_bounded_while_the_disk_fails(chunk_rows, start, make_row, failing_disk, monkeypatch):
    monkeypatch.setattr(arrays, "_MOST_ROWS", chunk_rows)
    monkeypatch.setattr(writer_module, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(writer_module, "_LONGEST_PAUSE", 0.001)
    rows = [make_row(step, layers=400, samples=None) for step in range(300)]
    limit = 40 * rows[0].nbytes
    writer = start(queue_bytes=limit, flush_every=0)
    writer.append(rows[0])
    writer.flush()
    tracemalloc.start()
    try:
        with failing_disk(1, times=10**9), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            taken = 0
            for row in rows[1:]:
                copy = replace(row, **{name: getattr(row, name).copy() for name in ("counts", "n", "mean")})
                taken += writer.append(copy)
                del copy
                time.sleep(0.002)
                if row.step % 50 == 0:
                    writer.flush()
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken == 40
    assert peak < 2 * limit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert writer.flush() == {"train": 40}
