"""The zoo, second part: what layers may return."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn


class Apply(nn.Module):
    """A layer without parameters that returns what its function returns."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Net(nn.Module):
    """Linear, then `odd`, whose output `take` turns into the input of the last layer."""

    def __init__(self, function, take):
        super().__init__()
        self.linear, self.odd, self.fc, self.take = nn.Linear(4, 4), Apply(function), nn.Linear(4, 2), take

    def forward(self, x):
        return self.fc(self.take(self.odd(self.linear(x))))


@pytest.fixture
def check_layer(check):
    """Return a function that checks a model with a layer `odd` that returns members of these suffixes."""

    def put_to_the_test(function, suffixes, take=lambda output: output, **options):
        names = ["input", "linear", *(f"odd{suffix}" for suffix in suffixes), "fc"]
        return check(lambda: (Net(function, take), torch.randn(6, 4)), names=names, **options)

    return put_to_the_test


# Containers


def test_tuple(check_layer):
    check_layer(lambda x: (x, x.relu()), [":0", ":1"], lambda output: output[1])


def test_nested_containers(check_layer):
    check_layer(
        lambda x: {"state": (x, [x + 1, x - 1]), "last": x * 2},
        [":state:0", ":state:1:0", ":state:1:1", ":last"],
        lambda output: output["last"],
    )


Pair = namedtuple("Pair", ["mean", "spread"])


def test_named_tuple(check_layer):
    check_layer(lambda x: Pair(x, x.exp()), [":mean", ":spread"], lambda output: output.mean)


@dataclass
class Answer:
    logits: torch.Tensor
    loss: torch.Tensor | None = None
    hidden: tuple[torch.Tensor, ...] = ()


def test_dataclass(check_layer):
    check_layer(
        lambda x: Answer(x, hidden=(x, x * x)),
        [":logits", ":hidden:0", ":hidden:1"],
        lambda output: output.logits,
    )


@dataclass
class Unfinished:
    logits: torch.Tensor
    loss: torch.Tensor = field(init=False)


def test_dataclass_with_a_field_that_was_never_set(check_layer):
    check_layer(Unfinished, [":logits"], lambda output: output.logits)


class ModelOutput(OrderedDict):
    """A mapping with attributes, as transformers returns it."""

    def __getattr__(self, name):
        return self[name]


def test_mapping_with_attributes(check_layer):
    check_layer(
        lambda x: ModelOutput(last_hidden_state=x, pooled=x.mean(1, keepdim=True)),
        [":last_hidden_state", ":pooled"],
        lambda output: output.last_hidden_state,
    )


def test_none_and_strings_among_the_outputs(check_layer):
    check_layer(lambda x: (None, "text", x, 3.5), [":2"], lambda output: output[2])


def test_layer_that_returns_nothing(check):
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.nothing = nn.Linear(4, 2), Apply(lambda x: None)

        def forward(self, x):
            self.nothing(x)
            return self.fc(x)

    run = check(lambda: (Silent(), torch.randn(3, 4)), names=["input", "fc", "nothing"])
    assert run.layers.never_called["nothing"]


def test_loss_inside_the_model(check):
    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.loss = nn.Linear(4, 3), nn.CrossEntropyLoss()

        def forward(self, x, y):
            logits = self.fc(x)
            return self.loss(logits, y), logits

    run = check(
        lambda: (WithLoss(), torch.randn(6, 4), torch.randint(0, 3, (6,))), names=["input", "fc", "loss"]
    )
    assert run.head == "fc"


# Kinds of numbers


def test_whole_numbers(check_layer):
    check_layer(lambda x: (x.argmax(1), x), [":1"], lambda output: output[1], warns=["'odd:0'"])


def test_truth_values(check_layer):
    check_layer(lambda x: (x > 0, x), [":1"], lambda output: output[1], warns=["'odd:0'"])


def test_quantised_values(check_layer):
    check_layer(
        lambda x: (torch.quantize_per_tensor(x.detach(), 0.1, 0, torch.qint8), x),
        [":1"],
        lambda output: output[1],
        warns=["'odd:0'"],
    )


def test_complex_numbers(check_layer):
    check_layer(torch.fft.fft, [":real", ":imag"], lambda output: output.abs())


def test_complex_numbers_conjugated(check_layer):
    check_layer(lambda x: torch.fft.fft(x).conj(), [":real", ":imag"], lambda output: output.abs())


def test_sparse_output(check_layer):
    check_layer(lambda x: x.relu().to_sparse(), [""], torch.Tensor.to_dense)


def test_sparse_output_with_an_index_twice(check_layer):
    def function(x):
        index = torch.tensor([[0, 0, 5], [1, 1, 2]])
        return torch.sparse_coo_tensor(index, x.flatten()[:3], (6, 4))

    check_layer(function, [""], torch.Tensor.to_dense)


def test_sparse_rows(check_layer):
    check_layer(lambda x: x.detach().relu().to_sparse_csr(), [""], lambda output: torch.ones(6, 4))


def test_float64(check):
    check(
        lambda: (
            nn.Sequential(nn.Linear(4, 3), nn.Softplus()).double(),
            torch.randn(5, 4, dtype=torch.float64),
        ),
        names=["input", "0", "1"],
    )


def test_bfloat16(check):
    check(
        lambda: (
            nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.ReLU()).bfloat16(),
            torch.randn(5, 4, dtype=torch.bfloat16),
        )
    )


def test_float16(check):
    check(lambda: (nn.Sequential(nn.Linear(4, 3), nn.Tanh()).half(), torch.randn(5, 4, dtype=torch.float16)))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_float8(check_layer, dtype):
    check_layer(lambda x: x.to(dtype), [""], lambda output: output.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(check, dtype):
    def run(model, watch, x):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seen = []
        for _ in range(2):
            with watch.batch("train", 0), torch.autocast("cpu", dtype):
                output = model(x)
            optimizer.zero_grad()
            output.float().square().mean().backward()
            optimizer.step()
            seen.append(output)
        return seen

    check(
        lambda: (
            nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2)),
            torch.randn(6, 4),
        ),
        run,
    )


WILD = {
    "not a number": [float("nan"), 1.0, -2.0, 0.5],
    "nothing but not a number": [float("nan")] * 4,
    "infinity": [float("inf"), float("-inf"), 1.0, 0.0],
    "huge": [1e30, -1e30, 3e38, -3e38],
    "ends of the axis": [2.0**32, -(2.0**32), 2.0**-24, -(2.0**-24)],
    "denormal": [1e-40, -1e-45, 1e-38, 0.0],
    "two zeros": [0.0, -0.0, 1e-30, -1e-30],
}


@pytest.mark.parametrize("row", WILD.values(), ids=WILD)
def test_wild_values(check_layer, row):
    check_layer(lambda x: x * 0 + torch.tensor(row), [""], lambda output: output * 0)


@pytest.mark.parametrize("value", [1e200, 5e-324, -1e-310])
def test_float64_beyond_float32(check, value):
    def make():
        model = nn.Sequential(Apply(lambda x: x * value), nn.Linear(4, 2).double())
        return model, torch.randn(6, 4, dtype=torch.float64)

    def run(model, watch, x):
        with watch.batch("train", 0):
            return [model(x)]

    check(make, run)


# Shapes and memory


def test_channels_last(check):
    check(
        lambda: (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).to(
                memory_format=torch.channels_last
            ),
            torch.randn(2, 3, 6, 5).to(memory_format=torch.channels_last),
        )
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.t(),
        lambda x: x[:, ::2],
        lambda x: x[:1].expand(6, 4),
        lambda x: x.unfold(1, 3, 1),
        lambda x: x.flip(0),
        lambda x: x[1:, 1:],
        lambda x: x.unsqueeze(0).permute(2, 0, 1),
    ],
    ids=["transposed", "strided", "expanded", "overlapping", "flipped", "cut", "permuted"],
)
def test_memory_layout(check_layer, function):
    check_layer(function, [""], lambda output: output.sum() * torch.ones(6, 4))


def test_one_number(check_layer):
    check_layer(lambda x: x.mean(), [""], lambda output: output * torch.ones(6, 4))


def test_empty_batch(check):
    def make():
        return nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(0, 4)

    run = check(make, names=["input", "0", "1"])
    assert run["train"].n.sum() == 0


def test_more_values_than_one_block(check):
    check(lambda: (nn.Sequential(nn.Linear(4, 1000), nn.ReLU()), torch.randn(300, 4)))


def test_tensor_subclass(check_layer):
    class Labelled(torch.Tensor):
        pass

    check_layer(lambda x: x.as_subclass(Labelled), [""], lambda output: output.as_subclass(torch.Tensor))
