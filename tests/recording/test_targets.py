"""What the run says of its labels: classes, several at once, yes or no, or numbers to be predicted."""

import numpy as np
import pytest
import torch
from torch import nn

import actlab
from actlab.recording.recorder import Recorder

RANDOM = torch.Generator().manual_seed(0)
SHARES = torch.rand(6, 3, generator=RANDOM).softmax(1)
HOT = torch.tensor([[1, 0, 1], [0, 0, 0]] * 3)
KINDS = {
    "indices": (3, torch.arange(6) % 3, "classes"),
    "indices of a list": (3, [0, 1, 2, 2, 1, 0], "classes"),
    "indices, some left out": (3, torch.tensor([0, 1, -100, 2, -1, 2]), "classes"),
    "indices of an unsigned type": (3, np.array([0, 1, 2, 2, 1, 0], np.uint16), "classes"),
    "indices in a tensor of an unsigned type": (3, (torch.arange(6) % 3).to(torch.uint64), "classes"),
    "indices that happen to be 0 and 1": (3, torch.tensor([0, 1, 0, 1, 1, 0]), "classes"),
    "one column of indices": (3, np.array([[0], [1], [2], [2], [1], [0]]), "classes"),
    "shares of the classes": (3, SHARES, "classes"),
    "shares in half precision": (3, SHARES.half(), "classes"),
    "several labels": (3, HOT, "multi-hot"),
    "several labels in floats": (3, HOT.float(), "multi-hot"),
    "several labels, some left out": (3, torch.where(HOT.roll(1, 0) == 1, -100, HOT), "multi-hot"),
    "yes or no": (1, torch.tensor([0, 1, 1, 0, 1, 0]), "binary"),
    "yes or no, true or false": (1, torch.tensor([True, False] * 3), "binary"),
    "yes or no in floats": (1, torch.tensor([[0.0], [1]] * 3), "binary"),
    "numbers": (1, torch.randn(6, 1, generator=RANDOM), "float"),
    "a row of numbers": (1, torch.randn(6, generator=RANDOM), "float"),
    "several numbers": (3, torch.randn(6, 3, generator=RANDOM), "float"),
    "several numbers between 0 and 1": (3, torch.rand(6, 3, generator=RANDOM), "float"),
    "whole numbers": (1, torch.arange(6), "float"),
    "whole numbers in floats": (1, torch.arange(6.0)[:, None], "float"),
    "several whole numbers": (3, torch.arange(18).reshape(6, 3), "float"),
    "not numbers": (1, torch.full((6, 1), torch.nan), "float"),
}


def record(batches, units=1, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, units))
    with Recorder(model, "memory", on_error="raise", **options) as recorder:
        for labels in batches:
            with recorder.batch("train", 0, labels):
                model(torch.randn(6, 4))


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("kept", ["raw", "counted", "nothing"])
def test_the_first_labels_say_what_the_targets_are(writer, monkeypatch, case, kept):
    units, labels, kind = KINDS[case]
    if kept == "counted":
        monkeypatch.setattr("actlab.recording.head.MAX_RAW_VALUES", 0)
    record([None, labels, None], units, raw=None if kept == "nothing" else "head")
    assert writer().attributes["targets"] == kind
    assert len(writer().rows) == 3


def test_without_labels_nothing_is_said(writer):
    record([None, None])
    assert "targets" not in writer().attributes


@pytest.mark.parametrize(
    ("units", "shape", "labels", "kind"),
    [
        (3, (6, 2, 4, 5), (6, 4, 5), "classes"),
        (1, (6, 2, 4, 5), (6, 1, 4, 5), "binary"),
        (3, (6, 2, 4, 5), (6, 3, 4, 5), "multi-hot"),
    ],
)
def test_the_units_of_a_convolution_are_its_channels(writer, units, shape, labels, kind):
    model = nn.Sequential(nn.Conv2d(shape[1], units, 1))
    with (
        Recorder(model, "memory", on_error="raise") as recorder,
        recorder.batch("train", 0, torch.randint(0, 2, labels, generator=RANDOM)),
    ):
        model(torch.randn(shape))
    assert writer().attributes["targets"] == kind


@pytest.mark.parametrize(("first", "units"), [(torch.tensor([[0.0], [1]] * 3), 1), (HOT.float(), 3)])
def test_zeros_and_ones_may_turn_out_to_be_numbers(writer, first, units):
    record([first, first + 0.5], units)
    assert writer().attributes["targets"] == "float"
    record([first + 0.5, first], units)
    assert writer().attributes["targets"] == "float"


def test_shares_stay_classes(writer):
    record([SHARES, SHARES, torch.arange(6) % 3], 3)
    assert writer().attributes["targets"] == "classes"


def test_the_run_is_told_only_once(writer, monkeypatch):
    told = []
    record([None])
    cls = type(writer())
    monkeypatch.setattr(cls, "update_attributes", update := cls.update_attributes)

    def tell(self, **values):
        told.extend(values)
        update(self, **values)

    monkeypatch.setattr(cls, "update_attributes", tell)
    record([torch.rand(6, 1)] * 5)
    assert told.count("targets") == 1


def test_labels_that_do_not_fit_leave_the_training_alone(writer):
    model = nn.Sequential(nn.Linear(4, 3))
    with (
        Recorder(model, "memory") as recorder,
        pytest.warns(RuntimeWarning, match="labels of shape"),
        recorder.batch("train", 0, torch.ones(5)),
    ):
        model(torch.randn(6, 4))
    assert len(writer().rows) == 1


def test_a_run_that_goes_on_keeps_what_it_said(tmp_path):
    torch.manual_seed(0)
    model, path = nn.Sequential(nn.Linear(4, 1)), tmp_path / "run.zarr"

    def go_on(labels):
        with (
            Recorder(model, path, on_error="raise", resume=True) as recorder,
            recorder.batch("train", 0, labels),
        ):
            model(torch.randn(6, 4))
        return actlab.open_run(path).attributes["targets"]

    for labels in (torch.tensor([0.0, 1, 1, 0, 1, 0]), None, torch.ones(6)):
        assert go_on(labels) == "binary"
    assert go_on(torch.rand(6)) == "float"
