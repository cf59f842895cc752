"""Arguments of a recorder: the schedule, several models, what is refused."""

import pytest
import torch
from torch import nn

from actlab.axis import FloatAxis
from actlab.errors import SelectionError
from actlab.recording.options import Schedule, make_keepers, make_plan
from actlab.recording.recorder import Recorder


def plan(model, *, calls="sum", functional=False):
    return make_plan(model, None, None, [], calls, functional=functional)


@pytest.mark.parametrize(
    ("every", "recorded"),
    [
        (1, range(12)),
        (5, [0, 5, 10]),
        ({0: 1, 4: 3}, [0, 1, 2, 3, 4, 7, 10]),
        ({6: 2, 0: 4, 2: 100}, [0, 2, 6, 8, 10]),
    ],
)
def test_a_schedule_says_which_steps_are_recorded(every, recorded):
    schedule = Schedule(every)
    assert [step for step in range(12) if schedule.has(step)] == list(recorded)


@pytest.mark.parametrize("every", [0, -1, True, 2.0, {}, {1: 2}, {0: 0}, {0: 1, -3: 2}, {0: True}, {0.0: 1}])
def test_a_schedule_that_makes_no_sense_is_refused(every):
    with pytest.raises(ValueError, match="every must"):
        Schedule(every)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ({}, ValueError, "empty dict"),
        ({"a": nn.Linear(1, 1), "b": 3}, TypeError, "dict of them by name, got int"),
        ({"": nn.Linear(1, 1)}, TypeError, "must have names"),
        ({0: nn.Linear(1, 1)}, TypeError, "must have names, got 0"),
        (torch.jit.script(nn.Sequential(nn.Linear(1, 1))), TypeError, "ScriptModule, which has no hooks"),
    ],
)
def test_what_is_no_model_is_refused(model, error, message):
    with pytest.raises(error, match=message):
        plan(model)


def test_calls_are_summed_or_separate():
    with pytest.raises(ValueError, match="calls must be 'sum' or 'separate', got 'split'"):
        plan(nn.Linear(1, 1), calls="split")


@pytest.mark.parametrize(
    ("raw", "dtype", "most", "error", "message"),
    [
        ("conv1", None, None, ValueError, r"did you mean \['conv1'\]"),
        (["fcc"], None, None, SelectionError, "raw: nothing recorded matches 'fcc'; did you mean 'fc'"),
        (["fc"], "bfloat16", None, ValueError, "raw_dtype must be one of float16, float32, float64 or None"),
        (["fc"], None, 0, ValueError, "raw_samples must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_kept_raw_is_refused(raw, dtype, most, error, message):
    model = nn.ModuleDict({"fc": nn.Linear(1, 1)})
    with pytest.raises(error, match=message):
        make_keepers(plan(model), FloatAxis(), [], raw, dtype, most)


def test_a_script_module_inside_a_model_is_left_out_and_said(writer):
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(2, 2))), nn.Linear(2, 2))
    with (
        Recorder(model, "memory") as recorder,
        pytest.warns(
            RuntimeWarning, match="layer '0.0' is not counted: it is a ScriptModule, which has no hooks"
        ),
        recorder.batch("train", 0),
    ):
        model(torch.ones(3, 2))
    row = writer().rows[0]
    assert dict(zip([layer.name for layer in row.layers], row.n.tolist(), strict=True))["1"] == 6
    assert writer().attributes["skipped"] == {"0.0": "it is a ScriptModule, which has no hooks"}


def test_several_models_are_recorded_under_their_names(writer, hooks_of):
    models = {"generator": nn.Sequential(nn.Linear(2, 3)), "critic": nn.Linear(3, 1)}
    with Recorder(models, "memory", on_error="raise", layers=["!*.input"]) as recorder:
        for _ in range(2):
            with recorder.batch("train", 0):
                fake = models["generator"](torch.ones(4, 2))
                models["critic"](fake), models["critic"](fake.detach())
    assert [layer.name for layer in writer().rows[0].layers] == ["generator.0", "critic"]
    assert [row.n.tolist() for row in writer().rows] == [[12, 8]] * 2
    assert writer().attributes["model"] == "generator: Sequential, critic: Linear"
    assert [hooks_of(model) for model in models.values()] == [0, 0]
