"""The section of the classes: YES and NO of each by itself, as small multiples on one scale."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from actlab.charts.class_chart import hidden
from actlab.charts.limits import apart
from actlab.charts.twin_peaks_chart import LABELS
from actlab.pages.formats import number
from actlab.pages.html import Section
from actlab.pages.payload import pack_floats
from actlab.pages.sections import Material, listed

__all__ = ["classes", "outline"]

_SIZE: Final = (160, 90)  # width and height of a panel's drawing


def classes(material: Material) -> Section | None:
    """Show YES and NO of each class, by unit and by label, if the classes are known."""
    data = material.classes
    if data is None:
        return None
    views = [str(view) for view in data["by"].values]
    shown = data.attrs["shown"]
    shares = data["share"].transpose("by", "epoch", "label", "truth", "bin").values
    # One scale for the later epochs, as that of the Twin Peaks: the first ones are often far taller.
    later = shares[:, shares.shape[1] // 2 :]
    tops = [float(np.nanmax(view, initial=0.0)) or 1.0 for view in later]
    sizes = data["n"].transpose("by", "epoch", "label", "truth").values
    packed = {
        "views": views,
        "epochs": listed(data["epoch"]),
        "splits": [LABELS[str(split)] for split in data["split"].values],
        "labels": listed(data["label"]),
        "bins": data.sizes["bin"],
        "tops": tops,
        "n": sizes.tolist(),
        "size": list(_SIZE),
        **{name: listed(data[name]) for name in ("separation", "overlap", "auc")},
    }
    last, view = data.isel(epoch=-1), views.index(shown)
    h_min, h_max = float(data.attrs["h_min"]), float(data.attrs["h_max"])
    panels = [
        {
            "name": str(name),
            "said": apart(float(separation), float(overlap)),
            "yes": outline(shares[view, -1, place, 0], tops[view]),
            "no": outline(shares[view, -1, place, 1], tops[view]),
        }
        for place, (name, separation, overlap) in enumerate(
            zip(data["name"].values, last["separation"].values, last["overlap"].values, strict=True)
        )
    ]
    context = {
        "layer": str(data.attrs["layer"]),
        "panels": panels,
        "views": views,
        "shown": shown,
        "note": data.attrs["note"],
        "outside": hidden(data),
        "epochs": packed["epochs"],
        "split": packed["splits"][-1],
        "range": (number(h_min), number(h_max)),
        "zero": f"{-h_min / (h_max - h_min):.2%}",
        "size": _SIZE,
    }
    return Section("classes", "Per class", "classes.html.j2", context, packed, (pack_floats(shares),))


def outline(shares: NDArray[np.float64], top: float) -> str:
    """Draw a histogram as the `d` of an SVG path, closed along its base.

    Parameters
    ----------
    shares : numpy.ndarray
        Heights [bin]; NaN draws nothing.
    top : float
        Height of the drawing.

    Returns
    -------
    str
        Empty where nothing is known.
    """
    if not np.isfinite(shares).all():
        return ""
    width, height = _SIZE
    step = width / shares.size
    tops = height * (1 - np.minimum(shares / top, 1))
    parts = "".join(f"V{y:.1f}H{(bin_ + 1) * step:.1f}" for bin_, y in enumerate(tops))
    return f"M0 {height}{parts}V{height}Z"
