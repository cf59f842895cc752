"""Opening a run: one commit, lazily; and everything that must be refused, each in one line."""

import json
import pickle
import shutil
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from actlab.errors import StoreError
from actlab.store import table
from actlab.store.layout import ROOT
from actlab.store.reader import open_snapshot
from actlab.store.writer import RunWriter


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_axis, make_row):
    """Return the path of a closed run: two splits, several chunks."""
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "_MOST_ROWS", 4)
        writer = RunWriter(path, axis=small_axis, attributes={"head": "layer2"}, fsync=False)
        for step in range(10):
            writer.append(make_row(step))
        writer.append(make_row(0, "valid"))
        writer.close()
    return path


@pytest.fixture
def run(finished, tmp_path):
    """Return the path of a copy, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run.zarr")


def refusal(path):
    """Open a run that must be refused, and return the one line that says why."""
    with pytest.raises(StoreError) as error:
        open_snapshot(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


def change(path, edit):
    """Edit the root record."""
    document = json.loads((path / ROOT).read_text())
    edit(document)
    (path / ROOT).write_text(json.dumps(document))


class TestSnapshot:
    def test_equals_the_plain_view(self, finished):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            snapshot = open_snapshot(finished)
        plain = xr.open_datatree(finished, engine="zarr")
        assert snapshot.path == str(finished)
        assert snapshot.attributes == plain.attrs["actlab"]
        for name in ("train", "valid", "train/raw"):
            xr.testing.assert_identical(snapshot.tree[name].to_dataset(), plain[name].to_dataset())

    def test_is_lazy_and_follows_the_chunks(self, finished):
        counts = open_snapshot(finished).tree["train"].counts
        assert counts.chunks == ((4, 4, 2), (3,), (16,))

    def test_coordinates_and_units_are_plain(self, finished):
        train = open_snapshot(finished).tree["train"]
        assert set(train.coords) == {
            *("step", "epoch", "batch", "train_step", "attempt", "time", "layer", "lower", "upper")
        }
        assert np.issubdtype(train.time.dtype, np.datetime64)
        assert train.counts.attrs["long_name"] == "values in each bucket"
        raw = open_snapshot(finished).tree["train/raw"]
        assert {"sample_step", "attempt"} <= set(raw.coords)

    def test_shows_its_commit_while_the_run_grows(self, tmp_path, small_axis, make_row):
        writer = RunWriter(tmp_path / "run", axis=small_axis, attributes={}, fsync=False)
        writer.append(make_row(0))
        writer.flush()
        snapshot = open_snapshot(tmp_path / "run")
        for step in range(1, 5):
            writer.append(make_row(step, layers=3 + step))
            writer.flush()
        assert snapshot.tree["train"].sizes["step"] == 1
        np.testing.assert_array_equal(snapshot.tree["train"].counts[0], make_row(0).counts)
        assert open_snapshot(tmp_path / "run").tree["train"].sizes["step"] == 5
        writer.close()

    def test_an_empty_run_is_a_run(self, tmp_path, small_axis):
        RunWriter(tmp_path / "run", axis=small_axis, attributes={}, fsync=False).close()
        snapshot = open_snapshot(tmp_path / "run")
        assert not snapshot.tree.children
        assert snapshot.attributes["rows"] == {}

    def test_can_be_sent_to_another_process(self, finished):
        counts = pickle.loads(pickle.dumps(open_snapshot(finished).tree["train"].counts))
        assert counts.sum().compute() > 0

    def test_any_chunking_and_separator_is_read(self, finished, tmp_path):
        group = zarr.open_group(tmp_path / "copy", mode="w", attributes=dict(zarr.open_group(finished).attrs))
        for name, array in zarr.open_group(finished, mode="r").members(max_depth=None):
            if isinstance(array, zarr.Group):
                group.create_group(name, attributes=dict(array.attrs))
            else:
                new = group.create_array(
                    name,
                    shape=array.shape,
                    dtype="string" if name.endswith("layer") else array.dtype,
                    chunks=tuple(min(3, size) for size in array.shape),
                    dimension_names=array.metadata.dimension_names,
                    attributes=dict(array.attrs),
                    config={"write_empty_chunks": True},
                )
                new[...] = array[...]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(tmp_path / "copy")
        copy, original = open_snapshot(tmp_path / "copy").tree, open_snapshot(finished).tree
        xr.testing.assert_equal(copy["train"].to_dataset(), original["train"].to_dataset())


class TestRefused:
    def test_a_path_that_does_not_exist(self, tmp_path):
        assert refusal(tmp_path / "nowhere.zarr") == "no such run"

    def test_a_text_file(self, tmp_path):
        (tmp_path / "notes.txt").write_text("hello")
        assert refusal(tmp_path / "notes.txt") == "is a file, expected the directory of a run"

    def test_a_directory_that_is_no_run(self, tmp_path):
        assert refusal(tmp_path) == "is no run, it has no zarr.json"

    def test_a_zarr_array(self, tmp_path):
        zarr.create_array(tmp_path / "x.zarr", shape=(3,), dtype="int64")
        assert refusal(tmp_path / "x.zarr") == "is no run, its zarr.json describes no Zarr v3 group"

    def test_another_zarr_group(self, tmp_path):
        zarr.create_group(tmp_path / "x.zarr")
        assert refusal(tmp_path / "x.zarr") == "is a Zarr group, but no actlab run"

    @pytest.mark.parametrize("keep", [0, 1, 0.5, 0.999])
    def test_a_truncated_root_record(self, run, keep):
        data = (run / ROOT).read_bytes()
        (run / ROOT).write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
        assert refusal(run).startswith("zarr.json is damaged: ")

    @pytest.mark.parametrize("data", [b"\xff\xfe", b"[" * 100_000, b"\0" * 4096])
    def test_a_root_record_that_is_no_json(self, run, data):
        (run / ROOT).write_bytes(data)
        assert refusal(run).startswith("zarr.json is damaged: ")

    def test_a_root_record_of_absurd_size(self, run):
        with (run / ROOT).open("r+b") as file:
            file.truncate(65 << 20)
        assert refusal(run) == "zarr.json is larger than 64 MiB, which no run needs"

    def test_a_root_record_without_arrays(self, run):
        change(run, lambda document: document.pop("consolidated_metadata"))
        assert refusal(run) == "zarr.json is damaged: it lists no arrays (consolidated metadata)"

    @pytest.mark.parametrize("chunk", ["train/counts/c.1.0.0", "valid/step/c.0", "train/raw/head/c.0.0"])
    def test_a_missing_chunk(self, run, chunk):
        (run / chunk).unlink()
        assert refusal(run) == f"half a run: the chunk '{chunk}' is missing"

    def test_a_chunk_that_is_a_link(self, run, tmp_path):
        (tmp_path / "secret").write_text("x")
        (run / "train" / "n" / "c.0.0").unlink()
        (run / "train" / "n" / "c.0.0").symlink_to(tmp_path / "secret")
        assert refusal(run) == "half a run: the chunk 'train/n/c.0.0' is missing"

    def test_a_missing_array_directory(self, run):
        shutil.rmtree(run / "train" / "mean")
        assert refusal(run) == "half a run: the chunk 'train/mean/c.0.0' is missing"

    @pytest.mark.parametrize("name", ["train/counts", "valid/layer", "train/raw/sample_step"])
    def test_an_array_the_record_does_not_list(self, run, name):
        change(run, lambda document: document["consolidated_metadata"]["metadata"].pop(name))
        assert refusal(run) == f"half a run: the array '{name}' is missing"

    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("format_version", [2, 0], "has format 2.0, this actlab reads up to 1.0: update it"),
            ("format_version", None, "zarr.json is damaged: format_version is None"),
            ("format_version", [0, 9], "zarr.json is damaged: format_version is [0, 9]"),
            ("incompat", ["sharded"], "needs ['sharded'], which this actlab does not know: update it"),
            ("format", "other", "is a Zarr group, but no actlab run"),
            ("axis", {"kind": "log"}, "recording axis of unknown kind 'log', expected 'float'"),
            ("rows", 7, "zarr.json is damaged: it does not say how many rows and layers there are"),
            ("rows", {"train": 9, "valid": 1}, "'train/step' has 10 along 'step', expected 9"),
            ("rows", {"train": 10, "test": 1}, "half a run: the array 'test/step' is missing"),
            ("layers", [], "'train/n' has 3 along 'layer', expected 0"),
        ],
    )
    def test_a_root_attribute_it_cannot_trust(self, run, key, value, reason):
        change(run, lambda document: document["attributes"]["actlab"].update({key: value}))
        assert refusal(run) == reason

    def test_an_array_of_another_kind(self, run):
        def edit(document):
            document["consolidated_metadata"]["metadata"]["train/n"]["data_type"] = "int8"

        change(run, edit)
        assert refusal(run).startswith("'train/n' is (['step', 'layer'], 'int8'), expected")

    @pytest.mark.parametrize("grid", [{}, {"configuration": {"chunk_shape": [0, 3]}}, None])
    def test_an_array_without_a_chunk_grid(self, run, grid):
        def edit(document):
            document["consolidated_metadata"]["metadata"]["train/n"]["chunk_grid"] = grid

        change(run, edit)
        assert refusal(run).startswith("zarr.json is damaged: metadata of 'train/n'")

    def test_what_xarray_cannot_read(self, run):
        def edit(document):
            document["consolidated_metadata"]["metadata"]["train/n"]["codecs"] = [{"name": "magic"}]

        change(run, edit)
        assert refusal(run).startswith("cannot be read: ")

    def test_newer_minors_and_unknown_keys_are_fine(self, run):
        change(
            run, lambda document: document["attributes"]["actlab"].update(format_version=[1, 7], surprise=1)
        )
        assert open_snapshot(run).attributes["surprise"] == 1


class TestDamageAfterOpening:
    def test_a_chunk_that_vanishes_is_no_zeros(self, run):
        tree = open_snapshot(run).tree
        (run / "train" / "counts" / "c.1.0.0").unlink()
        assert tree["train"].counts[:4].sum().compute() > 0
        with pytest.raises(StoreError, match=r"half a run: the chunk 'train/counts/c\.1\.0\.0' is missing"):
            tree["train"].counts.sum().compute()

    @pytest.mark.parametrize(
        "damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"x" + data[1:]]
    )
    def test_a_chunk_that_is_damaged(self, run, damage):
        chunk = run / "train" / "counts" / "c.0.0.0"
        tree = open_snapshot(run).tree
        chunk.write_bytes(damage(chunk.read_bytes()))
        with pytest.raises(StoreError, match=r"the chunk 'train/counts/c\.0\.0\.0' is damaged"):
            tree["train"].counts.sum().compute()
