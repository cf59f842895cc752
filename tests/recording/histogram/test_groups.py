"""Counts by group: each value in its group, in whatever layout."""

import numpy as np
import pytest
import torch

from actlab.axis import FloatAxis
from actlab.recording.histogram.groups import count_groups

AXIS = FloatAxis()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_each_value_goes_to_its_group_in_c_order(dtype):
    values = torch.randn(700, 600, generator=torch.Generator().manual_seed(0)).to(dtype).t()[:, ::2]
    groups = torch.randint(-1, 5, values.shape, generator=torch.Generator().manual_seed(1))
    out = np.ones((5, AXIS.n_buckets), np.uint64)
    count_groups(values, groups, AXIS, out)
    exact, group = values.double().numpy().ravel(), groups.numpy().ravel()
    for each in range(5):
        expected = np.bincount(AXIS.index(exact[group == each]), minlength=AXIS.n_buckets) + 1
        np.testing.assert_array_equal(out[each], expected)


def test_numpy_arrays_and_no_values_at_all():
    out = np.zeros((2, AXIS.n_buckets), np.uint64)
    count_groups(np.array([[1.0, np.nan], [-np.inf, 2.0]]), np.array([[0, 1], [1, -7]]), AXIS, out)
    count_groups(torch.empty(0, 3), np.empty((0, 3), np.int64), AXIS, out)
    assert out[0].sum() == out[0, AXIS.index(1.0)] == 1
    assert out[1].sum() == 2
    assert (out[1, 0], out[1, -1]) == (1, 1)


@pytest.mark.parametrize(
    ("groups", "why"), [([0, 1, 0], "each of 2 values, got 3"), ([0, 2], "below 2, got 2")]
)
def test_groups_that_do_not_fit_are_refused_before_anything_is_counted(groups, why):
    out = np.zeros((2, AXIS.n_buckets), np.uint64)
    with pytest.raises(ValueError, match=why):
        count_groups(torch.ones(2), torch.tensor(groups), AXIS, out)
    assert not out.any()
