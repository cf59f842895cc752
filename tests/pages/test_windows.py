"""Batches with a few values far beyond those around them, and which batches are kept."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from actlab.pages.windows import choose_windows, miscounts, strays

VALUES = 4096  # of a batch


def material(least, most):
    """Return what `strays` looks at, of one layer "a"."""
    ends = {"min": least, "max": most}
    train = xr.Dataset(
        {name: (("step", "layer"), np.asarray(rows, np.float32)[:, None]) for name, rows in ends.items()},
        {"layer": ["a"]},
    )
    return SimpleNamespace(run={"train": train}, rows=np.arange(len(most)))


def ends(n, df=np.inf, seed=0):
    """Return least and largest of `VALUES` values of Student's t, of n batches."""
    uniform = np.random.default_rng(seed).random((2, n))
    return -stats.t.ppf(uniform[0] ** (1 / VALUES), df), stats.t.ppf(uniform[1] ** (1 / VALUES), df)


def rows_of(least, most):
    return [stray.row for stray in strays(material(least, most), "a")]


@pytest.mark.parametrize("df", [1, 2, 3, 5, 8, np.inf])
def test_however_heavy_the_tails_ordinary_batches_are_none(df):
    found = [len(rows_of(*ends(20_000, df, seed))) for seed in range(3)]
    assert np.mean(found) <= (8 if df == 1 else 4)


@given(st.sampled_from((20, 50, 75, 400, 3000)), st.integers(0, 10**6), st.booleans())
def test_one_stray_is_found_in_few_and_in_many_rows(n, place, above):
    least, most = ends(n)
    row = place % n
    (most if above else least)[row] = 15 if above else -15
    [found] = strays(material(least, most), "a")
    assert (found.row, found.value) == (row, 15 if above else -15)
    assert 0.5 < found.share < 1


@pytest.mark.parametrize(("n", "found"), [(400, 8), (400, 9), (20_000, 40), (20_000, 41), (49, 1), (49, 2)])
def test_where_many_reach_far_that_is_how_the_values_are(n, found):
    least, most = ends(n)
    rows = np.linspace(4, n - 5, found).astype(int)
    most[rows] = 15
    assert rows_of(least, most) == (rows.tolist() if found in (1, 8, 40) else [])


def test_a_change_of_the_layer_is_no_stray():
    least, most = ends(1000)
    for changed in (slice(0, 6), slice(-10, None), slice(300, 304), slice(500, None)):
        moved = most.copy()
        moved[changed] *= 10
        assert rows_of(least, moved) == []
    most[300:303] *= 10
    assert rows_of(least, most) == [300, 301, 302]


def test_growth_hides_no_stray_and_is_none():
    least, most = ends(6000)
    growth = np.ones(6000)
    growth[-600:] = np.geomspace(1, 1e6, 600)
    assert rows_of(least * growth, most * growth) == []
    most[2000] *= 4
    assert rows_of(least * growth, most * growth) == [2000]


def test_rounding_is_no_stray():
    constant = np.full(500, 0.1, np.float32)
    assert rows_of(constant, constant) == []
    moved = constant.copy()
    moved[77] = np.nextafter(np.float32(0.1), np.float32(1))
    assert rows_of(constant, moved) == rows_of(moved, constant) == []
    moved[77] = 0.2
    assert rows_of(constant, moved) == [77]
    assert rows_of(np.zeros(500), np.eye(1, 500, 77)[0] * 1e-30) == [77]


def test_what_is_not_finite_is_no_stray_and_hides_none():
    least, most = ends(400)
    most[50], most[60], least[60], most[70] = np.inf, np.nan, np.nan, 3e38
    least[80] = -np.inf
    least[200:340] = most[200:340] = np.nan
    assert rows_of(least, most) == [70]
    nothing = np.full(400, np.nan)
    assert rows_of(nothing, nothing) == []
    assert rows_of(nothing[:3], nothing[:3]) == rows_of(nothing[:0], nothing[:0]) == []


def test_the_farthest_strays_have_windows_also_behind_many_odd_columns():
    k, n_columns = 10, 60
    least, most = ends(k * n_columns)
    one = material(least, most)
    far = {100: 1e30, 300: 50.0}
    for row, value in far.items():
        one.run["train"]["max"][row, 0] = value
    one.run["train"]["n"] = ("step", "layer"), np.full((k * n_columns, 1), VALUES)
    one.run["train"].coords["epoch"] = "step", np.zeros(k * n_columns, np.int64)
    oddest = np.where(np.arange(n_columns) >= 40, 0.5, 0.01)
    first = np.arange(n_columns) * k
    one.columns = xr.Dataset(
        {
            "oddest": (("layer", "column"), oddest[None]),
            "oddest_step": (("layer", "column"), first[None] + 3),
            "first_row": ("column", first),
        },
        {"layer": ["a"]},
        {"batches_per_column": k},
    )
    one.layers, one.verdict = pd.DataFrame(index=["a"]), ()
    one.steps, one.n_rows = np.arange(k * n_columns), k * n_columns
    one.slots = {"a": SimpleNamespace(columns=range(200))}
    one.strays, one.miscounts = {"a": strays(one, "a")}, {"a": miscounts(one, "a")}
    chosen = choose_windows(one, 1e5)
    for row, window in zip(far, chosen, strict=False):
        assert window.start <= row < window.stop
