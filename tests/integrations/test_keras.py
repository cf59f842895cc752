"""fit, evaluate and predict become rows: splits, epochs, labels, restarts, and nothing left behind."""

import copy
import os
import subprocess
import sys

os.environ["KERAS_BACKEND"] = "torch"  # Keras reads it once, when it is imported

import keras
import numpy as np
import pytest
import torch
from keras import layers

import actlab
from actlab.errors import StoreError
from actlab.integrations.keras import ActivationHistogram

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(24, 4)).astype("float32")
Y = RANDOM.integers(0, 3, 24)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def path(tmp_path):
    return os.fspath(tmp_path / "run.zarr")


def compiled(model, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], **options)
    return model


def sequential(kind=keras.Sequential, **options):
    keras.utils.set_random_seed(0)
    inside = [layers.Input((4,)), layers.Dense(5, activation="relu", name="a"), layers.Dense(3, name="b")]
    return compiled(kind(inside), **options)


def functional():
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([layers.Input((4,)), layers.Dense(5, name="dense")], name="encoder")
    given = layers.Input((4,))
    return compiled(keras.Model(given, layers.Dense(3, name="head")(encoder(given))))


@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
def test_the_channels_of_images_are_found_in_either_order(path, order):
    """Filters with a bias of -9 are dead behind the ReLU: all of a channel is 0."""
    keras.utils.set_random_seed(0)
    shape = (2, 6, 6) if order == "channels_first" else (6, 6, 2)
    inside = [layers.Conv2D(4, 3, data_format=order, name="conv"), layers.ReLU(name="relu"), layers.Flatten()]
    model = compiled(keras.Sequential([layers.Input(shape), *inside, layers.Dense(3, name="fc")]))
    kernel, _ = model.get_layer("conv").get_weights()
    model.get_layer("conv").set_weights([kernel, np.array([-9, 0, -9, 0], "float32")])
    x = RANDOM.normal(size=(24, *shape)).astype("float32")
    model.fit(x, Y, verbose=0, callbacks=[ActivationHistogram(path)])
    channels = actlab.open_run(path).channels("train")
    shares = channels.zero_share.isel(row=0, channel=channels["layer"].values == "relu").values
    assert (shares == 1).tolist() == [True, False, True, False]


class Subclassed(keras.Model):
    """A model with a list of layers of one name, a layer of torch, and a training step of its own."""

    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(4, name="block", activation="relu") for _ in range(2)]
        self.inner = torch.nn.Linear(4, 4)
        self.head = layers.Dense(3, name="head")

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x)
        return self.head(self.inner(x))

    def train_step(self, data):
        x, y = data
        loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        self.zero_grad()
        loss.backward()
        with torch.no_grad():
            self.optimizer.apply([v.value.grad for v in self.trainable_weights], self.trainable_weights)
        return {"loss": loss, "text": "is no number"}


def fit(model, *callbacks, **options):
    options = {"epochs": 2, "batch_size": 8, "verbose": 0, "shuffle": False} | options
    return model.fit(X, Y, callbacks=list(callbacks), **options)


def hooks(model):
    found = [*model.modules(), *model._flatten_layers()]
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in found)


def rows(path, split):
    data = actlab.open_run(path)[split]
    return data.step.values.tolist(), data.epoch.values.tolist()


def assert_untouched(model):
    assert hooks(model) == 0
    for name in ("train_function", "test_function", "predict_function"):
        assert getattr(getattr(model, name), "__name__", None) in (None, "one_step_on_data")
        assert not hasattr(getattr(model, name), "__wrapped__")


def test_the_run_equals_that_of_a_plain_loop(path, tmp_path):
    model = sequential()
    callback = ActivationHistogram(path)
    fit(model, callback, validation_data=(X[:10], Y[:10]))
    model.evaluate(X[:6], Y[:6], verbose=0, callbacks=[callback])
    plain, twin = os.fspath(tmp_path / "plain.zarr"), sequential()
    with actlab.Recorder(twin, plain) as recorder:

        def run(split, epoch, n):
            for start in range(0, n, 8):
                x, y = torch.tensor(X[start : min(start + 8, n)]), torch.tensor(Y[start : min(start + 8, n)])
                with recorder.batch(split, epoch, y), torch.set_grad_enabled(split == "train"):
                    loss = twin.compute_loss(y=y, y_pred=twin(x, training=split == "train"))
                if split == "train":
                    weights = twin.trainable_weights
                    twin.zero_grad()
                    loss.backward()
                    with torch.no_grad():
                        twin.optimizer.apply([each.value.grad for each in weights], weights)

        for epoch in range(2):
            run("train", epoch, 24)
            run("valid", epoch, 10)
        run("test", 1, 6)
    ours, theirs = actlab.open_run(path), actlab.open_run(plain)
    for split in ("train", "valid", "test"):
        assert ours[split].layer.values.tolist() == theirs[split].layer.values.tolist() == ["input", "a", "b"]
        for name in ("counts", "n", "step", "epoch", "batch", "train_step"):
            assert (ours[split][name].values == theirs[split][name].values).all(), (split, name)
        for name in ("head", "label", "step"):
            assert (ours.raw(split)[name].values == theirs.raw(split)[name].values).all(), (split, name)
    pairs = zip(model.get_weights(), twin.get_weights(), strict=True)
    assert all((one == other).all() for one, other in pairs)
    assert_untouched(model)


def test_metrics_and_the_learning_rate_are_logged(path):
    model = sequential()
    history = fit(model, ActivationHistogram(path), validation_split=0.25).history
    run = actlab.open_run(path)
    assert np.allclose(run["train"].log_loss.values[[2, 5]], history["loss"][:2])
    assert np.allclose(run["train"].log_lr.values, 0.1)
    assert np.allclose(run["valid"].log_val_accuracy.values, history["val_accuracy"])
    assert run.attributes["head"] == "b"
    assert run.attributes["targets"] == "classes"


def test_names_are_those_of_keras(path, tmp_path):
    model = functional()
    fit(model, ActivationHistogram(path, layers="encoder.*"))
    assert actlab.open_run(path)["train"].layer.values.tolist() == ["encoder.dense"]
    path = os.fspath(tmp_path / "subclassed.zarr")
    keras.utils.set_random_seed(0)
    model = compiled(Subclassed())
    fit(model, ActivationHistogram(path))
    run = actlab.open_run(path)
    names = ["input", "block", "block_1", "torch_module_wrapper.module", "head"]
    assert run["train"].layer.values.tolist() == names
    assert run["train"].log_loss.notnull().all()
    assert not run.layers["never_called"].any()
    assert run.layers["skipped"].eq("").all()
    assert_untouched(model)


def test_a_recurrent_layer_is_one_layer(path):
    keras.utils.set_random_seed(0)
    model = compiled(keras.Sequential([layers.Embedding(9, 4), layers.LSTM(4, name="lstm"), layers.Dense(3)]))
    words = RANDOM.integers(0, 9, (24, 5))
    model.fit(words, Y, verbose=0, callbacks=[ActivationHistogram(path)])
    assert "lstm" in actlab.open_run(path)["train"].layer.values


def test_several_outputs_need_the_labels_of_the_head(path, tmp_path):
    given = layers.Input((4,))
    outputs = {name: layers.Dense(3, name=name)(given) for name in ("one", "two")}
    model = keras.Model(given, outputs)
    model.compile("sgd", dict.fromkeys(outputs, "mse"))
    targets = {name: np.eye(3)[Y] for name in outputs}
    model.fit(X, targets, verbose=0, callbacks=[ActivationHistogram(path)])
    assert "label" not in actlab.open_run(path).raw("train")
    path = os.fspath(tmp_path / "second.zarr")
    callback = ActivationHistogram(path, head="two", labels=lambda batch: batch[1]["two"])
    model.fit(X, targets, verbose=0, shuffle=False, callbacks=[callback])
    assert (actlab.open_run(path).raw("train")["label"].values == targets["two"]).all()


def test_the_weights_are_the_same_with_and_without(path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = []
        for callbacks in ([ActivationHistogram(path)], []):
            model = sequential()
            stop = keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True)
            sample_weight = np.linspace(0.5, 1, 24)
            fit(model, *callbacks, stop, sample_weight=sample_weight, validation_data=(X, Y), epochs=3)
            found.append(model.get_weights())
            assert_untouched(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert all((one == other).all() for one, other in zip(*found, strict=True))
    assert (actlab.open_run(path).raw("train")["label"].values[:24] == Y).all()


def test_shuffling_and_dropout_draw_the_same_random_numbers(path):
    found = []
    for callbacks in ([ActivationHistogram(path)], []):
        keras.utils.set_random_seed(0)
        model = compiled(keras.Sequential([layers.Input((4,)), layers.Dropout(0.5), layers.Dense(3)]))
        fit(model, *callbacks, epochs=3, shuffle=True, validation_split=0.25)
        found.append(model.get_weights())
    assert all((one == other).all() for one, other in zip(*found, strict=True))


class Fails(keras.callbacks.Callback):
    """Fails at one event, as anything in a training may."""

    def __init__(self, event, error):
        super().__init__()
        setattr(self, event, self.fail)
        self.error = error

    def fail(self, *_, **__):
        raise self.error


class Broken(keras.Sequential):
    """Fails in the second batch of a training."""

    steps = 0

    def train_step(self, data):
        logs = super().train_step(data)
        self.steps += 1
        if self.steps == 2:
            raise KeyboardInterrupt
        return logs


class Data(keras.utils.PyDataset):
    """Fails when its second batch is asked for."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            raise OSError("gone")
        return X[:8], Y[:8]


@pytest.mark.parametrize(
    ("event", "error", "n"),
    [
        ("on_train_begin", ValueError, 0),
        ("on_train_batch_end", KeyboardInterrupt, 1),
        ("on_test_begin", ValueError, 3),
        ("on_test_batch_begin", KeyboardInterrupt, 3),
        ("on_epoch_end", ValueError, 3),
        ("on_train_end", KeyboardInterrupt, 6),
    ],
)
def test_a_failure_leaves_a_run_that_is_closed_and_no_hook(path, event, error, n):
    model = sequential()
    with pytest.raises(error) as info:
        fit(model, ActivationHistogram(path), Fails(event, error), validation_data=(X, Y))
    assert info.value is not None  # it keeps the frames of fit alive
    assert_untouched(model)
    if n:
        assert rows(path, "train")[0] == list(range(n))
        assert actlab.open_run(path).attributes["closed"]


@pytest.mark.parametrize("event", ["on_test_begin", "on_test_batch_end", "on_test_end"])
def test_an_evaluation_that_fails_leaves_no_hook(path, event):
    model = sequential()
    callbacks = [ActivationHistogram(path), Fails(event, KeyboardInterrupt)]
    with pytest.raises(KeyboardInterrupt):
        model.evaluate(X, Y, verbose=0, callbacks=callbacks)
    assert_untouched(model)


def test_data_that_fail_leave_no_hook(path):
    model = sequential()
    with pytest.raises(OSError, match="gone"):
        model.fit(Data(), verbose=0, callbacks=[ActivationHistogram(path)])
    assert_untouched(model)
    assert actlab.open_run(path).attributes["closed"]


def test_a_step_that_fails_makes_no_row_and_training_can_go_on(path):
    model = sequential(Broken)
    callback = ActivationHistogram(path)
    with pytest.raises(KeyboardInterrupt):
        fit(model, callback)
    assert_untouched(model)
    assert rows(path, "train") == ([0], [0])
    fit(model, callback)
    assert rows(path, "train") == (list(range(7)), [0] + [1] * 3 + [2] * 3)
    assert_untouched(model)


def test_evaluate_and_predict_alone_are_the_test_split(path):
    model = sequential()
    callback = ActivationHistogram(path)
    model.evaluate(X, Y, verbose=0, callbacks=[callback])
    assert rows(path, "test") == ([0], [-1])
    fit(model, callback, epochs=3)
    model.predict(X, batch_size=12, verbose=0, callbacks=[callback])
    assert rows(path, "test") == ([0, 1, 2], [-1, 2, 2])
    assert callback.recorder is None
    assert_untouched(model)


def test_two_fits_and_a_fit_from_an_epoch(path):
    model = sequential()
    callback = ActivationHistogram(path)
    fit(model, callback)
    fit(model, callback, initial_epoch=2, epochs=3)
    fit(model, callback, epochs=1)
    assert rows(path, "train") == (list(range(12)), [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3)
    assert callback.path == path


@pytest.mark.parametrize("is_new_process", [False, True])
@pytest.mark.parametrize("at", [1, 4])
def test_a_backup_goes_on_at_its_epoch(path, tmp_path, at, is_new_process):
    class Crash(keras.callbacks.Callback):
        seen = 0

        def on_train_batch_end(self, batch, logs=None):
            Crash.seen += 1
            if Crash.seen == at + 1:
                raise RuntimeError("crash")

    def train(model, callback):
        backup = keras.callbacks.BackupAndRestore(os.fspath(tmp_path / "backup"))
        fit(model, callback, backup, Crash(), epochs=3)

    callback, model = ActivationHistogram(path, every=2), sequential()
    with pytest.raises(RuntimeError, match="crash"):
        train(model, callback)
    if at < 3:  # before the first backup: Keras begins anew
        callback, model = ActivationHistogram(path, every=2, overwrite=True), sequential()
    elif is_new_process:
        callback, model = ActivationHistogram(path, every=2), sequential()
    train(model, callback)
    assert rows(path, "train") == ([0, 2, 4, 6, 8], [0, 0, 1, 2, 2])
    assert actlab.open_run(path)["train"].batch.values.tolist() == [0, 2, 1, 0, 2]


def test_a_run_of_before_is_not_replaced(path):
    fit(sequential(), ActivationHistogram(path))
    model = sequential()
    with pytest.raises(StoreError, match="overwrite"):
        fit(model, ActivationHistogram(path))
    with pytest.raises(StoreError, match="overwrite"):
        model.evaluate(X, Y, verbose=0, callbacks=[ActivationHistogram(path)])
    assert_untouched(model)


def test_a_callback_can_be_copied_after_a_fit(path):
    callback = ActivationHistogram(path, overwrite=True)
    fit(sequential(), callback, validation_data=(X, Y))
    other, model = copy.deepcopy(callback), sequential()
    fit(model, other)
    assert_untouched(model)
    assert other.path == path


def test_another_backend_is_refused(path):
    code = "import actlab.integrations.keras as a; a.ActivationHistogram('x.zarr')"
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "KERAS_BACKEND=torch" in done.stderr.splitlines()[-1]


def test_trackers_are_told_at_the_end_of_each_epoch(path):
    told = []

    class Tracker:
        def push(self, run, epoch):
            told.append((epoch, actlab.open_run(run)["valid"].sizes["step"]))

    fit(sequential(), ActivationHistogram(path, trackers=[Tracker()]), validation_data=(X, Y))
    assert told == [(0, 3), (1, 6)]
