import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actlab.charts.palette import PALE, PALE_DARK, SETS, VIRIDIS, count_limits, log_palette

exponents = st.floats(-6, 6)


@given(low=exponents, decades=st.floats(0.1, 9), size=st.integers(2, 300))
def test_viridis_begins_at_one(low, decades, size):
    colors = log_palette(10**low, 10 ** (low + decades), size=size)
    assert len(colors) == size
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
    pale = sum(color in PALE for color in colors)
    assert colors == [*colors[:pale], *(color for color in colors if color in VIRIDIS)]
    share = np.clip(-low / decades, 0, 1)  # of the scale that lies below one
    assert abs(pale - share * size) <= 1
    assert colors[-1] in VIRIDIS


def test_a_scale_from_one_on_is_viridis():
    assert log_palette(1, 100) == list(VIRIDIS)


def test_ramps_are_pale_and_dark():
    def light(color):
        return sum(int(color[i : i + 2], 16) for i in (1, 3, 5))

    assert light(PALE[0]) > light(PALE[-1]) > light(VIRIDIS[0]) > light(PALE_DARK[0])
    assert light(PALE_DARK[-1]) > light(PALE_DARK[0])
    assert len(set(SETS.values())) == 3


@given(st.lists(st.floats(0, 1e9), max_size=30), st.integers(1, 500))
def test_limits_hold_all_but_crumbs(counts, k):
    low, high = count_limits(np.array(counts), k)
    assert 0 < low <= 1
    assert high >= 10 * low
    told = [count for count in counts if count >= 0.1 / k]
    assert all(low <= count <= high for count in told)
