"""What TensorBoard is told of an epoch is what the run holds."""

import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import actlab
from actlab.errors import SelectionError, StoreError
from actlab.integrations.loop import Loop
from actlab.integrations.tensorboard import TensorBoardTracker


def epochs(model, loop, n=2, labels=True):
    """Train a little; the loop tells its trackers of each epoch."""
    loop.start_fit(model)
    for epoch in range(n):
        for split in ("train", "train", "train", "valid", "valid"):
            x = torch.randn(32, 6)
            y = (x.sum(1) > 0).long()
            loop.begin(split, (x, y) if labels else (x,), epoch if split == "train" else None)
            model(x)
            loop.end()
        loop.end_epoch()
    loop.stop()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def read(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_every_epoch_is_pushed_as_it_is(tmp_path):
    path = tmp_path / "run.zarr"
    with SummaryWriter(tmp_path / "logs") as writer:
        epochs(net(), Loop(path, None, [TensorBoardTracker(writer)], {}))
    found, run = read(tmp_path / "logs"), actlab.open_run(path)
    for epoch in (0, 1):
        peaks = actlab.peaks.twin_peaks(run, epoch)
        expected = {"twin_peaks/train_valid_distance": peaks.train_valid_distance}
        for split in ("train", "valid"):
            one = run.select(split, epoch=epoch, layers="1").squeeze("layer")
            pooled = actlab.stats.pool_moments(one)
            expected |= {
                f"activations/mean/{split}/1": pooled["mean"],
                f"activations/std/{split}/1": pooled["std"],
                f"activations/zeros/{split}/1": actlab.stats.zero_share(one.counts.sum("step")),
                f"activations/nonfinite/{split}/1": 0,
                f"twin_peaks/separation/{split}": peaks.separation.sel(split=split),
                f"twin_peaks/overlap/{split}": peaks.overlap.sel(split=split),
            }
        for name, value in expected.items():
            event = found.Scalars(name)[epoch]
            assert event.step == epoch
            assert math.isclose(event.value, float(value), rel_tol=1e-6), name
        image = found.Images("twin_peaks/picture")[epoch]
        assert image.step == epoch
        assert image.width > 1000
    names = {name.rpartition("/")[2] for name in found.Tags()["scalars"] if name.startswith("act")}
    assert names == {"input", "0", "1", "2"}


def test_a_valley_stands_for_what_labels_do_not_say(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(1, 1, bias=False)

        def forward(self, x):
            return self.head(x[:, :1].sign() + 0.2 * x[:, 1:2])

    model, path = Two(), tmp_path / "run.zarr"
    nn.init.ones_(model.head.weight)
    with actlab.Recorder(model, path) as recorder:
        for _ in range(4):
            with recorder.batch("valid", epoch=-1):
                model(torch.randn(200, 2))
    with SummaryWriter(tmp_path / "logs") as writer:
        TensorBoardTracker(writer).push(str(path), -1)
    found = read(tmp_path / "logs")
    assert abs(found.Scalars("twin_peaks/valley/valid")[0].value) < 0.5
    assert "twin_peaks/separation/valid" not in found.Tags()["scalars"]


def test_infinite_values_are_counted_and_a_run_without_a_head_has_no_picture(tmp_path):
    model, path = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), str(tmp_path / "run.zarr")
    with actlab.Recorder(model, path, layers="input") as recorder, recorder.batch("train", epoch=0):
        model(torch.tensor([[0.0, math.inf], [math.nan, 1.0]]))
    with SummaryWriter(tmp_path / "logs") as writer:
        TensorBoardTracker(writer).push(path, 0)
    found = read(tmp_path / "logs")
    values = {name: found.Scalars(name)[0].value for name in found.Tags()["scalars"]}
    np.testing.assert_allclose(
        [values[f"activations/{name}/train/input"] for name in ("mean", "std", "zeros", "nonfinite")],
        [0.5, 0.5, 0.25, 2],
    )
    assert found.Tags()["images"] == []


def test_an_epoch_or_run_that_is_not_there_is_an_error(tmp_path):
    path = tmp_path / "run.zarr"
    epochs(net(), Loop(path, None, (), {}), n=1)
    with SummaryWriter(tmp_path / "logs") as writer:
        tracker = TensorBoardTracker(writer)
        with pytest.raises(SelectionError, match="no epoch 3"):
            tracker.push(str(path), 3)
        with pytest.raises(StoreError, match="no such run"):
            tracker.push(str(tmp_path / "no.zarr"), 0)
