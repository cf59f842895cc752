"""The command line: `actlab info`, `actlab check` and `actlab report`, and what looks after runs.

The verbs import what they need when they run, so that `actlab --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from actlab import __version__
from actlab.cli import recipes
from actlab.cli.parsing import parse_epochs, parse_patterns
from actlab.cli.tables import show_facts, show_layers, show_splits
from actlab.errors import ActlabError, StoreError

__all__ = ["app", "main", "progress_bars"]

_FOUND = 1
_BAD_INPUT = 2
_PIPE_WIDTH = 200

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See what happens inside a neural network while it trains.",
)

app.add_typer(recipes.app, name="recipe")

# Text, as a run may be a URL: a Path would drop a slash of it.
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="A recorded run, such as runs/mnist.zarr.")]
NewPath = Annotated[str, typer.Option("--output", "-o", help="What to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run or archive that is there.")]
ReplacePage = Annotated[bool, typer.Option("--overwrite", help="Replace an existing page.")]
RecipePath = Annotated[Path | None, typer.Option(help="A recipe in TOML; the options below go before it.")]
Layers = Annotated[
    list[str] | None,
    typer.Option(help="Patterns of layer names, such as 'conv*,!conv1'; may be repeated."),
]
HMin = Annotated[float | None, typer.Option(help="Lower end of the histograms.")]
HMax = Annotated[float | None, typer.Option(help="Upper end of the histograms.")]
NBins = Annotated[int | None, typer.Option(help="Number of bins.")]
MaxSize = Annotated[float | None, typer.Option(help="Largest size of the page in MB, 7 by default.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after `actlab`; else those of the process.

    Returns
    -------
    int
        The exit code: 0 fine, 1 an error-level finding of `check`, 2 bad input (said in one line on stderr),
        130 interrupted.
    """
    try:
        code = app(arguments, prog_name="actlab", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(error.format_message())
    except ActlabError as error:
        return _refuse(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _refuse(f"{where}{error.strerror or error}")
    return code if isinstance(code, int) else 0


def _refuse(message: str) -> int:
    """Say in one line on stderr what is wrong, and return the exit code."""
    typer.echo(f"actlab: {' '.join(message.splitlines())}", err=True)
    return _BAD_INPUT


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"actlab {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def info(
    path: RunPath,
    verify: Annotated[bool, typer.Option("--verify", help="Read all rows and check them first.")] = False,
) -> None:
    """Show what a run holds: splits, epochs, layers, and what is missing."""
    from actlab.run import Run
    from actlab.store.ranks import open_merged
    from actlab.store.verifying import verify_snapshot

    snapshot = open_merged(path)
    verified = 0
    if verify:
        with progress_bars() as progress:
            verified = sum(verify_snapshot(snapshot, progress).values())
    run = Run(snapshot)
    console = _console()
    show_facts(console, run)
    console.print()
    show_splits(console, run)
    console.print()
    show_layers(console, run)
    if verify:
        shown = sum(run[split].sizes["step"] for split in run.splits)
        hidden = "" if verified == shown else ", of every attempt and rank"
        typer.echo(f"\nverified {verified:,} row{'' if verified == 1 else 's'}{hidden}")


@app.command()
def repair(path: RunPath) -> None:
    """Mend a run that was cut off or damaged, as far as that can be done; nothing recorded is removed."""
    from actlab.store.repairing import repair as mend

    with progress_bars() as progress:
        found = mend(path, progress=progress)
    for line in found.done:
        typer.echo(line)
    if found.damage:
        raise StoreError(f"{path}: {'; '.join(found.damage)}")
    if not found.done:
        typer.echo("nothing to repair")


@app.command()
def compact(path: RunPath, output: NewPath, overwrite: Overwrite = False) -> None:
    """Write a run once more, so that single layers are read without the others."""
    from actlab.store.compacting import compact as write_compacted

    with progress_bars() as progress:
        write_compacted(path, output, overwrite=overwrite, progress=progress)
    typer.echo(f"Wrote {output}")


@app.command()
def pack(path: RunPath, output: NewPath, overwrite: Overwrite = False) -> None:
    """Put a run into one archive, to mail or to attach; every verb opens it like a run."""
    from actlab.store.packing import pack as write_archive

    with progress_bars() as progress:
        write_archive(path, output, overwrite=overwrite, progress=progress)
    typer.echo(f"Wrote {output}")


@app.command()
def branch(
    path: RunPath,
    output: NewPath,
    step: Annotated[
        int | None, typer.Option(help="Training batches that the branch begins after; else all of them.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Begin a new run with the rows of another one, to go on in it with resume=True."""
    from actlab.store.branching import branch as write_branch

    with progress_bars() as progress:
        write_branch(path, output, step=step, overwrite=overwrite, progress=progress)
    typer.echo(f"Wrote {output}")


@app.command()
def report(
    path: RunPath,
    recipe: RecipePath = None,
    h_min: HMin = None,
    h_max: HMax = None,
    n_bins: NBins = None,
    layers: Layers = None,
    epochs: Annotated[
        str | None, typer.Option(help="Epochs to show, such as 0-3,5; -1 is untrained.")
    ] = None,
    max_size: MaxSize = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page to write; else reports/NAME.html.")
    ] = None,
    overwrite: ReplacePage = False,
) -> None:
    """Draw a run as one HTML page, with the recipe that made it beside it."""
    labels = parse_epochs(epochs)
    patterns = parse_patterns(layers)

    from actlab.pages.build import report as write_page
    from actlab.run import open_run

    run = open_run(path)  # what is no run is said before what is wrong with the page
    with progress_bars() as progress:
        page = write_page(
            run,
            output if output is not None else Path("reports") / f"{_stem(path)}.html",
            recipe=recipe,
            h_min=h_min,
            h_max=h_max,
            n_bins=n_bins,
            layers=patterns,
            epochs=labels,
            max_size=max_size,
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(f"Wrote {page}")


@app.command()
def compare(
    paths: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Two to six recorded runs.")],
    recipe: RecipePath = None,
    h_min: HMin = None,
    h_max: HMax = None,
    n_bins: NBins = None,
    layers: Layers = None,
    max_size: MaxSize = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page to write; else reports/A_vs_B.html.")
    ] = None,
    overwrite: ReplacePage = False,
) -> None:
    """Draw runs side by side on one scale, and what differs from the first, as one HTML page."""
    patterns = parse_patterns(layers)

    from actlab.pages.comparison_build import compare_report
    from actlab.run import open_run

    if len(paths) < 2:
        raise typer.BadParameter("comparing takes at least two runs", param_hint="RUN RUN...")
    runs = [open_run(path) for path in paths]
    with progress_bars() as progress:
        page = compare_report(
            runs,
            output if output is not None else Path("reports") / f"{'_vs_'.join(map(_stem, paths))}.html",
            recipe=recipe,
            h_min=h_min,
            h_max=h_max,
            n_bins=n_bins,
            layers=patterns,
            max_size=max_size,
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(f"Wrote {page}")


@app.command()
def export(
    path: RunPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="The figure to write, .png or .svg.")],
    chart: Annotated[str, typer.Option(help="colorful, per_class, twin_peaks or wall.")] = "colorful",
    layer: Annotated[
        str | None, typer.Option(help="A layer; else the head. Of the wall, patterns; else all.")
    ] = None,
    h_min: HMin = None,
    h_max: HMax = None,
    n_bins: NBins = None,
    epochs: Annotated[
        str | None,
        typer.Option(help="Epochs such as 0-3,5; of Twin Peaks and classes one, last or untrained."),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Pixels of the picture, or of a tile or panel, across.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="Pixels down.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing figure.")] = False,
) -> None:
    """Draw a chart of a run for a paper; a PNG has two pixels for each one said here."""
    from actlab.cli.exporting import export_figure

    given = {"layer": layer, "h_min": h_min, "h_max": h_max, "n_bins": n_bins, "epochs": epochs}
    made = export_figure(path, output, chart, given | {"width": width, "height": height}, overwrite=overwrite)
    typer.echo(f"Wrote {made}")


@app.command()
def check(
    path: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A recorded run; behind --explain, a rule.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Explain a rule, such as dead_relu, or list all.")
    ] = False,
    recipe: Annotated[
        Path | None,
        typer.Option(help="A recipe in TOML, with thresholds (tables limits.RULE) and range."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on while the run grows, and tell each finding once.")
    ] = False,
) -> None:
    """Say what looks sick in a run, since when, and what to do. Exit code 1 on an error-level finding."""
    from actlab.cli import verdicts

    if explain:
        if path is None:
            verdicts.list_rules(_console())
        else:
            verdicts.explain(_console(), path, recipe)
        return
    if path is None:
        raise typer.BadParameter("name a run, or a rule to --explain", param_hint="RUN")
    if as_sarif and (as_json or follow):
        raise typer.BadParameter("--sarif goes with neither --json nor --follow", param_hint="--sarif")
    if follow:
        verdict = verdicts.follow(_console(), path, recipe, as_json=as_json)
    else:
        with progress_bars() as progress:
            verdict = verdicts.check_run(path, recipe, progress)
        if as_json or as_sarif:
            typer.echo(verdicts.dump(verdict, as_sarif=as_sarif))
        else:
            verdicts.show(_console(), verdict)
    if verdict.counts["error"]:
        raise typer.Exit(_FOUND)


@app.command()
def watch(
    path: RunPath,
    text: Annotated[
        bool, typer.Option("--text", help="Draw in the terminal, until the run is closed.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0 for any that is free.")
    ] = 5006,
) -> None:
    """Follow a run while it grows, on a page of this machine; it may begin later. Ctrl-C ends it."""
    with suppress(KeyboardInterrupt):
        from actlab.cli import watching

        if text:
            watching.show_text(_console(), path)
        else:
            watching.serve_page(_console(), path, port)


def _console() -> Console:
    """Return where verbs print to; in a pipe nothing is folded, as nobody can widen the window."""
    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, width=_PIPE_WIDTH)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Draw progress on stderr, and nothing where stderr is not a terminal.

    Yields
    ------
    callable
        ``progress(stage, done, total)``, one bar for each stage: what `actlab.report` calls.
    """
    console = Console(stderr=True)
    tasks: dict[str, TaskID] = {}
    with Progress(console=console, disable=not console.is_terminal) as bars:

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield progress


def _stem(run: str) -> str:
    """Return the name of a run without its ending."""
    from actlab.store.urls import is_url, name_of

    return (Path(name_of(run)) if is_url(run) else Path(run).resolve()).stem
