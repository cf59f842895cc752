"""The house stands: floors and walls hold, the wheel ships the recipes, CI forgives no skip."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = {contract["id"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]}


def test_every_import_goes_down():
    lint = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_floor_but_recording_and_frameworks_stands_behind_the_torch_wall():
    floors = {f"actlab.{floor}" for floor in CONTRACTS["floors"]["layers"]}
    assert set(CONTRACTS["torch"]["source_modules"]) == floors - {"actlab.recording", "actlab.integrations"}


@pytest.mark.parametrize(
    "package", ["store", "recording", "recording/histogram", "pages", "integrations", "live"]
)
def test_packages_of_floors_import_nothing(package):
    assert "import" not in (ROOT / "actlab" / package / "__init__.py").read_text(encoding="utf-8")


def test_the_wheel_ships_the_recipes():
    shipped = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert shipped == {"recipes": "actlab/recipes"}


@pytest.mark.parametrize(("required", "code"), [("", 0), ("1", 1)])
def test_a_skip_fails_where_everything_is_required(tmp_path, required, code):
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_skip.py").write_text("import pytest\ndef test_one():\n    pytest.skip('no Chromium')\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "--no-fold-skipped", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "ACTLAB_REQUIRE_ALL": required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stdout
    assert "test_one" in result.stdout
    assert "no Chromium" in result.stdout
