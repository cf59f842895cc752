"""The section of the verdict: what was found, since when, why it matters, what to do, and where to see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from actlab.charts.wall_chart import WallOptions, crop
from actlab.findings.finding import ICONS, WORDS, Finding, Verdict
from actlab.pages.formats import number, spans
from actlab.pages.html import Section
from actlab.pages.places import Place, places_of, rows_of
from actlab.pages.sections import Material, data_uri

__all__ = ["level_counts", "verdict"]

_MOST_PICTURES: Final = 12
_PICTURE: Final = WallOptions(tile_width=96, tile_height=60)
_CONTEXT: Final = 12  # columns before and after, at least
_SPLITS: Final = {"train": "", "valid": "validation, ", "test": "test, "}


def verdict(material: Material) -> Section:
    """Say what was found, the worst first; what is healthy; and what could not be told."""
    found = material.verdict
    groups = [group for group in found if group.worst != "healthy"]
    pictures = _pictures(material, groups)
    called = material.layers[~material.layers.never_called]
    flagged = {layer for group in groups for each in _sick(group) for layer in each.layers}
    context = {
        "counts": level_counts(found),
        "n_clear": sum(layer not in flagged for layer in called.index),
        "n_called": len(called),
        "n_layers": len(material.layers),
        "healthy": found.is_healthy,
        "checked": len(found.checked),
        "partial": bool(material.selected) or len(material.layers) < len(material.run.names),
        "groups": [
            _described(material, group)
            | {
                "level": group.worst,
                "icon": ICONS[group.worst],
                "picture": picture,
                "followers": [_described(material, each) for each in group.every[1:]],
            }
            for group, picture in zip(groups, pictures, strict=True)
        ],
        "signs": [_described(material, each) for each in found if each.worst == "healthy"],
        "lacking": found.lacking,
        "ok": ICONS["healthy"],
    }
    return Section("verdict", "Verdict", "verdict.html.j2", context)


def level_counts(found: Verdict) -> list[dict[str, Any]]:
    """Count the findings of each level: level, icon, count and word, nothing of a level without any."""
    return [
        {"level": level, "icon": ICONS[level], "count": count, "word": WORDS[level][count != 1]}
        for level, count in found.counts.items()
        if level in WORDS and count
    ]


def _sick(group: Finding) -> Iterator[Finding]:
    """Return the members of a group that are no sign of health."""
    return (each for each in group.every if each.level != "healthy")


def _described(material: Material, finding: Finding) -> dict[str, Any]:
    """Return a finding as the template shows it."""
    kinds = material.run.layers["kind"]
    places = places_of(material, finding)
    chips = [
        {"name": layer, "kind": kinds.get(layer, ""), "place": place if isinstance(place, Place) else None}
        for layer, place in places.items()
    ]
    place, when = places[finding.layers[0]], _when(material, finding)
    return {
        "level": finding.level,
        "icon": ICONS[finding.level],
        "rule": finding.rule,
        "name": finding.name,
        "chips": chips,
        "when": "" if when in finding.evidence else when,
        "place": place if isinstance(place, Place) else None,
        "absent": None if isinstance(place, Place) else place,
        "evidence": finding.evidence,
        "why": finding.why,
        "remedy": finding.remedy,
        "source": finding.source,
        "value": number(finding.value),
        "limit": number(finding.limit),
    }


def _when(material: Material, finding: Finding) -> str:
    """Say in which steps and epochs: since when, where it lasted to the end."""
    (first, last), (begin, end) = finding.steps, finding.epochs
    split = _SPLITS.get(finding.split, f"{finding.split}, ")
    if begin == end:
        epochs = "before training" if begin < 0 else f"epoch {begin}"
    else:
        epochs = f"epochs {begin} to {end}"
    if first == last:
        return f"{split}step {first:,} ({epochs})"
    if last == int(material.run[finding.split]["step"].values[-1]):
        return f"{split}since step {first:,} ({'before training' if begin < 0 else f'epoch {begin}'})"
    return f"{split}steps {first:,} to {last:,} ({epochs})"


def _pictures(material: Material, groups: list[Finding]) -> list[dict[str, Any] | None]:
    """Return a picture of each group, as far as there are any: not too many, and none of them twice."""
    seen: set[tuple[str, int, int]] = set()
    pictures: list[dict[str, Any] | None] = []
    for group in groups:
        rows, name = rows_of(material, group), group.layers[0]
        picture = None
        if rows is not None and name in material.layers.index and len(seen) < _MOST_PICTURES:
            window = _window(material, rows)
            if (name, *window) not in seen:
                seen.add((name, *window))
                picture = _picture(material, name, rows, window)
        pictures.append(picture)
    return pictures


def _window(material: Material, rows: tuple[int, int]) -> tuple[int, int]:
    """Return the first column of a picture of some rows, and the one after the last."""
    k, n_columns = int(material.columns.attrs["batches_per_column"]), material.columns.sizes["column"]
    first, last = rows[0] // k, rows[1] // k
    context = max(_CONTEXT, (last + 1 - first) // 3)
    return max(0, first - context), min(n_columns, last + 1 + context)


def _picture(material: Material, name: str, rows: tuple[int, int], window: tuple[int, int]) -> dict[str, Any]:
    """Paint the columns of a layer around some rows, which are framed."""
    columns = material.columns.sel(layer=name).isel(column=slice(*window))
    k, steps = int(material.columns.attrs["batches_per_column"]), material.steps
    start, stop = window[0] * k, min(window[1] * k, material.n_rows)
    # A pixel at the end of the picture may hold fewer columns, and is drawn as wide as the others.
    across = -(-columns.sizes["column"] // _PICTURE.tile_width) * k
    width = -(-(stop - start) // across) * across
    shown, framed = (
        spans(steps[first:end].tolist(), material.stride)
        for first, end in ((start, stop), (rows[0], rows[1] + 1))
    )
    return {
        "src": data_uri(crop(columns, material.wall, _PICTURE)),
        "alt": f"{name}, batches {shown}; framed: {framed}",
        "left": f"{(rows[0] - start) / width:.2%}",
        "width": f"{(rows[1] + 1 - rows[0]) / width:.2%}",
    }
