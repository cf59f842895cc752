"""Raw outputs of chosen layers: exact, with places and labels."""

import numpy as np
import pytest
import torch
from torch import nn

import actlab
from actlab.recording.recorder import Recorder


def watch(module):
    seen = []
    module.register_forward_hook(lambda _, __, output: seen.append(output.detach().clone()))
    return seen


def make_model():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(32, 3))


def test_any_histogram_of_a_raw_layer_is_exact(tmp_path):
    model = make_model()
    seen = watch(model[0])
    labels = [torch.randint(0, 3, (8,)) for _ in range(3)]
    with actlab.Recorder(model, tmp_path / "run.zarr", raw=["0"], on_error="raise") as recorder:
        for label in labels:
            with recorder.batch("train", 0, label):
                model(torch.randn(8, 1, 6, 6))
    run = actlab.open_run(tmp_path / "run.zarr")
    samples = run.samples("train", "0").load()
    np.testing.assert_array_equal(samples["values"], torch.cat(seen))
    np.testing.assert_array_equal(samples["label"], torch.cat(labels))
    np.testing.assert_array_equal(samples["index"], np.tile(np.arange(8), 3))
    values = torch.cat(seen).double().numpy()
    for axis in (actlab.LinearAxis(-0.1, 0.1, 37), actlab.LinearAxis(-3, 2, 1000)):
        view = run.histogram(axis, layer="0")
        np.testing.assert_array_equal(view.counts, np.histogram(values, axis.edges)[0])
        assert bool(view.exact)
    assert run.head == "3"
    assert run.raw("train") is not None, "the head is kept as ever"


@pytest.mark.parametrize(
    ("dtype", "kept"), [(None, "float32"), ("float16", "float16"), ("float64", "float64")]
)
def test_dtype_and_number_of_samples_can_be_chosen(writer, dtype, kept):
    model = make_model()
    seen = watch(model[0])
    options = {"raw": ["0"], "raw_dtype": dtype, "raw_samples": 3}
    with (
        Recorder(model, "memory", on_error="raise", **options) as recorder,
        recorder.batch("train", 0, torch.arange(8) % 3),
    ):
        model(torch.randn(8, 1, 6, 6))
    block = writer().rows[0].samples["0"]
    assert block.values.dtype == kept
    assert block.index.tolist() == [0, 4, 7]
    assert block.label.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(block.values, seen[0][[0, 4, 7]].numpy().astype(kept))


def test_narrow_outputs_are_kept_without_loss(writer):
    model = nn.Sequential(nn.Linear(3, 4)).bfloat16()
    seen = watch(model[0])
    with Recorder(model, "memory", raw=["*"], on_error="raise") as recorder, recorder.batch("train", 0):
        model(torch.randn(2, 3).bfloat16())
    samples = writer().rows[0].samples
    assert sorted(samples) == ["0", "input"]
    np.testing.assert_array_equal(samples["0"].values, seen[0].float())
    assert samples["0"].label is None


def test_several_forwards_of_a_batch_follow_each_other(writer):
    model = nn.Sequential(nn.Linear(1, 1))
    with (
        Recorder(model, "memory", raw=["0"], raw_samples=2, on_error="raise") as recorder,
        recorder.batch("train", 0, torch.arange(7)),
    ):
        model(torch.randn(4, 1)), model(torch.randn(3, 1))
    block = writer().rows[0].samples["0"]
    assert block.index.tolist() == block.label.tolist() == [0, 3, 4, 6]


def test_further_heads_are_kept_raw(writer):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.kind, self.place = nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(2, 4)

        def forward(self, x):
            x = self.body(x)
            return self.kind(x), self.place(x)

    model = Two()
    with (
        Recorder(model, "memory", head=["kind", "place"], on_error="raise") as recorder,
        recorder.batch("train", 0),
    ):
        model(torch.randn(5, 2))
    row = writer().rows[0]
    assert writer().attributes["head"] == "kind"
    assert (row.head.shape, row.samples["place"].values.shape) == ((5, 3), (5, 4))


def test_labels_that_are_not_one_for_each_sample_are_left_out(writer):
    model = nn.Sequential(nn.LSTM(2, 3))
    with (
        Recorder(model, "memory", raw=["0"], on_error="raise") as recorder,
        recorder.batch("train", 0, torch.randint(0, 3, (5 * 4,))),
    ):
        model(torch.randn(5, 4, 2))
    blocks = writer().rows[0].samples
    assert sorted(blocks) == ["0:0", "0:1:0", "0:1:1"]
    assert blocks["0:0"].values.shape == (5, 4, 3)
    assert all(block.label is None for block in blocks.values())


def test_samples_of_changing_shape_cost_only_their_layer(writer):
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool1d(4))
    with (
        Recorder(model, "memory", raw=["0", "1"]) as recorder,
        pytest.warns(RuntimeWarning, match=r"layer '0'.*a sample is \(2, 9\), earlier \(2, 7\)"),
        recorder.batch("train", 0),
    ):
        model(torch.randn(3, 2, 7)), model(torch.randn(3, 2, 9))
    row = writer().rows[0]
    assert list(row.samples) == ["1"]
    assert row.n.tolist()[1:] == [3 * 2 * 16, 48]
    assert row.channels is not None
