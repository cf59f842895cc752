"""Pages of runs that were gone on with, and of branches."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import actlab
from actlab.charts import colorful_chart


def train(path, steps, scale, **options):
    """Record a small training; every tenth batch is followed by one of validation."""
    model = nn.Sequential(nn.Linear(4, 3))
    with actlab.Recorder(model, path, **options) as recorder:
        for step in steps:
            for split in ("train", "valid") if step % 10 == 9 else ("train",):
                with recorder.batch(split, epoch=step // 10, labels=torch.arange(8) % 3):
                    model(torch.full((8, 4), scale))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A run whose second attempt has replaced the last 7 training batches of the first."""
    path = tmp_path_factory.mktemp("runs") / "twice.zarr"
    train(path, range(17), 1.0)
    train(path, range(10, 20), 2.0, resume_step=10)
    return path


def fact(page, name):
    return re.search(rf"<dt>{name}</dt>\s*<dd>(.*?)</dd>", page.read_text(encoding="utf-8"), re.DOTALL)[1]


def test_the_page_shows_live_rows_and_says_so(path, tmp_path):
    page = actlab.report(path, tmp_path / "live.html")
    said = "2, begun after 0, 10 training batches; what a later one has replaced is left out"
    assert fact(page, "Attempts") == said
    assert fact(page, "Resumed") == "at batch 10"
    assert fact(page, "Rows") == "train 20, valid 2"


def test_a_page_of_all_attempts_draws_every_row(path, tmp_path):
    page = actlab.report(actlab.open_run(path, all_attempts=True), tmp_path / "all.html")
    assert fact(page, "Attempts").endswith("what a later one has replaced is shown, too")
    assert fact(page, "Rows") == "train 27, valid 2"


def test_the_kept_outputs_of_each_attempt_are_drawn_in_its_own_columns(path):
    run, axis = actlab.open_run(path, all_attempts=True), actlab.LinearAxis(-9, 9, 100)
    drawn = colorful_chart.prepare(run, axis, layers=[run.head])
    raw = run.raw("train")
    for column, (step, attempt) in enumerate(
        [*((s, 0) for s in range(17)), *((s, 1) for s in range(10, 20))]
    ):
        values = raw["head"].values[((raw.step == step) & (raw.attempt == attempt)).values]
        expected, _ = np.histogram(values.astype(np.float64), axis.edges)
        assert drawn["counts"].isel(layer=0, column=column).values.tolist() == expected.tolist()


def test_the_page_of_a_branch_names_its_parent(path, tmp_path):
    made = actlab.branch(path, tmp_path / "branch.zarr", step=10)
    page = actlab.report(made, tmp_path / "branch.html")
    assert fact(page, "Branch of") == f"{path.resolve()}, after 10 training batches"
    assert "<dt>Attempts" not in page.read_text(encoding="utf-8")


def test_the_top_of_the_page_says_what_the_run_lacks(path, tmp_path):
    run = actlab.open_run(path)
    run.attributes["gaps"] = {"train": [[first, first + 1] for first in range(0, 12, 2)], "valid": [[3, 3]]}
    run.attributes["closed"] = False
    page = actlab.report(run, tmp_path / "lacks.html")
    said = re.findall(r'<p class="missing">(.*?)</p>', page.read_text(encoding="utf-8"))
    assert said[0].startswith("Not closed: ")
    assert said[1].startswith("Steps that were dropped: train 0 to 1, train 2 to 3, ")
    assert said[1].endswith(", and 3 more.")
    assert fact(page, "Dropped steps").endswith("train 10 to 11, valid 3")
