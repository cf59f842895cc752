import io

import holoviews as hv
import numpy as np
import pytest
from bokeh.models import LogColorMapper
from PIL import Image

from actlab.axis import LinearAxis
from actlab.charts.columns import columns
from actlab.charts.wall_chart import WallOptions, crop, draw, palette, prepare, survey, tiles, wall


@pytest.fixture(scope="module")
def grid(charted):
    return columns(charted.run, LinearAxis(-3, 5, 32), layers=charted.run.names)


@pytest.fixture(scope="module")
def data(grid):
    return prepare(grid, WallOptions(tile_width=9, tile_height=10))


def test_pixels_are_whole_numbers_of_columns_and_bins(data):
    assert data.share.dims == ("layer", "y", "x")
    assert (data.attrs["columns_per_pixel"], data.attrs["bins_per_pixel"]) == (3, 4)
    assert data.sizes["x"] == 9
    assert data.sizes["y"] == 8
    assert data.first_row.values.tolist() == list(range(0, 26, 3))
    np.testing.assert_allclose(data.lower, np.arange(-3, 5))
    np.testing.assert_allclose(data.upper, np.arange(-2, 6))


def test_a_last_pixel_may_hold_fewer_bins(grid):
    data = prepare(grid.isel(bin=slice(30)), WallOptions(tile_width=100, tile_height=8))
    assert data.sizes["y"] == 8
    assert float(data.upper[-1]) == float(grid.upper[29])
    assert (data.lower < data.upper).all()


def test_shares_are_of_all_values_of_the_layer(grid, data):
    shares = (grid.counts / grid.n_per_batch).sel(layer="head").values  # [column, bin]
    expected = shares[:24].reshape(8, 3, 8, 4).mean(axis=(1, 3)).T
    np.testing.assert_allclose(data.share.sel(layer="head")[:, :8], expected)
    assert data.attrs["high"] == data.share.max()


def test_one_scale_for_all_tiles(data):
    assert data.attrs["low"] < data.attrs["one"] < data.attrs["high"]
    assert len(palette(data)) == 256
    painted = tiles(data)
    assert list(painted) == ["grows", "relu", "odd", "unused", "head"]
    for name, png in painted.items():
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[::-1]
        np.testing.assert_array_equal(pixels[..., 3] > 0, data.share.sel(layer=name) > 0)
    assert data.share.sel(layer="unused").isnull().all()  # never called: nothing to see


def test_a_crop_is_painted_as_its_tile(grid, data):
    size = WallOptions(tile_width=9, tile_height=10)
    painted = tiles(data)
    for name in ("grows", "head", "unused"):
        assert crop(grid.sel(layer=name), data, size) == painted[name]
    some = Image.open(io.BytesIO(crop(grid.sel(layer="head").isel(column=slice(3, 9)), data, size)))
    whole = Image.open(io.BytesIO(crop(grid.sel(layer="head"), data)))
    np.testing.assert_array_equal(np.asarray(some.convert("RGBA")).shape, (8, 6, 4))
    assert whole.width == grid.sizes["column"]


def test_the_short_form_draws_the_layers_chosen_in_the_models_order(charted, recwarn):
    layout = wall(charted.run, layers=["head", "!odd", "unused", "relu"], n_bins=20)
    assert list(layout.keys()) == ["relu", "unused", "head"]
    hv.render(layout)
    assert [str(warning.message) for warning in recwarn] == []


def test_tiles_share_their_colours(charted):
    data = survey(charted.run, LinearAxis(-3, 5, 32), WallOptions(tile_width=9, tile_height=10))
    figures = [hv.render(overlay) for overlay in draw(data)]
    mappers = [mapper for figure in figures for mapper in figure.select({"type": LogColorMapper})]
    assert {(mapper.low, mapper.high) for mapper in mappers} == {(data.attrs["low"], data.attrs["high"])}
    assert len(mappers) == data.sizes["layer"]
