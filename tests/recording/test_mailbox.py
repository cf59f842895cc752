"""Rows between threads and processes: in order, within bounds, and nothing else is read."""

import os
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest

from actlab.recording import mailbox
from actlab.recording.mailbox import Mailbox, from_bytes, to_bytes
from actlab.store.joining import End, Missing
from actlab.store.row import row_checksum
from actlab.store.side import ChannelStats, HeadCounts, LabelMoments, RawSamples


@pytest.fixture
def row(make_row):
    """Return a function that makes a row."""
    return lambda step, **options: replace(make_row(step, **options), train_step=step)


class TestMailbox:
    def test_keeps_the_order_and_the_place_of_what_has_no_room(self, row):
        box = Mailbox(2 * row(0).nbytes)
        assert [box.post(0, row(step)) for step in range(4)] == [True, True, False, False]
        assert box.post(0, End())
        found = [box.take(0)[1] for _ in range(5)]
        assert [each.step for each in found[:2]] == [0, 1]
        assert found[2:] == [Missing("train", 2, 2), Missing("train", 3, 3), End()]
        assert box.take(0.01) is None
        assert box.post(0, row(9))

    def test_a_single_large_row_fits(self, row):
        assert Mailbox(1).post(0, row(0))

    def test_waits_for_room_where_it_may(self, row):
        box = Mailbox(row(0).nbytes)
        box.post(0, row(0))
        waiting = threading.Thread(target=box.post, args=(1, row(1)), kwargs={"wait": True})
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        box.take(0)
        waiting.join(10)
        assert box.take(0)[1].step == 1

    def test_closing_ends_all_waiting(self, row):
        box = Mailbox(1)
        box.post(0, row(0))
        waiting = threading.Thread(target=box.post, args=(1, row(1)), kwargs={"wait": True})
        waiting.start()
        box.close()
        waiting.join(10)
        assert not waiting.is_alive()
        assert not box.post(0, End())
        assert box.take(0) is None

    def test_places_without_rows_are_bounded_too(self, row, monkeypatch):
        monkeypatch.setattr(mailbox, "_MOST_WAITING", 5)
        box = Mailbox(1)
        for step in range(20):
            box.post(0, row(step))
        assert len(box._messages) == 6


class TestMessages:
    def test_come_back_as_they_were(self, row, fingerprint, small_axis):
        n = np.arange(3, dtype=np.uint64)
        sent = replace(
            row(3, layers=4, wide=True),
            channels=ChannelStats(("layer0",), (3,), n, n, n / 2),
            samples={"layer1": RawSamples(np.ones((1, 2), np.float16), np.array([3]))},
            head_counts=HeadCounts(np.ones((1, 3, small_axis.n_buckets), np.uint32), pooled=True),
            label_moments=LabelMoments(n[:, None], n[:, None] / 2, n[:, None] / 3),
        )
        found = from_bytes(to_bytes(sent))
        assert fingerprint(found) == fingerprint(sent)
        assert found.layers == sent.layers
        assert row_checksum(found) == row_checksum(sent)
        assert from_bytes(to_bytes(Missing("train", 1, 2))) == Missing("train", 1, 2)
        assert from_bytes(to_bytes(End(is_lost=True))) == End(is_lost=True)

    @pytest.mark.parametrize("sent", [print, os.system, {"a": 1}, np.arange(3), [End()]])
    def test_are_rows_and_nothing_else(self, sent):
        with pytest.raises(pickle.UnpicklingError):
            from_bytes(pickle.dumps(sent))
