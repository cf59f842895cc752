"""Experiments: a training script, and the recipes beside it that draw what it recorded.

Those that come with actlab lie in `recipes/`. Beside `train.py` stand `report.toml`, the recipe of its page,
and `variants.toml`, other pages of the same run: each table of it is put over the recipe. Beside any other
script these are `NAME.report.toml` and `NAME.variants.toml`.
"""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from actlab.errors import MissingDependencyError, RecipeError, SelectionError, StoreError, nearest
from actlab.pages.build import report
from actlab.pages.outputs import free_outputs
from actlab.recipe import Recipe, load_recipe, merge, read_toml
from actlab.run import Run

__all__ = ["Experiment", "draw", "find_experiment", "scaffold", "shipped", "train"]

Progress = Callable[[str, int, int], None]

_SCRIPT: Final = "train.py"
_RECORDERS: Final = ("record", "Recorder")
_REPLACING: Final = (None, "overwrite", "resume", "resume_step")  # None stands for ** and what is in it
_INSTALLED: Final = Path(__file__).parent / "recipes"  # where a wheel puts them; in a clone they lie above
_SHIPPED: Final = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent / "recipes"

_REPORT: Final = """\
# How the run of {script} becomes a page: actlab recipe draw {path}

title = "{name}"
# notes = "What was trained, on what, and what to look at. *Markdown*."

# The range is left to the run. To choose it:
# h_min = -4.0
# h_max = 4.0
n_bins = 200
"""
_VARIANTS: Final = """\
# Other pages of the same run, drawn without training: actlab recipe draw {path}
# Each table is put over {report}; its name ends the name of the page.

[close]
title = "{name}, close to zero"
h_min = -1.0
h_max = 1.0
n_bins = 100
"""


@dataclass(frozen=True)
class Experiment:
    """A training script, and what stands beside it.

    Parameters
    ----------
    name : str
        Its runs and pages are called so, by custom.
    script : pathlib.Path
        The training script.
    """

    name: str
    script: Path

    @property
    def recipe(self) -> Path:
        """The recipe of its page."""
        return self._beside("report.toml")

    @property
    def variants(self) -> Path:
        """The recipes of its other pages."""
        return self._beside("variants.toml")

    @property
    def is_shipped(self) -> bool:
        """Whether it comes with actlab."""
        return self.script.is_relative_to(_SHIPPED)

    @property
    def summary(self) -> str:
        """The first line of the script's docstring."""
        text = ast.get_docstring(ast.parse(self.script.read_text(encoding="utf-8"))) or ""
        return text.partition("\n")[0]

    @property
    def run(self) -> Path:
        """Where its run lies, by custom."""
        return Path("runs") / f"{self.name}.zarr"

    def recordings(self) -> list[ast.Call]:
        """Return the calls of `actlab.record` and `actlab.Recorder` in the text of the script."""
        try:
            nodes = [*ast.walk(ast.parse(self.script.read_bytes()))]
        except SyntaxError:  # Python says so when it runs
            return []
        made: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                names = [alias.asname or alias.name for alias in node.names if alias.name == "actlab"]
                made |= {f"{name}.{recorder}" for name in names for recorder in _RECORDERS}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "actlab":
                made |= {alias.asname or alias.name for alias in node.names if alias.name in _RECORDERS}
        return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in made]

    def may_replace(self) -> bool:
        """Say whether the script may replace a run or go on with it; yes where its text does not tell."""
        calls = self.recordings()
        return not calls or any(word.arg in _REPLACING for call in calls for word in call.keywords)

    def lacking(self) -> list[str]:
        """Return the modules that the script imports at its top and that are not installed."""
        found: set[str] = set()
        for node in ast.parse(self.script.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
        return sorted(name for name in found if find_spec(name) is None)

    def pages(self) -> dict[str, Recipe]:
        """Read the recipes of its pages.

        Returns
        -------
        dict of str to Recipe
            By what ends the name of the page: "" for the page itself, then the variants in their order.

        Raises
        ------
        RecipeError
            If there is no recipe, or it or a variant is wrong.
        """
        if not self.recipe.exists():
            raise RecipeError(f"{self.recipe}: no such file; run `actlab recipe new {self.script}` first")
        base = load_recipe(self.recipe)
        pages = {"": base}
        if not self.variants.exists():
            return pages
        where = f"recipe {self.variants}"
        for name, table in read_toml(self.variants).items():
            if not isinstance(table, dict):
                raise RecipeError(f"{where}: {name} stands in no table; a variant begins with a line [name]")
            if not name.replace("-", "_").isidentifier():
                raise RecipeError(
                    f"{where}: [{name!r}] becomes part of a file name: letters, digits, _ and - only"
                )
            try:
                pages[name] = merge(base, **table)
            except RecipeError as error:
                raise RecipeError(f"{where}: [{name}] {error}") from None
        return pages

    def effects(self, run: Run) -> list[tuple[str, bool]]:
        """Measure what the README says of a run; nothing where there is no `effect.py`.

        Parameters
        ----------
        run : Run
            What the script recorded.

        Returns
        -------
        list of (str, bool)
            What there is to see, in words and numbers, and whether it is there.
        """
        path = self._beside("effect.py")
        found: list[tuple[str, bool]] = runpy.run_path(str(path))["measure"](run) if path.exists() else []
        return found

    def page(self, folder: str | Path, name: str) -> Path:
        """Return where a page goes, by what ends its name; see `pages`."""
        return Path(folder) / (f"{self.name}-{name}.html" if name else f"{self.name}.html")

    def _beside(self, name: str) -> Path:
        """Return the path of a file that belongs to the script."""
        return self.script.with_name(name if self.script.name == _SCRIPT else f"{self.script.stem}.{name}")


def shipped() -> list[Experiment]:
    """Return the experiments that come with actlab, by name."""
    return [Experiment(path.parent.name, path) for path in sorted(_SHIPPED.glob(f"*/{_SCRIPT}"))]


def find_experiment(name: str | Path) -> Experiment:
    """Find an experiment.

    Parameters
    ----------
    name : str or pathlib.Path
        The name of one that comes with actlab, a training script, or a folder with `train.py`.

    Returns
    -------
    Experiment
        A script is called as its file, but `train.py` as its folder.

    Raises
    ------
    SelectionError
        If there is none.
    """
    path = Path(name)
    script = path / _SCRIPT if path.is_dir() else path
    if script.suffix == ".py" and script.is_file():
        return Experiment(script.resolve().parent.name if script.name == _SCRIPT else script.stem, script)
    known = {experiment.name: experiment for experiment in shipped()}
    if path.is_dir() and str(name) not in known:
        raise SelectionError(f"{path} holds no {_SCRIPT}: name the training script itself")
    if str(name) not in known:
        said = "" if path.suffix != ".py" else " and no such file"
        raise SelectionError(f"no recipe {str(name)!r}{said}: {nearest(str(name), known)}")
    return known[str(name)]


def train(
    experiment: Experiment, arguments: Sequence[str] = (), *, run: Path | None = None, overwrite: bool = False
) -> Path:
    """Run the training script in a process of its own, in the working directory.

    Parameters
    ----------
    experiment : Experiment
        What to train.
    arguments : sequence of str
        Options of the script.
    run : pathlib.Path, optional
        Where the script records; by custom `runs/NAME.zarr`.
    overwrite : bool
        Go on where that run is there already, for the script to replace it.

    Returns
    -------
    pathlib.Path
        The run.

    Raises
    ------
    MissingDependencyError
        If a recipe that comes with actlab needs a package that is not installed.
    StoreError
        If the run is there already, and may not be replaced or would not be by the script; or if the script
        failed or recorded nothing there.
    """
    target = experiment.run if run is None else run
    if target.exists() and not overwrite:
        name = experiment.name if experiment.is_shipped else experiment.script
        again = f"`actlab recipe draw {name}` draws it"
        raise StoreError(f"{target} exists already: {again}, --overwrite trains again and replaces it")
    if target.exists() and not experiment.may_replace():
        raise StoreError(
            f"{target} exists already, and {experiment.script} does not replace it: give its recorder "
            "overwrite=True"
        )
    if experiment.is_shipped and (lacking := experiment.lacking()):
        needed = " and ".join(lacking)
        raise MissingDependencyError(f"{experiment.name} needs {needed}: pip install 'actlab[recipes]'")
    code = subprocess.run([sys.executable, str(experiment.script), *arguments], check=False).returncode
    if code:
        raise StoreError(f"{experiment.script} ended with exit code {code}, so no page was drawn")
    if not target.exists():
        raise StoreError(
            f"{experiment.script} recorded no {target}: record there, or name its run with --run"
        )
    return target


def draw(
    experiment: Experiment,
    *,
    run: Path | None = None,
    folder: str | Path = "reports",
    pages: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw pages of a run that is there, without training.

    Parameters
    ----------
    experiment : Experiment
        Whose recipes are taken.
    run : pathlib.Path, optional
        The run; by custom `runs/NAME.zarr`.
    folder : str or pathlib.Path
        Where the pages go, as NAME.html and NAME-VARIANT.html.
    pages : sequence of str, optional
        Which, as in `Experiment.pages`; all by default.
    overwrite : bool
        Replace pages that are there.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    list of pathlib.Path
        The pages.

    Raises
    ------
    SelectionError
        If there is no such variant.
    StoreError, RecipeError, AxisError
        As `actlab.report`.
    """
    recipes = experiment.pages()
    wanted = list(recipes) if pages is None else list(pages)
    for name in wanted:
        if name not in recipes:
            known = nearest(name, [key for key in recipes if key])
            raise SelectionError(f"no variant {name!r} in {experiment.variants}: {known}")
    target = experiment.run if run is None else run
    for name in wanted:
        free_outputs(experiment.page(folder, name), overwrite=overwrite)
    made = []
    for name in wanted:
        page = experiment.page(folder, name)
        step = None if progress is None else partial(_tell, progress, page.stem)
        made.append(report(target, page, recipe=recipes[name], overwrite=overwrite, progress=step))
    return made


def _tell(progress: Progress, page: str, stage: str, done: int, total: int) -> None:
    """Say of which page a stage is."""
    progress(f"{page}: {stage}", done, total)


def scaffold(script: str | Path) -> tuple[Experiment, list[Path]]:
    """Write a recipe and variants beside a training script, to be filled in.

    Parameters
    ----------
    script : str or pathlib.Path
        The user's own training.

    Returns
    -------
    experiment : Experiment
    written : list of pathlib.Path
        The new files.

    Raises
    ------
    StoreError
        If there is no such script, or one of the files is there already.
    """
    path = Path(script)
    if not path.exists():
        raise StoreError(f"{path}: no such file")
    if path.suffix != ".py" or not path.is_file():
        raise StoreError(f"{path}: expected a training script, a file that ends in .py")
    experiment = find_experiment(path)
    texts = {experiment.recipe: _REPORT, experiment.variants: _VARIANTS}
    for target in texts:
        if target.exists():
            raise StoreError(f"{target} exists already, so nothing was written")
    for target, text in texts.items():
        words = {"name": experiment.name, "script": path.name, "path": path.as_posix()}
        target.write_text(text.format(**words, report=experiment.recipe.name), encoding="utf-8")
    return experiment, list(texts)
