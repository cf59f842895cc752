"""The on-disk contract: dims, variables, dtypes, fill values, attributes, version. One place.

`docs/format.md` says the same in prose. Nothing here touches a disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from actlab.axis import FloatAxis
from actlab.errors import StoreError

__all__ = [
    "CHANNELS",
    "CHANNELS_GROUP",
    "CHANNEL_TABLE",
    "COUNTS",
    "FORMAT_VERSION",
    "HEAD",
    "HEAD_COUNTS",
    "HEAD_GROUP",
    "LABEL",
    "LABELS_GROUP",
    "LABEL_MOMENTS",
    "LAYER_COORDINATES",
    "LOG_NAME",
    "LOG_PREFIX",
    "MOMENTS",
    "MOST_CHANNELS",
    "MOST_LABELS",
    "MOST_LOGS",
    "MOST_SAMPLED_LAYERS",
    "MOST_UNITS",
    "RAW_GROUP",
    "RAW_INDEX",
    "ROWS",
    "ROW_INDEX",
    "SAMPLES_GROUP",
    "SAMPLE_INDEX",
    "SPLITS",
    "TRUTH",
    "TRUTHS",
    "VALUES",
    "VALUE_DTYPES",
    "LayerInfo",
    "Variable",
    "axis_from_attributes",
    "axis_to_attributes",
    "layers_from_attributes",
]

FORMAT_VERSION: Final = (1, 2)
SPLITS: Final = ("train", "valid", "test")
RAW_GROUP: Final = "raw"
CHANNELS_GROUP: Final = "channels"
SAMPLES_GROUP: Final = "samples"
HEAD_GROUP: Final = "head"
LABELS_GROUP: Final = "labels"
TRUTHS: Final = ("no", "yes", "unlabelled")
VALUE_DTYPES: Final = ("float16", "float32", "float64")
MOST_CHANNELS: Final = 1 << 22
MOST_SAMPLED_LAYERS: Final = 256
MOST_UNITS, MOST_LABELS = 128, 1024
MOST_LOGS: Final = 1000
LOG_PREFIX: Final = "log_"
LOG_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,120}")
"""What may follow `LOG_PREFIX`; the whole name must match."""


@dataclass(frozen=True)
class Variable:
    """One array of the format: its name, dims, little-endian dtype and fill value."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    fill: float | int | str
    description: str


ROWS: Final = (
    Variable("step", ("step",), "int64", -1, "batch of its split, counted from 0"),
    Variable("epoch", ("step",), "int64", -1, "epoch label; -1 for evaluation before any training"),
    Variable("batch", ("step",), "int64", -1, "batch within its epoch and split"),
    Variable("train_step", ("step",), "int64", -1, "training batches completed before this row"),
    Variable("attempt", ("step",), "int64", -1, "0, and one more for each resume"),
    Variable("time", ("step",), "float64", "NaN", "seconds since 1970-01-01 UTC"),
    Variable("row_crc32c", ("step",), "uint32", 0, "checksum of the row, see docs/format.md"),
)
MOMENTS: Final = (
    Variable("n", ("step", "layer"), "uint64", 0, "values of the tensor, non-finite ones included"),
    Variable("mean", ("step", "layer"), "float64", "NaN", "mean of the finite values"),
    Variable("std", ("step", "layer"), "float64", "NaN", "standard deviation of the finite values, ddof 0"),
    Variable("min", ("step", "layer"), "float64", "NaN", "smallest finite value"),
    Variable("max", ("step", "layer"), "float64", "NaN", "largest finite value"),
)
COUNTS: Final = Variable("counts", ("step", "layer", "bucket"), "uint32", 0, "values in each bucket")
LAYER_COORDINATES: Final = (
    Variable("layer", ("layer",), "string", "", "dotted name of the module"),
    Variable("lower", ("bucket",), "float64", "NaN", "lower end of the bucket"),
    Variable("upper", ("bucket",), "float64", "NaN", "upper end of the bucket"),
)
RAW_INDEX: Final = (
    Variable("step", ("sample",), "int64", -1, "step of the row this sample belongs to"),
    Variable("attempt", ("sample",), "int64", -1, "attempt of the row this sample belongs to"),
    Variable("sample_step", ("sample",), "int64", -1, "the same as step, see docs/format.md"),
)
ROW_INDEX: Final = (
    Variable("row_step", ("row",), "int64", -1, "step of the row of the split"),
    Variable("row_attempt", ("row",), "int64", -1, "attempt of the row of the split"),
)
CHANNELS: Final = (
    Variable("n", ("row", "channel"), "uint64", 0, "values of the channel, non-finite ones included"),
    Variable("zeros", ("row", "channel"), "uint64", 0, "values equal to 0"),
    Variable("mean_abs", ("row", "channel"), "float64", "NaN", "mean |a| of the finite values"),
)
CHANNEL_TABLE: Final = (
    Variable("channel_layer", ("channel",), "string", "", "layer of the channel"),
    Variable("channel_index", ("channel",), "int64", -1, "channel within its layer"),
)
VALUES: Final = Variable("values", ("sample",), "float32", "NaN", "outputs of the layer")
SAMPLE_INDEX: Final = (
    Variable("index", ("sample",), "int64", -1, "position of the sample in its batch"),
    Variable("sample_step", ("sample",), "int64", -1, "step of the row this sample belongs to"),
    Variable("attempt", ("sample",), "int64", -1, "attempt of the row this sample belongs to"),
)
HEAD_COUNTS: Final = Variable(
    "counts", ("row", "unit", "truth", "bucket"), "uint32", 0, "values of the head in each bucket"
)
TRUTH: Final = Variable("truth", ("truth",), "string", "", "whether the unit is that of the true class")
LABEL_MOMENTS: Final = (
    Variable("n", ("row", "label", "unit"), "uint64", 0, "values of the label, non-finite ones included"),
    Variable("mean", ("row", "label", "unit"), "float64", "NaN", "mean of the finite values"),
    Variable("std", ("row", "label", "unit"), "float64", "NaN", "standard deviation of those, ddof 0"),
)
HEAD: Final = Variable("head", ("sample", "unit"), "float32", "NaN", "outputs of the head")
LABEL: Final = Variable("label", ("sample",), "int64", -100, "true class (or 0/1 per unit); -100 for none")


@dataclass(frozen=True)
class LayerInfo:
    """What is known of a layer: an entry of the root attribute `layers`.

    `shape` is the output shape of its first call ([] before it), `calls` the number of calls in
    the first batch in which it was called, 0 for a layer never called.
    """

    name: str
    kind: str = ""
    description: str = ""
    shape: tuple[int, ...] = ()
    calls: int = 0


_LAYER_FIELDS: Final = [field.name for field in fields(LayerInfo)]


def layers_from_attributes(attributes: Mapping[str, Any]) -> tuple[LayerInfo, ...]:
    """Read the table of layers; what a later format adds to its entries is left out."""
    return tuple(
        LayerInfo(**{name: entry[name] for name in _LAYER_FIELDS} | {"shape": tuple(entry["shape"])})
        for entry in attributes["layers"]
    )


def axis_to_attributes(axis: FloatAxis) -> dict[str, Any]:
    """Return the JSON form of the recording axis."""
    return {"kind": "float", **asdict(axis)}


def axis_from_attributes(attributes: dict[str, Any]) -> FloatAxis:
    """Read the recording axis back from its JSON form.

    Raises
    ------
    StoreError
        If the kind is unknown or the parameters are not those of a `FloatAxis`.
    """
    values = dict(attributes)
    if (kind := values.pop("kind", None)) != "float":
        raise StoreError(f"recording axis of unknown kind {kind!r}, expected 'float'")
    try:
        return FloatAxis(**values)
    except (TypeError, ValueError) as error:
        raise StoreError(f"recording axis is damaged: {error}") from error
