"""The notes on the annotated tile stand where there is what they say."""

import base64
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from actlab.pages.reading_section import reading


@pytest.fixture(scope="module")
def context_of(record_run, make_material):
    """Return a function that records a still layer and one of a given std [batch], and gives what is said."""

    def make(spread, **options):
        rng = np.random.default_rng(5)
        rows = [
            (batch // 20, {"still": rng.normal(size=2000), "grows": rng.normal(0.5, std, 2000)}, None)
            for batch, std in enumerate(spread)
        ]
        run = record_run({"train": rows}, ["still", "grows"], head="grows", raw=False)
        return reading(make_material(run, **options)).context, run

    return make


@pytest.fixture(scope="module")
def growing(context_of):
    return context_of(np.linspace(0.15, 1.2, 40))


def place(context, word):
    """Return where the note that begins so stands, in shares from the left and the top."""
    note = next(note for note in context["notes"] if note["text"].startswith(word))
    return tuple(float(note[key].rstrip("%")) / 100 for key in ("x", "y"))


def pixel(context, word):
    """Return the colour under a note: red, green, blue, alpha."""
    data = base64.b64decode(context["picture"].split(",")[1])
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    x, y = place(context, word)
    return picture.getpixel((int(x * picture.width), int(y * picture.height)))


def test_the_layer_that_changes_most_is_shown(growing):
    context, run = growing
    assert context["name"] == "grows"
    first, last = (float(run["train"]["std"].sel(layer="grows")[at]) for at in (0, -1))
    assert [float(text) for text in context["change"][1][1:]] == pytest.approx([first, last], rel=1e-3)


def test_notes_on_colours_stand_on_these_colours(growing):
    context, _ = growing
    assert pixel(context, "empty")[3] == 0
    assert 0 < pixel(context, "pale")[3] < 255
    red, green, blue, alpha = pixel(context, "yellow")
    assert alpha == 255
    assert min(red, green) > 1.5 * blue


def test_notes_on_lines_stand_on_these_lines(growing):
    context, run = growing
    low, high = map(float, context["range"])
    one = run["train"].sel(layer="grows")

    def spoken(word):
        x, y = place(context, word)
        return int(x * 40), high - y * (high - low)

    column, value = spoken("white")
    assert value == pytest.approx(float(one["mean"][column]), abs=0.01)
    column, value = spoken("dashed")
    assert abs(value - float(one["mean"][column])) == pytest.approx(float(one["std"][column]), abs=0.01)
    assert spoken("orange")[1] == pytest.approx(0, abs=0.01)
    assert place(context, "blue: epoch 1")[0] == pytest.approx(0.5)


def test_notes_do_not_cover_each_other_nor_leave_the_picture(growing):
    context, _ = growing
    size = np.array(context["size"])
    spots = [np.array(place(context, note["text"])) * size for note in context["notes"]]
    assert len(spots) == 7
    assert all((spot >= 15).all() and (spot <= size - 15).all() for spot in spots)
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(spots, 2)) >= 33


@pytest.mark.parametrize("spread", [[0.5] * 6, [300.0] * 20], ids=["too few batches", "out of range"])
def test_where_no_layer_is_easy_to_read_one_is_invented(context_of, spread):
    context, _ = context_of(spread, layers="grows")
    assert context["name"] == ""
    assert {note["text"].split(":")[0] for note in context["notes"]} >= {"empty", "pale", "orange"}
    assert pixel(context, "empty")[3] == 0
    assert 0 < pixel(context, "pale")[3] < 255
