"""A run as one archive."""

import json
import zipfile

import pytest
import xarray as xr
import zarr

import actlab
from actlab.errors import StoreError
from actlab.store.packing import pack


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.zarr.zip"


def members(out):
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        return {member.filename: archive.read(member) for member in archive.infolist()}


def assert_opens_alike(path, out):
    run, packed = actlab.open_run(path), actlab.open_run(out, verify="rows")
    assert packed.splits == run.splits
    for split in run.splits:
        xr.testing.assert_identical(packed[split].load(), run[split].load())
        xr.testing.assert_identical(packed.raw(split).load(), run.raw(split).load())


def test_an_archive_opens_like_the_run(path, out, record, stored_rows, fingerprint):
    record()
    assert pack(path, out) == str(out)
    assert_opens_alike(path, out)
    with zarr.storage.ZipStore(out, mode="r") as store:
        plain = [(fingerprint(row), crc) for row, _, crc in stored_rows(store)]
    assert plain == [(fingerprint(row), crc) for row, _, crc in stored_rows(path)]


def test_only_what_the_root_record_needs_is_taken(path, out, record):
    record()
    needed = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    for name in (".0123abcd.partial", "notes", "train/counts/c.9.0.0", "test/zarr.json"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"garbage")
    (path / "train" / "zarr.json").write_bytes(b"garbage")
    pack(path, out)
    found = members(out)
    assert found.keys() == needed.keys()
    for name, data in found.items():
        assert data == needed[name] or json.loads(data) == json.loads(needed[name])
    with zipfile.ZipFile(out) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_same_run_makes_the_same_archive(path, out, record, tmp_path):
    record()
    pack(path, out)
    for file in path.rglob("*"):
        file.touch()
    pack(path, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == out.read_bytes()


def test_a_run_that_is_being_recorded_is_packed_as_of_its_last_commit(path, out, record, later):
    writer = record(close=False)
    pack(path, out)
    for step in range(12, 15):
        writer.append(later(step, layers=5))
    writer.close()
    assert actlab.open_run(out)["train"].sizes["step"] == 12


def test_an_empty_run_is_packed(path, out, start):
    start().close()
    pack(path, out)
    assert actlab.open_run(out).splits == ()


def test_an_archive_is_packed_compacted_and_branched_like_a_run(path, out, record, tmp_path):
    record()
    pack(path, out)
    pack(out, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == out.read_bytes()
    for tool in (actlab.compact, actlab.branch):
        tool(out, tmp_path / "new.zarr", overwrite=True)
        assert_opens_alike(path, tmp_path / "new.zarr")


def test_half_a_run_is_not_packed(path, out, record):
    record()
    (path / "train" / "mean" / "c.0.0").unlink()
    with pytest.raises(StoreError, match=r"half a run: the chunk 'train/mean/c\.0\.0' is missing"):
        pack(path, out)
    assert not out.exists()
