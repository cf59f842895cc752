"""The zoo, seventh part: models and surroundings that are rare, and break recorders."""

import copy

import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

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


# Models that change


def test_module_that_was_taken_out_keeps_no_hook(tmp_path):
    model, x = small()
    old = model[2]
    with actlab.Recorder(model, tmp_path / "run.zarr", on_error="raise") as recorder:
        with recorder.batch("train", 0):
            model(x)
        model[2] = nn.Linear(6, 3)
    assert not old._forward_hooks


def test_frozen_then_trained(check):
    def run(model, watch, x):
        model[0].requires_grad_(False)
        seen = forwards()(model, watch, x)
        model[0].requires_grad_(True)
        return seen + forwards()(model, watch, x)

    check(small, run)


def test_other_precision_in_the_middle(check):
    def run(model, watch, x):
        seen = forwards()(model, watch, x)
        return (
            seen
            + forwards()(model.bfloat16(), watch, x.bfloat16())
            + forwards()(model.double(), watch, x.double())
        )

    check(small, run)


def test_pruned_weights(check):
    def make():
        model, x = small()
        prune.l1_unstructured(model[0], "weight", amount=0.5)
        return model, x

    check(make)


def test_other_hooks_in_the_middle(check):
    def run(model, watch, x):
        handle, seen = model[0].register_forward_hook(lambda *_: None), []
        with watch.batch("train", 0):
            seen.append(model(x))
        handle.remove()
        return seen + forwards()(model, watch, x)

    check(small, run)


# Calls


def test_module_that_calls_itself(check):
    class Tree(nn.Module):
        def __init__(self):
            super().__init__()
            self.leaf, self.join = nn.Linear(4, 4), nn.Linear(8, 4)

        def forward(self, x):
            if len(x) == 1:
                return self.leaf(x)
            half = len(x) // 2
            return self.join(torch.cat([self(x[:half]), self(x[half:])], 1)).tanh()

    def make():
        return nn.Sequential(Tree()), torch.randn(4, 4)

    run = check(make)
    assert run["train"].n.sel(layer=["0.leaf", "0.join"]).values.tolist() == [[16, 12], [16, 12]]


def test_forward_that_fails_and_is_caught(check):
    class Brave(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.narrow, self.b = nn.Linear(4, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.a(x)
            try:
                x = self.narrow(x)
            except RuntimeError:
                x = x.relu()
            return self.b(x)

    check(lambda: (Brave(), torch.randn(3, 4)), names=["input", "a", "narrow", "b"])


def test_closure_that_is_called_several_times(check):
    def run(model, watch, x):
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)

        def closure():
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        with watch.batch("train", 0):
            loss = optimizer.step(closure)
        return [loss]

    run = check(small, run)
    assert run["train"].n.sel(layer="0").item() % 48 == 0


def test_cell_that_is_called_as_often_as_the_sequence_is_long(check):
    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.fc = nn.GRUCell(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            state = torch.zeros(x.shape[1], 4)
            for part in x:
                state = self.cell(part, state)
            return self.fc(state)

    def run(model, watch, x):
        seen = []
        for length in (2, 4, 1):
            with watch.batch("train", 0):
                seen.append(model(x[:length]))
        return seen

    check(lambda: (Cells(), torch.randn(4, 2, 3)), run)


def test_gradients_forward(check):
    def run(model, watch, x):
        with watch.batch("train", 0):
            output, tangent = torch.func.jvp(model, (x,), (torch.ones_like(x),))
        return [output, tangent]

    check(small, run, reference=(small, forwards(1)))


def test_jacobian(check):
    def run(model, watch, x):
        with watch.batch("train", 0):
            return [torch.func.jacrev(model)(x[0])]

    def count(model, watch, x):
        with watch.batch("train", 0):
            return [model(x[0])]

    check(small, run, reference=(small, count))


def test_gradient_of_a_gradient(check):
    def run(model, watch, x):
        x.requires_grad_()
        with watch.batch("train", 0):
            output = model(x)
            (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        (output.mean() + (slope.norm(dim=1) - 1).square().mean()).backward()
        return [output, slope, *(each.grad for each in model.parameters())]

    check(small, run)


# Surroundings


def test_anomaly_detection(check, learn):
    def run(*args):
        with torch.autograd.detect_anomaly(check_nan=True):
            return learn(*args)

    check(small, run)


def test_deterministic_algorithms(check, learn):
    def run(*args):
        torch.use_deterministic_algorithms(True)
        try:
            return learn(*args)
        finally:
            torch.use_deterministic_algorithms(False)

    check(small, run)


def test_default_dtype_of_float64(check, learn):
    def run(model, watch, x):
        torch.set_default_dtype(torch.float64)
        try:
            return learn(model.double(), watch, x.double())
        finally:
            torch.set_default_dtype(torch.float32)

    check(small, run)


def test_other_default_device_for_new_tensors(check):
    def run(*args):
        with torch.device("meta"):
            return forwards()(*args)

    check(small, run)


def test_activations_kept_elsewhere_for_backward(check, learn):
    def run(*args):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x.numpy(force=True), torch.from_numpy):
            return learn(*args)

    check(small, run)


def test_user_who_counts_operations(check):
    def run(model, watch, x):
        with watch.batch("train", 0), FlopCounterMode(display=False) as counter:
            output = model(x)
        return [output, torch.tensor(counter.get_total_flops())]

    check(small, run)


class Listing(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes every operation."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_user_who_lists_operations(check):
    def run(model, watch, x):
        with watch.batch("train", 0), Listing() as listing:
            output = model(x)
        assert any("addmm" in name for name in listing.seen)
        return [output]

    check(small, run)


def test_model_traced_by_fx(check):
    def make():
        model, x = small()
        return torch.fx.symbolic_trace(model), x

    check(make, names=["input", "0", "1", "2"])


def test_two_recorders_at_once(tmp_path):
    torch.manual_seed(0)
    model, x = small()
    with (
        actlab.Recorder(model, tmp_path / "a.zarr", on_error="raise") as one,
        actlab.Recorder(model, tmp_path / "b.zarr", on_error="raise", layers="1", every=2) as other,
    ):
        for _ in range(3):
            with one.batch("train", 0), other.batch("train", 0):
                model(x)
    first, second = (actlab.open_run(tmp_path / f"{name}.zarr")["train"] for name in "ab")
    assert first.n.sel(layer="1").values.tolist() == [48] * 3
    assert second.step.values.tolist() == [0, 2]
    assert (second.counts.sel(layer="1") == first.counts.sel(layer="1", step=[0, 2])).all()


def test_copy_that_is_recorded_itself(check):
    """A copy of a recorded model carries hooks that do nothing: another recorder may come."""

    def make():
        model, x = small()
        return copy.deepcopy(model), x

    check(make)
