import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlab.axis import LinearAxis
from actlab.charts.look import log_ticks, view
from actlab.errors import AxisError
from actlab.stats import default_range


@given(low=st.floats(-6, 0), decades=st.floats(1, 9))
def test_ticks_lie_on_the_scale(low, decades):
    ticks = log_ticks(10**low, 10 ** (low + decades))
    assert list(ticks) == sorted(ticks)
    assert all(10**low <= tick <= 10 ** (low + decades) for tick in ticks)
    assert len(set(ticks.values())) == len(ticks)
    assert ticks  # a decade or more always has one
    gaps = np.diff(np.log10(list(ticks)))
    assert gaps.max(initial=0) <= 1 + 1e-9


def test_ticks_speak_of_batches_and_thousands():
    assert log_ticks(0.04, 12) == {
        0.05: "1 in 20", 0.1: "1 in 10", 0.2: "1 in 5", 0.5: "1 in 2", 1: "1", 2: "2", 5: "5", 10: "10",
    }  # fmt: skip
    assert list(log_ticks(1, 3e6).values()) == ["1", "10", "100", "1k", "10k", "100k", "1M"]


def test_a_missing_end_comes_from_the_run(charted):
    low, high = default_range(charted.run)
    assert view(charted.run, None, None, 30) == LinearAxis(low, high, 30)
    assert view(charted.run, -1.5, None, 30) == LinearAxis(-1.5, high, 30)
    assert view(charted.run, -1.5, 0.5, 30) == LinearAxis(-1.5, 0.5, 30)
    with pytest.raises(AxisError, match="h_min must be below h_max"):
        view(charted.run, 1, -1, 30)
