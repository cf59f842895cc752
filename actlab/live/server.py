"""The page of a run that grows: a Bokeh server for this machine alone."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from bokeh.core.properties import String
from bokeh.document import Document
from bokeh.model import DataModel
from bokeh.server.server import Server
from bokeh.settings import settings

from actlab.charts import wall_chart
from actlab.charts.limits import epoch_words, percent
from actlab.charts.look import DOT
from actlab.charts.twin_peaks_chart import reference_split
from actlab.errors import ActlabError
from actlab.findings.finding import ICONS, LEVELS, Finding, Verdict
from actlab.live.figures import LayerFigure, PeaksFigure
from actlab.live.growing import Growing
from actlab.live.page import template
from actlab.live.pictures import Pictures
from actlab.live.watched import Watched
from actlab.pages.formats import number, shape
from actlab.schema import LayerInfo

__all__ = ["serve"]

_SHARE: Final = 0.2
"""Of one processor core at most this share is spent looking and drawing: the machine is the training's."""
_ADDRESS: Final = "127.0.0.1"
_SPOKEN: Final = 1.0  # seconds after which the words are said again: silence grows
_CHARTS: Final = frozenset({"wall", "layer", "peaks"})


class Screen(DataModel):
    """What the page's script shows as text, as JSON, and what its reader chose."""

    facts: Any = String("[]")
    notes: Any = String("[]")
    findings: Any = String("null")
    layers: Any = String("[]")
    tiles: Any = String("null")
    about: Any = String("")
    epochs: Any = String("[]")
    latest: Any = String("")
    peaks: Any = String("")
    reference: Any = String("train")

    layer: Any = String("")
    epoch: Any = String("last")
    sight: Any = String(" ".join(sorted(_CHARTS)))


class _Board:
    """A run and all pages that show it."""

    def __init__(self, watched: Watched) -> None:
        self.watched, self.growing, self.pictures = watched, watched.growing, watched.pictures
        self.views: set[_View] = set()
        self._made: dict[Any, Any] = {}  # since the last news
        self._spoken = 0.0  # when

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Make something once for all pages."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    async def follow(self) -> None:
        """Look, and show what is new, again and again."""
        verdict = None
        while True:
            spent, is_new = time.thread_time(), False
            for is_new in self.watched.look():
                await asyncio.sleep(0)  # pages are answered meanwhile
                if not is_new:
                    spent = time.thread_time()  # what was recorded before counts for nothing
                    await self._speak()
            if is_new:
                self._made.clear()
            if is_new or self.watched.verdict is not verdict:
                self._spoken, verdict = time.perf_counter(), self.watched.verdict
                await self._show(_CHARTS if is_new else frozenset())
            await self._speak()
            await asyncio.sleep(max(self.growing.every, (time.thread_time() - spent) / _SHARE))

    async def _speak(self) -> None:
        """Say the words again from time to time: less is left to read, silence grows."""
        now = time.perf_counter()
        if now - self._spoken > _SPOKEN:
            self._spoken = now
            await self._show(frozenset())

    async def _show(self, changed: frozenset[str]) -> None:
        """Show on each page what has changed."""
        for view in list(self.views):
            view.due |= changed
            if (context := view.document.session_context) is not None:
                await context.with_locked_document(view.draw)


class _View:
    """One page."""

    def __init__(self, board: _Board, document: Document) -> None:
        self._board, self.document, self.due = board, document, set(_CHARTS)
        self._layer, self._peaks, self._screen = LayerFigure(), PeaksFigure(), Screen(name="screen")
        self._layer.frame.tags = [self._screen]
        document.add_root(self._layer.frame)
        document.add_root(self._peaks.frame)
        document.title = f"{board.growing.name} \N{MIDDLE DOT} actlab"
        document.template = template("live.html.j2")
        document.template_variables["run"] = board.growing.name
        self._screen.on_change("layer", self._choose)
        self._screen.on_change("epoch", self._choose)
        self._screen.on_change("sight", self._choose)
        document.on_session_destroyed(lambda _: board.views.discard(self))
        self._fill()

    def _choose(self, name: str, _old: str, _new: str) -> None:
        """Draw a chart for which something else was chosen, and what came into sight."""
        self.due |= {"layer": {"layer"}, "epoch": {"peaks"}}.get(name, set())
        self._fill()

    async def draw(self, _: Document) -> None:
        """Show what has changed."""
        self._fill()

    def _fill(self) -> None:
        """Say the words, and draw what has changed and is in sight."""
        board, screen, sight = self._board, self._screen, set(self._screen.sight.split())
        screen.facts, screen.notes = json.dumps(board.pictures.facts()), json.dumps(board.pictures.notes())
        screen.layers = board.once("layers", lambda: json.dumps(_layers(board.growing)))
        screen.latest = str(board.pictures.latest) if board.growing.epochs else ""
        screen.epochs = json.dumps([[label, epoch_words(label)] for label in board.growing.epochs])
        verdict = board.watched.verdict
        screen.findings = json.dumps(None if verdict is None else _findings(verdict))
        if board.growing.left:
            return  # what is read in part is no picture of anything
        drawn = {"wall": self._fill_wall, "layer": self._fill_layer, "peaks": self._fill_peaks}
        for name in sorted(self.due & sight, reverse=True):
            drawn[name]()
            self.due.discard(name)

    def _fill_wall(self) -> None:
        """Paint the tiles."""
        self._screen.tiles = self._board.once("tiles", lambda: json.dumps(_tiles(self._board.pictures)))

    def _fill_layer(self) -> None:
        """Draw the chosen layer: the head, until another one is chosen."""
        run, screen, pictures = self._board.growing.run, self._screen, self._board.pictures
        if run is None or not run.names:
            return
        if screen.layer not in run.names:
            screen.layer = run.names[-1] if run.head is None else run.head
        name = screen.layer
        data = self._board.once(("layer", name), lambda: pictures.layer(name))
        if data is not None:
            self._layer.fill(data)
            screen.about = DOT.join([_info(self._board.growing.infos[name]), *_about(data.attrs)])

    def _fill_peaks(self) -> None:
        """Draw the Twin Peaks of the chosen epoch: the latest, until another one is chosen."""
        run, screen, pictures = self._board.growing.run, self._screen, self._board.pictures
        if run is None:
            return
        epoch = None if screen.epoch == "last" else int(screen.epoch)
        one = self._board.once(("peaks", epoch), lambda: pictures.peaks(epoch))
        if one is not None:
            self._peaks.fill(one)
            screen.reference, screen.peaks = reference_split(one), pictures.peaks_said(one)
        elif run.head is None and run.splits:
            screen.peaks = "The run has no head: record it with head=NAME to see its Twin Peaks."


def _layers(growing: Growing) -> list[dict[str, Any]]:
    """Return what the page knows of the layers."""
    parts = [part.of("n").sum(axis=0) for part in growing.parts.values()]
    called = np.sum(parts, axis=0) > 0 if parts else np.zeros(len(growing.names), np.bool_)
    return [
        {"name": info.name, "kind": info.kind or "", "never": not was}
        for info, was in zip(growing.infos.values(), called, strict=True)
    ]


def _info(info: LayerInfo) -> str:
    """Say kind and output shape of a layer."""
    return ", ".join(part for part in (info.kind or "layer", shape(info.shape or ())) if part)


def _about(known: Mapping[str, Any]) -> list[str]:
    """Say what the picture of a layer is, and what it leaves out."""
    k, nonfinite = known["batches_per_column"], known["nonfinite"]
    said = [
        f"{known['n']:,.0f} values a batch",
        "one column = one batch" if k == 1 else f"one column = mean of {k:,} batches",
        f"{percent(known['outside'])} out of range",
    ]
    if nonfinite:
        said.append(f"{percent(nonfinite)} NaN or infinite")
    return [*said, f"a line every {known['every']} epochs"] if known["every"] > 1 else said


def _tiles(pictures: Pictures) -> dict[str, Any] | None:
    """Return the tiles as data URIs, and what is said of their scale."""
    wall = pictures.wall()
    if wall is None:
        return None
    low, high = wall.attrs["h_min"], wall.attrs["h_max"]
    said = [
        "one scale for all tiles",
        f"values from {number(low)} to {number(high)}",
        "batches from left to right",
    ]
    painted = wall_chart.tiles(wall).values()
    return {
        "said": DOT.join(said),
        "src": [f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in painted],
    }


def _findings(verdict: Verdict) -> dict[str, Any]:
    """Return what the page says of a verdict."""
    groups = [group for group in verdict if group.worst != "healthy"]
    flags: dict[str, str] = {}
    for finding in sorted((each for group in groups for each in group.every), key=_rank):
        for layer in finding.layers:
            flags.setdefault(layer, finding.level)
    return {"summary": verdict.summary, "found": [_finding(group) for group in groups], "flags": flags}


def _rank(finding: Finding) -> int:
    """Order findings, the worst first."""
    return LEVELS.index(finding.level)


def _finding(group: Finding) -> dict[str, Any]:
    """Return what the page says of a group of findings."""
    return {
        "key": f"{group.rule} {group.split} {group.layers[0]}",
        "level": group.worst,
        "icon": ICONS[group.worst],
        "name": group.name,
        "layer": group.layers[0],
        "more": len(group.every_layer) - 1,
        "when": group.where.rpartition(", ")[2],
        "seen": group.evidence,
        "why": group.why,
        "remedy": group.remedy,
    }


async def _run(watched: Watched, port: int, tell: Callable[[str], None]) -> None:
    """Serve until the task is cancelled."""
    board = _Board(watched)

    def show(document: Document) -> None:
        board.views.add(_View(board, document))

    hosts = [f"{name}:{port}" for name in (_ADDRESS, "localhost")]
    server = Server(show, address=_ADDRESS, port=port, allow_websocket_origin=hosts)
    server.start()
    try:
        tell(f"http://{_ADDRESS}:{port}/")
        await board.follow()
    finally:
        # Pages that are still open are cut off, maybe amid a message.
        logging.getLogger("tornado.application").disabled = True
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        server.stop()
        watched.stop()


def _find_port(port: int) -> int:
    """Return a port that nobody listens on: this one, or any for 0."""
    with socket.socket() as probe:
        if os.name == "posix":  # one that was let go of a moment ago is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_ADDRESS, port))
            probe.listen()
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            said = f"port {port} {why}; name another one, or --port 0 for any that is free"
            raise ActlabError(said) from None
        return int(probe.getsockname()[1])


def serve(watched: Watched, port: int, tell: Callable[[str], None]) -> None:
    """Serve the page of a run on this machine until interrupted.

    Parameters
    ----------
    watched : Watched
        The run.
    port : int
        Where; 0 for any port that is free.
    tell : callable
        Is told the address once it answers.

    Raises
    ------
    ActlabError
        If the port is in use.
    KeyboardInterrupt
        On Ctrl-C.
    """
    settings.resources = "server"  # no request leaves the machine
    asyncio.run(_run(watched, _find_port(port), tell))
