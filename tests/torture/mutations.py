"""Damage to finished runs: what a reader makes of it that checks rows, one that does not, and plain xarray.

Every mutation is a pure function of (seed, number). With `verify="rows"` nothing may be silently wrong: a
`StoreError`, the data as recorded, or that of an earlier commit. What plain xarray returns silently wrong
is the control; what the default `verify="presence"` lets pass is stated.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable
from os.path import normpath
from pathlib import Path
from random import Random

from tests.torture.common import Result, main, scratch
from tests.torture.samples import contents, digest, files_of, lay_out, record_sample

Files = dict[str, bytes]
ROOT = "zarr.json"
QUICK, LONG = 1, 8  # of each kind, in each form of a run


def _chunk(files: Files, random: Random) -> str:
    return random.choice([name for name in files if not name.endswith(ROOT)])


def _flip(files: Files, random: Random, history: list[Files]) -> None:
    """One bit of a chunk is wrong."""
    name = _chunk(files, random)
    data = bytearray(files[name])
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    files[name] = bytes(data)


def _truncate(files: Files, random: Random, history: list[Files]) -> None:
    """A chunk is cut short."""
    name = _chunk(files, random)
    files[name] = files[name][: random.randrange(len(files[name]))]


def _zero(files: Files, random: Random, history: list[Files]) -> None:
    """A piece of a chunk is zeros, as after a power cut."""
    name = _chunk(files, random)
    data = files[name]
    first, stop = sorted(random.sample(range(len(data) + 1), 2))
    files[name] = data[:first] + bytes(stop - first) + data[stop:]


def _delete(files: Files, random: Random, history: list[Files]) -> None:
    """A chunk is gone."""
    del files[_chunk(files, random)]


def _swap(files: Files, random: Random, history: list[Files]) -> None:
    """Two chunks stand in each other's place."""
    name, other = _chunk(files, random), _chunk(files, random)
    files[name], files[other] = files[other], files[name]


def _swap_alike(files: Files, random: Random, history: list[Files]) -> None:
    """Two chunks of arrays of one dtype stand in each other's place."""
    nodes = json.loads(files[ROOT])["consolidated_metadata"]["metadata"]

    def form(name: str) -> object:
        node = nodes[name.rpartition("/")[0]]
        return node["data_type"], node["chunk_grid"], node["codecs"]

    name = _chunk(files, random)
    alike = [each for each in files if not each.endswith(ROOT) and form(each) == form(name)]
    other = random.choice(alike)
    files[name], files[other] = files[other], files[name]


def _stale(files: Files, random: Random, history: list[Files]) -> None:
    """A chunk is that of an earlier commit."""
    old = random.choice(history[:-1])
    changed = [name for name in old if not name.endswith(ROOT) and old[name] != files[name]]
    name = random.choice(changed)
    files[name] = old[name]


def _rename(files: Files, random: Random, history: list[Files]) -> None:
    """A chunk has another name: one more, another array's, or none of the format."""
    name = _chunk(files, random)
    other = random.choice([_chunk(files, random), f"{name}0", f"{name}.partial"])
    files[other] = files.pop(name)


def _drop(files: Files, random: Random, history: list[Files]) -> None:
    """An array is gone, its metadata, too, now and then also from the root record."""
    array = _chunk(files, random).rpartition("/")[0]
    for name in [name for name in files if name.startswith(f"{array}/")]:
        del files[name]
    if random.random() < 0.5:
        document = json.loads(files[ROOT])
        del document["consolidated_metadata"]["metadata"][array]
        files[ROOT] = json.dumps(document).encode()


def _old_root(files: Files, random: Random, history: list[Files]) -> None:
    """The root record is that of an earlier commit."""
    files[ROOT] = random.choice(history[:-1])[ROOT]


def _extra(files: Files, random: Random, history: list[Files]) -> None:
    """There is a file more."""
    folder = _chunk(files, random).rpartition("/")[0]
    names = ["c.7", "c.0.0.0.0", ".12345678.partial", "x", "../../notes.txt"]
    name = normpath(f"{folder}/{random.choice(names)}")
    files.setdefault(name, files[_chunk(files, random)])


def _attributes(files: Files, random: Random, history: list[Files]) -> None:
    """Someone edited the root record: an attribute, a length, an attribute of an array."""
    document = json.loads(files[ROOT])
    nodes = document["consolidated_metadata"]["metadata"]
    array = nodes[_chunk(files, random).rpartition("/")[0]]
    match random.choice(["note", "length", "decoding", "layers", "rows", "name", "growth"]):
        case "note":
            document["attributes"]["note"] = "mine"
        case "length" if array["shape"]:
            array["shape"][0] += random.choice([-1, 1])
        case "decoding":
            decodings = [{"scale_factor": 2.0}, {"_FillValue": 0}, {"add_offset": 1}]
            array["attributes"] |= random.choice(decodings)
        case "layers":
            layers = document["attributes"]["actlab"]["layers"]
            layers[0], layers[1] = layers[1], layers[0]
        case "rows":
            document["attributes"]["actlab"]["rows"]["train"] -= 1
        case "name":
            array["dimension_names"].reverse()
        case _:
            growth = document["attributes"]["actlab"]["layer_growth"]["train"]
            growth[-1][random.randrange(2)] += random.choice([-1, 1])
    files[ROOT] = json.dumps(document).encode()


KINDS: dict[str, Callable[[Files, Random, list[Files]], None]] = {
    "flip": _flip,
    "truncate": _truncate,
    "zero": _zero,
    "delete": _delete,
    "swap": _swap,
    "swap alike": _swap_alike,
    "stale": _stale,
    "rename": _rename,
    "drop": _drop,
    "old root": _old_root,
    "extra": _extra,
    "attributes": _attributes,
}


# Forms of a finished run, and how each is looked at.


def _pack(path: Path, files: Files) -> None:
    """Write the files as one archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def _compacted(files: Files, folder: Path) -> Files:
    """Return the files of a run after `compact`."""
    from actlab.store.compacting import compact

    lay_out(folder / "before.zarr", files)
    compact(folder / "before.zarr", folder / "after.zarr", overwrite=True)
    return files_of(folder / "after.zarr")


def verified(path: Path) -> dict[str, str]:
    """Read all rows, each checked by its checksum."""
    from actlab.run import open_run

    return contents(open_run(path, verify="rows", all_attempts=True))


def unverified(path: Path) -> dict[str, str]:
    """Read all rows as `open_run` does by default."""
    from actlab.run import open_run

    return contents(open_run(path, all_attempts=True))


def plain(path: Path) -> dict[str, str]:
    """Read all arrays by plain xarray."""
    import xarray as xr
    from zarr.storage import ZipStore

    source = ZipStore(path, read_only=True) if path.suffix == ".zip" else path
    tree = xr.open_datatree(source, engine="zarr", chunks=None)
    return {
        f"{node.path}/{name}": digest(variable.values)
        for node in tree.subtree
        for name, variable in node.to_dataset(inherit=False).variables.items()
    }


FINE = ("refused", "same", "older")
READERS = {"rows": verified, "presence": unverified, "plain": plain}


def outcome(reader: str, path: Path, states: list[dict[str, str]]) -> str:
    """Say what a reader makes of a run: refused, same, older, wrong, or another error."""
    from actlab.errors import StoreError

    try:
        found = READERS[reader](path)
    except StoreError:
        return "refused"
    except Exception as error:  # noqa: BLE001 - plain readers have many, ours must have one
        return "refused" if reader == "plain" else f"error {type(error).__name__}: {error}"[:200]
    if found == states[-1]:
        return "same"
    return "older" if found in states else "wrong"


def mutate_run(
    form: str, history: list[Files], folder: Path, seed: int, each: int
) -> dict[str, Counter[str]]:
    """Mutate one form of a run `each` times in each way; return by reader what came of it."""
    archive = form == "archive"
    path = folder / ("run.zarr.zip" if archive else "run.zarr")
    put = _pack if archive else lay_out
    if form == "compacted":
        history = [_compacted(files, folder) for files in history]
    states: dict[str, list[dict[str, str]]] = {reader: [] for reader in READERS}
    for files in history:
        put(path, files)
        for reader, read in READERS.items():
            states[reader].append(read(path))
    counts: dict[str, Counter[str]] = {reader: Counter() for reader in (*READERS, "failures")}
    for kind, change in KINDS.items():
        for number in range(each):
            random = Random(f"{seed}:{form}:{kind}:{number}")
            files = dict(history[-1])
            change(files, random, history)
            put(path, files)
            if archive and random.random() < 0.25:  # the file itself, too
                whole = {"": path.read_bytes()}
                random.choice([_flip, _truncate, _zero])(whole, random, [])
                path.write_bytes(whole[""])
            for reader in READERS:
                came = outcome(reader, path, states[reader])
                counts[reader][came] += 1
                if reader == "rows" and came not in FINE:
                    counts["failures"][f"{form}, {kind} {number}: {came}"] += 1
    return counts


def run(*, long: bool, seed: int) -> list[Result]:
    """Mutate a run in each form that it may have."""
    total: dict[str, Counter[str]] = {reader: Counter() for reader in (*READERS, "failures")}
    with scratch() as folder:
        history = record_sample(folder / "sample.zarr", seed, attempts=2, side=long)
        for form in ("directory", "compacted", "archive"):
            found = mutate_run(form, history, folder, seed, LONG if long else QUICK)
            total = {key: total[key] + found[key] for key in total}
    shares = {
        reader: ", ".join(f"{count} {came}" for came, count in sorted(total[reader].items()))
        for reader in READERS
    }
    tried = total["rows"].total()
    failures = list(total["failures"])
    checked = Result(
        "mutated runs, verify='rows'",
        tried,
        wrong=total["rows"]["wrong"],
        unopenable=len(failures) - total["rows"]["wrong"],
        notes="; ".join([shares["rows"], f"verify='presence': {shares['presence']}", *failures[:20]]),
        seed=seed,
    )
    wrong = total["plain"]["wrong"]
    control = Result(
        "mutated runs, plain xarray", tried, wrong=wrong, notes=shares["plain"], seed=seed, control=True
    )
    return [checked, control]


if __name__ == "__main__":
    main(run)
