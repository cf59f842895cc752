"""The command line: `actlab info` and `actlab report`, and what looks after runs.

The verbs import what they need when they run, so that `actlab --help` answers at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress, TaskID
from rich.table import Table

from actlab import __version__
from actlab.errors import ActlabError, StoreError

if TYPE_CHECKING:
    from actlab.run import Run

__all__ = ["app", "main", "progress_bars"]

_BAD_INPUT = 2
_MOST_EPOCHS = 100_000
_PIPE_WIDTH = 200

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See what happens inside a neural network while it trains.",
)

# Text, as a run may be a URL: a Path would drop a slash of it.
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="A recorded run, such as runs/mnist.zarr.")]
NewPath = Annotated[str, typer.Option("--output", "-o", help="What to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run or archive that is there.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after `actlab`; else those of the process.

    Returns
    -------
    int
        The exit code: 0 fine, 2 bad input (said in one line on stderr), 130 interrupted.
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
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:  # nothing is lost where nobody can widen the window
        console = Console(markup=False, highlight=False, width=_PIPE_WIDTH)
    _show_facts(console, run)
    console.print()
    _show_splits(console, run)
    console.print()
    _show_layers(console, run)
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
        made = write_compacted(path, output, overwrite=overwrite, progress=progress)
    typer.echo(f"Wrote {made}")


@app.command()
def pack(path: RunPath, output: NewPath, overwrite: Overwrite = False) -> None:
    """Put a run into one archive, to mail or to attach; every verb opens it like a run."""
    from actlab.store.packing import pack as write_archive

    with progress_bars() as progress:
        made = write_archive(path, output, overwrite=overwrite, progress=progress)
    typer.echo(f"Wrote {made}")


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
        made = write_branch(path, output, step=step, overwrite=overwrite, progress=progress)
    typer.echo(f"Wrote {made}")


@app.command()
def report(
    path: RunPath,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe in TOML; the options below go before it.")
    ] = None,
    h_min: Annotated[float | None, typer.Option(help="Lower end of the histograms.")] = None,
    h_max: Annotated[float | None, typer.Option(help="Upper end of the histograms.")] = None,
    n_bins: Annotated[int | None, typer.Option(help="Number of bins.")] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Patterns of layer names, such as 'conv*,!conv1'; may be repeated."),
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(help="Epochs to show, such as 0-3,5; -1 is untrained.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page to write; else reports/NAME.html.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing page.")] = False,
) -> None:
    """Draw a run as one HTML page, with the recipe that made it beside it."""
    labels = _parse_epochs(epochs)
    patterns = _parse_patterns(layers)

    from actlab.pages.build import report as write_page

    with progress_bars() as progress:
        page = write_page(
            path,
            output if output is not None else Path("reports") / f"{_stem(path)}.html",
            recipe=recipe,
            h_min=h_min,
            h_max=h_max,
            n_bins=n_bins,
            layers=patterns,
            epochs=labels,
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(f"Wrote {page}")


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


def _parse_patterns(layers: Sequence[str] | None) -> list[str] | None:
    """Split comma separated patterns."""
    if not layers:
        return None
    patterns = [part.strip() for text in layers for part in text.split(",")]
    return [pattern for pattern in patterns if pattern]


def _parse_epochs(text: str | None) -> list[int] | None:
    """Read epoch labels such as ``0-3,5``; -1 is the evaluation before any training."""
    if text is None:
        return None
    labels: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?", part)
        if found is None:
            raise typer.BadParameter(f"{text!r} is not a list of epochs such as 0-3,5", param_hint="--epochs")
        first = int(found[1])
        last = first if found[2] is None else int(found[2])
        if not first <= last < first + _MOST_EPOCHS:
            raise typer.BadParameter(f"{part.strip()!r} is empty or too long a range", param_hint="--epochs")
        labels.update(range(first, last + 1))
    return sorted(labels)


def _show_facts(console: Console, run: Run) -> None:
    """Print what the run is, one fact a line."""
    known: Mapping[str, Any] = run.attributes
    axis = run.axis
    still_open = "no: still recording, or the training was cut off"
    facts = {
        "run": run.path,
        "model": known.get("model"),
        "created": known.get("created"),
        "versions": ", ".join(f"{name} {number}" for name, number in known.get("versions", {}).items()),
        "axis": f"2 x {axis.n_side:,} buckets from 2^{axis.min_exponent} to 2^{axis.max_exponent + 1}",
        "head": run.head,
        "epochs": known.get("epochs"),
        "closed": "yes" if known.get("closed") else still_open,
        "size": decimal(run.nbytes) + (", compacted" if known.get("compacted") else ""),
    }
    if len(attempts := known.get("attempts", [])) > 1:
        facts["attempts"] = f"{len(attempts)}, begun at train_step {', '.join(map(str, attempts))}"
    if parent := known.get("parent"):
        facts["parent"] = f"{parent.get('path')}, branched off at train_step {parent.get('train_step')}"
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(name, _plain(value) if value else "-")
    console.print(table)


def _show_splits(console: Console, run: Run) -> None:
    """Print one line a split: how much was recorded, and what was dropped."""
    table = _table("split", "rows", "epochs", "gaps", right=("rows",))
    for split in run.splits:
        dropped = ", ".join(_range(first, last) for first, last in run.gaps.get(split, []))
        table.add_row(
            split,
            f"{run[split].sizes['step']:,}",
            _ranges(run.epochs(split)),
            f"steps {dropped}" if dropped else "none",
        )
    console.print(table)


def _show_layers(console: Console, run: Run) -> None:
    """Print one line a layer, with the moments of the last row of the first split."""
    layers = run.layers
    numbers = ("calls", "values", "last mean", "last std")
    table = _table("layer", "kind", "shape", *numbers, right=numbers)
    last = run[run.splits[0]][["mean", "std"]].isel(step=-1).load() if run.splits else None
    for name, layer in layers.iterrows():
        moments = [] if last is None else [float(last[key].sel(layer=name)) for key in ("mean", "std")]
        table.add_row(
            _plain(name),
            _plain(layer["kind"]),
            " x ".join(map(str, layer["shape"])) or "-",
            _calls(layer.to_dict()),
            f"{layer['n']:,}",
            *(f"{value:.4g}" for value in moments),
        )
    console.print(table)


def _calls(layer: Mapping[Any, Any]) -> str:
    """Say how often a layer was called, or why nothing of it was counted."""
    if layer["skipped"]:
        return f"not counted: {layer['skipped']}"
    return "never called" if layer["never_called"] else str(layer["calls"])


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Make a table without lines, so that it also reads well in a file."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _plain(value: object) -> str:
    """Keep control characters of a name out of the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value))


def _ranges(labels: Sequence[int]) -> str:
    """Write ascending labels as ranges: ``-1 to 3, 5``."""
    runs: list[list[int]] = []
    for label in labels:
        if runs and label == runs[-1][-1] + 1:
            runs[-1].append(label)
        else:
            runs.append([label])
    return ", ".join(_range(run[0], run[-1]) for run in runs)


def _range(first: int, last: int) -> str:
    """Write an inclusive range."""
    return f"{first}" if first == last else f"{first} to {last}"
