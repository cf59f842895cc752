"""`actlab recipe`: list, run, draw and new, in one line where something is wrong."""

from pathlib import Path

import pytest

from actlab.cli import main
from actlab.experiments import Experiment, shipped


@pytest.fixture
def recipe_cli(capfd):
    """Return a function that runs `actlab recipe` and returns exit code, output and errors."""

    def run(*arguments):
        code = main(["recipe", *map(str, arguments)])
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A training of one's own that takes an option and does not record yet."""
    monkeypatch.chdir(tmp_path)
    path = Path("mine.py")
    path.write_text(
        "import argparse, torch\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('--epochs', type=int, default=2)\n"
        "n = parser.parse_args().epochs\n"
        "model = torch.nn.Sequential(torch.nn.Linear(3, 2))\n"
        "for _ in range(n): model(torch.randn(5, 3))\n"
    )
    return path


@pytest.mark.parametrize("width", ["80", "300"])
def test_the_list_names_each_recipe_and_what_it_does(recipe_cli, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    code, out, err = recipe_cli("list")
    assert (code, err) == (0, "")
    for experiment in shipped():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{experiment.name} ")]
        assert experiment.summary.split()[0] in line
        if width == "300":
            assert experiment.summary in line
            assert all(name in line for name in experiment.pages())


def test_a_newcomer_follows_what_new_says(recipe_cli, script):
    code, out, _ = recipe_cli("new", script)
    assert code == 0
    assert out.count("Wrote mine.") == 2
    lines = [line.strip() for line in out.splitlines()]
    assert "import actlab" in lines
    opened = next(line for line in lines if line.startswith("with actlab.record("))
    text = script.read_text().replace("for _", f"import actlab\n{opened}\n    for _")
    script.write_text(text)
    code, out, err = recipe_cli("run", script, "--epochs", "4")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["Wrote reports/mine.html"]
    code, out, _ = recipe_cli("draw", script)
    said = ["reports/mine.html is there already; --overwrite draws it again", "Wrote reports/mine-close.html"]
    assert (code, out.splitlines()) == (0, said)
    code, _, err = recipe_cli("draw", script, "close")
    assert (code, "reports/mine-close.html exists already" in err) == (2, True)
    code, out, _ = recipe_cli("draw", script, "--overwrite")
    assert (code, out.splitlines()) == (0, ["Wrote reports/mine.html", "Wrote reports/mine-close.html"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "mnist"], "no recipe 'mnist': did you mean 'mnist_3_vs_7'?"),
        (["draw", "mnist_3_vs_7"], "runs/mnist_3_vs_7.zarr: no such run"),
        (["draw", "mnist_3_vs_7", "clos"], "no variant 'clos' in"),
        (["new", "gone.py"], "gone.py: no such file"),
        (["new", "."], ".: expected a training script, a file that ends in .py"),
    ],
)
def test_bad_input_is_one_line(recipe_cli, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = recipe_cli(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"actlab: {said}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("verb", ["run", "draw"])
def test_a_script_without_a_recipe_is_told_how_to_get_one(recipe_cli, script, verb):
    code, out, err = recipe_cli(verb, script)
    assert (code, out) == (2, "")
    assert err == "actlab: mine.report.toml: no such file; run `actlab recipe new mine.py` first\n"


@pytest.mark.parametrize(
    ("call", "may_replace"),
    [
        ('actlab.record(model, "runs/mine.zarr", overwrite=True)', True),
        ('actlab.Recorder(model, "runs/mine.zarr")', False),
    ],
)
def test_new_tells_no_lines_to_a_script_that_has_them(recipe_cli, script, call, may_replace):
    script.write_text(f"import actlab\n{script.read_text()}with {call}: pass\n")
    code, out, _ = recipe_cli("new", script)
    assert (code, "around the training" in out) == (0, False)
    assert "mine.py records already. Its run is looked for at runs/mine.zarr" in out
    assert ("needs overwrite=True" in out) != may_replace
    assert out.endswith("Then: actlab recipe run mine.py\n")


def test_a_script_that_replaces_no_run_is_refused_before_it_trains(recipe_cli, script):
    Path("mine.report.toml").write_text('title = "mine"\n')
    call = 'actlab.record(model, "runs/mine.zarr")'
    text = f"import actlab\nopen('trained', 'a').write('x')\n{script.read_text()}"
    script.write_text(text.replace("for _", f"with {call}:\n    for _"))
    assert recipe_cli("run", script)[0] == 0
    code, out, err = recipe_cli("run", script, "--overwrite")
    assert (code, out) == (2, "")
    assert err == (
        "actlab: runs/mine.zarr exists already, and mine.py does not replace it: give its recorder "
        "overwrite=True\n"
    )
    assert Path("trained").read_text() == "x"


def test_an_empty_column_leaves_its_room_to_the_others(recipe_cli, monkeypatch):
    monkeypatch.setattr(Experiment, "lacking", lambda _: [])
    assert "still to install" not in recipe_cli("list")[1]
    monkeypatch.setattr(Experiment, "lacking", lambda self: ["nltk"] if self.name == "sentiment" else [])
    out = recipe_cli("list")[1]
    assert ("still to install" in out, out.count("nltk")) == (True, 1)


def test_an_unknown_option_is_refused_by_the_training(recipe_cli, script):
    Path("mine.report.toml").write_text('title = "mine"\n')
    code, out, err = recipe_cli("run", script, "--epoch", "2", "--sed", "3")
    assert (code, out) == (2, "")
    assert "unrecognized arguments: --sed 3" in err
    assert "Traceback" not in err


def test_a_page_that_is_there_is_said_before_the_training(recipe_cli, script):
    Path("mine.report.toml").write_text('title = "mine"\n')
    Path("reports").mkdir()
    Path("reports/mine.html").touch()
    code, _, err = recipe_cli("run", script)
    assert code == 2
    assert "reports/mine.html exists already" in err
