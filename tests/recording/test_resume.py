"""Recordings that go on: after death from a checkpoint, after a close, with another model."""

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import actlab
from actlab.run import open_run

SCRIPT = Path(__file__).with_name("lives.py")


def load_script():
    spec = importlib.util.spec_from_file_location("lives", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lives = load_script()


def check_equal(run, whole):
    """Compare the rows of two runs bit for bit."""
    assert run.splits == whole.splits
    for split in run.splits:
        found, expected = run[split].load(), whole[split].load()
        for name in ("step", "epoch", "batch", "train_step"):
            assert found[name].values.tolist() == expected[name].values.tolist(), (split, name)
        names = ["counts", "n", "mean", "std", "min", "max", *(["log_loss"] if split == "train" else [])]
        for name in names:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{split} {name}")
        found, expected = run.raw(split).load(), whole.raw(split).load()
        for name in ("head", "label", "step"):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{split} raw {name}")


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    """Return the folder of all trainings that died twice, and the seed of their deaths."""
    folder, seed = tmp_path_factory.mktemp("dead"), random.randrange(10**6)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, folder, str(seed)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, seed


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Return a function that gives the training of a form that never died."""
    done = {}

    def train(form, every):
        if (form, every) not in done:
            torch.set_num_threads(1)
            done[form, every] = lives.Life(tmp_path_factory.mktemp("straight"), form, every).live()
        return done[form, every]

    return train


class TestAfterDeath:
    @pytest.mark.parametrize("plan", lives.PLANS, ids=lambda plan: lives.name_of(*plan))
    def test_the_run_is_that_of_a_training_that_never_died(self, dead, straight, plan):
        folder, seed = dead
        form, every, _ = plan
        last = lives.Life(folder / lives.name_of(*plan), form, every).live()
        whole = straight(form, every)
        assert last.start > 0
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, last.model.state_dict()[name]), name
        run = open_run(last.folder / "run.zarr")
        assert len(run.attributes["attempts"]) == 3, seed
        check_equal(run, open_run(whole.folder / "run.zarr"))


def record(model, path, batches, *, every=1, size=4, labels=True, **options):
    """Record batches of (split, epoch), and return the run."""
    with actlab.Recorder(model, path, every=every, on_error="raise", fsync=False, **options) as recorder:
        for split, epoch in batches:
            with recorder.batch(split, epoch, [0] * size if labels else None):
                model(torch.ones(size, 2))
    return open_run(path)


def rows_of(run, split="train"):
    return [run[split][name].values.tolist() for name in ("step", "epoch", "batch", "train_step")]


@pytest.fixture
def path(tmp_path):
    torch.set_num_threads(1)
    return tmp_path / "run.zarr"


class TestAfterClose:
    @pytest.mark.parametrize("every", [3, 10])
    @pytest.mark.parametrize("cut", [1, 4, 7, 9])
    def test_resume_goes_on_where_the_run_ends(self, path, every, cut):
        plan = [("train", 0)] * 5 + [("valid", 0)] * 2 + [("train", 1)] * 5
        whole = record(nn.Linear(2, 3), path.with_name("whole.zarr"), plan, every=every)
        record(nn.Linear(2, 3), path, plan[:cut], every=every, resume=True)
        run = record(nn.Linear(2, 3), path, plan[cut:], every=every, resume=True)
        for split in whole.splits:
            assert rows_of(run, split) == rows_of(whole, split)
            assert run.raw(split).step.values.tolist() == whole.raw(split).step.values.tolist()

    @pytest.mark.parametrize("options", [{"resume": True}, {"resume_step": 0}])
    def test_where_there_is_nothing_a_new_run_begins(self, path, options):
        run = record(nn.Linear(2, 3), path, [("train", 0)], **options)
        assert rows_of(run) == [[0], [0], [0], [0]]
        assert run.attributes["attempts"] == [0]

    def test_a_step_back_shows_what_is_recorded_last(self, path):
        plan = [("train", 0)] * 6
        record(nn.Linear(2, 3), path, plan)
        run = record(nn.Linear(2, 3), path, plan[:2], resume_step=3, size=7)
        assert rows_of(run)[0] == [0, 1, 2, 3, 4]
        assert run["train"].n.sel(layer="input").values.tolist() == [8, 8, 8, 14, 14]
        everything = open_run(path, all_attempts=True)
        assert everything["train"].step.values.tolist() == [0, 1, 2, 3, 4, 5, 3, 4]

    def test_record_infers_epochs_from_where_it_was(self, path):
        model = nn.Linear(2, 3)

        def forwards(modes):
            with actlab.record(model, path, resume=True, on_error="raise", fsync=False) as recorder:
                for mode in modes:
                    model.train(mode == "t")(torch.ones(4, 2))
                return recorder

        for modes in ("vttv", "t", "tvv", "t"):
            forwards(modes)
        run = open_run(path)
        assert rows_of(run)[1:3] == [[0, 0, 1, 1, 2], [0, 1, 0, 1, 0]]
        assert rows_of(run, "valid")[1:3] == [[-1, 0, 1, 1], [0, 0, 0, 1]]
        assert run.attributes["epochs"] == "inferred"


class TestHead:
    def test_another_one_is_told_once_and_has_counts_only(self, path):
        first, second = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
        record(first, path, [("train", 0)] * 2)
        with pytest.warns(RuntimeWarning, match="the head was '0' and is '1' now") as caught:
            run = record(second, path, [("train", 0)] * 2, resume=True)
        assert len(caught) == 1
        assert run.head == "0"
        assert run.raw("train").step.values.tolist() == [0] * 4 + [1] * 4
        assert run["train"].n.sel(layer="1").values.tolist() == [0, 0, 8, 8]
        assert (run["train"].counts.sum("bucket") == run["train"].n).all()

    def test_another_number_of_units_costs_the_raw_values_only(self, path):
        record(nn.Sequential(nn.Linear(2, 3)), path, [("train", 0)])
        model = nn.Sequential(nn.Linear(2, 5))
        with actlab.Recorder(model, path, resume=True) as recorder:
            with recorder.batch("train", 0):
                model(torch.ones(4, 2))
            with pytest.warns(
                RuntimeWarning, match=r"raw or side data dropped: .* head has 5 units, expected 3"
            ):
                recorder.flush()
        run = open_run(path)
        assert run.raw("train").step.values.tolist() == [0] * 4
        assert run["train"].n.sel(layer="0").values.tolist() == [12, 20]

    @pytest.mark.parametrize(("first", "later"), [(9000, 4), (4, 9000)])
    def test_what_is_kept_of_it_stays_the_same(self, path, first, later):
        """The size of the first batch decides, not that of the first one after a resume."""
        model = nn.Linear(2, 1)
        record(model, path, [("train", 0)], size=first)
        run = record(model, path, [("train", 0)], size=later, resume=True)
        if first > later:
            assert run.raw("train") is None
            assert run.head_counts("train").counts.sum(("unit", "truth", "bucket")).values.tolist() == [
                9000,
                4,
            ]
        else:
            assert run.raw("train").sizes["sample"] == 9004

    def test_its_units_stay_where_they_were(self, path):
        """Labels of the first batch tell class-first outputs; later ones may not come with the first."""
        model = nn.Sequential(nn.Unflatten(1, (2, 1)), nn.Identity(), nn.Unflatten(1, (1, 2)), nn.Flatten(2))

        def labelled(labels, **options):
            with actlab.Recorder(model, path, head="0", on_error="raise", fsync=False, **options) as recorder:
                for each in labels:
                    with recorder.batch("train", 0, each):
                        model(torch.ones(4, 2))
            return open_run(path)

        labelled([torch.zeros(4, 1, dtype=torch.int64)])
        run = labelled([None, torch.ones(4, 1, dtype=torch.int64)], resume=True)
        assert run.attributes["head_unit_dim"] == 1
        assert run.raw("train")["head"].shape == (12, 2)
        assert run.raw("train")["label"].values.tolist() == [0] * 4 + [-100] * 4 + [1] * 4
