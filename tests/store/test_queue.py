"""The bound of the queue, and the gaps beyond it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from actlab.store.queue import RowQueue


@given(
    limit=st.integers(1, 2000),
    rows=st.lists(st.tuples(st.sampled_from(["train", "valid"]), st.booleans()), max_size=30),
)
def test_taken_rows_and_gaps_together_are_all_rows(limit, rows, make_row):
    queue, taken = RowQueue(limit), {"train": [], "valid": []}
    for step, (split, drain) in enumerate(rows):
        row = make_row(step, split)
        held = queue.held
        if queue.put(row):
            taken[split].append(step)
            assert queue.held == held + row.nbytes
            assert queue.held <= limit or held == 0
        else:
            assert held + row.nbytes > limit
            queue.drop(row)
        if drain:
            queue.take()
            queue.release()
            assert queue.held == 0
    for split, mine in taken.items():
        steps = [step for step, (name, _) in enumerate(rows) if name == split]
        gaps = queue.gaps.get(split, [])
        missing = [step for step in steps if any(first <= step <= last for first, last in gaps)]
        assert sorted(mine + missing) == steps
        assert all(first in steps and last in steps for first, last in gaps)
        # Two gaps with no row between them would be one.
        assert all(any(a[1] < step < b[0] for step in mine) for a, b in pairwise(gaps))


def test_bytes_count_until_they_are_committed(make_row):
    queue, rows = RowQueue(1000), [make_row(step) for step in range(3)]
    assert [queue.put(row) for row in rows] == [True, True, False]
    assert [*queue.take()] == rows[:2]
    assert not queue.put(rows[2])
    queue.release()
    assert queue.put(rows[2])
