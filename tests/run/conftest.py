"""Runs with side data: raw samples, channels, a large head."""

from dataclasses import replace

import pytest

from actlab.store.writer import RunWriter


@pytest.fixture
def add_to_rows(monkeypatch):
    """Return a function that gives all rows appended later side data: side(row) -> fields."""

    def add(side):
        append = RunWriter.append
        monkeypatch.setattr(RunWriter, "append", lambda self, row: append(self, replace(row, **side(row))))

    return add
