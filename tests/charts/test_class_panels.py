"""The classes in a notebook: what is drawn is what was computed, on one scale."""

import holoviews as hv
import numpy as np
import pytest
from bokeh.models import Div

from actlab.charts.class_chart import prepare
from actlab.charts.class_panels import PanelOptions, caveats, draw, per_class, survey
from actlab.errors import RecipeError, SelectionError


def figures(layout):
    return [figure for figure, *_ in hv.render(layout).children[-1].children]


def test_each_panel_shows_its_shares(charted):
    data = survey(charted.run, 0, h_min=-4, h_max=4, n_bins=16)
    exact = prepare(charted.run, epochs=[0], h_min=-4, h_max=4, n_bins=16).sel(by="unit").isel(epoch=0)
    np.testing.assert_array_equal(data["share"], exact["share"])
    drawn = figures(draw(data))
    assert [figure.title.text for figure in drawn] == ["0", "1"]
    assert len({(figure.y_range.start, figure.y_range.end) for figure in drawn}) == 1
    for place, figure in enumerate(drawn):
        for truth in ("yes", "no"):
            (area,) = [each for each in figure.renderers if each.name == truth]
            shares = data["share"].sel(truth=truth)[place].values
            assert set(area.data_source.data["y"]) == {0, *shares}


def test_the_views_options_and_epochs(charted):
    data = survey(charted.run, "untrained", PanelOptions(by="label", classes=[1]))
    assert (int(data["epoch"]), str(data["by"].values), data.sizes["label"]) == (-1, "label", 1)
    drawn = figures(per_class(charted.run, panel_width=80, panel_height=40))
    assert [(figure.frame_width, figure.frame_height) for figure in drawn] == [(80, 40)] * 2


def test_what_is_beyond_the_range_is_said(charted):
    assert not any("out of range" in said for said in caveats(survey(charted.run, h_min=-90, h_max=90)))
    assert any("out of range" in said for said in caveats(survey(charted.run, h_min=0, h_max=1, n_bins=9)))


def test_names_are_text(charted):
    hostile = ["<img src=x onerror=alert(1)>", "$$x$$ {label} {7*7}"]
    layout = hv.render(per_class(charted.run, names=hostile))
    titles = [figure.title.text for figure, *_ in layout.children[-1].children]
    assert titles[0] == f"0 {hostile[0]}"
    assert titles[1].text == f"1 {hostile[1]}"
    assert all("<img" not in each.text for each in layout.select({"type": Div}))


def test_mistakes_are_named(charted, record_run):
    with pytest.raises(RecipeError, match="did you mean 'classes'"):
        per_class(charted.run, clases=[1])
    with pytest.raises(SelectionError, match="no epoch 9"):
        per_class(charted.run, 9)
    rows = [(0, {"fc": np.ones((4, 2))}, None)]
    with pytest.raises(SelectionError, match=r"classes of epoch 0 are not known \(a regression"):
        per_class(record_run({"train": rows}, ["fc"]))
    with pytest.raises(SelectionError, match=r"no head, so nothing to part by class$"):
        per_class(record_run({"train": rows}, ["fc"], head=None, raw=False))
