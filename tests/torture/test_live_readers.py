"""Readers of a run that grows: the quick form of the harness."""

import pytest

from tests.torture import live_readers


def test_nothing_is_torn_but_by_the_controls():
    results = live_readers.run(long=False, seed=1)
    assert [result.control for result in results] == [False, True, True]
    assert [result for result in results if not result.passed] == []


def test_a_row_of_another_attempt_is_found(tmp_path):
    """What the reader of live rows compares with is not what it reads."""
    from actlab.run import open_run
    from tests.torture.samples import record_sample

    record_sample(tmp_path / "run.zarr", seed=1, side=False)
    data = open_run(tmp_path / "run.zarr")["train"]
    assert list(live_readers._wrong_rows(data, "train", 1)) == []
    assert len(list(live_readers._wrong_rows(data, "train", 2))) == 3
    backwards = data.isel(step=slice(None, None, -1))
    assert "do not increase" in next(live_readers._wrong_rows(backwards, "train", 1))


@pytest.mark.parametrize("kind", ["plain", "held", "run"])
def test_every_reader_sees_a_run_that_does_not_open(kind, tmp_path):
    (tmp_path / "run.zarr").mkdir()
    found = list(live_readers.READERS[kind](tmp_path / "run.zarr", 1))
    assert [each["opens"] for each in found] == [1]
    assert len(found[0]["errors"]) == 1
