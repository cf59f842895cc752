"""The zoo is what it says, and the rules know its animals: one of each kind, and some healthy ones."""

from collections import Counter

import numpy as np
import pytest

import actlab
from actlab.findings.catalogue import RULES
from actlab.findings.finding import Finding
from tests.zoo import __main__ as command
from tests.zoo.registry import Training
from tests.zoo.scoring import Reading, read, score, total
from tests.zoo.trainings import TRAININGS

OF_RULE = {rule: [name for name, each in TRAININGS.items() if each.rule == rule] for rule in RULES}
HEALTHY = [name for name, each in TRAININGS.items() if each.rule is None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recorded once: the folder of the runs."""
    return tmp_path_factory.mktemp("zoo")


def test_every_rule_has_its_trainings():
    kinds = Counter(training.rule for training in TRAININGS.values())
    assert kinds.keys() == {None, *RULES}
    assert kinds.pop(None) >= 30
    assert min(kinds.values()) >= 3
    assert {rule for training in TRAININGS.values() for rule in training.also} <= RULES.keys()
    assert all(training.layers for training in TRAININGS.values() if training.rule is not None)


@pytest.mark.parametrize("name", [name for names in OF_RULE.values() for name in names[:1]])
def test_what_is_sick_is_found(folder, name):
    reading = read(name, 0, folder)
    assert reading.is_found, [str(finding) for finding in reading.findings]


@pytest.mark.parametrize("name", HEALTHY[::6])
def test_what_is_healthy_learns_and_is_left_alone(folder, name):
    path = folder / "seed1" / f"{name}.zarr"
    path.parent.mkdir(exist_ok=True)
    outcome = TRAININGS[name].record(path, 1)
    assert outcome.valid < 0.75 * outcome.before
    assert outcome.valid - outcome.train < 0.25 * outcome.before  # not by heart
    reading = read(name, 1, folder)
    assert not reading.false_alarms, [str(finding) for finding in reading.findings]


def test_a_seed_makes_the_same_run_again_and_another_seed_another_one(tmp_path):
    training = TRAININGS["flowers_softmax_regression"]
    counts = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        training.record(tmp_path / name, seed)
        counts.append(actlab.open_run(tmp_path / name)["train"].counts.values)
    assert np.array_equal(counts[0], counts[1])
    assert not np.array_equal(counts[0], counts[2])


# Scores.


def finding(rule, layer, level="warning", followers=()):
    """Return a finding of which only rule, level, layer and followers are of interest."""
    return Finding(
        rule=rule,
        name=rule,
        level=level,
        layers=(layer,),
        split="train",
        steps=(0, 1),
        epochs=(0, 0),
        value=1.0,
        limit=0.0,
        evidence="",
        why="",
        remedy="",
        source="",
        followers=tuple(followers),
    )


@pytest.fixture
def reading(monkeypatch):
    """Return a function that makes the reading of a training that is sick by `spike` in `conv*`."""
    sick = Training("sick", "spike", ("conv*",), "", None, also=("exploding",))
    monkeypatch.setitem(TRAININGS, "sick", sick)
    monkeypatch.setitem(TRAININGS, "well", Training("well", None, (), "", None))
    return lambda *findings, name="sick": Reading(name, 0, findings, ())


def test_a_sickness_is_found_by_itself_or_in_a_group_but_on_its_layer(reading):
    spike = finding("spike", "conv1")
    assert reading(spike).is_found
    assert reading(finding("nan_inf", "fc", followers=[spike])).is_found
    assert not reading(finding("spike", "fc")).is_found
    assert not reading(finding("nan_inf", "conv1")).is_found
    assert not reading().is_found


def test_false_alarms_are_errors_and_warnings_that_are_neither_the_sickness_nor_listed(reading):
    wrong = finding("saturation", "conv1")
    said = [
        finding("spike", "conv1"),
        finding("exploding", "fc"),
        finding("out_of_view", "fc", "advice"),
        wrong,
    ]
    assert reading(*said).false_alarms == [wrong]
    assert reading(finding("spike", "conv1"), name="well").false_alarms == [finding("spike", "conv1")]


def test_scores_count_runs(reading):
    readings = [
        reading(finding("spike", "conv1"), finding("spike", "conv2")),
        reading(finding("saturation", "conv1")),
        reading(finding("spike", "conv1"), name="well"),
    ]
    spikes = score("spike", readings)
    assert (spikes.trainings, spikes.runs, spikes.found, spikes.reported, spikes.right) == (1, 2, 1, 2, 1)
    assert (spikes.recall, spikes.precision) == (0.5, 0.5)
    whole = total(readings, ["spike"])
    assert (whole.runs, whole.found, whole.reported, whole.right) == (2, 1, 4, 2)
    assert np.isnan(score("dead_relu", readings).recall)


# The command.


def test_the_command_prints_a_table_and_writes_it_between_the_marks(tmp_path, monkeypatch, capsys):
    page = tmp_path / "findings.md"
    page.write_text(f"before\n{command.BEGIN}old\n{command.END}after\n")
    monkeypatch.setattr(command, "PAGE", page)
    options = ["--only", "flowers_*", "--seeds", "0", "--keep", str(tmp_path), "--table"]
    command.main(options)
    printed = capsys.readouterr().out
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert set(lines[2:-2]) - {""} <= set(printed.splitlines())
    assert sum(line.startswith(f"| `{rule}` |") for rule in RULES for line in lines) == len(RULES)
    assert (tmp_path / "seed0" / "flowers_softmax_regression.zarr").is_dir()
