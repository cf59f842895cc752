"""Random mutations of the metadata of a run, and of chunks whose checksum is made right again."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

import google_crc32c

ROOT = "zarr.json"


def mutate(files: dict[str, bytes], seed: str) -> tuple[str, bytes, str]:
    """Return the name of a file of a run ("" for the run as an archive), other bytes, and what was done."""
    random = Random(seed)
    draw = random.random()
    if draw < 0.6:
        return ROOT, mutated_record(files[ROOT], random), "record"
    if draw < 0.7:
        return "", mutated_archive(files, random), "archive"
    name = random.choice([name for name in files if not name.endswith(ROOT)])
    return name, mutated_chunk(files[name], random), "chunk"


# Metadata.


def mutated_record(record: bytes, random: Random) -> bytes:
    """Damage the root record in one to four places, now and then as bytes."""
    document = json.loads(record)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        random.choice([_change, _change, _change, *_TARGETED])(document, random)
    data = json.dumps(document).encode()  # NaN and Infinity included
    return _mutated_bytes(data, random) if random.random() < 0.1 else data


def _nested(depth: int) -> Any:
    """Return lists in lists."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 255, 256, 2**31, 2**32, 2**40, 2**40 + 1, 2**53 + 1, 2**63, 2**64),
    *(10**30, -(2**63), 0.5, -0.0, 1e300, float("nan"), float("inf"), float("-inf")),
    *("", "x", "..", "../..", "/etc/passwd", "a\\b", "step", "train", "NaN", "Infinity", "float64", "string"),
    *("\x00", "\ud800", "\u202e", "é" * 200, "x" * 100_000, "1" * 5000, "0x7ff8000000000000"),
    *([], {}, [[]], [{}], {"": {}}, [0], [1], [1, 1], [1, 1, 1], [-1], [2**40], [2**40, 2**40], [None]),
    *([0] * 10_000, _nested(30), _nested(400), {"name": "x"}, {"name": "train", "configuration": {}}),
]
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CODECS: list[Any] = [
    [],
    [{"name": "bytes"}],
    [{"name": "bytes", "configuration": {"endian": "big"}}],
    [_LITTLE, {"name": "crc32c"}],
    [_LITTLE, {"name": "zstd", "configuration": {}}],
    [_LITTLE, {"name": "gzip", "configuration": {"level": 1}}],
    [{"name": "vlen-utf8"}],
    [{"name": "vlen-bytes"}],
    [{"name": "numcodecs.pickle"}],
    [{"name": "transpose", "configuration": {"order": [9, 9]}}, {"name": "bytes"}],
    [{"name": "transpose", "configuration": {"order": [1, 0]}}, {"name": "bytes"}],
    [{"name": "crc32c"}, {"name": "crc32c"}],
    [{"name": "sharding_indexed", "configuration": {"chunk_shape": [1], "codecs": [{"name": "bytes"}]}}],
    [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [2**30],
                "codecs": [{"name": "bytes"}],
                "index_codecs": [{"name": "bytes"}],
                "index_location": "end",
            },
        }
    ],
]
DECODING: list[tuple[str, Any]] = [
    *(("scale_factor", 2.0), ("add_offset", 1.0), ("_FillValue", 0), ("_FillValue", "AAAAAAAA8D8=")),
    *(("missing_value", 0.0), ("dtype", "bool"), ("_Unsigned", "true"), ("units", "days since 2000-01-01")),
    *(("units", "seconds"), ("units", "x since y"), ("calendar", "360_day"), ("_Encoding", "utf-8")),
    *(("coordinates", "step"), ("coordinates", "../x"), ("_ARRAY_DIMENSIONS", ["a"]), ("units", 7)),
]


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value below a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from _places(child, (*path, key))


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def _nodes(document: Any) -> dict[str, Any]:
    """Return the consolidated metadata, if that is still there."""
    found = document.get("consolidated_metadata") if isinstance(document, dict) else None
    nodes = found.get("metadata") if isinstance(found, dict) else None
    return nodes if isinstance(nodes, dict) else {}


def _some_place(document: Any, random: Random) -> tuple[Any, ...]:
    """Choose a value: of the attributes, of one array or group, or any."""
    nodes = _nodes(document)
    base: tuple[Any, ...] = ()
    draw = random.random()
    if draw < 0.4 and isinstance(document.get("attributes"), dict):
        base = ("attributes",)
    elif draw < 0.9 and nodes:
        base = ("consolidated_metadata", "metadata", random.choice(list(nodes)))
    inner = list(_places(_at(document, base), base)) or list(_places(document))
    return random.choice(inner)


def _change(document: Any, random: Random) -> None:
    """Replace, delete, double, wrap, rename or swap a value."""
    if not document:
        return
    *above, key = _some_place(document, random)
    parent = _at(document, tuple(above))
    match random.choice(["junk", "junk", "near", "delete", "wrap", "rename", "swap"]):
        case "junk":
            parent[key] = deepcopy(random.choice(JUNK))
        case "near" if type(parent[key]) is int:
            parent[key] += random.choice([-1, 1, 2**32, -parent[key], parent[key]])
        case "near" if isinstance(parent[key], str):
            parent[key] += random.choice(["x", "/", "\n", " ", ".", "\x00"])
        case "near" if isinstance(parent[key], list):
            random.shuffle(parent[key])
        case "delete":
            del parent[key]
        case "wrap":
            parent[key] = random.choice([[parent[key]], {"x": parent[key]}, str(parent[key])[:99]])
        case "rename" if isinstance(parent, dict):
            names = ["x", "..", "/", "", key.upper(), f"{key}/../x", f"/{key}"]
            parent[random.choice(names)] = parent.pop(key)
        case "swap":
            *there, other = _some_place(document, random)
            beside = _at(document, tuple(there))
            parent[key], beside[other] = deepcopy(beside[other]), deepcopy(parent[key])


def _array(document: Any, random: Random) -> dict[str, Any] | None:
    """Choose the metadata of an array."""
    arrays = [node for node in _nodes(document).values() if isinstance(node, dict) and "codecs" in node]
    return random.choice(arrays) if arrays else None


def _recode(document: Any, random: Random) -> None:
    """Give an array other codecs."""
    if (array := _array(document, random)) is not None:
        array["codecs"] = deepcopy(random.choice(CODECS))


def _redecode(document: Any, random: Random) -> None:
    """Give an array or a group an attribute that tells xarray how to decode it."""
    node = _array(document, random) or document
    key, value = random.choice(DECODING)
    node["attributes"] = {**(node.get("attributes") or {}), key: value}


def _refill(document: Any, random: Random) -> None:
    """Give an array another fill value."""
    if (array := _array(document, random)) is not None:
        array["fill_value"] = deepcopy(random.choice(JUNK))


def _resize(document: Any, random: Random) -> None:
    """Let all arrays of a run agree on another length of a dim, the attribute `rows` included."""
    dim = random.choice(["step", "layer", "bucket", "sample", "row", "channel", "unit"])
    to = random.choice([0, 1, 3, 2**16, 2**20, 2**33, 2**40])
    for node in _nodes(document).values():
        if isinstance(node, dict) and isinstance(dims := node.get("dimension_names"), list):
            shape = node.get("shape")
            if isinstance(shape, list) and len(shape) == len(dims):
                node["shape"] = [to if each == dim else size for each, size in zip(dims, shape, strict=True)]
    said = (document.get("attributes") or {}).get("actlab") if isinstance(document, dict) else None
    if dim == "step" and isinstance(said, dict) and isinstance(said.get("rows"), dict):
        said["rows"] = dict.fromkeys(said["rows"], to)


def _regrid(document: Any, random: Random) -> None:
    """Give an array other chunks."""
    array = _array(document, random)
    if array is not None and isinstance(shape := array.get("shape"), list):
        lengths = [1, 2, 3, 2**10, 2**24, 2**28, 2**40]
        grid = [random.choice(lengths) for _ in shape]
        array["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": grid}}


_TARGETED = (_recode, _redecode, _redecode, _refill, _resize, _regrid)


def _mutated_bytes(data: bytes, random: Random) -> bytes:
    """Damage bytes: flip, cut, insert."""
    place = random.randrange(len(data) + 1)
    match random.choice(["flip", "cut", "insert"]):
        case "flip" if place < len(data):
            return data[:place] + bytes([random.randrange(256)]) + data[place + 1 :]
        case "cut":
            return data[:place]
    return data[:place] + random.choice([b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"}", b"NaN"]) + data[place:]


# Chunks.

_WORDS = (0, 1, 3, 7, 16, 17, 255, 2**20, 2**28, 2**30, 2**31 - 8, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1)


def mutated_chunk(data: bytes, random: Random) -> bytes:
    """Damage a chunk before its checksum, and compute that anew: a lie, not a defect."""
    content = bytearray(data[:-4])
    for _ in range(random.choice([1, 1, 2, 3])):
        random.choice(_LIES)(content, random)
    return bytes(content) + google_crc32c.value(bytes(content)).to_bytes(4, "little")


def _word(content: bytearray, place: int, random: Random) -> None:
    """Write a number that is absurd, or near the size of the buffer."""
    if 0 <= place <= len(content) - 4:
        near = random.randrange(2 * len(content))
        struct.pack_into("<I", content, place, random.choice([random.choice(_WORDS), near]))


def _lie_of_sizes(content: bytearray, random: Random) -> None:
    """Change bytes before compression, of a block, or of the buffer, in a blosc header."""
    _word(content, random.choice([4, 8, 12]), random)


def _lie_of_flags(content: bytearray, random: Random) -> None:
    """Change version, codec, flags or itemsize."""
    if len(content) > 4:
        content[random.randrange(4)] = random.randrange(256)


def _lie_of_starts(content: bytearray, random: Random) -> None:
    """Change where a block starts, or how long its first part is (of a text: how many, how long)."""
    _word(content, random.choice([0, 16, 20, 24, 28]), random)


def _lie_of_bytes(content: bytearray, random: Random) -> None:
    """Change any byte."""
    if content:
        content[random.randrange(len(content))] = random.randrange(256)


def _lie_of_length(content: bytearray, random: Random) -> None:
    """Cut the buffer, or let it go on."""
    if random.random() < 0.5:
        del content[random.choice([0, 1, 4, 15, 16, 20, random.randrange(len(content) + 1)]) :]
    else:
        content += bytes(random.choice([1, 4, 1000]))


def _honest_header(content: bytearray, random: Random) -> None:
    """Let the header say the true length of the buffer, so that later checks are reached."""
    if len(content) >= 16:
        struct.pack_into("<I", content, 12, len(content))


_LIES = (
    _lie_of_sizes,
    _lie_of_flags,
    _lie_of_starts,
    _lie_of_starts,
    _lie_of_bytes,
    _lie_of_bytes,
    _lie_of_length,
    _honest_header,
)


# Archives.

_SIGNATURES = {b"PK\x03\x04": 30, b"PK\x01\x02": 46, b"PK\x05\x06": 22}  # and the bytes of the header


def mutated_archive(files: dict[str, bytes], random: Random) -> bytes:
    """Pack a run and damage headers of the archive, in one to four places."""
    packed = io.BytesIO()
    method = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    content = bytearray(packed.getvalue())
    for _ in range(random.choice([1, 1, 2, 4])):
        signature = random.choice(list(_SIGNATURES))
        place = content.find(signature, random.randrange(len(content)))
        place = content.find(signature) if place < 0 else place
        offset = random.randrange(4, _SIGNATURES[signature] + 8)
        if place >= 0 and random.random() < 0.5:
            _word(content, place + offset, random)
        elif 0 <= place < len(content) - offset:
            content[place + offset] = random.randrange(256)
    return _mutated_bytes(bytes(content), random) if random.random() < 0.2 else bytes(content)
