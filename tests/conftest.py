"""Fixtures and settings shared by all tests; append only."""

import os
import signal

import numpy as np
import pytest
from hypothesis import settings

# Compiling and loaded machines make single examples slow now and then; the same examples every time.
settings.register_profile("actlab", deadline=None, derandomize=True)
settings.load_profile("actlab")


# What a shell starts in the background ignores Ctrl-C, and so would all programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# With ACTLAB_REQUIRE_ALL set (as in .ci/run) everything must run: a skipped test is a failed one.


def _fail_if_skipped(report):
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("ACTLAB_REQUIRE_ALL"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but ACTLAB_REQUIRE_ALL is set: {report.longrepr[-1]}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return _fail_if_skipped((yield))


# Files are handed to whichever worker is free: the long ones first, so that none is left for the end.

_LONG = ("recipes/", "torture/", "test_distributed", "test_readme", "test_benchmarks", "test_experiments")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not any(part in item.nodeid for part in _LONG))


# A run from plain arrays, recorded by the real writer.


def _row(index, place, batch, layers, kept):
    """Build the `Row` of one batch {layer: values} over the layers of the run."""
    from actlab.axis import FloatAxis
    from actlab.store.row import Row

    axis, (split, epoch, batch_number, train_step) = FloatAxis(), place
    counts = np.zeros((len(layers), axis.n_buckets), np.uint32)
    moments = {name: np.full(len(layers), np.nan) for name in ("mean", "std", "min", "max")}
    n = np.zeros(len(layers), np.uint64)
    for position, layer in enumerate(layers):
        values = np.asarray(batch.get(layer.name, ()), np.float64).ravel()
        counts[position] = np.bincount(axis.index(values), minlength=axis.n_buckets)
        n[position] = values.size
        if np.isfinite(values).any():
            for name, moment in moments.items():
                moment[position] = getattr(np, name)(values[np.isfinite(values)])
    head, label = kept
    return Row(
        *(split, index, epoch, batch_number, train_step, 1.7e9 + index, tuple(layers), counts, n),
        **moments,
        logs={"loss": float(np.exp(-train_step / 10))},
        head=head,
        label=label,
    )


@pytest.fixture(scope="session")
def record_run(tmp_path_factory):
    """Return a function that records splits {split: [(epoch, {layer: values}, labels or None)]} as a run.

    Rows are numbered as they come; `raw` says whether (or by row: in which)
    the outputs of the head are kept.
    """
    from actlab.axis import FloatAxis
    from actlab.run import open_run
    from actlab.schema import LayerInfo
    from actlab.store.writer import RunWriter

    def record(splits, names, *, head="fc", raw=True, closed=True):
        path = tmp_path_factory.mktemp("run") / "run.zarr"
        called = {
            name: batch
            for rows in splits.values()
            for _, batches, _ in rows
            for name, batch in batches.items()
        }
        layers = [
            LayerInfo(
                name,
                "Linear" if name == head else "Module",
                "",
                np.shape(called[name]) if name in called else (),
                int(name in called),
            )
            for name in names
        ]
        writer = RunWriter(path, axis=FloatAxis(), attributes={"head": head, "model": "Small"}, fsync=False)
        epochs = [epoch for epoch, _, _ in splits.get("train", ())]
        for split, rows in splits.items():
            seen = []
            for index, (epoch, batch, label) in enumerate(rows):
                done = index if split == "train" else sum(known <= epoch for known in epochs)
                keeps = raw(index) if callable(raw) else raw
                kept = (np.asarray(batch[head], np.float32), label) if keeps else (None, None)
                assert writer.append(
                    _row(index, (split, epoch, seen.count(epoch), done), batch, layers, kept)
                )
                seen.append(epoch)
        if closed:
            writer.close()
        else:
            writer.flush()
        return open_run(path)

    return record


@pytest.fixture(scope="session")
def small_batches():
    """Batches of `small_run`: {split: [(epoch, {layer: values}, labels)]}, seeded."""
    random = np.random.default_rng(20)

    def batch(epoch):
        label = random.integers(0, 2, 20)
        image = random.normal(0, 1, (20, 6, 6))
        hidden = random.normal(0.2, 1.0 + 0.1 * epoch, (20, 64))
        answer = np.where(label[:, None] == [0, 1], 1, -1) * 1.5 * (epoch + 1)
        wild = np.append(random.normal(0, 1, 400), [np.nan, np.inf, -np.inf, 0, 1e5])
        layers = {
            "input": image,
            "body.linear": hidden,
            "body.relu": np.maximum(hidden, 0),
            "wild": wild,
            "fc": (random.normal(0, 0.5 + 0.2 * (epoch + 1), (20, 2)) + answer).astype(np.float32),
        }
        return epoch, layers, label

    return {
        "train": [batch(epoch) for epoch in (0, 1, 2) for _ in range(9)],
        "valid": [batch(epoch) for epoch in (-1, 0, 1, 2) for _ in range(3)],
        "test": [batch(2) for _ in range(2)],
    }


@pytest.fixture(scope="session")
def small_run(record_run, small_batches):
    """A recorded run: three splits, epoch -1, three epochs, a layer never called, logs, raw head, labels."""
    return record_run(small_batches, ["input", "body.linear", "body.relu", "body.dropout", "wild", "fc"])


# Rows for the store, and what plain xarray gives back for them.


@pytest.fixture(scope="session")
def small_axis():
    """Return an axis of 16 buckets."""
    from actlab.axis import FloatAxis

    return FloatAxis(mantissa_bits=1, min_exponent=0, max_exponent=1)


@pytest.fixture(scope="session")
def make_row(small_axis):
    """Return a function that makes a row, a pure function of its arguments."""
    from actlab.schema import SPLITS, LayerInfo
    from actlab.store.row import Row

    def make(step, split="train", *, layers=3, logs=("loss",), samples=2, labels="index", wide=False):
        random = np.random.default_rng([step, SPLITS.index(split), layers])
        most = np.iinfo(np.uint32).max
        counts = random.integers(0, most, (layers, small_axis.n_buckets), endpoint=True, dtype=np.uint64)
        mean, std, low, high = random.normal(size=(4, layers))
        mean[random.random(layers) < 0.2] = np.nan
        head = random.normal(size=(samples, 2)).astype(np.float32) if samples is not None else None
        shapes = {"index": (samples,), "hot": (samples, 2)}
        label = random.integers(0, 2, shapes[labels]) if head is not None and labels is not None else None
        return Row(
            *(split, step, step // 4 - 1, step % 4, 10 * step, 1.7e9 + random.random()),
            layers=tuple(LayerInfo(f"layer{i}") for i in range(layers)),
            counts=counts if wide else counts.astype(np.uint32),
            n=counts.sum(axis=1),
            mean=mean,
            std=std,
            min=low,
            max=high,
            logs={name: random.normal() for name in logs},
            head=head,
            label=label,
        )

    return make


@pytest.fixture(scope="session")
def fingerprint():
    """Return a function that turns a row into plain bytes and numbers, to be compared."""

    def turn(row):
        label = row.label if row.label is not None and (row.label != -100).any() else None
        arrays = (row.counts.astype("<u4"), row.n.astype("<u8"), row.mean, row.std, row.min, row.max)
        raw = () if row.head is None or not len(row.head) else (row.head, label)
        return (
            *(row.split, row.step, row.epoch, row.batch, row.train_step, row.time),
            tuple(layer.name for layer in row.layers),
            *(None if array is None else (array.shape, array.tobytes()) for array in (*arrays, *raw)),
            sorted(item for item in row.logs.items() if not np.isnan(item[1])),
        )

    return turn


@pytest.fixture(scope="session")
def stored_rows():
    """Return a function that reads all rows of a run by plain xarray: [(row, attempt, row_crc32c)]."""
    import warnings

    import xarray as xr

    from actlab.schema import LayerInfo
    from actlab.store.row import Row

    def rows_of(split, data, raw, growth):
        logs = [name for name in data if name.startswith("log_")]
        names = tuple(LayerInfo(str(name)) for name in data["layer"])
        for index in range(len(data["step"])):
            count = max(pair for pair in growth if pair[0] <= index)[1]
            mine = np.array([])
            if raw:
                same_attempt = raw["attempt"] == data["attempt"][index]
                mine = (raw["sample_step"] == data["step"][index]) & same_attempt
            fields = ("step", "epoch", "batch", "train_step", "time")
            arrays = ("counts", "n", "mean", "std", "min", "max")
            assert not data["counts"][index, count:].any()
            assert np.isnan(data["mean"][index, count:]).all()
            row = Row(
                split,
                **{name: data[name][index].item() for name in fields},
                layers=names[:count],
                **{name: data[name][index, :count] for name in arrays},
                logs={name.removeprefix("log_"): data[name][index].item() for name in logs},
                head=raw["head"][mine] if mine.any() else None,
                label=raw["label"][mine] if mine.any() and "label" in raw else None,
            )
            yield row, data["attempt"][index].item(), data["row_crc32c"][index].item()

    def arrays_of(node):
        return {name: variable.values for name, variable in node.to_dataset(inherit=False).variables.items()}

    def read(source, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = xr.open_datatree(source, engine="zarr", decode_times=False, **options)
            growth = tree.attrs["actlab"]["layer_growth"]
            found = []
            for split, node in sorted(tree.children.items()):
                raw = arrays_of(node["raw"]) if "raw" in node else {}
                found += rows_of(split, arrays_of(node), raw, growth[split])
        return found

    return read


# A headless browser, for tests marked `browser`.


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window; skips (or fails, see above) where there is none."""
    import shutil

    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium found")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()
