"""The short forms of the harnesses of processes and disks; the long ones are `make torture`."""

import json
import subprocess
import sys

import pytest

from tests.torture.common import ROOT, Result


@pytest.mark.parametrize("name", ["kills", "crash_points", "faults", "copies", "disk_full", "two_writers"])
def test_nothing_is_lost_and_the_controls_fail(name):
    command = [sys.executable, "-m", f"tests.torture.{name}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    results = [Result(**json.loads(line)) for line in ended.stdout.splitlines()]
    assert [result for result in results if not result.passed] == [], ended.stderr
    assert ended.returncode == 0, ended.stderr
    assert results
