"""Events become rows: splits, epochs numbered through, restarts, and what an exception leaves."""

import copy

import pytest
import torch
from torch import nn

import actlab
from actlab.errors import StoreError
from actlab.integrations.loop import Loop
from actlab.integrations.targets import find_labels


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


def batches(loop, model, split, epoch=None, n=2):
    """Record some batches; those of training have an epoch."""
    for _ in range(n):
        x, y = torch.randn(8, 4), torch.randint(0, 3, (8,))
        loop.begin(split, (x, y), epoch)
        loss = nn.functional.cross_entropy(model(x), y)
        loop.end(loss=loss.detach(), name="text")


def fit(loop, model, epochs):
    loop.start_fit(model)
    for epoch in epochs:
        batches(loop, model, "train", epoch)
        batches(loop, model, "valid")
    loop.stop()


def hooks(model):
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


def test_epochs_are_numbered_through_several_fits(model, path):
    loop = Loop(path, None, (), {})
    loop.start(model)
    batches(loop, model, "valid")
    loop.stop()
    fit(loop, model, range(2))
    fit(loop, model, range(2))
    fit(loop, model, [4])
    loop.start(model)
    batches(loop, model, "test")
    loop.stop()
    run = actlab.open_run(path)
    assert run["train"].epoch.values.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert run["train"].step.values.tolist() == list(range(10))
    assert run["valid"].epoch.values.tolist() == [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert run["test"].epoch.values.tolist() == [4, 4]
    assert run.attributes["targets"] == "classes"
    assert run["train"].log_loss.notnull().all()
    assert "log_name" not in run["train"]
    assert run.attributes["closed"]
    assert hooks(model) == 0


def test_a_run_of_before_is_not_replaced(model, path):
    fit(Loop(path, None, (), {}), model, [0])
    with pytest.raises(StoreError, match="overwrite"):
        Loop(path, None, (), {}).start(model)
    fit(Loop(path, None, (), {"overwrite": True}), model, [0])
    assert actlab.open_run(path)["train"].sizes["step"] == 2
    assert hooks(model) == 0


def test_a_batch_that_does_not_end_makes_no_row(model, path):
    loop = Loop(path, None, (), {})
    loop.start_fit(model)
    loop.begin("train", (torch.randn(8, 4), torch.zeros(8, dtype=torch.long)), 0)
    model(torch.randn(8, 4))
    batches(loop, model, "train", 0)
    loop.begin("train", None, 0)
    model(torch.randn(8, 4))
    loop.stop()
    assert actlab.open_run(path)["train"].step.values.tolist() == [0, 1]
    assert hooks(model) == 0


def test_a_checkpoint_goes_on_in_its_run(model, path):
    first = Loop(path, None, (), {})
    first.start_fit(model)
    batches(first, model, "train", 0)
    batches(first, model, "train", 1, n=1)
    state = first.state()
    batches(first, model, "train", 1, n=3)  # lost with the crash
    first.stop()
    second = Loop(path, None, (), {})
    second.load(state)
    second.start_fit(model)
    batches(second, model, "train", 1, n=1)
    second.stop()
    run = actlab.open_run(path)
    assert run["train"].epoch.values.tolist() == [0, 0, 1, 1]
    assert run["train"].step.values.tolist() == [0, 1, 2, 3]


def test_a_checkpoint_and_another_path_begin_a_new_run(model, path, tmp_path):
    first = Loop(path, None, (), {})
    first.start_fit(model)
    batches(first, model, "train", 3)
    state = first.state()
    first.stop()
    second = Loop(tmp_path / "other.zarr", None, (), {})
    second.load(state)
    fit(second, model, [4])
    assert actlab.open_run(tmp_path / "other.zarr")["train"].step.values.tolist() == [0, 1]


def test_an_epoch_is_all_that_a_checkpoint_tells(model, path):
    fit(Loop(path, None, (), {}), model, range(3))
    again = Loop(path, None, (), {})
    again.go_back_to(1)
    fit(again, model, [1])
    run = actlab.open_run(path)
    assert run["train"].epoch.values.tolist() == [0, 0, 1, 1]
    assert run["train"].step.values.tolist() == [0, 1, 2, 3]
    assert run.attributes["attempts"] == [0, 2]
    fresh = Loop(path.with_name("fresh.zarr"), None, (), {})
    fresh.go_back_to(1)
    fit(fresh, model, [1])
    assert actlab.open_run(fresh.path)["train"].epoch.values.tolist() == [1, 1]


def test_what_is_logged_after_a_checkpoint_is_in_no_row(model, path):
    loop = Loop(path, None, (), {})
    loop.start_fit(model)
    batches(loop, model, "train", 0)
    loop.log({"early": 1.0})
    loop.state()
    loop.log({"late": 1.0})
    loop.stop()
    train = actlab.open_run(path)["train"]
    assert train.log_early.notnull().values.tolist() == [False, True]
    assert "log_late" not in train


def test_a_copy_does_not_record(model, path):
    loop = Loop(path, None, (), {})
    loop.start_fit(model)
    batches(loop, model, "train", 0)
    assert copy.deepcopy(loop).recorder is None
    assert loop.recorder is not None
    loop.stop()


def test_what_the_user_gives_comes_before_defaults(model, tmp_path):
    for options, names in (({}, ["0"]), ({"layers": "input"}, ["input"])):
        loop = Loop(tmp_path / names[0], None, (), options)
        loop.start(model, layers="0")
        batches(loop, model, "valid")
        loop.stop()
        assert actlab.open_run(loop.path).names == names


def test_an_unknown_keyword_is_refused_at_once(path):
    with pytest.raises(TypeError, match="layer"):
        Loop(path, None, (), {"layer": "fc"})


def test_two_paths_of_one_second_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len({Loop(None, None, (), {}).path for _ in range(3)}) == 3


@pytest.mark.filterwarnings("ignore:actlab. labels failed, recording ends")
def test_a_failure_ends_the_recording_where_that_is_asked_for(model, path):
    loop = Loop(path, lambda batch: [0] * batch[1], (), {"on_error": "stop"})
    loop.start_fit(model)
    for n in (8, None, 8):
        loop.begin("train", ("", n), 0)
        model(torch.randn(8, 4))
        loop.end()
    assert hooks(model) == 0
    loop.stop()
    run = actlab.open_run(path)
    assert run["train"].sizes["step"] == 1
    assert run.attributes["closed"]


def test_trackers_are_told_of_each_epoch_and_harm_nothing(model, path, recwarn):
    told = []

    class Keen:
        def push(self, run, epoch):
            told.append((epoch, actlab.open_run(run)["valid"].sizes["step"]))

    class Sick:
        def push(self, run, epoch):
            raise OSError("no network")

    loop = Loop(path, None, (Sick(), Keen()), {})
    loop.start_fit(model)
    for epoch in range(2):
        batches(loop, model, "train", epoch)
        batches(loop, model, "valid")
        loop.end_epoch()
    loop.stop()
    assert [str(each.message) for each in recwarn if "no network" in str(each.message)] == [
        "actlab: Sick failed, training goes on without it: OSError: no network"
    ]
    assert told == [(0, 2), (1, 4)]


class Odd:
    y = torch.tensor([1])


@pytest.mark.parametrize(
    ("batch", "labels"),
    [
        ((1, torch.tensor([1])), [1]),
        ([1, 2, torch.tensor([1])], [1]),
        ({"x": 1, "labels": torch.tensor([1])}, [1]),
        (({"a": 1}, {"target": torch.tensor([1])}), [1]),
        ((1, (torch.tensor([1]),)), [1]),
        ((1, [0, 1]), [0, 1]),
        (Odd(), [1]),
        (torch.zeros(3), None),
        ([torch.zeros(3)], None),
        ((1, (torch.tensor([1]), torch.tensor([2]))), None),
        ((1, "text"), None),
        (None, None),
    ],
)
def test_labels_are_found_where_loaders_put_them(batch, labels):
    found = find_labels(batch)
    assert (None if found is None else found.tolist()) == labels


def test_what_is_evaluated_again_after_a_fit_is_added(model, path):
    loop = Loop(path, None, (), {})
    loop.start_fit(model)
    batches(loop, model, "train", 0)
    loop.state()  # a checkpoint, at the step of what follows
    batches(loop, model, "valid")
    loop.stop()
    for _ in range(2):
        loop.start(model)
        batches(loop, model, "valid")
        loop.stop()
    run = actlab.open_run(path)
    assert run["valid"].step.values.tolist() == list(range(6))
    assert run["valid"].epoch.values.tolist() == [0] * 6
    assert run["valid"].batch.values.tolist() == list(range(6))
    assert run.attributes["attempts"] == [0]


def test_a_checkpoint_loaded_in_the_same_process_goes_back(model, path):
    loop = Loop(path, None, (), {})
    loop.start_fit(model)
    batches(loop, model, "train", 0)
    state = loop.state()
    batches(loop, model, "train", 1)
    loop.stop()
    loop.load(state)
    fit(loop, model, [1])
    run = actlab.open_run(path)
    assert run["train"].step.values.tolist() == [0, 1, 2, 3]
    assert run.attributes["attempts"] == [0, 2]
