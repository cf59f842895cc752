"""`RowJoin`: rows as they come from several ranks, joined into the rows of the whole run."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush

from actlab.schema import LayerInfo
from actlab.store.merging import Spans, merge_rows, union_layers
from actlab.store.row import Row

__all__ = ["End", "Missing", "RowJoin"]


@dataclass(frozen=True)
class Missing:
    """A row that a rank had and lost on the way."""

    split: str
    step: int
    train_step: int


@dataclass(frozen=True)
class End:
    """Nothing more comes from a rank: it has closed its recorder, or it is lost."""

    is_lost: bool = False


@dataclass
class _Rank:
    """What is known of a rank: the last step of each split it records, and how far it has trained."""

    steps: dict[str, int] = field(default_factory=dict)
    train_step: int = -1
    is_over: bool = False
    is_lost: bool = False


@dataclass
class _Joint:
    """The parts of one row of the run, by rank."""

    place: tuple[str, int]
    train_step: int
    rows: dict[int, Row] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    is_dropped: bool = False


class RowJoin:
    """Join the rows of all ranks: each split and step once, whole or not at all.

    Every rank sends its rows in its own order, so a later row shows that it has no earlier one any
    more. A rank that never records a split (it does not validate) is not waited for there; one that
    records it must have every row, else the row is dropped. Not thread-safe.

    Parameters
    ----------
    world_size : int
        Number of ranks.
    limit : int
        Bytes of all rows that wait for other ranks; beyond it the latest ones are dropped.

    Attributes
    ----------
    dropped : dict
        Split -> spans of the steps that were dropped.
    n_dropped : int
        How many rows that are.
    news : list of str
        Why, once for each reason; whoever tells them removes them.
    """

    def __init__(self, world_size: int, limit: int) -> None:
        self.dropped: dict[str, Spans] = {}
        self.n_dropped = 0
        self.news: list[str] = []
        self._ranks = [_Rank() for _ in range(world_size)]
        self._limit = limit
        self._held = 0
        self._waiting: dict[str, dict[int, _Joint]] = {}
        self._order: dict[str, list[int]] = {}  # heaps of their steps
        self._holding: dict[tuple[str, int], _Joint] = {}  # those with rows, the oldest first
        self._layers: tuple[LayerInfo, ...] = ()
        self._open_spans: set[str] = set()
        self._told: set[str] = set()
        self._written: dict[str, int] = {}  # last step of each split that was given out

    @property
    def awaited(self) -> list[int]:
        """Ranks that have not ended."""
        return [number for number, rank in enumerate(self._ranks) if not rank.is_over]

    def put(self, rank: int, row: Row | Missing | End) -> None:
        """Take what a rank sent next; after its end, nothing."""
        state = self._ranks[rank]
        if state.is_over:
            return
        if isinstance(row, End):
            state.is_over, state.is_lost = True, row.is_lost
            return
        if row.split not in state.steps and (last := self._written.get(row.split)) is not None:
            self._tell(f"rank {rank} comes late to {row.split!r}: rows up to step {last} lack its part")
        state.steps[row.split] = row.step
        # A training batch ends whatever was evaluated at the same train_step.
        state.train_step = max(state.train_step, row.train_step + (row.split == "train"))
        joint = self._joint(row)
        joint.seen.add(rank)
        if isinstance(row, Missing):
            self._drop(joint, f"rank {rank} has more rows than it can hand over, some are dropped")
        elif not joint.is_dropped:
            joint.rows[rank] = row
            self._holding[joint.place] = joint
            self._held += row.nbytes
            self._make_room()

    def take(self, *, compare_epochs: bool) -> list[Row]:
        """Return the rows that are whole by now, in order within each split.

        Parameters
        ----------
        compare_epochs : bool
            Whether the ranks must agree on epoch and batch, too; where each infers its own epochs,
            those of the lowest rank hold.
        """
        found: list[Row] = []
        for split, order in self._order.items():
            while order and self._is_settled(joint := self._waiting[split][order[0]]):
                del self._waiting[split][heappop(order)]
                self._release(joint)
                row = self._merge(joint, compare_epochs)
                if row is None:
                    self._note(*joint.place)
                else:
                    self._open_spans.discard(split)
                    self._written[split] = row.step
                    found.append(row)
        return found

    def _joint(self, row: Row | Missing) -> _Joint:
        """Return where the parts of a row come together."""
        waiting = self._waiting.setdefault(row.split, {})
        if row.step not in waiting:
            waiting[row.step] = _Joint((row.split, row.step), row.train_step)
            heappush(self._order.setdefault(row.split, []), row.step)
        return waiting[row.step]

    def _is_settled(self, joint: _Joint) -> bool:
        """Whether no rank can add to a row any more; drops the row if one of them should have."""
        split, step = joint.place
        for number, rank in enumerate(self._ranks):
            if number in joint.seen:
                continue
            is_past = rank.train_step > joint.train_step or rank.steps.get(split, -1) > step
            if not is_past and not rank.is_over:
                return False
            if rank.is_lost and not is_past:
                self._drop(joint, f"rank {number} is lost, rows it has no part in are dropped")
            elif split in rank.steps:
                self._drop(joint, f"rank {number} has not recorded all rows of the others, these are dropped")
        return True

    def _merge(self, joint: _Joint, compare_epochs: bool) -> Row | None:
        """Return the merged row, None if it must be dropped."""
        if joint.is_dropped:
            return None
        rows = [joint.rows[rank] for rank in sorted(joint.rows)]
        if len({(row.train_step, *((row.epoch, row.batch) if compare_epochs else ())) for row in rows}) > 1:
            self._tell("rows in which the ranks differ in epoch, batch or train_step are dropped")
            return None
        layers = union_layers([self._layers, *(row.layers for row in rows)])
        try:
            merged = merge_rows(rows, layers)
        except ValueError as error:
            self._tell(f"rows that cannot be merged are dropped: {error}")
            return None
        self._layers = layers
        return merged

    def _make_room(self) -> None:
        """Drop the latest rows that wait, the oldest one never: its missing parts make room for all."""
        while self._held > self._limit and len(self._holding) > 1:
            latest = self._holding[next(reversed(self._holding))]
            self._drop(latest, "the ranks are too far apart, some rows are dropped")

    def _drop(self, joint: _Joint, reason: str) -> None:
        """Make no row of these parts, and say why the first time."""
        self._release(joint)
        joint.rows.clear()
        joint.is_dropped = True
        self._tell(reason)

    def _release(self, joint: _Joint) -> None:
        """Count the bytes of these parts no more."""
        if self._holding.pop(joint.place, None) is not None:
            self._held -= sum(row.nbytes for row in joint.rows.values())

    def _note(self, split: str, step: int) -> None:
        """Add a dropped row to the spans; neighbours share one."""
        if step <= self._written.get(split, -1):  # what comes late to a row is no row of its own
            return
        self.n_dropped += 1
        spans = self.dropped.setdefault(split, [])
        if split in self._open_spans:
            spans[-1][1] = step
        else:
            spans.append([step, step])
            self._open_spans.add(split)

    def _tell(self, message: str) -> None:
        """Keep a message, once."""
        if message not in self._told:
            self._told.add(message)
            self.news.append(message)
