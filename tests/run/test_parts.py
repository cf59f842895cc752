"""Parts of kept and of counted outputs, whatever they are: nothing is lost, nothing counted elsewhere."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from actlab.axis import FloatAxis, LinearAxis
from actlab.errors import SelectionError
from actlab.rebinning import bin_values
from actlab.run import parts
from actlab.run.parts import Part, bin_kept, choose_counts

AXIS = FloatAxis(2, -3, 3)
VIEW = LinearAxis(-2, 3, 7)
COUNTED = ["counts", "underflow", "overflow", "neg_inf", "pos_inf", "nan"]
special = st.sampled_from([0.0, -2.0, 3.0, np.nan, np.inf, -np.inf, 1e9])


@st.composite
def outputs(draw):
    """Outputs [sample, unit] and classes [sample], -100 for none."""
    n_samples, n_units = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    values = draw(
        st.lists(st.floats(-4, 4) | special, min_size=n_samples * n_units, max_size=n_samples * n_units)
    )
    label = draw(st.lists(st.sampled_from([-100, 0, 1, 2, 7]), min_size=n_samples, max_size=n_samples))
    return np.reshape(values, (n_samples, n_units)), np.array(label)


def dataset(values, label):
    dims = ("sample", "class")[: label.ndim]
    return xr.Dataset({"values": (("sample", "unit"), values), "label": (dims, label)})


def same(found, values):
    """Assert that a histogram is that of some values."""
    expected = bin_values(values, VIEW)
    for name in COUNTED:
        np.testing.assert_array_equal(found[name], expected[name])


class TestKept:
    @given(outputs(), st.sampled_from([1, 3, 1 << 20]))
    def test_by_label_and_unit_is_every_class_and_unit_by_itself(self, sample, block):
        values, label = sample
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parts, "_BLOCK", block)
            found = bin_kept(dataset(values, label), VIEW, Part.of(None, None, ("label", "unit")))
        assert found.counts.dims == ("label", "unit", "bin")
        assert found.label.values.tolist() == sorted(set(label.tolist()))
        assert found.unit.values.tolist() == [*range(values.shape[1])]
        for true in found.label.values:
            for unit in found.unit.values:
                same(found.sel(label=true, unit=unit), values[label == true, unit])
        assert found.exact.all()
        assert not found.bound.any()

    @given(outputs(), st.sampled_from(["label", "unit", ("unit", "label")]))
    def test_what_is_told_apart_adds_up_to_all(self, sample, by):
        kept = dataset(*sample)
        part = Part.of(None, None, by)
        found = bin_kept(kept, VIEW, part)
        assert found.counts.dims == (*part.by, "bin")
        same(found[COUNTED].sum(part.by), sample[0])
        lazy = bin_kept(kept.chunk(sample=2), VIEW, part)
        xr.testing.assert_identical(lazy, found)

    @given(outputs(), st.data())
    def test_a_sample_of_several_classes_counts_in_each_of_them(self, sample, data):
        values, _ = sample
        shape = (len(values), 3)
        cells = st.lists(st.sampled_from([0, 1, -100]), min_size=len(values) * 3, max_size=len(values) * 3)
        hot = np.reshape(data.draw(cells), shape)
        found = bin_kept(dataset(values, hot), VIEW, Part.of(None, None, "label"))
        without = ~(hot == 1).any(axis=1)
        classes = [c for c in range(3) if (hot[:, c] == 1).any()]
        assert found.label.values.tolist() == ([-100] if without.any() else []) + classes
        for true in classes:
            same(found.sel(label=true), values[hot[:, true] == 1])
            same(bin_kept(dataset(values, hot), VIEW, Part.of(true, None, ())), values[hot[:, true] == 1])
        if without.any():
            same(found.sel(label=-100), values[without])

    @given(outputs(), st.sampled_from([-100, 0, 1, 2, 7]), st.integers(0, 3))
    def test_one_class_by_unit_and_one_unit_by_label(self, sample, true, unit):
        values, label = sample
        kept = dataset(values, label)
        if true in label:
            found = bin_kept(kept, VIEW, Part.of(true, None, "unit"))
            for each in found.unit.values:
                same(found.sel(unit=each), values[label == true, each])
        if unit < values.shape[1]:
            found = bin_kept(kept, VIEW, Part.of(None, unit, "label"))
            for each in found.label.values:
                same(found.sel(label=each), values[label == each, unit])


def counted(values, label):
    """Count outputs by unit and truth, the slow way."""
    units = values.shape[1]
    counts = np.zeros((units, 3, AXIS.n_buckets), np.int64)
    for row, true in zip(values, label, strict=True):
        for unit, value in enumerate(row):
            truth = 2 if true < 0 else int(true == unit) if units > 1 else int(true)
            counts[unit, truth, AXIS.index(value)] += 1
    return xr.DataArray(
        counts,
        {
            "truth": ["no", "yes", "unlabelled"],
            "lower": ("bucket", AXIS.lower),
            "upper": ("bucket", AXIS.upper),
        },
        ("unit", "truth", "bucket"),
        attrs={"units": "each"},
    )


def buckets_of(values):
    return np.bincount(AXIS.index(np.ravel(values)), minlength=AXIS.n_buckets)


class TestCounted:
    @given(outputs())
    def test_units_are_known_and_the_class_of_each(self, sample):
        values, label = sample
        label = (
            np.where(label < values.shape[1], label, -100) if values.shape[1] > 1 else np.minimum(label, 1)
        )
        counts = counted(values, label)
        by_unit = choose_counts(counts, Part.of(None, None, "unit"))
        assert by_unit.dims == ("unit", "bucket")
        for unit in by_unit.unit.values:
            np.testing.assert_array_equal(by_unit.sel(unit=unit), buckets_of(values[:, unit]))
            one = choose_counts(counts, Part.of(None, int(unit), ()))
            np.testing.assert_array_equal(one, buckets_of(values[:, unit]))
            if unit in label and values.shape[1] > 1:
                own = choose_counts(counts, Part.of(int(unit), int(unit), ()))
                np.testing.assert_array_equal(own, buckets_of(values[label == unit, unit]))

    @given(outputs(), st.sampled_from(["label", ("label", "unit"), ("unit", "label")]))
    def test_everything_of_a_single_unit_is_known(self, sample, by):
        values, label = sample[0][:, :1], np.minimum(sample[1], 1)
        part = Part.of(None, None, by)
        found = choose_counts(counted(values, label), part)
        assert found.dims == (*part.by, "bucket")
        assert found.label.values.tolist() == sorted(set(label.tolist()))
        for true in found.label.values:
            np.testing.assert_array_equal(found.sel(label=true).squeeze(), buckets_of(values[label == true]))
            one = choose_counts(counted(values, label), Part.of(int(true), None, ()))
            np.testing.assert_array_equal(one, buckets_of(values[label == true]))

    def test_labels_of_several_units_are_not(self):
        counts = counted(np.ones((3, 2)), np.array([0, 1, 1]))
        for by in ("label", ("label", "unit")):
            with pytest.raises(SelectionError, match=r"no histograms by label: .* by='unit' is known"):
                choose_counts(counts, Part.of(None, None, by))
        with pytest.raises(SelectionError, match="no counts of label 1 alone"):
            choose_counts(counts, Part.of(1, None, "unit"))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ((True, None, ()), "label must be a whole number, got True"),
        ((None, 1.0, ()), "unit must be a whole number, got 1.0"),
        (("1", None, ()), "label must be a whole number, got '1'"),
        ((None, None, "lable"), "by must be 'label', 'unit' or both, got 'lable': did you mean 'label'"),
        ((None, None, ("unit", "unit")), "by must be 'label', 'unit' or both"),
        ((None, None, 3), "by must be 'label', 'unit' or both, got 3"),
        ((None, None, ("unit", 3)), "by must be 'label', 'unit' or both"),
        ((3, None, "label"), "by='label' tells all apart, label=3 names one: give one of them"),
        ((None, 0, ("label", "unit")), "by='unit' tells all apart, unit=0 names one"),
    ],
)
def test_what_makes_no_sense_is_one_line(ask, message):
    with pytest.raises(SelectionError, match=message) as caught:
        Part.of(*ask)
    assert "\n" not in str(caught.value)
