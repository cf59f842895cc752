import base64
import html
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from actlab.findings.finding import Lack
from actlab.pages import verdict_section, wall_section
from actlab.pages.html import Page, render
from actlab.pages.places import Place, places_of, rows_of

HOSTILE = "</script><img src=x onerror=1>{{7*7}}"


def written(section):
    """Return the section as HTML."""
    return re.search(r"<main>(.*)</main>", render(Page("", (section,))), re.DOTALL)[1]


def words(text):
    """Return the words a reader sees."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_all_that_is_known_of_a_finding_is_told(small_run, make_material, make_finding):
    follower = make_finding("warning", ("fc", "wild"), (9, 11), (1, 1), name="Stuck output", evidence="Flat.")
    finding = make_finding(layers=("body.relu", "body.linear"), followers=(follower,))
    text = written(verdict_section.verdict(make_material(small_run, [finding])))
    said = words(text)
    for part in (finding.name, finding.evidence, finding.why, finding.remedy, finding.source):
        assert part in said
    assert "Measured 0.984, held against 0.9 (rule dead_relu )" in said
    assert "steps 4 to 8 (epoch 0)" in said
    assert "and 1 finding that it explains" in said
    assert "Stuck output fc Linear +1 more wild Module show step 9" in said.replace(
        "\N{NO-BREAK SPACE}\N{RIGHTWARDS ARROW}", ""
    )
    addresses = re.findall(r'data-address="([^"]+)"', text)
    assert addresses == [
        "at=2:4-8",
        "at=2:4-8",
        "at=1:4-8",
        "at=2:4-8",
        "at=5:9-11",
        "at=4:9-11",
        "at=5:9-11",
    ]


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (["error", "warning", "warning", "advice"], ["error 1", "warning 2", "advice 1", "healthy 2"]),
        (["error", "error", "healthy"], ["error 2", "healthy 3"]),
        (["healthy"], ["healthy"]),
        ([], ["healthy"]),
    ],
)
def test_levels_are_counted_by_icon_and_word(small_run, make_material, make_finding, levels, said):
    names = small_run.names
    found = [make_finding(level, (names[number],)) for number, level in enumerate(levels)]
    text = written(verdict_section.verdict(make_material(small_run, found)))
    counts = re.findall(r'<span class="count (\w+)">(.*?)</span>\s*(?:<|$)', text, re.DOTALL)
    numbers = re.findall(r'<span class="count (\w+)">(?:<b>(\d+)</b>)?', text)
    assert [" ".join(filter(None, pair)) for pair in numbers] == said
    for level, shown in counts:
        assert wall_section.ICONS[level] in shown
    assert ("No finding" in words(text)) == (said == ["healthy"])


def test_health_and_what_could_not_be_told_are_told(small_run, make_material, make_finding):
    sign = make_finding("healthy", ("fc",), (3, 11), (0, 2), "valid", name="YES and NO part")
    lack = Lack("overfit", "Overfitting", "needs two epochs of validation")
    said = words(written(verdict_section.verdict(make_material(small_run, [sign], lacking=[lack]))))
    assert "1 sign of health YES and NO part fc Linear" in said
    assert "Not enough data for 1 rule Overfitting overfit : needs two epochs of validation" in said
    assert "No error and no warning: 2 rules looked at every batch of every layer. 1 more had" in said


def test_a_verdict_that_had_no_data_is_not_called_healthy(small_run, make_material):
    lack = [Lack("overfit", "Overfitting", "needs two epochs of validation")]
    said = words(written(verdict_section.verdict(make_material(small_run, lacking=lack, checked=()))))
    assert "not enough data to tell anything" in said
    assert "No finding" not in said


@pytest.mark.parametrize(
    ("steps", "epochs", "split", "said"),
    [
        ((4, 4), (0, 0), "train", "step 4 (epoch 0)"),
        ((4, 12), (0, 1), "train", "steps 4 to 12 (epochs 0 to 1)"),
        ((4, 26), (0, 2), "train", "since step 4 (epoch 0)"),
        ((0, 11), (-1, 2), "valid", "validation, since step 0 (before training)"),
        ((0, 1), (2, 2), "test", "test, since step 0 (epoch 2)"),
    ],
)
def test_when_it_went_wrong(small_run, make_material, make_finding, steps, epochs, split, said):
    found = make_finding(steps=steps, epochs=epochs, split=split, layers=("wild",))
    assert said in words(written(verdict_section.verdict(make_material(small_run, [found]))))
    told = make_finding(steps=steps, epochs=epochs, split=split, evidence=f"Zero {said}.")
    assert words(written(verdict_section.verdict(make_material(small_run, [told])))).count(said) == 1


@pytest.fixture(scope="module")
def materials(small_run, make_material):
    """What pages of some epochs are made of."""
    return [make_material(small_run, epochs=epochs) for epochs in (None, [1], [0, 2])]


@given(st.sampled_from(range(3)), st.integers(0, 26), st.integers(0, 26))
def test_the_rows_of_a_finding_are_its_steps(materials, make_finding, number, one, other):
    material, (first, last) = materials[number], sorted((one, other))
    rows = rows_of(material, make_finding(steps=(first, last)))
    spoken = [row for row, step in enumerate(material.steps) if first <= step <= last]
    assert rows == ((spoken[0], spoken[-1]) if spoken else None)


def test_an_evaluation_is_seen_at_the_batch_before_it(small_run, make_material, make_finding):
    whole, later = make_material(small_run), make_material(small_run, epochs=[1, 2])
    for step, epoch in enumerate(small_run["valid"].epoch.values):
        found = make_finding(split="valid", steps=(step, step), epochs=(epoch, epoch))
        row = max(0, 9 * int(epoch) + 8)  # nine batches an epoch, and one row before any
        assert rows_of(whole, found) == (row, row)
        assert rows_of(later, found) == ((row - 9, row - 9) if row > 8 else None)


def test_evaluations_of_the_head_are_seen_in_the_twin_peaks(small_run, make_material, make_finding):
    found = make_finding(layers=("fc", "wild"), split="valid", steps=(6, 11), epochs=(1, 2))
    places = places_of(make_material(small_run), found)
    assert places == {
        "fc": Place("peaks", "peaks=1", "epoch 1"),
        "wild": Place("tile-4", "at=4:17-26", "step 17"),
    }
    assert places_of(make_material(small_run, epochs=[0]), found) == {
        "fc": "epoch 1 is not on this page",
        "wild": "the epochs are not on this page",
    }
    untrained = make_finding(layers=("fc",), split="valid", steps=(0, 2), epochs=(-1, -1))
    assert places_of(make_material(small_run), untrained)["fc"].address == "peaks=-1"
    in_training = make_finding(layers=("fc",), steps=(6, 11))
    assert places_of(make_material(small_run), in_training)["fc"].address == "at=5:6-11"


def test_what_is_not_on_the_page_is_said_in_words(small_run, make_material, make_finding):
    found = [make_finding(layers=("wild",)), make_finding(steps=(10, 12))]
    text = written(verdict_section.verdict(make_material(small_run, found, layers="body.*", epochs=[0])))
    assert "the layer is not on this page" in text
    assert "the epochs are not on this page" in text
    assert "data-address" not in text
    assert "<img" not in text
    assert "looked at the whole run, also at what this page does not show" in words(text)


def test_a_picture_is_the_layer_around_the_place(small_run, make_material, make_finding):
    material = make_material(small_run, [make_finding(layers=("fc",), steps=(20, 20))])
    text = written(verdict_section.verdict(material))
    png, alt, left, width = re.search(
        r'base64,([^"]+)" width="96" height="60" alt="([^"]+)"><i style="left: (.+?)%; width: (.+?)%"', text
    ).groups()
    assert alt == "fc, batches 8 to 26; framed: 20"
    assert (float(left), float(width)) == pytest.approx((100 * 12 / 19, 100 / 19), abs=0.01)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))[::-1]
    counts = material.columns.counts.sel(layer="fc").values[8:].T
    assert pixels.shape[:2] == counts.shape
    assert np.array_equal(pixels[..., 3] > 0, counts > 0)


def test_pictures_are_few_and_small_and_none_comes_twice(small_run, make_material, make_finding):
    names = ["input", "body.linear", "wild", "fc"]
    places = [(name, step) for step in range(0, 26, 5) for name in names]
    found = [make_finding(layers=(name,), steps=(step, step + 1)) for name, step in [places[0], *places]]
    section = verdict_section.verdict(make_material(small_run, found))
    pictures = [group["picture"] for group in section.context["groups"]]
    shown = [picture for picture in pictures if picture is not None]
    assert pictures[1] is None
    assert len(shown) == len({picture["src"] for picture in shown}) == 12
    assert max(len(picture["src"]) for picture in shown) < 6000
    for picture in shown:
        left, width = (float(picture[side].rstrip("%")) for side in ("left", "width"))
        assert 0 <= left < left + width <= 100


def test_no_text_of_a_rule_or_a_layer_is_markup(record_run, make_material, make_finding):
    rows = [(0, {HOSTILE: np.arange(6.0), "fc": np.ones((2, 2))}, None) for _ in range(3)]
    texts = dict.fromkeys(("name", "rule", "evidence", "why", "remedy", "source"), HOSTILE)
    found = make_finding(layers=(HOSTILE,), steps=(0, 1), **texts)
    found = make_finding(layers=(HOSTILE, "fc"), steps=(0, 1), followers=(found,), **texts)
    sign = make_finding("healthy", layers=(HOSTILE,), **texts)
    run = record_run({"train": rows}, [HOSTILE, "fc"])
    material = make_material(run, [found, sign], lacking=[Lack(HOSTILE, HOSTILE, HOSTILE)])
    for section in (verdict_section.verdict(material), wall_section.wall(material)):
        text = written(section)
        assert "</script>" not in text
        assert "<img src=x" not in text
        assert "{{7*7}}" in text


def test_tiles_carry_what_was_found_in_them(small_run, make_material, make_finding):
    follower = make_finding("warning", ("fc",), (8, 8), name="Stuck output")
    found = [
        make_finding(layers=("body.relu", "wild"), steps=(4, 8), followers=(follower,)),
        make_finding("advice", ("wild",), (20, 26), name="Outliers"),
        make_finding("healthy", ("input",)),
    ]
    section = wall_section.wall(make_material(small_run, found))
    tiles = {tile["name"]: tile for tile in section.context["tiles"]}
    levels = {name: tile["level"] for name, tile in tiles.items() if tile["level"]}
    assert levels == {"body.relu": "error", "wild": "error", "fc": "warning"}
    assert tiles["wild"]["alt"].endswith("; error: Dead ReLU at step 4; advice: Outliers at step 20")
    ticks = [(tick["level"], float(tick["at"].rstrip("%"))) for tick in tiles["wild"]["ticks"]]
    assert ticks == [
        ("error", pytest.approx(450 / 27, abs=0.01)),
        ("advice", pytest.approx(2050 / 27, abs=0.01)),
    ]
    text = written(section)
    assert re.findall(r'data-level="(\w+)"', text) == ["error", "error", "warning"]
    assert "data-flagged" in text
    shapes = {icon for _, icon in re.findall(r'class="tick (\w+)".*?>(.)', text)}
    assert len(shapes) == 3
    assert "data-flagged" not in written(wall_section.wall(make_material(small_run)))


def test_a_tick_stands_only_where_the_page_has_the_step(small_run, make_material, make_finding):
    found = [make_finding(layers=("wild",), steps=(4, 8)), make_finding("warning", ("wild",), (4, 4))]
    tile = wall_section.wall(make_material(small_run, found)).context["tiles"][4]
    assert [tick["level"] for tick in tile["ticks"]] == ["error"]
    tile = wall_section.wall(make_material(small_run, found, epochs=[2])).context["tiles"][4]
    assert tile["level"] == "error"
    assert tile["ticks"] == []
    assert tile["alt"].endswith("; error: Dead ReLU; warning: Dead ReLU")


def test_the_legend_of_the_wall_names_every_mark_on_it(small_run, make_material, make_finding):
    found = [make_finding(layers=("wild",), steps=(4, 8)), make_finding("warning", ("wild",), (9, 9))]
    assert list(wall_section.wall(make_material(small_run, found)).context["levels"]) == ["error", "warning"]
