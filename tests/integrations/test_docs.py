"""The pages about frameworks run: every python block, and every `actlab` line, in order."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from actlab.cli import main

PAGES = sorted((Path(__file__).parents[2] / "docs" / "integrations").glob("*.md"))
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names, blocks = {"__name__": "__main__"}, BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks
    for language, code in blocks:
        if language == "python":
            exec(compile(code, str(page), "exec"), names)
        for line in re.findall(r"^\$ actlab (.+)$", code, re.MULTILINE):
            assert main(shlex.split(line, comments=True)) == 0, line
