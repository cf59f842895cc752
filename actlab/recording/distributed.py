"""Several processes that train one model: which of them this is, and where it records."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from torch import distributed

from actlab.errors import StoreError
from actlab.store.merging import rank_path
from actlab.store.urls import name_of, with_name

__all__ = ["Place", "count_recorder", "explain", "find_place"]

_PATIENCE = 10.0  # seconds that a recorder waits for the store of the process group

# How many recorders each path has had: all ranks make theirs in the same order.
_recorders: Counter[str] = Counter()


@dataclass(frozen=True)
class Place:
    """One rank among those that train together.

    Parameters
    ----------
    rank, world_size : int
        Of the default process group.
    job : str
        Hexadecimal name of this recording, the same on every rank.
    key : str
        What its entries in the key-value store of the process group begin with.
    store : torch.distributed.Store or None
        That store, where there is one.
    """

    rank: int
    world_size: int
    job: str
    key: str = field(repr=False)
    store: Any = field(repr=False, compare=False)

    @property
    def attributes(self) -> dict[str, Any]:
        """The root attribute `ranks` of this rank's store."""
        return {"rank": self.rank, "world_size": self.world_size, "job": self.job}

    def path(self, path: str | PathLike[str]) -> str:
        """Return where this rank writes a run of its own: a path or URL beside that of rank 0."""
        return with_name(path, rank_path(Path(name_of(path)), self.rank).name)


def find_place(path: str | PathLike[str]) -> Place | None:
    """Find the place of this process among those that record the same run.

    The ranks agree on a name without a collective, so that none waits for another: the first one to
    come sets it in the key-value store of the process group. Where that fails the name is made of
    what all ranks know.

    Parameters
    ----------
    path : str or path
        The run, as given on every rank.

    Returns
    -------
    Place or None
        None where torch.distributed is not initialised, or has one process.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    if world_size == 1:
        return None
    name = os.fspath(path)
    key = f"actlab/{name}/{_recorders[name]}"
    known = [os.environ.get(each, "") for each in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
    job = hashlib.sha256("/".join([*known, key]).encode()).hexdigest()[:32]
    store = None
    with suppress(Exception):
        store = distributed.distributed_c10d._get_default_store()
        job = _agree(store, f"{key}/job") or job
    return Place(rank, world_size, job, key, store)


def _agree(store: Any, key: str) -> str | None:
    """Return the name that the first rank gave, None if the store does not answer: it knows no timeout."""
    found: list[bytes] = []
    ask = partial(store.compare_set, key, "", uuid.uuid4().hex)
    thread = threading.Thread(target=lambda: found.append(ask()), name="actlab job", daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return found[0].decode() if found else None


def count_recorder(path: str | PathLike[str]) -> None:
    """Note that a recorder was made: one that was refused may be made again, as the others count."""
    _recorders[os.fspath(path)] += 1


def explain(error: StoreError) -> StoreError:
    """Add to the refusal of a path what it may come from in distributed training."""
    size = os.environ.get("WORLD_SIZE", "1")
    is_late = distributed.is_available() and not distributed.is_initialized() and size != "1"
    if not is_late:
        return error
    return StoreError(
        f"{error}; {size} processes were started: call torch.distributed.init_process_group before the "
        "recorder is made, then each has a store of its own"
    )
