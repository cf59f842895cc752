"""Any sections in any order: what is on the page works, and leads nowhere that is not there."""

import re

import pytest
import torch

import actlab
from actlab.errors import RecipeError
from actlab.pages.build import report
from actlab.recipe import SECTIONS, load_recipe

KEYS = {
    "verdict": "verdict",
    "wall": "layers",
    "detail": "detail",
    "twin_peaks": "peaks",
    "per_class": "classes",
    "how_to_read": "reading",
    "numbers": "numbers",
    "provenance": "provenance",
}
SUBSETS = [
    (),
    ("wall",),
    ("numbers", "wall"),
    ("verdict",),
    ("verdict", "numbers"),
    ("per_class", "how_to_read"),
    ("twin_peaks", "verdict"),
    ("detail",),
    tuple(reversed(SECTIONS)),
]


@pytest.fixture(scope="module")
def draw_some(draw, make_finding, small_run):
    findings = [make_finding("error"), make_finding("warning", layers=("fc",), split="valid", epochs=(1, 1))]
    return lambda *names: draw(small_run, findings, sections=names, h_min=-4, h_max=4, n_bins=40)


def links(html):
    """Return the ids of a page, and where its links lead."""
    body = html.split("<script", 2)[0] + html.split("</head>")[1].split('<script type="application/json"')[0]
    return set(re.findall(r'\bid="([^"]+)"', body)), re.findall(r'href="#([^"]+)"', body)


@pytest.mark.browser
@pytest.mark.parametrize("names", SUBSETS, ids="-".join)
def test_sections_stand_in_the_order_asked_for(draw_some, open_page, names):
    path = draw_some(*names)
    html = path.read_text(encoding="utf-8")
    assert re.findall(r'<section id="([a-z]+)"', html) == ["top", *(KEYS[name] for name in names)]
    ids, targets = links(html)
    assert set(targets) <= ids
    page = open_page(path)
    for link in page.locator("main a[href]").all()[:12]:
        link.evaluate("link => link.click()")
    page.keyboard.press("]")
    page.keyboard.press("t")
    assert not page.is_visible("#address-note")
    assert load_recipe(path.with_suffix(".toml")).sections == list(names)


def test_a_page_without_charts_does_without_bokeh(draw_some):
    assert draw_some("wall", "numbers").stat().st_size < 200_000


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["wal"], "sections: unknown section 'wal' .*did you mean 'wall'"),
        (["wall", "wall"], "sections: section 'wall' is named twice"),
    ],
)
def test_other_sections_are_refused(small_run, tmp_path, names, said):
    with pytest.raises(RecipeError, match=said):
        report(small_run, tmp_path / "page.html", sections=names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
def test_the_classes_follow_the_epoch_of_the_twin_peaks(draw_some, open_page):
    page = open_page(draw_some("twin_peaks", "per_class"))
    panel = page.locator(".panel .yes").first
    before = panel.get_attribute("d")
    assert before.startswith("M0 ")
    page.focus("#peaks-epoch")
    page.keyboard.press("Home")
    assert page.text_content("#classes-shown") == "untrained"
    assert panel.get_attribute("d") != before
    page.check("[name=classes-by][value=label]")
    assert "sample" in page.locator(".panel-said").first.text_content()
    page.focus("#classes-epoch")
    page.keyboard.press("End")
    assert page.text_content("#peaks-shown") == "2"


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        (lambda step: 2.0 - step, ""),
        (lambda step: 2.0 - step if step % 10 == 0 else None, ""),
        (lambda step: 2.0 - step if step < 12 else float("nan"), ", no finite number after batch 11"),
        (lambda step: 2.0 if step == 0 else float("inf"), " in batch 0 alone"),
    ],
)
def test_a_number_that_ends_early_is_told_from_one_that_is_logged_now_and_then(tmp_path, logged, said):
    torch.set_num_threads(1)
    model = torch.nn.Linear(3, 2)
    with actlab.Recorder(model, tmp_path / "run.zarr") as recorder:
        for step in range(36):
            with recorder.batch("train", epoch=0):
                model(torch.randn(4, 3))
            if (loss := logged(step)) is not None:
                recorder.log(loss=loss)
    page = report(tmp_path / "run.zarr", tmp_path / "page.html", sections=["numbers"], h_min=-4, h_max=4)
    (lane,) = re.findall(r"<b>loss</b> (.*?)</figcaption>", page.read_text(encoding="utf-8"))
    assert lane.endswith(said)
    assert ("finite" in lane or "alone" in lane) == bool(said)
