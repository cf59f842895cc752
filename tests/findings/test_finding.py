"""Findings and the verdict: what they say of themselves."""

import json

import pytest

from actlab.findings.finding import Lack, Verdict


@pytest.fixture
def verdict(make_finding):
    """A verdict of two groups, and a rule that could not tell."""
    follower = make_finding("collapsed_representation", ("fc",), (15, 20), level="error")
    groups = [
        make_finding("dying_channels", ("relu1", "relu2"), level="warning", followers=(follower,)),
        make_finding("out_of_view", ("fc",), level="advice"),
    ]
    return Verdict(
        groups, [Lack("overfit", "Overfit", "no valid split")], ["dead_relu", "out_of_view"], "a.zarr"
    )


class TestFinding:
    def test_a_group_is_as_bad_as_its_worst_member(self, verdict):
        assert (verdict[0].level, verdict[0].worst) == ("warning", "error")

    def test_every_member_and_layer_is_listed(self, verdict):
        assert [each.rule for each in verdict[0].every] == ["dying_channels", "collapsed_representation"]
        assert verdict[0].every_layer == ("relu1", "relu2", "fc")

    def test_one_line_says_what_and_where(self, verdict):
        assert str(verdict[0]) == (
            "error: dying channels [dying_channels] in relu1 and 1 more layer, train steps 10 to 20: seen. "
            "(explains 1 more)"
        )

    def test_a_single_step(self, make_finding):
        assert make_finding(steps=(1234, 1234)).where == "relu1, train step 1,234"

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.5])
    def test_plain_types_are_json(self, make_finding, value):
        finding = make_finding(followers=(make_finding(),))
        object.__setattr__(finding, "value", value)
        plain = json.loads(json.dumps(finding.to_dict(), allow_nan=False))
        assert plain["layers"] == ["relu1"]
        assert float(plain["value"]) == pytest.approx(value, nan_ok=True)
        assert plain["followers"][0]["rule"] == "dead_relu"


class TestVerdict:
    def test_is_a_sequence_of_its_groups(self, verdict):
        assert len(verdict) == 2
        assert [each.rule for each in verdict] == ["dying_channels", "out_of_view"]
        assert verdict[-1].rule == "out_of_view"
        assert [each.rule for each in verdict[:1]] == ["dying_channels"]

    def test_summary(self, verdict):
        assert verdict.summary == "1 error, 1 piece of advice, not enough data for 1 of 3 rules"
        assert not verdict.is_healthy
        assert verdict.counts == {"error": 1, "warning": 0, "advice": 1, "healthy": 0}

    def test_healthy_is_said(self, make_finding):
        assert Verdict([], [], ["dead_relu"], "a").summary == "healthy"
        good = make_finding("batchnorm_recentres", level="healthy")
        assert Verdict([good], [], ["dead_relu"], "a").summary == "healthy"

    def test_nothing_is_guessed_where_no_rule_had_data(self):
        verdict = Verdict([], [Lack("overfit", "Overfit", "no valid split")], [], "a")
        assert verdict.summary == "nothing could be told, not enough data for 1 of 1 rules"

    def test_without_training_nothing_is_healthy(self, make_finding):
        verdict = Verdict([], [], ["dead_relu"], "a", is_trained=False)
        assert (verdict.is_healthy, verdict.summary) == (False, "no training batch")
        finding = make_finding(level="error")
        assert (
            Verdict([finding], [], ["dead_relu"], "a", is_trained=False).summary
            == "1 error, no training batch"
        )

    def test_json_holds_all(self, verdict):
        plain = json.loads(json.dumps(verdict.to_dict()))
        assert plain["not_enough_data"] == [
            {"rule": "overfit", "name": "Overfit", "reason": "no valid split"}
        ]
        assert plain["healthy"] is False
        assert [each["rule"] for each in plain["findings"]] == ["dying_channels", "out_of_view"]

    def test_repr_has_a_line_for_each_group(self, verdict):
        assert len(repr(verdict).splitlines()) == 3
