"""Answers that are the same for every sample, in real modules to which it was done."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from actlab.findings.rule import Lacking
from actlab.findings.rules.collapse import collapsed_representation


def signs(facts, **limits):
    return collapsed_representation.find(facts, collapsed_representation.limits(**limits))


def net(outputs=5):
    torch.manual_seed(3)
    layers = {
        "lin1": nn.Linear(8, 24),
        "act": nn.Tanh(),
        "lin2": nn.Linear(24, 24),
        "fc": nn.Linear(24, outputs),
    }
    return nn.Sequential(OrderedDict(**layers))


def noise(step, samples=16):
    return torch.randn(samples, 8, generator=torch.Generator().manual_seed(step))


CLASSES = torch.arange(16) % 5


def shrink(layer, factor, when):
    """Return what takes the samples out of a layer at a step."""

    def alter(step):
        if step == when:
            layer.weight *= factor

    return alter


@pytest.mark.parametrize("when", [0, 11, 30])
@pytest.mark.parametrize("factor", [0.0, 1e-6])
def test_the_layer_where_samples_get_lost_comes_first_and_the_step_is_named(watch, when, factor):
    model = net()
    facts = watch(model, noise, steps=60, alter=shrink(model.lin2, factor, when), labels=CLASSES)
    found = signs(facts)
    assert [sign.layer for sign in found] == ["lin2", "fc"]
    assert {sign.steps for sign in found} == {(when, 59)}


@pytest.mark.parametrize("outputs", [1, 5])
def test_a_softmax_of_one_output_says_the_same_whatever_the_answers(watch, outputs):
    model = nn.Sequential(OrderedDict(**dict(net(outputs).named_children()), soft=nn.Softmax(1)))
    found = signs(watch(model, noise, steps=40, labels=CLASSES % 2))
    assert [(sign.layer, sign.steps) for sign in found] == [("soft", (0, 39))] * (outputs == 1)


def test_answers_that_differ_are_fine(watch):
    assert signs(watch(net(), noise, steps=20, labels=CLASSES)) == []


def test_a_head_that_begins_at_0_is_fine_once_it_speaks(watch):
    model = net()
    model.fc.weight.data *= 0

    def alter(step):
        if step == 10:
            model.fc.weight.normal_()

    assert signs(watch(model, noise, steps=60, alter=alter, labels=CLASSES)) == []


def test_a_branch_that_says_nothing_is_fine_while_the_answers_differ(watch):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch, self.fc = nn.Linear(8, 8), nn.Linear(8, 5)
            self.branch.weight.data *= 0

        def forward(self, x):
            return self.fc(x + self.branch(x))

    assert signs(watch(Residual(), noise, steps=20, labels=CLASSES)) == []


@pytest.mark.parametrize("raw", ["head", None])
def test_counts_tell_where_the_answers_were_not_kept(watch, raw):
    model = net()
    facts = watch(model, noise, steps=40, alter=shrink(model.lin2, 0, 10), labels=CLASSES, raw=raw)
    assert [(sign.layer, sign.steps) for sign in signs(facts)] == [("lin2", (10, 39)), ("fc", (10, 39))]
    assert signs(watch(net(), noise, steps=20, labels=CLASSES, raw=raw)) == []


@pytest.mark.parametrize("raw", ["head", None])
def test_answers_of_a_regression_far_from_0_are_fine(watch, raw):
    model = net(1)
    model.fc.bias.data += 300
    targets = torch.rand(16, 1)
    assert signs(watch(model, noise, steps=20, labels=targets, raw=raw)) == []
    found = signs(watch(model, noise, steps=20, alter=shrink(model.fc, 0, 0), labels=targets, raw=raw))
    assert [sign.layer for sign in found] == ["fc"]


def test_inputs_that_are_all_the_same_are_told(watch):
    found = signs(watch(net(), torch.ones(16, 8) * torch.arange(8), steps=20, labels=CLASSES))
    assert "inputs themselves" in found[-1].evidence
    assert "input" not in [sign.layer for sign in found]


def test_small_batches_and_short_runs_are_not_enough(watch):
    model = net()
    alter = shrink(model.lin2, 0, 0)
    assert isinstance(signs(watch(model, noise, steps=5, alter=alter, labels=CLASSES)), Lacking)
    small = watch(model, lambda step: noise(step, 4), steps=20, labels=CLASSES[:4])
    assert isinstance(signs(small), Lacking)


def test_evaluation_tells_where_train_holds_noise(tmp_path):
    import actlab
    from actlab.findings.survey import Survey

    class Noisy(nn.Module):
        """All that differs between the answers in training is the noise."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 12)
            self.fc.weight.data *= 1e-9

        def forward(self, x):
            return self.fc(x + 1e9 * torch.randn_like(x) if self.training else x)

    torch.manual_seed(0)
    model = Noisy()
    with torch.no_grad(), actlab.Recorder(model, tmp_path / "run.zarr", fsync=False) as recorder:
        for step in range(48):
            for split in ("train", "valid"):
                model.train(split == "train")
                with recorder.batch(split, epoch=step // 12):
                    model(noise(step))
    (sign,) = [
        each for each in signs(Survey(actlab.open_run(tmp_path / "run.zarr")).read()) if each.layer == "fc"
    ]
    assert (sign.split, sign.steps) == ("valid", (0, 47))


@pytest.mark.parametrize(
    ("spread", "outputs", "is_found"), [(0.02, 12, True), (0.2, 12, False), (0.02, 2, False)]
)
def test_many_outputs_hardly_share_an_offset(watch, spread, outputs, is_found):
    model = net(outputs)
    model.fc.bias.data.fill_(10.0)
    model.fc.weight.data *= 10 * spread / float(model.fc(model[:3](noise(0))).sub(10).std(0).mean())
    assert bool(signs(watch(model, noise, steps=40))) == is_found
