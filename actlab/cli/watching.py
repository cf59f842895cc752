"""What `actlab watch` does: serves the page, or draws in the terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from actlab.charts.limits import epoch_words
from actlab.charts.look import DOT
from actlab.charts.twin_peaks_chart import LABELS, shown_splits
from actlab.cli.tables import plain
from actlab.findings.finding import ICONS, Finding, Verdict
from actlab.findings.following import News
from actlab.live.growing import Growing
from actlab.live.pictures import Pictures, metrics, state
from actlab.live.watched import Watched
from actlab.steps.moments import pool

__all__ = ["draw", "serve_page", "show_text"]

_SHARE: Final = 0.1
"""Of one processor core at most this share is spent looking: the machine is the training's."""
_NICE: Final = 5
_STYLES: Final = {"train": "blue", "valid": "yellow", "test": "green"}
_LEVELS: Final = {"error": "bold red", "warning": "bold yellow", "advice": "bold blue", "healthy": "green"}
_BLOCKS: Final = (" \N{LOWER ONE EIGHTH BLOCK}\N{LOWER ONE QUARTER BLOCK}\N{LOWER THREE EIGHTHS BLOCK}"
                  "\N{LOWER HALF BLOCK}\N{LOWER FIVE EIGHTHS BLOCK}\N{LOWER THREE QUARTERS BLOCK}"
                  "\N{LOWER SEVEN EIGHTHS BLOCK}\N{FULL BLOCK}")  # fmt: skip
_ASCII: Final = " ..::||##"
_TALL: Final = 4  # lines of a curve
_WIDE: Final = 68  # columns of a terminal with room for sparklines
_SPARK: Final = 20  # columns of a sparkline
_MOST_FINDINGS: Final = 5


def _stand_back() -> None:
    """Let the training go first."""
    if hasattr(os, "nice"):
        os.nice(_NICE)


def serve_page(console: Console, path: str, port: int) -> None:
    """Serve the page of a run until Ctrl-C.

    Raises
    ------
    ActlabError
        If something else lies there, or the port is in use.
    """
    from actlab.live.server import serve

    watched = Watched(path)
    if watched.growing.run is None:
        console.print(f"{plain(path)} is not there yet: waiting for it", soft_wrap=True)
    _stand_back()
    serve(
        watched, port, lambda address: console.print(f"Watching {plain(path)} at {address}", soft_wrap=True)
    )


def show_text(console: Console, path: str) -> None:
    """Draw a run in the terminal until it is closed; as plain lines where that is none.

    Raises
    ------
    ActlabError
        If something else lies there.
    """
    watched = Watched(path)
    _stand_back()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without such letters
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            for _ in _looks(watched):
                live.update(draw(console, watched), refresh=True)
    else:
        _tell(console, watched)


def _looks(watched: Watched) -> Iterator[bool]:
    """Look until the run is closed and judged; come back when something is new, and each second."""
    said, verdict = 0.0, None
    try:
        while not watched.is_over:
            spent, is_new = time.thread_time(), False
            for is_new in watched.look():
                if not is_new:
                    spent = time.thread_time()  # what was recorded before counts for nothing
                if time.perf_counter() - said > 1:
                    said = time.perf_counter()
                    yield False
            if is_new or watched.verdict is not verdict or time.perf_counter() - said > 1:
                said, verdict = time.perf_counter(), watched.verdict
                yield is_new
            time.sleep(max(watched.growing.every, (time.thread_time() - spent) / _SHARE))
        yield True
    finally:
        watched.stop()


def _tell(console: Console, watched: Watched) -> None:
    """Print a line for each epoch that ends, and for each finding as it appears."""
    growing, news, told, said, known = watched.growing, News(), set[int](), "", watched.growing.run_id
    for _ in _looks(watched):
        if known != growing.run_id:
            known, news, told = growing.run_id, News(), set()
        notes = DOT.join(watched.pictures.notes())
        if growing.left:
            continue
        if notes not in ("", said):
            console.print(plain(notes), soft_wrap=True)
        said = notes
        for label in growing.epochs if growing.is_closed else growing.epochs[:-1]:
            if label not in told:
                told.add(label)
                console.print(plain(_epoch_line(growing, watched.pictures, label)), soft_wrap=True)
        if watched.verdict is not None:
            last = {split: int(part.place[-1, 0]) for split, part in growing.parts.items() if part.n_rows}
            if {each.split for group in watched.verdict for each in group.every} <= last.keys():
                for finding in news.of(watched.verdict, last):
                    console.print(plain(str(finding)), soft_wrap=True)
        console.file.flush()
    console.print(f"{plain(growing.path)}: {state(growing)}", soft_wrap=True)


def _epoch_line(growing: Growing, pictures: Pictures, label: int) -> str:
    """Say what an epoch brought."""
    said = []
    for split, part in growing.parts.items():
        rows = part.rows(label)
        if rows.size:
            said.append(f"{split} {rows.size:,} batches")
            for name, values in part.logs.items():
                known = values[rows][np.isfinite(values[rows])]
                said += [f"{name} {known.mean():.4g}"] if known.size else []
    one = pictures.peaks(label)
    peaks = "" if one is None else f"; {pictures.peaks_said(one).partition(': ')[2]}"
    return f"{epoch_words(label)}: {', '.join(said)}{peaks}"


def draw(console: Console, watched: Watched) -> RenderableType:
    """Return the picture of a run, as wide and as high as the terminal.

    Parameters
    ----------
    console : rich.console.Console
        The terminal.
    watched : Watched
        The run.
    """
    growing, pictures = watched.growing, watched.pictures
    parts: list[RenderableType] = [_head(growing), *_notes(pictures), *_findings(watched.verdict)]
    if not growing.left:
        parts += _peaks(console, pictures)
    used = sum(len(console.render_lines(part, pad=False)) for part in parts)
    if growing.train is not None and not growing.left:
        parts += _layers(console, growing, max(console.height - used - 4, 3))
    return Group(*parts)


def _head(growing: Growing) -> Text:
    """Say what runs, how far it is, and what was logged."""
    said = [state(growing), *(f"{split} {part.n_rows:,} batches" for split, part in growing.parts.items())]
    if growing.epochs:
        said.append(epoch_words(growing.epochs[-1]))
    for name, by_split in metrics(growing).items():
        said.append(f"{name} {', '.join(f'{split} {value:.4g}' for split, value in by_split.items())}")
    return Text.assemble((plain(growing.name), "bold"), DOT, plain(DOT.join(said)))


def _notes(pictures: Pictures) -> list[Text]:
    """Say what is wrong with the picture."""
    return [Text(plain(note), "yellow") for note in pictures.notes()]


def _findings(verdict: Verdict | None) -> list[Text]:
    """Name what was found, the worst first."""
    if verdict is None:
        return []
    groups = [group for group in verdict if group.worst != "healthy"]
    lines = [_finding(group) for group in groups[:_MOST_FINDINGS]]
    more = len(groups) - _MOST_FINDINGS
    lines += [Text(f"  and {more} more: actlab check")] if more > 0 else []
    fine = [Text(f"{ICONS['healthy']} {verdict.summary}", "green")]
    return lines or (fine if verdict.is_healthy else [Text(verdict.summary)])


def _finding(group: Finding) -> Text:
    """Say a finding in a line."""
    where = plain(f" {group.place}: {group.evidence}")
    line = Text.assemble((f"{ICONS[group.worst]} {group.name}", _LEVELS[group.worst]), where)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _peaks(console: Console, pictures: Pictures) -> list[Text]:
    """Draw the curves of the latest epoch as blocks, those of YES in green."""
    one = pictures.peaks()
    if one is None:
        return []
    width = max(min(console.width - 2, 120), 20)
    lines = [Text(f"\nTwin Peaks, {pictures.peaks_said(one)}", no_wrap=True, overflow="ellipsis")]
    for split in shown_splits(one):
        lines.append(Text(LABELS[split], _STYLES[split]))
        lines += _curve(one.sel(split=split), width, _STYLES[split], _levels(console))
    low, high = f"{one.attrs['h_min']:g}", f"{one.attrs['h_max']:g}"
    middle = f"{(one.attrs['h_min'] + one.attrs['h_max']) / 2:g}".center(width - len(low) - len(high))
    return [*lines, Text(low + middle + high, "dim")]


def _curve(one: xr.Dataset, width: int, style: str, levels: str) -> list[Text]:
    """Draw a curve as lines of blocks."""
    curve, yes = (_resampled(one[name].values, width) for name in ("curves", "yes"))
    heights = np.round(curve / (curve.max() or 1) * _TALL * 8).astype(int)
    heights[(curve > 0) & (heights == 0)] = 1
    lines = []
    for row in reversed(range(_TALL)):
        line = Text(no_wrap=True)
        for is_yes, places in groupby(range(width), lambda place: bool(yes[place] > curve[place] / 2)):
            blocks = "".join(levels[min(max(heights[place] - 8 * row, 0), 8)] for place in places)
            line.append(blocks, "green" if is_yes else style)
        lines.append(line)
    return lines


def _resampled(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return values [bin] as so many columns, each the mean of its part."""
    edges = np.linspace(0, values.size, width + 1)
    total = np.interp(edges, np.arange(values.size + 1), np.append(0, np.cumsum(np.nan_to_num(values))))
    means: NDArray[np.float64] = np.diff(total) / np.diff(edges)
    return means


def _layers(console: Console, growing: Growing, most: int) -> list[RenderableType]:
    """Return a table of the layers in the last epoch, as many as there is room for."""
    part = growing.train
    assert part is not None
    rows = part.rows(int(part.epoch[-1]))
    n, nonfinite, mean, std = (part.of(name)[rows] for name in ("n", "nonfinite", "mean", "std"))
    pooled = pool(np.stack([n - nonfinite, mean, std], axis=-1), np.zeros(1, np.intp))[0]
    with np.errstate(invalid="ignore"):
        zeros = part.of("zeros")[rows].sum(axis=0) / n.sum(axis=0)
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    is_wide = console.width >= _WIDE
    room = console.width - (52 if is_wide else 30)
    table.add_column("layer", no_wrap=True, overflow="ellipsis", max_width=max(room, 8))
    for name in ("mean", "std", "zeros"):
        table.add_column(name, justify="right", no_wrap=True)
    if is_wide:
        table.add_column("std, so far", no_wrap=True)
    for place, name in enumerate(growing.names[:most]):
        spark = [_spark(part.of("std")[:, place], _levels(console))] if is_wide else []
        numbers = [f"{value:.4g}" for value in pooled[place, 1:]]
        table.add_row(plain(name), *numbers, f"{zeros[place]:.1%}", *spark)
    more = len(growing.names) - most
    return ["", table, *([f"and {more} more layers"] if more > 0 else [])]


def _spark(values: NDArray[np.float64], levels: str) -> str:
    """Draw numbers [row] as a line of blocks, from the least to the largest."""
    parts = np.array_split(values, min(_SPARK, values.size))
    means = np.array(
        [part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts]
    )
    known = means[np.isfinite(means)]
    if not known.size:
        return ""
    low, size = known.min(), np.ptp(known)
    steps = np.nan_to_num((means - low) / size if size > 0 else means * 0 + 0.5) * 7
    return "".join(
        levels[1 + round(step)] if ok else " " for step, ok in zip(steps, np.isfinite(means), strict=True)
    )


def _levels(console: Console) -> str:
    """Return blocks of nine heights, in ASCII where a terminal knows nothing else."""
    return _ASCII if console.options.ascii_only else _BLOCKS
