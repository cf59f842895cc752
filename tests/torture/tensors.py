"""A training of a tiny model whose every activation is a pure function, and the check of its run.

The check bins the values anew, by the bucket ends that the run itself gives, and knows no actlab.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from tests.torture.rows import SPLITS, place_of

LAYERS = ("input", "squash", "head")
_SHAPE = (5, 6)
_TOLERANCE = 1e-6  # of mean and std, relative to both: kernels may add up in float32 within a block


def values_of(seed: int, attempt: int, split: str, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the float32 input of a batch and its labels."""
    random = np.random.default_rng([seed, SPLITS.index(split), attempt, step, 5])
    values = (random.normal(size=_SHAPE) * 10.0 ** random.integers(-3, 4)).astype(np.float32)
    values[random.random(_SHAPE) < 0.05] = random.choice([np.nan, np.inf, -np.inf, 0, 1e30])
    return values, random.integers(0, _SHAPE[1], _SHAPE[0])


def outputs_of(values: np.ndarray) -> list[np.ndarray]:
    """Return what the layers put out for an input."""
    squashed = np.clip(values, -1, 1)
    return [values, squashed, np.maximum(squashed, 0)]


def loss_of(seed: int, attempt: int, step: int) -> float:
    """Return the scalar that the training logs."""
    return float(np.random.default_rng([seed, attempt, step, 6]).random())


def make_model():
    """Return the model: two layers without parameters."""
    from collections import OrderedDict

    from torch import nn

    return nn.Sequential(OrderedDict(squash=nn.Hardtanh(), head=nn.ReLU()))


@lru_cache(2_000)
def _expected(seed: int, attempt: int, split: str, step: int, lower: bytes, upper: bytes) -> dict:
    """Return the arrays of one row."""
    values, label = values_of(seed, attempt, split, step)
    outputs = outputs_of(values)
    row = dict(zip(("epoch", "batch", "train_step"), place_of(split, step), strict=True))
    row |= {"step": step, "attempt": attempt, "n": np.full(len(outputs), values.size)}
    row["counts"] = np.stack([_count(each, np.frombuffer(lower), np.frombuffer(upper)) for each in outputs])
    finite = [each[np.isfinite(each)].astype(np.float64) for each in outputs]
    row |= {
        name: np.array([getattr(each, name)() for each in finite]) for name in ("mean", "std", "min", "max")
    }
    if split == "train":
        row["log_loss"] = loss_of(seed, attempt, step)
    return row | {"head": outputs[-1], "label": label}


def _count(values: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Count values by bucket: a point, (lower, upper] below zero or [lower, upper) above."""
    wide = values.astype(np.float64).ravel()[:, None]
    is_point = lower == upper
    inside = np.where(lower < 0, (wide > lower) & (wide <= upper), (wide >= lower) & (wide < upper))
    inside = np.where(is_point, wide == lower, inside & (wide != 0) & np.isfinite(wide))
    inside[:, np.isnan(lower)] = np.isnan(wide)
    assert (inside.sum(axis=1) == 1).all()
    return inside.sum(axis=0, dtype=np.uint32)


def check(path: str, seed: int) -> dict:
    """Compare every row of a run with the training's; returns what `common.check` does."""
    import xarray as xr

    found = {"error": None, "torn": [], "wrong": [], "rows": {}, "attributes": {}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = xr.open_datatree(path, engine="zarr", decode_times=False, chunks=None)
            found["attributes"] = said = tree.attrs["actlab"]
            loaded = {name: node.to_dataset(inherit=False).load() for name, node in tree.children.items()}
            raw = {name: tree[name]["raw"].to_dataset(inherit=False).load() for name in loaded}
    except Exception as error:  # noqa: BLE001 - whatever it is, the store does not open
        return found | {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    for split, rows in loaded.items():
        places = np.stack([rows["attempt"], rows["step"]], axis=1).tolist()
        found["rows"][split] = places
        if len(places) != said["rows"][split]:
            found["torn"].append(f"{split} has {len(places)} rows, the record says {said['rows'][split]}")
        if tuple(rows["layer"].values) != LAYERS:
            found["torn"].append(f"{split} has the layers {rows['layer'].values}")
            continue
        ends = [rows[name].values.astype(np.float64).tobytes() for name in ("lower", "upper")]
        expected = [_expected(seed, attempt, split, step, *ends) for attempt, step in places]
        found["wrong"] += _differences(split, rows, raw[split], expected)
    return found


def _differences(split: str, rows, raw, expected: list[dict]) -> Iterable[str]:
    """Yield what differs between a split and what it must be."""
    for name in expected[0] if expected else ():
        due = [row[name] for row in expected]
        if name in ("head", "label"):
            due, stored = np.concatenate(due), raw[name].values
        else:
            due, stored = np.stack(due), rows[name].values
        tolerance = _TOLERANCE if name in ("mean", "std") else 0
        # A mean of large values that cancel is as exact as they are.
        spread = tolerance * np.nan_to_num(np.stack([row["std"] for row in expected])) if tolerance else 0
        if stored.shape != due.shape or not np.allclose(stored, due, tolerance, spread, equal_nan=True):
            yield f"{split}/{name}: differs"
    for name in ("step", "attempt"):
        due = np.repeat([row[name] for row in expected], _SHAPE[0])
        if not np.array_equal(raw[name].values, due):
            yield f"{split}/raw/{name}: differs"
