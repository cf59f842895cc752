"""The on-disk contract: names that other tools rely on, and the axis as JSON."""

import json

import pytest

from actlab import schema
from actlab.axis import FloatAxis
from actlab.errors import StoreError


def test_axis_survives_json():
    axis = FloatAxis(7, -20, 15)
    stored = json.loads(json.dumps(schema.axis_to_attributes(axis)))
    assert stored == {"kind": "float", "mantissa_bits": 7, "min_exponent": -20, "max_exponent": 15}
    assert schema.axis_from_attributes(stored) == axis
    assert stored["kind"] == "float", "reading must not change what was stored"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "linear"}, "unknown kind 'linear'"),
        ({"kind": None}, "unknown kind None"),
        ({"mantissa_bits": 50}, "damaged: mantissa_bits must be within"),
        ({"mantissa_bits": "5"}, "damaged: mantissa_bits must be a whole number"),
        ({"more": 1}, "damaged: .*more"),
    ],
)
def test_a_damaged_axis_is_one_store_error(change, message):
    with pytest.raises(StoreError, match=message):
        schema.axis_from_attributes(schema.axis_to_attributes(FloatAxis()) | change)


def test_names_dims_and_dtypes_of_format_1():
    variables = (*schema.ROWS, *schema.MOMENTS, schema.COUNTS, schema.HEAD, schema.LABEL)
    assert schema.FORMAT_VERSION == (1, 2)
    assert {variable.name: (variable.dims, variable.dtype) for variable in variables} == {
        **dict.fromkeys(("step", "epoch", "batch", "train_step", "attempt"), (("step",), "int64")),
        "time": (("step",), "float64"),
        "row_crc32c": (("step",), "uint32"),
        "n": (("step", "layer"), "uint64"),
        **dict.fromkeys(("mean", "std", "min", "max"), (("step", "layer"), "float64")),
        "counts": (("step", "layer", "bucket"), "uint32"),
        "head": (("sample", "unit"), "float32"),
        "label": (("sample",), "int64"),
    }


def test_names_dims_and_dtypes_of_side_data():
    def forms(variables):
        return {variable.name: (variable.dims, variable.dtype) for variable in variables}

    row, channel, label = ("row",), ("row", "channel"), ("row", "label", "unit")
    assert schema.TRUTHS == ("no", "yes", "unlabelled")
    assert forms(schema.ROW_INDEX) == {"row_step": (row, "int64"), "row_attempt": (row, "int64")}
    assert forms((*schema.CHANNELS, *schema.CHANNEL_TABLE)) == {
        **dict.fromkeys(("n", "zeros"), (channel, "uint64")),
        "mean_abs": (channel, "float64"),
        "channel_layer": (("channel",), "string"),
        "channel_index": (("channel",), "int64"),
    }
    assert forms((schema.VALUES, *schema.SAMPLE_INDEX)) == {
        "values": (("sample",), "float32"),
        **dict.fromkeys(("index", "sample_step", "attempt"), (("sample",), "int64")),
    }
    assert forms((schema.HEAD_COUNTS, schema.TRUTH)) == {
        "counts": (("row", "unit", "truth", "bucket"), "uint32"),
        "truth": (("truth",), "string"),
    }
    assert forms(schema.LABEL_MOMENTS) == {
        "n": (label, "uint64"), "mean": (label, "float64"), "std": (label, "float64")
    }  # fmt: skip
