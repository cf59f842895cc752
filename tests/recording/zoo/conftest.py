"""How the zoo is checked: an equal training bare, counted by numpy, and recorded to disk.

A test of the zoo gives `make`, which builds `(model, *inputs)`, and perhaps `run(model, watch, *inputs)`,
which trains and returns the tensors that it saw. `watch` has the `batch`, `pause` and `detached` of a
recorder, whoever watches.
"""

import dataclasses
import os
import warnings
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import actlab


def tensors(output):
    """Yield (suffix, tensor) for every tensor in an output."""
    if isinstance(output, torch.Tensor):
        yield "", output
        return
    if isinstance(output, nn.utils.rnn.PackedSequence):
        yield "", output.data
        return
    items = ()
    if isinstance(output, Mapping):
        items = output.items()
    elif hasattr(output, "_asdict"):
        items = output._asdict().items()
    elif isinstance(output, list | tuple):
        items = enumerate(output)
    elif dataclasses.is_dataclass(output):
        items = vars(output).items()
    for key, member in items:
        for suffix, tensor in tensors(member):
            yield f":{key}{suffix}", tensor


def dense(tensor):
    """Return all values of a tensor, whatever holds them."""
    if tensor.is_nested:
        return torch.cat([part.flatten() for part in tensor.unbind()])
    return tensor.to_dense() if tensor.layout != torch.strided else tensor


def values(tensor):
    """Return {suffix: float64 values} of a tensor: none for whole numbers, two parts for complex ones."""
    tensor = dense(tensor.detach())
    if tensor.is_complex():
        parts = {":real": tensor.real, ":imag": tensor.imag}
    else:
        parts = {"": tensor} if tensor.is_floating_point() else {}
    # Through float32 first, as torch turns no float8 into float64.
    widened = {
        key: part if part.dtype == torch.float64 else part.float().double() for key, part in parts.items()
    }
    return {key: part.contiguous().numpy().copy().ravel() for key, part in widened.items()}


def buckets(data):
    """Count values on the default axis, from mantissa and exponent: 32 buckets a power of two, -24 to 31."""
    mantissa, exponent = np.frexp(np.abs(data))
    exponent = exponent - 1
    with np.errstate(invalid="ignore"):
        place = 2 + 32 * (exponent + 24) + np.floor(64 * mantissa - 32).astype(np.int64)
    place[exponent < -24] = 1
    place[exponent > 31] = 1794
    place[data == 0] = 0
    place[np.isinf(data)] = 1795
    place = 1795 + np.where(np.signbit(data), -place, place)
    place[np.isnan(data)] = 3591
    return np.bincount(place, minlength=3592)


class Nobody:
    """Watches nothing."""

    def batch(self, *_, **__):
        return nullcontext()

    pause = detached = batch


class Counter:
    """Copies of what every leaf returned, by forward hooks of its own."""

    def __init__(self, models):
        self.rows = {}
        self._row = self._kept = None
        for prefix, model in models.items():
            source = f"{prefix}(input)" if hasattr(model, "input") else f"{prefix}input"
            model.register_forward_pre_hook(partial(self._on_input, source), with_kwargs=True)
            for name, module in model.named_modules():
                children = [key for key, _ in module.named_children() if key != "parametrizations"]
                if "parametrizations" not in name.split(".") and not children:
                    layer = prefix + name or type(module).__name__
                    module.register_forward_hook(partial(self._on_output, layer))

    def _on_input(self, layer, _, args, kwargs):
        floats = [tensor for _, tensor in tensors((args, kwargs)) if tensor.is_floating_point()]
        self._on_output(layer, None, None, floats[0] if floats else None)

    def _on_output(self, layer, _, __, output):
        if self._row is not None:
            for suffix, tensor in tensors(output):
                for part, data in values(tensor).items():
                    self._row.setdefault(layer + suffix + part, []).append(data)

    @contextmanager
    def batch(self, split, epoch, labels=None):
        self._row = {}
        try:
            yield
            self.rows.setdefault(split, []).append((epoch, self._row))
        finally:
            self._row = None

    @contextmanager
    def pause(self):
        self._row, kept = None, self._row
        yield
        self._row = kept

    detached = pause


def learn(model, watch, *inputs, steps=2):
    """Train and evaluate on what every tensor that the model returns says."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen = []
    for _ in range(steps):
        model.train()
        with watch.batch("train", 0):
            output = model(*inputs)
        found = [dense(tensor) for _, tensor in tensors(output)]
        loss = sum(each.abs().square().float().mean() for each in found if each.requires_grad)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += [loss.detach(), *found]
    model.eval()
    with torch.no_grad(), watch.batch("valid", 0):
        output = model(*inputs)
    return seen + [dense(tensor) for _, tensor in tensors(output)]


def as_bytes(tensor):
    """Return a tensor as bytes, so that NaN equals NaN and 0.0 does not equal -0.0."""
    flat = tensor.detach().contiguous().flatten()
    return tensor.dtype, tuple(tensor.shape), bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def hooks_of(model):
    """Count the hooks of every module."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return [[len(getattr(module, kind)) for kind in kinds] for module in model.modules()]


def play(make, run, watch_by):
    """Train once from the seed; return the models, and everything that must not depend on who watches."""
    torch.manual_seed(7)
    model, *inputs = make()
    models = model if isinstance(model, dict) else {"": model}
    watch, leave = watch_by(model, models)
    seen = run(model, watch, *inputs)
    random_state = torch.get_rng_state()
    leave()
    state = [
        tensor
        for each in models.values()
        for tensor in each.state_dict().values()
        if isinstance(tensor, torch.Tensor)
    ]
    return (
        [as_bytes(tensor) for tensor in (*seen, *state, random_state)],
        [hooks_of(each) for each in models.values()],
        watch,
    )


def told_apart(row):
    """Give every call of a layer that was called more than once a name of its own."""
    apart = {}
    for name, parts in row.items():
        module, colon, suffix = name.partition(":")
        for call, part in enumerate(parts, 1):
            apart[f"{module}#{call}{colon}{suffix}" if len(parts) > 1 else name] = [part]
    return apart


def compare(rows, recorded, rename, steps):
    """Check one split: what numpy counted in these rows against what is on disk."""
    assert recorded.step.values.tolist() == steps
    assert recorded.epoch.values.tolist() == [rows[step][0] for step in steps]
    recorded = recorded.load()
    for position, step in enumerate(steps):
        counted = {rename.get(name, name): np.concatenate(parts) for name, parts in rows[step][1].items()}
        row = recorded.isel(step=position)
        assert sorted(counted) == sorted(
            name for name in row.layer.values if name in counted or row.n.sel(layer=name) > 0
        )
        for name in row.layer.values:
            data, found = counted.get(name, np.array([])), row.sel(layer=name)
            finite = data[np.isfinite(data)]
            assert int(found.n) == data.size, (name, step)
            np.testing.assert_array_equal(found.counts, buckets(data), err_msg=f"{name}, step {step}")
            with np.errstate(over="ignore"):
                moments = (
                    [finite.min(), finite.max(), finite.mean(), finite.std()] if finite.size else [np.nan] * 4
                )
            np.testing.assert_array_equal([found["min"], found["max"]], moments[:2], err_msg=name)
            scale = np.abs(finite).max(initial=0)
            np.testing.assert_allclose(
                [found["mean"], found["std"]], moments[2:], rtol=0, atol=1e-9 * scale + 5e-324, err_msg=name
            )


@pytest.fixture(name="learn")
def learn_fixture():
    """The `run` that is used where a test gives none."""
    return learn


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return the function that puts one model or setting of the zoo to the test.

    The recorded training must be equal to the bare one to the last bit, and what is on disk to what
    numpy counts in an equal training; no hook stays behind, and nothing is warned of but `warns`.

    `reference` is the `(make, run)` that numpy counts, where that is not the same; `rename` says under
    which names its layers are recorded; `names` are all layers on disk, in order; `steps` the recorded
    ones of a split, if not all. What else is given goes to the recorder. Returns the run.
    """

    # Waiting for the disk is most of a test's time, and nothing here cuts the power.
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def put_to_the_test(
        make, run=learn, *, reference=None, names=None, rename=None, steps=None, warns=(), **options
    ):
        torch.set_num_threads(1)
        path = tmp_path / "run.zarr"

        def count(model, models):
            return Counter({f"{key}.".lstrip("."): each for key, each in models.items()}), lambda: None

        def record(model, models):
            recorder = actlab.Recorder(model, path, **({"on_error": "raise"} | options))
            return recorder, recorder.close

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bare, bare_hooks, _ = play(make, run, lambda *_: (Nobody(), lambda: None))
            _, _, counter = play(*(reference or (make, run)), count)
            recorded, recorded_hooks, _ = play(make, run, record)
        said = [str(each.message) for each in caught if str(each.message).startswith("actlab")]
        assert len(said) == len(warns), said
        assert all(part in each for part, each in zip(warns, said, strict=True)), said
        assert [a == b for a, b in zip(bare, recorded, strict=True)] == [True] * len(bare)
        assert recorded_hooks == bare_hooks
        found = actlab.open_run(path)
        assert set(found.splits) == set(counter.rows)
        for split, counted in counter.rows.items():
            is_apart = options.get("calls") == "separate"
            rows = [(epoch, told_apart(row) if is_apart else row) for epoch, row in counted]
            compare(rows, found[split], rename or {}, (steps or {}).get(split, list(range(len(rows)))))
        if names is not None:
            assert found.names == names
        return found

    return put_to_the_test
