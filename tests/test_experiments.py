"""Experiments: found by name, script or folder; trained in another process; drawn with their variants."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import actlab
from actlab import experiments
from actlab.errors import MissingDependencyError, RecipeError, SelectionError, StoreError
from actlab.experiments import Experiment, draw, find_experiment, scaffold, shipped, train
from actlab.recipe import load_recipe

TRAINING = '''"""Some numbers."""
import sys, torch, actlab
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(3, 2))
with actlab.record(model, "runs/{name}.zarr", overwrite=True):
    for _ in range(int(sys.argv[1]) if sys.argv[1:] else 2):
        model(torch.randn(5, 3))
'''


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A training of one's own, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = Path("finetune.py")
    path.write_text(TRAINING.format(name="finetune"), encoding="utf-8")
    return path


def test_shipped_experiments_are_found_by_name():
    names = [experiment.name for experiment in shipped()]
    assert "mnist_3_vs_7" in names
    assert names == sorted(names)
    for name in names:
        assert find_experiment(name).script.parent.name == name


def test_a_wrong_name_gets_the_nearest():
    with pytest.raises(SelectionError, match=r"no recipe 'mnist_3_v_7': did you mean 'mnist_3_vs_7'\?"):
        find_experiment("mnist_3_v_7")
    with pytest.raises(SelectionError, match=r"no recipe 'gone\.py' and no such file"):
        find_experiment("gone.py")


def test_a_script_is_called_as_its_file_and_train_py_as_its_folder(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for name in ("train.py", "other.py"):
        (own / name).write_text("pass\n")
    assert find_experiment(own) == find_experiment(own / "train.py") == Experiment("own", own / "train.py")
    other = find_experiment(own / "other.py")
    assert (other.name, other.recipe.name, other.variants.name) == (
        "other",
        "other.report.toml",
        "other.variants.toml",
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SelectionError, match=r"holds no train\.py"):
        find_experiment(empty)


def test_a_wheel_holds_the_recipes_and_finds_them_there(tmp_path):
    root = Path(__file__).parent.parent
    build = "import hatchling.build as b, sys; b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=root, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    code = "from actlab.experiments import shipped; print(*(f'{e.name}={len(e.pages())}' for e in shipped()))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "site",
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == [f"{each.name}={len(each.pages())}" for each in shipped()]


def test_variants_are_put_over_the_recipe(tmp_path):
    (tmp_path / "train.py").write_text("pass\n")
    (tmp_path / "report.toml").write_text('title = "one"\nn_bins = 50\nlayers = ["a"]\n')
    (tmp_path / "variants.toml").write_text("[close]\nh_min = -1\nh_max = 1\n[all]\nlayers = ['*']\n")
    pages = find_experiment(tmp_path).pages()
    assert list(pages) == ["", "close", "all"]
    close = pages["close"]
    assert (close.title, close.n_bins, close.layers, close.h_min, close.h_max) == ("one", 50, ["a"], -1, 1)
    assert pages["all"].layers == ["*"]
    assert pages["all"].h_min is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[close]\nh_mim = 1\n", r"variants\.toml: \[close\] unknown key 'h_mim' \(did you mean 'h_min'"),
        ("[close]\nh_min = 2\nh_max = 1\n", r"variants\.toml: \[close\] .*h_min"),
        ("h_min = 2\n", r"variants\.toml: h_min stands in no table"),
        ("['../x']\nn_bins = 3\n", r"variants\.toml: .*file name"),
        ("[close\n", r"variants\.toml: not valid TOML"),
    ],
)
def test_a_wrong_variant_is_named(tmp_path, text, said):
    (tmp_path / "train.py").write_text("pass\n")
    (tmp_path / "report.toml").write_text('title = "one"\n')
    (tmp_path / "variants.toml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        find_experiment(tmp_path).pages()


def test_from_a_script_of_ones_own_to_pages(script):
    experiment, written = scaffold(script)
    assert [path.name for path in written] == ["finetune.report.toml", "finetune.variants.toml"]
    recipe = load_recipe(experiment.recipe)
    assert (recipe.title, recipe.notes) == ("finetune", None)
    run = train(experiment, ["3"])
    assert actlab.open_run(run)["train"].sizes["step"] == 3
    pages = draw(experiment)
    assert pages == [Path("reports/finetune.html"), Path("reports/finetune-close.html")]
    assert load_recipe("reports/finetune-close.toml").h_max == 1
    with pytest.raises(StoreError, match="exists already"):
        draw(experiment, pages=["close"])
    assert draw(experiment, pages=["close"], overwrite=True) == pages[1:]


def test_nothing_is_drawn_where_one_page_is_there_already(script):
    experiment, _ = scaffold(script)
    train(experiment)
    draw(experiment, pages=["close"])
    with pytest.raises(StoreError, match=r"finetune-close\.html exists already"):
        draw(experiment)
    assert not Path("reports/finetune.html").exists()


def test_scaffolding_overwrites_nothing(script):
    Path("finetune.variants.toml").write_text("[mine]\n")
    with pytest.raises(StoreError, match=r"finetune\.variants\.toml exists already, so nothing was written"):
        scaffold(script)
    assert not Path("finetune.report.toml").exists()
    with pytest.raises(StoreError, match=r"gone\.py: no such file"):
        scaffold("gone.py")
    Path("notes.txt").touch()
    with pytest.raises(StoreError, match=r"notes\.txt: expected a training script"):
        scaffold("notes.txt")


def test_a_run_that_is_there_is_kept(script):
    experiment = find_experiment(script)
    train(experiment, ["3"])
    with pytest.raises(StoreError, match=r"`actlab recipe draw finetune\.py` draws it"):
        train(experiment)
    assert actlab.open_run(experiment.run)["train"].sizes["step"] == 3
    train(experiment, ["4"], overwrite=True)
    assert actlab.open_run(experiment.run)["train"].sizes["step"] == 4


@pytest.mark.parametrize(
    ("text", "calls", "may_replace"),
    [
        ("import actlab\nactlab.record(m, p)\n", 1, False),
        ("import actlab as al\nal.Recorder(m, p, every=2)\n", 1, False),
        ("from actlab import record\nrecord(m, p, resume=True)\n", 1, True),
        ("from actlab.recording.recorder import Recorder as R\nR(m, p, **options)\n", 1, True),
        ("import actlab\nactlab.Recorder(m, p, resume_step=done)\n", 1, True),
        ("import actlab, torch\ntorch.cuda.Event().record()\n", 0, True),
        ("import mine\nmine.train()\n", 0, True),
        ("import actlab\nactlab.record(m, p\n", 0, True),
        ("# -*- coding: latin-1 -*-\nimport actlab\nactlab.record(m, '\xe4')\n", 1, False),
    ],
)
def test_the_text_of_a_script_says_how_it_records(tmp_path, text, calls, may_replace):
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="latin-1")
    experiment = find_experiment(path)
    assert (len(experiment.recordings()), experiment.may_replace()) == (calls, may_replace)


def test_a_script_that_fails_or_records_elsewhere_says_so(script):
    experiment = find_experiment(script)
    script.write_text("raise SystemExit(3)\n")
    with pytest.raises(StoreError, match=r"finetune\.py ended with exit code 3, so no page was drawn"):
        train(experiment)
    script.write_text(TRAINING.format(name="elsewhere"))
    with pytest.raises(StoreError, match=r"recorded no runs/finetune\.zarr: .* --run"):
        train(experiment)
    assert train(experiment, run=Path("runs/elsewhere.zarr"), overwrite=True) == Path("runs/elsewhere.zarr")


def test_packages_that_a_shipped_recipe_lacks_are_named(tmp_path, monkeypatch):
    folder = tmp_path / "needy"
    folder.mkdir()
    (folder / "train.py").write_text("import numpy, no_such_package\nfrom no_such.part import x\n")
    monkeypatch.setattr(experiments, "_SHIPPED", tmp_path)
    (needy,) = shipped()
    assert needy.lacking() == ["no_such", "no_such_package"]
    with pytest.raises(
        MissingDependencyError, match=r"needs no_such and no_such_package: pip install 'actlab\[recipes\]'"
    ):
        train(needy)
