"""Units that are dead, die or are dormant, in real modules to which it was done."""

from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from actlab.findings.rule import Lacking
from actlab.findings.rules.units import dead_relu, dormant_channels, dying_channels

UNITS = 40


def signs(rule, facts, **limits):
    return rule.find(facts, rule.limits(**limits))


def dense(act=nn.ReLU, bias=0.0):
    torch.manual_seed(5)
    model = nn.Sequential(
        OrderedDict(lin=nn.Linear(30, UNITS), act=act(), fc=nn.Linear(UNITS, 4)),
    )
    nn.init.constant_(model.lin.bias, bias)
    return model


def noise(step):
    return torch.randn(32, 30, generator=torch.Generator().manual_seed(step))


def kill(model, count, when=0):
    """Return what pushes the first units so far down that they give only 0, from a step on."""

    def alter(step):
        if step == when:
            model[0].bias[:count] = -1e4

    return alter


@pytest.mark.parametrize("count", [0, 10, 28, 29, 40])
def test_a_layer_is_dead_if_most_of_its_units_are(watch, count):
    model = dense()
    found = signs(dead_relu, watch(model, noise, alter=kill(model, count)))
    assert [sign.layer for sign in found] == ["act"] * (count > 28)
    for sign in found:
        assert sign.value == count / UNITS
        assert sign.steps == (0, 95)
        assert f"{count} of {UNITS} units" in sign.evidence


def test_zeros_spread_over_all_units_are_healthy(watch):
    facts = watch(dense(bias=-1.0), noise)
    rows = facts.rows["train"].sel(layer="act")
    assert float((rows.zeros / rows.n).mean()) > 0.9
    assert signs(dead_relu, facts) == signs(dying_channels, facts) == []


@pytest.mark.parametrize("when", [30, 47, 50, 64])
def test_death_is_dated_to_the_step(watch, when):
    model = dense()
    facts = watch(model, noise, steps=160, alter=kill(model, 36, when))
    (dead,), (died,) = signs(dead_relu, facts), signs(dying_channels, facts)
    assert dead.steps == died.steps == (when, 159)
    assert dead.value == died.value == 36 / UNITS


def test_few_units_may_die(watch):
    model = dense()
    assert signs(dying_channels, watch(model, noise, alter=kill(model, 4, 40))) == []
    assert signs(dead_relu, watch(model, noise, alter=kill(model, 20, 40))) == []


def test_what_a_dense_layer_loses_in_its_first_steps_is_common_and_in_a_convolution_is_not(watch):
    model = dense()
    assert signs(dying_channels, watch(model, noise, alter=kill(model, 22, 2))) == []
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(1, UNITS, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * UNITS, 3))
    facts = watch(
        model, lambda step: noise(step).repeat(1, 2)[:, :36].reshape(-1, 1, 6, 6), alter=kill(model, 22, 2)
    )
    (sign,) = signs(dying_channels, facts)
    assert (sign.layer, sign.value, sign.steps[0]) == ("1", 22 / UNITS, 2)


def test_units_that_come_back_did_not_die(watch):
    model = dense()

    def alter(step):
        model.lin.bias[:30] = -1e4 if 20 <= step < 60 else 0

    facts = watch(model, noise, alter=alter)
    assert signs(dead_relu, facts) == signs(dying_channels, facts) == []


def test_a_pool_tells_of_a_relu_that_is_no_layer(watch):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool, self.fc = nn.Conv2d(1, UNITS, 3), nn.MaxPool2d(2), nn.Linear(4 * UNITS, 2)
            nn.init.constant_(self.conv.bias[:36], -1e4)

        def forward(self, x):
            return self.fc(self.pool(nn.functional.relu(self.conv(x))).flatten(1))

    facts = watch(Functional(), torch.rand(16, 1, 6, 6))
    assert [(sign.layer, sign.value) for sign in signs(dead_relu, facts)] == [("pool", 36 / UNITS)]


def test_data_that_are_mostly_0_are_no_dead_layer(watch):
    x = torch.zeros(32, 30)
    x[:, :3] = torch.rand(32, 3)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(30, UNITS), nn.Tanh(), nn.Linear(UNITS, 2))
    facts = watch(model, x)
    assert signs(dead_relu, facts) == signs(dying_channels, facts) == []


def test_without_late_units_only_a_silent_layer_can_be_told(watch):
    model = dense()
    short = watch(model, noise, steps=20, per_epoch=20)
    assert isinstance(signs(dead_relu, short), Lacking)
    assert isinstance(signs(dying_channels, short), Lacking)
    assert isinstance(signs(dormant_channels, short), Lacking)
    (sign,) = signs(dead_relu, watch(model, noise, steps=20, per_epoch=20, alter=kill(model, UNITS, 5)))
    assert (sign.layer, sign.value, sign.steps) == ("act", 1, (5, 19))


def weaken(model, count, factor):
    """Return what makes the first units weak, before the first step."""

    def alter(step):
        if step == 0:
            model.lin.weight[:count] *= factor
            model.lin.bias[:count] *= factor

    return alter


@pytest.mark.parametrize("act", [nn.Tanh, nn.GELU, nn.LeakyReLU, nn.ReLU])
@pytest.mark.parametrize("count", [0, 6, 12, 30])
def test_dormant_units_are_much_weaker_than_the_others(watch, act, count):
    model = dense(act)
    found = signs(dormant_channels, watch(model, noise, alter=weaken(model, count, 1e-3)))
    assert [(sign.layer, sign.value) for sign in found] == [("act", count / UNITS)] * (count >= 10)


def test_weak_units_do_not_count_where_a_normalisation_follows_or_in_the_head(watch):
    torch.manual_seed(7)
    model = nn.Sequential(
        OrderedDict(lin=nn.Linear(30, UNITS), norm=nn.LayerNorm(UNITS), fc=nn.Linear(UNITS, 20))
    )
    model.fc.weight.data[:10] *= 1e-4
    model.fc.bias.data[:10] *= 1e-4
    facts = watch(model, noise, alter=weaken(model, 20, 1e-4))
    assert signs(dormant_channels, facts) == []


def test_a_few_huge_units_do_not_make_the_others_dormant(watch):
    model = dense(nn.LeakyReLU)
    facts = watch(model, noise, alter=weaken(model, 2, 1e4))
    assert signs(dormant_channels, facts) == []


@given(st.integers(-6, 6))
def test_scale_does_not_matter(watch, power):
    model = dense(nn.LeakyReLU)
    reference = dense(nn.LeakyReLU)
    change = weaken(model, UNITS, 2.0**power)

    def alter(step):
        change(step)
        if step == 0:
            model.lin.weight[:12] *= 1e-3
            model.lin.bias[:12] *= 1e-3

    (sign,) = signs(dormant_channels, watch(model, noise, steps=64, alter=alter))
    (other,) = signs(dormant_channels, watch(reference, noise, steps=64, alter=weaken(reference, 12, 1e-3)))
    assert (sign.layer, sign.value, sign.steps) == (other.layer, other.value, other.steps)


def test_limits_are_those_given(watch):
    model = dense()
    facts = watch(model, noise, alter=kill(model, 20, 40))
    assert signs(dead_relu, facts, units=0.4)[0].limit == 0.4
    assert signs(dying_channels, facts, units=0.6) == []
    with pytest.raises(ValueError, match="unit"):
        dead_relu.limits(unit=0.4)


@pytest.mark.parametrize(("bias", "is_dead"), [(-50.0, True), (0.0, False)])
def test_outputs_that_are_a_dead_relu_are_told_however_few(watch, bias, is_dead):
    model = nn.Sequential(OrderedDict(lin=nn.Linear(30, 2), out=nn.ReLU()))
    model.lin.bias.data.fill_(bias)
    found = [sign.layer for sign in signs(dead_relu, watch(model, noise, steps=96, head="out"))]
    assert found == ["out"] * is_dead


def test_units_that_turned_dormant_late_count(watch):
    model = dense(nn.GELU)
    late = weaken(model, 14, 1e-4)
    facts = watch(model, noise, steps=384, alter=lambda step: late(0) if step == 200 else None)
    assert [sign.layer for sign in signs(dormant_channels, facts)] == ["act"]
