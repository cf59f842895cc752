"""Side data on disk: read back by plain xarray bit by bit, chunks that stay small, names that are safe."""

from dataclasses import replace
from itertools import count
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actlab.schema import SPLITS, LayerInfo
from actlab.store import arrays
from actlab.store.reader import open_snapshot
from actlab.store.row import HeadCounts, row_checksum
from actlab.store.side_table import SideTable, safe_name
from actlab.store.writer import RunWriter

KINDS = ("channels", "samples", "head_counts", "label_moments")
ROWS = st.fixed_dictionaries(
    {
        "split": st.sampled_from(SPLITS),
        "kinds": st.sets(st.sampled_from(KINDS)),
        "more_channels": st.sampled_from([0, 0, 1, 20]),
        "n_labels": st.sampled_from([1, 3, 3, 30]),
        "count": st.sampled_from([0, 1, 3, 9]),
        "labels": st.booleans(),
        "flush": st.sampled_from([False, False, True]),
    }
)
PLAIN = {
    "split": "train",
    "kinds": set(KINDS),
    "more_channels": 0,
    "n_labels": 3,
    "count": 3,
    "labels": False,
    "flush": True,
}
LATE = PLAIN | {"more_channels": 20, "n_labels": 30, "labels": True}


def assert_starts_with(found, expected):
    """The stored array begins with the block; what lies beyond along its first dim is fill."""
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found[: len(expected)], expected)
    rest = found[len(expected) :]
    assert np.isnan(rest).all() if rest.dtype.kind == "f" else not rest.any()


def check(model, path, stored_rows, stored_side):
    tree = xr.open_datatree(path, engine="zarr")
    rows = {(row.split, row.step): (row, checksum) for row, _, checksum in stored_rows(path)}
    assert len(rows) == len(model)
    for row in model:
        bare, checksum = rows[row.split, row.step]
        found = stored_side(bare, tree)
        assert checksum == row_checksum(found) == row_checksum(row)
        assert (found.channels is None) == (row.channels is None)
        if row.channels is not None:
            for name in ("n", "zeros", "mean_abs"):
                assert_starts_with(getattr(found.channels, name), getattr(row.channels, name))
        assert (found.head_counts is None) == (row.head_counts is None)
        if row.head_counts is not None:
            np.testing.assert_array_equal(found.head_counts.counts, row.head_counts.counts)
        assert (found.label_moments is None) == (row.label_moments is None)
        if row.label_moments is not None:
            for name in ("n", "mean", "std"):
                assert_starts_with(getattr(found.label_moments, name), getattr(row.label_moments, name))
        assert found.samples.keys() == {layer for layer, kept in row.samples.items() if len(kept.values)}
        for layer, kept in found.samples.items():
            expected = row.samples[layer]
            assert kept.values.dtype == expected.values.dtype
            np.testing.assert_array_equal(kept.values, expected.values)
            np.testing.assert_array_equal(kept.index, expected.index)
            if expected.label is not None:
                np.testing.assert_array_equal(kept.label, expected.label)
            else:
                assert kept.label is None or (kept.label == -100).all()


@pytest.fixture
def small_chunks(monkeypatch):
    """Make chunks so small that a few rows fill several, and units and dims are cut."""
    monkeypatch.setattr(arrays, "_MOST_ROWS", 2)
    monkeypatch.setattr(arrays, "_MOST_SAMPLES", 4)
    monkeypatch.setattr(arrays, "_BIG_CHUNK", 1 << 9)


@pytest.mark.usefixtures("small_chunks")
@settings(max_examples=10)
@example(plan=[PLAIN] * 5 + [LATE], hot=False, dtype="float32", units=2, pooled=False)
@example(plan=[LATE, PLAIN, LATE], hot=True, dtype="float16", units=7, pooled=False)
@given(
    plan=st.lists(ROWS, max_size=8),
    hot=st.booleans(),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    units=st.sampled_from([1, 2, 7]),
    pooled=st.booleans(),
)
def test_plain_xarray_holds_exactly_what_was_appended(
    plan, hot, dtype, units, pooled, small_axis, make_row, add_side, stored_rows, stored_side
):
    model, sizes = [], {"layer0": 3, "layer1": 2}
    steps = {split: count() for split in SPLITS}
    with TemporaryDirectory() as folder:
        path = f"{folder}/run.zarr"
        writer = RunWriter(path, axis=small_axis, attributes={}, flush_every=60, fsync=False)
        for item in plan:
            if item["more_channels"]:
                sizes = sizes | {f"layer{len(sizes)}": item["more_channels"]}
            row = add_side(
                make_row(next(steps[item["split"]]), item["split"], layers=max(3, len(sizes))),
                item["kinds"],
                sizes=sizes,
                sampled={"layer1": (5, 40), "layer2": (), "layer0": (2,)},
                count=item["count"],
                dtype=dtype,
                labels=("hot" if hot else "index") if item["labels"] else None,
                units=1 if pooled else units,
                pooled=pooled,
                n_labels=item["n_labels"],
            )
            assert writer.append(row)
            model.append(row)
            if item["flush"]:
                writer.flush()
                check(model, path, stored_rows, stored_side)
        writer.close()
        check(model, path, stored_rows, stored_side)
        open_snapshot(path)


def test_names_and_coordinates_are_plain(start, path, make_row, add_side):
    writer = start()
    writer.append(add_side(make_row(0)))
    writer.close()
    tree = xr.open_datatree(path, engine="zarr")
    channels = tree["train/channels"]
    assert channels["channel_layer"].values.tolist() == ["layer0"] * 3 + ["layer1"] * 2
    assert channels["channel_index"].values.tolist() == [0, 1, 2, 0, 1]
    assert {"row_step", "row_attempt", "channel_layer", "channel_index"} <= set(channels.coords)
    assert tree["train/samples/layer1"].attrs["layer"] == "layer1"
    assert tree["train/samples/layer1"]["values"].dims == ("sample", "dim_1", "dim_2")
    assert {"sample_step", "attempt"} <= set(tree["train/samples/layer1"].coords)
    assert tree["train/head"]["truth"].values.tolist() == ["no", "yes", "unlabelled"]
    assert tree["train/head"].attrs["units"] == "each"
    assert tree["train/head"]["counts"].dims == ("row", "unit", "truth", "bucket")
    assert tree["train/labels"]["n"].dims == ("row", "label", "unit")


def test_a_split_without_such_data_has_no_such_group(start, path, make_row, add_side):
    writer = start()
    writer.append(add_side(make_row(0), ["channels"]))
    writer.append(make_row(0, "valid"))
    writer.close()
    tree = xr.open_datatree(path, engine="zarr")
    assert {*tree["train"].children} == {"raw", "channels"}
    assert {*tree["valid"].children} == {"raw"}


def test_rows_in_between_need_no_side_data(start, path, make_row, add_side):
    writer = start()
    for step in range(6):
        row = make_row(step)
        writer.append(add_side(row) if step % 3 == 1 else row)
    writer.close()
    tree = xr.open_datatree(path, engine="zarr")
    assert tree["train/channels"]["row_step"].values.tolist() == [1, 4]
    assert tree["train/samples/layer2"]["sample_step"].values.tolist() == [1, 1, 1, 4, 4, 4]


def chunks_of(row):
    table = SideTable()
    table.add(row, 0)
    return {
        f"{path}/{name}": array.layout.chunks
        for path, group in table.groups.items()
        for name, array in group.arrays.items()
    }


def test_a_partial_chunk_is_never_large(make_row, add_side):
    large = make_row(0, layers=2)
    large = add_side(
        large, sizes={"layer0": 60_000}, sampled={"layer1": (64, 112, 112)}, units=128, n_labels=1000
    )
    found = chunks_of(large)
    assert found["channels/n"] == (1, 67_504)
    assert found["samples/layer1/values"] == (1, 64, 112, 112)
    assert found["labels/mean"] == (1, 1128, 128)
    wide = chunks_of(add_side(make_row(0), ["samples"], sampled={"layer1": (512, 112, 112)}))
    assert wide["samples/layer1/values"] == (1, 64, 112, 112)  # cut along the first dim of a sample


@pytest.mark.parametrize(("units", "chunk"), [(128, (1, 64)), (64, (1, 64)), (10, (8, 10)), (1, (64, 1))])
def test_head_counts_share_a_chunk_within_4_mib(units, chunk, make_row):
    row = replace(make_row(0), head_counts=HeadCounts(np.ones((units, 3, 3592), np.uint32), pooled=False))
    assert chunks_of(row)["head/counts"] == (*chunk, 3, 3592)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("layer1.0.conv2", "layer1.0.conv2"),
        ("encoder:hidden", "encoder_hidden"),
        ("F.relu#2", "F.relu_2"),
        ("größe", "gr__e"),
        ("", "_"),
        ("..", "_.."),
        ("zarr.json", "zarr.json_2"),
        ("x" * 300, "x" * 100),
    ],
)
def test_safe_names(layer, name):
    assert safe_name(layer, []) == name


@given(st.lists(st.text(max_size=5), unique=True, max_size=30))
def test_safe_names_differ_whatever_the_file_system(layers):
    names = []
    for layer in layers:
        names.append(safe_name(layer, names))
    assert len({name.lower() for name in names}) == len(layers)


def test_a_run_may_have_layers_of_any_name(start, path, make_row, add_side):
    names = ("zarr.json", "a:b", "A_B")
    row = replace(make_row(0), layers=tuple(map(LayerInfo, names)))
    writer = start()
    writer.append(add_side(row, ["samples"], sampled=dict.fromkeys(names, (2,))))
    writer.close()
    groups = open_snapshot(path).tree["train/samples"].children
    assert {name: group.attrs["layer"] for name, group in groups.items()} == {
        "zarr.json_2": "zarr.json",
        "a_b": "a:b",
        "A_B_2": "A_B",
    }
