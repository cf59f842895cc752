"""The verb `export`: the words of the command line as those of `actlab.export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from actlab.charts.exporting import export
from actlab.cli.parsing import parse_epochs, parse_patterns
from actlab.errors import RecipeError

__all__ = ["export_figure"]

_NAMES: Final = {
    "per_class": {"epochs": "epoch", "width": "panel_width", "height": "panel_height"},
    "twin_peaks": {"epochs": "epoch"},
    "wall": {"layer": "layers", "width": "tile_width", "height": "tile_height"},
}
"""What a chart calls an option of the command line, where it is called otherwise."""


def export_figure(path: str, output: Path, chart: str, given: Mapping[str, Any], *, overwrite: bool) -> Path:
    """Draw a chart of a run into a file.

    Parameters
    ----------
    path : str
        The run.
    output : pathlib.Path
        The file.
    chart : str
        Name of the chart.
    given : mapping
        Options by their name on the command line; None for those not given.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    RecipeError
        If a layer is named for a chart of the head alone; else as `actlab.export`.
    """
    if chart == "per_class" and given.get("layer") is not None:
        raise RecipeError("--layer: per_class draws the classes of the head, and takes no layer")
    options = {
        _NAMES.get(chart, {}).get(name, name): value for name, value in given.items() if value is not None
    }
    if "epoch" in options:
        options["epoch"] = _epoch(options["epoch"])
    if "epochs" in options:
        options["epochs"] = parse_epochs(options["epochs"])
    if "layers" in options:
        options["layers"] = parse_patterns([options["layers"]])
    return export(path, output, chart=chart, overwrite=overwrite, **options)


def _epoch(text: str) -> str | int:
    """Read the label of one epoch, or a word for it."""
    try:
        return int(text)
    except ValueError:
        return text
