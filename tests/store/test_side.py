"""Which side data can be written, and what the checksum of a row covers of them."""

from dataclasses import fields, replace

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlab.schema import LayerInfo
from actlab.store.row import (
    ChannelStats,
    HeadCounts,
    LabelMoments,
    RawSamples,
    Row,
    RowRules,
    row_checksum,
)

KINDS = ["channels", "samples", "head_counts", "label_moments"]


def arrays_of(row, kind):
    """Return the arrays of a kind of side data: [(block, name of the field)]."""
    block = getattr(row, kind)
    block = block["layer1"] if kind == "samples" else block
    names = [field.name for field in fields(block)]
    return block, [name for name in names if isinstance(getattr(block, name), np.ndarray)]


def put(row, kind, block):
    return replace(row, **{kind: row.samples | {"layer1": block} if kind == "samples" else block})


@given(kind=st.sampled_from(KINDS), field=st.integers(0, 2), where=st.integers(0, 30))
def test_any_change_of_a_value_changes_the_checksum(kind, field, where, make_row, add_side):
    row = add_side(make_row(3))
    block, names = arrays_of(row, kind)
    name = names[field % len(names)]
    changed = np.nan_to_num(getattr(block, name))
    changed.flat[where % changed.size] += 1
    assert row_checksum(put(row, kind, replace(block, **{name: changed}))) != row_checksum(row)
    assert row_checksum(replace(row, **{kind: {} if kind == "samples" else None})) != row_checksum(row)


def test_checksum_is_the_one_of_the_format(small_axis):
    zero, counts = np.zeros(1), np.zeros((1, small_axis.n_buckets), np.uint32)
    layers = (LayerInfo("b"),)
    row = Row("train", 0, 0, 0, 0, 0.0, layers, counts, np.array([0]), zero, zero, zero, zero, {})
    by_unit = np.arange(3 * small_axis.n_buckets, dtype=np.uint64).reshape(1, 3, -1)
    full = replace(
        row,
        channels=ChannelStats(("b",), (3,), u8(2, 5, 0), u8(1, 0, 0), np.array([0.5, 2, np.nan])),
        samples={
            "b": RawSamples(np.array([[1.5]], np.float16), np.array([7]), np.array([-100])),
            "a": RawSamples(np.array([2.5, 3]), np.array([0, 1]), np.array([4, -100])),
            "none": RawSamples(np.empty((0, 2)), np.empty(0, np.int64)),
        },
        head_counts=HeadCounts(by_unit, pooled=True),
        label_moments=LabelMoments(u8(1, 0)[:, None], np.array([[2], [np.nan]]), np.zeros((2, 1))),
    )
    data = np.zeros(5, "<i8").tobytes() + np.zeros(1 + 5 + small_axis.n_buckets // 2).tobytes()
    assert row_checksum(row) == google_crc32c.value(data)
    data += np.array([2, 5], "<u8").tobytes() + np.array([1, 0], "<u8").tobytes()
    data += np.array([0.5, 2], "<f8").tobytes()
    data += b"a" + np.array([2.5, 3], "<f8").tobytes() + np.array([0, 1, 4, -100], "<i8").tobytes()
    data += b"b" + np.array([1.5], "<f2").tobytes() + np.array([7], "<i8").tobytes()
    data += by_unit.astype("<u4").tobytes()
    data += np.array([1], "<u8").tobytes() + np.array([2, 0], "<f8").tobytes()
    assert row_checksum(full) == google_crc32c.value(data)


def u8(*values):
    return np.array(values, np.uint64)


def test_the_queue_counts_every_byte(make_row, add_side):
    row, bare = add_side(make_row(0)), make_row(0)
    expected = sum(
        getattr(block, name).nbytes
        for kind in KINDS
        for block, names in [arrays_of(row, kind)]
        for name in names
    )
    other = row.samples["layer2"]
    expected += other.values.nbytes + other.index.nbytes + other.label.nbytes
    assert row.nbytes - bare.nbytes == expected


class TestRules:
    def test_sound_side_data_stay(self, make_row, add_side, small_axis):
        rules = RowRules(small_axis.n_buckets)
        for step in range(3):
            row = add_side(make_row(step))
            assert rules.sound_side(row) == (row, None)
        bare = make_row(3)
        assert rules.sound_side(bare) == (bare, None)

    def test_what_may_grow_grows_and_may_be_short_again(self, make_row, add_side, small_axis):
        rules = RowRules(small_axis.n_buckets)
        longer = {"sizes": {"layer0": 3, "layer1": 2, "layer2": 4}, "n_labels": 9}
        for step, options in enumerate([{}, longer, {}, longer, {"labels": None}, {"count": 0}]):
            row = add_side(make_row(step), **options)
            assert rules.sound_side(row) == (row, None)

    @pytest.mark.parametrize(
        ("kind", "options", "reason"),
        [
            ("channels", {"sizes": {"layer0": 4}}, "channels of ('layer0', 4), where earlier rows have"),
            ("channels", {"sizes": {"layer1": 2}}, "channels of ('layer1', 2), where earlier rows have"),
            ("channels", {"sizes": {"layer0": 3, "layr1": 2}}, "is no layer: did you mean 'layer1'"),
            (
                "samples",
                {"sampled": {"layer1": (2, 4)}},
                "samples of 'layer1': a sample is ('float32', (2, 4))",
            ),
            (
                "samples",
                {"sampled": {"layer1": (2, 3)}, "dtype": np.float16},
                "a sample is ('float16', (2, 3))",
            ),
            ("samples", {"sampled": {"layer1": (2, 3)}, "dtype": np.int32}, "values are int32 (3, 2, 3)"),
            ("samples", {"sampled": {"layer1": (0,)}}, "a sample has 0 bytes, expected 1 to 268435456"),
            ("samples", {"sampled": {"other": (2,)}}, "samples of 'other', which is no layer"),
            (
                "samples",
                {"sampled": {"layer1": (2, 3)}, "labels": "hot"},
                "label has (3,) a sample, before ()",
            ),
            (
                "head_counts",
                {"units": 3},
                "counts of the head have (units, pooled) (3, False), before (2, False)",
            ),
            ("head_counts", {"units": 1, "pooled": True}, "(units, pooled) (1, True), before (2, False)"),
            (
                "head_counts",
                {"units": 129},
                "uint64 (129, 3, 16), expected uint32 or uint64 (1 to 128, 3, 16)",
            ),
            (
                "head_counts",
                {"units": 2, "pooled": True},
                "(2, 3, 16), expected uint32 or uint64 (1 to 1, 3, 16)",
            ),
            ("label_moments", {"units": 3}, "moments by label have 3 units, before 2"),
            ("label_moments", {"n_labels": 1025}, "have shape (1025, 2), expected (1 to 1024, 1 to 128)"),
        ],
    )
    def test_what_does_not_fit_goes_alone(self, kind, options, reason, make_row, add_side, small_axis):
        rules = RowRules(small_axis.n_buckets)
        assert rules.sound_side(add_side(make_row(0)))[1] is None
        row = replace(add_side(make_row(1)), **{kind: getattr(add_side(make_row(1), **options), kind)})
        sound, problem = rules.sound_side(row)
        assert problem.startswith("step 1 of 'train': ")
        assert reason in problem
        assert "\n" not in problem
        assert getattr(sound, kind) in (None, {})
        assert all(
            getattr(sound, other) is getattr(row, other) for other in KINDS[:1] + KINDS[2:] if other != kind
        )
        assert rules.sound_side(add_side(make_row(2)))[1] is None

    @pytest.mark.parametrize(
        ("kind", "field", "value", "reason"),
        [
            ("channels", "n", np.ones(5, np.int64), "n is int64 (5,), expected uint64 (5,)"),
            ("channels", "zeros", np.ones(4, np.uint64), "zeros is uint64 (4,), expected uint64 (5,)"),
            ("channels", "zeros", np.full(5, 99, np.uint64), "more zeros than values in a channel"),
            ("channels", "layers", ("layer0", "layer0"), "each layer once"),
            ("channels", "sizes", (5,), "a size for each"),
            ("channels", "sizes", (6, -1), "expected 1 to"),
            ("channels", "sizes", (1 << 22, 1), "4194305 channels, expected 1 to 4194304"),
            ("samples", "values", np.float32(1), "expected floats [sample, ...]"),
            ("samples", "index", np.arange(2), "index is int64 (2,), expected int64 (3,)"),
            ("samples", "index", np.arange(3.0), "index is float64"),
            ("samples", "label", np.arange(4), "label is int64 (4,), expected int64 (3,) or (3, k)"),
            ("samples", "label", np.zeros((3, 0), np.int64), "label is int64 (3, 0)"),
            ("samples", "label", np.arange(3.0), "label is float64 (3,)"),
            ("head_counts", "counts", np.full((2, 3, 16), 2**32, np.uint64), "4294967296 exceeds 4294967295"),
            ("head_counts", "counts", np.ones((2, 3, 16)), "counts of the head are float64"),
            ("head_counts", "counts", np.ones((), np.uint32), "counts of the head are uint32 ()"),
            ("label_moments", "n", np.ones(3, np.uint64), "moments by label have shape (3,)"),
            ("label_moments", "std", np.ones((3, 1)), "moments by label: std is float64 (3, 1)"),
        ],
    )  # fmt: skip
    def test_arrays_that_break_the_format(self, kind, field, value, reason, make_row, add_side, small_axis):
        row = add_side(make_row(0), sampled={"layer1": (2, 3)})
        block, _ = arrays_of(row, kind)
        sound, problem = RowRules(small_axis.n_buckets).sound_side(
            put(row, kind, replace(block, **{field: value}))
        )
        assert reason in problem
        assert getattr(sound, kind) in (None, {})

    def test_each_split_has_shapes_of_its_own(self, make_row, add_side, small_axis):
        rules = RowRules(small_axis.n_buckets)
        assert rules.sound_side(add_side(make_row(0)))[1] is None
        other = add_side(make_row(0, "valid"), units=5, sizes={"layer2": 1}, sampled={"layer1": (9,)})
        assert rules.sound_side(other)[1] is None

    def test_no_more_layers_of_samples_than_a_record_can_list(self, make_row, add_side, small_axis):
        row = make_row(0, layers=300)
        row = add_side(row, ["samples"], sampled={layer.name: () for layer in row.layers})
        sound, problem = RowRules(small_axis.n_buckets).sound_side(row)
        assert problem == "step 0 of 'train': samples of 'layer256', one layer more than 256"
        assert list(sound.samples) == [f"layer{number}" for number in range(256)]
