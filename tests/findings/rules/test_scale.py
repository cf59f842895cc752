"""Rules about the scale of values: exploding, vanishing, out of view, BatchNorm that re-centres."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from actlab.axis import LinearAxis
from actlab.findings.rule import Lacking
from actlab.findings.rules.scale import batchnorm_recentres, exploding, out_of_view, vanishing
from actlab.stats import out_of_range

few = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


def find(rule, facts, **limits):
    return rule.find(facts, rule.limits(**limits))


def by_layer(signs):
    return {sign.layer: sign for sign in signs}


def batches(n=12, width=16, samples=32, scale=1.0):
    random = torch.Generator().manual_seed(5)
    return [scale * torch.randn(samples, width, generator=random) for _ in range(n)]


def classes(x):
    return torch.arange(len(x)) % 4


def stack(gains, width=16, act=nn.ReLU, bias=0.0):
    """Return linear layers that multiply the size of what comes in by `gains`, 4 outputs at the end."""
    random = torch.Generator().manual_seed(6)
    layers = []
    for place, gain in enumerate(gains):
        wide = 4 if place == len(gains) - 1 else width
        linear = nn.Linear(width, wide)
        linear.weight.data = gain * torch.randn(wide, width, generator=random) / width**0.5
        linear.bias.data.fill_(bias)
        layers += [linear, act()]
    return nn.Sequential(*layers[:-1])


def grower(layer, factor, since=0):
    """Return what multiplies the weights of a layer after every step from some step on."""

    def after(step):
        if step >= since:
            layer.weight.mul_(factor)

    return after


def test_a_layer_that_grows_explodes_from_the_step_at_which_it_passes_the_limit(facts_of):
    model = stack([1.4, 1.4, 1.0])
    facts = facts_of(model, batches(20), after=grower(model[2], 2, since=4), labels=classes)
    signs = by_layer(find(exploding, facts))
    assert set(signs) == {"2", "3", "4"}
    size = np.hypot(facts.rows["train"]["mean"], facts.rows["train"]["std"]).sel(layer="2").values
    passed = np.flatnonzero(size / max(1, size[0]) > signs["2"].limit)[0]
    assert signs["2"].steps == (passed, 19)
    assert signs["2"].value == pytest.approx(size.max() / max(1, size[0]), rel=0.1)
    assert "at step 19" in signs["2"].evidence


def test_growth_that_ends_is_none(facts_of):
    model = stack([1.4, 1.4, 1.0])
    signs = find(
        exploding, facts_of(model, batches(20), after=lambda s: model[2].weight.mul_(2 if s < 3 else 1))
    )
    assert signs == []


def test_growth_into_nan_is_told_from_before_it(facts_of):
    model = stack([1.4, 1.4, 1.0])

    def after(step):
        model[2].weight.mul_(100 if step < 8 else float("nan"))

    signs = by_layer(find(exploding, facts_of(model, batches(16), after=after, labels=classes)))
    assert signs["2"].steps == (1, 15)
    assert "not finite from step 9 on" in signs["2"].evidence


def test_nan_out_of_nowhere_is_no_explosion(facts_of):
    model = stack([1.4, 1.4, 1.0])
    after = grower(model[2], float("nan"), since=6)
    assert find(exploding, facts_of(model, batches(16), after=after, labels=classes)) == []


def test_one_odd_batch_is_no_explosion(facts_of):
    odd = batches(16)
    odd[9] = 1e4 * odd[9]
    odd[-1] = 1e4 * odd[-1]
    assert find(exploding, facts_of(stack([1.4, 1.4, 1.0]), odd, labels=classes)) == []


def test_layers_that_multiply_explode_over_depth(facts_of):
    deep = find(exploding, facts_of(stack([4] * 6), batches(), labels=classes))
    assert deep[0].steps == (0, 11)
    assert "by fan-in" in deep[0].remedy
    assert find(exploding, facts_of(stack([1.4] * 6), batches(), labels=classes)) == []


@few
@given(st.sampled_from([1, 30, 255]))
def test_large_inputs_are_no_explosion(facts_of, scale):
    assert find(exploding, facts_of(stack([1.4] * 4), batches(scale=scale), labels=classes)) == []


LOSSES = {
    "falls": (lambda s: 1e4 / (s + 1), False),
    "rises": (lambda s: 10.0**s, True),
    "falls forever": (lambda s: 1.0 - 2.0**s, True),
    "below 0 as that of a density": (lambda s: 1.4 - 3.0 * min(1, s / 10), False),
}


@pytest.mark.parametrize(("log", "is_found"), LOSSES.values(), ids=LOSSES)
def test_a_regression_grows_to_its_targets_while_its_loss_falls(facts_of, log, is_found):
    model = stack([1.4, 1.4, 1.0])
    facts = facts_of(model, batches(20), after=grower(model[4], 2), log=log)
    assert bool(find(exploding, facts)) is is_found


def test_a_regression_without_a_loss_has_another_limit(facts_of):
    model = stack([1.4, 1.4, 1.0])
    facts = facts_of(model, batches(20), after=grower(model[4], 2))
    assert find(exploding, facts) == []
    assert [sign.layer for sign in find(exploding, facts, unknown=100)] == ["4"]


def test_the_head_of_a_regression_may_begin_at_the_mean_of_its_targets(facts_of):
    model = stack([1.4, 1.4, 1.0])
    model[4].bias.data.fill_(2e5)
    assert find(exploding, facts_of(model, batches())) == []
    assert [sign.layer for sign in find(exploding, facts_of(model, batches(), labels=classes))] == ["4"]


@pytest.mark.parametrize("rule", [exploding, vanishing, batchnorm_recentres])
def test_few_batches_are_not_enough(facts_of, rule):
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    found = find(rule, facts_of(model, batches(3)))
    assert isinstance(found, Lacking)
    assert "batches of training" in found.reason


def test_a_signal_vanishes_from_the_layer_on_that_holds_nothing_of_it(facts_of):
    facts = facts_of(stack([1, 1, 0.02, 0.02, 1, 1], act=nn.Tanh), batches(), labels=classes)
    signs = find(vanishing, facts)
    assert [sign.layer for sign in signs] == ["6", "8", "10"]
    assert signs[0].steps == (0, 11)
    assert 0 < signs[0].value < signs[0].limit


def test_biases_do_not_hide_that_all_samples_are_alike(facts_of):
    facts = facts_of(stack([1, 0.01, 0.01, 1, 1], act=nn.Tanh, bias=0.5), batches(), labels=classes)
    assert [sign.layer for sign in find(vanishing, facts)] == ["4", "6", "8"]


def test_a_signal_that_is_only_small_or_comes_back_has_not_vanished(facts_of):
    assert find(vanishing, facts_of(stack([1, 0.1, 1, 1]), batches(), labels=classes)) == []
    normed = stack([1, 0.02, 0.02, 1], act=nn.Tanh)
    normed[5] = nn.LayerNorm(16)
    assert find(vanishing, facts_of(normed, batches(), labels=classes)) == []


def test_a_signal_that_recovers_in_training_has_not_vanished(facts_of):
    model = stack([1, 0.01, 0.01, 1], act=nn.Tanh)
    assert find(vanishing, facts_of(model, batches(), after=grower(model[2], 3))) == []
    model = stack([1, 1, 1, 1], act=nn.Tanh)
    late = find(vanishing, facts_of(model, batches(20), after=grower(model[2], 1e-4, since=8)))
    assert late[0].layer == "2"
    assert late[0].steps == (9, 19)


def test_branches_and_heads_that_begin_at_zero_have_not_vanished(facts_of):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.end = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
            self.head = nn.Linear(16, 4)
            nn.init.zeros_(self.end.weight)
            nn.init.zeros_(self.end.bias)

        def forward(self, x):
            x = self.stem(x)
            return self.head(x + self.end(self.inner(x).relu()))

    assert find(vanishing, facts_of(Residual(), batches(), labels=classes)) == []


def test_what_a_dead_relu_ends_is_told_elsewhere(facts_of):
    model = stack([1, 1, 1, 1])
    model[2].bias.data.fill_(-100)
    assert find(vanishing, facts_of(model, batches(), labels=classes)) == []


def test_what_vanishes_under_dropout_is_told_by_the_validation(facts_of):
    model = stack([1, 1e-5, 1, 1], act=nn.Tanh, bias=0.5)
    model.insert(4, nn.Dropout(0.5))
    rows = batches(30)
    facts = facts_of(model, rows[:15], rows[15:], after=lambda step: model.train(step < 14))
    assert {sign.split for sign in find(vanishing, facts)} == {"valid"}


def test_one_layer_with_weights_is_not_enough(facts_of):
    assert isinstance(find(vanishing, facts_of(nn.Sequential(nn.Linear(16, 4)), batches())), Lacking)


@few
@given(st.sampled_from([2, 4, 16]))
def test_what_lies_outside_the_view_is_counted(facts_of, end):
    facts = facts_of(stack([1, 4, 1]), batches(), axis=LinearAxis(-end, end, 50))
    values = facts.latest["train"].sel(layer="2")
    signs = by_layer(find(out_of_view, facts))
    lower = values["lower"].values
    outside = float(values.values[(np.abs(lower) >= end) & np.isfinite(lower)].sum() / values.values.sum())
    assert ("2" in signs) is (outside > 0.01)
    if "2" in signs:
        assert signs["2"].value == pytest.approx(outside, abs=0.01)
        assert "--h-min" in signs["2"].remedy


@pytest.mark.parametrize(("gain", "is_told"), [(20, False), (1e5, True)])
def test_a_range_that_nobody_asked_for_may_leave_out_more(facts_of, gain, is_told):
    facts = facts_of(stack([1, 1, gain, 1 / gain] + [1] * 40, act=nn.Tanh), batches())
    shares = out_of_range(facts.latest["train"].sel(layer="4"), facts.view.h_min, facts.view.h_max)
    assert float(shares["below"] + shares["above"]) > 0.01
    assert ("4" in by_layer(find(out_of_view, facts))) is is_told


def test_the_proposed_range_holds_what_was_outside(facts_of):
    model, rows = stack([1, 4, 1]), batches()
    sign = by_layer(find(out_of_view, facts_of(model, rows, axis=LinearAxis(-1, 1, 50))))["2"]
    words = sign.remedy.split()
    low, high = (float(words[words.index(name) + 1].strip(",")) for name in ("--h-min", "--h-max"))
    wider = facts_of(stack([1, 4, 1]), rows, axis=LinearAxis(low, high, 50))
    assert "2" not in by_layer(find(out_of_view, wider))


def test_a_layer_leaves_the_view_in_the_epoch_in_which_it_does(facts_of):
    model = stack([1, 1, 1])
    after = grower(model[2], 20, since=19)
    facts = facts_of(
        model, batches(30), after=lambda s: after(s) if s == 19 else None, axis=LinearAxis(-8, 8, 9)
    )
    assert by_layer(find(out_of_view, facts))["2"].steps == (20, 29)


def test_a_batchnorm_recentres_what_is_off(facts_of):
    def build(bias):
        model = stack([1, 1, 1])
        model[0].bias.data.fill_(bias)
        model.insert(1, nn.BatchNorm1d(16))
        return model

    (sign,) = find(batchnorm_recentres, facts_of(build(5.0), batches()))
    assert (sign.layer, sign.steps) == ("1", (0, 11))
    assert "5 and" in sign.evidence
    assert find(batchnorm_recentres, facts_of(build(0.0), batches())) == []
    shifted = build(5.0)
    shifted[1].bias.data.fill_(3.0)
    assert find(batchnorm_recentres, facts_of(shifted, batches())) == []


def test_without_a_batchnorm_nothing_recentres(facts_of):
    assert find(batchnorm_recentres, facts_of(stack([1, 1]), batches())) == Lacking(
        "the model has no BatchNorm"
    )


def test_values_that_are_none_or_nan_are_no_scale(facts_of):
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(16, 4)

        def forward(self, x):
            return x

    unseen = facts_of(Silent(), batches(), layers=["unused"])
    assert all(
        isinstance(find(rule, unseen), Lacking) for rule in (exploding, vanishing, batchnorm_recentres)
    )
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    lost = facts_of(model, [torch.full((8, 16), float("nan"))] * 12)
    assert not any(find(rule, lost) for rule in (exploding, vanishing, batchnorm_recentres, out_of_view))
