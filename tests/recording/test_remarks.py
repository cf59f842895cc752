"""What is said where a recording holds not what was meant: nothing, another model, no training, no labels."""

import warnings
from contextlib import contextmanager, suppress

import pytest
import torch
from torch import nn

import actlab
from actlab.integrations.loop import EventRecorder

X = torch.randn(6, 4)
NO_BATCH = "no batch was recorded"
NOT_CALLED = "the recorded model was not called inside the batch: is it the one that is trained?"
NEVER_TRAINED = "no forward was in training mode, so none is recorded as train: call model.train()"
NO_EVAL = "call model.eval() to validate"


def net(units=3):
    return nn.Sequential(nn.Linear(4, units))


@contextmanager
def said():
    """Collect the messages of all warnings inside."""
    messages = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(each.message) for each in caught]


def only(messages, words):
    """Say whether there is one message, with these words in it."""
    return len(messages) == 1 and words in messages[0]


class TestNothing:
    @pytest.mark.parametrize("kind", [actlab.Recorder, EventRecorder])
    def test_a_model_called_outside_of_batches(self, writer, kind):
        model = net()
        with said() as messages, kind(model, "memory"):
            model(X)
        assert only(messages, NO_BATCH)
        assert writer().is_closed

    def test_an_error_before_the_first_batch_speaks_for_itself(self, writer):
        with said() as messages, suppress(ZeroDivisionError), actlab.Recorder(net(), "memory"):
            raise ZeroDivisionError
        assert messages == []

    def test_a_forward_that_raises_was_a_call(self, writer):
        model = net()
        with said() as messages, actlab.record(model, "memory"), suppress(RuntimeError):
            model(torch.ones(6, 5))
        assert messages == []

    def test_a_batch_that_is_lost_is_said_to_be_lost_and_no_more(self, writer):
        with said() as messages, actlab.Recorder(net(), "memory") as recorder, recorder.batch("tarin", 0):
            pass
        failed, lost = messages
        assert "did you mean 'train'" in failed
        assert "1 batch was not recorded" in lost

    def test_an_automatic_recorder_of_another_model(self, writer):
        with said() as messages, actlab.record(net(), "memory"):
            net()(X)
        assert only(messages, "the model was not called while it was recorded")


class TestAnotherModel:
    def test_is_said_in_the_first_batch_once(self, writer):
        other, model = net(), net()
        with actlab.Recorder(model, "memory") as recorder:
            with said() as messages, recorder.batch("train", 0):
                other(X)
            assert only(messages, NOT_CALLED)
            with said() as messages:
                for _ in range(2):
                    with recorder.batch("train", 0):
                        other(X)
            assert messages == []

    def test_a_recorder_of_events_says_it_too(self, writer):
        with said() as messages, EventRecorder(net(), "memory") as recorder:
            recorder.begin("train", 0, None)
            recorder.drop()
            recorder.begin("train", 0, None)
            net()(X)
            recorder.end()
        assert only(messages, NOT_CALLED)

    def test_models_and_layers_called_now_and_then_are_fine(self, writer):
        models = {"generator": net(4), "critic": net(1)}
        with said() as messages, actlab.Recorder(models, "memory", layers="critic.*") as recorder:
            for step in range(4):
                with recorder.batch("train", 0):
                    fake = models["generator"](X)
                    if step % 2:
                        models["critic"](fake)
        assert messages == []

    def test_layers_called_without_their_model_are_fine(self, writer):
        model = net()
        with said() as messages, actlab.Recorder(model, "memory") as recorder, recorder.batch("train", 0):
            model[0](X)
        assert messages == []


class TestNoTraining:
    def test_is_said_at_the_end(self, writer):
        model = net().eval()
        with said() as messages, actlab.record(model, "memory"):
            model(X)
            model(X)
        assert only(messages, NEVER_TRAINED)

    def test_not_where_there_was_some(self, writer):
        model = net()
        with said() as messages, actlab.record(model, "memory"):
            model.eval()(X)
            model.train()(X)
            model.eval()(X)
        assert messages == []

    def test_not_where_the_split_was_given(self, writer):
        model = net().eval()
        with said() as messages, actlab.record(model, "memory") as recorder:
            recorder.split("test")
            model(X)
        assert messages == []

    def test_not_where_a_trained_run_goes_on(self, tmp_path):
        model = net()
        with said() as messages:
            with actlab.record(model, tmp_path / "run.zarr"):
                model.train()(X)
            with actlab.record(model, tmp_path / "run.zarr", resume=True):
                model.eval()(X)
        assert messages == []


class TestNoEval:
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_forwards_that_lose_their_gradients_are_pointed_out_once(self, writer, mode):
        model = net()
        with said() as messages, actlab.record(model, "memory"):
            for _ in range(2):
                model(X).sum().backward()
                with mode():
                    model(X)
                    model(X)
        assert only(messages, NO_EVAL)
        assert [row.split for row in writer().rows] == ["train"] * 6

    @pytest.mark.parametrize("is_training", [True, False])
    def test_not_where_there_never_were_any_or_eval_was_called(self, writer, is_training):
        model = net()
        with said() as messages, actlab.record(model, "memory"):
            if not is_training:
                model(X)
            model.train(is_training)
            with torch.no_grad():
                model(X)
        assert messages == []

    def test_not_where_the_split_was_given(self, writer):
        model = net()
        with said() as messages, actlab.record(model, "memory") as recorder:
            model(X)
            recorder.split("valid")
            with torch.no_grad():
                model(X)
        assert messages == []

    def test_not_of_a_compiled_step_which_runs_without_gradients(self, writer):
        model = net()
        step = torch.compile(lambda: model(X).sum(), backend="aot_eager", fullgraph=True)
        with said() as messages, actlab.record(model, "memory"):
            model(X)
            for _ in range(2):
                step().backward()
        assert [each for each in messages if NO_EVAL in each] == []
        assert len(writer().rows) == 3
        torch.compiler.reset()


class TestLabelsBeyondTheHead:
    @pytest.mark.parametrize("kept", ["raw", "counted"])
    @pytest.mark.parametrize("labels", [[5, 6, 7, 5, 6, 7], [0, 1, 2, 0, 1, 255]])
    def test_are_named_once_and_cost_nothing(self, writer, monkeypatch, kept, labels):
        if kept == "counted":
            monkeypatch.setattr("actlab.recording.head.MAX_RAW_VALUES", 0)
        model = net()
        with said() as messages, actlab.Recorder(model, "memory", on_error="raise") as recorder:
            for _ in range(2):
                with recorder.batch("train", 0, labels):
                    model(X)
        expected = (
            f"labels up to {max(labels)} do not fit a head of 3 units: expected class indices from 0 to 2"
        )
        assert only(messages, expected)
        assert [row.n.tolist() for row in writer().rows] == [[24, 18]] * 2

    @pytest.mark.parametrize("kept", ["raw", "counted"])
    @pytest.mark.parametrize(
        ("units", "labels"),
        [
            (3, [0, 1, 2, -100, -1, 2]),
            (3, [-100] * 6),
            (3, [[1, 0, 1]] * 6),
            (1, [5, 6, 7, 5, 6, 7]),
            (3, [[7, 8, 9]] * 6),
            (3, [[0.5, 7.0, 3.0]] * 6),
        ],
        ids=["indices", "none", "several", "numbers", "rows of numbers", "floats"],
    )
    def test_all_others_are_fine(self, writer, monkeypatch, kept, units, labels):
        if kept == "counted":
            monkeypatch.setattr("actlab.recording.head.MAX_RAW_VALUES", 0)
        model = net(units)
        with (
            said() as messages,
            actlab.Recorder(model, "memory") as recorder,
            recorder.batch("train", 0, labels),
        ):
            model(X)
        assert messages == []

    def test_the_highest_of_several_forwards_counts(self, writer, monkeypatch):
        monkeypatch.setattr("actlab.recording.head.MAX_RAW_VALUES", 0)
        model = net()
        with (
            said() as messages,
            actlab.Recorder(model, "memory") as recorder,
            recorder.batch("train", 0, [9] * 6 + [1] * 6),
        ):
            model(X)
            model(X)
        assert only(messages, "labels up to 9 do not fit a head of 3 units")
