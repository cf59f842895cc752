"""The zoo, sixth part: inputs and outputs that are rare, and break recorders."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import actlab


def small():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(8, 4)


def forwards(n=2, **keywords):
    """Return a run of some forwards, without training."""

    def run(model, watch, *inputs):
        seen = []
        for _ in range(n):
            with watch.batch("train", 0):
                seen.append(model(*inputs, **keywords))
        return seen

    return run


# Inputs


def test_input_by_keyword(check):
    check(lambda: (nn.Linear(4, 2),), forwards(input=torch.ones(3, 4)), names=["input", "Linear"])


def test_input_in_a_dictionary(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, batch):
            return self.fc(batch["x"])

    check(lambda: (Net(), {"ids": torch.arange(3), "x": torch.randn(3, 4)}), names=["input", "fc"])


def test_no_input(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self):
            return self.fc(torch.ones(1, 4))

    check(lambda: (Net(),), names=["fc"])


def test_layer_that_is_called_input(check):
    def make():
        model = nn.Sequential()
        model.add_module("input", nn.Linear(4, 3))
        return model, torch.randn(2, 4)

    run = check(make, names=["(input)", "input"])
    assert run.layers.kind["input"] == "Linear"


# Outputs


class Odd(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(4, 3), function

    def forward(self, x):
        return self.function(self.fc(x))


def test_output_that_is_no_tensor(check):
    def run(model, watch, x):
        with watch.batch("train", 0):
            return [model(x).mean]

    check(lambda: (nn.Sequential(Odd(lambda x: torch.distributions.Normal(x, 1.0))), torch.randn(3, 4)), run)


class Sometimes(nn.Module):
    """Returns more from its second call on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return (x, None) if self.calls == 1 else (x, x * 2)


def test_output_that_comes_late(check):
    run = check(
        lambda: (nn.Sequential(nn.Linear(4, 4), Sometimes()), torch.randn(3, 4)), forwards_of_first(3)
    )
    assert run["train"].n.sel(layer="1:1").values.tolist() == [0, 12, 12]


def forwards_of_first(n):
    def run(model, watch, x):
        seen = []
        for _ in range(n):
            with watch.batch("train", 0):
                seen.append(model(x)[0])
        return seen

    return run


@dataclass(frozen=True)
class Frozen:
    logits: torch.Tensor
    names: tuple[str, ...] = ("a", "b")


def test_frozen_dataclass_returned_by_the_model(check):
    def run(model, watch, x):
        seen = []
        for _ in range(2):
            with watch.batch("train", 0):
                seen.append(model(x).logits)
        return seen

    run = check(lambda: (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Last()), torch.randn(3, 4)), run)
    assert run.head == "2:logits"


class Last(nn.Module):
    def forward(self, x):
        return Frozen(x + 1)


def test_ragged_batch(check):
    def run(model, watch, parts):
        seen = []
        for _ in range(2):
            with watch.batch("train", 0):
                seen.append(model(torch.nested.nested_tensor(parts, layout=torch.jagged)).values())
        return seen

    def count(model, watch, parts):
        for _ in range(2):
            with watch.batch("train", 0):
                model(torch.cat(parts))
        return []

    check(
        lambda: (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), [torch.randn(2, 4), torch.randn(5, 4)]),
        run,
        reference=(
            lambda: (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), [torch.randn(2, 4), torch.randn(5, 4)]),
            count,
        ),
    )


class Endless(nn.Module):
    """Returns a dictionary that holds itself."""

    def forward(self, x):
        output = {"x": x}
        output["self"] = output
        return output


class Hostile(dict):
    """Cannot be looked through."""

    def items(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("last", [Endless(), Odd(lambda x: Hostile(x=x))], ids=["endless", "hostile"])
def test_output_that_cannot_be_opened_costs_its_layer_only(tmp_path, last):
    model, x = nn.Sequential(nn.Linear(4, 4), last), torch.randn(3, 4)

    def train():
        with actlab.Recorder(model, tmp_path / "run.zarr") as recorder:
            for _ in range(2):
                with recorder.batch("train", 0):
                    assert model(x)["x"].shape[0] == 3

    with pytest.warns(RuntimeWarning, match="actlab"):
        train()
    assert actlab.open_run(tmp_path / "run.zarr")["train"].n.sel(layer="0").values.tolist() == [12, 12]


def test_layer_that_cannot_describe_itself(check):
    class Silent(nn.ReLU):
        def extra_repr(self):
            raise RuntimeError("no")

    check(lambda: (nn.Sequential(nn.Linear(4, 4), Silent()), torch.randn(3, 4)), names=["input", "0", "1"])


def test_keys_that_are_no_text(check):
    def run(model, watch, x):
        with watch.batch("train", 0):
            return list(model(x).values())

    check(
        lambda: (nn.Sequential(nn.Linear(4, 4), Keys()), torch.randn(3, 4)),
        run,
        names=["input", "0", "1:0", "1:('a', 1)", "1:a:b"],
    )


class Keys(nn.Module):
    def forward(self, x):
        return {0: x, ("a", 1): x + 1, "a:b": x + 2}
