"""A recipe is followed as its README says, and what it shows is measured."""

import re
import shlex

import pytest

from actlab.cli import main
from actlab.experiments import find_experiment
from actlab.run import open_run


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Return a function that runs each `$ actlab` line of a recipe's README and returns what is not seen."""

    def run(name):
        monkeypatch.chdir(tmp_path)
        experiment = find_experiment(name)
        text = (experiment.script.parent / "README.md").read_text(encoding="utf-8")
        lines = re.findall(r"^\$ actlab (.+)$", text, re.MULTILINE)
        assert f"recipe run {name}" in lines
        for line in lines:
            assert main(shlex.split(line, comments=True)) == 0, line
        effects = experiment.effects(open_run(experiment.run))
        assert len(effects) >= 2
        return [words for words, there in effects if not there]

    return run
