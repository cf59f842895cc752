"""The zoo, fourth part: ways to record, and hooks of the user's own."""

import pytest
import torch
from torch import nn
from torch.nn.functional import relu, relu6
from torch.utils.checkpoint import checkpoint

import actlab


def small():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2)), torch.randn(8, 4)


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def step(optimizer, output):
    optimizer.zero_grad()
    output.square().mean().backward()
    optimizer.step()


def whole_batch(model, watch, x):
    with watch.batch("train", 0):
        return [model(x)]


# Hooks of the user's own


def double(_, __, output):
    return 2 * output


@pytest.mark.parametrize("comes", ["before", "after"])
def test_hook_that_changes_the_output(check, comes):
    """Hooks run in the order of their registration: recorded is what the earlier ones have left."""

    def make():
        model, x = small()
        if comes == "before":
            model[0].register_forward_hook(double)
        return model.eval(), x

    def run(model, watch, x):
        handle = model[0].register_forward_hook(double) if comes == "after" else None
        with watch.batch("train", 0):
            output = model(x)
        if handle is not None:
            handle.remove()
        return [output]

    run = check(make, run)
    layers = run["train"]["max"].isel(step=0)
    assert float(layers.sel(layer="1") / layers.sel(layer="0")) == (1 if comes == "before" else 2)


def test_hook_that_changes_the_input(check):
    def make():
        model, x = small()
        model.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
        return model, x

    check(make)


# Ways to record


class Functional(nn.Module):
    """The same with functions and with modules in their place."""

    def __init__(self, with_modules=False):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.relu, self.tanh = (nn.ReLU(), nn.Tanh()) if with_modules else (relu, torch.tanh)

    def forward(self, x):
        return self.tanh(self.b(self.relu(self.a(x))))


def test_functional_activations(check, learn):
    check(
        lambda: (Functional(), torch.randn(5, 4)),
        reference=(lambda: (Functional(with_modules=True), torch.randn(5, 4)), learn),
        rename={"relu": "F.relu", "tanh": "F.tanh"},
        names=["input", "a", "F.relu", "b", "F.tanh"],
        functional=True,
    )


def test_functional_activations_of_a_block(check, learn):
    check(
        lambda: (nn.Sequential(nn.Linear(4, 4), Functional()), torch.randn(5, 4)),
        reference=(
            lambda: (nn.Sequential(nn.Linear(4, 4), Functional(with_modules=True)), torch.randn(5, 4)),
            learn,
        ),
        rename={"1.relu": "1.F.relu", "1.tanh": "1.F.tanh"},
        functional=True,
    )


class InPlace(nn.Module):
    def __init__(self, with_modules=False):
        super().__init__()
        self.a, self.b, self.sigmoid = nn.Linear(4, 6), nn.Linear(6, 2), nn.Sigmoid()
        self.relu, self.tanh = (nn.ReLU(), nn.Tanh()) if with_modules else (torch.Tensor.relu_, torch.tanh)

    def forward(self, x):
        x = checkpoint(lambda x: self.relu(self.a(x)), x, use_reentrant=False)
        return self.sigmoid(self.b(self.tanh(x)))


def test_functional_activations_in_place_and_repeated_in_backward(check):
    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), []
        for _ in range(2):
            with watch.batch("train", 0):
                output = model(x)
                step(optimizer, output)
            seen.append(output)
        return seen

    check(
        lambda: (InPlace(), torch.randn(5, 4)),
        run,
        reference=(lambda: (InPlace(with_modules=True), torch.randn(5, 4)), batches(2)),
        rename={"relu": "F.relu", "tanh": "F.tanh"},
        functional=True,
    )


def test_functional_activations_of_one_sample_at_a_time(check):
    def make(with_modules=False):
        model = Functional(with_modules)
        with torch.no_grad():
            for each in model.parameters():
                each.copy_(torch.randint(-2, 3, each.shape))
        model.tanh = nn.ReLU6() if with_modules else relu6
        return model, torch.randint(-3, 4, (8, 4)).float()

    def run(model, watch, x):
        with watch.batch("train", 0):
            return [torch.func.vmap(model)(x)]

    check(
        make,
        run,
        reference=(lambda: make(with_modules=True), whole_batch),
        rename={"relu": "F.relu", "tanh": "F.relu6"},
        functional=True,
    )


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(4, 4), nn.Linear(4, 2), nn.ReLU()

    def forward(self, x):
        return self.relu(self.b(self.relu(self.a(self.relu(x)))))


def test_calls_told_apart_as_many_as_there_are(check):
    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTMCell(3, 4)

        def forward(self, x):
            state = None
            for part in x:
                state = self.cell(part, state)
            return state[0]

    def run(model, watch, x):
        seen = []
        for length in (2, 4, 2):
            with watch.batch("train", 0):
                seen.append(model(x[:length]))
        return seen

    check(lambda: (Cells(), torch.randn(4, 2, 3)), run, calls="separate")


def test_calls_told_apart(check):
    check(
        lambda: (Reused(), torch.randn(5, 4)),
        names=["input", "a", "b", "relu#1", "relu#2", "relu#3"],
        calls="separate",
    )


def batches(n):
    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), []
        for _ in range(n):
            with watch.batch("train", 0):
                output = model(x)
            step(optimizer, output)
            seen.append(output)
        return seen

    return run


def test_every_third_step(check):
    check(small, batches(8), steps={"train": [0, 3, 6]}, every=3)


def test_dense_at_first_then_sparse(check):
    check(small, batches(10), steps={"train": [0, 1, 2, 4, 6, 8]}, every={0: 1, 2: 2})


def test_pause_within_a_batch(check):
    def run(model, watch, x):
        with watch.batch("train", 0):
            output = model(x)
            with watch.pause():
                output = output + model(x)
            output = output + model(x[:2]).sum()
        return [output]

    run = check(small, run)
    assert run["train"].n.sel(layer="input").item() == (8 + 2) * 4


def test_detached_between_batches(check):
    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), []
        for _ in range(2):
            with watch.batch("train", 0):
                output = model(x)
            step(optimizer, output)
            with watch.detached():
                if isinstance(watch, actlab.Recorder):
                    assert not any(module._forward_hooks for module in model.modules())
                seen += [torch.export.export(model, (x,)).module()(x), model(x)]
        return seen

    check(small, run)


def test_few_layers(check):
    run = check(
        lambda: (nn.Sequential(nn.Linear(4, 4), nn.Identity()), torch.randn(5, 4)),
        names=["input", "0", "1"],
        layers=["input", "0", "1"],
    )
    assert run.head == "0"
