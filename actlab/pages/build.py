"""`report(run, path)`: a run and a recipe become one HTML file, and the recipe as run beside it."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import actlab
from actlab.axis import LinearAxis
from actlab.charts import colorful_chart, twin_peaks_chart, wall_chart
from actlab.charts.colorful_chart import ColorfulOptions
from actlab.charts.look import view
from actlab.charts.twin_peaks_chart import TwinPeaksOptions
from actlab.charts.wall_chart import WallOptions
from actlab.errors import RecipeError, SelectionError, StoreError, nearest, nearest_number
from actlab.findings.finding import Verdict
from actlab.findings.verdict import check, read_limits
from actlab.pages import sections, twin_peaks_section, verdict_section, wall_section
from actlab.pages.html import Page, render
from actlab.pages.sections import Material
from actlab.recipe import Recipe, dump_recipe, load_recipe, merge, validated
from actlab.run import Run, open_run
from actlab.store.urls import name_of

__all__ = ["report"]

Progress = Callable[[str, int, int], None]

_CHARTS: dict[str, type[BaseModel]] = {
    "wall": WallOptions,
    "colorful": ColorfulOptions,
    "twin_peaks": TwinPeaksOptions,
}
_MOST_BINS = 4096  # no screen has more rows, and memory is layers x columns x bins
_DRAWN_WITH = ("bokeh", "holoviews", "datashader", "numpy", "xarray")


def report(  # noqa: PLR0913 - the options of the page by name, as on the command line
    run: Run | str | Path,
    path: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int | None = None,
    layers: str | Sequence[str] | None = None,
    epochs: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Draw a run as one HTML page, and write the recipe as run beside it.

    The page begins with the verdict on the whole run, see `actlab.check`. It asks no network. The same
    run, recipe and versions give the same bytes.

    Parameters
    ----------
    run : Run, str or pathlib.Path
        What `open_run` returned, or its path.
    path : str or pathlib.Path
        The page to write, NAME.html; the recipe goes to NAME.toml. Missing folders are made.
    recipe : str, pathlib.Path or Recipe, optional
        What to show; the options below go before it.
    h_min, h_max : float, optional
        Range of the histograms; by default all but 0.1 % of the run's values on each side.
    n_bins : int, optional
        Number of bins, 200 by default.
    layers : str or sequence of str, optional
        Patterns as in `Run.select_layers`; all layers by default.
    epochs : sequence of int, optional
        Epoch labels, -1 for the evaluation before any training; all by default.
    overwrite : bool
        Replace an existing page and recipe.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    StoreError
        If there is no such run, or an output exists and `overwrite` is not set.
    RecipeError
        If the recipe, an option of a chart or a threshold of a rule in it, is wrong.
    AxisError
        If the range is empty or too fine.
    SelectionError
        If the run has no such layer or epoch.
    """
    page_path = Path(path)
    outputs = _free(page_path, overwrite)
    changes = {"h_min": h_min, "h_max": h_max, "n_bins": n_bins}
    wish = merge(
        _read(recipe),
        **changes,
        layers=[layers] if isinstance(layers, str) else _list(layers),
        epochs=_list(epochs),
    )
    where = "" if recipe is None or isinstance(recipe, Recipe) else f"recipe {recipe}: "
    options, limits = _options(wish, where), read_limits(wish.limits, where)
    opened = run if isinstance(run, Run) else open_run(run)
    axis = _axis(opened, wish)
    as_run = _as_run(wish, opened, axis, options, limits)
    verdict = check(opened, limits=as_run.limits, axis=axis, progress=progress)
    material = _material(opened, as_run, axis, options, verdict, progress)
    page = _page(material, _command(opened, as_run), dump_recipe(as_run), progress)
    for output, text in zip(outputs, (render(page), dump_recipe(as_run)), strict=True):
        _write(output, text)
    return page_path


def _free(page: Path, overwrite: bool) -> tuple[Path, Path]:
    """Return the page and its recipe, if both may be written."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise StoreError(f"{page}: a page is a file that ends in .html, its recipe goes to .toml beside it")
    outputs = page, page.with_suffix(".toml")
    for output in outputs:
        if output.is_dir():
            raise StoreError(f"{output} is a folder, expected a file to write")
        if output.exists() and not overwrite:
            raise StoreError(f"{output} exists already; overwrite=True or --overwrite replaces it")
    folder = next(parent for parent in page.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StoreError(f"{page}: cannot write into {folder}")
    return outputs


def _read(recipe: str | Path | Recipe | None) -> Recipe:
    """Return the recipe, read if it is a file."""
    if recipe is None:
        return Recipe()
    return recipe if isinstance(recipe, Recipe) else load_recipe(recipe)


def _list(values: Sequence[Any] | None) -> list[Any] | None:
    """Return any sequence as the list that a recipe holds."""
    return None if values is None else list(values)


def _axis(run: Run, wish: Recipe) -> LinearAxis:
    """Return the bins of the page, refusing a run with nothing to draw and more bins than a page can hold."""
    if "train" not in run.splits:
        raise StoreError(f"{run.path}: no training batch was recorded, so there is nothing to draw")
    if wish.n_bins > _MOST_BINS:
        raise RecipeError(f"n_bins: a page shows at most {_MOST_BINS} bins, got {wish.n_bins}")
    return view(run, wish.h_min, wish.h_max, wish.n_bins)


def _options(recipe: Recipe, where: str) -> dict[str, Any]:
    """Check the options of each chart by its own model."""
    for name in recipe.charts:
        if name not in _CHARTS:
            raise RecipeError(f"{where}unknown chart {name!r} ({nearest(name, _CHARTS)})")
    return {
        name: validated(model, recipe.charts.get(name, {}), f"{where}charts.{name}")
        for name, model in _CHARTS.items()
    }


def _as_run(
    wish: Recipe,
    run: Run,
    axis: LinearAxis,
    options: Mapping[str, BaseModel],
    limits: Mapping[str, BaseModel],
) -> Recipe:
    """Return the recipe with nothing left to decide but which layers and epochs there are."""
    return merge(
        wish,
        title=wish.title or _title(run),
        h_min=axis.h_min,
        h_max=axis.h_max,
        n_bins=axis.n_bins,
        charts={name: chosen.model_dump() for name, chosen in options.items()},
        limits={rule: chosen.model_dump() for rule, chosen in limits.items()},
    )


def _train_epochs(run: Run, epochs: Sequence[int] | None) -> list[int] | None:
    """Return those of the epochs that hold training, after checking that each was recorded."""
    if epochs is None:
        return None
    recorded = {split: run.epochs(split) for split in run.splits}
    known = sorted(set().union(*recorded.values()))
    for epoch in epochs:
        if epoch not in known:
            raise SelectionError(f"no epoch {epoch} in {run.path}: {nearest_number(epoch, known)}")
    return [epoch for epoch in epochs if epoch in recorded.get("train", ())]


def _material(
    run: Run,
    recipe: Recipe,
    axis: LinearAxis,
    options: Mapping[str, Any],
    verdict: Verdict,
    progress: Progress | None,
) -> Material:
    """Let each chart prepare its numbers."""
    names = run.select_layers(recipe.layers)
    columns = colorful_chart.prepare(
        run,
        axis,
        options["colorful"],
        layers=names,
        epochs=_train_epochs(run, recipe.epochs),
        progress=None if progress is None else lambda done, total: progress("reading batches", done, total),
    )
    tiles = wall_chart.prepare(columns, options["wall"])
    twin = None
    if run.head in run.names and not run.layers.loc[run.head, "never_called"]:
        twin = twin_peaks_chart.prepare(run, epochs=recipe.epochs)
    return Material(
        run=run,
        title=str(recipe.title),
        notes=recipe.notes or "",
        axis=axis,
        columns=columns,
        wall=tiles,
        peaks=twin,
        verdict=verdict,
        colorful=options["colorful"],
        twin_peaks=options["twin_peaks"],
    )


def _page(material: Material, command: str, recipe: str, progress: Progress | None) -> Page:
    """Make the sections, top to bottom."""
    versions = {"actlab": actlab.__version__} | {name: version(name) for name in _DRAWN_WITH}
    makers: list[Callable[[], Any]] = [
        lambda: sections.facts(material),
        lambda: verdict_section.verdict(material),
        lambda: wall_section.wall(material),
        lambda: sections.detail(material),
        lambda: twin_peaks_section.peaks(material),
        lambda: sections.reading(material),
        lambda: sections.numbers(material),
        lambda: sections.provenance(material, command, recipe, versions),
    ]
    made = []
    for number, make in enumerate(makers, 1):
        made.append(make())
        if progress is not None:
            progress("drawing sections", number, len(makers))
    return Page(material.title, tuple(section for section in made if section is not None))


def _command(run: Run, recipe: Recipe) -> str:
    """Return the command that draws this page again, without its output."""
    words = ["actlab", "report", run.path]
    plain = Recipe().charts | {name: model().model_dump() for name, model in _CHARTS.items()}
    usual = {rule: limits.model_dump() for rule, limits in read_limits({}).items()}
    if recipe.notes or recipe.title != _title(run) or recipe.charts != plain or recipe.limits != usual:
        words += ["--recipe", "report.toml"]
    words += ["--h-min", f"{recipe.h_min!r}", "--h-max", f"{recipe.h_max!r}", "--n-bins", str(recipe.n_bins)]
    if recipe.layers is not None:
        words += ["--layers", ",".join(recipe.layers)]
    if recipe.epochs is not None:
        words += [f"--epochs={','.join(map(str, recipe.epochs))}"]
    return shlex.join(words)


def _title(run: Run) -> str:
    """Return the name of a run without its ending, which a page has if no recipe names it."""
    return Path(name_of(run.path)).stem


def _write(path: Path, text: str) -> None:
    """Put a file in place at once: whoever reads it sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
