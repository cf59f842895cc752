"""Damaged runs: the quick form of the harness, and that each mutation is one."""

from random import Random

import pytest

from tests.torture import mutations
from tests.torture.samples import record_sample


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return record_sample(tmp_path_factory.mktemp("run") / "run.zarr", seed=1, side=False)


@pytest.mark.parametrize("kind", mutations.KINDS)
def test_every_mutation_changes_the_run_and_can_be_repeated(kind, history):
    results = []
    for _ in range(2):
        files = dict(history[-1])
        mutations.KINDS[kind](files, Random(5), history)
        results.append(files)
    assert results[0] == results[1] != history[-1]


def test_nothing_is_silently_wrong_but_for_plain_xarray():
    checked, control = mutations.run(long=False, seed=1)
    assert checked.bad == 0, checked.notes
    assert checked.passed
    assert control.passed, control.notes
