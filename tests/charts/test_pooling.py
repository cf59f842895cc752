from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actlab.charts.pooling import Pool


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
