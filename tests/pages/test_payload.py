import base64
import zlib

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actlab.pages.payload import (
    SERIES,
    log_codes,
    log_counts,
    pack_floats,
    pack_layer,
    rounded,
    unpack_layer,
)

COUNTS = arrays(np.float64, (3, 4), elements=st.just(0.0) | st.floats(1e-3, 1e6))


@given(COUNTS, st.sampled_from([256, 65_536]))
def test_log_codes_are_empty_only_where_there_is_nothing(counts, levels):
    codes = log_codes(counts, 1e-3, 1e6, levels)
    assert np.array_equal(codes == 0, counts == 0)
    assert codes.dtype == (np.uint8 if levels == 256 else np.uint16)


@given(COUNTS, st.sampled_from([256, 65_536]))
def test_log_codes_come_back_within_half_a_step(counts, levels):
    back = log_counts(log_codes(counts, 1e-3, 1e6, levels), 1e-3, 1e6, levels)
    half = np.exp(np.log(1e9) / (levels - 2) / 2)
    present = counts > 0
    assert np.all(back[~present] == 0)
    ratio = back[present] / counts[present]
    assert np.all((ratio < half * (1 + 1e-9)) & (ratio > 1 / half * (1 - 1e-9)))


def test_log_codes_clip_and_stand_a_scale_without_length():
    assert log_codes(np.array([0.0, 1.0, 5.0, 1000.0]), 5.0, 50.0, 256).tolist() == [0, 1, 1, 255]
    assert log_codes(np.array([0.0, 5.0]), 5.0, 5.0, 256).tolist() == [0, 1]
    assert log_counts(np.array([0, 1]), 5.0, 5.0, 256).tolist() == [0, 5]


@given(arrays(np.float64, 5, elements=st.floats(-1e30, 1e30)))
def test_rounding_keeps_eleven_bits(values):
    back = rounded(values).astype(np.float64)
    assert np.all(np.abs(back - values) <= np.abs(values) * 2.0**-11 + 1e-40)


def test_rounding_keeps_what_is_no_number_and_small_whole_ones():
    values = np.array([np.nan, np.inf, -np.inf, 0.0, 2047.0])
    assert np.array_equal(rounded(values), values.astype(np.float32), equal_nan=True)


def layer(n_columns=5, n_bins=7, n_epochs=2, k=3):
    random = np.random.default_rng(4)
    counts = random.poisson(2.0, (n_columns, n_bins)).astype(np.float32) * random.choice([0, 1, 300], n_bins)
    cell = {name: ("column", random.normal(0, 3, n_columns)) for name in SERIES[:-1]}
    step = 10 * k * np.arange(n_columns)
    return xr.Dataset(
        {
            "counts": (("column", "bin"), counts.astype(np.float32)),
            **cell,
            "step": ("column", step),
            "first_row": ("column", k * np.arange(n_columns)),
            "n_rows": ("column", np.full(n_columns, k)),
            "oddest_step": ("column", step + 10 * np.array([0, 1, 2, 0, 1])),
            "epoch_counts": (("epoch", "bin"), random.uniform(0, 9, (n_epochs, n_bins))),
            "quarter_counts": (("epoch", "bin"), np.zeros((n_epochs, n_bins))),
        },
        attrs={"batches_per_column": k},
    )


STEPS = 10 * np.arange(15)


def test_a_layer_comes_back_from_its_payload():
    data = layer()
    payload = pack_layer(data, STEPS)
    counts, series, epochs = unpack_layer(payload, 7, 5, 2)
    truth = data["counts"].values.T
    assert np.array_equal(counts == 0, truth == 0)
    np.testing.assert_allclose(counts[truth > 0], truth[truth > 0], rtol=0.03)
    np.testing.assert_allclose(series[:-1], [data[name] for name in SERIES[:-1]], rtol=5e-4)
    assert series[-1].tolist() == [0, 1, 2, 0, 1]
    np.testing.assert_allclose(epochs[0], np.minimum(data["epoch_counts"], payload.high), rtol=1e-3)
    assert not epochs[1].any()


def test_the_oddest_batch_keeps_its_row_where_steps_are_missing():
    data = layer()
    data["oddest_step"] = data["step"] + np.array([10, 20, 0, 500, 1000])
    steps = STEPS + np.where(np.arange(15) > 9, 490, 0) + np.where(np.arange(15) > 12, 500, 0)
    _, series, _ = unpack_layer(pack_layer(data, steps), 7, 5, 2)
    assert (3 * np.arange(5) + series[-1]).astype(int).tolist() == [1, 5, 6, 10, 13]


def test_a_payload_is_one_raw_deflate_stream_of_the_stated_length():
    data = layer()
    raw = zlib.decompress(base64.b64decode(pack_layer(data, STEPS).blob), -zlib.MAX_WBITS)
    assert len(raw) == 7 * 5 + 4 * len(SERIES) * 5 + 2 * 2 * 2 * 7


def test_a_layer_without_values_is_packed_too():
    data = layer()
    data["counts"][:] = 0
    data["mean"][:] = np.nan
    counts, series, _ = unpack_layer(pack_layer(data, STEPS), 7, 5, 2)
    assert not counts.any()
    assert np.isnan(series[0]).all()


@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_floats_are_packed_in_planes(shape):
    values = np.random.default_rng(1).normal(size=shape)
    raw = np.frombuffer(zlib.decompress(base64.b64decode(pack_floats(values)), -zlib.MAX_WBITS), np.uint8)
    back = np.ascontiguousarray(raw.reshape(4, -1).T).view("<f4").reshape(shape)
    assert np.array_equal(back, rounded(values))
