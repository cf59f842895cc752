"""Outputs that are thrown up by the steps of the training, and that rise and collapse."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

import actlab
from actlab.findings.rule import Lacking
from actlab.findings.rules.motion import lr_too_high, rise_and_collapse
from actlab.findings.survey import Survey


def signs(rule, facts, **limits):
    return rule.find(facts, rule.limits(**limits))


def learn(path, rate, *, steps=40, model=None, every=1, log=True, labels=True):
    """Train an MLP on four clouds with SGD at `rate(step)`, and return the facts."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = model or nn.Sequential(
        nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)
    )
    centres = 1.5 * torch.randn(4, 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with actlab.Recorder(model, path, fsync=False, every=every) as recorder:
        for step in range(steps):
            y = torch.randint(0, 4, (32,))
            with recorder.batch("train", epoch=0, labels=y if labels else None):
                loss = cross_entropy(model(centres[y] + torch.randn(32, 20)), y)
            if log:
                recorder.log(loss=loss.detach())
            optimizer.param_groups[0]["lr"] = rate(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Survey(actlab.open_run(path)).read()


@pytest.mark.parametrize("bad", [0, 9, 23])
def test_a_rate_of_100_is_named_with_its_first_bad_step(tmp_path, bad):
    found = signs(lr_too_high, learn(tmp_path / "run", lambda step: 0.05 if step < bad else 1e2))
    assert {sign.layer for sign in found} == {"0", "2", "4"}
    assert min(sign.steps[0] for sign in found) == bad + 1
    assert all(sign.steps[1] == 39 and sign.value >= sign.limit for sign in found)


def test_a_weight_that_breaks_after_something_was_learned_is_no_rate(tmp_path):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))
    for weight in model.parameters():
        weight.data /= 4  # begins small, so that it grows at once, as it should

    def rate(step):
        if step == 60:
            model[2].weight.data.fill_(float("nan"))
        return 0.5

    assert signs(lr_too_high, learn(tmp_path / "run", rate, steps=100, model=model)) == []


@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.3])
def test_healthy_rates_are_not_named(tmp_path, rate):
    assert signs(lr_too_high, learn(tmp_path / "run", lambda step: rate)) == []


def test_the_head_tells_of_a_linear_model(tmp_path):
    facts = learn(tmp_path / "run", lambda step: 1e2, model=nn.Sequential(nn.Linear(20, 4)))
    assert [sign.layer for sign in signs(lr_too_high, facts)] == ["0"]


class Reader(nn.Module):
    """A recurrent layer and what it says at the end of a sequence."""

    def __init__(self):
        super().__init__()
        self.cell, self.fc = nn.GRU(5, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.cell(x.view(-1, 4, 5))[0][:, -1])


def test_the_head_tells_where_all_below_it_is_bounded(tmp_path):
    found = signs(lr_too_high, learn(tmp_path / "high", lambda step: 1e2, model=Reader()))
    assert [sign.layer for sign in found] == ["fc"]
    assert found[0].limit == lr_too_high.limits().thrown_head
    assert signs(lr_too_high, learn(tmp_path / "good", lambda step: 0.3, model=Reader())) == []


def outputs(record_run, sizes, layer="fc"):
    """Return facts of a run in which a layer's outputs are of these sizes [row]; its loss falls."""
    values = np.random.default_rng(5).normal(0, 1, (24, 10))
    rows = [(0, {layer: (values * size).astype(np.float32)}, None) for size in sizes]
    return Survey(record_run({"train": rows}, sorted({layer, "fc"}), raw=False)).read()


ROWS = 40
HEALTHY = {
    "steady": np.ones(ROWS),
    "five times within a few batches": np.where(np.arange(ROWS) < 9, 0.3, 1.5),
    "a hundred times, slowly": 100 ** (np.arange(ROWS) / ROWS),
    "one odd batch": np.where(np.arange(ROWS) == 12, 1000.0, 1.0),
    "three odd batches": np.where(np.isin(np.arange(ROWS), [12, 13, 14]), 1000.0, 1.0),
    "one silent batch": np.where(np.arange(ROWS) == 12, 1e-6, 1.0),
    "out of nothing": np.where(np.arange(ROWS) < 3, 1e-9, 0.8),
}


@pytest.mark.parametrize("sizes", HEALTHY.values(), ids=HEALTHY)
def test_what_learns_may_grow_and_have_odd_batches(record_run, sizes):
    assert signs(lr_too_high, outputs(record_run, sizes)) == []


@settings(max_examples=10)
@given(row=st.integers(1, ROWS - 6), scale=st.floats(0.1, 1e6), factor=st.floats(50, 1e6))
def test_a_leap_is_found_in_its_row_whatever_the_scale(record_run, row, scale, factor):
    (sign,) = signs(lr_too_high, outputs(record_run, np.where(np.arange(ROWS) < row, scale, scale * factor)))
    assert sign.steps == (row, ROWS - 1)
    assert sign.value == pytest.approx(factor, rel=1e-3)


def test_a_leap_that_ends_in_nan_is_found(record_run):
    sizes = np.ones(ROWS)
    sizes[4:6], sizes[6:] = (1e3, 1e9), np.nan
    (sign,) = signs(lr_too_high, outputs(record_run, sizes))
    assert sign.steps[0] == 4
    assert signs(lr_too_high, outputs(record_run, np.where(np.arange(ROWS) < 4, 1, np.nan))) == []


def grow(facts_of, factors, loss):
    """Return facts of a model whose weights are multiplied after each step by one of the factors."""
    model = nn.Sequential(nn.Linear(10, 16, bias=False), nn.ReLU(), nn.Linear(16, 3))
    batches = [torch.randn(16, 10) for _ in factors]

    def after(step):
        model[0].weight.mul_(float(factors[step]))

    return facts_of(model, batches, after=after, log=loss)


def test_a_leap_that_passes_is_too_high_a_rate_if_the_loss_leaps_with_it(facts_of):
    factors = np.ones(40)
    factors[3], factors[11] = 15, 1 / 15
    (sign, *_) = signs(lr_too_high, grow(facts_of, factors, lambda step: 30.0 if 3 < step < 12 else 2.0))
    assert (sign.layer, sign.steps[0], sign.limit) == ("0", 4, lr_too_high.limits().leap)
    assert "the loss rose as far" in sign.evidence
    assert signs(lr_too_high, grow(facts_of, factors, lambda step: 2.3 * 0.95**step)) == []
    assert signs(lr_too_high, grow(facts_of, factors, lambda step: 30.0 if step == 5 else 2.0)) == []


@pytest.mark.parametrize(
    ("loss", "is_sick"), [(lambda step: 2.3, True), (lambda step: 2.3 * 0.95**step, False)]
)
@pytest.mark.parametrize("steps", [4, 40])
def test_growth_without_learning_is_too_high_a_rate(facts_of, loss, is_sick, steps):
    total = 6.0 if steps == 4 else 30.0
    factors = np.where(np.arange(50) < steps, total ** (1 / steps), 1.0)
    found = signs(lr_too_high, grow(facts_of, factors, loss))
    assert [sign.layer for sign in found][:1] == ["0"] * is_sick
    assert all("the loss went from 2.3 to 2.3" in sign.evidence for sign in found)


def test_without_a_loss_the_labels_tell_whether_something_is_learned(tmp_path):
    quiet = {
        "steps": 60,
        "log": False,
        "model": nn.Sequential(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 4)),
    }
    facts = learn(tmp_path / "run", lambda step: 0.02, **quiet)
    assert signs(lr_too_high, facts, felt=1.01) == []
    found = signs(lr_too_high, facts, felt=1.01, auc=1.0)
    assert found
    assert all("area under the curve" in sign.evidence for sign in found)


def test_it_says_what_is_lacking(tmp_path, record_run, facts_of):
    assert signs(lr_too_high, outputs(record_run, np.ones(5))) == Lacking("needs 6 training batches")
    assert "weights" in signs(lr_too_high, outputs(record_run, np.ones(9), layer="act")).reason
    model = nn.Sequential(nn.Linear(20, 4))
    facts = learn(
        tmp_path / "run", lambda step: 0.01, steps=200, every=20, log=False, labels=False, model=model
    )
    assert "every 10th" in signs(lr_too_high, facts).reason


# Rise and collapse.


def swings(count, factor, *, period=24):
    """Return sizes that rise by `factor` and fall again, so often."""
    phase = np.linspace(0, count * 2 * math.pi, count * period + 1)
    return factor ** ((1 - np.cos(phase)) / 2)


@settings(max_examples=10)
@given(count=st.integers(1, 5), factor=st.floats(1.5, 50), scale=st.floats(1e-2, 1e4))
def test_cycles_are_counted_whatever_the_scale(record_run, count, factor, scale):
    sizes = scale * np.append(swings(count, factor), [1.0] * 10)
    found = signs(rise_and_collapse, outputs(record_run, sizes), alone=2)
    if factor > 3.5:
        assert [sign.value for sign in found] == [count] * (count > 1)
    if factor < 2.9:
        assert found == []


def test_a_single_layer_needs_more_of_them(record_run):
    assert signs(rise_and_collapse, outputs(record_run, swings(2, 10))) == []
    (sign,) = signs(rise_and_collapse, outputs(record_run, swings(3, 10)))
    assert sign.steps == (pytest.approx(0, abs=3), pytest.approx(72, abs=3))


@pytest.mark.parametrize(
    "sizes",
    [
        10 ** (np.arange(100) / 50),
        np.random.default_rng(1).lognormal(0, 0.3, 100),
        np.where(np.arange(100) % 10 < 2, 30.0, 1.0),
        np.append(np.full(20, 30.0), np.ones(80)),
    ],
    ids=["growth", "noise", "odd batches", "one collapse"],
)
def test_what_is_no_cycle_is_none(record_run, sizes):
    assert signs(rise_and_collapse, outputs(record_run, sizes), alone=2) == []


def test_cycles_need_30_batches_and_are_none_of_the_inputs(record_run):
    assert signs(rise_and_collapse, outputs(record_run, np.ones(29))) == Lacking("needs 30 training batches")
    assert signs(rise_and_collapse, outputs(record_run, swings(4, 10), layer="input")) == []
