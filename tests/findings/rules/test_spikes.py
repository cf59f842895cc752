"""Single batches unlike their neighbours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlab.findings.rule import Lacking
from actlab.findings.rules.spikes import spike
from actlab.findings.survey import Survey

ROWS = 60


def signs(facts, **limits):
    return spike.find(facts, spike.limits(**limits))


def batches(count, *, change=None, size=None, seed=0):
    """Return batches of noise {layer: values}, changed by `change(row, values)`; `size(row)` samples each."""
    random = np.random.default_rng(seed)
    found = []
    for row in range(count):
        values = random.normal(0.5, 1, (size(row) if size else 24, 8))
        found.append({"fc": (values if change is None else change(row, values)).astype(np.float32)})
    return found


def facts_of_rows(record_run, batches, *, split="train", per_epoch=20):
    rows = [(row // per_epoch, batch, None) for row, batch in enumerate(batches)]
    return Survey(record_run({split: rows}, ["fc"], raw=False)).read()


@settings(max_examples=15)
@given(
    row=st.integers(8, ROWS - 3),
    length=st.integers(1, 3),
    scale=st.floats(1e-3, 1e6),
    strange=st.sampled_from([lambda x: 4 * x, lambda x: x + 3, lambda x: 0 * x, lambda x: 255 * x]),
)
def test_an_odd_batch_is_found_in_its_place_whatever_the_scale(record_run, row, length, scale, strange):
    length = min(length, ROWS - 2 - row)

    def change(at, x):
        return scale * (strange(x) if row <= at < row + length else x)

    (sign,) = signs(facts_of_rows(record_run, batches(ROWS, change=change)))
    assert sign.steps == (row, row + length - 1)
    assert sign.value >= sign.limit


HEALTHY = {
    "noise": {},
    "small last batches": {"size": lambda row: 3 if row % 20 == 19 else 24},
    "tiny batches": {"size": lambda row: 2},
    "a change that lasts": {"change": lambda row, x: x * (5 if row > 30 else 1)},
    "fast growth": {"change": lambda row, x: x * 1.2**row},
    "a start from nothing": {"change": lambda row, x: x * (1e-6 if row == 0 else 1)},
    "odd batches all the time": {"change": lambda row, x: x * (9 if row % 9 == 0 else 1)},
    "waves with sharp troughs": {"change": lambda row, x: x * (0.02 + abs(np.sin(row / 9)))},
    "constant outputs": {"change": lambda row, x: 0 * x + 7},
    "silence, broken now and then": {"change": lambda row, x: x * (row % 25 == 24)},
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("made", HEALTHY.values(), ids=HEALTHY)
def test_what_is_usual_is_no_spike(record_run, made, seed):
    assert signs(facts_of_rows(record_run, batches(ROWS, seed=seed, **made))) == []


def test_the_last_batch_may_be_the_beginning_of_something(record_run):
    made = batches(ROWS, change=lambda row, x: x * (50 if row == ROWS - 1 else 1))
    assert signs(facts_of_rows(record_run, made)) == []


def test_evaluations_are_looked_at_one_by_one(record_run):
    def change(row, x):
        return x * (1 + 9 * (row >= 20)) * (6 if row == 31 else 1)

    (sign,) = signs(facts_of_rows(record_run, batches(ROWS, change=change), split="valid"))
    assert (sign.split, sign.steps) == ("valid", (31, 31))


@pytest.mark.parametrize(("count", "split"), [(16, "train"), (48, "valid")])
def test_it_needs_17_batches_of_one_network(record_run, count, split):
    facts = facts_of_rows(record_run, batches(count), split=split, per_epoch=16)
    assert signs(facts) == Lacking("needs 17 batches of a split, one after the other")


@pytest.mark.parametrize(("units", "is_found"), [(1, False), (64, True)])
def test_a_few_outputs_go_with_the_classes_of_a_batch(record_run, units, is_found):
    random = np.random.default_rng(4)
    usual = [random.normal(0, 1, (20, units)) for _ in range(60)]
    usual[31] = random.normal(-1.7, 0.5, (20, units))
    facts = facts_of_rows(record_run, [{"fc": each} for each in usual])
    assert bool(signs(facts)) == is_found
