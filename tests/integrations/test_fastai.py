"""A Learner records what the same training in a plain loop records, whatever comes between."""

import copy
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.all import (
    GradientAccumulation,
    ProgressCallback,
    SaveModelCallback,
)
from fastai.callback.training import ShortEpochCallback
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize
from fastai.learner import Callback, CancelBatchException, CancelFitException, Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.tabular.all import Categorify, CategoryBlock, TabularDataLoaders, tabular_learner
from fastai.torch_core import set_seed
from fastai.vision.all import ImageDataLoaders, models, vision_learner
from PIL import Image
from torch import nn

import actlab
from actlab.errors import AxisError, SelectionError, StoreError
from actlab.integrations import fastai as integration

plt.switch_backend("agg")

# The tests do not wait for the disk.
ActivationHistogram = partial(integration.ActivationHistogram, fsync=False)
ActivationsHistogram = partial(integration.ActivationsHistogram, fsync=False)

set_seed(0)
X = torch.randn(120, 6)
Y = (X.sum(1) > 0).long()
SAMPLES = list(zip(X, Y, strict=True))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


def net():
    set_seed(1, reproducible=True)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def learner(*callbacks, model=None, dls=None, **options):
    """A learner of 5 training and 3 validation batches, which says nothing."""
    model = model or net()
    dls = dls or DataLoaders.from_dsets(SAMPLES[:80], SAMPLES[80:], bs=16, num_workers=0, device="cpu")
    learn = Learner(
        dls, model, CrossEntropyLossFlat(), metrics=accuracy, cbs=list(callbacks), lr=0.1, **options
    )
    return quiet(learn)


def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *_: None
    return learn


def hooks(model):
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


def rows(path):
    """Epochs of the rows of each split, which are numbered through."""
    run = actlab.open_run(path)
    assert run.attributes["closed"]
    for split in run.splits:
        assert run[split].step.values.tolist() == list(range(run[split].sizes["step"]))
    return {split: run[split].epoch.values.tolist() for split in run.splits}


def weights(learn):
    return torch.cat([each.flatten().double() for each in learn.model.state_dict().values()])


class Raise(Callback):
    """Raise something at the n-th time of an event."""

    def __init__(self, event, error, at=1):
        self.event, self.error, self.at = event, error, at

    def __call__(self, event_name):
        if event_name == self.event:
            self.at -= 1
            if self.at == 0:
                raise self.error


class Keep(Callback):
    """Keep the batches of a training, as the model gets them."""

    def __init__(self):
        self.batches = []

    def before_batch(self):
        place = ("train", self.epoch) if self.training else ("valid", self.epoch)
        self.batches.append((*place, self.x.clone(), self.y.clone()))


def test_a_run_is_that_of_a_plain_loop(path, tmp_path):
    kept, model = Keep(), net()[:3]  # without dropout: data loaders draw random numbers, too
    plain = learner(model=copy.deepcopy(model))
    learn = learner(kept, ActivationHistogram(path), model=model)
    learn.fit(2)
    plain.create_opt()
    plain.opt.set_hypers(lr=0.1)
    with actlab.Recorder(plain.model, tmp_path / "plain.zarr") as recorder:
        for split, epoch, x, y in kept.batches:
            plain.model.train(split == "train")
            with torch.set_grad_enabled(split == "train"):
                with recorder.batch(split, epoch=epoch, labels=y):
                    loss = plain.loss_func(plain.model(x), y)
                recorder.log(loss=loss.detach())
            if split == "train":
                loss.backward()
                plain.opt.step()
                plain.opt.zero_grad()
    ours, theirs = actlab.open_run(path), actlab.open_run(tmp_path / "plain.zarr")
    assert rows(path) == {"train": [0] * 5 + [1] * 5, "valid": [0] * 3 + [1] * 3}
    assert ours.head == theirs.head
    for split in ("train", "valid"):
        a, b = ours[split].load(), theirs[split].load()
        for name in ("counts", "n", "mean", "std", "log_loss", "epoch", "batch", "train_step", "step"):
            np.testing.assert_array_equal(a[name], b[name])
        for name in ("head", "label"):
            np.testing.assert_array_equal(ours.raw(split)[name], theirs.raw(split)[name])
    assert torch.equal(weights(learn), weights(plain))


def test_metrics_and_learning_rate_are_logged(path):
    learn = learner(ActivationHistogram(path))
    learn.fit_one_cycle(2)
    train, valid = (actlab.open_run(path)[split].load() for split in ("train", "valid"))
    np.testing.assert_allclose(train.log_lr, learn.recorder.lrs)
    lines = np.array(learn.recorder.values, float)
    np.testing.assert_allclose(train.log_train_loss[[4, 9]], lines[:, 0])
    np.testing.assert_allclose(valid.log_valid_loss[[2, 5]], lines[:, 1])
    np.testing.assert_allclose(valid.log_accuracy[[2, 5]], lines[:, 2])
    assert int(valid.log_accuracy.notnull().sum()) == 2


def test_fits_and_evaluations_go_on_in_one_run(path):
    learn = learner(ActivationHistogram(path))
    learn.validate()
    learn.lr_find(show_plot=False, num_it=8)
    learn.fine_tune(1)
    learn.get_preds()
    learn.fit(3, start_epoch=2)
    learn.validate(ds_idx=0)
    learn.validate(dl=learn.dls.valid.new(SAMPLES[:40]))
    assert rows(path) == {
        "train": [0] * 5 + [1] * 5 + [2] * 5,
        "valid": [-1] * 3 + [0] * 3 + [1] * 3 + [2] * 3,
        "test": [2] * 3,
    }
    assert hooks(learn.model) == 0
    assert "_with_events" not in vars(learn)


@pytest.mark.parametrize(
    ("event", "error", "n_train", "n_valid", "epochs"),
    [
        ("before_fit", ValueError("no"), 0, 0, 0),
        ("after_pred", KeyboardInterrupt(), 0, 0, 1),
        ("before_backward", ValueError("no"), 1, 0, 1),
        ("before_validate", ValueError("no"), 5, 0, 1),
        ("after_validate", KeyboardInterrupt(), 5, 3, 1),
        ("after_epoch", ValueError("no"), 5, 3, 1),
        ("after_fit", ValueError("no"), 10, 6, 2),
    ],
)
def test_an_exception_leaves_no_hook_and_a_readable_run(path, event, error, n_train, n_valid, epochs):
    learn = learner(Raise(event, error), ActivationHistogram(path))
    with pytest.raises(type(error)):
        learn.fit(2)
    assert hooks(learn.model) == 0
    if event == "before_fit":
        assert not path.exists()
    elif n_train == 0:
        assert rows(path) == {}
    else:
        found = rows(path)
        assert len(found["train"]) == n_train
        assert len(found.get("valid", [])) == n_valid
    learn.remove_cb(Raise)
    learn.fit(1)
    assert rows(path)["train"][n_train:] == [epochs] * 5
    assert "_with_events" not in vars(learn)


def test_a_failing_validation_alone_leaves_no_hook(path):
    learn = learner(Raise("after_pred", ValueError("no"), at=2), ActivationHistogram(path))
    with pytest.raises(ValueError, match="no"):
        learn.validate()
    assert hooks(learn.model) == 0
    assert rows(path) == {"valid": [-1]}


def test_cancelled_batches_and_fits(path):
    skip = Raise("after_pred", CancelBatchException(), at=2)
    learn = learner(skip, Raise("after_batch", CancelFitException(), at=12), ActivationHistogram(path))
    learn.fit(3)
    assert rows(path) == {"train": [0] * 5 + [1] * 4, "valid": [0] * 3}
    loss = actlab.open_run(path)["train"].log_loss.values
    assert np.flatnonzero(np.isnan(loss)).tolist() == [1]
    assert hooks(learn.model) == 0


class Autocast(Callback):
    """What MixedPrecision does, on a CPU."""

    order = 10

    def before_batch(self):
        self.cast = torch.autocast("cpu", torch.bfloat16)
        self.cast.__enter__()

    def after_loss(self):
        self.cast.__exit__(None, None, None)


@pytest.mark.parametrize(
    "make", [lambda: GradientAccumulation(48), lambda: ShortEpochCallback(0.4), Autocast]
)
def test_weights_are_those_without_the_callback(path, make):
    learn, bare = learner(make(), ActivationHistogram(path)), learner(make())
    for each in (learn, bare):
        set_seed(2)
        each.fit(2)
    assert torch.equal(weights(learn), weights(bare))
    n = 3 if isinstance(learn.cbs[-2], ShortEpochCallback) else 5
    assert rows(path)["train"] == [0] * n + [1] * n


def test_mixed_precision_is_recorded_as_it_is(path):
    learner(Autocast(), ActivationHistogram(path)).fit(1)
    logits = torch.from_numpy(actlab.open_run(path).raw("train")["head"].values)
    assert torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("options", [{}, {"resume_step": 10}])
def test_saved_models_resume_in_the_run(path, tmp_path, options):
    saving = SaveModelCallback(every_epoch=True, with_opt=True)
    learner(saving, ActivationHistogram(path, every=2), path=tmp_path).fit(3)
    again = learner(path=tmp_path)
    again.add_cb(ActivationHistogram(path, every=2, **options))
    again.load("model_1")
    again.fit(4, start_epoch=2)
    run = actlab.open_run(path)
    assert run["train"].step.values.tolist() == list(range(0, 20, 2))
    assert run["train"].epoch.values.tolist() == np.repeat(range(4), 5)[::2].tolist()
    assert run["valid"].epoch.values.tolist() == np.repeat(range(4), 3)[::2].tolist()
    assert run.attributes["attempts"] == [0, 10]


def test_a_run_of_before_is_not_replaced(path):
    learner(ActivationHistogram(path)).fit(1)
    learn = learner(ActivationHistogram(path))
    with pytest.raises(StoreError, match="overwrite"):
        learn.fit(1)
    assert hooks(learn.model) == 0
    assert len(rows(path)["train"]) == 5


def test_modules_are_chosen_as_in_a_hook_callback(path, tmp_path):
    model = net()
    learn = learner(ActivationHistogram(path, modules=[0, model[2], -1], every=2), model=model)
    learn.fit(1)
    run = actlab.open_run(path)
    assert run.names == ["0", "2", "4"]
    assert run["train"].step.values.tolist() == [0, 2, 4]
    for wrong in (5, nn.ReLU(), "0"):
        with pytest.raises(SelectionError, match="modules"):
            learner(ActivationHistogram(tmp_path / "no.zarr", modules=wrong)).fit(1)


def test_wrong_arguments_are_refused_at_once():
    with pytest.raises(TypeError, match="nbins"):
        ActivationHistogram(nbins=3)
    with pytest.raises(TypeError, match="layers"):
        ActivationHistogram(modules=0, layers="0")
    with pytest.raises(AxisError):
        ActivationHistogram(hMin=3, hMax=1)
    with pytest.raises(AxisError):
        ActivationHistogram(n_bins=0)


def test_labels_may_be_taken_from_the_batch(path):
    learn = learner()
    learn.fit(1, cbs=ActivationHistogram(path, labels=lambda batch: 1 - batch[-1]))
    assert hooks(learn.model) == 0
    raw = actlab.open_run(path).raw("valid")
    assert raw["label"].values.tolist() == (1 - Y[80:]).tolist()


class Pairs(nn.Module):
    """Two inputs, two outputs, two targets."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, a, b):
        return self.one(a), self.two(b)


def test_several_inputs_outputs_and_targets(path):
    samples = [(x, -x, y, 2 * y) for x, y in SAMPLES]
    dls = DataLoaders.from_dsets(samples[:80], samples[80:], bs=16, num_workers=0, device="cpu")
    dls.n_inp = 2

    def loss(found, one, two):
        return nn.functional.cross_entropy(found[0], one) + nn.functional.cross_entropy(found[1], two)

    learn = quiet(
        Learner(dls, Pairs(), loss, cbs=ActivationHistogram(path, head="one", labels=lambda batch: batch[2]))
    )
    learn.fit(1)
    run = actlab.open_run(path)
    assert run.head == "one"
    assert run.raw("valid")["label"].values.tolist() == Y[80:].tolist()


class Push:
    def __init__(self):
        self.told = []

    def push(self, run, epoch):
        found = actlab.open_run(run)
        self.told.append((epoch, bool(found["valid"].log_valid_loss.notnull()[-1])))


def test_trackers_are_told_of_every_epoch_the_last_included(path):
    tracker = Push()
    stop = Raise("after_epoch", CancelFitException(), at=2)
    learner(stop, ActivationHistogram(path, trackers=[tracker])).fit(5)
    assert tracker.told == [(0, True), (1, True)]


@pytest.mark.parametrize("cats", [[], ["kind"]])
def test_tabular_learners_export_and_draw(path, tmp_path, cats):
    frame = pd.DataFrame({"size": X[:, 0].numpy(), "kind": ["a", "b"] * 60, "sort": ["y", "n", "n"] * 40})
    dls = TabularDataLoaders.from_df(
        frame, procs=[Categorify, Normalize], cat_names=cats, cont_names=["size"], y_names="sort",
        y_block=CategoryBlock(), valid_idx=list(range(80, 120)), bs=16, num_workers=0, device="cpu",
    )  # fmt: skip
    learn = quiet(tabular_learner(dls, layers=[8], path=tmp_path, cbs=ActivationsHistogram(path)))

    class Export(Callback):
        def after_epoch(self):
            self.learn.export("amid.pkl")

    learn.fit(1)
    learn.export("after.pkl")
    assert actlab.open_run(path).attributes["targets"] == "classes"
    loaded = load_learner(tmp_path / "after.pkl")
    assert type(loaded.activations_histogram) is Callback
    learn.activations_histogram.plotActsHist()
    assert len(plt.gcf().axes) > 3
    plt.close("all")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images of two digits, dark and bright ones."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for part, n in (("train", 8), ("valid", 4)):
        for digit, light in (("3", 60), ("7", 200)):
            (folder / part / digit).mkdir(parents=True)
            for number in range(n):
                pixels = random.normal(light, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / digit / f"{number}.png")
    return folder


def test_the_two_lines_of_the_original(path, pictures):
    actsh = partial(ActivationsHistogram, path, modulesId=None, hMin=-10, hMax=10, nBins=200)
    data = ImageDataLoaders.from_folder(pictures, valid="valid", bs=8, num_workers=0)
    learn = quiet(vision_learner(data, models.resnet18, pretrained=False, cbs=actsh(), metrics=accuracy))
    learn.fit_one_cycle(2)
    learn.activations_histogram.plotActsHist(cols=20, figsize=(30, 15), showEpochs=False)
    tiles = plt.gcf().axes
    assert len(tiles) == sum(1 for each in learn.model.modules() if not list(each.children()))
    assert tiles[0].get_title() == "L0: 0.0\nConv2d"
    assert tiles[0].get_ylim() == (-10, 10)
    assert tiles[0].images[0].get_array().shape == (200, 4)
    plt.close("all")
    run = actlab.open_run(path)
    assert run.head == "1.8"
    assert run.raw("valid")["label"].values.tolist() == [0, 0, 0, 0, 1, 1, 1, 1] * 2


def test_the_knobs_of_the_original(path, tmp_path):
    learn = learner(ActivationHistogram(path, modulesId=[0, 2, -1], hMin=0, hMax=2, liveChart=True))
    learn.fit(2)
    draw = learn.activation_histogram.plotActsHist
    draw(toDisplay=0, hScale=0.5, showLayerInfo=True, aspectAuto=False, showImage=False)
    (axes,) = plt.gcf().axes
    assert axes.get_title() == "L0: 0\nLinear, 16 \N{MULTIPLICATION SIGN} 8"
    assert axes.get_ylim() == (0, 2)
    assert axes.get_box_aspect() == 200 / 10
    assert not axes.images[0].get_visible()
    draw(cols=1, toDisplay=[-1, 1])
    assert [axes.get_title() for axes in plt.gcf().axes] == ["L2: 4\nLinear", "L1: 2\nReLU"]
    plt.close("all")
    with pytest.raises(SelectionError, match="no layer 3"):
        draw(toDisplay=3)
    with pytest.raises(TypeError, match="colour"):
        draw(colour="red")
    callback = ActivationHistogram(tmp_path / "classes.zarr", useClasses=True, hMax=3)
    learner(callback).fit(1)
    callback.plotActsHist()
    assert [axes.get_title() for axes in plt.gcf().axes] == ["0", "1"]
    assert plt.gcf().axes[0].get_xlim() == (-3, 3)
    plt.close("all")
