"""NaN, infinities and saturation, in real modules to which it was done."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import actlab
from actlab.findings.rule import Lacking
from actlab.findings.rules.values import nan_inf, saturation
from actlab.findings.survey import Survey


def signs(rule, facts, **limits):
    return rule.find(facts, rule.limits(**limits))


def noise(step):
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(step))


def net(act=nn.Tanh, scale=1.0, last=nn.Identity):
    torch.manual_seed(3)
    layers = {"lin1": nn.Linear(8, 24), "act1": act(), "lin2": nn.Linear(24, 24), "act2": act()}
    model = nn.Sequential(OrderedDict(**layers, fc=nn.Linear(24, 3), last=last()))
    model.lin2.weight.data *= scale
    return model


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("when", [0, 7, 19])
def test_the_first_layer_and_step_with_a_value_that_is_no_number_are_named(watch, bad, when):
    model = net()

    def alter(step):
        if step == when:
            model.lin2.bias[3] = bad

    found = {sign.layer: sign for sign in signs(nan_inf, watch(model, noise, steps=20, alter=alter))}
    assert found["lin2"].steps == (when, 19)
    assert found["lin2"].value == pytest.approx(1 / 24)
    assert "first layer" in found["lin2"].evidence
    assert all("after other layers" in found[layer].evidence for layer in found if layer != "lin2")
    assert not {"input", "lin1", "act1"} & set(found)


def test_numbers_alone_are_fine_however_large(watch):
    assert signs(nan_inf, watch(net(scale=1e30), noise, steps=12)) == []


def test_growth_before_an_infinity_is_told(watch):
    model = net(nn.Identity)

    def alter(step):
        model.lin2.weight *= 1e4 if step > 4 else 1

    (first, *_) = sorted(
        signs(nan_inf, watch(model, noise, steps=20, alter=alter)), key=lambda sign: sign.steps
    )
    assert first.layer == "lin2"
    assert "as usual before" in first.evidence


def test_a_mask_of_minus_infinity_is_meant(watch):
    class Scores(nn.Module):
        def forward(self, x):
            return x.masked_fill(torch.eye(8).repeat(2, 1).bool(), -torch.inf)

    model = nn.Sequential(nn.Linear(8, 8), Scores(), nn.Softmax(-1), nn.Linear(8, 2))
    assert signs(nan_inf, watch(model, noise, steps=12)) == []


def test_missing_values_are_fine_where_the_network_copes_with_them(watch):
    class Filled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 2)

        def forward(self, x):
            return self.fc(x.nan_to_num())

    x = noise(0)
    x[0, 0] = torch.nan
    assert signs(nan_inf, watch(Filled(), x, steps=12)) == []
    found = signs(nan_inf, watch(nn.Sequential(nn.Linear(8, 2)), x, steps=12))
    assert found[0].layer == "input"
    assert "data themselves" in found[0].evidence


def test_what_one_model_gives_to_another_is_no_data(tmp_path):
    parts = {"one": nn.Linear(8, 8), "other": nn.Linear(8, 2)}
    with torch.no_grad(), actlab.Recorder(parts, tmp_path / "run", fsync=False) as recorder:
        for step in range(12):
            parts["one"].bias[0] = torch.nan
            with recorder.batch("train", epoch=0):
                parts["other"](parts["one"](noise(step)))
    found = signs(nan_inf, Survey(actlab.open_run(tmp_path / "run")).read())
    assert found[0].layer.startswith("one")
    (given,) = (sign for sign in found if sign.layer == "other.input")
    assert "data themselves" not in given.evidence


def saturate(layer, when=0, factor=100.0):
    """Return what multiplies the weights of a layer at a step."""

    def alter(step):
        if step == when:
            layer.weight *= factor

    return alter


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid])
def test_hidden_activations_at_their_ends_are_sick(watch, act):
    healthy, sick = net(act), net(act)
    assert signs(saturation, watch(healthy, noise, steps=40)) == []
    factor = 1e5 if act is nn.Softsign else 300
    (sign,) = signs(saturation, watch(sick, noise, steps=40, alter=saturate(sick.lin2, factor=factor)))
    assert (sign.layer, sign.steps, sign.limit) == ("act2", (0, 39), 0.5)
    assert 0.5 < sign.value <= 1


def test_later_on_more_has_to_be_saturated(watch):
    share = {}
    for factor in (20, 300):
        model = net()
        facts = watch(model, noise, steps=40, alter=saturate(model.lin2, 20, factor))
        rows = facts.rows["train"].sel(layer="act2")
        share[factor] = float(((rows.low + rows.high) / rows.n)[-10:].mean())
        found = signs(saturation, facts)
        assert [(sign.layer, sign.steps, sign.limit) for sign in found] == [("act2", (20, 39), 0.85)] * (
            share[factor] >= 0.85
        )
    assert 0.5 < share[20] < 0.85 < share[300]


@pytest.mark.parametrize("last", [nn.Sigmoid, lambda: nn.Softmax(-1)])
def test_an_output_may_become_sure_of_its_answers_but_not_begin_so(watch, last):
    model = net(nn.ReLU, last=last)
    assert signs(saturation, watch(model, noise, steps=60, alter=saturate(model.fc, 20, 1e4))) == []
    model = net(nn.ReLU, last=last)
    found = signs(saturation, watch(model, noise, steps=60, alter=saturate(model.fc, 0, 1e4)))
    assert [(sign.layer, sign.steps) for sign in found] == [("last", (0, 59))]


@pytest.mark.parametrize(("loss", "is_stuck"), [(lambda s: 9.0, True), (lambda s: 9.0 / (s + 1), False)])
def test_an_output_that_is_sure_and_does_not_learn_is_sick(facts_of, loss, is_stuck):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.Sigmoid())

    def after(step):
        if step == 10:
            model[2].bias += 50

    facts = facts_of(model, [noise(step) for step in range(40)], after=after, log=loss)
    assert [sign.layer for sign in signs(saturation, facts)] == ["3"] * is_stuck


def test_a_softmax_counts_by_how_often_one_takes_it_all(watch):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.score, self.softmax, self.fc = nn.Linear(8, 10), nn.Softmax(-1), nn.Linear(10, 2)

        def forward(self, x):
            return self.fc(self.softmax(self.score(x)))

    calm, wild = Attention(), Attention()
    assert signs(saturation, watch(calm, noise, steps=20)) == []
    (sign,) = signs(saturation, watch(wild, noise, steps=20, alter=saturate(wild.score, 0, 1e3)))
    assert sign.layer == "softmax"
    assert sign.value == pytest.approx(1, abs=0.1)


def test_recurrent_outputs_count_and_their_states_without_ends_do_not(watch):
    def build(factor):
        torch.manual_seed(4)
        model = nn.LSTM(8, 16, batch_first=True)
        for weight in model.parameters():
            weight.data *= factor
        return model

    sequences = torch.randn(8, 20, 8, generator=torch.Generator().manual_seed(1))
    assert signs(saturation, watch(build(1), sequences, steps=20, head=None)) == []
    rnn = nn.RNN(8, 16, batch_first=True)
    rnn.weight_ih_l0.data *= 100
    facts = watch(rnn, sequences, steps=20)
    assert {sign.layer.partition(":")[0] for sign in signs(saturation, facts)} == {"RNN"}


def test_too_few_batches_are_not_enough(watch):
    facts = watch(net(scale=1e3), noise, steps=6)
    assert isinstance(signs(saturation, facts), Lacking)
    assert signs(saturation, watch(net(nn.ReLU), noise, steps=6)) == []
