"""Recorder: rows and their numbers, the promises to the training loop, a run on disk."""

import copy
import gc
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from actlab.axis import FloatAxis
from actlab.errors import SelectionError, StoreError
from actlab.recording import recorder as recorder_module
from actlab.recording.recorder import Recorder
from actlab.store import row as row_module

AXIS = FloatAxis()


def train(model, batches=6, around=None, seed=1):
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number in range(batches):
        x, y = torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,))
        if around is None:
            loss = nn.functional.cross_entropy(model(x), y)
        else:
            with around.batch("train", number // 3, y):
                loss = nn.functional.cross_entropy(model(x), y)
            around.log(loss=loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def watch(model, names):
    """Count with numpy what the layers return, independently of actlab."""
    seen = {name: [] for name in names}
    for name in names:

        def hook(module, args, output, name=name):
            seen[name].append(output.detach().clone().numpy().ravel())

        model.get_submodule(name).register_forward_hook(hook)
    return seen


def test_weights_and_random_state_are_bit_equal_with_and_without(writer, make_model):
    bare, recorded = make_model(), make_model()
    train(bare)
    state = torch.random.get_rng_state()
    with Recorder(recorded, "memory", on_error="raise") as recorder:
        train(recorded, around=recorder)
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in bare.state_dict().items():
        assert torch.equal(value, recorded.state_dict()[name]), name


def test_counts_of_every_layer_equal_those_of_an_independent_hook(writer, make_model):
    model = make_model()
    seen = watch(model, "012345")
    with Recorder(model, "memory", on_error="raise") as recorder:
        train(model, around=recorder)
    assert len(writer().rows) == 6
    for step, row in enumerate(writer().rows):
        np.testing.assert_array_equal(row.counts.sum(1), row.n)
        for position, layer in enumerate(row.layers[1:], 1):
            values = seen[layer.name][step].astype(np.float64)
            expected = np.bincount(AXIS.index(values), minlength=AXIS.n_buckets)
            np.testing.assert_array_equal(row.counts[position], expected, err_msg=layer.name)
            assert row.mean[position] == pytest.approx(values.mean(), rel=1e-12, abs=1e-12)
            assert row.std[position] == pytest.approx(values.std(), rel=1e-9)
            assert (row.min[position], row.max[position]) == (values.min(), values.max())
    assert row.min[2] < 0 <= row.min[3], "counted before the in-place ReLU"


def test_rows_are_numbered_by_split_epoch_and_training_batch(writer):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory", every=2, on_error="raise") as recorder:
        plan = (
            [("valid", -1)] * 2 + [("train", 0)] * 3 + [("valid", 0)] * 3 + [("train", 1)] * 3 + [("test", 1)]
        )
        for split, epoch in plan:
            with recorder.batch(split, epoch):
                model(torch.ones(2, 1))
    rows = [(row.split, row.step, row.epoch, row.batch, row.train_step) for row in writer().rows]
    assert rows == [
        ("valid", 0, -1, 0, 0),
        ("train", 0, 0, 0, 0),
        ("train", 2, 0, 2, 2),
        ("valid", 2, 0, 0, 3),
        ("valid", 4, 0, 2, 3),
        ("train", 4, 1, 1, 4),
        ("test", 0, 1, 0, 6),
    ]
    assert all(row.n.tolist() == [2, 2] for row in writer().rows)


def test_log_belongs_to_its_own_batch_until_that_is_sealed(writer):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory", every=2, on_error="raise") as recorder:
        recorder.log(too_early=1)
        for number in range(4):
            with recorder.batch("train", 0):
                model(torch.ones(1, 1))
                recorder.log(inside=number)
            recorder.log(loss=torch.tensor(float(number), requires_grad=True).detach(), outside=number)
    assert [row.logs for row in writer().rows] == [
        {"inside": 0, "loss": 0, "outside": 0},
        {"inside": 2, "loss": 2, "outside": 2},
    ]


def test_only_what_happens_inside_a_batch_is_recorded(writer):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory", on_error="raise") as recorder:
        model(torch.ones(1, 1))
        with recorder.batch("train", 0):
            model(torch.ones(1, 1))
            with recorder.pause(), recorder.pause():
                model(torch.ones(1, 1))
            model(torch.ones(1, 1))
        model(torch.ones(1, 1))
        with recorder.pause(), recorder.batch("train", 0):
            model(torch.ones(1, 1))
        with recorder.batch("train", 0):
            model(torch.ones(1, 1))
            assert recorder.flush() == {"train": 0}, "the open row is not sealed"
            recorder.log(inside=1)
    assert [(row.step, row.n.tolist()) for row in writer().rows] == [(0, [2, 2]), (2, [1, 1])]
    assert writer().rows[1].logs == {"inside": 1}


def test_flush_seals_the_latest_row_so_that_a_checkpoint_refers_to_it(writer):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory", every=2) as recorder:
        for step in range(3):
            with recorder.batch("train", 0):
                model(torch.ones(1, 1))
            recorder.log(loss=step)
            assert recorder.flush() == recorder.flush() == {"train": step - step % 2}
            assert writer().counted == {"train": step + 1, "valid": 0, "test": 0}
        with pytest.warns(RuntimeWarning, match="logged after flush belongs to no row: log first"):
            recorder.log(late=1)
        with recorder.batch("train", 0):
            recorder.log(unrecorded=1)
        recorder.flush()
        recorder.log(unrecorded=1)
    assert [row.logs for row in writer().rows] == [{"loss": 0}, {"loss": 2}]


def test_an_exception_leaves_no_hook_and_no_half_row(writer, make_model, hooks_of):
    model = make_model()

    def fail():
        with Recorder(model, "memory", on_error="raise") as recorder:
            with recorder.batch("train", 0):
                model(torch.randn(4, 1, 8, 8))
            with recorder.batch("train", 0):
                model[0](torch.randn(4, 1, 8, 8))
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert hooks_of(model) == 0
    assert [row.step for row in writer().rows] == [0]
    assert writer().is_closed


def test_a_failed_batch_does_not_count_into_the_next(writer):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory", on_error="raise") as recorder:
        with pytest.raises(ZeroDivisionError), recorder.batch("train", 0):
            model(torch.ones(5, 1)) / (1 // 0)
        with recorder.batch("train", 0):
            model(torch.ones(2, 1))
    (row,) = writer().rows
    assert (row.step, row.n.tolist(), row.head.shape) == (0, [2, 2], (2, 1))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda recorder: recorder.batch("trian", 0), "did you mean 'train'"),
        (lambda recorder: recorder.batch("train", "one"), "str"),
    ],
)
def test_a_slip_inside_the_loop_warns_or_raises_as_asked(writer, use, message):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory") as recorder, pytest.warns(RuntimeWarning, match=message), use(recorder):
        model(torch.ones(1, 1))
    assert writer().rows == []
    recorder = Recorder(model, "memory", on_error="raise")
    with pytest.raises((SelectionError, TypeError), match=message), use(recorder):
        pass
    recorder.close()


def test_labels_that_do_not_fit_warn_and_the_row_stays(writer):
    model = nn.Linear(1, 2)
    with (
        Recorder(model, "memory") as recorder,
        pytest.warns(RuntimeWarning, match="only the labels of this batch are left out.*do not fit"),
        recorder.batch("train", 0, labels=[1, 0, 1]),
    ):
        model(torch.ones(2, 1))
    (row,) = writer().rows
    assert (row.head.shape, row.label) == ((2, 2), None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, ValueError, "every must be a whole number of at least 1, got 0"),
        ({"every": True}, ValueError, "every"),
        ({"on_error": "ignore"}, ValueError, "'warn', 'raise' or 'stop', got 'ignore'"),
        ({"on_full": "wait"}, ValueError, "on_full must be 'drop' or 'block', got 'wait'"),
        ({"fsync": "never"}, ValueError, "fsync must be True, False or 'auto', got 'never'"),
        ({"flush_every": -1}, ValueError, "flush_every must be a number of seconds, got -1"),
        ({"resume_step": -1}, ValueError, "resume_step must be a number of training batches, got -1"),
        ({"resume_step": True}, ValueError, "resume_step"),
        ({"resume": True, "overwrite": True}, ValueError, "overwrite replaces .* and resume goes on"),
        ({"resume_step": 0, "overwrite": True}, ValueError, "overwrite replaces .* and resume goes on"),
        ({"resume_step": 3}, StoreError, "run.zarr"),
        ({"raw": "heads"}, ValueError, "raw must be 'head', None or a list of layer patterns, got 'heads'"),
        ({"axis": (-1, 1)}, TypeError, "FloatAxis"),
        ({"layers": "conv1"}, SelectionError, "nothing in the model matches 'conv1'"),
        ({"kinds": "Lineal"}, SelectionError, "did you mean 'Linear'"),
        ({"head": "fc"}, SelectionError, "head: the model has no layer 'fc'"),
        ({"model": lambda x: x}, TypeError, "torch.nn.Module, or a dict of them by name, got function"),
    ],
)
def test_wrong_arguments_raise_before_anything_is_written_or_hooked(
    tmp_path, hooks_of, options, error, message
):
    model = nn.Sequential(nn.Linear(1, 1))
    with pytest.raises(error, match=message):
        Recorder(options.pop("model", model), tmp_path / "run.zarr", **options)
    assert hooks_of(model) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_exists_is_refused_and_leaves_no_hook(tmp_path, hooks_of):
    model = nn.Linear(1, 1)
    Recorder(model, tmp_path / "run.zarr").close()
    with pytest.raises(StoreError, match="overwrite"):
        Recorder(model, tmp_path / "run.zarr")
    assert hooks_of(model) == 0
    Recorder(model, tmp_path / "run.zarr", overwrite=True).close()


def test_closing_twice_is_fine_and_a_batch_afterwards_is_not(writer):
    recorder = Recorder(nn.Linear(1, 1), "memory", on_error="raise")
    recorder.close()
    recorder.close()
    with pytest.raises(ValueError, match="closed"), recorder.batch("train", 0):
        pass


def test_copies_of_the_model_are_not_recorded_and_its_state_is_unchanged(writer, make_model):
    model = make_model()
    keys = list(model.state_dict())
    with Recorder(model, "memory", on_error="raise") as recorder, recorder.batch("train", 0):
        average = copy.deepcopy(model)
        average(torch.randn(4, 1, 8, 8))
        assert list(model.state_dict()) == keys
        assert len(list(model.buffers())) == len(list(average.buffers())) == 3
    assert writer().rows[0].n.sum() == 0


def test_precisions_modes_and_wide_heads(writer):
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    x = torch.randn(3, 4)
    with Recorder(model, "memory", on_error="raise") as recorder:
        with recorder.batch("train", 0), torch.autocast("cpu", torch.bfloat16):
            model(x)
        with recorder.batch("valid", 0), torch.inference_mode():
            model(x)
        model.double()
        with recorder.batch("valid", 0):
            model(x.double())
    for row in writer().rows:
        assert row.n.tolist() == row.counts.sum(1).tolist() == [12, 12, 12]
    assert [row.head is not None for row in writer().rows] == [True, True, False], "float64 has no raw form"


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"verlust_ä": 1.0}, "verlust_ä"),
        ({"n" * 121: 1.0}, "n" * 121),
        ({"a b": 1.0}, "a b"),
        ({"text": "3"}, "text"),
        ({"pair": torch.ones(2)}, "pair"),
        ({"nothing": None}, "nothing"),
    ],
)
def test_a_scalar_that_cannot_be_kept_costs_only_itself(writer, values, refused):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory") as recorder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with recorder.batch("train", 0):
                model(torch.ones(1, 1))
            recorder.log(before=1, **values, after=2)
    assert [refused in str(warning.message) for warning in caught] == [True]
    assert [row.logs for row in writer().rows] == [{"before": 1, "after": 2}] * 2


def test_the_store_takes_every_name_that_log_takes():
    assert recorder_module.LOG_NAME is row_module.LOG_NAME


def test_memory_does_not_grow_with_the_steps(writer, make_model, monkeypatch):
    model = make_model()
    recorder = Recorder(model, "memory", on_error="raise")
    monkeypatch.setattr(writer(), "append", lambda row: True)

    def objects_after(batches):
        train(model, batches, recorder)
        gc.collect()
        return len(gc.get_objects())

    objects_after(5)
    assert abs(objects_after(20) - objects_after(5)) < 50
    recorder.close()


def test_a_run_on_disk_holds_every_row(tmp_path, make_model):
    model = make_model()
    with Recorder(model, tmp_path / "run.zarr", on_error="raise") as recorder:
        train(model, 4, recorder)
        assert recorder.flush() == {"train": 3}
    tree = xr.open_datatree(tmp_path / "run.zarr", engine="zarr")
    data = tree["train"].to_dataset()
    assert data.sizes["step"] == 4
    assert data.layer.values.tolist() == ["input", *"012345"]
    assert bool((data.counts.sum("bucket") == data.n).all())
    assert data.log_loss.notnull().all()
    raw = tree["train/raw"].to_dataset()
    assert raw["head"].shape == (32, 3)
    assert set(np.unique(raw["label"])) <= {0, 1, 2}
    attributes = tree.attrs["actlab"]
    assert (attributes["head"], attributes["head_unit_dim"], attributes["epochs"]) == ("5", -1, "given")
    assert attributes["model"] == "Sequential"
    assert attributes["versions"]["torch"] == torch.__version__


def test_after_an_exception_the_run_on_disk_opens(tmp_path, make_model, hooks_of):
    model = make_model()

    def fail():
        with Recorder(model, tmp_path / "run.zarr") as recorder:
            train(model, 2, recorder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert hooks_of(model) == 0
    assert xr.open_datatree(tmp_path / "run.zarr", engine="zarr")["train"].sizes["step"] == 2


def test_a_script_that_never_closes_keeps_its_last_row(tmp_path):
    code = (
        "import torch, actlab\n"
        "model = torch.nn.Linear(1, 1)\n"
        f"recorder = actlab.Recorder(model, {str(tmp_path / 'run.zarr')!r})\n"
        "for _ in range(3):\n"
        "    with recorder.batch('train', 0): model(torch.ones(1, 1))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    tree = xr.open_datatree(tmp_path / "run.zarr", engine="zarr")
    assert tree["train"].sizes["step"] == 3
    assert tree.attrs["actlab"]["closed"]


def test_recording_loads_neither_xarray_nor_plotting(tmp_path):
    code = (
        "import sys, torch, actlab\n"
        "model = torch.nn.Linear(1, 1)\n"
        f"with actlab.record(model, {str(tmp_path / 'run.zarr')!r}): model(torch.ones(1, 1))\n"
        "heavy = {'xarray', 'pandas', 'zarr', 'dask', 'bokeh', 'holoviews', 'datashader', 'matplotlib'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("epoch", [2**63, -(2**63) - 1])
def test_an_epoch_that_no_store_holds_costs_its_batch_only(writer, epoch):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory") as recorder:
        with (
            pytest.warns(RuntimeWarning, match="epoch must fit into 64 bits"),
            recorder.batch("train", epoch),
        ):
            model(torch.ones(1, 1))
        with recorder.batch("train", 1):
            model(torch.ones(1, 1))
    assert [row.epoch for row in writer().rows] == [1]


def test_what_stops_a_batch_from_beginning_stops_only_that_one(writer, monkeypatch):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory") as recorder:
        with monkeypatch.context() as patch:
            patch.setattr(recorder._session.capture, "begin", lambda labels: 1 // 0)
            with pytest.warns(RuntimeWarning, match="batch failed"), recorder.batch("train", 0):
                model(torch.ones(1, 1))
        for _ in range(2):
            with recorder.batch("train", 0):
                model(torch.ones(1, 1))
    assert [row.n.tolist() for row in writer().rows] == [[1, 1]] * 2


def test_an_interrupt_while_counting_leaves_nothing_for_the_next_row(writer, monkeypatch):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory") as recorder:
        with recorder.batch("train", 0):
            model(torch.ones(1, 1))
        counters = next(iter(recorder._session.capture._keepers.tallies._counters.values()))
        count = counters._count

        def interrupted(*arguments):
            count(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(counters, "_count", interrupted)
            with pytest.raises(KeyboardInterrupt), recorder.batch("train", 0):
                model(torch.ones(7, 1))
        with recorder.batch("train", 0):
            model(torch.ones(2, 1))
    assert [row.counts.sum(1).tolist() for row in writer().rows] == [[1, 1], [2, 2]]


def test_a_loss_with_its_graph_is_logged_without_a_word(writer):
    model = nn.Linear(1, 1)
    with Recorder(model, "memory", on_error="raise", every=np.int64(1)) as recorder:
        with recorder.batch("train", 0, labels=[1]):
            loss = model(torch.ones(1, 1)).sum()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            recorder.log(loss=loss)
    assert writer().rows[0].logs == {"loss": loss.item()}


def test_lists_of_labels_do_not_follow_the_default_device(writer):
    model = nn.Linear(1, 2)
    with (
        Recorder(model, "memory", on_error="raise") as recorder,
        torch.device("meta"),
        recorder.batch("train", 0, labels=[1, 0]),
    ):
        model(torch.ones(2, 1, device="cpu"))
    np.testing.assert_array_equal(writer().rows[0].label, [1, 0])
