"""Large runs in little time: counts of many layers and steps, no two rows alike, the same for the same seed.

A layer holds normal values, those of every third one cut off below 0 as by a ReLU. Its mean and width drift
over the training and jump a little from step to step; every bucket gets the expected number of values with
Poisson noise, which is what makes counts of a real network hard to compress. The moments are those of values
in the middles of their buckets, so they fit the counts exactly.

    python benchmarks/synthetic.py RUN.zarr --layers 62 --steps 2000
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from actlab.axis import FloatAxis
from actlab.schema import SPLITS, LayerInfo
from actlab.store.row import Row
from actlab.store.writer import RunWriter

__all__ = ["synthetic_row", "write_run"]

AXIS = FloatAxis()
with np.errstate(invalid="ignore"):  # inf - inf, of buckets that stay empty
    BUCKETS = np.stack([(AXIS.lower + AXIS.upper) / 2, AXIS.upper - AXIS.lower])  # middles, widths
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SMALLEST, LARGEST = 1 << 14, 1 << 22  # values of a layer at one step


@njit(cache=True, nogil=True)
def _mix(state: int) -> int:
    """Turn a number into another one that looks like chance (SplitMix64, Steele et al., OOPSLA 2014)."""
    state = np.uint64(state)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@njit(cache=True, nogil=True)
def _poisson(expected: float, bits: int) -> float:
    """Draw a Poisson number by inversion, beyond 16 a rounded normal one, from 64 random bits."""
    if expected > 16:
        total = np.int64(0)
        for part in range(4):  # four uniform numbers of 16 bits are near enough to a normal one
            total += np.int64((bits >> np.uint64(16 * part)) & np.uint64(0xFFFF))
        deviation = (total - 2 * 65535) / (65536 * np.sqrt(1 / 3))
        return max(np.floor(expected + np.sqrt(expected) * deviation + 0.5), 0.0)
    left = np.float64(bits >> np.uint64(11)) / 2.0**53
    share = 1 - expected if expected < 1e-3 else np.exp(-expected)
    number = 0.0
    while left >= share and number < 64:
        left -= share
        number += 1
        share *= expected / number
    return number


@njit(cache=True, nogil=True)
def _fill(
    counts: NDArray[np.uint32],
    moments: NDArray[np.float64],
    buckets: NDArray[np.float64],
    shape: NDArray[np.float64],
    seed: int,
) -> None:
    """Draw counts [layer, bucket] of normal values, and their moments [moment, layer].

    `buckets` are middles and widths [2, bucket], `shape` number, mean and width [3, layer] of the values.
    """
    zero = counts.shape[1] // 2 - 1
    for layer in range(counts.shape[0]):
        n, mean, width = shape[:, layer]
        state = _mix(np.uint64(seed) + np.uint64(layer) * GOLDEN)
        held, first, second = 0.0, 0.0, 0.0
        low, high = np.inf, -np.inf
        if layer % 3 == 2:  # a ReLU
            start = zero + 1
            held = np.floor(n * 0.5 * (1 + math.erf(-mean / width / np.sqrt(2))))
            counts[layer, zero] = held
            low = high = 0.0
        else:
            start = 2
        density = n / (width * np.sqrt(2 * np.pi))
        for bucket in range(start, counts.shape[1] - 3):
            middle, expected = buckets[0, bucket], density * buckets[1, bucket]
            distance = (middle - mean) / width
            if expected < 1e-3 or abs(distance) > 5.5:
                continue
            expected *= np.exp(-0.5 * distance * distance)
            state += GOLDEN
            number = _poisson(expected, _mix(state))
            if number > 0:
                counts[layer, bucket] = number
                held += number
                first += number * middle
                second += number * middle * middle
                low, high = min(low, middle), max(high, middle)
        moments[0, layer] = held
        moments[1, layer] = first / held
        moments[2, layer] = np.sqrt(max(second / held - (first / held) ** 2, 0.0))
        moments[3, layer], moments[4, layer] = low, high


def synthetic_row(
    layers: tuple[LayerInfo, ...], split: str, place: tuple[int, int, int, int], progress: float, seed: int
) -> Row:
    """Return the row of a split at a place (step, epoch, batch, train_step), a pure function of all this.

    `progress` is 0 at the start of the training and 1 at its end.
    """
    fixed = np.random.default_rng([seed, len(layers)])
    n = np.exp(fixed.uniform(np.log(SMALLEST), np.log(LARGEST), len(layers)))
    start, drift, scale, growth = fixed.normal(0, (0.3, 0.5, 0.7, 0.5), (len(layers), 4)).T
    step = place[0]
    jump = np.random.default_rng([seed, SPLITS.index(split), step])
    mean = start + drift * progress + 0.02 * jump.normal(size=len(layers))
    width = np.exp(scale + growth * progress + 0.02 * jump.normal(size=len(layers)))
    counts = np.zeros((len(layers), AXIS.n_buckets), np.uint32)
    moments = np.empty((5, len(layers)))
    _fill(counts, moments, BUCKETS, np.stack([n, mean, width]), int(jump.integers(2**63)))
    values, *others = moments
    loss = {"loss": float(np.exp(-3 * progress))}
    return Row(split, *place, 1.7e9 + step, layers, counts, values.astype(np.uint64), *others, logs=loss)


def write_run(
    path: Path, n_layers: int, rows: Mapping[str, int], *, n_epochs: int = 4, seed: int = 0, **attributes: Any
) -> None:
    """Write a run of so many layers and so many rows of each split, spread over the epochs.

    In each epoch the splits come in the order of `rows`; `attributes` are those of the writer.
    """
    names = [f"block{number // 3}.{('conv', 'bn', 'relu')[number % 3]}" for number in range(n_layers)]
    size = (SMALLEST,)
    layers = tuple(LayerInfo(name, name.rpartition(".")[2].title(), "", size, 1) for name in names)
    said = {"head": names[-1], "model": "Synthetic"} | attributes
    options = {"fsync": False, "on_full": "block", "on_error": "raise", "flush_every": 5.0}
    writer = RunWriter(path, axis=AXIS, attributes=said, **options)
    done = dict.fromkeys(rows, 0)
    for epoch in range(n_epochs):
        for split, total in rows.items():
            first, end = done[split], total * (epoch + 1) // n_epochs
            for step in range(first, end):
                trained = step if split == "train" else done.get("train", 0)
                progress = (epoch + (step - first + 1) / (end - first)) / n_epochs
                place = (step, epoch, step - first, trained)
                writer.append(synthetic_row(layers, split, place, progress, seed))
            done[split] = end
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--layers", type=int, default=62)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    write_run(options.path, options.layers, {"train": options.steps}, seed=options.seed)
    seconds = time.perf_counter() - start
    held = sum(file.stat().st_size for file in options.path.rglob("*") if file.is_file())
    each = held / options.layers / options.steps
    print(f"{held / 1e6:.0f} MB, {each:.0f} bytes a layer and step, {seconds:.0f} s")


if __name__ == "__main__":
    main()
