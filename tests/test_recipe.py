"""The recipe: what is read, what is refused and in which words, what is written back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from actlab.errors import RecipeError
from actlab.recipe import SECTIONS, Recipe, dump_recipe, load_recipe, merge, validated

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
OPTIONS = st.dictionaries(TEXTS, st.one_of(st.booleans(), st.integers(-99, 99), NUMBERS, TEXTS), max_size=3)
RECIPES = st.builds(
    Recipe,
    title=st.none() | TEXTS,
    notes=st.none() | TEXTS,
    h_min=st.none() | st.floats(-1e6, -1e-3),
    h_max=st.none() | st.floats(1e-3, 1e6),
    n_bins=st.integers(1, 5_000),
    layers=st.none() | st.lists(TEXTS, max_size=3),
    epochs=st.none() | st.lists(st.integers(-1, 1_000), max_size=5),
    sections=st.none() | st.lists(st.sampled_from(SECTIONS), unique=True),
    charts=st.dictionaries(TEXTS, OPTIONS, max_size=3),
)


@given(RECIPES)
def test_what_is_dumped_is_read_back_equal(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("recipe") / "report.toml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


@given(RECIPES)
def test_dumping_twice_gives_the_same_text(recipe):
    assert dump_recipe(recipe) == dump_recipe(merge(recipe))


def test_an_option_without_a_value_is_not_written():
    recipe = Recipe(charts={"wall": {"tile_width": None, "tile_height": 92}})
    assert dump_recipe(recipe) == "[charts.wall]\ntile_height = 92\n"


WRONG = {
    "hMin = -4": "unknown key 'hMin' (did you mean 'h_min'?)",
    "h_min = '-4'": "h_min should be a valid number, got '-4'",
    "h_min = nan": "h_min should be a finite number, got nan",
    "h_max = inf": "h_max should be a finite number, got inf",
    "h_min = true": "h_min should be a valid number, got True",
    "h_min = 4\nh_max = 4.0": "h_min must be below h_max, got h_min=4 and h_max=4",
    "n_bins = 0": "n_bins should be greater than or equal to 1, got 0",
    "n_bins = 1_000_000_000": "n_bins should be less than or equal to 1000000, got 1000000000",
    "n_bins = 10.0": "n_bins should be a valid integer, got 10.0",
    "layers = 'fc'": "layers should be a valid list, got 'fc'",
    "epochs = [0, 1.5]": "epochs.1 should be a valid integer, got 1.5",
    "sections = ['wal']": "sections: unknown section 'wal' (did you mean 'wall'?)",
    "sections = ['wall', 'wall']": "sections: section 'wall' is named twice",
    "title = 3": "title should be a valid string, got 3",
    "[charts]\nwall = 3": "charts.wall should be a valid dictionary, got 3",
    "h_min = 'x'\nhmax = 1": "unknown key 'hmax' (did you mean 'h_max'",
}


@pytest.mark.parametrize(("text", "said"), WRONG.items(), ids=list(WRONG))
def test_a_wrong_recipe_names_file_key_and_expectation(tmp_path, text, said):
    path = tmp_path / "report.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"recipe {path}: {said}")
    assert "\n" not in message


def test_a_syntax_error_names_the_line(tmp_path):
    path = tmp_path / "report.toml"
    path.write_text("title = 'x'\nh_min = = 4\n")
    with pytest.raises(RecipeError, match=r"report\.toml: not valid TOML: .*line 2"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"title = '\xff'"), "not a text file"),
    ],
    ids=["missing", "folder", "bytes"],
)
def test_what_cannot_be_read_is_named(tmp_path, make, said):
    path = tmp_path / "report.toml"
    make(path)
    with pytest.raises(RecipeError, match=rf"report\.toml: {said}"):
        load_recipe(path)


def test_merge_puts_values_over_a_recipe_and_none_over_nothing():
    recipe = Recipe(h_min=-1.0, title="old")
    merged = merge(recipe, h_min=0.0, h_max=np.float32(2), n_bins=None, epochs=[np.int64(3)])
    assert merged == Recipe(h_min=0.0, h_max=2.0, title="old", epochs=[3])
    assert recipe == Recipe(h_min=-1.0, title="old")


def test_merge_checks_the_whole():
    with pytest.raises(RecipeError, match="h_min must be below h_max, got h_min=5 and h_max=4"):
        merge(Recipe(h_min=5.0), h_max=4.0)


def test_options_of_a_chart_are_refused_in_the_same_words():
    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        log_color: bool = True

    values: dict[str, Any] = {"log_colour": True}
    with pytest.raises(
        RecipeError, match=r"^\[charts\.wall\]: unknown key 'log_colour' \(did you mean 'log_color'\?\)$"
    ):
        validated(Options, values, "[charts.wall]")
    assert validated(Options, {"log_color": False}) == Options(log_color=False)
