"""The README and the docs run: every python block, and every `actlab` line, in order."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from actlab.cli import main

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "*/README.md", "recipes/*/README.md")
    for page in ROOT.glob(pattern)
)
BLOCK = re.compile(
    r"(?P<marker><!-- not run: .+? -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def blocks_of(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return [match for match in BLOCK.finditer(text) if not match["marker"]]


BLOCKS = blocks_of("README.md")


def write_training():
    """Write what the docs call the reader's own script."""
    Path("finetune.py").write_text(
        "import actlab, torch\n"
        "torch.set_num_threads(1)\n"
        "model = torch.nn.Sequential(torch.nn.Linear(3, 2))\n"
        'with actlab.record(model, "runs/finetune.zarr", overwrite=True):\n'
        "    for _ in range(3): model(torch.randn(5, 3))\n"
    )


def test_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    write_training()
    names = {}
    for block in BLOCKS:
        if block["language"] == "python":
            exec(compile(block["code"], "README.md", "exec"), names)
        for line in re.findall(r"^\$ actlab (.+)$", block["code"], re.MULTILINE):
            assert main(shlex.split(line, comments=True)) == 0, line
    assert {path.name for path in Path("reports").iterdir()} >= {"exact.html", "close.html", "digits.html"}


def test_the_page_about_recording_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    names, blocks = {}, blocks_of("docs/recording.md")
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block["code"], "recording.md", "exec"), names)


def test_the_page_about_analysis_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    names, blocks = {"__name__": "__main__"}, blocks_of("docs/analysis.md")
    assert len(blocks) >= 15
    for block in blocks:
        exec(compile(block["code"], "analysis.md", "exec"), names)


@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("docs/stores.md", 6),
        ("docs/findings.md", 4),
        ("docs/report.md", 2),
        ("docs/charts.md", 3),
        ("docs/reading.md", 1),
        ("docs/live.md", 1),
        ("reports/README.md", 1),
        ("recipes/README.md", 6),
    ],
)
def test_a_page_of_python_and_commands_runs(page, least, tmp_path, monkeypatch, small_run):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.nice", lambda _: 0)  # watching stands back behind others; tests shall not
    torch.set_num_threads(1)
    write_training()
    if least == 1:  # these speak of a run called NAME, and of its page
        shutil.copytree(small_run.path, "runs/NAME.zarr")
        assert main(["report", "runs/NAME.zarr"]) == 0
    names, lines = {}, []
    for block in blocks_of(page):
        if block["language"] == "python":
            exec(compile(block["code"], page, "exec"), names)
        for line in re.findall(r"^\$ actlab (.+)$", block["code"], re.MULTILINE):
            assert main(shlex.split(line, comments=True)) == 0, line
            lines.append(line)
    assert len(lines) >= least


def test_the_readme_has_blocks_to_run():
    languages = [block["language"] for block in BLOCKS]
    assert languages.count("python") >= 5
    assert set(languages) == {"python", "console"}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    broken = [link for link in links if not (ROOT / page.parent / link).exists()]
    assert not broken
