"""A recorder that is dropped without close: hooks, last row, writer, and the path free again."""

import gc

import pytest
import torch
import xarray as xr
from torch import nn

import actlab
from actlab.errors import StoreError
from actlab.recording.session import await_abandoned


def with_recorder(model, path, **options):
    """Record two batches and drop the recorder."""
    recorder = actlab.Recorder(model, path, on_error="raise", **options)
    for _ in range(2):
        with recorder.batch("train", 0):
            model(torch.ones(1, 1))
    recorder.log(loss=3.0)


def with_record(model, path, **options):
    """Record two forwards and drop the recorder."""
    recorder = actlab.record(model, path, on_error="raise", **options)
    for _ in range(2):
        model(torch.ones(1, 1))
    recorder.log(loss=3.0)


def in_a_cycle(model, path, **options):
    """Drop a recorder in such a way that only the garbage collector finds it."""
    recorder = actlab.record(model, path, on_error="raise", **options)
    recorder.trainer = [recorder]
    for _ in range(2):
        model(torch.ones(1, 1))
    recorder.log(loss=3.0)


FORMS = pytest.mark.parametrize("form", [with_recorder, with_record, in_a_cycle])


@FORMS
def test_a_dropped_recorder_closes_its_run(tmp_path, hooks_of, form):
    model = nn.Linear(1, 1)
    form(model, tmp_path / "run.zarr")
    gc.collect()
    assert hooks_of(model) == 0
    await_abandoned()
    tree = xr.open_datatree(tmp_path / "run.zarr", engine="zarr")
    assert tree.attrs["actlab"]["closed"]
    assert tree["train"].step.values.tolist() == [0, 1]
    assert tree["train"].log_loss.values[1] == 3


@FORMS
def test_a_dropped_recorder_makes_room_for_the_next(tmp_path, hooks_of, form):
    model = nn.Linear(1, 1)
    gc.disable()  # or the cycle might be found too early for this test
    try:
        for _ in range(3):
            form(model, tmp_path / "run.zarr", overwrite=True)
    finally:
        gc.enable()
    await_abandoned()
    assert hooks_of(model) == 0
    assert xr.open_datatree(tmp_path / "run.zarr", engine="zarr")["train"].sizes["step"] == 2


def test_a_recorder_dropped_while_the_writer_is_locked_blocks_nothing(tmp_path):
    model = nn.Linear(1, 1)
    held = [actlab.Recorder(model, tmp_path / "run.zarr", on_error="raise")]
    with held[0].batch("train", 0):
        model(torch.ones(1, 1))
    with held[0]._session.writer._wake:
        held.clear()  # as when garbage is collected in the thread of the writer
    await_abandoned()
    assert xr.open_datatree(tmp_path / "run.zarr", engine="zarr").attrs["actlab"]["closed"]


def test_a_recorder_that_is_still_held_keeps_its_run(tmp_path):
    model = nn.Linear(1, 1)
    with actlab.Recorder(model, tmp_path / "run.zarr") as recorder:
        with pytest.raises(StoreError, match="is being written"):
            actlab.Recorder(model, tmp_path / "run.zarr", overwrite=True)
        with recorder.batch("train", 0):
            model(torch.ones(1, 1))
    assert xr.open_datatree(tmp_path / "run.zarr", engine="zarr")["train"].sizes["step"] == 1


def test_a_recorder_that_nobody_keeps_is_pointed_out(tmp_path):
    model = nn.Linear(1, 1)
    with pytest.warns(RuntimeWarning, match="gone before its first batch: keep it") as caught:
        actlab.record(model, tmp_path / "run.zarr")
    assert caught[0].filename == __file__
    await_abandoned()
