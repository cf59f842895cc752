"""Metadata and chunk bytes, read back by zarr itself."""

import json

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from actlab.errors import StoreError
from actlab.store import blosc, layout
from actlab.store.layout import ROOT, ArrayLayout, chunk_key, group_node, root_record, to_json


@pytest.mark.parametrize("dtype", ["int64", "uint32", "uint64", "float32", "float64"])
@pytest.mark.parametrize("dims", [("step",), ("step", "layer"), ("step", "layer", "bucket")])
def test_zarr_reads_the_chunk(tmp_path, dtype, dims):
    chunks = (4, 3, 5)[: len(dims)]
    shape = (3, 3, 5)[: len(dims)]
    made = ArrayLayout(dims, dtype, "NaN" if dtype.startswith("float") else 0, chunks, {"units": "s"})
    values = np.random.default_rng(0).integers(0, 99, chunks).astype(dtype)
    (tmp_path / ROOT).write_bytes(to_json(made.node(shape)))
    (tmp_path / chunk_key((0,) * len(dims))).write_bytes(made.encode(values))
    array = zarr.open_array(tmp_path, mode="r")
    assert array.dtype == dtype
    assert array.metadata.dimension_names == dims
    assert array.attrs["units"] == "s"
    np.testing.assert_array_equal(array[...], values[:3])


def test_zarr_reads_the_names(tmp_path):
    made = ArrayLayout(("layer",), "string", "", (4,))
    (tmp_path / ROOT).write_bytes(to_json(made.node((3,))))
    (tmp_path / chunk_key((0,))).write_bytes(made.encode(np.array(["a", "größe:0", "", ""], object)))
    assert zarr.open_array(tmp_path, mode="r")[...].tolist() == ["a", "größe:0", ""]


def test_a_flipped_bit_is_noticed(tmp_path):
    made = ArrayLayout(("step",), "float64", "NaN", (8,))
    data = bytearray(made.encode(np.arange(8.0)))
    data[len(data) // 2] ^= 1
    (tmp_path / ROOT).write_bytes(to_json(made.node((8,))))
    (tmp_path / chunk_key((0,))).write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(tmp_path, mode="r")[...]


class TestDecoding:
    """What `encode` wrote comes back whole or by column; what lies about its size is refused."""

    @settings(max_examples=60)
    @given(
        chunks=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 300)),
        dtype=st.sampled_from(["uint32", "uint64", "float32"]),
        largest=st.sampled_from([1, 2, 1000, 2**32 - 1]),
        block=st.sampled_from([1, 1 << 10, 1 << 20]),
        data=st.data(),
    )
    def test_round_trip(self, chunks, dtype, largest, block, data):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layout, "_BLOCK", block)
            made = ArrayLayout(("step", "layer", "bucket"), dtype, 0, chunks)
        values = np.random.default_rng(chunks).integers(0, largest, chunks).astype(dtype)
        encoded = made.encode(values)
        np.testing.assert_array_equal(made.decode(encoded), values)
        assert made.is_by_column == (dtype != "float32")
        if made.is_by_column:
            columns = np.array(data.draw(st.lists(st.integers(0, chunks[1] - 1), min_size=1)))
            found = made.decode_columns(encoded, columns)
            np.testing.assert_array_equal(found, values[:, columns])

    def test_text_round_trip(self):
        made = ArrayLayout(("layer",), "string", "", (4,))
        names = np.array(["a", "größe:0", "", "x" * 1000], object)
        assert made.decode(made.encode(names)).tolist() == names.tolist()

    @pytest.mark.parametrize("dims", [("step",), ("step", "layer", "bucket")])
    def test_from_node(self, dims):
        made = ArrayLayout(dims, "uint32", 0, (4, 3, 5)[: len(dims)], {"units": "s"})
        node = json.loads(to_json(made.node((3, 3, 5)[: len(dims)])))
        assert ArrayLayout.from_node(node) == made
        node["codecs"][-1].pop("configuration")  # as zarr writes it
        assert ArrayLayout.from_node(node) == made
        node["codecs"][-2]["configuration"]["cname"] = "lz4"
        assert ArrayLayout.from_node(node) is None

    def test_a_column_costs_one_block(self, monkeypatch):
        made = ArrayLayout(("step", "layer", "bucket"), "uint32", 0, (16, 32, 3592))
        encoded = made.encode(np.random.default_rng(0).poisson(3, made.chunks).astype(np.uint32))
        asked, decode = [], blosc.blosc_decode
        monkeypatch.setattr(blosc, "blosc_decode", lambda data, n: asked.append(n) or decode(data, n))
        made.decode_columns(encoded, np.array([9]))
        made.decode_columns(encoded, np.array([30, 9, 31, 10]))
        assert asked == [4 * 16 * 3592 * 4, 8 * 16 * 3592 * 4]  # four and eight of 32 layers

    @pytest.mark.parametrize("place", [0, *range(4, 16)])  # versions, amounts; not flags and size of an item
    def test_a_header_that_lies_is_refused(self, place):
        made = ArrayLayout(("step", "layer", "bucket"), "uint32", 0, (4, 3, 50))
        content = bytearray(made.encode(np.arange(600, dtype=np.uint32).reshape(4, 3, 50))[:-4])
        content[place] ^= 0xFF
        checksum = google_crc32c.value(bytes(content)).to_bytes(4, "little")
        with pytest.raises(StoreError):
            made.decode(bytes(content) + checksum)


def test_the_root_record_holds_every_node():
    nodes = {"train": group_node({"coordinates": "epoch"})}
    record = json.loads(root_record({"rows": {"train": 1}}, nodes))
    assert record["attributes"] == {"actlab": {"rows": {"train": 1}}}
    assert record["consolidated_metadata"]["metadata"] == nodes


def test_metadata_is_strict_json():
    with pytest.raises(ValueError, match="JSON"):
        root_record({"loss": float("nan")}, {})
