from itertools import pairwise

import numpy as np
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from actlab.charts.pooling import Pool, in_order, last_quarter, oddest, pool_groups


@given(
    groups=st.lists(st.integers(-1, 3), min_size=1, max_size=20),
    cuts=st.sets(st.integers(1, 19)),
    seed=st.integers(0, 9),
)
def test_pools_sum_each_group_once_however_the_rows_come(groups, cuts, seed):
    rows = np.random.default_rng(seed).integers(0, 2**32, (len(groups), 2, 3), dtype=np.uint32)
    labels, found = np.array(groups), {}

    def finish(group, total):
        assert group not in found
        found[group] = total

    pool = Pool(labels, finish)
    edges = [0, *sorted(cut for cut in cuts if cut < len(groups)), len(groups)]
    for start, stop in pairwise(edges):
        pool.add(slice(start, stop), rows[start:stop])
    assert set(found) == set(groups) - {-1}
    for group, total in found.items():
        np.testing.assert_array_equal(total, rows[labels == group].sum(axis=0, dtype=np.uint64))


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=20))
def test_labels_are_numbered_in_the_order_they_come(labels):
    known, number = in_order(np.array(labels))
    assert known == list(dict.fromkeys(labels))
    assert [known[position] for position in number] == labels


@given(st.integers(1, 50))
def test_the_last_quarter_is_rounded_up(n):
    quarter = last_quarter(np.arange(n))
    assert quarter.size == np.ceil(n / 4)
    assert quarter[-1] == n - 1


def naive_oddest(batches):
    """The definition, batch by batch: [row, class] of one column and layer."""
    distances = []
    for number, batch in enumerate(batches):
        rest = np.delete(batches, number, axis=0).sum(axis=0)
        known = batch.sum() > 0 and rest.sum() > 0
        distances.append(np.abs(batch / batch.sum() - rest / rest.sum()).sum() / 2 if known else 0.0)
    return max(distances), int(np.argmax(distances))


@given(n_rows=st.integers(1, 11), k=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_oddest_batch_is_that_of_the_definition(n_rows, k, seed):
    classes = np.random.default_rng(seed).poisson(0.7, (n_rows, 2, 4)).astype(np.uint64)
    distance, row = oddest(classes, k)
    for column in range(-(-n_rows // k)):
        for layer in range(2):
            expected, _ = naive_oddest(classes[column * k : (column + 1) * k, layer].astype(float))
            np.testing.assert_allclose(distance[layer, column], expected, atol=1e-12)
            chosen = classes[column * k + row[layer, column], layer]
            rest = classes[column * k : (column + 1) * k, layer].sum(axis=0) - chosen
            if expected > 0:  # of equally odd ones either may be named
                shares = chosen / chosen.sum() - rest / rest.sum()
                np.testing.assert_allclose(np.abs(shares).sum() / 2, expected)


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=12), k=st.integers(1, 4), seed=st.integers(0, 9)
)
def test_pooled_moments_are_those_of_all_values(sizes, k, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=size) for size in sizes]
    table = {name: [f(part) if part.size else np.nan for part in parts] for name, f in FUNCTIONS.items()}
    rows = xr.Dataset(
        {name: (("step", "layer"), np.array(column)[:, None]) for name, column in table.items()}
    )
    starts = np.arange(0, len(parts), k)
    pooled = pool_groups(rows, np.array(sizes, float)[:, None], starts)
    for group, start in enumerate(starts):
        values = np.concatenate(parts[start : start + k])
        for name, function in FUNCTIONS.items():
            expected = function(values) if values.size else np.nan
            np.testing.assert_allclose(pooled[name][0, group], expected, rtol=1e-9, atol=1e-12)


FUNCTIONS = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
