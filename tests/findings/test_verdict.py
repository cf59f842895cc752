"""The verdict: every rule is asked, none crashes, and what cannot be told is said."""

import numpy as np
import pytest

import actlab
from actlab.axis import LinearAxis
from actlab.errors import RecipeError, StoreError
from actlab.findings.catalogue import RULES
from actlab.findings.verdict import check, read_limits


@pytest.fixture(scope="module")
def verdict(small_run):
    return check(small_run)


def test_every_rule_is_asked_once(verdict):
    assert sorted(verdict.every_rule) == sorted(RULES)


def test_a_path_is_as_good_as_a_run(verdict, small_run):
    assert check(str(small_run.path)).to_dict() == verdict.to_dict()
    assert actlab.check is check


def test_findings_carry_what_their_rule_says(verdict):
    for finding in (each for group in verdict for each in group.every):
        rule = RULES[finding.rule]
        assert (finding.name, finding.level, finding.source) == (rule.name, rule.level, rule.source)
        assert finding.evidence
        assert "{layer}" not in finding.remedy
        assert finding.steps[0] <= finding.steps[1]
        assert finding.epochs[0] <= finding.epochs[1]


def test_values_that_are_not_finite_are_an_error(verdict):
    (found,) = [each for group in verdict for each in group.every if each.rule == "nan_inf"]
    assert (found.worst, found.layers[0], found.steps[0]) == ("error", "wild", 0)


@pytest.mark.parametrize("splits", [{}, {"valid": 1}, {"train": 1}, {"test": 2}, {"train": 2, "valid": 1}])
def test_hardly_any_data_is_said_and_nothing_is_guessed(record_run, splits):
    random = np.random.default_rng(1)

    def batch():
        return (
            0,
            {"input": random.normal(size=(4, 3)), "fc": random.normal(size=(4, 2))},
            np.array([0, 1, 1, 0]),
        )

    run = record_run({split: [batch() for _ in range(n)] for split, n in splits.items()}, ["input", "fc"])
    verdict = check(run)
    assert verdict.is_healthy == ("train" in splits) == verdict.is_trained
    assert ("no training batch" in verdict.summary) == ("train" not in splits)
    assert {lack.rule for lack in verdict.lacking} >= {
        "overfit",
        "lr_too_high",
        "rise_and_collapse",
        "frozen_layer",
    }
    assert all(lack.reason for lack in verdict.lacking)


@pytest.mark.parametrize(
    ("raw", "label", "said"),
    [
        (True, None, "no labels were given: use actlab.Recorder and batch(..., labels=y)"),
        (False, None, "outputs of the head were not kept"),
        (True, [5, 6, 7, 5], "outputs of the head with labels that fit its units were not kept"),
    ],
)
def test_what_the_rules_of_the_head_lack_is_told_apart(record_run, raw, label, said):
    values = np.random.default_rng(1).normal(size=(4, 4, 2))
    rows = [(0, {"fc": each}, None if label is None else np.array(label)) for each in values]
    lacking = {lack.rule: lack.reason for lack in check(record_run({"train": rows}, ["fc"], raw=raw)).lacking}
    assert lacking["no_class_separation"] == lacking["class_never_yes"] == said


@pytest.mark.parametrize(
    "values",
    [
        np.full((8, 4), np.nan),
        np.full((8, 4), np.inf),
        np.zeros((8, 4)),
        np.full((8, 4), 1e300),
        np.full((8, 4), 1e-300),
        np.zeros((8, 0)),
        np.zeros(()),
        np.arange(32).reshape(8, 4) * 1e20,
    ],
    ids=["nan", "inf", "zeros", "huge", "minute", "empty", "scalar", "wide"],
)
def test_no_values_make_a_rule_crash(record_run, values):
    rows = {
        split: [
            (epoch, {"input": values, "relu": values, "fc": values}, None)
            for epoch in range(4)
            for _ in range(4)
        ]
        for split in ("train", "valid", "test")
    }
    verdict = check(record_run(rows, ["input", "relu", "never", "fc"], raw=False))
    assert sorted(verdict.every_rule) == sorted(RULES)
    found = {each.rule for group in verdict for each in group.every}
    assert ("nan_inf" in found) == (not np.isfinite(values).all())


def test_a_layer_that_is_markup_stays_text(record_run):
    name = "</script><img src=x onerror=alert(1)>"
    rows = [(0, {name: np.full((8, 4), np.nan)}, None) for _ in range(4)]
    (found,) = [
        each for each in check(record_run({"train": rows}, [name], head=name)) if each.rule == "nan_inf"
    ]
    assert found.layers == (name,)


class TestLimits:
    def test_change_what_is_found(self, record_run):
        rows = [(0, {"fc": np.linspace(-3, 3, 400).reshape(20, 20)}, None) for _ in range(20)]
        run, axis = record_run({"train": rows}, ["fc"], raw=False), LinearAxis(-2.9, 2.9, 10)
        key = next(iter(RULES["out_of_view"].limits.model_fields))

        def told(limit):
            found = check(run, axis=axis, limits={"out_of_view": {key: limit}})
            return [each.rule for each in found if each.rule == "out_of_view"]

        assert told(0.001) == ["out_of_view"]
        assert told(0.4) == []

    def test_are_the_defaults_where_none_are_given(self):
        assert read_limits({}) == {name: rule.limits() for name, rule in RULES.items()}

    @pytest.mark.parametrize("name", RULES)
    def test_every_threshold_is_described_and_bounded(self, name):
        for key, field in RULES[name].limits.model_fields.items():
            assert field.description, key
            assert field.metadata or field.annotation in (bool, str), key

    def test_unknown_ones_name_the_nearest(self):
        with pytest.raises(RecipeError, match=r"unknown rule 'spikes' in limits \(did you mean 'spike'"):
            read_limits({"spikes": {}})
        with pytest.raises(RecipeError, match=r"^limits\.spike: unknown key 'zzz'"):
            read_limits({"spike": {"zzz": 1}})


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="no such run"):
        check(tmp_path / "nowhere.zarr")


@pytest.mark.parametrize("name", RULES)
def test_every_rule_says_all_that_is_to_be_said(name):
    rule = RULES[name]
    assert rule.id == name
    for words in (rule.name, rule.looks_at, rule.needs, rule.why, rule.remedy, rule.source):
        assert words.strip() == words
        assert len(words) > 3
    assert rule.level in ("error", "warning", "advice", "healthy")
