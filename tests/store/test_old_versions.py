"""Stores that every version of the format left behind stay readable; `1.1.npz` is what `1.1.zarr.zip` holds.

Each was written by the code of its time, from rows of which the arrays are kept beside it. 1.2 was
resumed once: the arrays are those of the live rows.
"""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from actlab.run import open_run
from actlab.schema import FORMAT_VERSION
from actlab.store.reader import open_snapshot
from actlab.store.verifying import verify_snapshot

STORES = Path(__file__).parents[1] / "data" / "stores" / "v1"
VERSIONS = sorted(path.stem for path in STORES.glob("*.npz"))


def test_there_is_one_of_every_version():
    assert sorted(VERSIONS) == [f"1.{minor}" for minor in range(FORMAT_VERSION[1] + 1)]
    assert max(path.stat().st_size for path in STORES.iterdir()) < 100_000


@pytest.fixture(params=["archive", "directory"])
def path(request, version, tmp_path):
    archive = STORES / f"{version}.zarr.zip"
    if request.param == "archive":
        return archive
    shutil.unpack_archive(archive, tmp_path)
    return tmp_path / "run.zarr"


@pytest.mark.parametrize("version", VERSIONS)
def test_reads_as_it_was_recorded(version, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = open_run(path, verify="rows")
    assert run.attributes["format_version"] == [int(part) for part in version.split(".")]
    assert run.head == "layer2"
    with np.load(STORES / f"{version}.npz") as recorded:
        for name, expected in recorded.items():
            split, *part, variable = name.split("|")
            kept = {
                "raw": run.raw,
                "channels": run.channels,
                "samples": lambda split: run.samples(split, "layer1"),
                "head_counts": run.head_counts,
                "label_moments": run.label_moments,
            }
            data = kept[part[0]](split) if part else run[split]
            np.testing.assert_array_equal(data[variable], expected, err_msg=name)
            assert data[variable].dtype == expected.dtype


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_is_verified(version, path):
    rows = {"train": 11 if version == "1.2" else 7, "valid": 2}
    assert verify_snapshot(open_snapshot(path)) == rows


@pytest.mark.parametrize("version", VERSIONS)
def test_plain_xarray_reads_it(version, tmp_path):
    shutil.unpack_archive(STORES / f"{version}.zarr.zip", tmp_path)
    plain = xr.open_datatree(tmp_path / "run.zarr", engine="zarr")
    ours = open_snapshot(tmp_path / "run.zarr").tree
    assert plain.groups == ours.groups
    for name in plain.groups[1:]:
        xr.testing.assert_identical(
            plain[name].to_dataset(inherit=False), ours[name].to_dataset(inherit=False)
        )
