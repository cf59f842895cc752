"""Counts of plain values, as a run holds them."""

import numpy as np
import pytest
import xarray as xr


@pytest.fixture(scope="session")
def counts_of():
    """Return a function that counts values on an axis: [bucket], or [layer, bucket] of a dict."""
    from actlab.axis import FloatAxis

    default = FloatAxis()

    def count(values, axis=default):
        if isinstance(values, dict):
            rows = [count(each, axis) for each in values.values()]
            return xr.concat(rows, "layer").assign_coords(layer=[*values])
        found = np.bincount(axis.index(values), minlength=axis.n_buckets)
        ends = {"lower": ("bucket", axis.lower), "upper": ("bucket", axis.upper)}
        return xr.DataArray(found.astype(np.uint32), ends, ("bucket",), "counts")

    return count
