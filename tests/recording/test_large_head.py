"""Large heads: counts by unit and truth, moments by label, against numpy."""

import numpy as np
import pytest
import torch
from torch import nn

import actlab
from actlab.axis import FloatAxis
from actlab.recording import large_head as module
from actlab.recording.recorder import Recorder

AXIS = FloatAxis()
NO, YES, UNLABELLED = range(3)


def counted(values):
    return np.bincount(AXIS.index(np.asarray(values, np.float64).ravel()), minlength=AXIS.n_buckets)


def record(writer, model, batches, **options):
    """Record batches [(list of inputs, labels)]; returns the rows and, for each, its joined outputs."""
    seen = []
    model.register_forward_hook(lambda _, __, output: seen[-1].append(output.detach().clone()))
    with Recorder(model, "memory", on_error="raise", **options) as recorder:
        for inputs, labels in batches:
            seen.append([])
            with recorder.batch("train", 0, labels):
                for x in inputs:
                    model(x)
    return writer().rows, [torch.cat(outputs) for outputs in seen]


def check(block, values, truth):
    """Compare counts with those of values [sample, unit] and their truth [sample, unit]."""
    assert block.counts.shape == (values.shape[1], 3, AXIS.n_buckets)
    for unit in range(values.shape[1]):
        for kind in (NO, YES, UNLABELLED):
            expected = counted(values[:, unit][truth[:, unit] == kind])
            np.testing.assert_array_equal(block.counts[unit, kind], expected)


@pytest.mark.parametrize("given", [None, "1"])
@pytest.mark.parametrize("inplace", [False, True])
def test_classes_are_counted_by_unit_and_truth_from_the_first_row_on(writer, given, inplace):
    model = nn.Sequential(nn.ReLU(inplace), nn.Linear(4, 5))
    labels = [torch.randint(-1, 5, (2000,)), torch.randint(0, 5, (1700,)), None]
    labels[0][labels[0] == -1] = -100
    batches = [([torch.randn(2000 if y is None else len(y), 4)], y) for y in labels]
    rows, outputs = record(writer, model, batches, head=given)
    for row, values, label in zip(rows, outputs, labels, strict=True):
        assert row.head is None
        assert not row.head_counts.pooled
        known = torch.full((len(values),), -100) if label is None else label
        truth = np.where(np.arange(5) == known[:, None].numpy(), YES, NO)
        truth[known.numpy() < 0] = UNLABELLED
        check(row.head_counts, values.numpy(), truth)
        assert (row.label_moments is None) == (label is None)
    assert rows[0].head_counts.counts.sum() == 10_000
    moments = rows[1].label_moments
    for label in range(5):
        chosen = outputs[1].double().numpy()[labels[1].numpy() == label]
        assert (moments.n[label] == len(chosen)).all()
        np.testing.assert_allclose(moments.mean[label], chosen.mean(0), rtol=1e-9)
        np.testing.assert_allclose(moments.std[label], chosen.std(0), rtol=1e-9)


def test_an_output_changed_in_place_after_the_head_is_not_guessed_at(writer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(x).mul_(0)

    rows, _ = record(writer, Net(), [([torch.randn(2000, 4)], None)] * 2)
    assert rows[0].head_counts is None, "its values are gone when the head is found"
    assert rows[1].head_counts.counts[:, :, AXIS.zero].sum() == 0


def test_segmentation_takes_its_units_from_the_convolution(writer):
    model, labels = nn.Conv2d(2, 3, 1), torch.randint(0, 3, (4, 32, 32))
    x = torch.randn(4, 2, 32, 32).to(memory_format=torch.channels_last)
    rows, outputs = record(writer, nn.Sequential(model), [([x], labels)])
    values = outputs[0].movedim(1, -1).reshape(-1, 3).numpy()
    truth = np.where(np.arange(3) == labels.reshape(-1, 1).numpy(), YES, NO)
    check(rows[0].head_counts, values, truth)


def test_several_labels_at_once_and_one_unit(writer):
    hot = torch.randint(0, 2, (3000, 4)).float()
    rows, outputs = record(writer, nn.Sequential(nn.Linear(2, 4)), [([torch.randn(3000, 2)], hot)])
    check(rows[0].head_counts, outputs[0].numpy(), np.where(hot == 1, YES, NO))
    chosen = outputs[0].double().numpy()[hot[:, 2].numpy() == 1]
    np.testing.assert_allclose(rows[0].label_moments.mean[2], chosen.mean(0), rtol=1e-9)
    binary = torch.randint(0, 2, (9000, 1))
    rows, outputs = record(writer, nn.Sequential(nn.Linear(2, 1)), [([torch.randn(9000, 2)], binary)])
    check(rows[0].head_counts, outputs[0].numpy(), np.where(binary == 1, YES, NO))


def test_many_units_are_pooled(writer):
    labels = torch.randint(0, 200, (50,))
    rows, outputs = record(writer, nn.Sequential(nn.Linear(2, 200)), [([torch.randn(50, 2)], labels)])
    block, values = rows[0].head_counts, outputs[0].numpy()
    is_yes = np.arange(200) == labels[:, None].numpy()
    assert block.pooled
    np.testing.assert_array_equal(block.counts[0, YES], counted(values[is_yes]))
    np.testing.assert_array_equal(block.counts[0, NO], counted(values[~is_yes]))
    moments = rows[0].label_moments
    assert moments.n.shape == (200, 1)
    assert moments.n.sum() == 50 * 200


def test_forwards_of_one_batch_share_its_labels(writer):
    labels = torch.randint(0, 5, (3600,))
    inputs = [torch.randn(size, 4) for size in (1800, 1700, 100)]
    rows, outputs = record(writer, nn.Sequential(nn.Linear(4, 5)), [(inputs, labels)], head="0")
    truth = np.where(np.arange(5) == labels[:, None].numpy(), YES, NO)
    check(rows[0].head_counts, outputs[0].numpy(), truth)


def test_wild_values_have_their_buckets_and_leave_the_moments(writer):
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
    x = torch.randn(5000, 2)
    x[0], x[1, 1] = float("nan"), float("inf")
    labels = torch.zeros(5000, dtype=torch.long)
    rows, outputs = record(writer, model, [([x], labels)])
    check(rows[0].head_counts, outputs[0].numpy(), np.where(np.arange(2) == 0, YES, NO) * np.ones((5000, 1)))
    moments, finite = rows[0].label_moments, outputs[0].double().numpy()
    assert moments.n[0].tolist() == [5000, 5000]
    for unit in range(2):
        values = finite[:, unit][np.isfinite(finite[:, unit])]
        assert moments.mean[0, unit] == pytest.approx(values.mean(), rel=1e-9)


def test_labels_that_do_not_fit_cost_only_themselves(writer):
    model = nn.Sequential(nn.Linear(2, 3))
    with (
        Recorder(model, "memory", head="0") as recorder,
        pytest.warns(RuntimeWarning, match="only the labels of this batch are left out.*do not fit"),
        recorder.batch("train", 0, torch.zeros(7, dtype=torch.long)),
    ):
        model(torch.randn(4000, 2))
    row = writer().rows[0]
    assert row.head_counts.counts[:, UNLABELLED].sum() == 12_000
    assert row.label_moments is None


def test_float_targets_say_neither_yes_nor_no(writer):
    target = torch.rand(9000, 1) + 2
    rows, _ = record(writer, nn.Sequential(nn.Linear(2, 1)), [([torch.randn(9000, 2)], target)])
    assert rows[0].head_counts.counts[0].sum(1).tolist() == [0, 0, 9000]


def test_twin_peaks_of_a_large_head_tell_yes_from_no(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(8 * torch.eye(3) - 4)
    with actlab.Recorder(model, tmp_path / "run.zarr", on_error="raise") as recorder:
        for split in ("train", "valid"):
            for _ in range(2):
                labels = torch.randint(0, 3, (4000,))
                with recorder.batch(split, 0, labels):
                    model(nn.functional.one_hot(labels, 3) + 0.1 * torch.randn(4000, 3))
    peaks = actlab.peaks.twin_peaks(actlab.open_run(tmp_path / "run.zarr"))
    assert peaks.attrs["source"] == "counts"
    np.testing.assert_allclose(peaks.yes_position, 4, atol=0.1)
    np.testing.assert_allclose(peaks.no_position, -4, atol=0.1)
    assert (peaks.separation > 5).all()


def test_a_large_output_is_counted_piece_by_piece(writer, monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 1000)
    labels = torch.randint(0, 3, (6, 30, 20))
    model = nn.Sequential(nn.Conv2d(2, 3, 1))
    rows, outputs = record(writer, model, [([torch.randn(6, 2, 30, 20)], labels)])
    values = outputs[0].movedim(1, -1).reshape(-1, 3).numpy()
    check(rows[0].head_counts, values, np.where(np.arange(3) == labels.reshape(-1, 1).numpy(), YES, NO))
    chosen = values[labels.reshape(-1).numpy() == 1].astype(np.float64)
    np.testing.assert_allclose(rows[0].label_moments.mean[1], chosen.mean(0), rtol=1e-9)


class Pairs(nn.Module):
    """A head whose number of units is that of the second argument."""

    def __init__(self):
        super().__init__()
        self.head = nn.Bilinear(1, 1, 1)
        self.head.forward = lambda a, b: a @ b.T

    def forward(self, a, b):
        return self.head(a, b)


@pytest.mark.parametrize("widths", [(10, 40), (20, 10)])
def test_a_head_that_changes_its_units_within_a_batch_harms_nothing(writer, widths):
    model = Pairs()
    with (
        Recorder(model, "memory", head="head") as recorder,
        pytest.warns(
            RuntimeWarning, match=f"the head has {widths[1]} units, earlier in this batch {widths[0]}"
        ),
        recorder.batch("train", 0),
    ):
        [model(torch.randn(1000, 4), torch.randn(width, 4)) for width in widths]
    row = writer().rows[0]
    assert row.head_counts.counts[:, UNLABELLED].sum() == 1000 * widths[0]
    assert row.n[-1] == 1000 * sum(widths), "the layer itself is counted whole"


@pytest.mark.parametrize("labels", [{"a": torch.zeros(3)}, ["x", "y"], [[1], [1, 2]], object()])
def test_labels_that_are_none_cost_only_themselves(writer, labels):
    model = nn.Sequential(nn.Linear(2, 3))
    with (
        Recorder(model, "memory", head="0") as recorder,
        pytest.warns(RuntimeWarning, match="only the labels of this batch are left out"),
        recorder.batch("train", 0, labels),
    ):
        model(torch.randn(4000, 2))
    row = writer().rows[0]
    assert row.n.tolist()[-1] == row.head_counts.counts[:, UNLABELLED].sum() == 12_000


@pytest.mark.parametrize("sizes", [[4000, 4000], [3000]])
def test_labels_for_more_or_fewer_samples_name_nobody(writer, sizes):
    model = nn.Sequential(nn.Linear(2, 3))
    with (
        Recorder(model, "memory", head="0") as recorder,
        pytest.warns(RuntimeWarning, match="labels.*do not fit"),
        recorder.batch("train", 0, torch.zeros(4000, dtype=torch.long)),
    ):
        [model(torch.randn(size, 2)) for size in sizes]
    counts = writer().rows[0].head_counts.counts
    assert counts[:, UNLABELLED].sum() == counts.sum() == 3 * sum(sizes)
