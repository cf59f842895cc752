"""Finding the head, its raw samples, and labels in every form."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import actlab
from actlab.axis import LinearAxis
from actlab.recording.labels import as_labels, as_samples, as_tensor
from actlab.recording.recorder import Recorder


class Functional(nn.Module):
    """A model whose forward is given."""

    def __init__(self, forward, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self._run = forward

    def forward(self, x):
        return self._run(self, x)


def sequence(*tail):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), *tail)


def recorded(writer, model, x, labels=None, **options):
    with (
        Recorder(model, "memory", on_error="raise", **options) as recorder,
        recorder.batch("train", 0, labels),
    ):
        model(x)
    return writer().rows[0], writer().attributes


HEADS = {
    "last linear": (sequence(), "2"),
    "softmax is skipped": (sequence(nn.Softmax(1)), "2"),
    "dropout and identity are skipped": (sequence(nn.Dropout(), nn.Identity()), "2"),
    "softmax and identity are skipped": (sequence(nn.Softmax(1), nn.Identity()), "2"),
    "an identity that alone has the output": (
        Functional(lambda m, x: m.out(m.fc(x) - 8), fc=nn.Linear(4, 3), out=nn.Identity()),
        "out",
    ),
    "an identity around a functional softmax": (
        Functional(lambda m, x: m.out(m.fc(x).softmax(1)), fc=nn.Linear(4, 3), out=nn.Identity()),
        "out",
    ),
    "a view of the head": (
        Functional(lambda m, x: m.fc(m.a(x)).view(-1), a=nn.Linear(4, 4), fc=nn.Linear(4, 3)),
        "fc",
    ),
    "functional softmax": (
        Functional(lambda m, x: m.fc(m.a(x)).softmax(1), a=nn.Linear(4, 4), fc=nn.Linear(4, 3)),
        "fc",
    ),
    "not the last called": (
        Functional(lambda m, x: (m.fc(x), m.aux(x))[0], fc=nn.Linear(4, 3), aux=nn.Linear(4, 9)),
        "fc",
    ),
    "as many units as the output": (
        Functional(
            lambda m, x: m.fc(x) + (x[:, :1] * m.hyper(x)).view(-1, 3, 2).sum(2),
            fc=nn.Linear(4, 3),
            hyper=nn.Linear(4, 6),
        ),
        "fc",
    ),
    "loss among the outputs": (
        Functional(
            lambda m, x: {"loss": m.loss(m.fc(x), torch.zeros(5, 3)), "logits": m.fc(x)},
            loss=nn.MSELoss(),
            fc=nn.Linear(4, 3),
        ),
        "fc",
    ),
    "the first returned member": (Functional(lambda m, x: m.lstm(x), lstm=nn.LSTM(4, 3)), "lstm:0"),
    "a member returned before another": (
        Functional(lambda m, x: m.lstm(x)[1][::-1], lstm=nn.LSTM(4, 3)),
        "lstm:1:1",
    ),
    "the first member where none is returned": (
        Functional(lambda m, x: m.lstm(x)[0] * 2, lstm=nn.LSTM(4, 3)),
        "lstm:0",
    ),
    "the output of a recurrent layer": (Functional(lambda m, x: m.gru(x)[0], gru=nn.GRU(4, 3)), "gru:0"),
}


@pytest.mark.parametrize("case", HEADS)
@pytest.mark.parametrize("grad", [True, False])
def test_the_head_is_the_layer_that_makes_the_output(writer, case, grad):
    model, head = HEADS[case]
    with torch.set_grad_enabled(grad):
        row, attributes = recorded(writer, model.eval(), torch.randn(5, 4))
    assert attributes["head"] == head
    position = [layer.name for layer in row.layers].index(head)
    assert row.head.dtype == np.float32
    assert row.head.shape[1] == 3
    assert row.head.size == row.n[position]


def test_a_given_head_is_kept_instead(writer):
    row, attributes = recorded(writer, sequence(), torch.randn(5, 4), head="0")
    assert (attributes["head"], row.head.shape) == ("0", (5, 8))
    row, attributes = recorded(
        writer, HEADS["the output of a recurrent layer"][0], torch.randn(5, 4), head="gru"
    )
    assert (attributes["head"], row.head.shape) == ("gru:0", (5, 3))


class Cosine(nn.Module):
    """A classifier by the angle to a direction for each class, which no layer holds."""

    def __init__(self, embed, n_classes):
        super().__init__()
        self.embed, self.directions = embed, nn.Parameter(torch.randn(n_classes, 8))

    def forward(self, x):
        return functional.linear(functional.normalize(self.embed(x), dim=-1), self.directions)


@pytest.mark.parametrize("n_raw", [5, 2000])
def test_labels_of_other_units_are_not_those_of_the_head(writer, n_raw):
    model, x = Cosine(nn.Linear(4, 8), 3), torch.randn(n_raw, 4)
    with pytest.warns(RuntimeWarning, match=r"'embed' is kept as the head, without labels.*nn\.Identity"):
        row, attributes = recorded(writer, model, x, labels=torch.arange(n_raw) % 3)
    assert (attributes["head"], row.label, "targets" in attributes) == ("embed", None, False)
    assert row.label_moments is None


def test_labels_of_a_resized_output_are_those_of_the_head(writer):
    conv = nn.Conv2d(1, 3, 1)
    model = Functional(lambda m, x: functional.interpolate(m.conv(x), scale_factor=2), conv=conv)
    row, attributes = recorded(writer, model, torch.randn(2, 1, 4, 4), labels=torch.zeros(2, 4, 4).long())
    assert (attributes["head"], row.label.size, attributes["targets"]) == ("conv", 32, "classes")


def test_labels_belong_to_the_head_of_a_model_that_returns_its_loss(writer):
    model = Functional(lambda m, x: m.fc(x).square().mean(), fc=nn.Linear(4, 3))
    row, attributes = recorded(writer, model, torch.randn(5, 4), labels=torch.zeros(5).long())
    assert (attributes["head"], row.label.size) == ("fc", 5)


def test_a_head_outside_the_chosen_layers_is_neither_kept_nor_named(writer, hooks_of):
    model = sequence()
    row, attributes = recorded(writer, model, torch.randn(5, 4), layers="0")
    assert (row.head, attributes["head"], [layer.name for layer in row.layers]) == (None, None, ["0"])


def test_raw_values_are_those_of_the_call_even_if_changed_in_place(writer):
    model = Functional(lambda m, x: m.fc(x).mul_(0), fc=nn.Linear(4, 3))
    x = torch.randn(5, 4)
    row, _ = recorded(writer, model, x)
    np.testing.assert_array_equal(row.head, model.fc(x).detach().numpy())


@pytest.mark.parametrize(("samples", "kept"), [(2048, True), (2049, False)])
@pytest.mark.parametrize("given", [None, "fc"])
def test_up_to_8192_values_are_kept_decided_by_the_first_row(writer, samples, kept, given):
    model = Functional(lambda m, x: m.fc(x), fc=nn.Linear(1, 4))
    with Recorder(model, "memory", on_error="raise", head=given) as recorder:
        for size in (samples, 4000, 2):
            with recorder.batch("train", 0):
                model(torch.randn(size, 1))
    assert [row.head is not None for row in writer().rows] == [kept] * 3
    assert writer().attributes["head"] == "fc"


@pytest.mark.parametrize("given", [None, "fc"])
def test_a_later_batch_over_16_times_as_large_is_not_kept(writer, given):
    model = Functional(lambda m, x: m.fc(x), fc=nn.Linear(1, 4))
    with Recorder(model, "memory", on_error="raise", head=given) as recorder:
        for sizes in ([2], [32768], [32769], [16385, 16385], [2]):
            with recorder.batch("train", 0):
                for size in sizes:
                    model(torch.randn(size, 1))
    assert [row.head is not None for row in writer().rows] == [True, True, False, False, True]


@pytest.mark.parametrize("given", [None, "fc"])
@pytest.mark.parametrize(
    ("first", "later", "kept"),
    [
        ([0.5, np.nan, np.inf], [0.1], [True, False]),
        ([0.1], [0.5], [False, False]),
        ([1e300], [0.5], [False, False]),
        ([0.5], [1e-300], [True, False]),
    ],
)
def test_float64_is_kept_where_float32_holds_it(writer, given, first, later, kept):
    model = Functional(lambda m, x: m.fc(x), fc=nn.Linear(1, 1, bias=False).double())
    nn.init.ones_(model.fc.weight)
    with Recorder(model, "memory", on_error="raise", head=given) as recorder:
        for values in (first, later):
            with recorder.batch("train", 0):
                model(torch.tensor(values, dtype=torch.float64).reshape(-1, 1))
    assert [row.head is not None for row in writer().rows] == kept


def test_a_histogram_of_float64_is_exact_or_says_that_it_is_not(tmp_path):
    model = nn.Linear(64, 10).double()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.arange(10, dtype=torch.float64) * 0.1 + 1e-12)
    with (
        Recorder(model, tmp_path / "run.zarr", on_error="raise") as recorder,
        recorder.batch("train", 0),
    ):
        values = model(torch.randn(5, 64, dtype=torch.float64)).detach().numpy()
    found = actlab.open_run(tmp_path / "run.zarr").histogram(LinearAxis(0, 1, 10), layer="Linear")
    true = np.histogram(values, 10, (0, 1))[0]
    assert np.array_equal(found.counts, true) or not bool(found.exact)


def test_nothing_is_kept_without_raw(writer):
    row, attributes = recorded(writer, sequence(), torch.randn(5, 4), raw=None)
    assert (row.head, attributes["head"]) == (None, "2")


def test_units_of_convolutions_and_class_first_heads_are_dim_one(writer):
    conv = nn.Sequential(nn.Conv2d(1, 3, 1))
    x = torch.randn(2, 1, 4, 5)
    row, attributes = recorded(writer, conv, x, labels=torch.arange(40).reshape(2, 4, 5) % 3)
    assert attributes["head_unit_dim"] == 1
    np.testing.assert_array_equal(row.head, conv(x).detach().permute(0, 2, 3, 1).reshape(-1, 3).numpy())
    np.testing.assert_array_equal(row.label, np.arange(40) % 3)
    class_first = Functional(lambda m, x: m.norm(x), norm=nn.BatchNorm1d(3))
    row, attributes = recorded(
        writer, class_first, torch.randn(2, 3, 7), labels=torch.zeros(2, 7, dtype=torch.long)
    )
    assert (attributes["head_unit_dim"], row.head.shape, row.label.shape) == (1, (14, 3), (14,))
    row, attributes = recorded(writer, nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 7, 4))
    assert (attributes["head_unit_dim"], row.head.shape) == (-1, (14, 3))


def test_calls_of_one_batch_are_joined(writer):
    model = sequence()
    with Recorder(model, "memory", on_error="raise") as recorder, recorder.batch("train", 0, torch.arange(5)):
        model(torch.randn(3, 4)), model(torch.randn(2, 4))
    assert writer().rows[0].head.shape == (5, 3)
    np.testing.assert_array_equal(writer().rows[0].label, np.arange(5))


@pytest.mark.parametrize(
    ("labels", "shape", "expected"),
    [
        (torch.tensor([2, 0, -100]), (3, 4), [2, 0, -100]),
        (np.array([[1], [0], [1]], np.uint8), (3, 4), [1, 0, 1]),
        ([1, 0, 1], (3, 1), [1, 0, 1]),
        (torch.tensor([True, False]), (2, 1), [1, 0]),
        (torch.tensor([[1.0], [0.0]]), (2, 1), [1, 0]),
        (torch.tensor([[1.0, 0.0], [1.0, 1.0]]), (2, 2), [[1, 0], [1, 1]]),
        (torch.tensor([0.5, 1.0]), (2, 1), None),
        (torch.tensor([[0.1, 0.2]]), (1, 2), None),
    ],
)
def test_labels_take_the_form_of_the_store(labels, shape, expected):
    found = as_labels(as_tensor(labels), shape, -1)
    if expected is None:
        assert found is None
    else:
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, expected)


def test_labels_that_do_not_fit_say_what_was_expected():
    with pytest.raises(ValueError, match=r"labels of shape \(3,\) do not fit.*expected 4 class indices"):
        as_labels(torch.tensor([1, 2, 3]), (4, 5), -1)


def test_multi_hot_labels_follow_the_unit_dimension():
    output = torch.arange(24).reshape(2, 3, 4)
    samples = as_samples(output, 1)
    assert samples.shape == (8, 3)
    np.testing.assert_array_equal(as_labels(output % 2, (8, 3), 1), samples.numpy() % 2)


def test_labels_are_copied_at_once(writer):
    model, labels = sequence(), torch.tensor([1, 2])
    with Recorder(model, "memory", on_error="raise") as recorder:
        with recorder.batch("train", 0, labels):
            model(torch.randn(2, 4))
        labels.zero_()
    np.testing.assert_array_equal(writer().rows[0].label, [1, 2])
