"""Layers that no training moves."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import actlab
from actlab.findings.rule import Lacking
from actlab.findings.rules.stillness import frozen_layer
from actlab.findings.survey import Survey

LAYERS = ("lin1", "norm", "act1", "lin2", "act2", "head")


def signs(facts, **limits):
    return frozen_layer.find(facts, frozen_layer.limits(**limits))


def mlp():
    torch.manual_seed(2)
    layers = nn.Linear(12, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20)
    return nn.Sequential(OrderedDict(zip(LAYERS, layers, strict=True)))


def learn(path, model, *, epochs=4, rate=lambda epoch: 0.05, draws=False, split="valid", shown=None):
    """Train a model on noise, evaluate it before, and after each epoch on the same data; return the facts."""
    torch.set_num_threads(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    same = shown if shown is not None else torch.randn(60, 12)
    with actlab.Recorder(model, path, fsync=False) as recorder:
        for epoch in range(-1, epochs):
            optimizer.param_groups[0]["lr"] = rate(epoch)
            for _ in range(4 if epoch >= 0 else 0):
                model.train()
                with recorder.batch("train", epoch=epoch):
                    loss = (model(torch.randn(30, 12)) - 1).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad(), recorder.batch(split, epoch=epoch):
                model(torch.randn(60, 12) if draws else same)
    return Survey(actlab.open_run(path)).read()


@pytest.mark.parametrize("frozen", [(), ("lin1",), ("lin2",), ("head",), ("lin1", "lin2")])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_first_frozen_layers_are_found(tmp_path, frozen, split):
    model = mlp()
    for name in frozen:
        getattr(model, name).requires_grad_(requires_grad=False)
    found = signs(learn(tmp_path / "run", model, split=split))
    # Later layers get other inputs, so that their outputs change though they do not learn.
    assert [sign.layer for sign in found] == [name for name in frozen if name == "lin1"]
    for sign in found:
        assert (sign.split, sign.steps, sign.value) == (split, (1, 4), 0)
        assert "4 epochs of training, since epoch 0" in sign.evidence


def test_a_body_that_is_left_out_is_found_layer_by_layer(tmp_path):
    model = mlp()
    model.norm = nn.LayerNorm(40)
    for name in ("lin1", "norm", "lin2"):
        getattr(model, name).requires_grad_(requires_grad=False)
    assert [sign.layer for sign in signs(learn(tmp_path / "run", model))] == ["lin1", "norm", "lin2"]


def test_a_network_that_learns_nothing_at_all_is_told_so(tmp_path):
    model = mlp()
    model.norm = nn.Identity()
    found = signs(learn(tmp_path / "run", model, rate=lambda epoch: 0.0))
    assert [sign.layer for sign in found] == ["lin1", "lin2", "head"]
    assert all("No layer learns" in sign.remedy for sign in found)


@pytest.mark.parametrize(
    "made",
    [{"rate": lambda epoch: 0.05 * (epoch < 2), "epochs": 6}, {"draws": True}, {"rate": lambda epoch: 1e-4}],
    ids=["came to rest", "other data each time", "slow"],
)
def test_what_is_not_frozen_is_not_called_so(tmp_path, made):
    model = mlp()
    model.norm = nn.Identity()
    assert signs(learn(tmp_path / "run", model, **made)) == []


def test_a_layer_that_thaws_is_not_frozen(tmp_path):
    model = mlp()
    model.lin1.requires_grad_(requires_grad=False)

    def rate(epoch):
        model.lin1.requires_grad_(requires_grad=epoch >= 3)
        return 0.05

    assert signs(learn(tmp_path / "run", model, rate=rate, epochs=5)) == []


def test_layers_before_a_dead_one_are_told_by_another_rule(tmp_path):
    model = mlp()
    model.norm = nn.Identity()
    nn.init.constant_(model.lin2.bias, -1e3)
    facts = learn(tmp_path / "run", model)
    assert float(facts.epochs["valid"]["moved"].sel(layer="lin1")[1:].max()) == 0
    assert signs(facts) == []


def test_few_values_may_stay_the_same_by_chance(tmp_path):
    model = mlp()
    model.lin1.requires_grad_(requires_grad=False)
    assert signs(learn(tmp_path / "run", model, shown=torch.randn(12, 12))) == []


@pytest.mark.parametrize("made", [{"epochs": 1}, {"split": "train"}])
def test_it_needs_three_evaluations(tmp_path, made):
    found = signs(learn(tmp_path / "run", mlp(), **made))
    assert found == Lacking("needs 3 evaluations on the same data with training between them")


def test_layers_without_parameters_do_not_freeze(record_run):
    rows = [(epoch, {"input": np.full(600, epoch)}, None) for epoch in range(4)]
    facts = Survey(record_run({"train": rows, "valid": rows}, ["input"], head=None, raw=False)).read()
    assert signs(facts) == Lacking("needs layers with parameters")
