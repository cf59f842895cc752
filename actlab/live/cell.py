"""A run as one piece of HTML, for a cell of a notebook: no script, no style sheet, light or dark."""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np

from actlab.charts import wall_chart
from actlab.charts.limits import percent
from actlab.charts.look import DOT, FONT
from actlab.charts.palette import EPOCH, SETS, ZERO
from actlab.charts.raster import png
from actlab.charts.twin_peaks_chart import LABELS, shown_splits
from actlab.findings.finding import ICONS
from actlab.live.page import template
from actlab.live.pictures import Pictures
from actlab.live.watched import Watched
from actlab.pages.formats import number, polyline

__all__ = ["as_html"]

_WIDE: Final = 640
_HIGH: Final = 220
_COLORS: Final = {"error": "#c4332a", "warning": "#b07300", "advice": "#3d7fd0", "healthy": "#2c8a50"}
_MOST_FINDINGS: Final = 6


def as_html(watched: Watched, epoch: int | None) -> str:
    """Return what is seen of a run.

    Parameters
    ----------
    watched : Watched
        The run.
    epoch : int or None
        Of which epoch the Twin Peaks are, the latest for None.
    """
    growing, pictures = watched.growing, watched.pictures
    is_drawn = growing.train is not None and not growing.left
    return template("cell.html.j2").render(
        name=growing.name,
        facts=DOT.join(value if name == "state" else f"{name} {value}" for name, value in pictures.facts()),
        notes=pictures.notes(),
        findings=_findings(watched),
        tiles=_tiles(pictures) if is_drawn else [],
        layer=_layer(pictures) if is_drawn else None,
        peaks=None if growing.left else _peaks(pictures, epoch),
        wide=_WIDE,
        high=_HIGH,
        font=FONT.replace("'", ""),
        zero_color=ZERO,
    )


def _findings(watched: Watched) -> list[dict[str, str]]:
    """Name what was found, the worst first."""
    verdict = watched.verdict
    if verdict is None:
        return []
    groups = [group for group in verdict if group.worst != "healthy"][:_MOST_FINDINGS]
    if not groups:
        return [{"color": _COLORS["healthy"], "icon": ICONS["healthy"], "name": verdict.summary, "where": ""}]
    return [
        {
            "color": _COLORS[group.worst],
            "icon": ICONS[group.worst],
            "name": group.name,
            "where": group.place,
            "seen": group.evidence,
        }
        for group in groups
    ]


def _tiles(pictures: Pictures) -> list[dict[str, str]]:
    """Return all layers as tiles."""
    wall = pictures.wall()
    assert wall is not None
    return [{"name": name, "src": _uri(tile)} for name, tile in wall_chart.tiles(wall).items()]


def _layer(pictures: Pictures) -> dict[str, Any]:
    """Return the colorful dimension of the head, or of the last layer."""
    run = pictures.growing.run
    assert run is not None
    name = run.names[-1] if run.head is None else run.head
    data = pictures.layer(name)
    assert data is not None
    h_min, h_max, low, high = (data.attrs[key] for key in ("h_min", "h_max", "low", "high"))
    x = data["first_row"].values + data["n_rows"].values / 2
    scale = _WIDE / data.attrs["rows"]
    mean, std = data["mean"].values, data["std"].values
    lines = [
        (_shifted(points, x[0] * scale), dash)
        for values, dash in ((mean, ""), (mean + std, "6 4"), (mean - std, "6 4"))
        for points in polyline(
            np.clip(values, h_min, h_max).tolist(), h_min, h_max, (x[-1] - x[0]) * scale, _HIGH
        )
    ]
    return {
        "name": name,
        "said": f"{number(h_min)} to {number(h_max)}{DOT}{percent(data.attrs['outside'])} out of range",
        "src": _uri(png(data["counts"].values.T, low, high, 1.0)),
        # The last column may hold fewer rows, but is as wide as the others and cut off.
        "wide": data.sizes["column"] * data.attrs["batches_per_column"] * scale,
        "epochs": (data["epoch_row"].values * scale).tolist(),
        "epoch_color": EPOCH,
        "lines": lines,
    }


def _shifted(points: str, x: float) -> str:
    """Move the points of a polyline to the right."""
    pairs = (point.split(",") for point in points.split())
    return " ".join(f"{float(left) + x:.1f},{top}" for left, top in pairs)


def _peaks(pictures: Pictures, epoch: int | None) -> dict[str, Any] | None:
    """Return the Twin Peaks of an epoch."""
    one = pictures.peaks(epoch)
    if one is None:
        return None
    splits, top = shown_splits(one), 1.12 * float(np.nan_to_num(one["curves"].values).max()) or 1.0
    return {
        "said": pictures.peaks_said(one),
        "lines": [
            (points, SETS[split], dash)
            for split in splits
            for kind, dash in (("curves", ""), ("yes", "2 3"), ("no", "2 3"))
            for points in polyline(one[kind].sel(split=split).values.tolist(), 0, top, _WIDE, _HIGH)
        ],
        "curves": [(LABELS[split], SETS[split]) for split in splits],
        "low": number(one.attrs["h_min"]),
        "high": number(one.attrs["h_max"]),
    }


def _uri(data: bytes) -> str:
    """Return a PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
