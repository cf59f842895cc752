import numpy as np
import pytest

from actlab.axis import LinearAxis
from actlab.charts.sources import RawHead, Recorded, sources

VIEW = LinearAxis(-3, 5, 16)
SPECIAL = np.array([[0.0, -0.0, -np.inf, np.inf], [np.nan, 5.0, 5.1, -3.0]], np.float32)


def test_raw_outputs_are_the_source_of_the_head_only(charted):
    rows = charted.run.rows("train")
    found = sources(charted.run, "train", rows, ["head", "odd", "grows"], VIEW)
    assert [type(source) for source in found] == [Recorded, RawHead]
    assert found[0].rows.layer.values.tolist() == ["odd", "grows"]
    assert [type(s) for s in sources(charted.run, "train", rows, ["head"], VIEW)] == [RawHead]
    assert [type(s) for s in sources(charted.run, "train", rows, ["odd"], VIEW)] == [Recorded]


def test_a_head_kept_in_part_is_counted(charted, monkeypatch):
    raw = charted.run.raw("train")
    monkeypatch.setattr(charted.run, "raw", lambda split: raw.isel(sample=slice(5, None)))
    assert [type(s) for s in sources(charted.run, "train", np.arange(3), ["head"], VIEW)] == [Recorded]


@pytest.mark.parametrize("layer", ["odd", "head"])
def test_rows_come_once_and_in_order(charted, layer):
    rows = np.array([2, 3, 11, 25])
    (source,) = sources(charted.run, "train", rows, [layer], VIEW)
    counts = np.concatenate([block for _, block in source.blocks()])
    assert np.concatenate([np.arange(4)[where] for where, _ in source.blocks()]).tolist() == [0, 1, 2, 3]
    for number, row in enumerate(rows):
        values = charted.values["train", row][layer].ravel()
        assert counts[number].sum() == values.size
        assert counts[number, 0, source.zero] == np.count_nonzero(values == 0)
        flow = [np.sum(values == -np.inf), np.sum(values == np.inf), np.isnan(values).sum()]
        assert counts[number, 0, [0, -2, -1]].tolist() == flow


def test_special_values_of_the_head_have_their_slots(charted, monkeypatch):
    raw = charted.run.raw("train")
    head = raw["head"].copy(data=np.resize(SPECIAL, raw["head"].shape))
    monkeypatch.setattr(charted.run, "raw", lambda split: raw.assign(head=head))
    source = RawHead(charted.run, "train", np.arange(1), VIEW)
    ((_, block),) = source.blocks()
    binned = source.rebin(block[0])
    known = head.isel(sample=slice(8)).values.ravel()
    np.testing.assert_array_equal(binned.counts[0], np.histogram(known[np.isfinite(known)], VIEW.edges)[0])
    flow = [binned.underflow, binned.overflow, binned.neg_inf, binned.pos_inf, binned.nan]
    expected = [known < -3, known > 5, known == -np.inf, known == np.inf, np.isnan(known)]
    finite = np.isfinite(known)
    expected = [np.sum(e & finite) if number < 2 else np.sum(e) for number, e in enumerate(expected)]
    assert [int(part[0]) for part in flow] == expected


@pytest.mark.parametrize("axis", [LinearAxis(1, 2, 4), LinearAxis(-2, -1, 4)])
def test_zero_may_lie_beyond_the_range(charted, axis):
    source = RawHead(charted.run, "train", np.arange(1), axis)
    total = np.zeros((1, axis.n_bins + 6), np.uint64)
    total[0, source.zero] = 9
    binned = source.rebin(total)
    assert (binned.underflow[0], binned.overflow[0]) == ((9, 0) if axis.h_min > 0 else (0, 9))
    assert not binned.counts.any()


def test_classes_follow_the_bins(charted):
    source = Recorded(charted.run["train"], np.arange(3), ["odd"], VIEW)
    lower, upper = charted.run.axis.lower, charted.run.axis.upper
    starts = source.class_starts
    assert (starts[0], starts[1]) == (0, 1)  # negative infinity, then all below the range
    assert starts[-2:].tolist() == [lower.size - 2, lower.size - 1]  # infinity, NaN
    middle = (lower[starts[2]] + upper[starts[2]]) / 2
    before = (lower[starts[2] - 1] + upper[starts[2] - 1]) / 2
    assert before < VIEW.h_min <= middle
