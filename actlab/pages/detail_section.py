"""The section of the detail: one layer at a time, on slots that the page itself brings onto bins."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from actlab.charts.palette import PALE, PALE_DARK, VIRIDIS
from actlab.charts.slotted import CURVES, LayerSlots
from actlab.errors import RecipeError
from actlab.pages.figures import detail_figures
from actlab.pages.formats import number, shape
from actlab.pages.html import Section
from actlab.pages.payload import SERIES, WINDOW_SERIES, LayerPayload, Payload, pack_layer
from actlab.pages.sections import Material, listed
from actlab.pages.sizing import MOST_BINS, SINGLE, coarser_rungs
from actlab.pages.windows import choose_windows, odd_columns, pack_windows
from actlab.steps.merging import last_quarter

__all__ = ["detail", "lighter"]

_AXES: Final = 90  # pixels of a figure that its frame does not take


def detail(material: Material) -> Section:
    """One layer at a time: the colorful dimension and all that belongs to it."""
    return _section(material, material.slots)


def lighter(material: Material, section: Section, room: float) -> Section:
    """Make the section once more, on the finest slots with which its blobs take at most `room` bytes.

    Raises
    ------
    RecipeError
        If the coarsest ones take more.
    """
    assert material.plan is not None
    plan, least = material.plan, sum(map(len, section.blobs))
    for bits, depth in coarser_rungs(plan.rung):
        coarse = {
            name: part.coarser(bits, min(plan.octaves[name] - depth, part.slots.axis.max_exponent - 1))
            for name, part in material.slots.items()
        }
        made = _section(material, coarse)
        least = sum(map(len, made.blobs))
        if least <= room:
            return made
    raise RecipeError(
        f"max_size: the layers of the page take {least / 1e6:.2f} MB at least and the rest of it "
        f"{material.max_size - room / 1e6:.2f} MB: allow more, or choose fewer layers or sections"
    )


def _section(material: Material, parts: dict[str, LayerSlots]) -> Section:
    """Pack the layers on some slots."""
    columns, axis, run = material.columns, material.axis, material.run
    names = [str(name) for name in material.layers.index]
    packed = {name: pack_layer(parts[name], _series(material, name)) for name in names}
    windows = choose_windows(material, SINGLE * material.max_size * 1e6)
    single = pack_windows(material, windows, parts)
    layers = [
        _layer(material, index, packed[name], parts[name])
        | {
            "windows": [
                {"start": window.start, "stop": window.stop, "blob": len(names) + number, **_counts(payload)}
                for number, (window, payload) in enumerate(zip(windows, single, strict=True))
                if window.layer == name
            ]
        }
        for index, name in enumerate(names)
    ]
    stride = material.stride
    data = {
        "layers": layers,
        "layerInfo": material.colorful.show_layer_info,
        "chosen": names.index(run.head) if run.head in names else len(names) - 1,
        "series": list(SERIES),
        "windowSeries": list(WINDOW_SERIES),
        "exponents": [run.axis.min_exponent, run.axis.max_exponent],
        "rows": material.n_rows,
        "k": int(columns.attrs["batches_per_column"]),
        "firstRow": listed(columns["first_row"]),
        "nRows": listed(columns["n_rows"]),
        "steps": _step_runs(material.steps, stride),
        "every": stride,
        "gaps": _gaps(material),
        "epochs": listed(columns["epoch"]),
        "epochRow": listed(columns["epoch_first_row"]),
        "epochBatches": _batches(material),
        "range": [axis.h_min, axis.h_max, axis.n_bins],
        "mostBins": MOST_BINS,
        "hScale": material.colorful.h_scale,
        "palettes": {"counts": VIRIDIS, "pale": PALE, "paleDark": PALE_DARK},
    }
    context = {
        "layers": layers,
        "h_min": number(axis.h_min),
        "h_max": number(axis.h_max),
        "n_bins": axis.n_bins,
        "most_bins": MOST_BINS,
        "validation": bool(np.any(data["epochBatches"][CURVES.index("valid")])),
        "shown": material.colorful.model_dump(),
        "height": material.colorful.height + _AXES,
    }
    blobs = tuple(payload.blob for payload in (*packed.values(), *single))
    frames = detail_figures(material.n_rows, axis.h_min, axis.h_max)
    for name in ("detail", "marginal"):
        frames[name].height = material.colorful.height + _AXES
    return Section("detail", "Detail", "detail.html.j2", context, data, blobs, frames)


def _layer(material: Material, index: int, payload: LayerPayload, part: LayerSlots) -> dict[str, Any]:
    """Return what the page's script knows of a layer before it unpacks it."""
    info, one = material.layers.iloc[index], material.columns.isel(layer=index)
    oddest, k = one["oddest"].values, int(material.columns.attrs["batches_per_column"])
    return {
        "name": str(info.name),
        "kind": info["kind"] + (f"({info['description']})" if info["description"] else ""),
        "shape": shape(info["shape"]),
        "perBatch": float(one["n_per_batch"].median()),
        "nonfinite": listed(material.nonfinite[index]),
        "never": bool(info["never_called"]),
        "odd": np.flatnonzero(odd_columns(oddest)).tolist(),
        "strays": [[each.row // k, each.row, each.value] for each in material.strays[str(info.name)]],
        "reach": _reach(material, one),
        "bits": part.slots.bits,
        "floor": part.slots.floor,
        "highEpochs": payload.high_epochs,
        **_counts(payload),
    }


def _reach(material: Material, one: xr.Dataset) -> list[Any]:
    """Return the smallest and largest finite value of a layer in training and in validation [split, end]."""
    run, reach = material.run, np.full((2, 2), np.nan)
    reach[0] = one["total_min"], one["total_max"]
    if "valid" in run.splits:
        valid = run["valid"].sel(layer=one["layer"])
        for end, extreme in enumerate((np.fmin, np.fmax)):
            reach[1, end] = extreme.reduce(valid[("min", "max")[end]].values, initial=np.nan)
    return list(listed(reach))


def _counts(payload: Payload) -> dict[str, Any]:
    """Return how packed counts are to be read."""
    return {"first": payload.first, "slots": payload.slots, "high": payload.high}


def _series(material: Material, name: str) -> NDArray[np.float64]:
    """Return `SERIES` [series, column] of a layer."""
    one = material.columns.sel(layer=name)
    apart, row = material.miscounts[name]
    oddest_row = np.searchsorted(material.steps, one["oddest_step"].values) - one["first_row"].values
    found = {
        **{key: one[key].values for key in SERIES if key in one},
        "n": one["n_per_batch"].values,
        "oddest_row": oddest_row,
        "miscount": apart,
        "miscount_row": row,
    }
    return np.stack([np.asarray(found[key], np.float64) for key in SERIES])


def _batches(material: Material) -> list[list[int]]:
    """Return the batches behind each curve of each epoch [curve, epoch]."""
    whole = material.columns["epoch_n_rows"].values
    quarter = [last_quarter(np.arange(rows)).size for rows in whole]
    after = np.empty(0, np.int64)
    if "valid" in material.run.splits:
        after = material.run["valid"].epoch.values
    valid = [int(np.count_nonzero(after == epoch)) for epoch in material.columns["epoch"].values]
    return [[int(rows) for rows in whole], quarter, valid]


def _gaps(material: Material) -> list[list[int]]:
    """Return [row, steps] of each gap in the recording that lies before a row of the page."""
    gaps = material.run.gaps.get("train", [])
    rows = np.searchsorted(material.steps, [first for first, _ in gaps])
    return [
        [int(row), (last - first) // material.stride + 1]
        for row, (first, last) in zip(rows, gaps, strict=True)
        if 0 < row < material.n_rows
    ]


def _step_runs(steps: NDArray[np.int64], stride: int) -> list[list[int]]:
    """Return [row, step] of each row that does not follow the one before it by the usual stride."""
    starts = np.flatnonzero(np.diff(steps, prepend=steps[0] - stride - 1) != stride)
    return [[int(start), int(steps[start])] for start in starts]
