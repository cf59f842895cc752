"""SARIF: what tools for code review need of a log is there, and true."""

import json

from actlab.findings.catalogue import RULES
from actlab.findings.finding import Lack, Verdict
from actlab.findings.sarif import as_sarif


def test_results_name_their_rules_places_and_levels(make_finding):
    follower = make_finding("nan_inf", ("fc",))
    findings = [
        make_finding("exploding", ("conv1", "conv2"), level="warning", followers=(follower,)),
        make_finding("out_of_view", ("fc",), level="advice"),
        make_finding("batchnorm_recentres", ("bn",), level="healthy"),
    ]
    lacking = [Lack("overfit", "Overfit", "no valid split")]
    log = json.loads(json.dumps(as_sarif(Verdict(findings, lacking, [*RULES], "runs/a.zarr"))))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [each["id"] for each in rules] == [*RULES]
    assert "{layer}" not in json.dumps(rules)
    for result, finding in zip(run["results"], findings, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == finding.rule
        assert finding.evidence in result["message"]["text"]
    assert [each["level"] for each in run["results"]] == ["error", "note", "none"]
    assert [each["kind"] for each in run["results"]] == ["fail", "fail", "pass"]
    (location,) = run["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "runs/a.zarr"
    assert [each["fullyQualifiedName"] for each in location["logicalLocations"]] == ["conv1", "conv2"]
    related_to = as_sarif(Verdict(findings, [], [*RULES], "my runs/a 100%.zarr"))["runs"][0]["results"][0]
    uri = related_to["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "my%20runs/a%20100%25.zarr"
    (related,) = run["results"][0]["relatedLocations"]
    assert related["message"]["text"].startswith("nan inf in fc, train steps 10 to 20")
    (notification,) = run["invocations"][0]["toolExecutionNotifications"]
    assert notification["associatedRule"]["id"] == "overfit"
    assert notification["message"]["text"] == "not enough data: no valid split"
