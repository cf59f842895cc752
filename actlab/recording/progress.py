"""How far a recording is: the batches counted, and marks at which a later one can go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actlab.schema import SPLITS

if TYPE_CHECKING:
    from actlab.store.resuming import Resumed

__all__ = ["Progress"]

_NO_EPOCH = -2
_MOST_MARKS = 128  # the latest ones; each is some hundred bytes of the root record


class Progress:
    """Numbers of the next batch of each split.

    Attributes
    ----------
    steps : dict of str to int
        Batches of each split that were completed.
    rows : dict of str to int
        Those of them that were recorded, since this recorder was made.
    places : dict of str to tuple of int
        Epoch of the latest batch of each split, and the number of the next one within it.
    last : tuple of str and int or None
        Split and epoch of the latest completed batch of all.
    marks : list of dict
        Where the recording stood whenever it was marked, as the root attribute `marks` has it.
    """

    def __init__(self) -> None:
        self.steps = dict.fromkeys(SPLITS, 0)
        self.rows = dict.fromkeys(SPLITS, 0)
        self.places = dict.fromkeys(SPLITS, (_NO_EPOCH, 0))
        self.last: tuple[str, int] | None = None
        self.marks: list[dict[str, Any]] = []
        self._again: dict[str, tuple[int, tuple[int, int]]] = {}

    def turn_to(self, split: str) -> bool:
        """Note which split comes next; True if that has changed the marks.

        Evaluated again after a resume, a split goes back to where it was at the mark. Training that
        goes on from a mark adds to it what was evaluated there.
        """
        if split != "train":
            if split in self._again:
                self.steps[split], self.places[split] = self._again.pop(split)
            return False
        self._again.clear()
        is_marked = bool(self.marks) and self.marks[-1]["train_step"] == self.steps["train"]
        return is_marked and self.mark(went_on=True)

    def complete(self, split: str, epoch: int, number: int) -> None:
        """Count a batch that was completed."""
        self.steps[split] += 1
        self.places[split] = epoch, number + 1
        self.last = split, epoch

    def mark(self, *, went_on: bool = False) -> bool:
        """Note where the recording stands, and whether training goes on now; False if that is known.

        Of one `train_step` there are the first mark and the latest.
        """
        begun = [split for split in SPLITS if self.places[split][0] != _NO_EPOCH]
        places = {split: [self.steps[split], *self.places[split]] for split in begun}
        last = None if self.last is None else list(self.last)
        mark = {"train_step": self.steps["train"], "last": last, "next": places, "went_on": went_on}
        if mark in self.marks[-1:]:
            return False
        here = [each for each in self.marks if each["train_step"] == mark["train_step"]]
        earlier = self.marks[: len(self.marks) - len(here)]
        self.marks = [*earlier, *here[:1], mark][-_MOST_MARKS:]
        return True

    def resume(self, resumed: Resumed, marks: object) -> None:
        """Go on where the rows of a run end, and exactly so where there is a mark of that `train_step`.

        Rows do not tell how many batches between them were not recorded, a mark does. What was
        evaluated after the mark stays, unless it is evaluated again before the next training batch.

        Parameters
        ----------
        resumed : Resumed
            What the rows say.
        marks : object
            The root attribute `marks`; what is no mark in it is left out.
        """
        self.steps |= resumed.steps
        self.places |= resumed.places
        if resumed.last_split is not None and resumed.last_epoch is not None:
            self.last = resumed.last_split, resumed.last_epoch
        start = self.steps["train"]
        sound = [mark for mark in marks if _is_mark(mark)] if isinstance(marks, list) else []
        self.marks = [mark for mark in sound if mark["train_step"] <= start]
        if here := [mark for mark in self.marks if mark["train_step"] == start]:
            self._go_on(here[0], here[-1])
            if resumed.is_same_attempt:
                self._again.clear()
            self.marks[-1] = here[-1] | {"went_on": False}

    def _go_on(self, first: dict[str, Any], latest: dict[str, Any]) -> None:
        """Go on from a mark; rows only tell what was evaluated between the latest one and a crash."""
        is_exact = True
        for split in SPLITS:
            before, after = (_place_in(mark, split) for mark in (first, latest))
            if split == "train" or latest["went_on"] or self.steps[split] <= after[0]:
                self.steps[split], self.places[split] = after
            else:
                is_exact = False
            if split != "train" and self.steps[split] > before[0]:
                self._again[split] = before
        if is_exact and latest["last"] is not None:
            self.last = latest["last"][0], latest["last"][1]


def _place_in(mark: dict[str, Any], split: str) -> tuple[int, tuple[int, int]]:
    """Return the batches of a split that were completed at a mark, and the place of the next one."""
    step, epoch, number = mark["next"].get(split, (0, _NO_EPOCH, 0))
    return step, (epoch, number)


def _is_mark(value: object) -> bool:
    """Whether a JSON value is a mark."""
    match value:
        case {
            "train_step": int(),
            "last": None | [str(), int()],
            "went_on": bool(),
            "next": dict() as places,
        }:
            return all(
                split in SPLITS and isinstance(place, list) and [type(each) for each in place] == [int] * 3
                for split, place in places.items()
            )
    return False
