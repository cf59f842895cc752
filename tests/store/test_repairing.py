"""A run that something happened to: what is taken back, what is left, and what is said."""

import json
import re
import shutil
from random import Random

import pytest
import zarr

import actlab
from actlab.errors import StoreError
from actlab.store.repairing import repair


def rows_of(path, stored_rows, fingerprint):
    return [(fingerprint(row), attempt, crc) for row, attempt, crc in stored_rows(path)]


def root_of(path):
    return json.loads((path / "zarr.json").read_bytes())


def test_a_sound_run_needs_no_repair(path, record):
    record()
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert repair(path) == repair(path)
    assert repair(path).done == ()
    assert repair(path).damage == ()
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_rows_behind_an_older_root_record_are_taken_back(
    path, record, stored_rows, fingerprint, later, add_side
):
    writer = record(close=False)
    old = (path / "zarr.json").read_bytes()
    for step in range(12, 40):
        writer.append(add_side(later(step, layers=5, logs=("loss", "late"))))
        writer.append(later(step, "test", layers=5))
    writer.close()
    before = rows_of(path, stored_rows, fingerprint)
    (path / "zarr.json").write_bytes(old)
    assert len(rows_of(path, stored_rows, fingerprint)) < len(before)
    found = repair(path)
    assert found.damage == ()
    assert "took back 28 rows of train, steps 12 to 39" in found.done
    assert "took back 28 rows of test, steps 12 to 39" in found.done
    assert rows_of(path, stored_rows, fingerprint) == before
    assert repair(path).done == ()


def test_an_old_handle_that_edits_attributes_rolls_back_and_repair_rolls_forward(
    path, record, stored_rows, fingerprint, later, add_side
):
    writer = record(rows=6, close=False)
    handle = zarr.open_group(path, mode="r+")
    for step in range(6, 9):
        writer.append(add_side(later(step, layers=5)))
    writer.close()
    before = rows_of(path, stored_rows, fingerprint)
    handle.attrs["note"] = "mine"
    assert root_of(path)["attributes"]["actlab"]["rows"]["train"] == 6
    assert "took back 3 rows of train, steps 6 to 8" in repair(path).done
    assert rows_of(path, stored_rows, fingerprint) == before
    assert root_of(path)["attributes"]["note"] == "mine"
    assert repair(path).done == ()


def lose(path):
    (path / "zarr.json").unlink()


def truncate(path):
    data = (path / "zarr.json").read_bytes()
    (path / "zarr.json").write_bytes(data[: len(data) // 2])


def forget_the_arrays(path):
    zarr.open_group(path, mode="r+", use_consolidated=False).attrs["note"] = "mine"


def clear_the_attributes(path):
    zarr.open_group(path, mode="r+").attrs.put({"note": "mine"})


@pytest.mark.parametrize("spoil", [lose, truncate, forget_the_arrays, clear_the_attributes])
def test_a_lost_root_record_is_made_anew_of_the_arrays(path, record, stored_rows, fingerprint, spoil):
    record()
    before = rows_of(path, stored_rows, fingerprint)
    known = root_of(path)["attributes"]["actlab"]
    spoil(path)
    (line,) = repair(path).done
    assert line.startswith("made zarr.json anew of the arrays")
    assert "12 rows of train, steps 0 to 11; 4 rows of valid, steps 0 to 3" in line
    assert rows_of(path, stored_rows, fingerprint) == before
    made = root_of(path)["attributes"]["actlab"]
    for key in ("rows", "axis", "layer_growth", "attempts"):
        assert made[key] == known[key]
    assert [layer["name"] for layer in made["layers"]] == [layer["name"] for layer in known["layers"]]
    assert actlab.open_run(path).splits == ("train", "valid")
    assert repair(path).done == ()


def test_a_root_record_is_not_made_anew_over_a_damaged_row(path, record):
    record()
    lose(path)
    spoil_chunk(path / "train" / "mean" / "c.0.0")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(
        StoreError, match=r"zarr\.json was missing, and it cannot be made anew: row 0 of train"
    ):
        repair(path)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def spoil_chunk(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_what_a_killed_writer_left_is_swept_and_nothing_else(path, record):
    record()
    for name in (".0123abcd.partial", "train/.0123abcd.partial"):
        (path / name).write_bytes(b"half")
    mine = ["notes.txt", "train/counts/c.99.0.0", "plot.partial", "train/.0123abcd.bak"]
    for name in mine:
        (path / name).write_bytes(b"mine")
    (path / "train" / "n" / "zarr.json").write_text("{}")
    assert repair(path).done == (
        "removed 2 half-written files",
        "brought 1 zarr.json below the root up to it",
    )
    assert not list(path.rglob(".*.partial"))
    assert all((path / name).read_bytes() == b"mine" for name in mine)
    assert repair(path).done == ()


def test_damaged_rows_are_named_and_left(path, record):
    record()
    file = path / "train" / "mean" / "c.0.0"
    spoil_chunk(file)
    before = file.read_bytes()
    found = repair(path)
    assert found.done == ()
    (line,) = found.damage
    assert line.startswith("steps 0 to 11 of train: the chunk 'train/mean/c.0.0' is damaged")
    assert file.read_bytes() == before


def test_a_row_that_does_not_match_its_checksum_is_named(path, record):
    record()
    node = zarr.open_group(path, mode="r+")
    node["train/mean"][5, 1] = 42.0
    assert repair(path).damage == ("step 5 of train: not as recorded (row_crc32c)",)


def test_whatever_chunk_is_damaged_is_named(path, record):
    record()
    chunks = sorted(path.rglob("c.*"))
    assert {chunk.parent.name for chunk in chunks} > {"layer", "lower", "upper", "channel_index", "counts"}
    for chunk in chunks:
        data = chunk.read_bytes()
        chunk.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        name = str(chunk.relative_to(path))
        assert any(name in line for line in repair(path).damage), name
        chunk.write_bytes(data)
    assert repair(path).damage == ()


def test_rows_whose_chunks_were_torn_are_not_taken_back(path, record, later, add_side):
    writer = record(close=False)
    old, torn = (path / "zarr.json").read_bytes(), (path / "train" / "std" / "c.0.0").read_bytes()
    for step in range(12, 20):
        writer.append(add_side(later(step, layers=5)))
    writer.close()
    (path / "zarr.json").write_bytes(old)
    (path / "train" / "std" / "c.0.0").write_bytes(torn)
    assert not [line for line in repair(path).done if "took back" in line]
    assert root_of(path)["attributes"]["actlab"]["rows"]["train"] == 12


def test_a_run_that_is_being_recorded_is_refused(path, record):
    record(close=False)
    with pytest.raises(StoreError, match="is being written"):
        repair(path)


def test_what_is_no_run_is_refused_and_untouched(tmp_path):
    with pytest.raises(StoreError, match="no such run"):
        repair(tmp_path / "none.zarr")
    (tmp_path / ".0123abcd.partial").write_text("mine")
    with pytest.raises(StoreError, match="is a file, expected the directory of a run"):
        repair(tmp_path / ".0123abcd.partial")
    with pytest.raises(StoreError, match="is no run"):
        repair(tmp_path)
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(StoreError, match="cannot be made anew"):
        repair(tmp_path)
    assert (tmp_path / "zarr.json").read_text() == "{}"
    with pytest.raises(StoreError, match="URL"):
        repair("s3://bucket/run.zarr")


def test_a_newer_format_is_not_touched(path, record):
    record()
    root = root_of(path)
    root["attributes"]["actlab"]["format_version"] = [2, 0]
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match=r"has format 2\.0"):
        repair(path)
    assert root_of(path) == root


def test_an_empty_run_needs_no_repair(path, start):
    start().close()
    assert repair(path).done == ()


def mutate(random, file):
    data = bytearray(file.read_bytes())
    place = random.randrange(len(data))
    match random.choice(["flip", "cut", "delete", "empty", "digit"]):
        case "flip":
            data[place] ^= 1 << random.randrange(8)
        case "cut":
            del data[place:]
        case "empty":
            data = bytearray(b"{}")
        case "digit":
            data = bytearray(
                re.sub(rb"\d+", str(random.choice([0, 7, 10**12])).encode(), bytes(data), count=40)
            )
        case "delete":
            file.unlink()
            return
    file.write_bytes(data)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happened_no_chunk_is_touched_and_no_row_is_lost(
    path, record, stored_rows, fingerprint, seed, tmp_path
):
    record()
    random = Random(seed)
    before = rows_of(path, stored_rows, fingerprint)
    for number in range(6):
        spoiled = tmp_path / f"spoiled{number}.zarr"
        shutil.copytree(path, spoiled)
        files = sorted(spoiled.rglob("zarr.json" if number % 2 else "c.*"))
        for file in random.sample(files, 2) + [spoiled / "zarr.json"] * (number == 5):
            mutate(random, file)
        chunks = {file: file.read_bytes() for file in spoiled.rglob("c.*")}
        found, refusal = None, ""
        try:
            found = repair(spoiled)
        except StoreError as error:
            refusal = str(error)
        assert "\n" not in refusal
        if found is not None:
            assert repair(spoiled).done == ()
            if number % 2 and not found.damage:
                assert rows_of(spoiled, stored_rows, fingerprint) == before
        assert {file: file.read_bytes() for file in spoiled.rglob("c.*")} == chunks
