"""Merging is exact: whatever is split over ranks, and however, the merged row is that of the whole."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actlab.axis import FloatAxis
from actlab.schema import MOMENTS, LayerInfo
from actlab.store.merging import join_spans, merge_rows, rank_path, spans_of, union_layers
from actlab.store.row import ChannelStats, HeadCounts, LabelMoments, RawSamples, Row

AXIS = FloatAxis(mantissa_bits=1, min_exponent=-2, max_exponent=3)
VALUES = st.floats(-100, 100) | st.sampled_from([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-9, 20.0])
BATCH = st.dictionaries(
    st.sampled_from(["input", "conv", "relu", "fc"]),
    st.lists(st.tuples(VALUES, st.integers(0, 2)), max_size=12),
)


def row_of(batch, order, **kept):
    """Count a batch {layer: values} by numpy, over its layers in the given order."""
    names = [name for name in order if name in batch]
    values = [np.array(batch[name], np.float64) for name in names]
    finite = [each[np.isfinite(each)] for each in values]
    moments = {
        name: np.array([getattr(np, name)(each) if each.size else np.nan for each in finite])
        for name in ("mean", "std", "min", "max")
    }
    counts = [np.bincount(AXIS.index(each), minlength=AXIS.n_buckets) for each in values]
    place = {"step": 4, "epoch": 0, "batch": 4, "train_step": 4, "time": 1.7e9} | kept
    return Row(
        "train",
        layers=tuple(
            LayerInfo(name, calls=int(each.size > 0)) for name, each in zip(names, values, strict=True)
        ),
        counts=np.array(counts, np.uint32).reshape(len(names), AXIS.n_buckets),
        n=np.array([each.size for each in values], np.uint64),
        **moments,
        **place | {"logs": place.get("logs", {})},
    )


def check_equal(found, whole):
    names = [layer.name for layer in found.layers]
    order = [names.index(layer.name) for layer in whole.layers]
    assert sorted(names) == sorted(layer.name for layer in whole.layers)
    for name in ("counts", "n", "min", "max"):
        np.testing.assert_array_equal(getattr(found, name)[order], getattr(whole, name))
    for name in ("mean", "std"):
        np.testing.assert_allclose(getattr(found, name)[order], getattr(whole, name), rtol=1e-12, atol=1e-12)
    assert all(getattr(found, each.name).dtype == each.dtype for each in MOMENTS)


class TestMergedRow:
    @given(batch=BATCH, orders=st.tuples(*[st.permutations(["input", "conv", "relu", "fc"])] * 3))
    def test_is_the_row_of_the_whole(self, batch, orders):
        parts = []
        for rank, order in enumerate(orders):
            mine = {name: [value for value, to in pairs if to == rank] for name, pairs in batch.items()}
            parts.append(row_of({name: mine[name] for name in mine if rank == 0 or mine[name]}, order))
        whole = row_of({name: [value for value, _ in pairs] for name, pairs in batch.items()}, orders[0])
        check_equal(merge_rows(parts, union_layers([part.layers for part in parts])), whole)

    @given(
        offset=st.sampled_from([0.0, 1.0, 1e8]),
        values=hnp.arrays(np.float64, st.integers(2, 50), elements=st.floats(-1, 1)),
        data=st.data(),
    )
    def test_keeps_a_small_spread_far_from_zero(self, offset, values, data):
        cut = data.draw(st.integers(0, values.size))
        parts = [row_of({"fc": offset + part}, ["fc"]) for part in (values[:cut], values[cut:])]
        merged = merge_rows(parts, union_layers([part.layers for part in parts]))
        # The parts' own moments are rounded at the size of the values.
        assert abs(merged.std[0] - np.std(offset + values)) <= 1e-12 + 4e-16 * offset
        assert abs(merged.mean[0] - np.mean(offset + values)) <= 1e-12 + 4e-16 * offset

    @given(batch=BATCH)
    def test_of_one_rank_is_its_row(self, batch):
        row = row_of({name: [value for value, _ in pairs] for name, pairs in batch.items()}, list(batch))
        merged = merge_rows([row], row.layers)
        for name in ("counts", "n", "mean", "std", "min", "max"):
            np.testing.assert_array_equal(getattr(merged, name), getattr(row, name))

    def test_equal_means_stay_as_they_are(self):
        parts = [row_of({"fc": [0.1] * size}, ["fc"]) for size in (1, 2, 4)]
        assert merge_rows(parts, parts[0].layers).mean[0] == 0.1

    def test_counts_beyond_32_bits_are_kept(self):
        row = row_of({"fc": [1.0]}, ["fc"])
        row.counts[:] *= 2**31
        merged = merge_rows([row, row, row], row.layers)
        assert merged.counts.max() == 3 * 2**31

    def test_time_logs_and_samples(self):
        first = row_of(
            {"fc": [1.0]}, ["fc"], time=5.0, logs={"loss": 1.0, "lr": 0.5}, head=np.zeros((2, 3), np.float32)
        )
        second = row_of(
            {"fc": [1.0]},
            ["fc"],
            time=9.0,
            logs={"loss": 2.0, "f1": np.nan},
            head=np.ones((1, 3), np.float32),
            label=np.array([7]),
        )
        merged = merge_rows([first, second], first.layers)
        assert merged.time == 9.0
        assert merged.logs["loss"] == 1.5
        assert merged.logs["lr"] == 0.5
        assert np.isnan(merged.logs["f1"])
        assert merged.head.tolist() == [[0] * 3, [0] * 3, [1] * 3]
        assert merged.label.tolist() == [-100, -100, 7]

    def test_keeps_the_head_only_where_all_have_it(self):
        rows = [
            row_of({"fc": [1.0]}, ["fc"], head=np.zeros((2, 3), np.float32)),
            row_of({"fc": [1.0]}, ["fc"]),
        ]
        assert merge_rows(rows, rows[0].layers).head is None

    def test_heads_of_different_width_are_refused(self):
        rows = [row_of({"fc": [1.0]}, ["fc"], head=np.zeros((2, units), np.float32)) for units in (3, 4)]
        with pytest.raises(ValueError, match="dimension"):
            merge_rows(rows, rows[0].layers)


class TestSideData:
    def merged(self, **blocks):
        """Merge two rows that differ in one block."""
        ((name, both),) = blocks.items()
        rows = [row_of({"fc": [1.0]}, ["fc"], **{name: block}) for block in both]
        return getattr(merge_rows(rows, rows[0].layers), name)

    @given(
        values=hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.just(3)), elements=st.floats(-9, 9)),
        data=st.data(),
    )
    def test_channels(self, values, data):
        def stats(part):
            mean = np.abs(part).mean(axis=0) if len(part) else np.full(3, np.nan)
            return ChannelStats(
                ("fc",),
                (3,),
                np.full(3, len(part), np.uint64),
                (part == 0).sum(axis=0).astype(np.uint64),
                mean,
            )

        cut = data.draw(st.integers(0, len(values)))
        found, whole = self.merged(channels=[stats(values[:cut]), stats(values[cut:])]), stats(values)
        assert found.n.tolist() == whole.n.tolist()
        assert found.zeros.tolist() == whole.zeros.tolist()
        np.testing.assert_allclose(found.mean_abs, whole.mean_abs, rtol=1e-12, atol=1e-12)

    def test_channels_of_other_layers_are_left_out(self):
        one, two = (
            ChannelStats((name,), (1,), *np.ones((2, 1), np.uint64), np.ones(1)) for name in ("fc", "conv")
        )
        assert self.merged(channels=[one, two]) is None
        assert self.merged(channels=[one, None]) is None

    def test_samples(self):
        one = RawSamples(np.ones((1, 2), np.float16), np.array([3]))
        two = RawSamples(np.zeros((2, 2), np.float16), np.array([0, 4]), np.array([8, 9]))
        found = self.merged(samples=[{"fc": one, "conv": one}, {"fc": two}])
        assert list(found) == ["fc"]
        assert found["fc"].values.dtype == np.float16
        assert found["fc"].values.tolist() == [[1, 1], [0, 0], [0, 0]]
        assert found["fc"].index.tolist() == [3, 0, 4]
        assert found["fc"].label.tolist() == [-100, 8, 9]

    def test_head_counts(self):
        one = HeadCounts(np.full((1, 3, AXIS.n_buckets), 2**32 - 1, np.uint32), pooled=True)
        assert self.merged(head_counts=[one, one]).counts.max() == 2**33 - 2
        each = HeadCounts(one.counts, pooled=False)
        assert self.merged(head_counts=[one, each]) is None

    def test_label_moments(self):
        random = np.random.default_rng(0)
        values = [random.normal(size=(5, 2)), random.normal(size=(3, 2))]

        def moments(by_label):
            n = np.array([[len(part)] * 2 for part in by_label], np.uint64)
            mean, std = (
                [getattr(np, name)(p, axis=0) if len(p) else [np.nan] * 2 for p in by_label]
                for name in ("mean", "std")
            )
            return LabelMoments(n, np.array(mean), np.array(std))

        found = self.merged(
            label_moments=[moments([values[0]]), moments([values[1], values[1], values[0][:0]])]
        )
        whole = moments([np.concatenate(values), values[1], values[0][:0]])
        assert found.n.tolist() == whole.n.tolist()
        np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(found.std, whole.std, rtol=1e-12)


def test_union_keeps_the_first_order_and_what_was_called():
    first = [LayerInfo("input", calls=1), LayerInfo("fc", "Linear", shape=(), calls=0)]
    later = [LayerInfo("extra", calls=2), LayerInfo("fc", "Linear", shape=(4, 2), calls=1)]
    found = union_layers([first, later])
    assert [layer.name for layer in found] == ["input", "fc", "extra"]
    assert found[1] == later[1]
    assert union_layers([found, later]) == found


SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)).map(lambda pair: [pair[0], sum(pair)]))


@given(SPANS, SPANS)
def test_joined_spans_hold_the_same_steps_in_order(one, two):
    def steps(spans):
        return {step for first, last in spans for step in range(first, last + 1)}

    joined = join_spans([*one, *two])
    assert steps(joined) == steps(one) | steps(two)
    assert all(earlier[1] < later[0] for earlier, later in pairwise(joined))


@given(st.dictionaries(st.integers(0, 50), st.booleans()))
def test_spans_hold_the_missing_rows_and_no_other(rows):
    steps = sorted(rows)
    spans = spans_of(np.array(steps, np.int64), np.array([rows[step] for step in steps], bool))
    inside = {step for step in steps if any(first <= step <= last for first, last in spans)}
    assert inside == {step for step in steps if rows[step]}
    assert all(rows[end] for span in spans for end in span)


def test_rank_0_writes_the_run_itself(tmp_path):
    assert rank_path(tmp_path / "mnist.zarr", 0) == tmp_path / "mnist.zarr"
    assert rank_path(tmp_path / "mnist.zarr", 12) == tmp_path / "mnist.rank12.zarr"
    assert rank_path(tmp_path / "mnist", 1) == tmp_path / "mnist.rank1"
