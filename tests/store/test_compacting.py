"""A compacted run: the same rows, one layer near itself, nothing to record into."""

import json

import numpy as np
import pytest
import xarray as xr
import zarr

import actlab
from actlab.errors import StoreError
from actlab.store.compacting import compact


@pytest.fixture
def out(tmp_path):
    return tmp_path / "small.zarr"


def trees(*paths):
    return [xr.open_datatree(path, engine="zarr", decode_times=False) for path in paths]


def assert_same(path, out):
    before, after = trees(path, out)
    assert {node.path for node in after.subtree} == {node.path for node in before.subtree}
    for node in before.subtree:
        xr.testing.assert_identical(
            node.to_dataset(inherit=False).drop_attrs(deep=False),
            after[node.path].to_dataset(inherit=False).drop_attrs(deep=False),
        )
        assert node.path == "/" or node.attrs == after[node.path].attrs


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_row_of_every_attempt_is_kept(
    path, out, record, start, later, add_side, stored_rows, fingerprint
):
    record()
    writer = start(resume=True, resume_step=6)
    for step in range(6, 9):
        writer.append(add_side(later(step, layers=5)))
    writer.close()
    before = files(path)
    assert compact(path, out) == str(out)
    assert files(path) == before
    assert_same(path, out)
    found = [(fingerprint(row), attempt, crc) for row, attempt, crc in stored_rows(out)]
    assert found == [(fingerprint(row), attempt, crc) for row, attempt, crc in stored_rows(path)]
    assert {attempt for _, attempt, _ in found} == {0, 1}
    run = actlab.open_run(out, verify="rows")
    live = actlab.open_run(path)
    assert run.attributes["compacted"] is True
    for split in live.splits:
        xr.testing.assert_identical(run[split].load(), live[split].load())


def test_an_empty_run_is_compacted(path, out, start):
    start().close()
    compact(path, out)
    assert actlab.open_run(out).splits == ()


def test_a_run_that_is_being_recorded_is_compacted_as_of_its_last_commit(path, out, record):
    record(close=False)
    compact(path, out)
    assert_same(path, out)
    assert not actlab.open_run(out).attributes["closed"]


def test_one_layer_is_read_with_at_most_twice_its_own_bytes(path, out, start, later, small_axis):
    writer = start()
    for step in range(200):
        writer.append(later(step, layers=40, samples=None))
    writer.close()
    compact(path, out)
    read = []

    class Counting(zarr.storage.LocalStore):
        async def get(self, key, prototype=None, byte_range=None):
            found = await super().get(key, prototype, byte_range)
            if found is not None and not key.endswith("zarr.json"):
                read.append(len(found))
            return found

    counts = zarr.open_group(Counting(out, read_only=True), mode="r")["train/counts"]
    assert counts.chunks == (64, 1, small_axis.n_buckets)
    assert np.array_equal(counts[:, 7], xr.open_datatree(path, engine="zarr")["train"].counts[:, 7])
    own = sum(_inner_bytes(file, counts, 7) for file in (out / "train" / "counts").glob("c.*"))
    assert own < sum(read) <= 2 * own


def _inner_bytes(file, counts, layer):
    """Sum the bytes of the chunks of a layer in a shard, as its index has them."""
    data = file.read_bytes()
    parts = [size // part for size, part in zip(counts.shards, counts.chunks, strict=True)]
    index = np.frombuffer(data[-4 - 16 * np.prod(parts) : -4], "<u8").reshape(*parts, 2)
    return int(index[:, layer, 0, 1].sum())


def test_the_layout_is_what_the_format_says(path, out, record):
    record()
    compact(path, out)
    nodes = json.loads((out / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]
    for name, node in nodes.items():
        assert json.loads((out / name / "zarr.json").read_bytes()) == node
    for name in ("train/counts", "train/head/counts"):
        (codec,) = nodes[name]["codecs"]
        assert codec["name"] == "sharding_indexed"
        assert codec["configuration"]["index_location"] == "end"
        assert [each["name"] for each in codec["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
        assert [each["name"] for each in codec["configuration"]["codecs"]] == [
            "transpose", "bytes", "blosc", "crc32c",
        ]  # fmt: skip


def test_a_compacted_run_is_not_recorded_into(path, out, record, small_axis):
    from actlab.store.writer import RunWriter

    record()
    compact(path, out)
    before = files(out)
    with pytest.raises(StoreError, match="branch"):
        RunWriter(out, axis=small_axis, attributes={}, resume=True)
    assert files(out) == before


def test_compacting_twice_gives_the_same_run(path, out, record, tmp_path):
    record()
    compact(path, out)
    compact(out, tmp_path / "again.zarr")
    assert_same(path, tmp_path / "again.zarr")


def test_a_damaged_run_is_not_compacted(path, out, record):
    record()
    zarr.open_group(path, mode="r+")["train/mean"][5, 1] = 42.0
    with pytest.raises(StoreError, match="step 5 of train: not as recorded"):
        compact(path, out)
    assert not out.exists()


def test_progress_ends_with_all_of_it(path, out, record):
    record()
    told = []
    compact(path, out, progress=lambda *each: told.append(each))
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["Compacting", "Checking"]
    for stage in ("Compacting", "Checking"):
        counted = [(done, total) for name, done, total in told if name == stage]
        assert counted == sorted(counted)
        assert counted[-1][0] == counted[-1][1] > 0
