"""What Weights & Biases is told of an epoch, offline, and beside what the user logs."""

import json
import struct
import time
import warnings

import pytest
import torch
import wandb
from torch import nn
from wandb.proto.wandb_internal_pb2 import Record

import actlab
from actlab.errors import ActlabError
from actlab.integrations.wandb import WandbTracker


@pytest.fixture
def run(tmp_path):
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    with wandb.init(project="tests", mode="offline", dir=tmp_path, settings=settings) as run:
        yield run


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with actlab.Recorder(model, tmp_path / "run.zarr", fsync=False) as recorder:
        for epoch in range(3):
            for split in ("train", "valid"):
                x = torch.randn(64, 6)
                with recorder.batch(split, epoch=epoch, labels=(x.sum(1) > 0).long()):
                    model(x)
    return str(tmp_path / "run.zarr")


def records(data):
    """Return what lies in a file of wandb: records in blocks of 32 KiB, as LevelDB has its log."""
    place, record, found = 7, b"", []
    while place + 7 <= len(data):
        room = 2**15 - place % 2**15
        if room < 7:
            place += room
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if place <= len(data) and kind in (1, 4):  # a whole record, or the end of one
            found.append(Record.FromString(record))
            record = b""
    return found


def history(folder):
    """Return the rows that wandb wrote, once it has written that the run is over."""
    (file,) = folder.rglob("*.wandb")
    found = records(file.read_bytes())
    while not any(each.HasField("exit") for each in found):
        time.sleep(0.05)
        found = records(file.read_bytes())
    rows = [each.history.item for each in found if each.HasField("history")]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows
    ]


def test_every_epoch_has_a_row_and_a_picture(path, tmp_path, run):
    tracker = WandbTracker()
    for epoch in range(3):
        tracker.push(path, epoch)
    assert run.step == 2
    run.finish()
    peaks = actlab.peaks.twin_peaks(actlab.open_run(path), 2)
    rows = history(tmp_path)
    assert [row["actlab_epoch"] for row in rows] == [0, 1, 2]
    assert rows[2]["twin_peaks/separation/valid"] == float(peaks.separation.sel(split="valid"))
    assert rows[2]["activations/zeros/train/1"] > 0.2
    assert len(list(tmp_path.rglob("twin_peaks/picture_*.png"))) == 3


@pytest.mark.parametrize("is_first", [True, False])
def test_what_the_user_logs_by_step_is_kept(path, tmp_path, run, is_first):
    tracker = WandbTracker(run)
    for epoch in range(3):
        if is_first:
            tracker.push(path, epoch)
        run.log({"mine": 10 * epoch}, step=epoch)
        if not is_first:
            tracker.push(path, epoch)
    run.finish()
    assert [(row["mine"], row["actlab_epoch"]) for row in history(tmp_path)] == [(0, 0), (10, 1), (20, 2)]


def test_what_the_user_logs_without_a_step_is_kept(path, tmp_path, run):
    tracker = WandbTracker(run)
    for epoch in range(3):
        run.log({"mine": epoch})
        tracker.push(path, epoch)
    run.finish()
    rows = history(tmp_path)
    assert [row["mine"] for row in rows if "mine" in row] == [0, 1, 2]
    assert [row["actlab_epoch"] for row in rows if "actlab_epoch" in row] == [0, 1, 2]


def test_a_disabled_run_does_no_harm(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with wandb.init(mode="disabled") as run:
            tracker = WandbTracker(run)
            tracker.push(path, 0)
            tracker.push(path, 1)


def test_without_a_run_the_error_says_what_to_do(path, monkeypatch):
    monkeypatch.setattr(wandb, "run", None)  # a disabled one stays
    with pytest.raises(ActlabError, match=r"wandb\.init"):
        WandbTracker().push(path, 0)
