"""Zoomed charts against sums made by numpy alone, and against the whole picture of `columns`."""

import holoviews as hv
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlab.axis import LinearAxis
from actlab.charts import kept
from actlab.charts.colorful_chart import ColorfulOptions, colorful, prepare
from actlab.charts.zooming import Zoom, nested
from actlab.rebinning import rebin_array

VIEW = LinearAxis(-3, 5, 16)


@pytest.fixture(scope="module")
def zooms(charted):
    return {name: Zoom(charted.run, name, VIEW, max_columns=7) for name in charted.run.names}


@pytest.fixture(scope="module")
def pictures(charted):
    """Live charts of 7 columns and 16 bins, by layer, each with its plot."""
    made = {
        name: colorful(charted.run, name, h_min=-3, h_max=5, n_bins=16, max_columns=7)
        for name in ("grows", "head")
    }
    return {name: (picture, hv.renderer("bokeh").get_plot(picture)) for name, picture in made.items()}


@pytest.mark.parametrize("layer", ["grows", "relu", "odd", "unused", "head"])
def test_the_whole_picture_is_that_of_the_columns(charted, zooms, layer, recwarn):
    whole, mine = (
        prepare(charted.run, VIEW, ColorfulOptions(max_columns=7), layers=[layer]),
        zooms[layer].view(),
    )
    for name in mine.variables:
        if mine[name].dtype.kind in "OUT":
            assert mine[name].values.tolist() == whole[name].values.tolist()
        elif name != "oddest_step":  # which of several alike batches is said may differ
            np.testing.assert_allclose(mine[name], whole[name], rtol=1e-6, atol=1e-9, err_msg=name)
    assert {name: whole.attrs[name] for name in mine.attrs} == mine.attrs
    assert [str(warning.message) for warning in recwarn] == []


@settings(max_examples=40, deadline=None)
@given(x=st.tuples(st.floats(-5, 30), st.floats(0.1, 30)), y=st.tuples(st.floats(-6, 6), st.floats(0.05, 20)))
def test_what_is_in_sight_equals_exact_aggregation(charted, zooms, x, y):
    view = zooms["grows"].view((x[0], x[0] + x[1]), (y[0], y[0] + y[1]))
    k, first = view.attrs["batches_per_column"], view["first_row"].values
    recorded = charted.run["train"]
    counts = recorded.counts.sel(layer="grows").values
    assert (first % k == 0).all()
    assert np.diff(first).tolist() == [k] * (len(first) - 1)
    stop = first[-1] + int(view["n_rows"][-1])
    assert first[0] <= max(x[0], 0) or first[0] == len(counts) - 1
    assert stop >= min(x[0] + x[1], len(counts)) or stop == first[0] + 1
    axis = LinearAxis(view.attrs["h_min"], view.attrs["h_max"], view.attrs["n_bins"])
    total = np.add.reduceat(counts[first[0] : stop].astype(np.uint64), first - first[0], axis=0)
    exact = rebin_array(total, recorded.lower.values, recorded.upper.values, axis).counts
    np.testing.assert_allclose(
        view["counts"][0], exact / view["n_rows"].values[:, None], rtol=1e-9, atol=1e-12
    )


@given(low=st.floats(-20, 20), width=st.floats(0.001, 100))
def test_nested_bins_cover_what_is_in_sight_and_share_edges(low, width):
    bins = nested(VIEW, low, low + width)
    assert bins.h_min <= low + 1e-9
    assert bins.h_max >= low + width - 1e-9
    assert bins.n_bins <= VIEW.n_bins + 1
    ratio = (bins.h_max - bins.h_min) / bins.n_bins / 0.5
    assert np.log2(ratio) == pytest.approx(round(np.log2(ratio)), abs=1e-9)
    offset = (bins.h_min - VIEW.h_min) / (0.5 * min(ratio, 1))
    assert offset == pytest.approx(round(offset), abs=1e-6)


@settings(max_examples=8, deadline=None)
@given(x=st.tuples(st.floats(-5, 30), st.floats(0.1, 30)), y=st.tuples(st.floats(-6, 6), st.floats(0.05, 20)))
@pytest.mark.parametrize("layer", ["grows", "head"])
def test_the_zoomed_picture_holds_exact_means_of_whole_batches(charted, pictures, layer, x, y):
    picture, plot = pictures[layer]
    picture.streams[0].event(x_range=(x[0], x[0] + x[1]), y_range=(y[0], y[0] + y[1]))
    drawn = plot.state.select_one({"name": "image"}).data_source.data
    n_bins, columns = drawn["count"][0].shape
    bottom, first, wide = drawn["y"][0], int(drawn["x"][0]), int(drawn["dw"][0])
    axis = LinearAxis(bottom, bottom + drawn["dh"][0], n_bins)
    k = wide // columns
    assert (first % k, wide % columns, columns <= 7) == (0, 0, True)
    rows = len(charted.epochs["train"])
    for column in range(columns):
        batches = range(first + column * k, min(first + (column + 1) * k, rows))
        if layer == "head":  # kept as it is: no interpolation
            values = np.concatenate([charted.values["train", step]["head"].ravel() for step in batches])
            inside = axis.index(values.astype(np.float64))
            exact = np.bincount(inside[(inside >= 0) & (inside < n_bins)], minlength=n_bins) / len(batches)
        else:
            recorded = charted.run["train"].isel(step=list(batches)).sel(layer=layer)
            total = recorded.counts.values.sum(axis=0, dtype=np.uint64)
            exact = rebin_array(total, recorded.lower.values, recorded.upper.values, axis).counts / len(
                batches
            )
        np.testing.assert_allclose(drawn["count"][0][:, column], exact, rtol=1e-9, atol=1e-12)


def test_large_counts_are_kept_whole(record_run):
    rows = [(0, {"fc": np.zeros((batch, 1)), "few": np.ones((3, 1))}, None) for batch in (70_000, 2, 300)]
    run = record_run({"train": rows}, ["few", "fc"], raw=False)
    view = Zoom(run, "fc", LinearAxis(-1, 1, 3), max_columns=2).view()
    assert view["counts"].values[0].tolist() == [[0, 35_001, 0], [0, 300, 0]]
    assert Zoom(run, "few", LinearAxis(-1, 2, 3)).view()["counts"].values[0, :, 2].tolist() == [3, 3, 3]


def test_the_scale_stays_while_moving_along(zooms):
    views = [zooms["head"].view(x, (-1, 1)) for x in ((0, 5), (3, 8), (18, 26))]
    assert len({(float(view["low"][0]), float(view["high"][0])) for view in views}) == 1
    assert [view.attrs["batches_per_column"] for view in views] == [1, 1, 2]


def test_the_run_is_read_once(charted, monkeypatch):
    read = []
    monkeypatch.setattr(kept, "row_blocks", lambda *asked: read.append(asked) or row_blocks(*asked))
    picture = colorful(charted.run, "grows", h_min=-3, h_max=5, n_bins=16, max_columns=7)
    assert read == []
    for x_range, y_range in ((None, None), ((0, 6), (-3, 5)), ((4, 9), (-1, 1)), ((0, 26), (-3, 5))):
        picture.streams[0].update(x_range=x_range, y_range=y_range)
        assert picture[()] is not None
    assert len(read) == 1


def test_the_picture_follows_its_stream_and_stays_in_sight(charted):
    picture = colorful(charted.run, "grows", h_min=-3, h_max=5, n_bins=16, max_columns=7)
    plot = hv.renderer("bokeh").get_plot(picture)
    drawn = plot.state.select_one({"name": "image"}).data_source
    assert drawn.data["image"][0].shape == (16, 7)
    picture.streams[0].event(x_range=(11.2, 14.9), y_range=(-1, 1))
    assert drawn.data["image"][0].shape == (16, 4)
    assert (drawn.data["x"][0], drawn.data["dw"][0], drawn.data["y"][0], drawn.data["dh"][0]) == (
        11,
        4,
        -1,
        2,
    )
    assert plot.state.select_one({"name": "subtitle"}).text.startswith("one column = one batch")
    assert (plot.state.x_range.start, plot.state.x_range.end) == (0, 26)  # the reader's, not ours


row_blocks = kept.row_blocks
