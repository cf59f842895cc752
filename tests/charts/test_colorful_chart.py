import holoviews as hv
import numpy as np
import pytest
from bokeh.models import LogColorMapper

from actlab.axis import LinearAxis
from actlab.charts.colorful_chart import ColorfulOptions, colorful, draw, prepare
from actlab.errors import AxisError, RecipeError, SelectionError

VIEW = LinearAxis(-3, 5, 16)
EVERYTHING = ColorfulOptions(show_epoch_histograms=True)
LINES = ["mean", "std_upper", "std_lower"]
NAMES = ["image", "epochs", *LINES, "epoch_histograms", "quarter_histograms"]


@pytest.fixture(scope="module")
def data(charted):
    return prepare(charted.run, VIEW, ColorfulOptions(max_columns=7))


@pytest.fixture(scope="module")
def figure(data):
    return hv.render(draw(data, "grows", EVERYTHING))


def source(figure, name):
    (found,) = [renderer.data_source for renderer in figure.renderers if renderer.name == name]
    return found.data


def test_the_scale_holds_the_layers_counts(data):
    counts = data.counts.transpose("layer", ...).values.reshape(5, -1)
    assert (data.low > 0).all()
    assert (counts.max(axis=1) <= data.high).all()
    assert data.high.sel(layer="unused") > data.low.sel(layer="unused")


def test_models_can_be_reached_by_name(figure):
    assert set(NAMES) <= {renderer.name for renderer in figure.renderers}
    assert figure.select_one({"name": "zero"}).location == 0
    assert isinstance(figure.select_one({"name": "color_mapper"}), LogColorMapper)
    assert figure.output_backend == "canvas"


def test_the_image_is_the_counts_and_empty_where_there_are_none(data, figure):
    one = data.sel(layer="grows")
    drawn = source(figure, "image")
    image = drawn["image"][0]
    counts = one.counts.transpose("bin", "column").values
    np.testing.assert_array_equal(image == 0, counts == 0)
    within = np.clip(counts, float(one.low), float(one.high))
    np.testing.assert_allclose(image[counts > 0], within[counts > 0])
    np.testing.assert_allclose(drawn["count"][0], counts)
    mapper = figure.select_one({"name": "color_mapper"})
    assert (mapper.low, mapper.high) == (float(one.low), float(one.high))
    assert mapper.low_color in ("transparent", "rgba(0, 0, 0, 0)")
    assert (drawn["x"][0], drawn["dw"][0], figure.x_range.end) == (0, 28, 26)  # the last column is cut


def test_lines_run_through_the_middle_of_the_columns(data, figure):
    one = data.sel(layer="grows")
    middle = one.first_row + one.n_rows / 2
    for name, values in zip(
        LINES, [one["mean"], one["mean"] + one["std"], one["mean"] - one["std"]], strict=True
    ):
        for drawn in (source(figure, name), source(figure, f"{name}_casing")):
            np.testing.assert_allclose(drawn["x"], middle)
            np.testing.assert_allclose(drawn["y"], values)


def test_epoch_histograms_stand_on_their_epoch_to_one_scale(data, figure):
    one = data.sel(layer="grows")
    reach = {}
    for name in ("epoch", "quarter"):
        drawn = source(figure, f"{name}_histograms")
        for number, (x, y) in enumerate(zip(drawn["xs"], drawn["ys"], strict=True)):
            start, rows = int(one.epoch_first_row[number]), int(one.epoch_n_rows[number])
            assert min(x) >= start
            assert max(x) <= start + rows
            np.testing.assert_allclose(y, one.bin)
            reach[name, number] = (np.array(x) - start) / rows
            counts = one[f"{name}_counts"][number].values
            np.testing.assert_allclose(reach[name, number] * counts.max(), counts * max(reach[name, number]))
    assert max(part.max() for part in reach.values()) == pytest.approx(0.95)


def test_epoch_lines_stand_at_every_epoch_but_the_first(figure):
    assert list(source(figure, "epochs")["x"]) == [10, 19]


def test_what_is_switched_off_is_gone(data):
    options = ColorfulOptions(show_mean=False, show_std=False, show_epochs=False)
    bare = hv.render(draw(data, "grows", options))
    assert [renderer.name for renderer in bare.renderers if renderer.name in NAMES] == ["image"]


def test_empty_layers_and_odd_views_can_be_drawn(charted, recwarn):
    for axis, columns in ((LinearAxis(1, 2, 3), 1), (LinearAxis(-1, 1, 1), 1000)):
        data = prepare(charted.run, axis, ColorfulOptions(max_columns=columns))
        for layer in ("unused", "odd"):
            figure = hv.render(draw(data, layer, EVERYTHING))
            assert (figure.select_one({"name": "zero"}) is None) == (axis.h_min > 0)
    assert [str(warning.message) for warning in recwarn] == []


def test_steps_that_are_not_even_become_rows(charted):
    data = prepare(charted.run, VIEW, layers=["head"], epochs=[0, 2])
    figure = hv.render(draw(data, "head"))
    assert figure.xaxis[0].axis_label == "recorded batch"
    assert (figure.x_range.start, figure.x_range.end) == (0, 17)
    data = prepare(charted.run, VIEW, layers=["head"], epochs=[2])
    figure = hv.render(draw(data, "head"))
    assert figure.xaxis[0].axis_label == "batch"
    assert (figure.x_range.start, figure.x_range.end) == (19, 26)


def test_the_short_form_draws_the_head_by_default(charted):
    figure = hv.render(colorful(charted.run, h_min=-2, h_max=2, n_bins=10, show_mean=False))
    assert figure.title.text == "head"
    assert (figure.y_range.start, figure.y_range.end) == (-2, 2)
    assert source(figure, "image")["image"][0].shape == (10, 26)


def test_mistakes_are_named(charted, monkeypatch):
    with pytest.raises(SelectionError, match="did you mean 'relu'"):
        colorful(charted.run, "rely")
    with pytest.raises(AxisError):
        colorful(charted.run, "relu", h_min=2, h_max=1)
    with pytest.raises(RecipeError, match="max_column"):
        colorful(charted.run, "relu", max_column=3)
    monkeypatch.setattr(charted.run, "head", None)
    with pytest.raises(SelectionError, match="no head"):
        colorful(charted.run)
