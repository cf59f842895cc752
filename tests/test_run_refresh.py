"""A run that grows: what is committed later is shown by `refresh`, and only then."""

from pathlib import Path

import numpy as np
import pytest

from actlab.errors import StoreError
from actlab.run import open_run
from actlab.store.merging import rank_path
from actlab.store.sources import LocalSource
from actlab.store.writer import RunWriter


class TestRefresh:
    @pytest.fixture
    def grow(self, tmp_path, small_axis, make_row):
        """Return a path and a function that commits rows there."""
        writer = RunWriter(tmp_path / "run.zarr", axis=small_axis, attributes={"head": "layer1"}, fsync=False)

        def commit(*steps, layers=3):
            for step in steps:
                assert writer.append(make_row(step, layers=layers))
            writer.flush()

        yield tmp_path / "run.zarr", commit
        writer.close()

    def test_shows_what_was_committed_since(self, grow):
        path, commit = grow
        commit(0, 1)
        run = open_run(path)
        held, totals, table = run["train"], run.totals("train"), run.layers
        assert run.head == "layer1"
        commit(2, layers=4)
        assert run["train"].sizes["step"] == 2
        assert run.refresh() is run
        assert run["train"].sizes == {"step": 3, "layer": 4, "bucket": 16}
        assert run.names == ["layer0", "layer1", "layer2", "layer3"]
        assert run.layers.index.tolist() == run.names
        assert run.layers.n.sum() == int(run["train"].n.sum())
        assert int(run.totals("train").sum()) == int(run["train"].counts.sum())
        assert held.sizes["step"] == 2
        assert int(held.counts.sum()) == int(totals.sum())
        assert len(table) == 3

    def test_costs_one_small_read_where_nothing_was_committed(self, grow, monkeypatch):
        path, commit = grow
        commit(0)
        run = open_run(path)
        train, read, names = run["train"], LocalSource.read, []
        monkeypatch.setattr(
            LocalSource,
            "read",
            lambda self, name, *part, **stop: names.append(name) or read(self, name, *part, **stop),
        )
        assert run.refresh()["train"] is train
        assert names == ["zarr.json"]

    def test_shows_a_first_split(self, grow):
        path, commit = grow
        run = open_run(path)
        assert run.splits == ()
        commit(0)
        assert run.refresh().splits == ("train",)

    def test_keeps_the_options(self, grow):
        path, commit = grow
        commit(0)
        run = open_run(path, verify="rows", all_attempts=True)
        commit(1)
        (path / "train" / "mean" / "c.0.0").write_bytes((path / "train" / "std" / "c.0.0").read_bytes())
        with pytest.raises(StoreError, match="at step 0, attempt 0, is not as it was recorded"):
            run.refresh()
        assert run["train"].sizes["step"] == 1

    def test_a_run_that_is_gone(self, grow):
        path, commit = grow
        commit(0)
        run = open_run(path)
        path.rename(path.with_name("elsewhere"))
        try:
            with pytest.raises(StoreError, match=r"run\.zarr: no such run"):
                run.refresh()
        finally:
            path.with_name("elsewhere").rename(path)
        assert run["train"].sizes["step"] == 1

    def test_of_several_ranks(self, tmp_path, small_axis, make_row):
        writers = [
            RunWriter(
                rank_path(tmp_path / "run.zarr", rank),
                axis=small_axis,
                attributes={"ranks": {"rank": rank, "world_size": 2, "job": "a1"}, "epochs": "given"},
                fsync=False,
            )
            for rank in range(2)
        ]
        for step in range(2):
            for writer in writers:
                assert writer.append(make_row(step))
        for writer in writers:
            writer.flush()
        run = open_run(tmp_path / "run.zarr")
        before = run["train"].sizes["step"]
        for step in range(2, 4):
            for writer in writers:
                assert writer.append(make_row(step))
        for writer in writers:
            writer.close()
        assert run["train"].sizes["step"] == before < 4
        assert run.refresh()["train"].sizes["step"] == 4


def test_without_verification_a_missing_chunk_is_found_when_it_is_read(record_run):
    path = Path(record_run({"train": [(0, {"fc": np.ones((2, 2))}, None)]}, ["fc"]).path)
    (path / "train" / "counts" / "c.0.0.0").unlink()
    with pytest.raises(StoreError, match=r"half a run: the chunk 'train/counts/c\.0\.0\.0' is missing"):
        open_run(path)
    run = open_run(path, verify=False)
    assert run["train"].n.values.sum() == 4
    with pytest.raises(StoreError, match=r"half a run: the chunk 'train/counts/c\.0\.0\.0' is missing"):
        run["train"].counts.compute()


def test_a_run_that_was_replaced_is_not_mixed_with_the_new_one(tmp_path, small_axis, make_row):
    def write(first, **options):
        options = {"axis": small_axis, "attributes": {}, "fsync": False} | options
        writer = RunWriter(tmp_path / "run.zarr", **options)
        for step in range(first, first + 3):
            assert writer.append(make_row(step))
        writer.close()

    write(0)
    run = open_run(tmp_path / "run.zarr")
    held = run["train"]
    write(10, overwrite=True)
    with pytest.raises(StoreError, match="was replaced by another one since it was opened"):
        held["counts"].load()
    assert run.refresh()["train"].step.values.tolist() == [10, 11, 12]
    np.testing.assert_array_equal(run["train"].counts[0], make_row(10).counts)
