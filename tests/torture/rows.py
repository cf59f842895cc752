"""Rows that are a pure function of the seed, the attempt and the step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import google_crc32c
import numpy as np

SPLITS = ("train", "valid", "test")
EPOCH, EVALUATION = 8, 2  # training batches an epoch; evaluation batches after each, and before the first
BUCKETS = 16  # of `axis`
LEAN = 1 << 40  # added to a seed: rows without side data, so that a commit has few files
INDEX = ("step", "epoch", "batch", "train_step", "attempt")
_MOMENTS = ("mean", "std", "min", "max")

# One training: evaluation, an epoch, evaluation, an epoch ... Which rows an attempt holds, and every
# byte of them, follow from the seed and where the attempt began.


def events(train: int = 0, valid: int = 0) -> Iterator[tuple[str, int]]:
    """Yield (split, step) of the rows of an attempt that begins at these steps, in order, for ever."""
    while True:
        due = EVALUATION * (train // EPOCH + 1)
        yield from (("valid", step) for step in range(valid, due))
        valid = max(valid, due)
        yield "train", train
        train += 1


def place_of(split: str, step: int) -> tuple[int, int, int]:
    """Return epoch, batch and train_step of a row."""
    if split == "train":
        return step // EPOCH, step % EPOCH, step
    number, batch = divmod(step, EVALUATION)
    return number - 1, batch, EPOCH * number


def n_layers(seed: int, attempt: int, split: str, step: int) -> int:
    """Return how many layers are known in a row: more in each attempt, and one more within it."""
    late = place_of(split, step)[2] >= (7 * seed + 5 * attempt) % 40
    return 3 + 2 * attempt + late


def expected_row(
    seed: int, attempt: int, step: int, split: str = "train"
) -> dict[str, dict[str, np.ndarray]]:
    """Return all arrays of a row: {group below the split, "" for its own: {array: entries}}.

    The first dim of each is the one that grows: one entry in the split's own group, one a row or a
    sample in the others. Arrays over layers, channels and labels are as long as is known in the row.
    """
    random = np.random.default_rng([seed, SPLITS.index(split), attempt, step])
    layers = n_layers(seed, attempt, split, step)
    counts = random.integers(0, 2**32, (1, layers, BUCKETS), dtype=np.uint32)
    own = dict(zip(INDEX, (step, *place_of(split, step), attempt), strict=True))
    own = {name: np.array([value]) for name, value in own.items()}
    own |= {"time": 1.7e9 + random.random(1), "n": counts.sum(axis=2, dtype=np.uint64), "counts": counts}
    own |= dict(zip(_MOMENTS, random.normal(size=(4, 1, layers)), strict=True))
    own["mean"][random.random((1, layers)) < 0.2] = np.nan
    own["log_loss"] = random.normal(size=1)
    if attempt % 2 == 1:
        own["log_late"] = random.normal(size=1)
    groups = {"": own} | _samples_of(random, step) | _side_of(random, attempt, step)
    if seed >= LEAN:
        groups = {"": own, "raw": groups["raw"]}
    for group, arrays in groups.items():
        if group == "raw" or group.startswith("samples/"):
            size = len(next(iter(arrays.values())))
            arrays |= {
                name: np.full(size, step)
                for name in ("step", "sample_step")
                if name == "sample_step" or group == "raw"
            }
            arrays["attempt"] = np.full(size, attempt)
        elif group:
            arrays |= {"row_step": np.array([step]), "row_attempt": np.array([attempt])}
    return groups


def _samples_of(random: np.random.Generator, step: int) -> dict[str, dict[str, np.ndarray]]:
    """Return what is kept raw: the head, often with labels, and in some rows two layers."""
    size = 1 + step % 3
    head = random.normal(size=(size, 2)).astype(np.float32)
    groups = {"raw": {"head": head} | ({"label": random.integers(0, 2, size)} if step % 4 else {})}
    if step % 5 == 1:
        for name, shape, dtype in (("layer1", (2, 3), np.float32), ("layer2", (), np.float16)):
            values = random.normal(size=(size, *shape)).astype(dtype)
            groups[f"samples/{name}"] = {"values": values, "index": np.arange(size)[::-1].copy()}
    return groups


def _side_of(random: np.random.Generator, attempt: int, step: int) -> dict[str, dict[str, np.ndarray]]:
    """Return the channels, the head by unit and truth, and by label, of the rows that have them."""
    groups = {}
    if step % 4 == 2:
        n = random.integers(1, 9, (1, sum(channels_of(attempt).values()))).astype(np.uint64)
        zeros = random.integers(0, n, endpoint=True, dtype=np.uint64)
        groups["channels"] = {"n": n, "zeros": zeros, "mean_abs": random.random(n.shape)}
    if step % 4 == 3:
        groups["head"] = {"counts": random.integers(0, 99, (1, 2, 3, BUCKETS), dtype=np.uint32)}
        n, mean, std = random.normal(10, 2, (3, 1, 3 + attempt, 2))
        groups["labels"] = {"n": n.astype(np.uint64), "mean": mean, "std": std}
    return groups


def channels_of(attempt: int) -> dict[str, int]:
    """Return the layers that have channels, and how many: one layer more after a first resume."""
    return {"layer0": 3, "layer1": 2} | ({"layer2": 20} if attempt else {})


def checksum_of(groups: dict[str, dict[str, np.ndarray]]) -> int:
    """Return the `row_crc32c` of a row, written anew from docs/format.md."""
    own = groups[""]
    parts = [own[name].astype("<i8") for name in INDEX] + [own["time"].astype("<f8")]
    parts += [own["n"], *(own[name] for name in _MOMENTS), own["counts"]]
    for name in sorted(own):
        if name.startswith("log_"):
            parts += [name.removeprefix("log_").encode(), own[name]]
    raw = groups["raw"]
    parts += [raw["head"], raw.get("label", b"")]
    if "channels" in groups:
        parts += [groups["channels"][name] for name in ("n", "zeros", "mean_abs")]
    for group in sorted(each for each in groups if each.startswith("samples/")):
        parts += [group.removeprefix("samples/").encode(), groups[group]["values"], groups[group]["index"]]
    if "head" in groups:
        parts.append(groups["head"]["counts"])
    if "labels" in groups:
        parts += [groups["labels"][name] for name in ("n", "mean", "std")]
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part if isinstance(part, bytes) else part.tobytes())
    return crc


# The writing side: only these two know actlab, and only when called.


@cache
def axis():
    """Return the recording axis of all harnesses: 16 buckets."""
    from actlab.axis import FloatAxis

    return FloatAxis(mantissa_bits=1, min_exponent=0, max_exponent=1)


def as_row(seed: int, attempt: int, step: int, split: str = "train"):
    """Return `expected_row` as the `Row` that a writer takes."""
    from actlab.schema import LayerInfo
    from actlab.store.row import ChannelStats, HeadCounts, LabelMoments, RawSamples, Row

    groups = expected_row(seed, attempt, step, split)
    own = {name: array[0] for name, array in groups[""].items() if name != "attempt"}
    logs = {name.removeprefix("log_"): float(own.pop(name)) for name in list(own) if name.startswith("log_")}
    own |= {name: own[name].item() for name in ("step", "epoch", "batch", "train_step", "time")}
    side = {}
    if "channels" in groups:
        sizes = channels_of(attempt)
        block = {name: groups["channels"][name][0] for name in ("n", "zeros", "mean_abs")}
        side["channels"] = ChannelStats(tuple(sizes), tuple(sizes.values()), **block)
    if "head" in groups:
        side["head_counts"] = HeadCounts(groups["head"]["counts"][0], pooled=False)
        block = {name: groups["labels"][name][0] for name in ("n", "mean", "std")}
        side["label_moments"] = LabelMoments(**block)
    side["samples"] = {
        group.removeprefix("samples/"): RawSamples(arrays["values"], arrays["index"])
        for group, arrays in groups.items()
        if group.startswith("samples/")
    }
    layers = tuple(LayerInfo(f"layer{number}") for number in range(len(own["n"])))
    raw = groups["raw"]
    return Row(split=split, layers=layers, logs=logs, head=raw["head"], label=raw.get("label"), **own, **side)
