import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlab.pages.formats import lane, percent, spans


def test_a_constant_with_the_noise_of_means_is_a_level_line():
    drawn = lane([0.001, 0.001 * (1 - 1e-9), float("nan"), 0.001], 300, 44)
    assert drawn["lines"] == ["0.0,22.0 100.0,22.0", "300.0,22.0"]
    assert (drawn["ends"], drawn["said"]) == (["0.001"], "constant at 0.001")


def test_a_lane_says_in_words_where_it_ends():
    assert lane([2.0, 1.0, float("nan")], 200, 44, ", no more")["said"].endswith("1, no more")
    assert lane([2.0, 2.0, float("nan")], 200, 44, ", no more")["said"] == "constant at 2, no more"


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e20])
def test_a_change_fills_the_lane_whatever_its_size(scale):
    drawn = lane([2 * scale, 2.00001 * scale, scale], 200, 44)
    assert drawn["lines"][0].endswith("200.0,44.0")
    assert len(drawn["ends"]) == 2


@given(st.sets(st.integers(-1, 60), min_size=1), st.integers(1, 12))
def test_spans_name_every_label_and_no_other(labels, stride):
    ordered = [label * stride for label in sorted(labels)]
    said = spans(ordered, stride, most=100)
    named = [[int(end) for end in part.split(" to ")] for part in said.split(", ")]
    assert [n for part in named for n in np.arange(part[0], part[-1] + 1, stride)] == ordered


def test_many_spans_are_only_counted():
    assert spans([0, 2, 4, 6, 8000]) == "0 to 8,000, in 5 parts"


@given(st.floats(0, 1) | st.sampled_from([0.9949, 0.995, 0.99999, 1 - 1e-12, 1.0]))
def test_a_share_is_none_or_all_only_if_it_is(share):
    said = percent(share)
    assert (said == "0%") == (share == 0)
    assert (said == "100%") == (share >= 1 - 1e-9)
    assert said[:1] in "<>" or abs(float(said[:-1]) / 100 - share) <= 0.005
