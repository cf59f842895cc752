"""Where a run that is gone on with stands: which rows live on, and the next step of each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actlab.schema import SPLITS, LayerInfo
from actlab.store.attempts import live_rows

__all__ = ["Columns", "Plan", "Resumed", "plan_attempt"]

Columns: TypeAlias = Mapping[str, NDArray[Any]]
"""`step`, `epoch`, `batch`, `train_step`, `attempt` and `time` [row] of a split."""


@dataclass(frozen=True)
class Resumed:
    """Where a resumed run stands.

    Parameters
    ----------
    attempt : int
        The attempt of the rows to come.
    steps : dict
        Split -> step of its next batch.
    places : dict
        Split -> epoch of its last live row, and number of the next batch in it.
    last_split, last_epoch : str or None, int or None
        Split and epoch of the last live row of all; None if there is none.
    layers : tuple of LayerInfo
        The layers so far; rows are brought onto them by name.
    head : str or None
        The head, if it is known.
    is_same_attempt : bool
        Whether nothing is repeated: the rows to come follow those before, of one training.
    """

    attempt: int
    steps: dict[str, int]
    places: dict[str, tuple[int, int]]
    last_split: str | None
    last_epoch: int | None
    layers: tuple[LayerInfo, ...]
    head: str | None
    is_same_attempt: bool = False


@dataclass(frozen=True)
class Plan:
    """What another attempt begins with.

    Parameters
    ----------
    attempts : list of int
        The root attribute of that name, with the new attempt at its end.
    gaps : dict
        Split -> gaps before the new attempt.
    last_steps : dict
        Split -> step of its last live row.
    floors : dict
        Split -> its last step that cannot come again: what was evaluated where the attempt begins can.
    resumed : Resumed
        What the recorder needs to know.
    """

    attempts: list[int]
    gaps: dict[str, list[list[int]]]
    last_steps: dict[str, int]
    floors: dict[str, int]
    resumed: Resumed


def plan_attempt(
    attributes: Mapping[str, Any],
    columns: Mapping[str, Columns],
    layers: tuple[LayerInfo, ...],
    start: int | None = None,
    *,
    same_attempt: bool = False,
) -> Plan:
    """Plan another attempt at a run, or how the last one goes on.

    A last attempt without rows or batches is taken back: it has replaced nothing, so tries that failed leave
    no trace.

    Parameters
    ----------
    attributes : mapping
        The root attribute ``actlab``.
    columns : mapping
        Split -> columns of all its rows.
    layers : tuple of LayerInfo
        The table of layers.
    start : int, optional
        The `train_step` it begins at; by default the number of training batches of the last commit, which
        are those of an attempt that is taken back, too.
    same_attempt : bool
        Add to the last attempt, where its rows end; begin another one where `start` is elsewhere.

    Raises
    ------
    StoreError
        If a row belongs to an attempt that is not listed.
    """
    newest = max((int(each["attempt"].max()) for each in columns.values()), default=-1)
    listed: list[int] = attributes.get("attempts") or [0]
    said: int = attributes.get("steps", {}).get("train", listed[-1])
    is_idle = newest + 1 < len(listed) and said <= listed[-1]
    before = listed[: newest + 1] if is_idle else listed
    alive = {split: _live(split, each, before) for split, each in columns.items()}
    counted: dict[str, int] = {"train": 0} | attributes.get("steps", {})
    for split, each in columns.items():
        counted[split] = max(counted.get(split, 0), _last_step(each, alive[split]) + 1)
    default = listed[-1] if is_idle else counted["train"]
    start = default if start is None else int(start)
    is_same = same_attempt and bool(before) and start == counted["train"]
    attempts = before if is_same else [*before, start]
    live = {split: _live(split, each, attempts) for split, each in columns.items()}
    steps = counted | {"train": start}
    for split in columns.keys() - {"train"}:
        steps[split] = _next_step(columns[split], alive[split], live[split], counted[split])
    last = {
        split: {name: values[mine[-1]].item() for name, values in columns[split].items()}
        for split, rows in live.items()
        if (mine := np.flatnonzero(rows)).size
    }
    # At one train_step, what is evaluated comes before the batch of training.
    ends = [(row["train_step"], split == "train", row["time"], split) for split, row in last.items()]
    last_split = max(ends)[-1] if ends else None
    resumed = Resumed(
        attempt=len(attempts) - 1,
        steps={split: steps[split] for split in SPLITS if split in steps},
        places={
            split: (row["epoch"], row["batch"] + steps[split] - row["step"]) for split, row in last.items()
        },
        last_split=last_split,
        last_epoch=None if last_split is None else last[last_split]["epoch"],
        layers=layers,
        head=attributes.get("head"),
        is_same_attempt=is_same,
    )
    gaps = _gaps(attributes.get("gaps", {}), steps, counted["train"])
    floors = {
        split: _last_step(each, live[split] & (each["train_step"] < start)) for split, each in columns.items()
    }
    last_steps = {split: row["step"] for split, row in last.items()}
    return Plan(attempts, gaps, last_steps, floors | {"train": start - 1}, resumed)


def _live(split: str, columns: Columns, starts: Sequence[int]) -> NDArray[np.bool_]:
    """Say which rows of a split are live."""
    return live_rows(split, columns["train_step"], columns["attempt"], starts)


def _last_step(columns: Columns, live: NDArray[np.bool_]) -> int:
    """Return the step of the last live row, -1 if there is none."""
    return int(columns["step"][live].max(initial=-1))


def _next_step(columns: Columns, alive: NDArray[np.bool_], live: NDArray[np.bool_], counted: int) -> int:
    """Return the step at which a split other than train goes on, where rows that were alive may not stay."""
    after, dead = _last_step(columns, live) + 1, alive & ~live
    if not dead.any():
        return counted
    last_epoch = columns["epoch"][live][-1] if live.any() else np.iinfo(np.int64).min
    later = np.flatnonzero(dead & (columns["epoch"] > last_epoch))
    if later.size == 0:
        return after
    return max(after, int(columns["step"][later[0]] - columns["batch"][later[0]]))


def _gaps(
    gaps: Mapping[str, Sequence[Sequence[int]]], steps: Mapping[str, int], counted: int
) -> dict[str, list[list[int]]]:
    """Return the gaps before `steps`, with the training steps between the last commit and the start."""
    cut = {
        split: [
            [first, min(last, steps.get(split, last + 1) - 1)]
            for first, last in spans
            if first < steps.get(split, first + 1)
        ]
        for split, spans in gaps.items()
    }
    if steps["train"] > counted:
        spans = cut.setdefault("train", [])
        is_next = bool(spans) and spans[-1][1] == counted - 1
        first = spans.pop()[0] if is_next else counted
        spans.append([first, steps["train"] - 1])
    return {split: spans for split, spans in cut.items() if spans}
