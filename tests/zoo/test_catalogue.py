"""The catalogue in docs/findings.md says what the rules say, and shows each."""

import re

import pytest
from PIL import Image

from actlab.findings.catalogue import RULES
from tests.zoo.catalogue import DOCS, PAGE, PAIRS, PICTURES, between, catalogue, fill, rules_table
from tests.zoo.trainings import TRAININGS

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_is_that_of_the_rules_as_they_are():
    assert between(TEXT, "rules") == rules_table()
    assert between(TEXT, "catalogue") == catalogue()


def test_every_rule_has_a_row_of_counted_trainings():
    counted = between(TEXT, "zoo")
    assert [name for name in RULES if f"`{name}`" not in counted] == []


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_healthy_and_a_sick_picture(name):
    pair = PAIRS[name]
    assert TRAININGS[pair.healthy[0]].rule in (None, "batchnorm_recentres")
    assert TRAININGS[pair.sick[0]].rule == name
    for kind in ("healthy", "sick"):
        with Image.open(DOCS / PICTURES / f"{name}_{kind}.webp") as picture:
            assert picture.width >= 400
            assert len(picture.convert("L").getcolors()) > 8  # something is drawn


def test_marked_parts_are_filled_and_read_back():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb"
    assert between(fill(text, "x", r"new \1"), "x") == r"new \1"
    assert re.sub(r"new \\1", "old", fill(text, "x", r"new \1")) == text
