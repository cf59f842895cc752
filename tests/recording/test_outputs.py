"""What of an output can be counted, and what cannot."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from actlab.recording.outputs import members, parts


def test_members_of_every_container():
    a, b, c = torch.zeros(3, 2)
    Pair = namedtuple("Pair", "left right")

    @dataclass
    class Output:
        loss: object
        logits: object

    for output, expected in [
        (a, {"": a}),
        ((a, (b, [c])), {":0": a, ":1:0": b, ":1:1:0": c}),
        ({"x": a, "y": None}, {":x": a}),
        (Pair(a, b), {":left": a, ":right": b}),
        (Output(None, {"z": a}), {":logits:z": a}),
        ([3, "text", Output], {}),
        (None, {}),
    ]:
        found = dict(members(output))
        assert found.keys() == expected.keys()
        assert all(found[key] is expected[key] for key in expected)
    assert list(dict(members(torch.max(torch.eye(2), 0)))) == [":0", ":1"]


def test_packed_and_nested_sequences_count_as_their_values():
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    assert dict(members((packed, packed))) == {":0": packed.data, ":1": packed.data}
    nested = torch.nested.nested_tensor([torch.ones(3, 2), torch.ones(1, 2)], layout=torch.jagged)
    (part,) = parts("", nested)
    assert part.values.shape == (4, 2)


def only(tensor):
    (part,) = parts("", tensor)
    return part


def test_complex_values_are_two_parts_in_every_form():
    values = torch.tensor([1 + 2j, 3 - 4j])
    for form in (values, values.conj(), values.reshape(2, 1).expand(2, 3)):
        real, imaginary = parts(":0", form)
        assert (real.suffix, imaginary.suffix) == (":0:real", ":0:imag")
        assert torch.equal(real.values, form.resolve_conj().real)
        assert torch.equal(imaginary.values, form.resolve_conj().imag.resolve_neg())


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr"])
def test_a_sparse_tensor_is_its_stored_values_and_zeros(layout):
    dense = torch.tensor([[0.0, 1, 0, 0], [2, 0, 0, 0]])
    options = {"blocksize": (1, 2)} if layout == "sparse_bsr" else {}
    sparse = dense.to_sparse(layout=getattr(torch, layout), **options)
    part = only(sparse)
    assert part.values.numel() + part.zeros == dense.numel()
    assert sorted(part.values[part.values != 0].tolist()) == [1, 2]
    assert part.shape == (2, 4)


def test_equal_places_of_a_sparse_tensor_are_summed_first():
    part = only(torch.sparse_coo_tensor([[1, 1]], torch.tensor([2.0, 3.0]), (4,)))
    assert (part.values.tolist(), part.zeros) == ([5.0], 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_what_holds_no_floats_says_what_it_is(dtype):
    part = only(torch.zeros(2, dtype=dtype))
    assert (part.values, part.reason) == (None, f"its output is {str(dtype).removeprefix('torch.')}")


def test_what_has_no_memory_of_its_own_is_passed_over():
    assert parts("", torch.empty(3, device="meta")) == []


def test_subclasses_and_parameters_are_read_as_tensors():
    class Image(torch.Tensor):
        pass

    values = torch.arange(3.0)
    for tensor in (values.as_subclass(Image), nn.Parameter(values)):
        part = only(tensor)
        assert type(part.values) is torch.Tensor
        assert not part.values.requires_grad
        np.testing.assert_array_equal(part.values.numpy(), [0, 1, 2])
