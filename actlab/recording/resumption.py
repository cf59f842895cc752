"""Under `reduce`, how a merged run goes on: rank 0 alone has it, and tells the other ranks."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from time import monotonic
from typing import Any

from actlab.errors import StoreError
from actlab.recording.distributed import Place
from actlab.store.merging import Spans
from actlab.store.resuming import Resumed

__all__ = ["hear_resumed", "spans_before", "tell_refused", "tell_resumed"]

_PATIENCE = 120.0  # seconds that a rank waits for rank 0, which may have a large run to look through
_POLL = 0.05
_TOLD = ("epochs", "head_counted", "head_unit_dim", "marks")


def tell_resumed(place: Place, resumed: Resumed | None, attributes: Mapping[str, Any]) -> None:
    """Tell the other ranks where the run goes on, None for a new one, and its attributes."""
    # Their layers come with their rows, and each brings its own.
    state = None if resumed is None else asdict(replace(resumed, layers=()))
    told = {name: attributes[name] for name in _TOLD if name in attributes}
    _tell(place, {"resumed": state, "attributes": told})


def tell_refused(place: Place, error: StoreError) -> None:
    """Tell the other ranks that there is nothing to go on with."""
    _tell(place, {"refused": str(error)})


def hear_resumed(place: Place) -> tuple[Resumed | None, dict[str, Any]]:
    """Return what rank 0 told.

    Raises
    ------
    StoreError
        If it refused, or says nothing.
    """
    last = monotonic() + _PATIENCE
    while not place.store.check([_key(place)]):
        if monotonic() > last:
            raise StoreError("reduce=True: rank 0 does not say where the run goes on")
        time.sleep(_POLL)
    told = json.loads(place.store.get(_key(place)))
    if "refused" in told:
        raise StoreError(told["refused"])
    state = told["resumed"]
    if state is None:
        return None, told["attributes"]
    places = {split: (epoch, number) for split, (epoch, number) in state.pop("places").items()}
    return Resumed(**state | {"places": places, "layers": ()}), told["attributes"]


def spans_before(resumed: Resumed, dropped: Mapping[str, Spans]) -> dict[str, Spans]:
    """Return the spans of dropped steps that lie before those to come."""
    ends = {split: resumed.steps.get(split, 0) for split in dropped}
    return {
        split: [[first, min(last, ends[split] - 1)] for first, last in spans if first < ends[split]]
        for split, spans in dropped.items()
    }


def _tell(place: Place, news: Mapping[str, Any]) -> None:
    place.store.set(_key(place), json.dumps(news))


def _key(place: Place) -> str:
    return f"{place.key}/resumed"
