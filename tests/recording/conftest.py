"""A writer that keeps the rows in memory, so that tests can look at them; small models."""

import pytest
import torch
from torch import nn

from actlab.recording import writers as module


class MemoryWriter:
    """The part of `RunWriter` that a recorder uses."""

    latest = resumed = None

    def __init__(self, path, *, axis, attributes, **options):
        self.path, self.attributes, self.rows, self.is_closed = path, dict(attributes), [], False
        self.options, self.counted = options, {}
        type(self).latest = self

    def append(self, row):
        assert not self.is_closed
        self.rows.append(row)
        return True

    def update_attributes(self, **values):
        self.attributes.update(values)

    def count(self, split, steps):
        self.counted[split] = steps

    def flush(self):
        return {row.split: row.step for row in self.rows}

    def close(self):
        self.is_closed = True


@pytest.fixture
def writer(monkeypatch):
    """Return a function that gives the latest writer."""
    monkeypatch.setattr(module, "RunWriter", MemoryWriter)
    monkeypatch.setattr(MemoryWriter, "latest", None)
    torch.set_num_threads(1)
    return lambda: MemoryWriter.latest


@pytest.fixture
def hooks_of():
    """Return a function that counts all forward hooks of a model."""
    return lambda model: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture
def make_model():
    """Return a function that builds a small network with all that disturbs recorders."""

    def make(seed=0):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(4 * 36, 3),
        )

    return make
