"""`compare_report(runs, path)`: runs side by side as one HTML file, and the recipe as run beside it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import xarray as xr
from pydantic import BaseModel

import actlab
from actlab.axis import LinearAxis
from actlab.charts import comparison_chart, twin_peaks_chart
from actlab.charts.comparison_chart import ComparisonOptions
from actlab.comparison import open_runs
from actlab.errors import RecipeError, SelectionError, StoreError, nearest, with_nearest
from actlab.findings.finding import Verdict
from actlab.findings.verdict import check, read_limits
from actlab.pages import comparison_detail, comparison_sections, comparison_verdict
from actlab.pages.comparison_sections import Compared
from actlab.pages.html import Page, Section, render
from actlab.pages.options import read_options, read_recipe
from actlab.pages.outputs import free_outputs, write_text
from actlab.recipe import Recipe, dump_recipe, merge
from actlab.run import Run
from actlab.stats import default_range

__all__ = ["compare_report"]

Progress = Callable[[str, int, int], None]

_CHARTS: dict[str, type[BaseModel]] = {"comparison": ComparisonOptions}
_SECTIONS = ("verdict", "wall", "detail", "twin_peaks", "how_to_read", "numbers", "provenance")
_MOST_RUNS = 6  # colours that can be told apart
_MOST_BINS = 1024
_MOST_PEAK_BINS = 300
_LEAST_ROOM: Final = 0.05  # of what pictures and curves would need; with less nothing can be told
_TRIES: Final = 6


@with_nearest
def compare_report(  # noqa: PLR0913 - the options of the page by name, as on the command line
    runs: Mapping[str, Run | str | Path] | Sequence[Run | str | Path],
    path: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    h_min: float | None = None,
    h_max: float | None = None,
    n_bins: int | None = None,
    layers: str | Sequence[str] | None = None,
    sections: Sequence[str] | None = None,
    max_size: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Draw runs side by side as one HTML page, and write the recipe as run beside it.

    Everything is shown on one scale, as shares of the values of each run, together with what differs from
    the first run. The page shows what all runs have, and says what single ones lack; see `actlab.compare`.

    Parameters
    ----------
    runs : mapping of str to Run, or sequence of Run
        Two to six runs, or their paths; without names they are named by the recipe, or else by their paths.
    path : str or pathlib.Path
        The page to write, NAME.html; the recipe goes to NAME.toml. Missing folders are made.
    recipe : str, pathlib.Path or Recipe, optional
        What to show, its options in the table `charts.comparison`; the options below go before it.
    h_min, h_max : float, optional
        Range of the histograms; by default the widest of the ranges that the pages of the runs have.
    n_bins : int, optional
        Number of bins, 200 by default.
    layers : str or sequence of str, optional
        Patterns as in `Run.select_layers`; all layers by default.
    sections : sequence of str, optional
        Which of "verdict", "wall", "detail", "twin_peaks", "how_to_read", "numbers" and "provenance" follow
        the title, in this order; all by default.
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
        If the recipe, a section, an option or a threshold of a rule in it, is wrong, or the runs do not fit
        into `max_size`.
    AxisError
        If the range is empty or too fine, or the runs were recorded on axes that share no exponent.
    SelectionError
        If there are fewer than two or more than six runs, or they have no layer or no epoch in common.
    """
    outputs = free_outputs(Path(path), overwrite=overwrite)
    changes = {"h_min": h_min, "h_max": h_max, "n_bins": n_bins, "max_size": max_size}
    wish, where = read_recipe(recipe, layers=layers, sections=sections, **changes)
    options, limits = read_options(wish, _CHARTS, where), read_limits(wish.limits, where)
    _check(wish, where)
    opened = _trained(open_runs(runs if isinstance(runs, Mapping) else _named(runs, options["comparison"])))
    shown = list(_SECTIONS) if wish.sections is None else wish.sections
    # A check reads all counts and keeps their sums, of which the range is taken where none is named.
    verdicts = _verdicts(opened, wish, progress) if "verdict" in shown else {}
    axis = _axis(opened, wish)
    chosen = options["comparison"].model_copy(update={"names": list(opened)})
    *most, last = opened
    as_run = merge(
        wish,
        title=wish.title or f"{', '.join(most)} and {last}",
        h_min=axis.h_min,
        h_max=axis.h_max,
        n_bins=axis.n_bins,
        sections=shown,
        max_size=wish.max_size,
        charts={"comparison": chosen.model_dump()},
        limits={rule: thresholds.model_dump() for rule, thresholds in limits.items()},
    )
    texts = _command(opened), dump_recipe(as_run), dump_recipe(_chosen(as_run, chosen, limits))
    columns, epochs = comparison_chart.prepare(opened, axis, chosen, layers=wish.layers, progress=progress)
    compared = Compared(
        runs=opened,
        title=str(as_run.title),
        notes=as_run.notes or "",
        axis=axis,
        columns=columns,
        epochs=epochs,
        peaks=_peaks(opened) if "twin_peaks" in shown else {},
        verdicts=verdicts,
        options=chosen,
    )
    page = _fitted(compared, as_run, texts, progress)
    for output, text in zip(outputs, (page, texts[1]), strict=True):
        write_text(output, text)
    return Path(path)


def _named(runs: Any, options: ComparisonOptions) -> Any:
    """Name runs as the recipe does, if it does."""
    if options.names is None or not isinstance(runs, Sequence) or isinstance(runs, str):
        return runs
    if len(options.names) != len(runs):
        raise RecipeError(f"charts.comparison.names: {len(options.names)} names for {len(runs)} runs")
    return dict(zip(options.names, runs, strict=True))


def _fitted(compared: Compared, recipe: Recipe, texts: tuple[str, ...], progress: Progress | None) -> str:
    """Render the page, with coarser pictures and fewer curves until it is as small as it must be."""
    limit, room, bare = 1e6 * recipe.max_size, 1.0, 0.0
    for left in reversed(range(_TRIES)):
        text = render(_page(replace(compared, room=room), recipe, texts, progress))
        size = len(text.encode())
        if size <= limit:
            return text
        if room <= _LEAST_ROOM:
            break
        bare = bare or len(render(_page(replace(compared, room=_LEAST_ROOM), recipe, texts, None)).encode())
        room = (
            max(_LEAST_ROOM, 0.97 * room * (limit - bare) / max(size - bare, 1)) if left > 1 else _LEAST_ROOM
        )
    raise RecipeError(f"max_size: the page takes {size / 1e6:.2f} MB, more than {recipe.max_size:g}")


def _check(wish: Recipe, where: str) -> None:
    """Refuse what a comparison does not have."""
    for name in wish.sections or ():
        if name not in _SECTIONS:
            raise RecipeError(f"{where}a comparison has no section {name!r} ({nearest(name, _SECTIONS)})")
    if wish.epochs is not None:
        raise RecipeError(f"{where}epochs: a comparison shows all epochs that the runs share")
    if wish.n_bins > _MOST_BINS:
        raise RecipeError(f"{where}n_bins: a comparison shows at most {_MOST_BINS} bins, got {wish.n_bins}")


def _trained(runs: dict[str, Run]) -> dict[str, Run]:
    """Refuse too many runs, and one without training."""
    if len(runs) > _MOST_RUNS:
        raise SelectionError(f"a page compares at most {_MOST_RUNS} runs, got {len(runs)}")
    for run in runs.values():
        if "train" not in run.splits:
            raise StoreError(f"{run.path}: no training batch was recorded, so there is nothing to compare")
    return runs


def _axis(runs: Mapping[str, Run], wish: Recipe) -> LinearAxis:
    """Return the bins: the widest range of the runs where none is named."""
    low, high = wish.h_min, wish.h_max
    if low is None or high is None:
        ranges = [default_range(run) for run in runs.values()]
        low = min(each[0] for each in ranges) if low is None else low
        high = max(each[1] for each in ranges) if high is None else high
    return LinearAxis(low, high, wish.n_bins)


def _verdicts(runs: Mapping[str, Run], wish: Recipe, progress: Progress | None) -> dict[str, Verdict]:
    """Check each run, on the bins of the page where they are named."""
    found = {}
    for name, run in runs.items():
        told = None if progress is None else partial(_as_stage, progress, f"checking {name}")
        found[name] = check(run, limits=wish.limits, axis=wish.bins(), progress=told)
    return found


def _as_stage(progress: Progress, stage: str, _: str, done: int, total: int) -> None:
    """Tell progress under another name."""
    progress(stage, done, total)


def _peaks(runs: Mapping[str, Run]) -> dict[str, xr.Dataset]:
    """Return the Twin Peaks of each run on one axis, nothing where one has no head that was called."""
    heads = {name: str(run.head) for name, run in runs.items()}
    for name, run in runs.items():
        if heads[name] not in run.names or bool(run.layers["never_called"][heads[name]]):
            return {}
    axes = [twin_peaks_chart.readable_axis(run, heads[name]) for name, run in runs.items()]
    low, high = min(axis.h_min for axis in axes), max(axis.h_max for axis in axes)
    finest = min((axis.h_max - axis.h_min) / axis.n_bins for axis in axes)
    axis = LinearAxis(low, high, min(round((high - low) / finest), _MOST_PEAK_BINS))
    return {name: twin_peaks_chart.prepare(run, axis=axis) for name, run in runs.items()}


def _page(compared: Compared, recipe: Recipe, texts: tuple[str, ...], progress: Progress | None) -> Page:
    """Make the sections, top to bottom."""
    versions = {name: version(name) for name in ("bokeh", "numpy", "xarray")}
    drawn_with = {"actlab": actlab.__version__} | versions
    made = comparison_sections
    makers: dict[str, Callable[[], Section | None]] = {
        "verdict": lambda: comparison_verdict.verdict(compared),
        "wall": lambda: made.wall(compared),
        "detail": lambda: comparison_detail.detail(compared),
        "twin_peaks": lambda: made.peaks(compared),
        "how_to_read": lambda: made.reading(compared),
        "numbers": lambda: made.numbers(compared),
        "provenance": lambda: made.provenance(compared, texts, drawn_with),
    }
    found, shown = [made.facts(compared)], recipe.sections or ()
    for number, name in enumerate(shown, 1):
        section = makers[name]()
        found += [] if section is None else [section]
        if progress is not None:
            progress("drawing sections", number, len(shown))
    return Page(compared.title, tuple(found))


def _chosen(as_run: Recipe, options: ComparisonOptions, limits: Mapping[str, BaseModel]) -> Recipe:
    """Return what of a recipe as run is not a default: it draws the same page."""
    thresholds = {rule: each.model_dump(exclude_defaults=True) for rule, each in limits.items()}
    usual = {"sections"} if as_run.sections == list(_SECTIONS) else set()
    values = as_run.model_dump(exclude_defaults=True, exclude=usual) | {
        "charts": {"comparison": options.model_dump(exclude_defaults=True)},
        "limits": {rule: values for rule, values in thresholds.items() if values},
    }
    return Recipe(**values)


def _command(runs: Mapping[str, Run]) -> str:
    """Return the command that draws this page again, without its output; its recipe says the rest."""
    return shlex.join(["actlab", "compare", *(run.path for run in runs.values()), "--recipe", "report.toml"])
