"""`report(run, path)`: a run and a recipe become one HTML file, and the recipe as run beside it."""

from __future__ import annotations

import ctypes
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

import actlab
from actlab.axis import LinearAxis
from actlab.charts import class_chart, twin_peaks_chart, wall_chart
from actlab.charts.class_chart import ClassOptions
from actlab.charts.colorful_chart import ColorfulOptions
from actlab.charts.columns import rows_of_epochs
from actlab.charts.look import view
from actlab.charts.paged import columns_with_slots
from actlab.charts.twin_peaks_chart import TwinPeaksOptions
from actlab.charts.wall_chart import WallOptions
from actlab.errors import RecipeError, SelectionError, StoreError, nearest_number, with_nearest
from actlab.findings.finding import Verdict
from actlab.findings.verdict import check, read_limits
from actlab.pages import (
    class_section,
    detail_section,
    reading_section,
    sections,
    twin_peaks_section,
    verdict_section,
    wall_section,
)
from actlab.pages.html import Page, Section, render
from actlab.pages.options import read_options, read_recipe
from actlab.pages.outputs import free_outputs, write_text
from actlab.pages.sections import Material
from actlab.pages.sizing import MOST_BINS, plan_page
from actlab.recipe import MAX_SIZE, SECTIONS, Recipe, dump_recipe, merge
from actlab.run import Run, open_run
from actlab.store.urls import name_of

__all__ = ["report"]

Progress = Callable[[str, int, int], None]

_CHARTS: dict[str, type[BaseModel]] = {
    "wall": WallOptions,
    "colorful": ColorfulOptions,
    "twin_peaks": TwinPeaksOptions,
    "per_class": ClassOptions,
}
_NOT_HERE = {"width"}  # of pictures in notebooks and papers: the page fills its window
_SLACK = 1_000  # bytes: the numbers beside the counts change, too
_DRAWN_WITH = ("bokeh", "holoviews", "datashader", "numpy", "xarray")


@with_nearest
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
    sections: Sequence[str] | None = None,
    max_size: float | None = None,
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
        Range of the histograms; by default all but 0.1 % of the values on each side, but for layers of
        absurd size, see `actlab.stats.default_range`.
    n_bins : int, optional
        Number of bins, 200 by default.
    layers : str or sequence of str, optional
        Patterns as in `Run.select_layers`; all layers by default.
    epochs : sequence of int, optional
        Epoch labels, -1 for the evaluation before any training; all by default.
    sections : sequence of str, optional
        Which of "verdict", "wall", "detail", "twin_peaks", "per_class", "how_to_read", "numbers" and
        "provenance" follow the title, in this order; all by default.
    max_size : float, optional
        The page has at most so many megabytes (10^6 bytes), 7 by default.
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
        If the recipe, a section, an option of a chart or a threshold of a rule in it, is wrong, or the run
        does not fit into `max_size`.
    AxisError
        If the range is empty or too fine.
    SelectionError
        If the run has no such layer or epoch.
    """
    page_path = Path(path)
    outputs = free_outputs(page_path, overwrite=overwrite)
    changes = {"h_min": h_min, "h_max": h_max, "n_bins": n_bins, "max_size": max_size}
    wish, where = read_recipe(recipe, layers=layers, epochs=epochs, sections=sections, **changes)
    options, limits = read_options(wish, _CHARTS, where), read_limits(wish.limits, where)
    opened = run if isinstance(run, Run) else open_run(run)
    _refuse(opened, wish)
    # The check reads all counts and keeps their sums, of which the range is taken where none is named.
    named = wish.h_min is not None or wish.h_max is not None
    thresholds = {rule: chosen.model_dump() for rule, chosen in limits.items()}
    given = _axis(opened, wish) if named else None
    verdict = check(opened, limits=thresholds, axis=given, progress=progress)
    _give_back()
    axis = _axis(opened, wish)
    as_run = _as_run(wish, opened, axis, options, limits)
    material = _material(opened, as_run, axis, options, verdict, progress)
    page = _page(material, as_run, progress)
    for output, text in zip(outputs, (_fitted(page, material), dump_recipe(as_run)), strict=True):
        write_text(output, text)
    return page_path


def _give_back() -> None:
    """Return freed memory to the system: glibc keeps 0.2 GB after a check of 62 layers x 20,000 batches."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _refuse(run: Run, wish: Recipe) -> None:
    """Refuse a run with nothing to draw, and more bins than a page can hold."""
    if "train" not in run.splits:
        raise StoreError(f"{run.path}: no training batch was recorded, so there is nothing to draw")
    if wish.n_bins > MOST_BINS:
        raise RecipeError(f"n_bins: a page shows at most {MOST_BINS} bins, got {wish.n_bins}")


def _axis(run: Run, wish: Recipe) -> LinearAxis:
    """Return the bins of the page."""
    return view(run, wish.h_min, wish.h_max, wish.n_bins)


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
        max_size=wish.max_size,
        sections=list(SECTIONS) if wish.sections is None else wish.sections,
        charts={name: chosen.model_dump(exclude=_NOT_HERE) for name, chosen in options.items()},
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
    rows = rows_of_epochs(run, "train", _train_epochs(run, recipe.epochs))
    n_epochs = np.unique(run["train"].epoch.values[rows]).size
    most, size = options["colorful"].max_columns, recipe.max_size * 1e6
    plan = plan_page(run, names, rows, n_epochs, most=most, size=size)
    columns, slots = columns_with_slots(
        run,
        axis,
        plan.layouts,
        rows,
        k=plan.k,
        progress=None if progress is None else lambda done, total: progress("reading batches", done, total),
    )
    tiles = wall_chart.prepare(columns, options["wall"])
    twin, shown = None, tuple(recipe.sections or ())
    if "twin_peaks" in shown and run.head in run.names and not run.layers.loc[run.head, "never_called"]:
        twin = twin_peaks_chart.prepare(run, epochs=recipe.epochs)
    classes = None
    if "per_class" in shown:
        classes = class_chart.prepare(run, options["per_class"], epochs=recipe.epochs)
    return Material(
        run=run,
        title=str(recipe.title),
        notes=recipe.notes or "",
        axis=axis,
        columns=columns,
        wall=tiles,
        peaks=twin,
        verdict=verdict,
        wall_options=options["wall"],
        classes=classes,
        plan=plan,
        slots=slots,
        max_size=recipe.max_size,
        sections=shown,
        colorful=options["colorful"],
        twin_peaks=options["twin_peaks"],
    )


def _page(material: Material, as_run: Recipe, progress: Progress | None) -> Page:
    """Make the sections, top to bottom."""
    texts = _command(material.run, as_run), dump_recipe(as_run), dump_recipe(_chosen(material.run, as_run))
    versions = {"actlab": actlab.__version__} | {name: version(name) for name in _DRAWN_WITH}
    makers: dict[str, Callable[[], Section | None]] = {
        "verdict": lambda: verdict_section.verdict(material),
        "wall": lambda: wall_section.wall(material),
        "detail": lambda: detail_section.detail(material),
        "twin_peaks": lambda: twin_peaks_section.peaks(material),
        "per_class": lambda: class_section.classes(material),
        "how_to_read": lambda: reading_section.reading(material),
        "numbers": lambda: sections.numbers(material),
        "provenance": lambda: sections.provenance(material, *texts, versions),
    }
    made = [sections.facts(material)]
    for number, name in enumerate(material.sections, 1):
        section = makers[name]()
        made += [] if section is None else [section]
        if progress is not None:
            progress("drawing sections", number, len(material.sections))
    return Page(material.title, tuple(made))


def _fitted(page: Page, material: Material) -> str:
    """Render a page; once more, with coarser counts in its detail, if it is larger than it may be."""
    text = render(page)
    size, limit = len(text.encode()), 1e6 * material.max_size
    if size <= limit:
        return text
    found = {section.key: section for section in page.sections}
    if "detail" not in found:
        raise RecipeError(f"max_size: the page takes {size / 1e6:.2f} MB, more than {material.max_size:g}")
    room = sum(map(len, found["detail"].blobs)) - (size - limit) - _SLACK
    found["detail"] = detail_section.lighter(material, found["detail"], room)
    return render(replace(page, sections=tuple(found.values())))


def _command(run: Run, recipe: Recipe) -> str:
    """Return the command that draws this page again, without its output."""
    words = ["actlab", "report", run.path]
    by_option = {"h_min", "h_max", "n_bins", "layers", "epochs", "max_size"}
    if _chosen(run, recipe).model_fields_set - by_option:
        words += ["--recipe", "report.toml"]
    words += ["--h-min", f"{recipe.h_min!r}", "--h-max", f"{recipe.h_max!r}", "--n-bins", str(recipe.n_bins)]
    if recipe.layers is not None:
        words += ["--layers", ",".join(recipe.layers)]
    if recipe.max_size != MAX_SIZE:
        words += ["--max-size", f"{recipe.max_size:g}"]
    if recipe.epochs is not None:
        words += [f"--epochs={','.join(map(str, recipe.epochs))}"]
    return shlex.join(words)


def _chosen(run: Run, recipe: Recipe) -> Recipe:
    """Return what of a recipe as run is not a default: it draws the same page."""
    usual = Recipe(
        title=_title(run),
        sections=list(SECTIONS),
        charts={name: model().model_dump() for name, model in _CHARTS.items()},
        limits={rule: limits.model_dump() for rule, limits in read_limits({}).items()},
    )
    return Recipe(**_differing(recipe.model_dump(), usual.model_dump()))


def _differing(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of nested values that are not the usual ones."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        changed = _differing(value, usual.get(key, {})) if isinstance(value, dict) else value
        if changed != ({} if isinstance(value, dict) else usual.get(key)):
            kept[key] = changed
    return kept


def _title(run: Run) -> str:
    """Return the name of a run without its ending, which a page has if no recipe names it."""
    return Path(name_of(run.path)).stem
