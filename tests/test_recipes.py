"""Every shipped recipe is complete, can be read, and its training can be imported."""

import ast
from pathlib import Path

import pytest

from actlab.recipe import dump_recipe, load_recipe

FOLDERS = sorted(path.parent for path in (Path(__file__).parent.parent / "recipes").glob("*/train.py"))


def test_every_recipe_is_followed_and_measured():
    followed = "".join(path.read_text() for path in (Path(__file__).parent / "recipes").glob("test_*.py"))
    assert FOLDERS
    assert [folder.name for folder in FOLDERS if f'"{folder.name}"' not in followed] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_recipe_loads_and_is_complete(folder, tmp_path):
    recipe = load_recipe(folder / "report.toml")
    assert recipe.title
    again = tmp_path / "report.toml"
    again.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(again) == recipe
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_training_says_what_it_does_and_runs_only_as_a_script(folder):
    source = ast.parse((folder / "train.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(source)
    assert {type(node) for node in source.body} <= {
        ast.Expr,
        ast.Import,
        ast.ImportFrom,
        ast.Assign,
        ast.FunctionDef,
        ast.ClassDef,
        ast.If,
    }
