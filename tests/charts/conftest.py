"""A small run written through the real writer, with the values behind it, and golden arrays."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from actlab.axis import FloatAxis
from actlab.run import open_run
from actlab.schema import LayerInfo
from actlab.store.row import Row
from actlab.store.writer import RunWriter

AXIS = FloatAxis(mantissa_bits=3, min_exponent=-12, max_exponent=12)
LAYERS = tuple(LayerInfo(name) for name in ("grows", "relu", "odd", "unused", "head"))
EPOCHS = {"train": [0] * 10 + [1] * 9 + [2] * 7, "valid": [-1, -1, 0, 0, 2, 2, 2], "test": [2, 2]}


def _values(split, step, rng):
    """Return the outputs of each layer in one batch, and the labels."""
    scale = 1 + step / 10
    odd = rng.normal(size=40)
    if split == "train" and step == 13:
        odd = odd + 50
    if split == "train" and step == 20:
        odd[:3] = np.inf, -np.inf, np.nan
    label = rng.integers(0, 2, 8)
    head = rng.normal(size=(8, 2)) + scale * (2 * (label[:, None] == np.arange(2)) - 1)
    outputs = {
        "grows": rng.normal(0, scale, 96),
        "relu": np.maximum(rng.normal(size=64), 0),
        "odd": odd,
        "unused": np.empty(0),
        "head": head,
    }
    return {name: values.astype(np.float32) for name, values in outputs.items()}, label


def _moments(values):
    finite = values[np.isfinite(values)].astype(np.float64)
    if finite.size == 0:
        return (np.nan,) * 4
    return finite.mean(), finite.std(), finite.min(), finite.max()


def _row(split, step, values, label):
    arrays = [values[layer.name].ravel() for layer in LAYERS]
    counts = [np.bincount(AXIS.index(array), minlength=AXIS.n_buckets) for array in arrays]
    mean, std, low, high = np.array([_moments(array) for array in arrays]).T
    return Row(
        split,
        step,
        epoch=EPOCHS[split][step],
        batch=step - EPOCHS[split].index(EPOCHS[split][step]),
        train_step=step,
        time=1.7e9 + step,
        layers=LAYERS,
        counts=np.array(counts, np.uint32),
        n=np.array([array.size for array in arrays], np.uint64),
        mean=mean,
        std=std,
        min=low,
        max=high,
        logs={},
        head=values["head"],
        label=label,
    )


@pytest.fixture(scope="session")
def charted(tmp_path_factory):
    """A run of 26 train, 7 valid and 2 test rows, and the values of each row and layer."""
    rng = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("charts") / "run.zarr"
    writer = RunWriter(path, axis=AXIS, attributes={"head": "head", "epochs": "given", "model": "Toy"})
    kept = {}
    for split, epochs in EPOCHS.items():
        for step in range(len(epochs)):
            values, label = _values(split, step, rng)
            kept[split, step] = values
            writer.append(_row(split, step, values, label))
    writer.close()
    return SimpleNamespace(run=open_run(path), values=kept, epochs=EPOCHS)


@pytest.fixture
def golden():
    """Compare a dataset with the arrays kept in tests/golden.

    Run with ACTLAB_REGENERATE_GOLDEN=1 to write them anew, and read the difference before committing.
    """

    def compare(name: str, data: xr.Dataset) -> None:
        path = Path(__file__).parents[1] / "golden" / f"{name}.npz"
        arrays = {str(key): np.asarray(data[key].values) for key in (*data.data_vars, *data.coords)}
        arrays = {key: a.astype(str) if a.dtype.kind in "OT" else a for key, a in arrays.items()}
        attributes = {f"attrs.{key}": np.asarray(value) for key, value in data.attrs.items()}
        if os.environ.get("ACTLAB_REGENERATE_GOLDEN"):
            np.savez_compressed(path, **arrays, **attributes)
        with np.load(path) as kept:
            assert set(kept) == set(arrays) | set(attributes)
            for key, array in (arrays | attributes).items():
                if array.dtype.kind == "f":
                    np.testing.assert_allclose(array, kept[key], rtol=1e-6, atol=1e-12, err_msg=key)
                else:
                    np.testing.assert_array_equal(array, kept[key], err_msg=key)

    return compare
