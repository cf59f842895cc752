"""One explosion is one finding: what belongs together, under its cause, the worst and the earliest first."""

from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import permutations

import numpy as np
import pytest
import xarray as xr

from actlab.findings.catalogue import RULES
from actlab.findings.grouping import CAUSES, group, merge

NAMES = ["input", "conv1", "relu1", "conv2", "relu2", "fc"]


@dataclass
class Places:
    """What grouping asks of facts: rows and the order of layers."""

    rows: dict

    def order(self, layer):
        return NAMES.index(layer)


@pytest.fixture
def facts():
    """100 training steps; valid rows after each 25 of them, 5 at a time."""
    step = np.arange(100)
    train = xr.Dataset(coords={"step": step, "train_step": ("step", step)})
    valid = xr.Dataset(
        coords={"step": np.arange(20), "train_step": ("step", np.repeat([25, 50, 75, 100], 5))}
    )
    return Places({"train": train, "valid": valid})


def rules(finding):
    """Return rule and followers, all the way down."""
    return (finding.rule, [rules(each) for each in finding.followers])


def test_causes_make_no_circle_and_name_rules():
    assert set(TopologicalSorter(CAUSES).static_order()) <= RULES.keys()


def test_a_cause_gathers_what_follows(make_finding, facts):
    found = [
        make_finding("no_class_separation", ("fc",), (75, 99), level="warning"),
        make_finding("nan_inf", ("conv2",), (30, 99)),
        make_finding("exploding", ("conv1",), (20, 29)),
    ]
    for order in permutations(found):
        (whole,) = group(order, facts)
        assert rules(whole) == ("exploding", [("nan_inf", []), ("no_class_separation", [])])


def test_what_came_first_is_not_explained_by_what_came_later(make_finding, facts):
    found = [make_finding("nan_inf", ("fc",), (10, 99)), make_finding("exploding", ("conv1",), (60, 70))]
    assert [each.rule for each in group(found, facts)] == ["nan_inf", "exploding"]


def test_a_dead_layer_explains_only_what_lies_behind_it(make_finding, facts):
    found = [
        make_finding("dead_relu", ("relu2",), (10, 99)),
        make_finding("collapsed_representation", ("fc",), (10, 99)),
        make_finding("collapsed_representation", ("conv1",), (10, 99)),
    ]
    by_rule = [found[0], *found[1:2]]
    assert rules(group(by_rule, facts)[0]) == ("dead_relu", [("collapsed_representation", [])])
    assert len(group([found[0], found[2]], facts)) == 2


def test_time_is_compared_in_training_steps(make_finding, facts):
    valid = make_finding("nan_inf", ("fc",), (5, 9), split="valid")  # after 50 training steps
    late, early = (make_finding("exploding", ("conv1",), (step, 99)) for step in (70, 40))
    assert len(group([valid, late], facts)) == 2
    assert len(group([valid, early], facts)) == 1


def test_the_worst_comes_first_then_the_earliest(make_finding, facts):
    found = [
        make_finding("batchnorm_recentres", ("conv1",), (0, 99), level="healthy"),
        make_finding("out_of_view", ("fc",), (0, 99), level="advice"),
        make_finding("overfit", ("fc",), (50, 99), level="warning"),
        make_finding("spike", ("fc",), (95, 95), level="warning"),
        make_finding("nan_inf", ("fc",), (60, 99)),
    ]
    expected = ["nan_inf", "overfit", "spike", "out_of_view", "batchnorm_recentres"]
    assert [each.rule for each in group(found, facts)] == expected


def test_a_group_is_as_bad_as_what_it_explains(make_finding, facts):
    found = [
        make_finding("saturation", ("relu1",), (0, 99), level="warning"),
        make_finding("bad_initialisation", ("conv1",), (0, 9), level="warning"),
        make_finding("nan_inf", ("fc",), (90, 99)),
        make_finding("overfit", ("fc",), (0, 99), level="warning"),
    ]
    first, second = group(found, facts)
    assert (first.rule, first.worst) == ("bad_initialisation", "error")
    assert second.rule == "overfit"


class TestMerge:
    def test_one_rule_is_one_finding_that_begins_with_the_first(self, make_finding, facts):
        found = [
            make_finding(layers=(name,), steps=(step, 99)) for name, step in (("relu2", 5), ("relu1", 40))
        ]
        (whole,) = merge(found, facts)
        assert (whole.layers, whole.steps) == (("relu2", "relu1"), (5, 99))
        assert [each.layers for each in whole.followers] == [("relu1",)]

    def test_in_the_same_step_the_first_layer_of_the_model(self, make_finding, facts):
        found = [make_finding("nan_inf", (name,), (5, 99)) for name in ("fc", "conv2", "relu2")]
        assert merge(found, facts)[0].layers == ("conv2", "relu2", "fc")

    def test_a_layer_in_two_splits_is_told_once(self, make_finding, facts):
        found = [make_finding(steps=(5, 99)), make_finding(split="valid", steps=(0, 19))]
        (whole,) = merge(found, facts)
        assert (whole.layers, whole.split, whole.followers) == (("relu1",), "train", ())

    def test_each_odd_batch_is_told_by_itself(self, make_finding, facts):
        found = [
            make_finding("spike", (name,), (step, step)) for step in (30, 60) for name in ("conv1", "fc")
        ]
        one, other = merge(found, facts)
        assert (one.steps, one.layers, other.steps) == ((30, 30), ("conv1", "fc"), (60, 60))
