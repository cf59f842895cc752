"""Where on the page a finding is to be seen: rows of the chart, or an epoch of the Twin Peaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from actlab.findings.finding import Finding
    from actlab.pages.sections import Material

__all__ = ["Place", "places_of", "rows_of"]


class Place(NamedTuple):
    """Something of the page that can be gone to.

    Parameters
    ----------
    section : str
        Where it is to be seen without scripts: key of a section, or the id of a tile or a row of the table.
    address : str
        What the script of the page reads: ``at=LAYER:FIRST-LAST``, ``at=LAYER`` or ``peaks=EPOCH``; empty
        on a page without the chart.
    said : str
        What is shown there, in words.
    """

    section: str
    address: str
    said: str


def rows_of(material: Material, finding: Finding) -> tuple[int, int] | None:
    """Return the first and last row of the chart that a finding speaks of, None if the page has none of them.

    Rows of the chart are training batches. An evaluation is seen at the batch that was done before it.

    Parameters
    ----------
    material : Material
        What the page is made of.
    finding : Finding
        Of any split.
    """
    train, (first, last) = material.run["train"], finding.steps
    if finding.split == "train":
        step = train["step"].values
        spoken = np.flatnonzero((step >= first) & (step <= last))
    else:
        rows = material.run[finding.split]
        held = (rows["step"].values >= first) & (rows["step"].values <= last)
        spoken = _rows_before(train["train_step"].values, np.unique(rows["train_step"].values[held]))
    if not spoken.size:
        return None
    inside = (material.rows >= spoken[0]) & (material.rows <= spoken[-1])
    shown = np.flatnonzero(inside)
    return (int(shown[0]), int(shown[-1])) if shown.size else None


def _rows_before(train_step: NDArray[np.integer], done: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return the last training rows before evaluations that came after `done` batches [evaluation]."""
    before = [np.flatnonzero(train_step < count) for count in done]
    return np.sort(np.array([rows[-1] if rows.size else 0 for rows in before], np.intp))


def places_of(material: Material, finding: Finding) -> dict[str, Place | str]:
    """Find where a finding is to be seen, or why it is not, in words.

    Parameters
    ----------
    material : Material
        What the page is made of.
    finding : Finding
        Of any split.

    Returns
    -------
    dict of str to Place or str
        By layer of the finding. An evaluation of the head is seen in the Twin Peaks, all else in the chart.
    """
    numbers = {str(name): index for index, name in enumerate(material.layers.index)}
    rows, peaks = rows_of(material, finding), material.peaks
    head = None if peaks is None or finding.split == "train" else peaks.attrs["layer"]
    places: dict[str, Place | str] = {}
    for layer in finding.layers:
        if peaks is not None and layer == head:
            places[layer] = _epoch(material, finding.epochs[0], peaks["epoch"].values)
        elif layer not in numbers:
            places[layer] = "the layer is not on this page"
        elif rows is None:
            places[layer] = "the epochs are not on this page"
        else:
            places[layer] = _chart(material, numbers[layer], rows)
    return places


def _chart(material: Material, number: int, rows: tuple[int, int]) -> Place | str:
    """Return the place of some rows of a layer in the best chart of the page."""
    first, last = rows
    anchors = {"wall": f"tile-{number}", "detail": "detail", "numbers": f"row-{number}"}
    anchor = next((anchors[name] for name in anchors if name in material.sections), None)
    if anchor is None:
        return "its chart is not on this page"
    address = f"at={number}:{first}-{last}" if "detail" in material.sections else ""
    return Place(anchor, address, f"step {int(material.steps[first]):,}")


def _epoch(material: Material, epoch: int, known: NDArray[np.integer]) -> Place | str:
    """Return the Twin Peaks of an epoch."""
    if "twin_peaks" not in material.sections:
        return "the Twin Peaks are not on this page"
    if epoch not in known:
        return f"epoch {epoch} is not on this page"
    return Place("peaks", f"peaks={epoch}", "the untrained model" if epoch < 0 else f"epoch {epoch}")
