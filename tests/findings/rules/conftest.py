"""Facts of real modules that are watched while something is done to them."""

import pytest


@pytest.fixture(scope="session")
def watch(tmp_path_factory):
    """Return a function that records forwards of a model, changed by `alter(step)` before each, as facts.

    `batch` is what the model is shown, or a function of the step; nothing is learnt.
    """
    import torch

    import actlab
    from actlab.findings.survey import Survey

    def record(model, batch, *, steps=96, per_epoch=24, alter=None, labels=None, **options):
        torch.set_num_threads(1)
        path = tmp_path_factory.mktemp("watched") / "run.zarr"
        with torch.no_grad(), actlab.Recorder(model, path, fsync=False, **options) as recorder:
            for step in range(steps):
                if alter is not None:
                    alter(step)
                with recorder.batch("train", epoch=step // per_epoch, labels=labels):
                    model(batch(step) if callable(batch) else batch)
        return Survey(actlab.open_run(path)).read()

    return record


@pytest.fixture(scope="session")
def facts_of(tmp_path_factory):
    """Return a function that records forwards of a model over batches of train and valid, as facts.

    `after(step)` changes the model between the batches of train, as an optimizer would; `labels(batch)`
    and the loss `log(step)` are recorded with it.
    """
    import torch

    import actlab
    from actlab.findings.survey import Survey

    def record(model, train, valid=(), *, after=None, labels=None, log=None, axis=None, **options):
        torch.set_num_threads(1)
        path = tmp_path_factory.mktemp("forwards") / "run.zarr"
        with (
            torch.no_grad(),
            actlab.Recorder(model, path, fsync=False, on_error="raise", **options) as recorder,
        ):
            for step, x in enumerate(train):
                with recorder.batch("train", step // 10, labels(x) if labels else None):
                    model(x)
                if log is not None:
                    recorder.log(loss=log(step))
                if after is not None:
                    after(step)
            for x in valid:
                with recorder.batch("valid", max(0, len(train) - 1) // 10):
                    model(x)
        return Survey(actlab.open_run(path), axis).read()

    return record
