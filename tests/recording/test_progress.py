"""Progress: what the next batch is called, after a resume too."""

import json

import pytest

from actlab.recording.progress import Progress
from actlab.store.resuming import Resumed


def play(progress, batches):
    """Complete batches of (split, epoch), and return the step and number of each."""
    found = []
    for split, epoch in batches:
        progress.turn_to(split)
        last_epoch, number = progress.places[split]
        number = number if epoch == last_epoch else 0
        found.append((progress.steps[split], number))
        progress.complete(split, epoch, number)
    return found


def rows_say(steps, places, last):
    """Return what the rows of a run say."""
    return Resumed(1, steps, places, *(last or (None, None)), (), None)


TRAIN, VALID = ("train", 0), ("valid", 0)
WHOLE = [TRAIN] * 3 + [VALID] * 2 + [("train", 1)] * 3 + [("valid", 1)] * 2


@pytest.mark.parametrize("done", range(len(WHOLE) + 1))
def test_a_mark_goes_on_exactly_whatever_the_rows_say(done):
    """As under a large `every`: of the rows only the first of each split is known."""
    first, second = Progress(), Progress()
    expected = play(first, WHOLE[:done])
    first.mark()
    marks = json.loads(json.dumps(first.marks))
    rows = {split: 1 for split in ("valid",) if first.steps[split]}
    second.resume(rows_say(rows | {"train": first.steps["train"]}, {}, ("train", 0)), marks)
    assert second.last == (WHOLE[done - 1] if done else ("train", 0))
    expected += play(second, WHOLE[done:])
    assert expected == play(Progress(), WHOLE)


@pytest.mark.parametrize("dies_in", ["validation", "training"])
@pytest.mark.parametrize("is_repeated", [True, False])
def test_what_is_evaluated_after_the_mark_stays_or_is_evaluated_again(dies_in, is_repeated):
    first, second = Progress(), Progress()
    play(first, WHOLE[:3])
    first.mark()
    # Once training goes on a mark says it, whatever the rows say.
    play(first, WHOLE[3 : 5 if dies_in == "validation" else 9])
    steps = {"train": 3, "valid": 2 if dies_in == "validation" else 1}
    second.resume(rows_say(steps, {"train": (0, 3), "valid": (0, 2)}, ("valid", 0)), first.marks)
    assert second.last == ("valid", 0), "a new epoch begins"
    found = play(second, WHOLE[3 if is_repeated else 5 :])
    assert found == play(Progress(), WHOLE)[3 if is_repeated else 5 :]


def test_without_a_mark_the_rows_say_it():
    progress = Progress()
    play(progress, [TRAIN] * 2)
    progress.mark()
    marks = progress.marks
    progress = Progress()
    progress.resume(rows_say({"train": 5, "valid": 2}, {"train": (1, 2)}, ("train", 1)), marks)
    assert progress.marks == marks, "those before stay"
    assert play(progress, [("train", 1), ("train", 2), ("valid", 2)]) == [(5, 2), (6, 0), (2, 0)]


def test_marks_are_few_in_order_and_two_for_each_train_step():
    progress = Progress()
    assert progress.mark()
    assert not progress.mark()
    for _ in range(100):
        play(progress, [TRAIN])
        assert progress.mark()
        for _ in range(3):
            play(progress, [VALID])
            assert progress.mark()
    steps = [mark["train_step"] for mark in progress.marks]
    assert steps == sorted([*range(37, 101)] * 2)
    assert [mark["next"]["valid"][0] for mark in progress.marks[-2:]] == [297, 300]
    later = Progress()
    later.resume(rows_say({"train": 90}, {}, None), progress.marks)
    assert later.marks[-1]["train_step"] == 90


@pytest.mark.parametrize(
    "damage",
    [
        None,
        3,
        [3],
        [{}],
        {"next": {"train": [2, 0]}},
        {"next": {"tain": [2, 0, 2]}},
        {"next": {"train": ["2", 0, 2]}},
        {"last": [0, "train"]},
        {"went_on": None},
        {"train_step": "2"},
    ],
)
def test_what_is_no_mark_is_left_out(damage):
    if isinstance(damage, dict):
        damage = [{"train_step": 2, "last": None, "went_on": False, "next": {}} | damage]
    progress = Progress()
    progress.resume(rows_say({"train": 2}, {"train": (0, 2)}, ("train", 0)), damage)
    assert progress.marks == []
    assert play(progress, [TRAIN]) == [(2, 2)]
