"""Since when something holds to the end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actlab.findings.spans import since

ROWS = st.lists(st.booleans(), max_size=60).map(lambda rows: np.array(rows, np.bool_))


@given(rows=ROWS)
def test_it_holds_in_that_row_and_in_almost_all_after_it(rows):
    first = since(rows)
    if first is None:
        assert not rows.size or not rows[-1]
    else:
        assert rows[first]
        assert rows[first:].mean() >= 0.9


@given(before=st.integers(0, 40), after=st.integers(1, 40))
def test_a_clear_beginning_is_found(before, after):
    assert since(np.repeat([False, True], [before, after])) == before


def test_what_has_ended_is_over():
    assert since(np.repeat([True, False], [40, 1])) is None


def test_a_stray_row_long_before_is_no_beginning():
    rows = np.repeat([False, True], [2000, 18_001])
    rows[100] = True
    assert rows[100:].mean() > 0.9
    assert since(rows) == 2000


def test_a_few_gaps_do_not_matter():
    rows = np.ones(100, np.bool_)
    rows[[5, 50, 70]] = False
    assert since(rows) == 0
