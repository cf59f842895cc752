"""A record whose groups of side data cannot be trusted: refused in one line, before anything is read."""

import json
import shutil

import pytest

from actlab.errors import StoreError
from actlab.store.layout import ROOT
from actlab.store.reader import open_snapshot
from actlab.store.writer import RunWriter


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_axis, make_row, add_side):
    """Return the path of a closed run with all kinds of side data in 4 of 5 rows."""
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    writer = RunWriter(path, axis=small_axis, attributes={"head": "layer2"}, fsync=False)
    for step in range(5):
        writer.append(add_side(make_row(step)) if step else make_row(step))
    writer.close()
    return path


@pytest.fixture
def run(finished, tmp_path):
    """Return the path of a copy, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run.zarr")


@pytest.fixture
def refusal(run):
    """Return a function that edits the nodes of the record and returns the line that refuses it."""

    def refuse(edit):
        document = json.loads((run / ROOT).read_text())
        edit(document["consolidated_metadata"]["metadata"])
        (run / ROOT).write_text(json.dumps(document))
        with pytest.raises(StoreError) as error:
            open_snapshot(run)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(f"{run}: ")
        return str(error.value).removeprefix(f"{run}: ")

    return refuse


ARRAYS = [
    *(f"channels/{name}" for name in ("row_step", "row_attempt", "n", "zeros", "mean_abs")),
    *("channels/channel_layer", "channels/channel_index"),
    *(f"samples/layer1/{name}" for name in ("values", "index", "sample_step", "attempt")),
    *(f"head/{name}" for name in ("row_step", "row_attempt", "counts", "truth")),
    *(f"labels/{name}" for name in ("row_step", "row_attempt", "n", "mean", "std")),
]


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_the_record_does_not_list(name, refusal):
    assert refusal(lambda nodes: nodes.pop(f"train/{name}")) == (
        f"half a run: the array 'train/{name}' is missing"
    )


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_another_kind(name, refusal):
    said = refusal(lambda nodes: nodes[f"train/{name}"].update(data_type="int8"))
    assert said.startswith(f"'train/{name}' is ([")
    assert "'int8'), expected ([" in said


@pytest.mark.parametrize("name", [*ARRAYS, "samples/layer1/label"])
def test_an_array_of_other_dims(name, refusal):
    said = refusal(lambda nodes: nodes[f"train/{name}"].update(dimension_names=["other"]))
    assert said.startswith(f"'train/{name}' is (['other'], ")


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_calls_itself_a_group(name, refusal):
    said = refusal(lambda nodes: nodes[f"train/{name}"].update(node_type="group"))
    assert said.startswith(f"'train/{name}' has shape [")


@pytest.mark.parametrize(
    "chunk", ["channels/zeros/c.0.0", "samples/layer1/label/c.0", "head/counts/c.0.0.0.0"]
)
def test_a_missing_chunk(chunk, run):
    (run / "train" / chunk).unlink()
    with pytest.raises(StoreError, match=f"half a run: the chunk 'train/{chunk}' is missing"):
        open_snapshot(run)


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("channels/row_attempt", [3], "'train/channels/row_attempt' has 3 along 'row', expected 4"),
        ("channels/zeros", [4, 6], "'train/channels/zeros' has 6 along 'channel', expected 5"),
        ("channels/channel_layer", [2], "'train/channels/channel_layer' has 2 along 'channel', expected 5"),
        ("samples/layer1/index", [9], "'train/samples/layer1/index' has 9 along 'sample', expected 12"),
        ("samples/layer1/values", [12, 2], "'train/samples/layer1/values' has shape [12, 2]"),
        ("head/counts", [4, 2, 4, 16], "'train/head/counts' has 4 along 'truth', expected 3"),
        ("head/counts", [4, 2, 3, 17], "'train/head/counts' has 17 along 'bucket', expected 16"),
        ("head/counts", [4, 129, 3, 16], "'train/head/counts' has 129 along 'unit', expected 128 at most"),
        ("labels/n", [4, 1025, 2], "'train/labels/n' has 1025 along 'label', expected 1024 at most"),
        ("labels/std", [4, 4, 2], "'train/labels/std' has 4 along 'label', expected 3"),
        ("raw/label", [3], "'train/raw/label' has 3 along 'sample', expected 10"),
    ],
)
def test_lengths_that_do_not_fit(name, shape, reason, refusal):
    def edit(nodes):
        node = nodes[f"train/{name}"]
        node["shape"] = shape
        node["chunk_grid"]["configuration"]["chunk_shape"] = [4] * len(shape)

    if name == "samples/layer1/values":  # another number of dims than names: the names are wrong, too
        reason = "'train/samples/layer1/values' is (['sample', 'dim_1', 'dim_2'], 'float32'), expected (["
    assert refusal(edit).startswith(reason)


def test_more_rows_than_the_split_has(refusal):
    def edit(nodes):
        for name in ("row_step", "row_attempt", "n", "zeros", "mean_abs"):
            nodes[f"train/channels/{name}"]["shape"][0] = 6

    assert refusal(edit) == "'train/channels/row_step' has 6 along 'row', expected 5 at most"


@pytest.mark.parametrize("node", [{"node_type": "group"}, {"node_type": "group", "attributes": None}])
@pytest.mark.parametrize("name", ["channels", "samples/layer1", "labels"])
def test_a_group_that_names_no_coordinates(name, node, refusal):
    said = refusal(lambda nodes: nodes.update({f"train/{name}": node}))
    assert said.startswith(f"zarr.json is damaged: 'train/{name}' is no group with coordinates '")


@pytest.mark.parametrize("units", [None, "some", 7, ["each"]])
def test_a_head_that_does_not_say_its_units(units, refusal):
    said = refusal(lambda nodes: nodes["train/head"]["attributes"].update(units=units))
    assert said == f"zarr.json is damaged: units of 'train/head' are {units!r}, expected 'each' or 'pooled'"


def test_pooled_units_are_one(refusal):
    said = refusal(lambda nodes: nodes["train/head"]["attributes"].update(units="pooled"))
    assert said == "'train/head/counts' has 2 along 'unit', expected 1 at most"


@pytest.mark.parametrize("layer", [None, "other", "layer2", ["layer1"], {}])
def test_samples_of_no_layer_of_their_own(layer, refusal):
    said = refusal(lambda nodes: nodes["train/samples/layer1"]["attributes"].update(layer=layer))
    assert said.startswith("zarr.json is damaged: 'train/samples/layer")
    assert said.endswith("expected a layer of its own")


def test_samples_outside_a_group(refusal):
    assert refusal(lambda nodes: nodes.pop("train/samples")) == (
        "zarr.json is damaged: 'train/samples' is no group"
    )


def test_what_it_does_not_know_is_ignored(run):
    document = json.loads((run / ROOT).read_text())
    nodes = document["consolidated_metadata"]["metadata"]
    nodes["train/later"] = {"node_type": "group", "attributes": {}, "zarr_format": 3}
    nodes["train/head"]["attributes"]["surprise"] = 1
    (run / ROOT).write_text(json.dumps(document))
    assert open_snapshot(run).tree["train/head"].attrs["surprise"] == 1
