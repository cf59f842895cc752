"""Rows of a model whose layers changed, on the table of the rows before."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlab.schema import CHANNELS, COUNTS, MOMENTS, LayerInfo
from actlab.store.layer_map import LayerMap
from actlab.store.row import ChannelStats

NAMES = [f"layer{number}" for number in range(6)]
TABLES = st.lists(st.sampled_from(NAMES), unique=True, min_size=1)


def info(name, **more):
    return LayerInfo(name, **more)


@given(stored=TABLES, tables=st.lists(TABLES, min_size=1, max_size=4))
def test_every_layer_has_its_values_and_no_other(stored, tables, make_row):
    layer_map, names = LayerMap([info(name) for name in stored], {}), list(stored)
    for step, table in enumerate(tables):
        names += [name for name in table if name not in names]
        row = replace(make_row(step, layers=len(table)), layers=tuple(map(info, table)))
        found = layer_map.apply(row)
        assert [layer.name for layer in found.layers] == names
        for place, name in enumerate(names):
            for each in (*MOMENTS, COUNTS):
                values = getattr(found, each.name)[place]
                expected = (
                    getattr(row, each.name)[table.index(name)]
                    if name in table
                    else np.full_like(values, float(each.fill))
                )
                np.testing.assert_array_equal(values, expected)
                assert getattr(found, each.name).dtype == getattr(row, each.name).dtype


@given(stored=TABLES, tables=st.lists(TABLES, min_size=1, max_size=4))
def test_every_channel_has_its_values_and_no_other(stored, tables, make_row):
    sizes = {name: number + 1 for number, name in enumerate(NAMES)}
    layer_map = LayerMap(list(map(info, NAMES)), {"train": [(name, sizes[name]) for name in stored]})
    names = list(stored)
    for step, table in enumerate(tables):
        names += [name for name in table if name not in names]
        total = sum(sizes[name] for name in table)
        values = np.arange(total) + 1
        block = ChannelStats(
            tuple(table),
            tuple(sizes[name] for name in table),
            values.astype(np.uint64),
            values // 2,
            values / 3,
        )
        row = replace(make_row(step, layers=6), layers=tuple(map(info, NAMES)), channels=block)
        found = layer_map.apply(row).channels
        assert (found.layers, found.sizes) == (tuple(names), tuple(sizes[name] for name in names))
        starts = dict(zip(table, np.cumsum([0, *block.sizes]), strict=False))
        for each in CHANNELS:
            parts = np.split(getattr(found, each.name), np.cumsum(found.sizes)[:-1])
            for name, part in zip(names, parts, strict=True):
                if name in table:
                    mine = slice(starts[name], starts[name] + sizes[name])
                    np.testing.assert_array_equal(part, getattr(block, each.name)[mine])
                else:
                    np.testing.assert_array_equal(part, np.full(sizes[name], float(each.fill)))


def test_the_same_layers_cost_nothing(make_row, add_side):
    row = add_side(make_row(0))
    table = [("layer0", 3), ("layer1", 2)]
    assert LayerMap(row.layers, {"train": table}).apply(row) is row


def test_what_is_known_of_a_layer_stays_until_it_is_called_again(make_row):
    called = info("layer0", kind="Linear", shape=(2, 3), calls=1)
    layer_map = LayerMap([called, info("layer1"), info("layer2")], {})
    assert layer_map.apply(make_row(0)).layers[0] == called
    again = replace(called, shape=(5, 3))
    row = make_row(1)
    assert layer_map.apply(replace(row, layers=(again, *row.layers[1:]))).layers[0] == again


@pytest.mark.parametrize(
    "changes",
    [
        {"std": np.zeros(7)},
        {"n": np.array(1)},
        {"channels": ChannelStats(("layer0", "layer0"), (1, 1), *np.zeros((3, 2)))},
        {"channels": ChannelStats(("layer0",), (1, 1), *np.zeros((3, 2)))},
        {"channels": ChannelStats(("layer0",), (4,), *np.zeros((3, 4)))},
        {"channels": ChannelStats(("layer0",), (3,), *np.zeros((3, 4)))},
    ],
)
def test_what_does_not_fit_is_left_to_the_rules(changes, make_row):
    row = replace(make_row(0), **changes)
    layer_map = LayerMap(list(map(info, ["layer2", "layer0"])), {"train": [("layer1", 2), ("layer0", 3)]})
    found = layer_map.apply(row)
    for name, value in changes.items():
        assert getattr(found, name) is value
