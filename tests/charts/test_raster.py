import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actlab.charts.palette import log_palette
from actlab.charts.raster import cells_per_pixel, png, shrink


def exact(values, down, across):
    """The mean over whole cells by numpy alone."""
    starts = np.arange(0, values.shape[0], down), np.arange(0, values.shape[1], across)

    def total(grid):
        return np.add.reduceat(np.add.reduceat(grid, starts[0], axis=0), starts[1], axis=1)

    return total(values) / total(np.ones_like(values))


@settings(max_examples=40)
@given(
    rows=st.integers(1, 70), across=st.integers(1, 300), width=st.integers(1, 60), height=st.integers(1, 40),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_a_tile_equals_exact_aggregation(rows, across, width, height, seed):
    rng = np.random.default_rng(seed)
    values = rng.poisson(0.4, (rows, across)) * rng.random((rows, across))
    pixels = shrink(values, width, height)
    expected = exact(values, cells_per_pixel(rows, height), cells_per_pixel(across, width))
    assert pixels.shape == expected.shape
    assert pixels.shape[0] <= height
    assert pixels.shape[1] <= width
    np.testing.assert_allclose(pixels, expected, rtol=1e-12)
    np.testing.assert_array_equal(pixels == 0, expected == 0)


def test_one_stray_value_in_many_batches_is_kept():
    values = np.zeros((200, 1000), np.uint32)  # as integers Datashader would truncate the mean to 0
    values[120, 517] = 1
    pixels = shrink(values, 112, 100)
    assert np.argwhere(pixels).tolist() == [[60, 57]]
    assert pixels[60, 57] == pytest.approx(1 / 18)


def test_a_small_grid_stays_as_it_is():
    values = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(shrink(values, 112, 100), values)


def read(data):
    image = Image.open(io.BytesIO(data))
    return image, np.asarray(image.convert("RGBA"))


def test_transparent_means_exactly_nothing():
    values = np.array([[0.0, 1e-30, 1.0], [np.nan, 100.0, 1e9]])
    image, pixels = read(png(values, 0.1, 100, 1))
    assert image.size == (3, 2)
    np.testing.assert_array_equal(pixels[::-1, :, 3] > 0, values > 0)


def over(background, pixels):
    """The pixels as they look on a page of one grey."""
    alpha = pixels[..., 3:] / 255
    return alpha * pixels[..., :3] + (1 - alpha) * background


def test_colours_on_white_are_equal_steps_of_the_logarithm():
    values = 0.1 * 1000 ** ((np.arange(255) + 0.5) / 255)[None]  # the middle of each step
    _, pixels = read(png(values, 0.1, 100, 1))
    wanted = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in log_palette(0.1, 100, 1, 255)]
    np.testing.assert_allclose(over(255, pixels)[0], wanted, atol=1)


def test_what_is_rarer_than_one_is_faint_on_a_dark_page_too():
    values = 0.1 * 1000 ** ((np.arange(255) + 0.5) / 255)[None]
    _, pixels = read(png(values, 0.1, 100, 1))
    light = over(30, pixels)[0].sum(axis=1)
    faint = values[0] < 0.99
    assert np.all(np.diff(light[faint]) >= 0)
    assert light[faint].max() < light[-1]


def test_values_beyond_the_scale_take_the_colours_of_its_ends():
    _, pixels = read(png(np.array([[1e-9, 0.1, 100, 1e12]]), 0.1, 100, 1))
    assert (pixels[0, 0] == pixels[0, 1]).all()
    assert (pixels[0, 2] == pixels[0, 3]).all()


def test_the_lowest_bin_is_at_the_bottom_and_bytes_repeat():
    values = np.array([[1.0], [0.0]])
    data = png(values, 0.1, 100, 1)
    _, pixels = read(data)
    assert pixels[:, 0, 3].tolist() == [0, 255]
    assert data == png(values.copy(), 0.1, 100, 1)
