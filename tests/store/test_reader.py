"""Opening a run: one commit, lazily; and everything that must be refused, each in one line."""

import json
import os
import pickle
import shutil
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from actlab.errors import StoreError
from actlab.store import arrays, decoding
from actlab.store.layout import ROOT
from actlab.store.reader import open_snapshot
from actlab.store.writer import RunWriter


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_axis, make_row):
    """Return the path of a closed run: two splits, several chunks."""
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_MOST_ROWS", 4)
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

    def test_is_lazy_some_chunks_a_task(self, finished, monkeypatch):
        monkeypatch.setattr(decoding, "_TASK", 8 * 3 * 16 * 4)
        counts = open_snapshot(finished).tree["train"].counts
        assert counts.chunks == ((8, 2), (3,), (16,))

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

    def test_tilde_is_the_home_directory(self, finished, monkeypatch):
        monkeypatch.setenv("HOME", str(finished.parent))
        assert open_snapshot("~/run.zarr").path == str(finished)
        with pytest.raises(StoreError, match="~nobody-here/x: Could not determine home directory"):
            open_snapshot("~nobody-here/x")

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


def nodes_of(document):
    """Return the metadata of all nodes."""
    return document["consolidated_metadata"]["metadata"]


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
        change(run, lambda document: document["attributes"].update(notes="x" * (20 << 20)))
        assert refusal(run) == "zarr.json is larger than 16 MiB, which no run needs"

    @pytest.mark.parametrize("depth", [40, 900])
    def test_a_root_record_that_is_nested_too_deep(self, run, depth):
        (run / ROOT).write_bytes(
            (run / ROOT).read_bytes()[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
        )
        assert refusal(run) == "zarr.json is damaged: it is nested more than 32 deep"

    def test_a_root_record_that_is_a_pipe(self, run):
        (run / ROOT).unlink()
        os.mkfifo(run / ROOT)
        assert refusal(run) == "is no run, its zarr.json is no regular file"

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

    def test_a_chunk_that_is_a_pipe(self, run):
        (run / "train" / "n" / "c.0.0").unlink()
        os.mkfifo(run / "train" / "n" / "c.0.0")
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
            ("format_version", [2, 0], "has format 2.0, this actlab reads up to 1.2: update it"),
            ("format_version", None, "zarr.json is damaged: format_version is None"),
            ("format_version", [0, 9], "zarr.json is damaged: format_version is [0, 9]"),
            ("incompat", ["sharded"], "needs ['sharded'], which this actlab does not know: update it"),
            ("format", "other", "is a Zarr group, but no actlab run"),
            ("axis", {"kind": "log"}, "recording axis of unknown kind 'log', expected 'float'"),
            ("rows", 7, "zarr.json is damaged: rows is 7, expected a number for each split"),
            ("rows", {"train": True}, "zarr.json is damaged: rows is {'train': True}, expected a number for"),
            ("rows", {}, "zarr.json is damaged: it does not say how many rows 'train' has"),
            ("axis", [1], "zarr.json is damaged: axis is [1], expected a recording axis"),
            (
                "gaps",
                [1, 2],
                "zarr.json is damaged: gaps is [1, 2], expected lists of [first, last] for each",
            ),
            ("gaps", {"train": [[1]]}, "zarr.json is damaged: gaps is {'train': [[1]]}, expected lists of"),
            ("versions", "x", "zarr.json is damaged: versions is 'x', expected a version for each package"),
            ("head", 5, "zarr.json is damaged: head is 5, expected the name of a layer or null"),
            ("head", "fc", "zarr.json is damaged: head is 'fc', which is no layer"),
            ("closed", 1, "zarr.json is damaged: closed is 1, expected true or false"),
            ("skipped", ["fc"], "zarr.json is damaged: skipped is ['fc'], expected a reason for each layer"),
            ("skipped", {"fc": 1}, "zarr.json is damaged: skipped is {'fc': 1}, expected a reason for each"),
            ("ranks", 2, "zarr.json is damaged: ranks is 2, expected a rank below a world_size, and a job"),
            ("ranks", {"rank": 2, "world_size": 2, "job": "a"}, "zarr.json is damaged: ranks is {'rank': 2"),
            ("ranks", {"rank": True, "world_size": 2, "job": "a"}, "zarr.json is damaged: ranks is {'rank'"),
            ("ranks", {"rank": 0, "world_size": 1}, "zarr.json is damaged: ranks is {'rank': 0"),
            ("format_version", [1, True], "zarr.json is damaged: format_version is [1, True]"),
            ("layers", 3, "the table of layers is damaged: 3"),
            ("rows", {"train": 9, "valid": 1}, "'train/step' has 10 along 'step', expected 9"),
            ("rows", {"train": 10, "test": 1}, "half a run: the array 'test/step' is missing"),
            ("layers", [], "'train/n' has 3 along 'layer', expected 0"),
        ],
    )
    def test_a_root_attribute_it_cannot_trust(self, run, key, value, reason):
        change(run, lambda document: document["attributes"]["actlab"].update({key: value}))
        assert refusal(run).startswith(reason)

    @pytest.mark.parametrize("key", ["rows", "axis", "layers"])
    def test_a_root_attribute_that_is_missing(self, run, key):
        change(run, lambda document: document["attributes"]["actlab"].pop(key))
        assert refusal(run) == f"zarr.json is damaged: the attribute {key!r} is missing"

    @pytest.mark.parametrize(("key", "value"), [("calls", "x"), ("shape", "x"), ("shape", [-1]), ("name", 1)])
    def test_an_entry_of_the_layers_it_cannot_trust(self, run, key, value):
        change(run, lambda document: document["attributes"]["actlab"]["layers"][1].update({key: value}))
        assert refusal(run).startswith("the table of layers is damaged: {")

    def test_a_table_of_other_layers(self, run):
        change(run, lambda document: document["attributes"]["actlab"]["layers"][0].update(name="other"))
        assert refusal(run) == (
            "the table of layers is damaged: 'other' is 'layer0' in the layers of 'train'"
        )

    @pytest.mark.parametrize("key", ["attributes", "consolidated_metadata"])
    @pytest.mark.parametrize("value", [None, 5, "x", [], [1], {}])
    def test_a_record_without_its_parts(self, run, key, value):
        change(run, lambda document: document.update({key: value}))
        assert "no actlab run" in (reason := refusal(run)) or "lists no arrays" in reason

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

    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("codecs", [], "zarr.json is damaged: metadata of 'train/n'"),
            ("codecs", ["bytes"], "zarr.json is damaged: codecs of 'train/n', which no run has: ['bytes']"),
            ("shape", [-1, 3], "zarr.json is damaged: metadata of 'train/n'"),
            ("shape", [10, True], "zarr.json is damaged: metadata of 'train/n'"),
            ("shape", [10.0, 3], "zarr.json is damaged: metadata of 'train/n'"),
            ("shape", [10], "zarr.json is damaged: metadata of 'train/n'"),
            ("shape", [2**41, 3], "zarr.json is damaged: metadata of 'train/n'"),
            ("shape", [2**40, 2**40], "zarr.json is damaged: 'train/n' has absurd shape"),
            ("shape", [11, 3], "'train/n' has 11 along 'step', expected 10"),
            ("data_type", 5, "zarr.json is damaged: metadata of 'train/n'"),
            ("data_type", "object", "zarr.json is damaged: metadata of 'train/n'"),
            ("attributes", {"scale_factor": 2.0}, "zarr.json is damaged: attributes of 'train/n': {'scale"),
            ("attributes", {"units": "seconds since 1970-01-01"}, "cannot be read: ValueError: unable to"),
            ("fill_value", "x", "zarr.json is damaged: metadata of 'train/n'"),
        ],
    )
    def test_an_array_it_cannot_trust(self, run, key, value, reason):
        change(run, lambda document: nodes_of(document)["train/n"].update({key: value}))
        assert refusal(run).startswith(reason)

    @pytest.mark.parametrize("chunks", [[2**40, 8], [2**22, 16]])
    def test_a_chunk_of_absurd_size(self, run, chunks):
        grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
        change(run, lambda document: nodes_of(document)["train/n"].update(chunk_grid=grid))
        assert refusal(run) == f"zarr.json is damaged: a chunk {chunks} of 'train/n' is larger than 256 MiB"

    def test_more_chunks_than_could_be_counted(self, run):
        unknown = {"shape": [2**40], "dimension_names": ["other"], "data_type": "float64"}
        change(
            run, lambda document: nodes_of(document).update({"x": nodes_of(document)["train/step"] | unknown})
        )
        assert refusal(run) == "half a run: the chunk 'x/c.0' is missing"

    @pytest.mark.parametrize("node", [None, [], 3, {}, {"node_type": "x"}])
    def test_a_node_that_is_none(self, run, node):
        change(run, lambda document: nodes_of(document).update({"train/n": node}))
        assert refusal(run).startswith("zarr.json is damaged: metadata of 'train/n'")

    @pytest.mark.parametrize("name", ["../secret", "/etc", "train/../n", "", "train//n"])
    def test_a_node_that_lies_elsewhere(self, run, name):
        change(run, lambda document: nodes_of(document).update({name: {"node_type": "group"}}))
        assert refusal(run).startswith(f"zarr.json is damaged: metadata of '{name}'")

    @pytest.mark.parametrize("node", [{"node_type": "group"}, {"node_type": "group", "attributes": None}])
    @pytest.mark.parametrize("name", ["train", "train/raw"])
    def test_a_group_that_names_no_coordinates(self, run, name, node):
        change(run, lambda document: nodes_of(document).update({name: node}))
        assert refusal(run).startswith(f"zarr.json is damaged: '{name}' is no group with coordinates")

    def test_a_codec_that_no_run_has(self, run):
        def edit(document):
            document["consolidated_metadata"]["metadata"]["train/n"]["codecs"] = [{"name": "magic"}]

        change(run, edit)
        assert refusal(run).startswith(
            "zarr.json is damaged: codecs of 'train/n', which no run has: [{'name': 'magic"
        )

    def test_a_run_of_version_1_0_is_fine(self, run):
        change(run, lambda document: document["attributes"]["actlab"].update(format_version=[1, 0]))
        assert open_snapshot(run).tree["train"].sizes["step"] == 10

    def test_ranks_and_reasons_are_fine(self, run):
        ranks = {"rank": 1, "world_size": 2, "job": "c0ffee"}
        said = {"ranks": ranks, "skipped": {"embed": "its output is int64", "gone": "complex"}}
        change(run, lambda document: document["attributes"]["actlab"].update(said))
        assert open_snapshot(run).attributes["ranks"] == ranks

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

    @pytest.mark.parametrize("make", [os.mkfifo, lambda chunk: chunk.symlink_to("/dev/zero"), os.mkdir])
    def test_a_chunk_that_is_no_file_any_more(self, run, make):
        chunk = run / "train" / "counts" / "c.0.0.0"
        tree = open_snapshot(run).tree
        chunk.unlink()
        make(chunk)
        with pytest.raises(StoreError, match=r"'train/counts/c\.0\.0\.0' is no chunk, but something else"):
            tree["train"].counts.sum().compute()

    def test_a_chunk_of_another_shape(self, run):
        grid = {"name": "regular", "configuration": {"chunk_shape": [5, 8, 16]}}
        change(run, lambda document: nodes_of(document)["train/counts"].update(chunk_grid=grid))
        tree = open_snapshot(run).tree
        reason = r"run\.zarr: the chunk 'train/counts/c\.\d\.0\.0' is damaged, it says"
        with pytest.raises(StoreError, match=reason) as error:
            tree["train"].counts.sum().compute()
        assert "\n" not in str(error.value)
