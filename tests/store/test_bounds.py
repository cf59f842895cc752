"""A run never becomes one that nothing can open: how large its record, its chunks and its numbers get."""

import json
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from actlab.errors import StoreError
from actlab.run import open_run
from actlab.store import record
from actlab.store import writer as writer_module
from actlab.store.files import RunDirectory
from actlab.store.layout import ROOT
from actlab.store.row import RawSamples


def samples_of(*layers):
    return {layer: RawSamples(np.ones((2, 3), np.float32), np.arange(2)) for layer in layers}


class TestOrder:
    """Zarr loses nodes of a record whose siblings are apart."""

    def test_a_layer_sampled_late(self, start, path, make_row, add_side):
        writer = start(flush_every=3600)
        full = add_side(make_row(1))
        writer.append(replace(make_row(0), samples=samples_of("layer0")))
        writer.append(replace(full, samples={}))
        writer.append(replace(make_row(2), samples=samples_of("layer0", "layer2")))
        writer.close()
        names = list(json.loads((path / ROOT).read_bytes())["consolidated_metadata"]["metadata"])
        assert names.index("train/channels/n") < names.index("train/samples/layer2")
        assert sorted(xr.open_datatree(path, engine="zarr")["train/samples"].children) == ["layer0", "layer2"]
        assert open_run(path, verify="rows").samples("train", "layer2").sizes["sample"] == 2

    def test_what_others_put_between(self, start, path, make_row):
        writer = start()
        writer.append(make_row(0))
        writer.append(make_row(0, "valid"))
        writer.close()
        document = json.loads((path / ROOT).read_bytes())
        nodes = document["consolidated_metadata"]["metadata"]
        nodes["train/notes"] = {"zarr_format": 3, "node_type": "group", "attributes": {"by": "me"}}
        document["consolidated_metadata"]["metadata"] = dict(sorted(nodes.items()))
        (path / ROOT).write_text(json.dumps(document))
        start(resume=True).close()
        assert xr.open_datatree(path, engine="zarr")["train/notes"].attrs == {"by": "me"}
        assert open_run(path, verify="rows").splits == ("train", "valid")


class TestRecord:
    def test_one_that_no_reader_takes_is_not_written(self, start, path, make_row, monkeypatch):
        writer = start(flush_every=3600)
        writer.append(make_row(0))
        writer.flush()
        with monkeypatch.context() as patch:
            patch.setattr(record, "_MOST_PARTS", record._parts((path / ROOT).read_bytes()) + 50)
            writer.append(make_row(1, logs=("loss", "late")))
            with pytest.warns(RuntimeWarning, match=r"zarr\.json would have .* values, more than .* stopped"):
                writer.flush()
            writer.close()
        assert open_run(path, verify="rows")["train"].step.values.tolist() == [0]
        writer = start(resume=True)
        assert writer.append(make_row(1))

    @pytest.mark.parametrize("step", [(1 << 40) + 1, 1 << 62])
    def test_a_step_that_no_reader_takes_is_refused(self, step, start, path, make_row):
        writer = start()
        writer.append(make_row(0))
        writer.close()
        with pytest.raises(StoreError, match=f"cannot go on at step {step}, expected {1 << 40} at most"):
            start(resume_step=step)
        start(resume_step=1 << 40).close()
        assert open_run(path, verify="rows").splits == ("train",)

    def test_so_many_logs_and_no_more(self, start, path, make_row, monkeypatch):
        monkeypatch.setattr("actlab.store.row.MOST_LOGS", 2)
        writer = start()
        writer.append(make_row(0, logs=("loss", "lr")))
        writer.close()
        writer = start(resume=True)
        with pytest.warns(RuntimeWarning, match="log 'more' is one name more than 2"):
            assert writer.append(make_row(1, logs=("more", "lr")))
        writer.close()
        found = open_run(path, verify="rows")["train"]
        assert [name for name in found if name.startswith("log_")] == ["log_loss", "log_lr"]
        assert found["log_lr"].notnull().all()


def test_a_row_too_large_for_one_chunk_has_several(
    start, path, make_row, fingerprint, stored_rows, monkeypatch
):
    monkeypatch.setattr("actlab.store.table.LARGEST_CHUNK", 4 * 16 * 4)  # four layers of 16 buckets
    rows = [make_row(step, layers=layers) for step, layers in enumerate([10, 10, 13])]
    writer = start()
    for row in rows:
        assert writer.append(row)
    writer.close()
    assert [fingerprint(row) for row, *_ in stored_rows(path)] == [fingerprint(row) for row in rows]
    counts = open_run(path, verify="rows")["train"].counts
    assert counts.data.chunks[1] == (4, 4, 4, 1)
    np.testing.assert_array_equal(counts[:2, 3:9], [row.counts[3:9] for row in rows[:2]])


def test_a_run_of_many_arrays_opens_at_once(start, path, make_row):
    writer = start()
    writer.append(make_row(0, logs=[f"x{number}" for number in range(600)]))
    writer.close()
    begun = time.monotonic()
    open_run(path)
    assert time.monotonic() - begun < 4  # it took 12 seconds, in the square of their number


class TestTime:
    def test_a_wait_is_for_the_row_as_it_is_stored(self, start, path, make_row):
        writer = start()
        writer.append(make_row(0, layers=40, samples=None))
        writer.close()
        large, small = (make_row(1, layers=layers, samples=None).nbytes for layers in (40, 1))
        writer = start(resume=True, on_full="block", queue_bytes=2 * large + 2 * small, flush_every=3600)
        assert all(writer.append(make_row(step, layers=1, samples=None)) for step in range(1, 12))
        writer.close()
        assert open_run(path).attributes["gaps"] == {}

    def test_a_disk_that_takes_nothing_does_not_keep_the_process(self, start, path, make_row, monkeypatch):
        writer = start()
        writer.append(make_row(0))
        writer.flush()
        is_back, write = threading.Event(), RunDirectory.write
        monkeypatch.setattr(writer_module, "_LONGEST_SILENCE", 0.2)
        monkeypatch.setattr(RunDirectory, "write", lambda *args: is_back.wait(20) and write(*args))
        writer.append(make_row(1))
        begun = time.monotonic()
        with pytest.warns(RuntimeWarning, match="does not answer; all rows are lost but train up to step 0"):
            writer.close()
        assert time.monotonic() - begun < 10
        is_back.set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer._thread.join(20)
        assert open_run(path, verify="rows")["train"].step.values.tolist() == [0, 1]
