"""`repair`: a run as its last commit meant it, whatever happened to the files around it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actlab.errors import StoreError
from actlab.schema import FORMAT_VERSION, SPLITS
from actlab.store.files import Directory, expand, is_partial, open_directory
from actlab.store.groups import as_mapping
from actlab.store.layout import ROOT, root_record, to_json
from actlab.store.merging import rank_path
from actlab.store.record import Record, check_record
from actlab.store.recovering import Nodes, Recovered, combined, find_documents, rebuild_attributes, recover
from actlab.store.sources import LocalSource, Source
from actlab.store.stored import StoredRun
from actlab.store.urls import is_url

__all__ = ["Repair", "repair"]

# What documents that anyone may have written can lead to; StoreError is an OSError.
_UNSOUND = (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Repair:
    """What a repair found.

    Parameters
    ----------
    done : tuple of str
        What was mended, a line for each thing; nothing if nothing was to be.
    damage : tuple of str
        What cannot be mended, a line for each piece: rows that are not as they were recorded.
    """

    done: tuple[str, ...]
    damage: tuple[str, ...]


def repair(
    path: str | os.PathLike[str], *, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Repair:
    """Mend what can be mended of a run that nobody is writing. May be repeated.

    Files that a killed writer left half written are removed. Rows that a root record no longer lists,
    because an older one was put over it, are taken back in; a root record that is lost is made anew
    from the documents of the arrays. Then these are brought up to it, and every row is checked. No row
    is ever removed, and no file that a writer of actlab did not leave behind. Of a run of several
    ranks the store of each is repaired.

    Parameters
    ----------
    path : str or path-like
        Directory of the run.
    progress : callable
        Is told ``progress(stage, done, total)`` as the work goes on.

    Returns
    -------
    Repair
        What was mended, in `done`, and what cannot be, in `damage`: nothing in either if all was well.

    Raises
    ------
    StoreError
        In one line: if there is no run, it is being written, needs a newer actlab, or its root record
        is lost and the arrays cannot tell what it said.
    """
    if is_url(path):
        raise StoreError(f"{path}: is a URL, expected the directory of a run on this machine")
    root = expand(path).resolve()
    found = _repair(root, progress)
    said = json.loads((root / ROOT).read_bytes())["attributes"]["actlab"].get("ranks")
    for rank in range(1, said["world_size"] if said is not None and said["rank"] == 0 else 1):
        other = _repair(rank_path(root, rank), progress)
        name = rank_path(root, rank).name
        found = Repair(
            (*found.done, *(f"{name}: {line}" for line in other.done)),
            (*found.damage, *(f"{name}: {line}" for line in other.damage)),
        )
    return found


def _repair(root: Path, progress: Callable[[str, int, int], None]) -> Repair:
    """Repair one store."""
    if root.is_file():
        raise StoreError(f"{root}: is a file, expected the directory of a run")
    if not any((root / name).exists() for name in (ROOT, *(f"{split}/{ROOT}" for split in SPLITS))):
        raise StoreError(f"{root}: is no run, it has no {ROOT}" if root.is_dir() else f"{root}: no such run")
    partial = sum(is_partial(name) for _, _, names in os.walk(root) for name in names)
    directory = open_directory(root, "repair")
    try:
        source = LocalSource(root)
        done = [f"removed {_count(partial, 'half-written file')}"] if partial else []
        record, news = _mended(directory, source)
        done += news
        outdated = [name for name, node in record.nodes.items() if _document(directory, name) != node]
        for name in outdated:
            directory.write(f"{name}/{ROOT}", to_json(record.nodes[name]))
        directory.sync()
        if outdated:
            done.append(f"brought {_count(len(outdated), ROOT)} below the root up to it")
        return Repair(tuple(done), tuple(StoredRun(source, record).damage(progress)))
    except StoreError as error:
        raise StoreError(f"{root}: {str(error).removeprefix(f'{root}: ')}") from error
    except OSError as error:
        raise StoreError(f"{root}: cannot be written: {error.strerror or error}") from error
    finally:
        directory.release()


def _mended(directory: Directory, source: Source) -> tuple[Record, list[str]]:
    """Return the root record, mended on disk where it has to be, and what was done about it."""
    document: Mapping[str, Any] = {}
    problem = None
    try:
        data = directory.read(ROOT)
        document = as_mapping(_parsed(data))
        record = check_record(data)
    except FileNotFoundError:
        problem = f"{ROOT} was missing"
    except StoreError as error:
        problem = str(error)
    attributes = as_mapping(document.get("attributes"))
    said = as_mapping(attributes.get("actlab"))
    children = find_documents(source)
    if problem is None:
        if said.get("compacted"):
            return record, []
        try:
            recovered = recover(source, said, combined(record.nodes, children), children)
        except _UNSOUND:  # what lies there besides is of no run
            return record, []
        news = [f"took back {_rows(split, steps)}" for split, steps in recovered.steps.items() if steps]
    elif _is_newer(said):
        raise StoreError(problem)
    else:
        recovered = _rebuilt(source, said, children, problem)
        rows = "; ".join(_rows(split, steps) for split, steps in recovered.steps.items())
        news = [f"made {ROOT} anew of the arrays ({problem}): {rows}"]
    if news:
        renewed = {"writer": uuid.uuid4().hex, "commit": said.get("commit", 0) + 1}
        mended = json.loads(root_record(recovered.attributes | renewed, recovered.nodes))
        data = to_json(mended | {"attributes": {**attributes, **mended["attributes"]}})
        record = check_record(data)
        directory.write(ROOT, data)
        directory.sync()
    return record, news


def _rebuilt(source: Source, said: Mapping[str, Any], children: Nodes, problem: str) -> Recovered:
    """Return a root record made of the documents below it, if every row they list proves itself."""
    reason = ""
    # What can still be read of the old one is taken over, unless that is what was damaged.
    for known in (said, {}):
        try:
            attributes = rebuild_attributes(known, children, source)
            recovered = recover(source, attributes, children, children)
        except _UNSOUND as error:
            reason = reason or str(error)
            continue
        for split in SPLITS:
            listed = children[f"{split}/step"]["shape"][0] if f"{split}/step" in children else 0
            found = len(recovered.steps.get(split, ()))
            if found < listed:
                reason = f"row {found} of {split} does not prove itself"
                break
        else:
            return recovered
    raise StoreError(f"{problem}, and it cannot be made anew: {reason}")


def _parsed(data: bytes) -> Any:
    """Return a JSON document, None for what is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _is_newer(said: Mapping[str, Any]) -> bool:
    """Whether a root attribute is of a format that must not be touched."""
    version = said.get("format_version")
    major = version[0] if isinstance(version, list) and version else 0
    return bool(said.get("incompat")) or (isinstance(major, int) and major > FORMAT_VERSION[0])


def _document(directory: Directory, name: str) -> Any:
    """Return the own document of a group or array, None if there is none."""
    try:
        return _parsed(directory.read(f"{name}/{ROOT}"))
    except (FileNotFoundError, StoreError):
        return None


def _rows(split: str, steps: list[int]) -> str:
    """Say how many rows, and which."""
    span = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    return f"{_count(len(steps), 'row')} of {split}, {span}"


def _count(number: int, thing: str) -> str:
    """Say how many."""
    return f"{number:,} {thing}{'' if number == 1 or thing == ROOT else 's'}"
