import holoviews as hv
import numpy as np
import pytest

from actlab import peaks
from actlab.axis import LinearAxis
from actlab.charts.twin_peaks_chart import TwinPeaksOptions, draw, prepare, readable_axis, twin_peaks
from actlab.errors import RecipeError, SelectionError
from actlab.peaks.pooling import pool_epoch


@pytest.fixture(scope="module")
def data(charted):
    return prepare(charted.run)


def drawn(figure, name):
    (found,) = [renderer for renderer in figure.renderers if renderer.name == name]
    return found.data_source.data


def test_epochs_are_stacked_on_one_axis(charted, data):
    assert data.epoch.values.tolist() == [-1, 0, 1, 2]
    assert data.split.values.tolist() == ["train", "valid", "test"]
    for epoch in (-1, 0, 1, 2):
        one = peaks.twin_peaks(charted.run, epoch, axis=readable_axis(charted.run, "head"))
        mine = data.sel(epoch=epoch)
        for split in data.split.values:
            if split in one.split:
                for name in ("curves", "yes", "separation", "underflow", "n"):
                    np.testing.assert_array_equal(mine[name].sel(split=split), one[name].sel(split=split))
            else:
                assert mine.curves.sel(split=split).isnull().all()
    assert data.attrs["source"] == "raw"


def test_bins_are_as_many_as_the_smallest_curve_can_fill(charted):
    # Two rows of 8 samples and 2 units are the smallest curve: 2 sqrt(32) < 20 bins.
    own = peaks.head_axis(charted.run, "head")
    assert readable_axis(charted.run, "head") == LinearAxis(own.h_min, own.h_max, 20)
    # 96 values a row; the last quarter of epoch 2 and each evaluation hold two rows.
    assert readable_axis(charted.run, "grows").n_bins == round(2 * 192**0.5)
    assert readable_axis(charted.run, "unused").n_bins == 20


def test_the_short_form_equals_the_stack(charted, data):
    alone = prepare(charted.run, epochs=[1])
    np.testing.assert_array_equal(
        alone.curves.sel(epoch=1, split="train"), data.curves.sel(epoch=1, split="train")
    )
    assert hv.render(twin_peaks(charted.run, 1)).title.text == "head, epoch 1"


def test_models_can_be_reached_by_name(data):
    figure = hv.render(draw(data))
    one = data.sel(epoch=2)
    for split in ("train", "valid", "test"):
        curve = drawn(figure, split)
        np.testing.assert_allclose(curve["x"], one.bin)
        np.testing.assert_allclose(curve["y"], one.curves.sel(split=split))
    for name in ("yes", "no"):
        mark = figure.select_one({"name": name})
        assert mark.location == float(one[f"{name}_position"].sel(split="valid"))
        assert figure.select_one({"name": f"{name}_area"}) is not None
    assert figure.output_backend == "canvas"
    assert figure.yaxis[0].formatter.format.endswith("%")
    assert [item.label.value for item in figure.legend[0].items] == [
        "train, last quarter", "validation", "test",
    ]  # fmt: skip


def test_only_what_was_recorded_is_drawn(data):
    figure = hv.render(draw(data, "untrained"))
    names = {renderer.name for renderer in figure.renderers}
    assert "valid" in names
    assert not names & {"train", "test"}
    assert figure.title.text.startswith("head, untrained")
    assert hv.render(draw(data, 1)).title.text.startswith("head, epoch 1")


def test_the_truth_can_be_left_out(data):
    figure = hv.render(draw(data, "last", TwinPeaksOptions(show_truth=False)))
    assert figure.select_one({"name": "yes_area"}) is None
    assert figure.select_one({"name": "yes"}) is not None


def test_other_layers_have_no_truth(charted):
    axis = LinearAxis(-4, 4, 20)
    data = prepare(charted.run, layer="grows", axis=axis)
    assert (data.attrs["layer"], data.attrs["source"], data.attrs["n_bins"]) == ("grows", "counts", 20)
    assert data.yes.isnull().all()
    assert hv.render(draw(data)).select_one({"name": "yes_area"}) is None


@pytest.mark.parametrize("layer", ["head", "grows"])
def test_zoomed_the_curves_are_binned_anew_and_the_epoch_is_read_once(charted, monkeypatch, layer):
    picture = twin_peaks(charted.run, 2, layer=layer, h_min=-4, h_max=4, n_bins=16)
    read = []
    monkeypatch.setattr(
        "actlab.charts.twin_peaks_chart.pool_epoch", lambda *asked: read.append(asked) or pool_epoch(*asked)
    )
    for low, high, n_bins in ((-1, 1, 16), (0, 3, 12), (-8, 8, 16), (-4, 4, 16), (-1, 1, 16)):
        picture.streams[0].update(x_range=(low, high))
        figure = hv.render(picture[()])
        exact = peaks.twin_peaks(charted.run, 2, axis=LinearAxis(low, high, n_bins), layer=layer)
        scale = 0.5 * n_bins / (high - low)
        for split in ("train", "valid", "test"):
            curve = drawn(figure, split)
            np.testing.assert_allclose(curve["x"], exact.bin)
            np.testing.assert_allclose(curve["y"], exact.curves.sel(split=split) * scale)
        assert (figure.select_one({"name": "yes_area"}) is not None) == (layer == "head")
    assert len(read) == 1


def test_a_head_of_nothing_but_nan_has_a_picture(record_run):
    rows = [(0, {"fc": np.full((4, 2), np.nan)}, None)]
    figure = hv.render(twin_peaks(record_run({"train": rows}, ["fc"])))
    assert (figure.y_range.start, figure.y_range.end) == (0, 1)


def test_mistakes_are_named(charted, data, monkeypatch):
    with pytest.raises(SelectionError, match="no epoch 9"):
        prepare(charted.run, epochs=[9])
    with pytest.raises(SelectionError, match="did you mean 'last'"):
        draw(data, "lst")
    with pytest.raises(SelectionError, match="did you mean 'head'"):
        prepare(charted.run, layer="hed")
    with pytest.raises(SelectionError, match="no epochs"):
        prepare(charted.run, epochs=[])
    with pytest.raises(RecipeError, match="truth"):
        twin_peaks(charted.run, truth=True)
    monkeypatch.setattr(charted.run, "head", None)
    with pytest.raises(SelectionError, match="no head"):
        prepare(charted.run)
