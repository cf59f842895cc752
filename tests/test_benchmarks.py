"""The benchmarks in a tiny form: they run, and what they print is what they say."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from actlab.run import open_run

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def overhead(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import overhead

    yield overhead
    for name in ("overhead", "models"):
        sys.modules.pop(name, None)


def test_every_recorder_takes_every_step(overhead):
    torch.set_num_threads(1)
    seconds = overhead.measure(overhead.Setting(8, 2), 10)
    assert {name: len(each) for name, each in seconds.items()} == dict.fromkeys(overhead.WATCHERS, 10)
    assert [len(overhead.ratios(seconds, name)) for name in seconds] == [
        1 if name == overhead.EVERY_10TH else 10 for name in seconds
    ]


def test_one_step_in_ten_weighs_one_tenth(overhead):
    recorded = [(step + overhead.N_WARM_UP) % 10 == 0 for step in range(20)]
    seconds = {"none": [2.0] * 20, overhead.EVERY_10TH: [3.0 if each else 2.0 for each in recorded]}
    assert overhead.ratios(seconds, overhead.EVERY_10TH) == pytest.approx([1.05, 1.05])


@pytest.mark.parametrize(("size", "n_leaves"), [(32, 60), (224, 61)])
def test_resnet_calls_every_leaf(overhead, size, n_leaves):
    import models

    model = models.ResNet18(size)
    leaves = [module for module in model.modules() if not list(module.children())]
    called = []
    for leaf in leaves:
        leaf.register_forward_hook(lambda module, *_: called.append(module))
    with torch.no_grad():
        assert model(torch.randn(1, 3, size, size)).shape == (1, 10)
    assert len(called) == n_leaves
    assert set(called) == set(leaves)
    # The figure of torchvision's ResNet-18, whose stem is the one for 224, with 10 classes for 1,000.
    n_parameters = sum(each.numel() for each in model.parameters())
    assert n_parameters == 11_689_512 - 513 * 990 - (64 * 3 * (49 - 9) if size == 32 else 0)


@pytest.fixture
def analysis(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import analysis

    yield analysis
    for name in ("analysis", "analysis_task", "models", "synthetic"):
        sys.modules.pop(name, None)


def test_analysis_measures_each_task_by_itself(analysis, tmp_path, capsys):
    path = analysis.write(tmp_path, 3, 40)
    assert capsys.readouterr().out.startswith("\n3 layers x 40 steps: 0.00 GB")
    analysis.compare(path, 40, 1)
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:4]] == [
        "| read and decompress",
        "| re-bin every row to 200 bins",
    ]
    process, wall, memory = analysis.start("totals", path, 40)
    assert process > 0
    assert wall > 0
    assert 50 < memory < 1000


def test_every_task_of_the_analysis_runs(analysis, tmp_path):
    import analysis_task

    run = open_run(analysis.write(tmp_path, 3, 40))
    for task in analysis_task.TASKS.values():
        task(run["train"])
    for task in analysis_task.OF_A_RUN.values():
        task(run)


def test_memory(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "memory.py"), "--steps", "30"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "30 of 30 rows on disk" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_slow_or_full_disk_drops_no_row_unnamed():
    command = [sys.executable, str(BENCHMARKS / "slow_disk.py"), "--rounds", "4"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(" | ") for line in printed.splitlines() if " of 40 | " in line]
    assert [warnings for *_, warnings in rows] == ["0 |", "0 |", "0 |", "1 |"]  # too few steps to drop one
    assert printed.count("cannot write (No space left on device)") == 1
