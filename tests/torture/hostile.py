"""Runs made to harm who opens them: the table of ../shared/notes/store-facts.md, section 1g."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

CHUNK = "train/step/c.0"
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


def _edit(store: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change the root record: (document, nodes)."""
    document = json.loads((store / "zarr.json").read_bytes())
    change(document, document["consolidated_metadata"]["metadata"])
    (store / "zarr.json").write_text(json.dumps(document))


def _node(name: str, **values: Any) -> Callable[[Path], None]:
    """Return a corruption: give a node these values."""
    return lambda store: _edit(store, lambda _, nodes: nodes[name].update(values))


def _recoded(codec: dict[str, Any], data: Callable[[], bytes]) -> Callable[[Path], None]:
    """Return a corruption: another compressor for `step`, and its only chunk."""

    def corrupt(store: Path) -> None:
        _node("train/step", codecs=[LITTLE, codec])(store)
        (store / CHUNK).write_bytes(data())

    return corrupt


def _sealed(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(4, "little")


def _chunk(data: Callable[[bytes], bytes], name: str = CHUNK) -> Callable[[Path], None]:
    """Return a corruption: another content of a chunk, its checksum right."""
    return lambda store: (store / name).write_bytes(_sealed(data((store / name).read_bytes()[:-4])))


def _blosc_says(place: int, value: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + struct.pack("<I", value) + data[place + 4 :]


def _replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Return a corruption: something else in place of a file."""

    def corrupt(store: Path) -> None:
        (store / name).unlink()
        make(store / name)

    return corrupt


def _text(text: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda store: (store / "zarr.json").write_bytes(text())


def _renamed(name: str) -> Callable[[Path], None]:
    """Return a corruption: an array more, of this name."""
    return lambda store: _edit(store, lambda _, nodes: nodes.update({name: nodes["train/step"]}))


def _resized(dim: str, size: int) -> Callable[[Path], None]:
    """Return a corruption: all arrays of `train` agree on a length, as does the attribute `rows`."""

    def change(document: dict[str, Any], nodes: dict[str, Any]) -> None:
        document["attributes"]["actlab"]["rows"]["train"] = size
        for name, node in nodes.items():
            if name.startswith("train/") and name.count("/") == 1 and dim in node.get("dimension_names", ()):
                node["shape"][node["dimension_names"].index(dim)] = size

    return lambda store: _edit(store, change)


def _separated(document: dict[str, Any], nodes: dict[str, Any]) -> None:
    nodes["train/step"]["chunk_key_encoding"]["configuration"]["separator"] = "/../"


def _pickled(store: Path) -> None:
    """Put an array of Zarr v2 with a pickle beside the others."""
    folder = store / "train" / "old"
    folder.mkdir()
    (folder / "0").write_bytes(b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    metadata = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": 0, "order": "C"}
    metadata |= {"compressor": None, "filters": [{"id": "pickle"}]}
    (folder / ".zarray").write_text(json.dumps(metadata))


def _texts_bomb(store: Path) -> None:
    """Let the names of the layers be 256 MiB of zeros once decompressed."""
    data = bytes(Blosc("zstd", 1, 0).encode(np.zeros(255 << 20, np.uint8)))
    (store / "train/layer/c.0").write_bytes(_sealed(data))


def _counts_bomb(_: dict[str, Any], nodes: dict[str, Any]) -> None:
    """Let the counts be one chunk of 512 MiB."""
    chunks = nodes["train/counts"]["chunk_grid"]["configuration"]["chunk_shape"]
    chunks[0] = (512 << 20) // (4 * chunks[1] * chunks[2])


def _folder_link(store: Path) -> None:
    """Put an array out of the run, and a link to it in its place."""
    outside = store.parent.with_name("outside")
    shutil.rmtree(outside, ignore_errors=True)
    (store / "train/step").rename(outside)
    (store / "train/step").symlink_to(outside)


def _zstd_huge() -> bytes:
    """Return a zstd frame that says it holds 2^50 bytes."""
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 50) + b"\x01\x00\x00"


_GZIP = {"name": "gzip", "configuration": {"level": 1}}
_ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}

CORPUS: dict[str, Callable[[Path], None]] = {
    "zstd-bomb": _recoded(_ZSTD, lambda: bytes(Zstd(1).encode(bytes(1 << 30)))),
    "zstd-2^50": _recoded(_ZSTD, _zstd_huge),
    "gzip-bomb": _recoded(_GZIP, lambda: gzip.compress(bytes(512 << 20), 1)),
    "blosc-2GiB": _chunk(_blosc_says(4, 2**31 - 20)),
    "blosc-block": _chunk(_blosc_says(8, 2**31 - 20)),
    "blosc-size": _chunk(_blosc_says(12, 2**31 - 20)),
    "blosc-start": _chunk(_blosc_says(16, 2**31 - 20)),
    "blosc-short": _chunk(lambda data: data[:15]),
    "texts-bomb": _texts_bomb,
    "counts-bomb": lambda store: _edit(store, _counts_bomb),
    "shape-2^40": _resized("step", 1 << 40),
    "coordinate-2^33": _resized("step", 1 << 33),
    "chunk-fifo": _replaced(CHUNK, os.mkfifo),
    "record-fifo": _replaced("zarr.json", os.mkfifo),
    "chunk-link": _replaced(CHUNK, lambda file: file.symlink_to("/etc/hostname")),
    "folder-link": _folder_link,
    "chunk-zero": _replaced(CHUNK, lambda file: file.symlink_to("/dev/zero")),
    "record-link": _replaced("zarr.json", lambda file: file.symlink_to("/dev/zero")),
    "chunk-folder": _replaced(CHUNK, Path.mkdir),
    "name-up": _renamed("train/../../outside"),
    "name-root": _renamed("/etc"),
    "name-backslash": _renamed("train\\..\\x"),
    "separator": lambda store: _edit(store, _separated),
    "pickle": _pickled,
    "pickle-codec": _node("train/step", codecs=[{"name": "numcodecs.pickle", "configuration": {}}]),
    "unknown-codec": _node("train/step", codecs=[{"name": "nobody.knows", "configuration": {}}]),
    "depth": _text(lambda: b'{"zarr_format":3,"node_type":"group","attributes":' + b"[" * 100_000),
    "deep": _text(lambda: b"[" * 100_000 + b"]" * 100_000),
    "broken": _text(lambda: b'{"zarr_format": 3, "node_type": "gro'),
    "huge-number": _text(lambda: b'{"zarr_format": ' + b"9" * 1_000_000 + b"}"),
    "record-200MB": _text(lambda: b'{"zarr_format": 3, "x": "' + b"x" * (200 << 20) + b'"}'),
    "arrays-20000": lambda store: _edit(
        store, lambda _, nodes: nodes.update({f"train/x{n}": nodes["train/step"] for n in range(20_000)})
    ),
    "chunk-0": _node("train/step", chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0]}}),
    "lying-dtype": _node("train/step", data_type="float64"),
    "v2": lambda store: _edit(store, lambda document, _: document.update(zarr_format=2)),
} | {f"shape-{value!r}": _node("train/step", shape=[value]) for value in (-1, 1.5, "9", True, None, 10**30)}
