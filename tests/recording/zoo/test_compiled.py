"""The zoo, fifth part: models that torch.compile has compiled, as a whole (`fullgraph=True`) or in part."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import actlab


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def step(optimizer, output):
    optimizer.zero_grad()
    output.float().square().mean().backward()
    optimizer.step()


def batches(n, sizes=(4,), autocast=None):
    """Return a run of `n` batches of these sizes."""

    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), []
        for number in range(n):
            with watch.batch("train", 0), torch.autocast("cpu", autocast, enabled=autocast is not None):
                output = model(x[: sizes[number % len(sizes)]])
            step(optimizer, output)
            seen.append(output)
        return seen

    return run


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv1d(1, 2, 3), nn.LayerNorm(6), nn.Linear(12, 3)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().flatten(1))


def compiled(backend, **options):
    """Return `make` of a compiled model and of the same one in eager mode."""

    def eager():
        torch.compiler.reset()
        return Block(), torch.randn(4, 1, 8)

    def make():
        model, x = eager()
        return torch.compile(model, backend=backend, **options), x

    return make, eager


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_whole(check, learn, backend):
    make, eager = compiled(backend, fullgraph=True)
    check(make, reference=(eager, learn), names=["input", "conv", "norm", "fc"])


def test_compiled_and_called_before_it_is_recorded(check, learn):
    make, eager = compiled("aot_eager", fullgraph=True)

    def make_called():
        model, x = make()
        model(x)
        return model, x

    check(make_called, reference=(eager, learn))


def test_compiled_with_batches_of_any_size(check):
    run = batches(4, (4, 3, 2))
    make, eager = compiled("aot_eager", fullgraph=True, dynamic=True)
    check(make, run, reference=(eager, run))


def whole_numbers():
    """Build a model whose sums are exact in every order."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        for each in model.parameters():
            each.copy_(torch.randint(-2, 3, each.shape))
    return model, torch.randint(-3, 4, (8, 4)).float()


def test_compiled_by_inductor(check):
    def make():
        torch.compiler.reset()
        model, x = whole_numbers()
        return torch.compile(model, fullgraph=True), x

    def run(model, watch, x):
        with watch.batch("train", 0):
            output = model(x)
        output.sum().backward()
        with watch.batch("train", 0):
            return [output, model(x)]

    check(make, run, reference=(whole_numbers, run), names=["input", "0", "1", "2"])


def test_compiled_after_the_recorder_came(check):
    def run(model, watch, x):
        return batches(2)(torch.compile(model, backend="aot_eager", fullgraph=True), watch, x)

    check(
        lambda: (Block(), torch.randn(4, 1, 8)),
        run,
        reference=(lambda: (Block(), torch.randn(4, 1, 8)), batches(2)),
    )


def test_compiled_in_place(check, learn):
    def make():
        model = Block()
        model.compile(backend="aot_eager", fullgraph=True)
        return model, torch.randn(4, 1, 8)

    check(make, reference=(lambda: (Block(), torch.randn(4, 1, 8)), learn))


class Stack(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.first, self.last = wrap(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.first(x))


def test_one_block_compiled(check, learn):
    def make(wrap=lambda block: torch.compile(block, backend="aot_eager", fullgraph=True)):
        return Stack(wrap), torch.randn(3, 4)

    check(
        make,
        reference=(lambda: make(lambda block: block), learn),
        names=["input", "first.0", "first.1", "last"],
    )


def test_compiled_with_autocast(check):
    def eager():
        return Block(), torch.randn(4, 1, 8)

    def make():
        return torch.compile(Block(), backend="aot_eager", fullgraph=True), torch.randn(4, 1, 8)

    run = batches(2, autocast=torch.bfloat16)
    check(make, run, reference=(eager, run))


class Checkpointed(nn.Module):
    def __init__(self, repeats):
        super().__init__()
        self.block, self.fc, self.repeats = (
            nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
            nn.Linear(4, 2),
            repeats,
        )

    def forward(self, x):
        return self.fc(checkpoint(self.block, x, use_reentrant=False) if self.repeats else self.block(x))


def test_compiled_with_checkpointing(check):
    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), []
        for _ in range(2):
            with watch.batch("train", 0):
                output = model(x)
                step(optimizer, output)
            seen.append(output)
        return seen

    def make():
        return torch.compile(Checkpointed(True), backend="aot_eager", fullgraph=True), torch.randn(3, 4)

    check(make, run, reference=(lambda: (Checkpointed(False), torch.randn(3, 4)), run))


def test_compiled_and_sparsely_recorded(check):
    make, eager = compiled("aot_eager", fullgraph=True)
    check(make, batches(5), reference=(eager, batches(5)), every=2, steps={"train": [0, 2, 4]})


class Functional(nn.Module):
    def __init__(self, relu):
        super().__init__()
        self.a, self.relu = nn.Linear(4, 4), relu

    def forward(self, x):
        return self.relu(self.a(x))


def test_compiled_with_functional_activations(check, learn):
    def make():
        return torch.compile(Functional(torch.relu), backend="aot_eager", fullgraph=True), torch.randn(3, 4)

    check(
        make,
        reference=(lambda: (Functional(nn.ReLU()), torch.randn(3, 4)), learn),
        rename={"relu": "F.relu"},
        functional=True,
    )


def test_compiled_and_used_after_the_recorder_has_gone(tmp_path):
    def play(recorder_of):
        torch.compiler.reset()
        torch.manual_seed(0)
        block, x = Block(), torch.randn(4, 1, 8)
        model = torch.compile(block, backend="aot_eager", fullgraph=True)
        with recorder_of(model) as recorder:
            for _ in range(2):
                if recorder is None:
                    model(x)
                else:
                    with recorder.batch("train", 0):
                        model(x)
        return [model(x), deepcopy(block)(x)]

    bare = play(lambda model: nullcontext())
    recorded = play(lambda model: actlab.Recorder(model, tmp_path / "run.zarr", on_error="raise"))
    assert all(torch.equal(a, b) for a, b in zip(bare, recorded, strict=True))
    assert actlab.open_run(tmp_path / "run.zarr")["train"].n.sel(layer="fc").values.tolist() == [12, 12]
