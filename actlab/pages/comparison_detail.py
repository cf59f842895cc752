"""The detail of a comparison: one layer of all runs, packed layer by layer for the page's script."""

from __future__ import annotations

from typing import Final

import numpy as np

from actlab.charts.comparison_chart import STEPS, cells, signed_codes, signed_colors
from actlab.charts.palette import translucent_palette
from actlab.charts.raster import cells_per_pixel
from actlab.pages.comparison_figures import comparison_figures
from actlab.pages.comparison_sections import Compared, many
from actlab.pages.formats import spans
from actlab.pages.html import Section
from actlab.pages.payload import LEVELS, log_codes, pack_codes, pack_floats
from actlab.pages.sections import listed

__all__ = ["detail"]

_OF_EPOCHS: Final = ("mean", "std", "out_of_range", "nonfinite")
_HEIGHT: Final = 200  # most cells of a picture
_LEAST: Final = 40  # columns, however small the page


def detail(compared: Compared) -> Section:
    """One layer of all runs: pictures, histograms of an epoch over each other, distances over the epochs.

    Two blobs for each layer: its histograms float32 [run, epoch, bin], and the codes of its pictures
    uint8 [picture, y, x], the shares of all runs and then the differences of all but the first.
    """
    columns, scale, axis = compared.columns, compared.scale, compared.axis
    size = max(_LEAST, int(compared.room * compared.options.detail_width)), _HEIGHT
    shown = compared.some(compared.epochs["epoch"].values.tolist())
    blobs, layers, shape = [], [], (0, 0)
    for layer in compared.layers:
        one, found = compared.epochs.sel(layer=layer), cells(columns, layer, size)
        shape = found.shares.shape[1:]
        codes = (
            log_codes(np.nan_to_num(found.shares), scale.low, scale.high),
            signed_codes(found.differences, scale),
        )
        share = one["share"].sel(epoch=shown).transpose("run", "epoch", "bin")
        blobs += [pack_floats(share.values), pack_codes(np.concatenate(codes))]
        layers.append(
            {
                "name": layer,
                "kind": compared.kind(layer),
                "lost": compared.losses(layer),
                **{name: listed(one[name].transpose("run", "epoch")) for name in _OF_EPOCHS},
                "distance": listed(one[compared.options.distance].transpose("run", "epoch")),
            }
        )
    across = cells_per_pixel(columns.sizes["step"], size[0])
    data = {
        "runs": compared.names,
        "layers": layers,
        "epochs": listed(compared.epochs["epoch"]),
        "shown": shown,
        "bins": listed(axis.centers),
        "hMin": axis.h_min,
        "hMax": axis.h_max,
        "shape": shape,
        "binsPerCell": cells_per_pixel(axis.n_bins, _HEIGHT),
        "steps": columns["step"].values[::across].tolist(),
        "lasts": np.append(
            columns["last"].values[across - 1 : -1 : across], columns["last"].values[-1]
        ).tolist(),
        "unit": compared.unit,
        **{name: getattr(scale, name) for name in ("low", "high", "least", "difference")},
        "colors": translucent_palette(scale.low, scale.high, scale.one, LEVELS - 1),
        "signedColors": signed_colors(),
        "signedSteps": STEPS,
    }
    k = across * int(columns.attrs["k"])
    context = compared.view | {
        "layers": layers,
        "epochs": shown,
        "thinned": spans(shown) if len(shown) < compared.epochs.sizes["epoch"] else "",
        "cell": f"{many(k, compared.unit)}, {many(data['binsPerCell'], 'bin')}",
    }
    frames = comparison_figures(len(compared.names), axis.h_min, axis.h_max)
    return Section("compare", "Detail", "compare_detail.html.j2", context, data, tuple(blobs), frames)
