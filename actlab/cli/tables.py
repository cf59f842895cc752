"""What `actlab info` prints: tables of a run, its splits and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

if TYPE_CHECKING:
    from actlab.run import Run

__all__ = ["plain", "show_facts", "show_layers", "show_splits"]


def show_facts(console: Console, run: Run) -> None:
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
        table.add_row(name, plain(value) if value else "-")
    console.print(table)


def show_splits(console: Console, run: Run) -> None:
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


def show_layers(console: Console, run: Run) -> None:
    """Print one line a layer, with the moments of the last row of the first split."""
    layers = run.layers
    numbers = ("calls", "values", "last mean", "last std")
    table = _table("layer", "kind", "shape", *numbers, right=numbers)
    last = run[run.splits[0]][["mean", "std"]].isel(step=-1).load() if run.splits else None
    for name, layer in layers.iterrows():
        moments = [] if last is None else [float(last[key].sel(layer=name)) for key in ("mean", "std")]
        table.add_row(
            plain(name),
            plain(layer["kind"]),
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


def plain(value: object) -> str:
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
