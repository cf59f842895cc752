"""Rules about what a training starts from: initial weights, and inputs."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from actlab.findings.rule import Lacking
from actlab.findings.rules.start import bad_initialisation, input_normalisation

few = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


def find(rule, facts, **limits):
    return rule.find(facts, rule.limits(**limits))


def layers(signs):
    return [sign.layer for sign in signs]


def batches(n=3, shape=(32, 16), scale=1.0, shift=0.0):
    random = torch.Generator().manual_seed(7)
    return [shift + scale * torch.randn(shape, generator=random) for _ in range(n)]


def classes(x):
    return torch.arange(len(x)) % 4


def mlp(draw=None, *, act=nn.ReLU, norm=None, depth=3, width=16):
    """Return an MLP with its weights drawn by `draw`, and biases 0: lin0, act0, lin1, ..., head."""
    torch.manual_seed(8)
    model = nn.Sequential()
    for place in range(depth):
        model.add_module(f"lin{place}", nn.Linear(16 if place == 0 else width, width))
        if norm is not None:
            model.add_module(f"norm{place}", norm(width))
        model.add_module(f"act{place}", act())
    model.add_module("head", nn.Linear(width, 4))
    for module in model.modules():
        if isinstance(module, nn.Linear) and draw is not None:
            draw(module.weight)
            nn.init.zeros_(module.bias)
    return model


def normal(std):
    return lambda weight: nn.init.normal_(weight, 0, std)


@pytest.mark.parametrize(
    "draw",
    [
        None,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
        nn.init.xavier_normal_,
        nn.init.orthogonal_,
        lambda weight: nn.init.orthogonal_(weight, 2**0.5),
    ],
)
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_weights_drawn_by_fan_in_are_fine(facts_of, draw, act):
    assert find(bad_initialisation, facts_of(mlp(draw, act=act, depth=5), batches(1), labels=classes)) == []


@few
@given(st.sampled_from([1 / 255, 1.0, 20.0, 255.0]))
def test_the_scale_of_the_inputs_is_none_of_the_weights(facts_of, scale):
    rows = batches(1, scale=scale)
    for act in (nn.ReLU, nn.Tanh):
        assert find(bad_initialisation, facts_of(mlp(act=act), rows, labels=classes)) == []
    found = find(
        bad_initialisation, facts_of(mlp(normal(2.5)), batches(1, scale=max(scale, 1)), labels=classes)
    )
    assert layers(found) == ["lin0", "lin1", "lin2", "head"]


def test_weights_that_are_too_large_are_found_where_they_are(facts_of):
    model = mlp(nn.init.kaiming_normal_)
    nn.init.normal_(model.lin1.weight, 0, 3)
    (sign,) = find(bad_initialisation, facts_of(model, batches(1), labels=classes))
    assert (sign.layer, sign.steps) == ("lin1", (0, 0))
    assert sign.value > sign.limit == 3


def test_weights_a_bit_too_large_add_up_over_depth(facts_of):
    found = find(bad_initialisation, facts_of(mlp(normal(0.6), depth=8), batches(1), labels=classes))
    assert {"lin0", "lin1"}.isdisjoint(layers(found))
    assert "lin7" in layers(found)
    assert "the size of the input" in found[0].evidence


def test_a_normalisation_behind_a_layer_makes_good_for_its_size(facts_of):
    found = find(
        bad_initialisation, facts_of(mlp(normal(2.5), norm=nn.BatchNorm1d), batches(1), labels=classes)
    )
    assert layers(found) == ["head"]


def test_the_head_of_a_regression_may_be_large(facts_of):
    model = mlp(nn.init.kaiming_normal_)
    nn.init.normal_(model.head.weight, 0, 30)
    assert find(bad_initialisation, facts_of(model, batches(1))) == []
    assert layers(find(bad_initialisation, facts_of(model, batches(1), labels=classes))) == ["head"]


def test_weights_that_are_too_small_lose_the_signal(facts_of):
    found = find(bad_initialisation, facts_of(mlp(normal(0.01)), batches(1), labels=classes))
    assert layers(found) == ["lin1", "lin2", "head"]
    assert found[0].value < found[0].limit


def test_zero_weights_lose_the_signal_but_not_those_of_a_head_or_a_branch(facts_of):
    found = find(bad_initialisation, facts_of(mlp(nn.init.zeros_), batches(1), labels=classes))
    assert layers(found) == ["lin0", "lin1", "lin2", "head"]
    model = mlp(nn.init.kaiming_normal_)
    nn.init.zeros_(model.head.weight)
    assert find(bad_initialisation, facts_of(model, batches(1), labels=classes)) == []
    nn.init.zeros_(model.lin2.weight)  # where lin2 ends a residual branch
    assert find(bad_initialisation, facts_of(model, batches(1), labels=classes)) == []


def test_units_that_begin_alike_are_found(facts_of):
    def same(weight):
        nn.init.constant_(weight, 0.1)

    found = find(bad_initialisation, facts_of(mlp(same), batches(1), labels=classes))
    assert layers(found) == ["lin0", "lin1", "lin2"]
    assert "16 units" in found[0].evidence
    convs = nn.Sequential(nn.Conv2d(2, 8, 3, bias=False), nn.Flatten(), nn.Linear(128, 4))
    assert find(bad_initialisation, facts_of(convs, batches(1, (32, 2, 6, 6)), labels=classes)) == []
    same(convs[0].weight)
    found = find(bad_initialisation, facts_of(convs, batches(1, (32, 2, 6, 6)), labels=classes))
    assert layers(found) == ["0"]


@pytest.mark.parametrize(("act", "bias"), [(nn.Sigmoid, -8.0), (nn.Tanh, 4.0)])
def test_biases_that_saturate_at_once_are_found(facts_of, act, bias):
    model = mlp(nn.init.xavier_normal_, act=act)
    nn.init.constant_(model.lin1.bias, bias)
    assert "act1" in layers(find(bad_initialisation, facts_of(model, batches(1), labels=classes)))


def test_a_recurrent_net_is_saturated_by_large_weights(facts_of):
    class Net(nn.Module):
        def __init__(self, std):
            super().__init__()
            torch.manual_seed(9)
            self.cell, self.head = nn.RNN(16, 32, batch_first=True), nn.Linear(32, 4)
            if std:
                nn.init.normal_(self.cell.weight_hh_l0, 0, std)
                nn.init.normal_(self.cell.weight_ih_l0, 0, std)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    rows = batches(1, (32, 8, 16))
    assert find(bad_initialisation, facts_of(Net(None), rows, labels=classes)) == []
    assert layers(find(bad_initialisation, facts_of(Net(3), rows, labels=classes)))[0] == "cell:0"


def test_only_a_batch_of_the_beginning_tells_of_the_initial_weights(facts_of):
    model = mlp(nn.init.kaiming_normal_)

    def break_it(step):
        nn.init.normal_(model.lin1.weight, 0, 10)

    assert find(bad_initialisation, facts_of(model, batches(3), after=break_it, labels=classes)) == []
    found = find(bad_initialisation, facts_of(model, [], batches(3)))
    assert isinstance(found, Lacking)
    assert "first 10 steps" in found.reason


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_units_are_not_alike_for_samples_that_are(facts_of, value):
    model = mlp(width=32)  # as many units as samples
    found = find(bad_initialisation, facts_of(model, [torch.full((32, 16), value)], labels=classes))
    assert not [sign for sign in found if "units" in sign.evidence]


@pytest.mark.parametrize(
    ("scale", "shift", "is_found"),
    [
        (1, 0, False),
        (0.3, 0.5, False),
        (0.05, 0, False),
        (70, 30, True),
        (6, 5, True),
        (0.001, 0, True),
        (1, 5, True),
        (0.01, -2, True),
    ],
)
def test_inputs_far_from_0_and_1_are_found(facts_of, scale, shift, is_found):
    signs = find(input_normalisation, facts_of(mlp(), batches(scale=scale, shift=shift)))
    assert [(sign.layer, sign.split, sign.steps) for sign in signs] == [("input", "train", (0, 2))] * is_found
    if is_found:
        sign, mean = re.search(r"\(x ([-+]) ([^)]+)\)", signs[0].remedy).groups()
        assert -float(sign + mean) == pytest.approx(shift, abs=0.2 * scale)


def test_one_odd_batch_is_not_all_the_input(facts_of):
    odd = batches(9)
    odd[4] = 1000 * odd[4]
    assert find(input_normalisation, facts_of(mlp(), odd)) == []


def test_models_that_normalise_themselves_may_be_given_anything(facts_of):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, x):
            return self.body(x / 255)

    rows = batches(scale=255)
    assert find(input_normalisation, facts_of(Scaled(), rows)) == []
    assert find(input_normalisation, facts_of(nn.Sequential(nn.BatchNorm1d(16), mlp()), rows)) == []
    assert len(find(input_normalisation, facts_of(mlp(), rows))) == 1


def test_a_feature_much_larger_than_the_others_is_found(facts_of):
    sizes = torch.full((16,), 0.05)
    sizes[3] = 10.0
    (sign,) = find(input_normalisation, facts_of(mlp(), [x * sizes for x in batches()]))
    assert sign.value == pytest.approx(200, rel=0.3)
    sizes[3] = 0.1
    assert find(input_normalisation, facts_of(mlp(), [x * sizes for x in batches()])) == []


def test_rare_features_are_not_large_ones(facts_of):
    random = torch.Generator().manual_seed(3)
    shares = torch.linspace(0.005, 0.9, 16)
    rows = [(torch.rand(64, 16, generator=random) < shares).float() for _ in range(5)]
    assert find(input_normalisation, facts_of(mlp(), rows)) == []


@few
@given(st.floats(0.1, 10), st.floats(-3, 3))
def test_a_split_normalised_otherwise_is_found(facts_of, scale, shift):
    train, valid = batches(6), [shift + scale * x for x in batches(9)[6:]]
    signs = find(input_normalisation, facts_of(mlp(), train, valid))
    expected = max(scale, 1 / scale) > 2 or abs(shift) > 0.5
    near = math.isclose(max(scale, 1 / scale), 2, rel_tol=0.1) or math.isclose(abs(shift), 0.5, rel_tol=0.3)
    assert near or ("valid" in {sign.split for sign in signs}) is expected


def test_a_few_samples_may_have_another_mean(facts_of):
    random = np.random.default_rng(2)
    centres = random.normal(0, 1, 40)  # all values of a batch lie together: means of batches are noisy
    rows = [torch.tensor(random.normal(centre, 0.5, (8, 16))).float() for centre in centres]
    signs = [find(input_normalisation, facts_of(mlp(), rows[:20], [valid])) for valid in rows[20:24]]
    assert not any(signs)
    assert find(input_normalisation, facts_of(mlp(), rows[:20], [rows[30] + 20]))


def test_without_the_input_nothing_is_told_of_it(facts_of):
    found = find(input_normalisation, facts_of(mlp(), batches(), layers=["lin*"]))
    assert isinstance(found, Lacking)
    assert "input" in found.reason


def test_a_recurrent_layer_does_not_normalise_its_inputs(facts_of):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, x):
            return self.fc(self.rnn(x)[0][:, -1])

    data = [1013 + 8 * torch.randn(32, 6, 4) for _ in range(12)]
    assert layers(find(input_normalisation, facts_of(Net(), data))) == ["input"]


def test_the_feature_is_named_that_is_much_larger(facts_of):
    scale = torch.ones(16)
    scale[7] = 1e8
    (sign,) = find(input_normalisation, facts_of(mlp(), [scale * each for each in batches(12)]))
    assert "feature 7" in sign.evidence
    assert "each feature" in sign.remedy
