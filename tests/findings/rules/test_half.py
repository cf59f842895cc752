"""Values that float16 cannot hold, in networks of single and of half precision."""

from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import actlab
from actlab.findings.rule import Lacking
from actlab.findings.rules.half import fp16_overflow, fp16_underflow


def signs(rule, facts, **limits):
    return rule.find(facts, rule.limits(**limits))


def net(scale=1.0):
    torch.manual_seed(3)
    layers = {"lin1": nn.Linear(8, 24), "act": nn.Tanh(), "lin2": nn.Linear(24, 24), "fc": nn.Linear(24, 3)}
    model = nn.Sequential(OrderedDict(**layers))
    model.lin2.weight.data *= scale
    model.lin2.bias.data *= scale
    model.fc.weight.data /= scale
    return model


def noise(step, dtype=torch.float32):
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(step)).to(dtype)


CLASSES = torch.arange(16) % 3


@given(st.floats(-8, 8))
def test_sizes_between_the_ends_of_float16_are_fine(watch, power):
    # The values of lin2 are about 1 at scale 1; float16 reaches from 6e-8 to 65,504.
    found = watch(net(10.0**power), noise, steps=12, labels=CLASSES)
    layers = {
        rule.id: [sign.layer for sign in signs(rule, found)] for rule in (fp16_overflow, fp16_underflow)
    }
    largest = float(found.rows["train"].sel(layer="lin2")["max"].max())
    if 1e-3 < largest < 3e4:
        assert layers == {"fp16_overflow": [], "fp16_underflow": []}
    if largest > 4e4:
        assert layers == {"fp16_overflow": ["lin2"], "fp16_underflow": []}
    if largest < 1e-7:
        assert layers == {"fp16_overflow": [], "fp16_underflow": ["lin2"]}


def test_both_name_the_step(watch):
    for scale, rule in ((1e6, fp16_overflow), (1e-9, fp16_underflow)):
        model = net()

        def alter(step, model=model, scale=scale):
            if step == 9:
                model.lin2.weight.mul_(scale)
                model.lin2.bias.mul_(scale)

        found = signs(rule, watch(model, noise, steps=24, alter=alter, labels=CLASSES))
        assert found[0].layer == "lin2"
        assert found[0].steps == (9, 23)


def test_a_single_batch_does_not_overflow_single_precision(watch):
    facts = watch(net(), lambda step: noise(step) * (1e8 if step == 5 else 1), steps=24, labels=CLASSES)
    assert signs(fp16_overflow, facts) == []


def test_data_and_answers_on_the_scale_of_data_are_not_judged(watch):
    model = nn.Sequential(nn.Linear(8, 1))
    model[0].bias.data += 1e5
    facts = watch(model, lambda step: 1e5 + noise(step), steps=24, labels=torch.rand(16, 1))
    assert signs(fp16_overflow, facts) == []
    facts = watch(nn.Sequential(nn.Linear(8, 2)), lambda step: 1e-9 * noise(step), steps=24)
    assert [sign.layer for sign in signs(fp16_underflow, facts)] == []


def test_infinities_of_half_precision_need_but_one_batch(watch):
    model = net(1e5)
    for layer in (model.lin1, model.lin2):
        layer.bias.data *= 0
    model.half()

    def batch(step):
        return noise(step, torch.float16) * (3 if step == 6 else 0.01)

    facts = watch(model, batch, steps=24, labels=CLASSES)
    rows = facts.rows["train"].sel(layer="lin2")
    assert (rows.pos_inf + rows.neg_inf).values.nonzero()[0].tolist() == [6]
    found = {sign.layer: sign for sign in signs(fp16_overflow, facts)}
    assert found["lin2"].steps == (6, 6)
    assert "computed in float16" in found["lin2"].evidence


def test_what_half_precision_lost_is_0_by_then(watch):
    facts = watch(net(3e-7).half(), lambda step: noise(step, torch.float16), steps=24, labels=CLASSES)
    rows = facts.rows["train"].sel(layer="lin2")
    assert float((rows.zeros / rows.n).min()) > 0.1
    assert float(rows.tiny.max()) == 0
    (sign,) = signs(fp16_underflow, facts)
    assert sign.layer == "lin2"
    assert "became 0" in sign.evidence
    assert signs(fp16_underflow, watch(net().half(), lambda step: noise(step, torch.float16), steps=24)) == []


def test_a_module_of_ones_own_loses_values_too(watch):
    class Kernel(nn.Module):
        """Distances into similarities, which fall fast."""

        def __init__(self, fall):
            super().__init__()
            self.fall = fall

        def forward(self, x):
            return (-self.fall * x**2).exp()

    def model(fall):
        return nn.Sequential(nn.Linear(8, 24), Kernel(fall), nn.Linear(24, 3)).half()

    def batch(step):
        return noise(step, torch.float16)

    (sign,) = signs(fp16_underflow, watch(model(60), batch, steps=24, labels=CLASSES))
    assert sign.layer == "1"
    assert signs(fp16_underflow, watch(model(1), batch, steps=24, labels=CLASSES)) == []


def test_zeros_of_a_rectifier_are_not_lost(watch):
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 3))
    assert signs(fp16_underflow, watch(model.half(), lambda step: noise(step, torch.float16), steps=24)) == []
    model[0].bias.data -= 100  # gives only 0
    assert signs(fp16_underflow, watch(model, lambda step: noise(step, torch.float16), steps=24)) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mask_is_no_overflow(watch, dtype):
    class Masked(nn.Module):
        """Scores that are infinite where a mask says so, and their softmax."""

        def __init__(self):
            super().__init__()
            self.lin, self.mask, self.soft = nn.Linear(8, 24), nn.Identity(), nn.Softmax(1)
            self.fc = nn.Linear(24, 3)

        def forward(self, x):
            hidden = torch.arange(24) > 15
            return self.fc(self.soft(self.mask(self.lin(x).masked_fill(hidden, -torch.inf))))

    facts = watch(Masked().to(dtype), lambda step: noise(step, dtype), steps=24, labels=CLASSES)
    assert float(facts.rows["train"].neg_inf.sel(layer="mask").min()) > 0
    assert signs(fp16_overflow, facts) == []


def test_bfloat16_does_not_underflow(watch):
    model = net(1e-7).to(torch.bfloat16)
    facts = watch(model, lambda step: noise(step, torch.bfloat16), steps=24, labels=CLASSES)
    assert "became 0" not in "".join(sign.evidence for sign in signs(fp16_underflow, facts))


def test_tails_are_meant_to_be_tiny(watch):
    model = nn.Sequential(nn.Linear(8, 24), nn.Sigmoid(), nn.Linear(24, 2))
    model[0].bias.data -= 40
    assert signs(fp16_underflow, watch(model, noise, steps=12)) == []


def test_buckets_that_end_before_cannot_tell(watch):
    facts = watch(net(1e-9), noise, steps=12, axis=actlab.FloatAxis(min_exponent=-16))
    assert signs(fp16_underflow, facts) == Lacking("needs buckets down to 2^-24 (they end at 2^-16)")
    assert isinstance(signs(fp16_underflow, watch(net(1e-9), noise, steps=5)), Lacking)


@pytest.mark.parametrize("limit", [-1.0, 0.0])
def test_limits_are_checked(limit):
    with pytest.raises(ValueError, match="largest"):
        fp16_overflow.limits(largest=limit)


def test_infinities_that_float32_would_not_make_tell_of_float16(watch):
    class Sum(nn.Module):
        """A layer whose sums pass the largest float16, and what is behind it."""

        def __init__(self):
            super().__init__()
            self.lin, self.fc = nn.Linear(8, 24), nn.Linear(24, 3)

        def forward(self, x):
            return self.fc(self.lin(x * 3e5).half().float())

    model = Sum()
    model.lin.register_forward_hook(lambda module, inputs, output: output.half())
    facts = watch(model, noise, steps=12, labels=CLASSES)
    assert float(facts.rows["train"]["pos_inf"].sel(layer="lin").sum()) > 0
    (sign,) = [each for each in signs(fp16_overflow, facts) if each.layer == "lin"]
    assert sign.steps[0] == 0


def test_a_value_close_to_the_end_just_before_nan_is_enough(watch):
    model = net().half()

    def alter(step):
        if step == 7:
            model.lin2.weight.fill_(0).add_(2000)
            model.lin2.bias.fill_(40_000)
        if step == 8:
            model.lin2.weight.fill_(float("nan"))

    facts = watch(model, lambda step: noise(step, torch.float16), steps=60, alter=alter, labels=CLASSES)
    (sign,) = [each for each in signs(fp16_overflow, facts) if each.layer == "lin2"]
    assert sign.steps == (7, 7)
