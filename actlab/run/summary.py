"""What a run holds, how much of it, and what is missing: as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup
from rich.filesize import decimal

from actlab.schema import SPLITS

if TYPE_CHECKING:
    from actlab.run.opening import Run

__all__ = ["as_html", "as_text"]

_MOST_NAMED: Final = 5


def as_text(run: Run) -> str:
    """Say in some lines what a run holds, how much, and what is missing."""
    lines = [f"<actlab.Run {run.path}>"]
    try:
        lines.append(_head(run))
        for split in run.splits:
            n_rows, epochs, n_values, kept = _split(run, split)
            spoken = f"epochs {epochs}" if " to " in epochs else f"epoch {epochs}"
            lines.append(f"{split}: {_many(n_rows, 'row')}, {spoken}, {_many(n_values, 'value')}, {kept}")
        lines += [*_origin(run), f"missing: {'; '.join(_missing(run)) or 'nothing'}"]
    except OSError as error:  # a run that was moved or damaged since still says so, and which it is
        lines.append(str(error))
    return "\n  ".join(lines)


def as_html(run: Run) -> str:
    """Say the same for a notebook: a table of the splits, and folded up that of the layers.

    Colours are those of the page around it; names are escaped.
    """
    parts = [Markup("<strong>actlab.Run</strong> <code>{}</code>").format(run.path)]
    try:
        splits = []
        for split in run.splits:
            n_rows, epochs, n_values, kept = _split(run, split)
            cells = {"rows": f"{n_rows:,}", "epochs": epochs, "values": f"{n_values:,}", "kept": kept}
            splits.append({"split": split, **cells})
        parts += [Markup("<div>{}</div>").format(line) for line in (_head(run), *_origin(run))]
        parts += [_table(splits)] if splits else []
        parts.append(
            Markup("<div><strong>missing:</strong> {}</div>").format("; ".join(_missing(run)) or "nothing")
        )
        layers = [
            {"layer": str(name), **_layer(layer)} for name, layer in run.layers.to_dict("index").items()
        ]
        if layers:
            folded = Markup("<details><summary>{}</summary>{}</details>")
            parts.append(folded.format(_many(len(layers), "layer"), _table(layers)))
    except OSError as error:
        parts.append(Markup("<div>{}</div>").format(str(error)))
    return str(Markup("<div>{}</div>").format(Markup("\n").join(parts)))


def _head(run: Run) -> str:
    """Say what was recorded, and how much in all."""
    inferred = ", epochs inferred" if run.attributes.get("epochs") == "inferred" else ""
    model, values = run.attributes.get("model", "model"), int(run.layers["n"].sum())
    size = f"{_many(values, 'value')} in {decimal(run.nbytes)}"
    return f"{model}: {_many(len(run.names), 'layer')}, head {run.head!r}{inferred}, {size}"


def _split(run: Run, split: str) -> tuple[int, str, int, str]:
    """Return the rows of a split, its span of epochs, its values, and what else was kept."""
    epochs = run.epochs(split)
    span = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    return run[split].sizes["step"], span, int(run.n_values(split).sum()), run.kept(split)


def _origin(run: Run) -> list[str]:
    """Say of which ranks and attempts the run is made."""
    lines = []
    if merged := (run.attributes.get("ranks") or {}).get("merged"):
        lines.append(f"merged from {_many(len(merged), 'rank')}")
    if len(attempts := run.attributes.get("attempts", [])) > 1:
        replaced = "without" if run.is_live else "with"
        lines.append(f"{len(attempts)} attempts, {replaced} the rows that a later one has replaced")
    return lines


def _missing(run: Run) -> list[str]:
    """Say what a complete run would have, too."""
    missing = [f"split {split!r}" for split in SPLITS if split not in run.splits]
    table = run.layers
    if never := table.index[table["never_called"]].tolist():
        missing.append(f"layers never called ({_some(map(repr, never))})")
    if skipped := table.index[table["skipped"] != ""].tolist():
        missing.append(f"layers not counted ({_some(map(repr, skipped))})")
    for split, gaps in run.gaps.items():
        lost = [str(first) if first == last else f"{first} to {last}" for first, last in gaps]
        missing.append(f"steps {_some(lost)} of {split!r}")
    return missing if run.attributes.get("closed") else [*missing, "the end (the run is not closed)"]


def _layer(layer: Mapping[Any, Any]) -> dict[str, str]:
    """Say what is known of a layer."""
    calls = "never called" if layer["never_called"] else str(layer["calls"])
    return {
        "kind": layer["kind"],
        "shape": " x ".join(map(str, layer["shape"])),
        "calls": f"not counted: {layer['skipped']}" if layer["skipped"] else calls,
        "values": f"{layer['n']:,}",
    }


def _table(rows: Sequence[Mapping[str, str]]) -> Markup:
    """Draw rows {column: text} as a table."""

    def line(cell: Markup, texts: Iterable[str]) -> Markup:
        return Markup("<tr>{}</tr>").format(Markup("").join(cell.format(text) for text in texts))

    head = line(Markup('<th style="text-align:left;padding-right:1em">{}</th>'), rows[0])
    cell = Markup('<td style="text-align:left;padding-right:1em">{}</td>')
    body = [line(cell, row.values()) for row in rows]
    return Markup("<table><thead>{}</thead><tbody>{}</tbody></table>").format(head, Markup("").join(body))


def _some(texts: Iterable[str]) -> str:
    """Name the first few, and how many more there are."""
    known = list(texts)
    more = len(known) - _MOST_NAMED
    return ", ".join(known[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _many(count: int, what: str) -> str:
    """Write a count and what it counts."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
