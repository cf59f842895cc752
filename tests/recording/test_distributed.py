"""Several processes that train together: each records, none waits, and the merged run is that of one."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed
from torch.distributed import HashStore

from actlab.axis import FloatAxis
from actlab.errors import StoreError
from actlab.recording.distributed import count_recorder, explain, find_place
from actlab.recording.options import Storage
from actlab.recording.recorder import Recorder
from actlab.recording.writers import open_writer
from actlab.run import open_run

SCRIPT = Path(__file__).with_name("one_rank.py")


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Return a function that runs two ranks to their end, and gives their exit codes and folder."""

    def run(plan, folder=None):
        folder = folder or tmp_path_factory.mktemp(plan)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        ranks = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", SCRIPT, plan, str(rank), "2", folder],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        try:
            errors = [rank.communicate(timeout=100)[1] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        assert ranks[0].returncode == 0, errors[0]
        return [rank.returncode for rank in ranks], folder

    return run


@pytest.fixture(scope="module")
def script():
    """Return the script of one rank, to be called in this process."""
    spec = importlib.util.spec_from_file_location("one_rank", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def single(script, tmp_path_factory):
    """Return the run of a single process with whole batches."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("single") / "run.zarr"
    with Recorder(model := script.make_model(), path, on_error="raise") as recorder:
        script.evaluate_all(recorder, model, 0, 1)
    return open_run(path)


@pytest.fixture(scope="module")
def fixed(launch):
    codes, folder = launch("fixed")
    assert codes == [0, 0]
    return folder


def check_split(found, whole, steps=slice(None)):
    """Compare a merged split with that of a single process."""
    found, whole = found.load(), whole.isel(step=steps).load()
    for name in ("step", "epoch", "batch", "train_step", "layer"):
        assert found[name].values.tolist() == whole[name].values.tolist()
    for name in ("counts", "n", "min", "max"):
        np.testing.assert_array_equal(found[name], whole[name])
    for name in ("mean", "std"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduce", [False, True])
class TestFixedWeights:
    @pytest.mark.parametrize("kind", ["bare", "ddp", "fsdp"])
    def test_merged_is_what_one_process_records(self, kind, reduce, fixed, single):
        run = open_run(fixed / f"{kind}_{reduce}.zarr")
        assert run.names == ["input", "0", "1", "2"]
        assert run.head == single.head == "2"
        assert run.layers.kind.tolist() == single.layers.kind.tolist()
        assert run.attributes["closed"]
        assert not any(run.attributes["ranks"]["dropped"].values())
        for split in ("train", "valid"):
            check_split(run[split], single[split])
            mine, whole = run.raw(split).load(), single.raw(split).load()
            np.testing.assert_array_equal(mine["head"], whole["head"])
            np.testing.assert_array_equal(mine["label"], whole["label"])
            assert mine.step.values.tolist() == whole.step.values.tolist()
            mine, whole = run.channels(split).load(), single.channels(split).load()
            for name in ("n", "zeros", "step", "epoch", "layer", "index"):
                np.testing.assert_array_equal(mine[name], whole[name])
            np.testing.assert_allclose(mine["mean_abs"], whole["mean_abs"], rtol=1e-6)
        assert set(run["train"].log_loss.values) == {1.5}

    def test_a_rank_that_does_not_validate(self, reduce, fixed, single):
        run = open_run(fixed / f"lonely_{reduce}.zarr")
        check_split(run["train"], single["train"])
        assert (run["valid"].n * 2 == single["valid"].n).all()
        assert run["valid"].epoch.values.tolist() == single["valid"].epoch.values.tolist()

    def test_what_lies_on_disk(self, reduce, fixed):
        store = fixed / "bare_False.rank1.zarr"
        assert store.exists()
        assert not (fixed / "bare_True.rank1.zarr").exists()
        alone = open_run(store)
        assert alone.attributes["ranks"].keys() == {"rank", "world_size", "job"}
        assert alone["train"].sizes["step"] == 12


class TestTraining:
    def test_is_the_same_with_and_without(self, launch):
        codes, folder = launch("train")
        assert codes == [0, 0]
        plain = torch.load(folder / "none_0.pt")
        for name in ("none_1", "own_0", "own_1", "reduce_0", "reduce_1"):
            other = torch.load(folder / f"{name}.pt")
            assert plain.keys() == other.keys()
            assert all(torch.equal(plain[key], other[key]) for key in plain)
        for name in ("own", "reduce"):
            run = open_run(folder / f"{name}.zarr")
            assert run["train"].step.values.tolist() == list(range(6))
            assert (run["train"].n.sel(layer="input") == 8 * 6).all()


class TestKilledRank:
    def test_leaves_the_rows_that_both_have(self, launch, script, single):
        codes, folder = launch("kill")
        assert codes == [0, -signal.SIGKILL]
        for reduce in (False, True):
            run = open_run(folder / f"killed_{reduce}.zarr")
            n = run["train"].sizes["step"]
            assert n == 5
            check_split(run["train"], single["train"], slice(n))
            assert run.attributes["ranks"]["dropped"] == {"train": [[5, 11]]}
        alone = open_run(folder / "killed_False.rank0.zarr")
        assert alone["train"].sizes["step"] == 12


@pytest.fixture(scope="module")
def resumed(launch):
    _, folder = launch("die")
    codes, _ = launch("resume", folder)
    assert codes == [0, 0]
    return folder


class TestResume:
    @pytest.mark.parametrize("reduce", [False, True])
    def test_the_merged_run_is_that_of_a_training_that_never_died(self, reduce, resumed, single):
        run = open_run(resumed / f"long_{reduce}.zarr")
        assert run.attributes["attempts"] == [0, 8]
        assert not any(run.attributes["ranks"]["dropped"].values())
        for split in ("train", "valid"):
            check_split(run[split], single[split])
            np.testing.assert_array_equal(run.raw(split)["head"], single.raw(split)["head"])
            np.testing.assert_array_equal(run.raw(split)["label"], single.raw(split)["label"])
        assert set(run["train"].log_loss.values) == {1.5}

    def test_each_rank_has_a_store_of_its_own(self, resumed):
        ranks = [open_run(resumed / f"long_False.rank{rank}.zarr").attributes["ranks"] for rank in (0, 1)]
        assert ranks[0]["job"] == ranks[1]["job"]
        assert not (resumed / "nothing.zarr").exists()

    def test_another_number_of_processes_is_refused(self, resumed, script):
        path = resumed / "long_False.zarr"
        with pytest.raises(StoreError, match=r"recorded by rank 0 of 2, .* by one process"):
            Recorder(script.make_model(), path, resume_step=8)


@pytest.fixture
def group(monkeypatch):
    """Pretend to be one of two ranks, and return the store of the group."""
    store = HashStore()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", lambda: store)
    return store


@pytest.fixture
def find(monkeypatch):
    """Return a function that finds the place of another process each time it is told so."""

    def find_as(rank, path, *, fresh=False):
        if fresh:
            monkeypatch.setattr("actlab.recording.distributed._recorders", type(_recorders)())
        monkeypatch.setattr(distributed, "get_rank", lambda: rank)
        return find_place(path)

    from actlab.recording.distributed import _recorders

    return find_as


class TestPlace:
    def test_there_is_none_in_a_single_process(self, group, monkeypatch):
        monkeypatch.setattr(distributed, "get_world_size", lambda: 1)
        assert find_place("run.zarr") is None
        monkeypatch.setattr(distributed, "is_initialized", lambda: False)
        assert find_place("run.zarr") is None

    @pytest.mark.parametrize("works", [True, False])
    def test_all_ranks_have_one_job_for_each_recorder(self, works, group, find, monkeypatch):
        if not works:
            monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", lambda: 1 / 0)
        jobs = []
        for rank in (1, 0):
            find(rank, "other.zarr", fresh=True)
            jobs.append([])
            for path in ("run.zarr", "run.zarr", "a.zarr"):
                jobs[-1].append(find(rank, path).job)
                count_recorder(path)
        assert jobs[0] == jobs[1]
        assert len(set(jobs[0])) == 3
        assert all(len(job) == 32 and int(job, 16) for job in jobs[0])

    def test_a_store_that_does_not_answer_is_not_waited_for(self, group, find, monkeypatch):
        silent = threading.Event()

        class Silent:
            def compare_set(self, *_):
                silent.wait(20)

        monkeypatch.setattr("actlab.recording.distributed._PATIENCE", 0.05)
        monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", Silent)
        jobs = {find(rank, "run.zarr", fresh=True).job for rank in (0, 1)}
        assert not silent.is_set()
        silent.set()
        assert len(jobs) == 1, "what all ranks know gives the name then"

    def test_a_recorder_that_was_refused_does_not_count(self, group, find, tmp_path):
        (tmp_path / "run.zarr").mkdir()
        (tmp_path / "run.zarr" / "notes.txt").write_text("not a run")
        storage = Storage(False, False, None, 1.0, "auto", "drop", "raise")
        before = find(0, tmp_path / "run.zarr", fresh=True)
        with pytest.raises(StoreError):
            open_writer(tmp_path / "run.zarr", axis=FloatAxis(), attributes={}, reduce=False, storage=storage)
        assert find(0, tmp_path / "run.zarr").key == before.key

    def test_ranks_that_go_on_at_0_agree_with_one_that_begins(self, group, find, tmp_path, monkeypatch):
        path = tmp_path / "run.zarr"
        storage = Storage(False, False, 0, 1.0, False, "drop", "raise")
        options = {"axis": FloatAxis(), "attributes": {}, "reduce": False, "storage": storage}
        find(0, path, fresh=True)
        open_writer(path, **options).close()  # and rank 1 dies before it has a store
        later = HashStore()
        monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", lambda: later)
        for rank in (0, 1):
            find(rank, path, fresh=True)
            open_writer(path, **options).close()
        assert open_run(path).attributes["ranks"]["merged"] == [0, 1]

    def test_where_each_rank_writes(self, group, find, tmp_path):
        place = find(1, tmp_path / "run.zarr")
        assert place.path(tmp_path / "run.zarr") == str(tmp_path / "run.rank1.zarr")
        assert place.path("s3://bucket/runs/mnist.zarr") == "s3://bucket/runs/mnist.rank1.zarr"
        assert place.attributes == {"rank": 1, "world_size": 2, "job": place.job}


class TestTooLate:
    def test_says_what_comes_first(self, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        error = explain(StoreError("run.zarr: is being written by another recorder"))
        assert str(error) == (
            "run.zarr: is being written by another recorder; 2 processes were started: "
            "call torch.distributed.init_process_group before the recorder is made, "
            "then each has a store of its own"
        )

    def test_says_nothing_in_a_single_process(self, monkeypatch):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        error = StoreError("run.zarr: is being written by another recorder")
        assert explain(error) is error

    def test_says_nothing_where_it_is_not_late(self, group, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        error = StoreError("run.zarr: holds a run already")
        assert explain(error) is error
