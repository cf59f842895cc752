"""Where a run goes on: the next steps of a training that is thrown back again and again."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from actlab.errors import StoreError
from actlab.schema import LayerInfo
from actlab.store.attempts import live_rows
from actlab.store.resuming import plan_attempt

TABLE = (LayerInfo("a"), LayerInfo("b"))
COLUMNS = ("step", "epoch", "batch", "train_step", "attempt", "time")


class Training:
    """A training that always goes the same way: epochs of some batches, then an evaluation.

    Its rows are those of every so many batches; `counted` is what the last commit has counted.
    """

    def __init__(self, batches, valid_batches, every):
        self.batches, self.valid_batches, self.every = batches, valid_batches, every
        self.rows = {"train": [], "valid": []}
        self.counted, self.attempts, self.clock = {}, [0], 0

    def record(self, split, step, epoch, batch, train_step):
        self.clock += 1
        if step % self.every == 0:
            place = (step, epoch, batch, train_step, len(self.attempts) - 1, self.clock)
            self.rows[split].append(place)
        self.counted[split] = step + 1

    def run(self, begin, steps):
        """Train from a step on, for so many, evaluating after each epoch."""
        for step in range(begin, begin + steps):
            epoch, batch = divmod(step, self.batches)
            if batch == 0 and step > begin:
                self.evaluate(epoch - 1)
            self.record("train", step, epoch, batch, step)
        if (begin + steps) % self.batches == 0 and steps > 0:
            self.evaluate((begin + steps) // self.batches - 1)

    def evaluate(self, epoch):
        for batch in range(self.valid_batches):
            step = epoch * self.valid_batches + batch
            self.record("valid", step, epoch, batch, (epoch + 1) * self.batches)

    def evaluated_by(self, step):
        return step // self.batches * self.valid_batches

    def columns(self):
        arrays = {split: np.array(rows).T for split, rows in self.rows.items() if rows}
        return {split: dict(zip(COLUMNS, values, strict=True)) for split, values in arrays.items()}

    def said(self, *, counted=True):
        return {"attempts": self.attempts} | ({"steps": dict(self.counted)} if counted else {})

    def plan(self, start, *, counted=True):
        return plan_attempt(self.said(counted=counted), self.columns(), TABLE, start)


@settings(max_examples=200)
@given(
    batches=st.integers(1, 7),
    valid_batches=st.integers(0, 6),
    every=st.sampled_from([1, 1, 2, 5]),
    tries=st.lists(st.tuples(st.integers(0, 25), st.none() | st.integers(0, 30)), min_size=1, max_size=5),
)
def test_a_training_that_is_thrown_back_numbers_its_batches_as_if_it_were_not(
    batches, valid_batches, every, tries
):
    assume(valid_batches == 0 or valid_batches >= every)  # an evaluation without a row leaves no trace
    training, begin = Training(batches, valid_batches, every), 0
    for steps, back in tries:
        training.run(begin, steps)
        begin += steps
        start = None if back is None else max(0, begin - back)
        plan = training.plan(start)
        begin = begin if start is None else start
        resumed = plan.resumed
        assert resumed.steps["train"] == begin
        assert resumed.attempt == len(plan.attempts) - 1
        assert plan.attempts[-1] == begin
        training.attempts = plan.attempts
        training.counted = dict(resumed.steps)
        assert resumed.steps.get("valid", 0) == training.evaluated_by(begin)
        ends = {}
        for split, columns in training.columns().items():
            live = live_rows(split, columns["train_step"], columns["attempt"], plan.attempts)
            steps_left = columns["step"][live].tolist()
            assert steps_left == [step for step in range(resumed.steps[split]) if step % every == 0]
            if steps_left:
                ends[split] = steps_left[-1]
                epoch, batch = divmod(steps_left[-1], batches if split == "train" else valid_batches)
                assert resumed.places[split] == (epoch, batch + resumed.steps[split] - steps_left[-1])
        assert plan.last_steps == ends
        assert resumed.places.keys() == ends.keys()


def test_an_older_run_is_counted_by_its_rows():
    training = Training(10, 4, 1)
    training.run(0, 25)
    assert training.plan(None, counted=False).resumed.steps == {"train": 25, "valid": 8}
    assert training.plan(12, counted=False).resumed.steps == {"train": 12, "valid": 4}


def test_batches_that_have_no_row_count():
    training = Training(100, 0, 10)
    training.run(0, 65)
    plan = training.plan(None)
    assert plan.resumed.steps == {"train": 65}
    assert plan.resumed.places == {"train": (0, 65)}
    assert plan.last_steps == {"train": 60}


def test_what_was_evaluated_where_the_attempt_begins_can_come_again():
    training = Training(10, 4, 1)
    training.run(0, 25)
    assert training.plan(20).floors == {"train": 19, "valid": 3}
    assert training.plan(21).floors == {"train": 20, "valid": 7}


def test_the_last_row_is_the_last_of_all_splits():
    training = Training(10, 4, 1)
    training.run(0, 25)
    ends = [training.plan(start).resumed for start in (None, 20, 9, 0)]
    last = [(each.last_split, each.last_epoch) for each in ends]
    assert last == [("train", 2), ("valid", 1), ("train", 0), (None, None)]


def test_an_attempt_that_recorded_nothing_is_taken_back():
    training = Training(10, 4, 1)
    training.run(0, 25)
    training.attempts = training.plan(15).attempts
    assert training.attempts == [0, 15]
    training.counted["train"] = 15  # as the writer then says
    assert training.plan(15).attempts == training.plan(None).attempts == [0, 15]
    assert training.plan(20).attempts == [0, 20]
    assert training.plan(20).last_steps["train"] == 19  # what the mistaken attempt at 15 hid lives again
    training.counted["train"] = 17  # under every=10, batches without rows
    assert training.plan(20).attempts == [0, 15, 20]
    training.attempts = [0, 20]
    training.run(20, 1)
    assert training.plan(20).attempts == [0, 20, 20]
    assert plan_attempt({}, {}, TABLE).attempts == [0]


@pytest.mark.parametrize(
    ("start", "gaps"),
    [
        (None, {"train": [[3, 4], [20, 24]], "valid": [[6, 6]]}),
        (22, {"train": [[3, 4], [20, 21]], "valid": [[6, 6]]}),
        (12, {"train": [[3, 4]]}),
        (3, {}),
        (30, {"train": [[3, 4], [20, 29]], "valid": [[6, 6]]}),
    ],
)
def test_gaps_end_where_the_run_goes_on(start, gaps):
    training = Training(10, 4, 1)
    training.run(0, 25)
    said = training.said() | {"gaps": {"train": [[3, 4], [20, 24]], "valid": [[6, 6]]}}
    assert plan_attempt(said, training.columns(), TABLE, start).gaps == gaps


def test_steps_that_nobody_recorded_are_a_gap():
    training = Training(10, 4, 1)
    training.run(0, 25)
    plan = training.plan(28)
    assert plan.gaps == {"train": [[25, 27]]}
    assert plan.resumed.steps == {"train": 28, "valid": 8}
    assert plan_attempt({}, {}, TABLE, 5).gaps == {"train": [[0, 4]]}
    # The plan is committed at once: what is planned again is the same.
    said = training.said() | {"attempts": plan.attempts, "steps": plan.resumed.steps, "gaps": plan.gaps}
    assert plan_attempt(said, training.columns(), TABLE) == plan


def test_a_row_of_no_attempt_is_refused():
    training = Training(10, 4, 1)
    training.run(0, 5)
    with pytest.raises(StoreError, match="rows of 'train' belong to attempt 0, of 0"):
        live_rows("train", *(training.columns()["train"][name] for name in ("train_step", "attempt")), [])
