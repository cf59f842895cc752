"""Stores made to harm whoever opens them: one StoreError, at once, and no memory for it."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import google_crc32c
import numcodecs
import numpy as np
import pytest

from actlab.store.layout import ROOT
from actlab.store.writer import RunWriter

_READER = Path(__file__).with_name("open_hostile.py")


def sealed(data):
    return data + google_crc32c.value(data).to_bytes(4, "little")


def edit(change):
    """Return what changes the root record."""

    def harm(run):
        document = json.loads((run / ROOT).read_text())
        change(document, document["consolidated_metadata"]["metadata"])
        (run / ROOT).write_text(json.dumps(document))

    return harm


def node(name="train/n", **changes):
    return edit(lambda document, nodes: nodes[name].update(changes))


def said(**changes):
    return edit(lambda document, nodes: document["attributes"]["actlab"].update(changes))


def text(old, new):
    """Return what replaces a part of the root record, as text."""

    def harm(run):
        record = (run / ROOT).read_text()
        assert old in record
        (run / ROOT).write_text(record.replace(old, new, 1))

    return harm


def record(data):
    return lambda run: (run / ROOT).write_bytes(data)


def chunk(data, name="train/n/c.0.0", *steps):
    """Return what replaces a chunk, after other changes."""

    def harm(run):
        for step in steps:
            step(run)
        (run / name).write_bytes(data)

    return harm


def instead(make, name="train/n/c.0.0"):
    """Return what replaces a file by something else."""

    def harm(run):
        (run / name).unlink()
        make(run / name)

    return harm


def linked_directory(run):
    (run / "train" / "n").rename(run.parent / f"{run.name}.elsewhere")
    (run / "train" / "n").symlink_to(run.parent / f"{run.name}.elsewhere")


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
ZSTD = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
CRC = {"name": "crc32c"}
VLEN = {"name": "vlen-utf8"}
BLOSC = {
    "name": "blosc",
    "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0},
}
BOMB = numcodecs.Zstd(1).encode(bytes(300 << 20))
UNSIZED = b"\x28\xb5\x2f\xfd\x00\x58" + BOMB[6:][:0] + b"\x01\x00\x00"  # a frame of one empty last block
ABSURD = b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + b"\x01\x00\x00"


def blosc(nbytes=None, blocksize=None, size=None):
    data = numcodecs.Blosc("zstd", 1, 1).encode(np.zeros(512, np.uint64))
    header = list(struct.unpack("<BBBBIII", data[:16]))
    for place, value in ((4, nbytes), (5, blocksize), (6, size)):
        header[place] = header[place] if value is None else value
    return struct.pack("<BBBBIII", *header) + data[16:]


def strings(count, lengths):
    return b"".join(length.to_bytes(4, "little") for length in (count, *lengths))


def rows(size):
    """Return what says that there are so many rows, in chunks as large as may be."""

    def change(document, nodes):
        document["attributes"]["actlab"]["rows"]["train"] = size
        for name in nodes:
            each = nodes[name]
            if name.startswith("train/") and each.get("dimension_names", [""])[0] == "step":
                grid = each["chunk_grid"]["configuration"]["chunk_shape"]
                each["shape"][0], grid[0] = size, (1 << 25) // int(np.prod(grid[1:]))

    return change


def rows_of_nothing(run):
    """Make a gigabyte of `step` that is all there, and small on disk."""
    edit(rows(1 << 27))(run)
    nodes = json.loads((run / ROOT).read_text())["consolidated_metadata"]["metadata"]
    filler = sealed(numcodecs.Blosc("zstd", 1, 1).encode(np.zeros(1 << 25, np.int64)))
    for name, each in nodes.items():
        if name.startswith("train/") and each.get("shape", [0])[0] == 1 << 27:
            tail = ".0" * (len(each["shape"]) - 1)
            for number in range((1 << 27) // each["chunk_grid"]["configuration"]["chunk_shape"][0]):
                (run / name / f"c.{number}{tail}").write_bytes(filler if name == "train/step" else b"x")


def foreign_index(run):
    def change(document, nodes):
        nodes["train/other"] = nodes["train/step"] | {"shape": [1 << 33], "dimension_names": ["other"]}
        nodes["train/other"]["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": [1 << 25]}}

    edit(change)(run)
    (run / "train" / "other").mkdir()
    for number in range(256):
        (run / "train" / "other" / f"c.{number}").write_bytes(b"x")


def many_arrays(document, nodes):
    for number in range(20_000):
        nodes[f"x{number}"] = nodes["train/step"]


def shards(**changes):
    def change(document, nodes):
        inner = {
            "chunk_shape": [1, 3],
            "codecs": [BYTES, ZSTD, CRC],
            "index_codecs": [BYTES, CRC],
            "index_location": "end",
        }
        grid = {"name": "regular", "configuration": {"chunk_shape": [4, 3]}}
        codecs = [{"name": "sharding_indexed", "configuration": inner | changes}]
        nodes["train/n"].update(codecs=codecs, chunk_grid=grid, shape=[4, 3])
        nodes["train/n"]["chunk_grid"] = grid

    return edit(change)


def shard(*entries):
    """Return a shard of 4 chunks of which only the index is sound."""
    return bytes(64) + sealed(struct.pack("<8Q", *entries))


EVIL = pickle.dumps(os.system)
RECORDS = {
    "JSON of nested brackets": record(b"[" * (16 << 20)),
    "JSON of empty lists": record(b"[" + b"[]," * (5 << 20) + b"[]]"),
    "JSON of small numbers": record(b"[" + b"1.5," * (3 << 20) + b"1]"),
    "a record of 200 MB": record(b" " * (200 << 20)),
    "a long number": text('"commit":', '"commit":' + "9" * 5000 + ',"x":'),
    "a number of 10^30": text('"commit":', '"commit":' + "9" * 30 + ',"x":'),
    "a length of 10^30": node(shape=[10**30, 3]),
    "not a number": text('"commit":', '"x":NaN,"commit":'),
    "an infinite number": text('"commit":', '"x":-Infinity,"commit":'),
    "a number that is too large": text('"commit":', '"x":1e999,"commit":'),
    "a key twice": text('"commit":', '"commit":1,"commit":'),
    "a negative length": node(shape=[-5, 3]),
    "a length as a fraction": node(shape=[5.0, 3]),
    "a length that is true": node(shape=[True, 3]),
    "a chunk of length 0": node(chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0, 3]}}),
    "a chunk of length true": node(
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [True, 3]}}
    ),
    "an irregular grid": node(chunk_grid={"name": "rectilinear", "configuration": {"chunk_shape": [8, 8]}}),
    "keys of Zarr 2": node(chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}}),
    "an array of Zarr 2": node(zarr_format=2, compressor={"id": "pickle"}, filters=None),
    "a codec that nobody knows": node(codecs=[BYTES, {"name": "magic"}]),
    "pickle as a codec": node(codecs=[{"name": "numcodecs.pickle"}]),
    "pickle behind text": node("train/layer", codecs=[VLEN, {"name": "numcodecs.pickle"}, CRC]),
    "gzip": node(codecs=[BYTES, {"name": "gzip", "configuration": {"level": 1}}]),
    "two compressions": node(codecs=[BYTES, ZSTD, ZSTD, CRC]),
    "no bytes": node(codecs=[ZSTD, CRC]),
    "text of numbers": node(codecs=[VLEN, CRC]),
    "a transpose of other dims": node(
        codecs=[{"name": "transpose", "configuration": {"order": [0, 0]}}, BYTES]
    ),
    "a transpose that is true": node(
        codecs=[{"name": "transpose", "configuration": {"order": [0, True]}}, BYTES]
    ),
    "a codec with words for numbers": node(codecs=[BYTES, {"name": "zstd", "configuration": {"level": "x"}}]),
    "blocks of blosc of 2 GiB": node(
        codecs=[BYTES, {"name": "blosc", "configuration": BLOSC["configuration"] | {"blocksize": 1 << 31}}]
    ),
    "a fill value of another kind": node(fill_value="x"),
    "a fill value out of range": node(fill_value=-1),
    "a dtype of objects": node(data_type="object"),
    "a dtype as a mapping": node(
        data_type={"name": "fixed_length_utf32", "configuration": {"length_bytes": 4}}
    ),
    "a transformer": node(storage_transformers=[{"name": "magic"}]),
    "an attribute that scales": node(attributes={"scale_factor": 2.0}),
    "an attribute that masks": node(attributes={"missing_value": 3}),
    "another epoch of time": node("train/time", attributes={"units": "seconds since 1900-01-01"}),
    "dims that are null": node(dimension_names=None),
    "20,000 arrays": edit(many_arrays),
    "a name that leads out": edit(lambda document, nodes: nodes.update({"../x": nodes["train/n"]})),
    "an absolute name": edit(lambda document, nodes: nodes.update({"/etc/passwd": nodes["train/n"]})),
    "a backslash in a name": edit(lambda document, nodes: nodes.update({"a\\..\\x": nodes["train/n"]})),
    "a name of 200 characters": edit(lambda document, nodes: nodes.update({"x" * 200: nodes["train/n"]})),
    "2^33 rows": edit(rows(1 << 33)),
    "2^27 rows of nothing": rows_of_nothing,
    "no attempts": said(attempts=[]),
    "an attempt that is none": said(attempts=[0, -1]),
    "steps of no split": said(steps=[1]),
    "a parent that is none": said(parent=3),
    "compacted as a word": said(compacted="yes"),
    "a layer twice": edit(
        lambda document, nodes: document["attributes"]["actlab"]["layers"][1].update(name="layer0")
    ),
    "an absurd axis": said(
        axis={"kind": "float", "mantissa_bits": 60, "min_exponent": -24, "max_exponent": 31}
    ),
}
CHUNKS = {
    "a pipe": instead(os.mkfifo),
    "a pipe as the record": instead(os.mkfifo, ROOT),
    "a link to a secret": instead(lambda path: path.symlink_to("/etc/passwd")),
    "a link to no end": instead(lambda path: path.symlink_to("/dev/zero")),
    "a record linked to no end": instead(lambda path: path.symlink_to("/dev/zero"), ROOT),
    "a link to a directory": linked_directory,
    "a directory": instead(Path.mkdir),
    "a chunk of 600 MB": instead(
        lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 600 << 20)
    ),
    "a bomb of zstd": chunk(BOMB, "train/n/c.0.0", node(codecs=[BYTES, ZSTD])),
    "a sealed bomb of zstd": chunk(sealed(BOMB), "train/n/c.0.0", node(codecs=[BYTES, ZSTD, CRC])),
    "zstd that claims 2^50": chunk(ABSURD, "train/n/c.0.0", node(codecs=[BYTES, ZSTD])),
    "zstd of no known size": chunk(UNSIZED, "train/n/c.0.0", node(codecs=[BYTES, ZSTD])),
    "zstd that is none": chunk(b"x" * 100, "train/n/c.0.0", node(codecs=[BYTES, ZSTD])),
    "blosc that claims 2 GiB": chunk(sealed(blosc(nbytes=(2 << 30) - 1))),
    "blosc of huge blocks": chunk(sealed(blosc(blocksize=(2 << 30) - 1))),
    "blosc of another size": chunk(sealed(blosc(size=1 << 20))),
    "bytes of another size": chunk(bytes(100), "train/n/c.0.0", node(codecs=[BYTES])),
    "an empty chunk": chunk(b""),
    "a lying dtype": node("train/mean", data_type="float64", codecs=[BYTES, CRC]),
    "counts by column that claim more": chunk(sealed(blosc(nbytes=1 << 30)), "train/counts/c.0.0.0"),
    "counts by column of no blocks": chunk(sealed(blosc(blocksize=1)), "train/counts/c.0.0.0"),
    "2^32 - 1 strings": chunk(
        sealed(strings(2**32 - 1, [])), "train/layer/c.0", node("train/layer", codecs=[VLEN, CRC])
    ),
    "a string of 4 GiB": chunk(
        sealed(strings(8, [2**32 - 1] * 8)), "train/layer/c.0", node("train/layer", codecs=[VLEN, CRC])
    ),
    "a bomb of text": chunk(
        sealed(numcodecs.Blosc("zstd", 1, 0).encode(bytes(200 << 20))),
        "train/layer/c.0",
        node("train/layer", codecs=[VLEN, BLOSC, CRC]),
    ),
    "text that is not UTF-8": chunk(
        sealed(strings(8, [1]) + b"\xff" + strings(0, [0] * 6)),
        "train/layer/c.0",
        node("train/layer", codecs=[VLEN, CRC]),
    ),
    "a shard with chunks elsewhere": chunk(shard(*[1 << 62, 8] * 4), "train/n/c.0.0", shards()),
    "a shard with absurd chunks": chunk(shard(*[0, 1 << 62] * 4), "train/n/c.0.0", shards()),
    "a shard without chunks": chunk(shard(*[2**64 - 1] * 8), "train/n/c.0.0", shards()),
    "a shard without an index": chunk(b"x", "train/n/c.0.0", shards()),
    "shards within shards": shards(codecs=[{"name": "sharding_indexed", "configuration": {}}]),
    "an index of shards that is compressed": shards(index_codecs=[BYTES, ZSTD]),
    "shards of chunks of length 0": shards(chunk_shape=[0, 3]),
}


def zipped(run, change=lambda archive: None, compression=zipfile.ZIP_STORED):
    """Return a run as the bytes of an archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for file in sorted(run.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(run))
        change(archive)
    return made.getvalue()


def central(data, offset, value):
    """Return an archive whose directory says something else of its first member."""
    place = data.index(b"PK\1\2") + offset
    return data[:place] + value + data[place + len(value) :]


def bomb(run):
    (run / ROOT).write_bytes(bytes(200 << 20))
    return zipped(run, compression=zipfile.ZIP_DEFLATED)


def hollow(run, size):
    """An archive whose first member says that it inflates to a large chunk, and does."""
    data = zlib.compress(bytes(size), 9)
    (run / "train" / "n" / "c.0.0").write_bytes(bytes(size))
    assert len(data) < size
    return zipped(run, compression=zipfile.ZIP_DEFLATED)


ARCHIVES = {
    "an archive cut off": lambda run: zipped(run)[:-30],
    "an archive that is none": lambda run: b"PK" + bytes(1000),
    "an archive of something else": lambda run: zipped(
        run.parent / "nothing", lambda archive: archive.writestr("a", "b")
    ),
    "an encrypted member": lambda run: central(zipped(run), 8, b"\1\0"),
    "a member of absurd size": lambda run: central(zipped(run), 20, struct.pack("<II", 2**32 - 2, 2**32 - 2)),
    "a stored member that grows": lambda run: central(zipped(run), 24, struct.pack("<I", 2**31)),
    "another compression": lambda run: zipped(run, compression=zipfile.ZIP_LZMA),
    "a bomb as the record": bomb,
    "a bomb as a chunk": lambda run: hollow(run, 400 << 20),
    "a member that lies outside": lambda run: zipped(run, lambda archive: archive.writestr("../x", "y")),
    "a member with an absolute name": lambda run: zipped(run, lambda archive: archive.writestr("/x", "y")),
    "a directory that is too large": lambda run: zipped(
        run, lambda archive: [archive.writestr(f"{number:0200}", "") for number in range(40_000)]
    ),
}


def twice(run):
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zipped(run, lambda archive: archive.writestr(ROOT, b"{}"))


ARCHIVES["a member twice"] = twice


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, small_axis, make_row):
    """Return what came of every hostile store, by name."""
    directory = tmp_path_factory.mktemp("hostile")
    sound = directory / "sound.zarr"
    writer = RunWriter(sound, axis=small_axis, attributes={"head": "layer2"}, fsync=False)
    for step in range(4):
        writer.append(make_row(step))
    writer.close()
    (directory / "nothing").mkdir()
    paths = {}
    for number, (name, harm) in enumerate((RECORDS | CHUNKS).items()):
        paths[name] = Path(shutil.copytree(sound, directory / f"{number}.zarr"))
        harm(paths[name])
    for number, (name, make) in enumerate(ARCHIVES.items()):
        copy = Path(shutil.copytree(sound, directory / f"copy{number}.zarr"))
        paths[name] = directory / f"{number}.zarr.zip"
        paths[name].write_bytes(make(copy))
        shutil.rmtree(copy)
    (directory / "sound.zarr.zip").write_bytes(zipped(sound, compression=zipfile.ZIP_DEFLATED))
    paths["a sound archive"] = directory / "sound.zarr.zip"
    paths["a sound run"] = sound
    foreign = paths["2^33 entries of a foreign index"] = shutil.copytree(sound, directory / "foreign.zarr")
    foreign_index(foreign)
    asked = "\n".join([str(sound), *map(str, paths.values())])
    found = subprocess.run(
        [sys.executable, str(_READER)], input=asked, capture_output=True, text=True, timeout=120, check=False
    )
    lines = found.stdout.splitlines()
    assert len(lines) == len(paths), found.stderr[-2000:]
    return {
        name: json.loads(line) | {"path": str(paths[name])} for name, line in zip(paths, lines, strict=True)
    }


@pytest.mark.parametrize("name", [*RECORDS, *CHUNKS, *ARCHIVES])
def test_it_is_refused_in_one_line_at_once_without_memory(name, outcomes):
    found = outcomes[name]
    assert found["kind"] == "StoreError", found
    assert found["message"].startswith(f"{found['path']}: ")
    assert "\n" not in found["message"]
    assert len(found["message"]) < len(found["path"]) + 300
    assert found["seconds"] < 1
    assert found["mib"] < 100


@pytest.mark.parametrize("name", ["a sound archive", "a sound run", "2^33 entries of a foreign index"])
def test_what_does_no_harm_is_read(name, outcomes):
    assert outcomes[name]["kind"] is None, outcomes[name]
    assert outcomes[name]["mib"] < 100
