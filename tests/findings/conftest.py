"""Findings made by hand, and facts of a run in which nothing is recorded but places."""

import pytest

from actlab.findings.finding import Finding


@pytest.fixture(scope="session")
def make_finding():
    """Return a function that makes a finding of a rule in some layers, since some step."""

    def make(rule="dead_relu", layers=("relu1",), steps=(10, 20), *, level="error", split="train", **others):
        words = {"evidence": "seen.", "why": "because.", "remedy": "mend it.", "source": "a book"}
        names = {"name": rule.replace("_", " "), "epochs": (0, 1), "value": 0.75, "limit": 0.5}
        return Finding(
            rule=rule, level=level, layers=layers, split=split, steps=steps, **names, **words, **others
        )

    return make
