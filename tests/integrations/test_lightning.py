"""A run recorded by the callback equals that of a plain loop, and nothing is left behind."""

import copy
import itertools
import logging
import pickle
import runpy
import sys

import lightning.pytorch as lightning
import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

import actlab
from actlab.errors import MissingDependencyError, StoreError
from actlab.integrations.lightning import ActivationHistogram

for package in ("lightning", "pytorch_lightning", "lightning.pytorch"):
    logging.getLogger(package).setLevel(logging.ERROR)

pytestmark = pytest.mark.filterwarnings("ignore:::(lightning|pytorch_lightning|torch|torchmetrics)")


def make_class(package):
    class Classifier(package.LightningModule):
        fails_at = interrupts_at = fails_in_validation = None

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            self.criterion = nn.CrossEntropyLoss()
            self.accuracy = MulticlassAccuracy(3)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = self.criterion(self(x), y)
            self.log("train/loss", loss)
            if (self.current_epoch, batch_idx) == self.fails_at:
                raise ArithmeticError("in training")
            if (self.current_epoch, batch_idx) == self.interrupts_at:
                raise KeyboardInterrupt
            return loss

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            x, y = batch
            outputs = self(x)
            loss = self.criterion(outputs, y)
            self.accuracy(outputs, y)
            self.log_dict({"val_loss": loss, "val_accuracy": self.accuracy})
            if self.current_epoch == self.fails_in_validation:
                raise ArithmeticError("in validation")
            return loss

        test_step = validation_step

        def predict_step(self, batch):
            return self(batch[0])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    return Classifier


Classifier, OtherClassifier = map(make_class, (lightning, pytorch_lightning))


class Manual(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.lr_schedulers().step()
        return loss


def loader(size, batch_size):
    generator = torch.Generator().manual_seed(size)
    x, y = torch.randn(size, 4, generator=generator), torch.randint(0, 3, (size,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size)


TRAIN, VALID = loader(30, 8), loader(24, 12)


def trainer(root, *callbacks, package=lightning, max_epochs=2, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": any(isinstance(each, package.Callback) for each in callbacks[1:])}
    quiet |= {"accelerator": "cpu", "default_root_dir": root, "max_epochs": max_epochs}
    return package.Trainer(callbacks=list(callbacks), **quiet | options)


def hooks(model):
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


def plain(path, *, epochs=2, accumulate=1, precision=None, validated=(VALID,), tested=True):
    """Train the same without the framework."""
    model = Classifier()
    (optimizer,), (schedule,) = model.configure_optimizers()
    model.log = model.log_dict = lambda *args, **options: None
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision is not None)
    with actlab.Recorder(model, path, layers=["*", "!criterion", "!accuracy"]) as recorder:
        for epoch in range(epochs):
            model.train()
            for number, (x, y) in enumerate(TRAIN, 1):
                with recorder.batch("train", epoch=epoch, labels=y), cast:
                    loss = nn.functional.cross_entropy(model(x), y)
                recorder.log(loss=loss.detach(), lr=optimizer.param_groups[0]["lr"])
                (loss / accumulate).backward()
                if number % accumulate == 0 or number == len(TRAIN):
                    optimizer.step()
                    schedule["scheduler"].step()
                    optimizer.zero_grad()
            model.eval()
            for split in ("valid", "test") if tested and epoch == epochs - 1 else ("valid",):
                for x, y in itertools.chain(*(validated if split == "valid" else (VALID,))):
                    with recorder.batch(split, epoch=epoch, labels=y), torch.no_grad(), cast:
                        model(x)
    return model


def assert_same(path, other, splits=("train", "valid", "test"), logged=("log_loss", "log_lr")):
    """Compare two runs: counts bit for bit, where they belong, labels, and the head's own values."""
    run, wanted = actlab.open_run(path), actlab.open_run(other)
    assert run.names == wanted.names
    for split in splits:
        ours, theirs = run[split], wanted[split]
        for name in ("counts", "step", "epoch", "batch", "train_step"):
            np.testing.assert_array_equal(ours[name].values, theirs[name].values, err_msg=f"{split} {name}")
        heads = [
            each.histogram(actlab.LinearAxis(-3, 3, 50), layer=each.head, split=split)
            for each in (run, wanted)
        ]
        np.testing.assert_array_equal(*[each.counts.values for each in heads])
        for label in range(3):
            ours_of, theirs_of = (
                each.histogram(actlab.LinearAxis(-3, 3, 50), layer=each.head, split=split, label=label)
                for each in (run, wanted)
            )
            np.testing.assert_array_equal(ours_of.counts.values, theirs_of.counts.values)
    for name in logged:
        np.testing.assert_array_equal(run["train"][name].values, wanted["train"][name].values)


def same_weights(model, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("package", "module"), [(lightning, Classifier), (pytorch_lightning, OtherClassifier)]
)
def test_a_run_equals_that_of_a_plain_loop(tmp_path, package, module):
    callback, model, bare = ActivationHistogram(tmp_path / "run.zarr"), module(), module()
    ours = trainer(tmp_path, callback, package=package)
    ours.fit(model, TRAIN, VALID)
    ours.test(model, VALID, verbose=False)
    trainer(tmp_path, package=package).fit(bare, TRAIN, VALID)
    assert same_weights(model, bare)
    assert same_weights(model.net, plain(tmp_path / "plain.zarr").net)
    assert_same(callback.path, tmp_path / "plain.zarr")
    run = actlab.open_run(callback.path)
    np.testing.assert_array_equal(run["train"].log_train_loss, run["train"].log_loss)
    assert run["valid"].log_val_loss.notnull().values.tolist() == [False, True] * 2
    assert run["test"].log_val_accuracy.values[-1] == ours.callback_metrics["val_accuracy"]
    assert "log_val_loss" not in run["train"]
    assert run.attributes["closed"]
    assert callback.recorder is None
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        ({"accumulate_grad_batches": 2}, {"accumulate": 2}),
        ({"precision": "bf16-mixed"}, {"precision": "bf16"}),
    ],
)
def test_what_a_trainer_does_besides_changes_no_row(tmp_path, options, differs):
    callback, model = ActivationHistogram(tmp_path / "run.zarr"), Classifier()
    trainer(tmp_path, callback, **options).fit(model, TRAIN, VALID)
    plain(tmp_path / "plain.zarr", tested=False, **differs)
    assert_same(callback.path, tmp_path / "plain.zarr", ("train", "valid"))


def test_manual_optimization_and_several_validation_loaders(tmp_path):
    callback, model = ActivationHistogram(tmp_path / "run.zarr"), Manual()
    trainer(tmp_path, callback).fit(model, TRAIN, [VALID, TRAIN])
    plain(tmp_path / "plain.zarr", validated=(VALID, TRAIN), tested=False)
    assert_same(callback.path, tmp_path / "plain.zarr", ("train", "valid"))
    assert actlab.open_run(callback.path)["valid"].log_val_loss_dataloader_idx_0.notnull().sum() == 2


def test_a_wrapper_of_a_strategy_is_no_second_input(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # and what else Lightning sets is put back
    callback, model = ActivationHistogram(tmp_path / "run.zarr"), Classifier()
    try:
        trainer(tmp_path, callback, strategy="ddp", devices=1, use_distributed_sampler=False).fit(
            model, TRAIN, VALID
        )
    finally:
        torch.distributed.destroy_process_group()
    plain(tmp_path / "plain.zarr", tested=False)
    assert_same(callback.path, tmp_path / "plain.zarr", ("train", "valid"))


def test_validation_amid_an_epoch(tmp_path):
    callback = ActivationHistogram(tmp_path / "run.zarr")
    trainer(tmp_path, callback, val_check_interval=2, limit_val_batches=1).fit(Classifier(), TRAIN, VALID)
    run = actlab.open_run(callback.path)
    assert run["train"].epoch.values.tolist() == [0] * 4 + [1] * 4
    assert run["valid"].epoch.values.tolist() == [0, 0, 1, 1]
    assert run["valid"].train_step.values.tolist() == [2, 4, 6, 8]
    assert run["valid"].log_val_loss.notnull().all()


def test_a_dry_run_is_a_run(tmp_path):
    callback = ActivationHistogram(tmp_path / "run.zarr")
    trainer(tmp_path, callback, fast_dev_run=True).fit(Classifier(), TRAIN, VALID)
    run = actlab.open_run(callback.path)
    assert [run[split].sizes["step"] for split in ("train", "valid")] == [1, 1]


@pytest.mark.parametrize(
    ("fault", "error", "rows"),
    [
        ({"fails_at": (1, 2)}, ArithmeticError, (6, 2)),
        ({"interrupts_at": (1, 2)}, SystemExit, (6, 2)),
        ({"fails_in_validation": 1}, ArithmeticError, (8, 2)),
    ],
)
def test_after_an_exception_the_run_reads_and_no_hook_is_left(tmp_path, fault, error, rows):
    callback, model = ActivationHistogram(tmp_path / "run.zarr"), Classifier()
    for name, value in fault.items():
        setattr(model, name, value)
    with pytest.raises(error):
        trainer(tmp_path, callback).fit(model, TRAIN, VALID)
    run = actlab.open_run(callback.path)
    assert (run["train"].sizes["step"], run["valid"].sizes["step"]) == rows
    assert run.attributes["closed"]
    assert hooks(model) == 0


def test_fits_and_evaluations_go_on_in_one_run(tmp_path):
    callback, model = ActivationHistogram(tmp_path / "run.zarr"), Classifier()
    trainer(tmp_path, callback).validate(model, VALID, verbose=False)
    first = trainer(tmp_path, callback)
    first.fit(model, TRAIN, VALID)
    first.fit_loop.max_epochs = 3
    first.fit(model, TRAIN, VALID)
    trainer(tmp_path, callback, max_epochs=1).fit(model, TRAIN)
    first.predict(model, VALID)
    first.test(model, VALID, verbose=False)
    run = actlab.open_run(callback.path)
    assert run["train"].epoch.values.tolist() == np.repeat(range(4), 4).tolist()
    assert run["train"].step.values.tolist() == list(range(16))
    assert run["valid"].epoch.values.tolist() == [-1, -1, 0, 0, 1, 1, 2, 2]
    assert run["test"].epoch.values.tolist() == [3, 3]
    assert hooks(model) == 0


def test_a_run_that_exists_is_refused_before_training(tmp_path):
    trainer(tmp_path, ActivationHistogram(tmp_path / "run.zarr")).validate(Classifier(), VALID, verbose=False)
    model = Classifier()
    with pytest.raises(StoreError, match="overwrite"):
        trainer(tmp_path, ActivationHistogram(tmp_path / "run.zarr")).fit(model, TRAIN, VALID)
    assert same_weights(model, Classifier())
    assert hooks(model) == 0


@pytest.mark.parametrize("every", [{"every_n_epochs": 1}, {"every_n_train_steps": 3, "save_top_k": -1}])
def test_a_checkpoint_is_gone_on_with_by_another_process(tmp_path, every):
    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (1, 1):
                raise ArithmeticError("power cut")

    def fit(*callbacks, **options):
        saver = lightning.callbacks.ModelCheckpoint(tmp_path / "saved", save_last=True, **every)
        callback = ActivationHistogram(tmp_path / "run.zarr")
        trainer(tmp_path, callback, saver, *callbacks).fit(Classifier(), TRAIN, VALID, **options)

    with pytest.raises(ArithmeticError):
        fit(Stop())
    fit(ckpt_path=tmp_path / "saved" / "last.ckpt")
    plain(tmp_path / "plain.zarr", tested=False)
    run, wanted = actlab.open_run(tmp_path / "run.zarr"), actlab.open_run(tmp_path / "plain.zarr")
    for split, name in itertools.product(("train", "valid"), ("step", "epoch", "batch")):
        assert run[split][name].values.tolist() == wanted[split][name].values.tolist(), (split, name)
    assert run.attributes["attempts"] == [0, 4 if "every_n_epochs" in every else 3]


@pytest.mark.parametrize(
    ("is_resumed", "epochs"),
    [(False, 4), (True, 6)],  # Lightning begins at 0 where there is a finder
)
def test_a_finder_of_the_learning_rate_sets_nothing_back(tmp_path, is_resumed, epochs):
    class Tuned(Classifier):
        lr = 0.1

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.lr)

    def fit(callback, max_epochs, **options):
        finder = lightning.callbacks.LearningRateFinder(num_training_steps=5)
        ours = trainer(tmp_path, callback, finder, max_epochs=max_epochs, num_sanity_val_steps=0)
        ours.fit(Tuned(), TRAIN, VALID, **options)
        return ours

    callback = ActivationHistogram(tmp_path / "run.zarr")
    fit(callback, 2).save_checkpoint(tmp_path / "saved.ckpt")
    if is_resumed:
        fit(ActivationHistogram(tmp_path / "run.zarr"), 4, ckpt_path=tmp_path / "saved.ckpt")
    else:
        fit(callback, 2)
    run = actlab.open_run(callback.path)
    assert run["train"].epoch.values.tolist() == np.repeat(range(epochs), 4).tolist()
    assert run["train"].step.values.tolist() == list(range(4 * epochs))


def test_the_test_of_a_checkpoint_does_not_set_the_run_back(tmp_path):
    saver = lightning.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    callback, model = ActivationHistogram(tmp_path / "run.zarr"), Classifier()
    ours = trainer(tmp_path, callback, saver)
    ours.fit(model, TRAIN, VALID)
    ours.test(model, VALID, ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    run = actlab.open_run(callback.path)
    assert [run[split].sizes["step"] for split in ("train", "valid", "test")] == [8, 4, 2]


def test_two_callbacks_in_one_trainer_and_copies(tmp_path):
    class Copier(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            copies.append(copy.deepcopy(trainer.callbacks[0]))

    copies = [pickle.loads(pickle.dumps(ActivationHistogram()))]
    callbacks = [ActivationHistogram(tmp_path / name, layers=name) for name in ("net.0", "criterion")]
    trainer(tmp_path, *callbacks, Copier(), max_epochs=1).fit(Classifier(), TRAIN, VALID)
    assert [actlab.open_run(each.path).names for each in callbacks] == [["net.0"], ["criterion"]]
    assert len(copies) == 5
    assert all(each.recorder is None for each in copies)


def test_a_metric_of_the_epoch_does_not_replace_that_of_its_last_step(tmp_path):
    class Both(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("both", float(batch_idx), on_step=True, on_epoch=True)
            return loss

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.log("late", float(batch_idx))

    callback = ActivationHistogram(tmp_path / "run.zarr")
    trainer(tmp_path, callback).fit(Both(), TRAIN)
    train = actlab.open_run(callback.path)["train"]
    assert train.log_both_step.values.tolist() == train.log_late.values.tolist() == [0, 1, 2, 3] * 2
    assert train.log_both_epoch.notnull().values.tolist() == ([False] * 3 + [True]) * 2


def test_labels_that_a_step_fetches_itself_are_not_those_of_the_batch_before(tmp_path):
    class Fetching(Classifier):
        def training_step(self, dataloader_iter):
            (x, y), *_ = next(dataloader_iter)
            return self.criterion(self(x), y)

    callback = ActivationHistogram(tmp_path / "run.zarr")
    trainer(tmp_path, callback, max_epochs=1).fit(Fetching(), TRAIN)
    run = actlab.open_run(callback.path)
    assert run["train"].sizes["step"] == 4
    assert "targets" not in run.attributes


@pytest.mark.parametrize("missing", [["lightning.pytorch"], ["lightning.pytorch", "pytorch_lightning"]])
def test_one_of_both_packages_is_enough(monkeypatch, missing):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    if len(missing) == 1:
        found = runpy.run_path(actlab.integrations.lightning.__file__)["ActivationHistogram"]
        assert issubclass(found, pytorch_lightning.Callback)
    else:
        with pytest.raises(MissingDependencyError, match=r"pip install 'actlab\[lightning\]'"):
            runpy.run_path(actlab.integrations.lightning.__file__)


def test_a_compiled_module_is_recorded(tmp_path):
    class Silent(Classifier):  # Lightning's `log` does not compile
        def log(self, *_, **__):
            pass

        def validation_step(self, batch, batch_idx):
            self(batch[0])

    callback, model = ActivationHistogram(tmp_path / "run.zarr"), Silent()
    trainer(tmp_path, callback, max_epochs=1).fit(torch.compile(model, backend="eager"), TRAIN, VALID)
    plain(tmp_path / "plain.zarr", epochs=1, tested=False)
    assert_same(callback.path, tmp_path / "plain.zarr", ("train", "valid"))
    assert hooks(model) == 0
