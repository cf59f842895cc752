"""The knobs of the first charts, by today's names: each changes what is drawn, and a recipe knows it."""

import json
import re

import holoviews as hv
import pytest
from bokeh.document import Document

from actlab import charts
from actlab.charts.class_chart import ClassOptions
from actlab.charts.colorful_chart import ColorfulOptions
from actlab.charts.wall_chart import WallOptions
from actlab.pages.options import read_options
from actlab.recipe import Recipe

KNOBS = [
    ("colorful", {"h_min": -1}),
    ("colorful", {"h_max": 1}),
    ("colorful", {"n_bins": 7}),
    ("colorful", {"layer": "body.relu"}),
    ("colorful", {"width": 300}),
    ("colorful", {"height": 100}),
    ("colorful", {"show_epochs": False}),
    ("colorful", {"show_epoch_histograms": True, "h_scale": 0.5}),
    ("colorful", {"show_layer_info": False}),
    ("wall", {"cols": 2}),
    ("wall", {"layers": ["!wild"]}),
    ("wall", {"tile_width": 60}),
    ("wall", {"show_layer_info": False}),
    ("per_class", {"classes": [1]}),
    ("per_class", {"by": "label"}),
    ("per_class", {"cols": 1}),
    ("twin_peaks", {"n_bins": 7}),
    ("twin_peaks", {"layer": "body.linear"}),
    ("twin_peaks", {"height": 100}),
]
USUAL = {
    "colorful": {"layer": "body.linear", "n_bins": 10},
    "wall": {"n_bins": 10},
    "per_class": {},
    "twin_peaks": {},
}


def seen(picture):
    """Return all that Bokeh is told of a picture, models numbered as they come."""
    document = Document()
    document.add_root(hv.render(picture))
    told = json.dumps(document.to_json(deferred=False))
    numbers = {}
    return re.sub(r"\bp\d+\b", lambda found: f"p{numbers.setdefault(found[0], len(numbers))}", told)


@pytest.fixture(scope="module")
def usual(small_run):
    return {name: seen(getattr(charts, name)(small_run, **options)) for name, options in USUAL.items()}


@pytest.mark.parametrize("chart", USUAL)
def test_a_picture_is_told_alike_twice(small_run, usual, chart):
    assert seen(getattr(charts, chart)(small_run, **USUAL[chart])) == usual[chart]


@pytest.mark.parametrize(("chart", "knob"), KNOBS)
def test_a_knob_changes_the_picture(small_run, usual, chart, knob):
    assert seen(getattr(charts, chart)(small_run, **USUAL[chart] | knob)) != usual[chart]


def test_a_recipe_knows_the_knobs_of_a_page():
    asked = {
        "colorful": {"height": 200, "h_scale": 0.5, "show_epochs": False, "show_layer_info": False},
        "wall": {"cols": 3, "tile_width": 60, "show_layer_info": False},
        "per_class": {"classes": [2, 0], "names": ["cat"], "by": "label"},
    }
    models = {"colorful": ColorfulOptions, "wall": WallOptions, "per_class": ClassOptions}
    read = read_options(Recipe(charts=asked), models, "")
    assert {name: read[name].model_dump(include=set(asked[name])) for name in asked} == asked
