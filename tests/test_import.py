"""What an import costs: the package nothing, recording no plotting, reporting no torch."""

import subprocess
import sys

import pytest

HEAVY = {
    "bokeh",
    "dask",
    "datashader",
    "holoviews",
    "matplotlib",
    "numba",
    "numpy",
    "pandas",
    "pydantic",
    "rich",
    "scipy",
    "torch",
    "typer",
    "xarray",
    "zarr",
}
TABLES_AND_PLOTTING = HEAVY - {"numba", "numpy", "scipy", "torch"}


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the top-level modules it has loaded."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_by("import actlab; dir(actlab); actlab.__version__") & HEAVY


def test_asking_the_command_line_for_help_loads_no_plotting():
    # typer brings rich, and pydantic where it is installed.
    loaded = loaded_by("from actlab.cli import main; main(['--version'])")
    assert not loaded & (HEAVY - {"pydantic", "rich", "typer"})


RECORDING = """
import sys, torch, actlab
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
with actlab.Recorder(model, sys.argv[1]) as recorder:
    for epoch in range(2):
        with recorder.batch("train", epoch=epoch, labels=torch.zeros(5, dtype=torch.long)):
            loss = model(torch.randn(5, 3)).sum()
        recorder.log(loss=loss.detach())
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run recorded in a process of its own, and the modules that process has loaded."""
    path = tmp_path_factory.mktemp("import") / "run.zarr"
    return path, loaded_by(RECORDING.replace("sys.argv[1]", repr(str(path))))


def test_recording_loads_neither_tables_nor_plotting(recorded):
    assert "torch" in recorded[1]
    assert not recorded[1] & TABLES_AND_PLOTTING


def test_reporting_loads_no_torch(recorded, tmp_path):
    loaded = loaded_by(f"import actlab; actlab.report({str(recorded[0])!r}, {str(tmp_path / 'page.html')!r})")
    assert "bokeh" in loaded
    assert "torch" not in loaded


def test_only_public_names_are_offered():
    code = "import actlab\nassert dir(actlab) == sorted(actlab.__all__)"
    code += "\nfor name in actlab.__all__: getattr(actlab, name)"
    loaded_by(code)


def test_an_unknown_name_is_an_attribute_error():
    loaded_by("import actlab\ntry: actlab.nothing\nexcept AttributeError: pass\nelse: raise SystemExit(1)")
