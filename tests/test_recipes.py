"""Every shipped recipe is complete, can be read, and its training can be imported."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from actlab.experiments import find_experiment
from actlab.recipe import dump_recipe, load_recipe

ROOT = Path(__file__).parent.parent
FOLDERS = sorted(path.parent for path in (ROOT / "recipes").glob("*/train.py"))


def test_every_recipe_is_followed_and_measured():
    followed = "".join(path.read_text() for path in (ROOT / "tests" / "recipes").glob("test_*.py"))
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
def test_every_page_of_a_recipe_has_a_title_of_its_own(folder):
    pages = find_experiment(folder).pages()
    assert len(pages) >= 2
    assert len({page.title for page in pages.values()}) == len(pages)


def test_the_table_of_recipes_names_each():
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+)\]", text, re.MULTILINE)) == [folder.name for folder in FOLDERS]


def test_the_index_links_to_what_is_there():
    text = (ROOT / "reports" / "index.html").read_text(encoding="utf-8")
    links = {link for link in re.findall(r'href="([^"#]+)"', text) if not link.startswith("data:")}
    kept = runpy.run_path(str(ROOT / "reports" / "gallery.py"))["KEPT"]
    assert links == {f"gallery/{name}.html" for name in kept}


def test_the_pages_that_the_gallery_keeps_are_there_and_small():
    kept = runpy.run_path(str(ROOT / "reports" / "gallery.py"))["KEPT"]
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    pages = [ROOT / "reports" / "gallery" / f"{name}.html" for name in kept]
    assert sorted(re.findall(r"^!/reports/gallery/(.+)\.html$", ignored, re.MULTILINE)) == sorted(kept)
    assert sum(page.stat().st_size for page in pages) < 10e6
    index = (ROOT / "reports" / "index.html").read_text(encoding="utf-8")
    for folder in FOLDERS:
        assert f'<article id="{folder.name}">' in index
    assert 'class="missing"' not in index


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_training_says_what_it_does_and_runs_only_as_a_script(folder):
    source = ast.parse((folder / "train.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(source)
    assert {type(node) for node in source.body} <= {
        ast.Expr,
        ast.Import,
        ast.ImportFrom,
        ast.Assign,
        ast.AnnAssign,
        ast.FunctionDef,
        ast.ClassDef,
        ast.If,
    }
