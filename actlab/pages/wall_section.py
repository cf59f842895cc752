"""The section of the wall: every layer as a tile, with what was found in it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pandas as pd
import xarray as xr

from actlab.charts import wall_chart
from actlab.charts.palette import translucent_palette
from actlab.findings.finding import ICONS, LEVELS, Finding
from actlab.pages.formats import number, percent, rare, spans
from actlab.pages.html import Section
from actlab.pages.places import rows_of
from actlab.pages.sections import Material, data_uri

__all__ = ["wall"]

_BEYOND: Final = 0.01  # a larger share out of the range is named
_FEW: Final = 24  # so many tiles have room to be larger


class _Flag(NamedTuple):
    """What was found in one layer."""

    finding: Finding
    row: int | None  # of the chart, where it begins


def wall(material: Material) -> Section:
    """Every layer as a tile, in the order of the model."""
    axis, layers = material.axis, material.layers
    pictures, flags = wall_chart.tiles(material.wall), _flags(material)
    tiles = [
        _tile(material, index, layer, flags.get(str(layer.name), []))
        | {"src": data_uri(pictures[str(layer.name)])}
        for index, (_, layer) in enumerate(layers.iterrows())
    ]
    inside = axis.h_min < 0 < axis.h_max
    ends = {name: float(material.wall.attrs[name]) for name in ("low", "high", "one")}
    kinds = layers["kind"].value_counts(sort=False)
    context = {
        "tiles": tiles,
        "kinds": list(kinds.index) if len(kinds) > 1 else [],
        "levels": {
            level: ICONS[level]
            for level in LEVELS
            if any(tick["level"] == level for tile in tiles for tick in tile["ticks"])
            or any(tile["level"] == level for tile in tiles)
        },
        "zero": f"{axis.h_max / (axis.h_max - axis.h_min):.2%}" if inside else None,
        "cols": material.wall_options.cols,
        "info": material.wall_options.show_layer_info,
        "width": 112 if len(tiles) > _FEW else 176,
        "batches": spans(material.steps.tolist(), material.stride),
        "epochs": material.selected,
        "beyond": _beyond(material),
        "range": (number(axis.h_min), number(axis.h_max)),
        "gradient": ", ".join(translucent_palette(**ends, size=18)),
        "scale": {name: rare(share) for name, share in ends.items()},
    }
    return Section("layers", "Layers", "wall.html.j2", context)


def _beyond(material: Material) -> list[tuple[str, str]]:
    """Name the layers of which the range leaves out a part, with its share, the largest first."""
    outside = material.columns["total_out_of_range"].to_series()
    named = outside[outside > _BEYOND].sort_values(ascending=False, kind="stable")
    return [(str(name), percent(float(share))) for name, share in named.items()]


def _flags(material: Material) -> dict[str, list[_Flag]]:
    """Return what was found in each layer, the worst first; signs of health are no flags."""
    found: dict[str, list[_Flag]] = {}
    every = [each for group in material.verdict for each in group.every if each.level != "healthy"]
    for finding in sorted(every, key=lambda each: LEVELS.index(each.level)):
        rows = rows_of(material, finding)
        for layer in finding.layers:
            found.setdefault(layer, []).append(_Flag(finding, None if rows is None else rows[0]))
    return found


def _tile(material: Material, index: int, layer: pd.Series[Any], flags: list[_Flag]) -> dict[str, Any]:
    """Return a tile but for its picture."""
    one, broken = material.columns.isel(layer=index), float(material.nonfinite[index])
    said = "never called" if layer["never_called"] else _numbers(one)
    if broken > 0:
        said += f", NaN or infinite {percent(broken)}"
    said += "".join(f"; {flag.finding.level}: {flag.finding.name}{_since(material, flag)}" for flag in flags)
    level = flags[0].finding.level if flags else None
    # At each place the worst only, as flags come: one tick does not cover the other.
    ticks = {flag.row: flag.finding.level for flag in reversed(flags) if flag.row is not None}
    return {
        "name": layer.name,
        "kind": layer["kind"],
        "never": bool(layer["never_called"]),
        "broken": broken > 0,
        "alt": f"Layer {index}, {layer.name}, {layer['kind']}: {said}",
        "level": level,
        "icon": ICONS[level] if level else "",
        "ticks": [
            {"level": ticks[row], "icon": ICONS[ticks[row]], "at": f"{(row + 0.5) / material.n_rows:.2%}"}
            for row in sorted(ticks)
        ],
    }


def _since(material: Material, flag: _Flag) -> str:
    """Say at which training step a flag stands."""
    return "" if flag.row is None else f" at step {int(material.steps[flag.row]):,}"


def _numbers(one: xr.Dataset) -> str:
    """Say the numbers of a layer."""
    return (
        f"mean {number(float(one['total_mean']))}, std {number(float(one['total_std']))}, "
        f"zeros {percent(float(one['total_zero_share']))}, "
        f"out of range {percent(float(one['total_out_of_range']))}"
    )
