"""Metadata and chunk bytes, read back by zarr itself."""

import json

import numpy as np
import pytest
import zarr

from actlab.store.layout import ROOT, ArrayLayout, chunk_key, group_node, root_record, to_json


@pytest.mark.parametrize("dtype", ["int64", "uint32", "uint64", "float32", "float64"])
@pytest.mark.parametrize("dims", [("step",), ("step", "layer"), ("step", "layer", "bucket")])
def test_zarr_reads_the_chunk(tmp_path, dtype, dims):
    chunks = (4, 3, 5)[: len(dims)]
    shape = (3, 3, 5)[: len(dims)]
    layout = ArrayLayout(dims, dtype, "NaN" if dtype.startswith("float") else 0, chunks, {"units": "s"})
    values = np.random.default_rng(0).integers(0, 99, chunks).astype(dtype)
    (tmp_path / ROOT).write_bytes(to_json(layout.node(shape)))
    (tmp_path / chunk_key((0,) * len(dims))).write_bytes(layout.encode(values))
    array = zarr.open_array(tmp_path, mode="r")
    assert array.dtype == dtype
    assert array.metadata.dimension_names == dims
    assert array.attrs["units"] == "s"
    np.testing.assert_array_equal(array[...], values[:3])


def test_zarr_reads_the_names(tmp_path):
    layout = ArrayLayout(("layer",), "string", "", (4,))
    (tmp_path / ROOT).write_bytes(to_json(layout.node((3,))))
    (tmp_path / chunk_key((0,))).write_bytes(layout.encode(np.array(["a", "größe:0", "", ""], object)))
    assert zarr.open_array(tmp_path, mode="r")[...].tolist() == ["a", "größe:0", ""]


def test_a_flipped_bit_is_noticed(tmp_path):
    layout = ArrayLayout(("step",), "float64", "NaN", (8,))
    data = bytearray(layout.encode(np.arange(8.0)))
    data[len(data) // 2] ^= 1
    (tmp_path / ROOT).write_bytes(to_json(layout.node((8,))))
    (tmp_path / chunk_key((0,))).write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(tmp_path, mode="r")[...]


def test_the_root_record_holds_every_node():
    nodes = {"train": group_node({"coordinates": "epoch"})}
    record = json.loads(root_record({"rows": {"train": 1}}, nodes))
    assert record["attributes"] == {"actlab": {"rows": {"train": 1}}}
    assert record["consolidated_metadata"]["metadata"] == nodes


def test_metadata_is_strict_json():
    with pytest.raises(ValueError, match="JSON"):
        root_record({"loss": float("nan")}, {})
