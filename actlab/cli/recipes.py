"""The verbs `recipe list`, `recipe run`, `recipe draw` and `recipe new`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from actlab.experiments import Experiment

__all__ = ["app"]

app = typer.Typer(
    help="Whole experiments: train, record and draw them, or draw them anew.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A name of `recipe list`, or your own script.")]
RunPath = Annotated[
    Path | None, typer.Option("--run", help="Where it is recorded; else runs/NAME.zarr.", show_default=False)
]
Folder = Annotated[Path, typer.Option("--output", "-o", help="Where the pages go.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


@app.command("list")
def list_recipes() -> None:
    """Show the recipes that come with actlab."""
    from actlab.experiments import shipped

    experiments = shipped()
    lacking = [" ".join(experiment.lacking()) for experiment in experiments]
    more = ["still to install"] if any(lacking) else []
    table = Table(Column("recipe", no_wrap=True), "what it does", "pages", *more, box=None, pad_edge=False)
    for experiment, packages in zip(experiments, lacking, strict=True):
        pages = ", ".join(name or "report" for name in experiment.pages())
        table.add_row(experiment.name, experiment.summary, pages, *([packages] if more else []))
    Console(markup=False, highlight=False).print(table)


@app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_recipe(
    context: typer.Context,
    name: Name,
    run: RunPath = None,
    output: Folder = Path("reports"),
    overwrite: Overwrite = False,
) -> None:
    """Train and record, then draw the page. Other options go to the training, such as --epochs 2 --seed 1."""
    from actlab.experiments import find_experiment, train
    from actlab.pages.outputs import free_outputs
    from actlab.run import open_run

    experiment = find_experiment(name)
    experiment.pages()  # whatever is wrong with the page is said before the training, not after it
    free_outputs(experiment.page(output, ""), overwrite=overwrite)
    recorded = train(experiment, context.args, run=run, overwrite=overwrite)
    _draw(experiment, recorded, output, [""], overwrite=overwrite)
    for words, there in experiment.effects(open_run(recorded)):
        typer.echo(f"{'seen' if there else 'NOT SEEN'}: {words}")


@app.command("draw")
def draw_recipe(
    name: Name,
    variants: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VARIANT]...", help="Else all pages that are not there yet."),
    ] = None,
    run: RunPath = None,
    output: Folder = Path("reports"),
    overwrite: Overwrite = False,
) -> None:
    """Draw the page and its variants of a run that is there, without training."""
    from actlab.experiments import find_experiment

    experiment = find_experiment(name)
    if not variants:
        pages = {page: experiment.page(output, page) for page in experiment.pages()}
        variants = [page for page, path in pages.items() if overwrite or not path.exists()]
        for page, path in pages.items():
            if page not in variants:
                typer.echo(f"{path} is there already; --overwrite draws it again")
    _draw(experiment, run, output, variants, overwrite=overwrite)


@app.command("new")
def new_recipe(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="Your own training script.")],
) -> None:
    """Write a recipe and variants beside your own training script."""
    from actlab.experiments import scaffold

    experiment, written = scaffold(script)
    for path in written:
        typer.echo(f"Wrote {path}")
    run = experiment.run.as_posix()
    if experiment.recordings():
        again = "" if experiment.may_replace() else "\nTo train again, its recorder needs overwrite=True."
        typer.echo(f"\n{script} records already. Its run is looked for at {run}; --run names another.{again}")
    else:
        typer.echo(
            f"\nIn {script}, around the training:\n\n"
            f"    import actlab\n\n"
            f'    with actlab.record(model, "{run}", overwrite=True):\n'
            f"        ..."
        )
    typer.echo(f"\nThen: actlab recipe run {script}")


def _draw(
    experiment: Experiment, run: Path | None, folder: Path, pages: list[str], *, overwrite: bool
) -> None:
    """Draw pages, and name each."""
    from actlab.cli import progress_bars
    from actlab.experiments import draw

    with progress_bars() as progress:
        made = draw(experiment, run=run, folder=folder, pages=pages, overwrite=overwrite, progress=progress)
    for page in made:
        typer.echo(f"Wrote {page}")
