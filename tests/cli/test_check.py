"""`actlab check`: what it prints, its exit codes, JSON, SARIF, explanations, and following a run."""

import json
import subprocess
import sys

import numpy as np
import pytest

from actlab.cli import main
from actlab.findings.catalogue import RULES
from actlab.findings.finding import ICONS, UNTRAINED
from actlab.findings.verdict import check, read_limits
from actlab.recipe import load_recipe
from actlab.store.writer import RunWriter


@pytest.fixture
def check_cli(capsys):
    """Return a function that runs `actlab check` and returns exit code, output and errors."""

    def run(*arguments):
        code = main(["check", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def calm_run(record_run):
    """A run in which nothing is wrong, as far as so few rows can tell."""
    random = np.random.default_rng(5)
    rows = [
        (0, {"input": random.normal(size=(16, 8)), "fc": random.normal(size=(16, 2))}, None)
        for _ in range(12)
    ]
    return record_run({"train": rows}, ["input", "fc"], raw=False)


def flat(text):
    """Return text as one line, as it was before it was folded to the width of the console."""
    return " ".join(text.split())


def test_the_help_keeps_the_name_of_the_tables(check_cli):
    code, out, _ = check_cli("--help")
    assert (code, "tables limits.RULE" in flat(out.replace("│", ""))) == (0, True)


def test_an_error_is_exit_code_1_and_says_what_where_and_what_to_do(check_cli, small_run):
    code, out, err = check_cli(small_run.path)
    verdict = check(small_run)
    assert (code, err) == (1, "")
    assert out.splitlines()[0] == f"{small_run.path}: {verdict.summary}"
    for finding in verdict:
        for part in (finding.evidence, finding.remedy, finding.source, *finding.layers[:12]):
            assert part in flat(out)
    assert f"{ICONS['error']} error" in out
    assert "train steps 0 to 26" in out
    assert all(lack.reason in flat(out) for lack in verdict.lacking)


def test_without_an_error_it_is_0(check_cli, calm_run):
    code, out, _ = check_cli(calm_run.path)
    assert (code, check(calm_run).counts["error"]) == (0, 0)
    assert "healthy" in out.splitlines()[0]
    assert "Not enough data:" in out


def test_json_is_the_verdict(check_cli, small_run):
    code, out, _ = check_cli(small_run.path, "--json")
    assert code == 1
    assert json.loads(out) == json.loads(json.dumps(check(small_run).to_dict()))


def test_sarif_is_a_log_of_the_same_groups(check_cli, small_run):
    code, out, _ = check_cli(small_run.path, "--sarif")
    assert code == 1
    assert [each["ruleId"] for each in json.loads(out)["runs"][0]["results"]] == [
        each.rule for each in check(small_run)
    ]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_explained_with_thresholds_that_a_recipe_takes(check_cli, name, tmp_path):
    code, out, _ = check_cli("--explain", name)
    assert code == 0
    for part in (RULES[name].name, RULES[name].looks_at, RULES[name].needs, RULES[name].source):
        assert part in flat(out)
    recipe = tmp_path / "limits.toml"
    recipe.write_text(out[out.index(f"[limits.{name}]") :])
    assert read_limits(load_recipe(recipe).limits)[name] == RULES[name].limits()


@pytest.mark.parametrize("wrong", [None, "dead_rely"])
def test_without_a_rule_that_there_is_all_are_listed(check_cli, wrong):
    code, out, err = check_cli("--explain", *([] if wrong is None else [wrong]))
    assert (code, err) == (
        (0, "") if wrong is None else (2, "actlab: no rule 'dead_rely': did you mean 'dead_relu'?\n")
    )
    _, *lines = out.splitlines()
    assert [line.split()[:2] for line in lines] == [[rule.id, rule.level] for rule in RULES.values()]
    assert all(rule.name in line for rule, line in zip(RULES.values(), lines, strict=True))


def test_a_run_without_training_is_not_called_healthy(check_cli, record_run):
    values = np.random.default_rng(5).normal(size=(12, 16, 2))
    path = record_run({"valid": [(0, {"fc": each}, None) for each in values]}, ["fc"], raw=False).path
    code, out, _ = check_cli(path)
    assert (code, "healthy" in out) == (0, False)
    assert f"{path}: no training batch, not enough data" in out
    assert UNTRAINED in flat(out)
    _, out, _ = check_cli(path, "--json")
    said = json.loads(out)
    assert (said["healthy"], said["trained"]) == (False, False)
    assert said["summary"].startswith("no training batch")
    _, out, _ = check_cli(path, "--sarif")
    (told,) = [
        each
        for each in json.loads(out)["runs"][0]["invocations"][0]["toolExecutionNotifications"]
        if "associatedRule" not in each
    ]
    assert told == {"level": "warning", "message": {"text": UNTRAINED}}


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "name a run, or a rule to --explain"),
            (["nowhere.zarr"], "nowhere.zarr: no such run"),
            (["a.zarr", "--sarif", "--json"], "--sarif goes with neither --json nor --follow"),
            (["a.zarr", "--sarif", "--follow"], "--sarif goes with neither --json nor --follow"),
        ],
    )
    def test_is_one_line_and_exit_code_2(self, check_cli, arguments, said):
        code, out, err = check_cli(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[limits.dead_rely]\n", "unknown rule 'dead_rely' in limits (did you mean 'dead_relu'?)"),
            ("[limits.dead_relu]\nunit = 1\n", "limits.dead_relu: unknown key 'unit'"),
        ],
    )
    def test_wrong_thresholds_name_the_nearest(self, check_cli, small_run, tmp_path, text, said):
        recipe = tmp_path / "wrong.toml"
        recipe.write_text(text)
        code, out, err = check_cli(small_run.path, "--recipe", recipe)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


class TestFollow:
    def test_a_closed_run_is_told_once(self, check_cli, small_run):
        code, out, _ = check_cli(small_run.path, "--follow", "--json")
        assert code == 1
        assert [json.loads(line)["rule"] for line in out.splitlines()] == [
            each.rule for each in check(small_run)
        ]

    def test_in_words_it_ends_with_the_summary(self, check_cli, small_run):
        code, out, _ = check_cli(small_run.path, "--follow")
        assert code == 1
        assert out.splitlines()[-1] == f"{small_run.path}: {check(small_run).summary}"

    def test_another_process_tells_what_appears_while_the_run_grows(self, tmp_path, small_axis, make_row):
        path = tmp_path / "run.zarr"
        writer = RunWriter(path, axis=small_axis, attributes={"head": "layer1"}, fsync=False)

        def commit(step, nan):
            row = make_row(step, samples=None)
            row.counts[:, [0, -2, -1]] = 0
            row.counts[1, -1] = nan
            row.n[:] = row.counts.sum(axis=1)
            assert writer.append(row)
            writer.flush()

        commit(0, 0)
        words = [sys.executable, "-m", "actlab", "check", str(path), "--follow", "--json"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as follower:
            commit(1, 7)
            while json.loads(line := follower.stdout.readline())["rule"] != "nan_inf":
                pass
            commit(2, 3)
            writer.close()
            rest = follower.stdout.read()
            code = follower.wait()
        assert json.loads(line)["layers"] == ["layer1"]
        assert "nan_inf" not in [json.loads(each)["rule"] for each in rest.splitlines()]
        assert code == 1
