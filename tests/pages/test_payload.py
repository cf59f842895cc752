import base64
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actlab.axis import FloatAxis
from actlab.charts.slotted import CURVES, LayerSlots
from actlab.pages.payload import (
    SERIES,
    WINDOW_SERIES,
    log_codes,
    log_counts,
    pack_floats,
    pack_layer,
    pack_window,
    rounded,
    unpack_layer,
    whole_counts,
)
from actlab.rebinning import Slots

COUNTS = arrays(np.float64, (3, 4), elements=st.just(0.0) | st.floats(1e-3, 1e6))
SUMS = arrays(np.uint32, (5, 6), elements=st.just(0) | st.integers(1, 2**31))
SLOTS = Slots(FloatAxis(), 3, -5)


@given(COUNTS)
def test_log_codes_are_empty_only_where_there_is_nothing(counts):
    codes = log_codes(counts, 1e-3, 1e6)
    assert np.array_equal(codes == 0, counts == 0)
    assert codes.dtype == np.uint8


@given(COUNTS, st.sampled_from([17, 256]))
def test_log_codes_come_back_within_half_a_step(counts, levels):
    back = log_counts(log_codes(counts, 1e-3, 1e6, levels), 1e-3, 1e6, levels)
    half = np.exp(np.log(1e9) / (levels - 2) / 2)
    present = counts > 0
    assert np.all(back[~present] == 0)
    ratio = back[present] / counts[present]
    assert np.all((ratio < half * (1 + 1e-9)) & (ratio > 1 / half * (1 - 1e-9)))


def test_log_codes_clip_and_stand_a_scale_without_length():
    assert log_codes(np.array([0.0, 1.0, 5.0, 1000.0]), 5.0, 50.0).tolist() == [0, 1, 1, 255]
    assert log_codes(np.array([0.0, 5.0]), 5.0, 5.0).tolist() == [0, 1]
    assert log_counts(np.array([0, 1]), 5.0, 5.0).tolist() == [0, 5]


@given(st.integers(2, 10**9))
def test_small_whole_numbers_come_back_as_they_were(high):
    numbers = np.arange(min(high, 8) + 1)
    assert whole_counts(log_codes(numbers, 1, high), high).tolist() == numbers.tolist()


@given(arrays(np.float64, 5, elements=st.floats(-1e30, 1e30)))
def test_rounding_keeps_eleven_bits(values):
    back = rounded(values).astype(np.float64)
    assert np.all(np.abs(back - values) <= np.abs(values) * 2.0**-11 + 1e-40)


def test_rounding_keeps_what_is_no_number_and_small_whole_ones():
    values = np.array([np.nan, np.inf, -np.inf, 0.0, 2047.0])
    assert np.array_equal(rounded(values), values.astype(np.float32), equal_nan=True)


def layer(columns, epochs=None):
    some = np.zeros((len(CURVES), len(columns), 2), np.uint32) if epochs is None else epochs
    return LayerSlots(SLOTS, 4, columns, some)


def inflated(blob):
    return zlib.decompress(base64.b64decode(blob), -zlib.MAX_WBITS)


@given(SUMS, arrays(np.uint64, (len(CURVES), 5, 2), elements=st.just(0) | st.integers(1, 10**12)))
def test_a_layer_comes_back_within_half_a_code(columns, epochs):
    series = np.random.default_rng(0).normal(size=(len(SERIES), 6))
    payload = pack_layer(layer(columns, epochs), series)
    back = unpack_layer(payload, 6, 2)
    assert (payload.first, payload.slots) == (4, 5)
    for found, truth, high in ((back[0], columns, payload.high), (back[1], epochs, payload.high_epochs)):
        assert np.array_equal(found == 0, truth == 0)
        half = high ** (0.5 / 254) * (1 + 1e-9)
        ratio = found[truth > 0] / truth[truth > 0].astype(np.float64)
        assert np.all((ratio <= half) & (ratio >= 1 / half))
    np.testing.assert_array_equal(back[2], rounded(series))


def test_a_payload_is_one_raw_deflate_stream_of_the_stated_length():
    columns = np.ones((5, 6), np.uint32)
    series = np.zeros((len(SERIES), 6))
    assert len(inflated(pack_layer(layer(columns), series).blob)) == 30 + 3 * 5 * 2 + 4 * len(SERIES) * 6
    window = pack_window(columns, 2, np.zeros((len(WINDOW_SERIES), 6)))
    assert len(inflated(window.blob)) == 30 + 4 * len(WINDOW_SERIES) * 6
    assert (window.first, window.slots, window.high) == (2, 5, 2.0)


@given(SUMS, st.integers(0, 3), st.integers(-6, 6))
def test_coarser_slots_keep_every_count(columns, bits, floor):
    fine = layer(columns, np.stack([columns[:, :2]] * 3))
    coarse = fine.coarser(bits, floor)
    assert np.array_equal(coarse.columns.sum(axis=0), columns.sum(axis=0))
    assert np.array_equal(coarse.epochs.sum(axis=1), fine.epochs.sum(axis=1))
    assert coarse.slots == replace(SLOTS, bits=min(bits, 3), floor=max(floor, -5))
    whole = np.zeros((SLOTS.starts.size, 6), np.uint64)
    whole[4:9] = columns
    target = coarse.slots.slot_of[SLOTS.starts]
    expected = np.zeros((coarse.slots.starts.size, 6), np.uint64)
    np.add.at(expected, target, whole)
    assert np.array_equal(expected[coarse.first : coarse.first + len(coarse.columns)], coarse.columns)


def test_a_layer_without_values_is_packed_too():
    payload = pack_layer(layer(np.zeros((1, 6), np.uint32)), np.full((len(SERIES), 6), np.nan))
    columns, _, series = unpack_layer(payload, 6, 2)
    assert not columns.any()
    assert np.isnan(series).all()


@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_floats_are_packed_in_planes(shape):
    values = np.random.default_rng(1).normal(size=shape)
    raw = np.frombuffer(inflated(pack_floats(values)), np.uint8)
    back = np.ascontiguousarray(raw.reshape(4, -1).T).view("<f4").reshape(shape)
    assert np.array_equal(back, rounded(values))
