"""A run recorded by the handler equals that of a plain loop, and nothing is left behind."""

import logging
import runpy
import sys

import numpy as np
import pytest
import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver, FastaiLRFinder
from ignite.metrics import Accuracy, Loss, RunningAverage
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import actlab
from actlab.errors import MissingDependencyError, StoreError
from actlab.integrations.ignite import ActivationHistogram

logging.getLogger("ignite").setLevel(logging.CRITICAL)


def loader(size, batch_size):
    generator = torch.Generator().manual_seed(size)
    x, y = torch.randn(size, 4, generator=generator), torch.randint(0, 3, (size,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size)


TRAIN, VALID = loader(30, 8), loader(24, 12)


class Training:
    """A model, its trainer and two evaluators, the first run after each epoch."""

    def __init__(self, **options):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.trainer = create_supervised_trainer(
            self.model, self.optimizer, nn.functional.cross_entropy, **options
        )
        metrics = {"accuracy": Accuracy(), "nll": Loss(nn.functional.cross_entropy)}
        self.evaluator = create_supervised_evaluator(self.model, metrics=metrics)
        self.tester = create_supervised_evaluator(self.model)

    def evaluate_after(self, event):
        self.trainer.add_event_handler(event, lambda: self.evaluator.run(VALID))
        return self

    def attach(self, path, **options):
        self.handler = ActivationHistogram(self.model, path, fsync=False, **options)
        self.handler.attach(self.trainer, self.evaluator, self.tester)
        return self

    @property
    def hooks(self):
        return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in self.model.modules())


def plain(path, *, epochs=2, accumulate=1):
    """Train the same without the framework."""
    training = Training()
    model, optimizer = training.model, training.optimizer
    with actlab.Recorder(model, path, fsync=False) as recorder:
        for epoch in range(epochs):
            model.train()
            for number, (x, y) in enumerate(TRAIN, 1):
                if (number - 1 + epoch * len(TRAIN)) % accumulate == 0:
                    optimizer.zero_grad()
                with recorder.batch("train", epoch=epoch, labels=y):
                    loss = nn.functional.cross_entropy(model(x), y)
                recorder.log(loss=loss.item())
                (loss / accumulate).backward()
                if (number + epoch * len(TRAIN)) % accumulate == 0:
                    optimizer.step()
            model.eval()
            for split in ("valid", "test") if epoch == epochs - 1 else ("valid",):
                for x, y in VALID:
                    with recorder.batch(split, epoch=epoch, labels=y), torch.no_grad():
                        model(x)
    return model


def same_weights(model, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def assert_same(path, other, splits=("train", "valid", "test")):
    """Compare two runs: counts bit for bit, where they belong, labels, and the head's own values."""
    run, wanted = actlab.open_run(path), actlab.open_run(other)
    assert run.names == wanted.names
    axis = actlab.LinearAxis(-3, 3, 50)
    for split in splits:
        for name in ("counts", "step", "epoch", "batch", "train_step"):
            np.testing.assert_array_equal(run[split][name].values, wanted[split][name].values, err_msg=name)
        for label in range(3):
            np.testing.assert_array_equal(
                *[each.histogram(axis, layer="2", split=split, label=label).counts for each in (run, wanted)]
            )
    np.testing.assert_array_equal(run["train"].log_loss, wanted["train"].log_loss)


@pytest.mark.parametrize("is_first", [True, False], ids=["attached first", "attached last"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_equals_that_of_a_plain_loop(tmp_path, is_first, accumulate):
    def follow(training):
        RunningAverage(output_transform=lambda loss: loss).attach(training.trainer, "average")
        return training.evaluate_after(Events.EPOCH_COMPLETED)

    training = Training(gradient_accumulation_steps=accumulate)
    if is_first:
        follow(training.attach(tmp_path / "run.zarr"))
    else:
        follow(training).attach(tmp_path / "run.zarr")
    training.trainer.run(TRAIN, max_epochs=2)
    training.tester.run(VALID)
    model = plain(tmp_path / "plain.zarr", accumulate=accumulate)
    assert same_weights(training.model, model)
    assert_same(training.handler.path, tmp_path / "plain.zarr")
    run = actlab.open_run(training.handler.path)
    assert run["valid"].log_accuracy.notnull().values.tolist() == [False, True] * 2
    assert run["train"].log_average[0] == run["train"].log_loss[0]
    assert run["train"].log_average[-1] == training.trainer.state.metrics["average"]
    assert run.attributes["closed"]
    assert training.handler.recorder is None
    assert training.hooks == 0


def test_evaluation_amid_an_epoch(tmp_path):
    training = Training().evaluate_after(Events.ITERATION_COMPLETED(every=2)).attach(tmp_path / "run.zarr")
    training.trainer.run(TRAIN, max_epochs=2)
    run = actlab.open_run(training.handler.path)
    assert run["train"].epoch.values.tolist() == [0] * 4 + [1] * 4
    assert run["valid"].epoch.values.tolist() == [0] * 4 + [1] * 4
    assert run["valid"].train_step.values.tolist() == [2, 2, 4, 4, 6, 6, 8, 8]


def test_runs_and_evaluations_go_on_in_one_run(tmp_path):
    training = Training().evaluate_after(Events.EPOCH_COMPLETED).attach(tmp_path / "run.zarr")
    training.evaluator.run(VALID)
    training.trainer.run(TRAIN, max_epochs=2)
    training.trainer.run(TRAIN, max_epochs=3)
    training.trainer.state.max_epochs = None
    training.trainer.run(TRAIN, max_epochs=1)
    training.tester.run(VALID)
    run = actlab.open_run(training.handler.path)
    assert run["train"].epoch.values.tolist() == np.repeat(range(4), 4).tolist()
    assert run["train"].step.values.tolist() == list(range(16))
    assert run["valid"].epoch.values.tolist() == np.repeat(range(-1, 4), 2).tolist()
    assert run["test"].epoch.values.tolist() == [3, 3]
    assert training.hooks == 0


def test_several_evaluators_and_several_models(tmp_path):
    training = Training().evaluate_after(Events.EPOCH_COMPLETED)
    training.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: training.tester.run(TRAIN))
    handler = ActivationHistogram({"net": training.model}, tmp_path / "run.zarr", layers="net.0")
    handler.attach(training.trainer, [training.evaluator, training.tester])
    training.trainer.run(TRAIN)
    run = actlab.open_run(handler.path)
    assert run["valid"].counts.sum("bucket").sel(layer="net.0").values.tolist() == [96, 96, 64, 64, 64, 48]
    assert run["valid"].epoch.values.tolist() == [0] * 6


def test_evaluators_alone(tmp_path):
    training = Training()
    handler = ActivationHistogram(training.model, tmp_path / "run.zarr", fsync=False)
    handler.attach(None, training.evaluator)
    training.evaluator.run(VALID)
    run = actlab.open_run(handler.path)
    assert run["valid"].epoch.values.tolist() == [-1, -1]
    assert run["valid"].log_nll.notnull().values.tolist() == [False, True]
    assert training.hooks == 0


def test_what_is_no_engine_is_refused(tmp_path):
    training = Training()
    with pytest.raises(TypeError, match="expected an ignite Engine, or several, got Linear"):
        ActivationHistogram(training.model, tmp_path / "run.zarr").attach(training.model)


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
@pytest.mark.parametrize(("where", "rows"), [("trainer", (5, 2)), ("evaluator", (8, 2))])
def test_after_an_exception_the_run_reads_and_no_hook_is_left(tmp_path, error, where, rows):
    training = Training().evaluate_after(Events.EPOCH_COMPLETED).attach(tmp_path / "run.zarr")
    other = ActivationHistogram(training.model, tmp_path / "other.zarr", fsync=False)
    other.attach(training.trainer, training.evaluator)
    calls = 0

    def fail(x, **_):
        nonlocal calls
        calls += training.model.training == (where == "trainer")
        if calls == {"trainer": 6, "evaluator": 3}[where] and training.model.training == (where == "trainer"):
            raise error("here")

    hook = training.model[2].register_forward_hook(lambda module, args, output: fail(args))
    with pytest.raises(error, match="here"):
        training.trainer.run(TRAIN, max_epochs=2)
    hook.remove()
    for path in (training.handler.path, other.path):
        run = actlab.open_run(path)
        assert (run["train"].sizes["step"], run["valid"].sizes["step"]) == rows
        assert run.attributes["closed"]
    assert training.hooks == 0


def test_an_exception_that_somebody_takes_is_taken(tmp_path):
    training, taken = Training(), []
    training.trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda _, error: taken.append(error))
    training.attach(tmp_path / "run.zarr")

    @training.trainer.on(Events.ITERATION_COMPLETED(once=3))
    def fail():
        raise ArithmeticError

    training.trainer.run(TRAIN, max_epochs=2)  # ignite goes on with the next epoch
    run = actlab.open_run(training.handler.path)
    assert len(taken) == 1
    assert run["train"].epoch.values.tolist() == [0] * 3 + [1] * 4
    assert run.attributes["closed"]
    assert training.hooks == 0


def test_a_training_that_is_terminated(tmp_path):
    training = Training().attach(tmp_path / "run.zarr")
    training.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=6), lambda engine: engine.terminate(skip_completed=True)
    )
    training.trainer.run(TRAIN, max_epochs=2)
    run = actlab.open_run(training.handler.path)
    assert run["train"].sizes["step"] == 6
    assert run.attributes["closed"]
    assert training.hooks == 0


def test_a_training_that_is_interrupted_and_resumed(tmp_path):
    training = Training().evaluate_after(Events.EPOCH_COMPLETED).attach(tmp_path / "run.zarr")
    training.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda engine: engine.interrupt())
    training.trainer.run(TRAIN, max_epochs=2)
    assert training.hooks == 0
    training.trainer.run(TRAIN, max_epochs=2)
    plain(tmp_path / "plain.zarr")
    assert_same(training.handler.path, tmp_path / "plain.zarr", ("train", "valid"))
    assert training.hooks == 0


def test_a_run_that_exists_is_refused_before_training(tmp_path):
    Training().attach(tmp_path / "run.zarr").tester.run(VALID)
    training = Training().attach(tmp_path / "run.zarr")
    with pytest.raises(StoreError, match="overwrite"):
        training.trainer.run(TRAIN)
    assert training.trainer.state.iteration == 0
    assert training.hooks == 0


@pytest.mark.parametrize("event", [Events.EPOCH_COMPLETED, Events.ITERATION_COMPLETED(every=3)])
def test_a_checkpoint_is_gone_on_with_by_another_process(tmp_path, event):
    def train(crash=None, state=None):
        training = Training().evaluate_after(Events.EPOCH_COMPLETED)
        parts = {"model": training.model, "optimizer": training.optimizer, "trainer": training.trainer}
        handler = ActivationHistogram(training.model, tmp_path / "run.zarr", fsync=False)
        saver = Checkpoint(
            parts | {"activations": handler}, DiskSaver(tmp_path / "saved", require_empty=False)
        )
        training.trainer.add_event_handler(event, saver)
        handler.attach(training.trainer, training.evaluator)
        if state is not None:
            Checkpoint.load_objects(saver.to_save, state)
        if crash is not None:
            training.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=crash), lambda: 1 / 0)
        training.trainer.run(TRAIN, max_epochs=2)
        return training

    with pytest.raises(ZeroDivisionError):
        train(crash=6)
    [saved] = (tmp_path / "saved").iterdir()
    saved_at = {4: 4, 6: 6}[torch.load(saved)["trainer"]["iteration"]]
    train(state=torch.load(saved))
    plain(tmp_path / "plain.zarr")
    run, wanted = actlab.open_run(tmp_path / "run.zarr"), actlab.open_run(tmp_path / "plain.zarr")
    for split in ("train", "valid"):
        for name in ("step", "epoch", "batch"):
            assert run[split][name].values.tolist() == wanted[split][name].values.tolist()
    assert run.attributes["attempts"] == [0, saved_at]


def test_a_search_for_the_learning_rate_is_no_training(tmp_path):
    training = Training().evaluate_after(Events.EPOCH_COMPLETED).attach(tmp_path / "run.zarr")
    training.trainer.add_event_handler(Events.COMPLETED, lambda: training.tester.run(VALID))
    finder = FastaiLRFinder()
    saved = {"model": training.model, "optimizer": training.optimizer}
    with finder.attach(training.trainer, saved, num_iter=6) as trainer:
        trainer.run(TRAIN)
    assert not (tmp_path / "run.zarr").exists()
    training.trainer.run(TRAIN, max_epochs=1)
    run = actlab.open_run(tmp_path / "run.zarr")
    assert {split: run[split].epoch.values.tolist() for split in run.splits} == {
        "train": [0] * 4,
        "valid": [0] * 2,
        "test": [0] * 2,
    }


def test_trackers_are_told_after_the_evaluation(tmp_path):
    told = []

    class Tracker:
        def push(self, run, epoch):
            told.append((epoch, actlab.open_run(run)["valid"].sizes["step"]))

    training = Training().attach(tmp_path / "run.zarr", trackers=[Tracker()])
    training.evaluate_after(Events.EPOCH_COMPLETED).trainer.run(TRAIN, max_epochs=2)
    assert told == [(0, 2), (1, 4)]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ignite.engine", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'actlab\[ignite\]'"):
        runpy.run_path(actlab.integrations.ignite.__file__)
