"""What a hook leaves in copies, and what it does inside compiled, exported and traced models."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from actlab.recording.hooks import CompileGuards, Hook
from actlab.recording.recorder import Recorder


def test_copies_and_pickles_of_a_hooked_model_do_nothing_and_need_no_actlab(tmp_path):
    seen = []
    model = nn.Sequential(nn.Linear(2, 2))
    before = model.state_dict().keys()
    model[0].register_forward_hook(Hook(seen.append))
    model.register_forward_pre_hook(Hook(seen.append, on_input=True), with_kwargs=True)
    assert model.state_dict().keys() == before
    x = torch.ones(1, 2)
    assert torch.equal(copy.deepcopy(model)(x), pickle.loads(pickle.dumps(model))(x))
    assert seen == []
    torch.save(model, tmp_path / "model.pt")
    code = (
        "import sys, torch; sys.modules['actlab'] = None;"
        f"model = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False);"
        "assert model(torch.ones(1, 2)).shape == (1, 2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    model(x)
    assert len(seen) == 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc2(self.relu(self.fc1(x)))


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def make_net():
    def make():
        torch.manual_seed(0)
        return Net()

    return make


def steps(call, model, around=None):
    """Train three steps; returns the losses."""
    torch.manual_seed(1)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    for _ in range(3):
        x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
        if around is None:
            loss = nn.functional.cross_entropy(call(x), y)
        else:
            with around.batch("train", 0, y):
                loss = nn.functional.cross_entropy(call(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("is_called_before", [False, True])
@pytest.mark.parametrize("way", ["wrapped", "in place", "a compiled step"])
def test_a_compiled_model_counts_what_the_eager_one_does_in_one_graph(
    writer, make_net, way, is_called_before
):
    eager, bare, model = make_net(), make_net(), make_net()

    def compiled(net):
        if way == "in place":
            net.compile(backend="aot_eager", fullgraph=True)
            return net
        return torch.compile(net if way == "wrapped" else net.__call__, backend="aot_eager", fullgraph=True)

    with Recorder(eager, "memory", on_error="raise") as recorder:
        steps(eager, eager, recorder)
    expected = writer().rows
    losses = steps(compiled(bare), bare)
    call = compiled(model)
    if is_called_before:
        with torch.no_grad():
            call(torch.randn(6, 4))
        model.load_state_dict(make_net().state_dict())
    torch._dynamo.utils.counters.clear()
    with Recorder(model, "memory", on_error="raise") as recorder:
        assert steps(call, model, recorder) == losses
    assert torch._dynamo.utils.counters["graph_break"] == {}
    for value, other in zip(bare.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(value, other)
    rows = writer().rows
    assert [layer.name for layer in rows[0].layers] == [layer.name for layer in expected[0].layers]
    for row, like in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row.counts, like.counts)
        np.testing.assert_array_equal(row.head, like.head)
        np.testing.assert_array_equal(row.label, like.label)
    assert writer().attributes["head"] == "fc2"


def test_a_compiled_copy_without_hooks_does_not_serve_the_recorded_model(writer, make_net):
    model = make_net()
    call = torch.compile(model, backend="aot_eager", fullgraph=True)
    with Recorder(model, "memory", on_error="raise") as recorder:
        average = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
        for _ in range(3):
            with recorder.batch("train", 0):
                call(torch.randn(6, 4))
            average(torch.randn(6, 4))
    assert [row.n.min() for row in writer().rows] == [18] * 3


def test_the_setting_of_the_compiler_comes_back_with_the_last_recorder():
    config = torch._dynamo.config
    before = config.skip_nnmodule_hook_guards
    first, second = CompileGuards(), CompileGuards()
    first.hold(), second.hold(), first.hold()
    assert not config.skip_nnmodule_hook_guards
    first.release(), first.release()
    assert not config.skip_nnmodule_hook_guards
    second.release()
    assert config.skip_nnmodule_hook_guards == before


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_knows_nothing_of_the_recorder(writer, make_net, strict):
    model = make_net().eval()
    x = (torch.randn(2, 4),)
    bare = torch.export.export(make_net().eval(), x, strict=strict)
    with Recorder(model, "memory", on_error="raise") as recorder, recorder.batch("valid", 0):
        exported = torch.export.export(model, x, strict=strict)
        assert torch.equal(exported.module()(*x), model(*x))
    assert [node.target for node in exported.graph.nodes] == [node.target for node in bare.graph.nodes]
    assert writer().rows[0].n.tolist()[-1] == 6


def test_a_traced_model_does_not_record(writer, make_net):
    model = make_net().eval()
    x = torch.randn(2, 4)
    with Recorder(model, "memory", on_error="raise") as recorder, recorder.batch("valid", 0):
        traced = torch.jit.trace(model, x, check_trace=False)
        assert torch.equal(traced(x), model(x))
    assert writer().rows[0].n.tolist()[-1] == 6


def test_detached_takes_the_hooks_off_and_puts_them_back(writer, make_net, hooks_of):
    model = make_net().eval()
    recorder = Recorder(model, "memory", on_error="raise")
    before = hooks_of(model)
    with recorder.detached():
        assert hooks_of(model) == 0
        scripted = torch.jit.script(model)
        model(torch.randn(2, 4))
    assert hooks_of(model) == before
    with recorder.batch("valid", 0):
        model(torch.randn(2, 4))
    recorder.close()
    assert hooks_of(model) == 0
    assert scripted(torch.randn(2, 4)).shape == (2, 3)
    assert [row.n.tolist()[-1] for row in writer().rows] == [6]


def test_compiled_transforms_of_a_recorded_model_work_as_before(writer, make_net):
    model, x = make_net(), torch.randn(5, 4)

    def loss(parameters, sample):
        return torch.func.functional_call(model, parameters, (sample,)).square().sum()

    parameters = dict(model.named_parameters())
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
    expected = each(parameters, x)
    with Recorder(model, "memory", on_error="raise") as recorder, recorder.batch("train", 0):
        found = torch.compile(each, backend="aot_eager")(parameters, x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_recorder_made_in_inference_mode_does_not_stop_a_compiled_training(writer, make_net):
    model = make_net()
    with torch.inference_mode():
        recorder = Recorder(model, "memory", on_error="raise")
    with recorder:
        steps(torch.compile(model, backend="aot_eager", fullgraph=True), model, recorder)
    assert [row.n.tolist() for row in writer().rows] == [[24, 48, 48, 18]] * 3


def test_detached_inside_detached_puts_the_hooks_back_once(writer, make_net, hooks_of):
    model = make_net()
    with Recorder(model, "memory", on_error="raise") as recorder:
        before = hooks_of(model)
        with recorder.detached():
            with recorder.detached():
                pass
            assert hooks_of(model) == 0
        assert hooks_of(model) == before


def test_a_pause_inside_a_compiled_step_holds(writer, make_net):
    model = make_net()
    with Recorder(model, "memory", on_error="raise") as recorder:

        def step(x):
            with recorder.pause():
                model(x)
            return model(x)

        compiled = torch.compile(step, backend="aot_eager")
        for _ in range(2):
            with recorder.batch("train", 0):
                compiled(torch.randn(2, 4))
    assert [row.n.tolist()[-1] for row in writer().rows] == [6, 6]


def test_modes_that_count_operations_do_not_see_ours(writer, make_net):
    from torch.utils.flop_counter import FlopCounterMode

    model, x = make_net(), torch.randn(6, 4)
    with FlopCounterMode(display=False) as bare:
        model(x)
    with (
        Recorder(model, "memory", on_error="raise", raw=["*"]) as recorder,
        recorder.batch("train", 0),
        FlopCounterMode(display=False) as recorded,
    ):
        model(x)
    assert recorded.get_total_flops() == bare.get_total_flops() > 0
    assert writer().rows[0].n.tolist() == [24, 48, 48, 18]
