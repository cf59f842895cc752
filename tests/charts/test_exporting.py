"""Figures for papers: what they hold, that they repeat, and what is refused."""

import base64
import io
import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import actlab
from actlab.axis import LinearAxis
from actlab.charts.colorful_chart import ColorfulOptions, prepare
from actlab.charts.palette import log_palette
from actlab.charts.printed import colorful_figure
from actlab.errors import RecipeError, SelectionError, StoreError

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
SIZE = {"width": 200, "height": 100}


def image_of(element):
    return Image.open(io.BytesIO(base64.b64decode(element.get(LINK).partition(",")[2])))


@pytest.fixture(scope="module")
def drawing(charted, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "grows.svg"
    actlab.export(charted.run, path, layer="grows", h_min=-3, h_max=5, n_bins=16, **SIZE)
    return path


def test_an_svg_holds_every_count_without_loss(charted, drawing):
    data = prepare(charted.run, LinearAxis(-3, 5, 16), ColorfulOptions(), layers=["grows"]).sel(layer="grows")
    counts = data.counts.transpose("bin", "column").values
    low, high = float(data.low), float(data.high)
    images = list(ET.parse(drawing).iter(f"{SVG}image"))
    (image,) = [each for each in images if image_of(each).size == counts.shape[::-1]]
    assert "image-rendering:pixelated" in image.get("style")
    pixels = np.asarray(image_of(image).convert("RGBA"))
    if float(image.get("transform").removeprefix("matrix(").split()[3]) > 0:
        pixels = pixels[::-1]  # the first row is the highest bin
    np.testing.assert_array_equal(pixels[..., 3] > 0, counts > 0)
    steps = np.clip(np.log(counts[counts > 0] / low) / np.log(high / low) * 256, 0, 255).astype(int)
    palette = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in log_palette(low, high)])
    near = [
        np.abs(palette[np.clip(steps + by, 0, 255)] - pixels[counts > 0][:, :3]).max(1) for by in (-1, 0, 1)
    ]
    assert np.min(near, axis=0).max() <= 1


def test_an_svg_keeps_text_and_lines(drawing):
    root = ET.parse(drawing).getroot()
    texts = {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}
    assert {"grows", "batch", "activation value", "count per batch", "mean", "zero", "epoch"} <= texts
    assert any(text.startswith("one column = one batch") and "out of range" in text for text in texts)
    assert len(list(root.iter(f"{SVG}path"))) > 5


def test_a_png_has_two_pixels_for_one(charted, tmp_path):
    sizes = []
    for width in (800, 900):
        options = {"layer": "odd", "width": width, "height": 120}
        with Image.open(actlab.export(charted.run, tmp_path / f"{width}.png", **options)) as image:
            sizes.append(image.size)
            assert image.info["dpi"] == pytest.approx((192, 192), abs=0.1)
    (small, small_height), (wide, wide_height) = sizes
    assert (wide - small, wide_height) == (200, small_height)


@pytest.mark.parametrize("width", [100, 170, 300, 900])
@pytest.mark.parametrize("name", ["fc", "n" * 200, "a long name of two words and more"])
def test_what_stands_above_is_not_cut_and_does_not_overlap(charted, width, name):
    options = ColorfulOptions(width=width, height=80)
    data = prepare(charted.run, LinearAxis(-3, 5, 16), options, layers=["odd"])
    figure = colorful_figure(data.assign_coords(layer=[name]), options)
    draw = FigureCanvasAgg(figure).get_renderer()
    assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(text.get_text() for text in figure.texts[1:])
    boxes = [text.get_window_extent(draw) for text in figure.texts]
    boxes += [legend.get_window_extent(draw) for legend in figure.legends]
    boxes.append(figure.axes[0].get_window_extent(draw))
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)


@pytest.mark.parametrize("by", ["unit", "label"])
def test_the_classes_have_a_panel_each(charted, tmp_path, by):
    options = {"by": by, "names": ["three", "seven </text>"], "n_bins": 10, "cols": 1}
    path = actlab.export(charted.run, tmp_path / "a.svg", chart="per_class", epoch=0, **options)
    texts = ["".join(text.itertext()) for text in ET.parse(path).getroot().iter(f"{SVG}text")]
    assert {"head, epoch 0", "YES", "NO", "0 three", "1 seven </text>"} <= set(texts)
    assert any(text.startswith("validation") for text in texts)


@pytest.mark.parametrize(
    ("chart", "options"),
    [
        ("colorful", {"layer": "unused", "show_epoch_histograms": True}),
        ("colorful", {"layer": "head", "epochs": [0, 2], "show_epoch_histograms": True}),
        ("twin_peaks", {"epoch": "untrained"}),
        ("twin_peaks", {"layer": "grows", "n_bins": 30}),
        ("wall", {"layers": ["!odd"], "cols": 2}),
        ("per_class", {"epoch": "last", "cols": 1}),
    ],
)
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_same_input_gives_the_same_bytes(charted, tmp_path, recwarn, chart, options, ending):
    first, again = (
        actlab.export(charted.run, tmp_path / f"{name}.{ending}", chart=chart, **options) for name in "ab"
    )
    assert first.read_bytes() == again.read_bytes()
    assert [str(warning.message) for warning in recwarn] == []


def test_the_wall_has_a_tile_and_a_name_for_each_layer(charted, tmp_path):
    path = actlab.export(charted.run, tmp_path / "wall.svg", chart="wall", n_bins=20, tile_width=60)
    root = ET.parse(path).getroot()
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert all(name in texts for name in charted.run.names)
    assert any(text.startswith("one scale for all tiles") for text in texts)


def test_names_are_text_whatever_they_are(charted, tmp_path, monkeypatch):
    hostile = "</text><script>alert(1)</script>$x$"
    monkeypatch.setattr("actlab.charts.colorful_chart.layer_info", lambda *_: hostile)
    path = actlab.export(charted.run, tmp_path / "x.svg", layer="relu", width=600)
    root = ET.parse(path).getroot()
    assert not list(root.iter(f"{SVG}script"))
    assert any(hostile in "".join(text.itertext()) for text in root.iter(f"{SVG}text"))


def test_what_is_there_stays_unless_told(charted, tmp_path):
    path = tmp_path / "made" / "fc.svg"
    actlab.export(charted.run, path, **SIZE)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="exists already; overwrite=True or --overwrite"):
        actlab.export(charted.run, path, layer="relu", **SIZE)
    assert path.read_bytes() == before
    actlab.export(charted.run, path, layer="relu", overwrite=True, **SIZE)
    assert path.read_bytes() != before
    assert [found.name for found in path.parent.iterdir()] == ["fc.svg"]


@pytest.mark.parametrize(
    ("name", "options", "error", "said"),
    [
        ("a.jpg", {}, RecipeError, r"ends in \.png or \.svg"),
        ("a.png", {"chart": "wal"}, RecipeError, "did you mean 'wall'"),
        ("a.png", {"layer": "hed"}, SelectionError, "did you mean 'head'"),
        ("a.png", {"heigth": 3}, RecipeError, "did you mean 'height'"),
        ("a.png", {"n_bins": 300, "height": 100}, RecipeError, "100 pixels show at most 200"),
        ("a.png", {"epochs": [7]}, SelectionError, "no epoch 7"),
        ("a.png", {"chart": "per_class", "classes": [2]}, SelectionError, "no class 2"),
        ("a.png", {"chart": "per_class", "col": 2}, RecipeError, "did you mean 'cols'"),
        ("s3://bucket/a.png", {}, StoreError, "is a URL"),
    ],
)
def test_mistakes_are_said_in_one_line(charted, tmp_path, name, options, error, said):
    where = name if "://" in name else tmp_path / name
    with pytest.raises(error, match=said) as raised:
        actlab.export(charted.run, where, **options)
    assert not re.search(r"\n", str(raised.value))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chart", ["colorful", "twin_peaks"])
def test_without_a_head_it_is_said_what_to_do(charted, tmp_path, monkeypatch, chart):
    monkeypatch.setattr(charted.run, "head", None)
    with pytest.raises(
        SelectionError, match=r"has no head: name a layer, .* --layer NAME; .*'grows', 'relu'"
    ):
        actlab.export(charted.run, tmp_path / "a.png", chart=chart)
