"""The command line: what it shows and writes, and that bad input is one line and exit code 2."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import zarr
from typer.testing import CliRunner

import actlab
from actlab.cli import app, main, progress_bars
from actlab.store.writer import RunWriter


@pytest.fixture
def run(small_run, tmp_path, monkeypatch):
    """A small recorded run in the current folder, under a name of the test's own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_run.path, "small.zarr")
    return Path("small.zarr")


def refusal(capsys, *arguments):
    """Run a command that must be refused, and return its one line."""
    before = files()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("actlab: ")
    assert files() == before
    return said.err.removeprefix("actlab: ").rstrip("\n")


def files():
    """Return every file below the current folder with its content."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


BAD_OPTIONS = {
    "--h-min 4 --h-max -4": "h_min must be below h_max, got h_min=4 and h_max=-4",
    "--h-min 4 --h-max 4": "h_min must be below h_max, got h_min=4 and h_max=4",
    "--h-min nan": "h_min should be a finite number, got nan",
    "--h-max inf": "h_max should be a finite number, got inf",
    "--h-min four": "Invalid value for '--h-min'",
    "--n-bins 0": "n_bins should be greater than or equal to 1, got 0",
    "--n-bins 1000000000": "n_bins should be less than or equal to 1000000, got 1000000000",
    "--n-bins 1e9": "Invalid value for '--n-bins'",
    "--layers fcc": "no layer 'fcc' in small.zarr: did you mean 'fc'?",
    "--layers fc,!body.rel": "no layer 'body.rel' in small.zarr: did you mean 'body.relu'",
    "--layers !*": "no layer left",
    "--epochs 77": "no epoch 77 in small.zarr: did you mean 2? known: -1 to 2",
    "--epochs -5": "no epoch -5 in small.zarr: did you mean -1? known: -1 to 2",
    "--epochs 0-": "'0-' is not a list of epochs such as 0-3,5",
    "--epochs 3-1": "'3-1' is empty or too long a range",
    "--epochs 0-999999999999": "'0-999999999999' is empty or too long a range",
    "--hmin 4": "No such option: --hmin",
    "--h-min": "--h-min",
    "--recipe missing.toml": "recipe missing.toml: No such file or directory",
    "--recipe small.zarr": "recipe small.zarr: Is a directory",
    "more": "unexpected extra argument",
}


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS.items(), ids=list(BAD_OPTIONS))
def test_a_bad_option_is_one_line(run, capsys, options, said):
    assert said in refusal(capsys, "report", run, *options.split())


@pytest.mark.parametrize("verb", ["info", "report"])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_text("not a run\n"),
        lambda path: (path.mkdir(), (path / "zarr.json").write_text("{}")),
        lambda path: (path.mkdir(), (path / "zarr.json").write_text('{"zarr_format": 3, "node_type"')),
    ],
    ids=["missing", "empty", "text", "foreign", "truncated"],
)
def test_what_is_no_run_is_one_line_that_names_it(tmp_path, monkeypatch, capsys, verb, make):
    monkeypatch.chdir(tmp_path)
    make(Path("no.zarr"))
    assert "no.zarr" in refusal(capsys, verb, "no.zarr")


@pytest.mark.parametrize("verb", ["info", "report"])
def test_half_a_run_is_one_line(run, capsys, verb):
    shutil.rmtree(run / "train" / "counts")
    assert "small.zarr" in refusal(capsys, verb, run)


def test_a_recipe_with_an_unknown_key_is_one_line(run, capsys):
    Path("bad.toml").write_text("hMin = -4\n")
    said = refusal(capsys, "report", run, "--recipe", "bad.toml")
    assert said == "recipe bad.toml: unknown key 'hMin' (did you mean 'h_min'?)"


def test_a_recipe_with_a_wrong_chart_option_is_one_line(run, capsys):
    Path("bad.toml").write_text("[charts.colorful]\nlog_colour = true\n")
    said = refusal(capsys, "report", run, "--recipe", "bad.toml")
    assert "bad.toml" in said
    assert "log_colour" in said


@pytest.mark.parametrize("existing", ["reports/small.html", "reports/small.toml"])
def test_an_existing_output_is_refused(run, capsys, existing):
    Path("reports").mkdir()
    Path(existing).write_text("precious")
    said = refusal(capsys, "report", run)
    assert existing in said
    assert "overwrite" in said


def test_a_folder_that_cannot_be_made_is_one_line(run, capsys):
    Path("file").write_text("in the way")
    assert "file" in refusal(capsys, "report", run, "-o", "file/page.html")


def test_a_command_that_is_not_there_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "No such command 'inf'" in refusal(capsys, "inf")
    assert "Missing argument 'RUN'" in refusal(capsys, "info")


def test_an_unexpected_os_error_is_one_line(run, capsys, monkeypatch):
    def fail(*_arguments, **_options):
        raise PermissionError(13, "Permission denied", "reports/small.html")

    monkeypatch.setattr("actlab.pages.build.report", fail)
    assert refusal(capsys, "report", run) == "reports/small.html: Permission denied"


def test_ctrl_c_is_quiet(run, capsys, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("actlab.pages.build.report", interrupt)
    assert main(["report", str(run)]) == 130
    assert capsys.readouterr() == ("", "")


def test_report_writes_page_and_recipe_and_says_so_last(run, capsys):
    arguments = "--h-min -4 --h-max 4 --n-bins 100 --layers !input --layers fc,body.* --epochs -1,0-1"
    assert main(["report", str(run), *arguments.split()]) == 0
    said = capsys.readouterr()
    assert said.out == f"Wrote {Path('reports/small.html')}\n"
    assert said.err == ""
    assert Path("reports/small.html").read_text(encoding="utf-8").startswith("<!")
    recipe = tomllib.loads(Path("reports/small.toml").read_text(encoding="utf-8"))
    assert (recipe["h_min"], recipe["h_max"], recipe["n_bins"]) == (-4, 4, 100)
    assert recipe["epochs"] == [-1, 0, 1]
    assert recipe["layers"] == ["!input", "fc", "body.*"]


def test_what_is_no_run_is_said_before_a_page_that_is_there(run, capsys):
    Path("reports").mkdir()
    for name in ("page.html", "small.html", "page_vs_small.html"):
        Path("reports", name).touch()
    assert refusal(capsys, "report", "reports/page.html").startswith("reports/page.html: is a file")
    assert "takes at least two runs" in refusal(capsys, "compare", run)
    assert refusal(capsys, "compare", "reports/page.html", run).startswith("reports/page.html: is a file")


def test_options_go_before_the_recipe_and_overwrite_replaces_a_page(run):
    Path("page.html").write_text("old")
    Path("wish.toml").write_text("h_min = -3.0\nh_max = 3.0\nn_bins = 50\n")
    options = "--recipe wish.toml --h-min -1 -o page.html --overwrite"
    assert main(["report", str(run), *options.split()]) == 0
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!")
    recipe = tomllib.loads(Path("page.toml").read_text(encoding="utf-8"))
    assert (recipe["h_min"], recipe["h_max"], recipe["n_bins"]) == (-1, 3, 50)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("0-3,5", [0, 1, 2, 3, 5]),
        ("-1", [-1]),
        ("-1-1", [-1, 0, 1]),
        (" 5, 3 ", [3, 5]),
        ("-3--1", [-3, -2, -1]),
    ],
)
def test_epochs_are_read(run, monkeypatch, text, labels):
    given = {}

    def report(*_arguments, **options):
        given.update(options)
        return Path("page.html")

    monkeypatch.setattr("actlab.pages.build.report", report)
    assert main(["report", str(run), "--epochs", text]) == 0
    assert given["epochs"] == labels


def test_info_shows_what_is_in_the_run_when_piped(run, capsys):
    assert main(["info", str(run)]) == 0
    said = capsys.readouterr().out
    opened = actlab.open_run(run)
    for name, layer in opened.layers.iterrows():
        (line,) = [line for line in said.splitlines() if line.startswith(f"{name} ")]
        assert layer["kind"] in line
        assert f"{layer['n']:,}" in line
    for split in opened.splits:
        assert f"{split} " in said
    assert "\x1b" not in said


def test_info_tells_of_gaps_names_and_runs_still_open(run, capsys):
    document = json.loads((run / "zarr.json").read_text())
    known = document["attributes"]["actlab"]
    known["gaps"] = {"train": [[3, 4], [7, 7]]}
    known["closed"] = False
    known["model"] = "[red]\x1b[2J"
    (run / "zarr.json").write_text(json.dumps(document))
    assert main(["info", str(run)]) == 0
    said = capsys.readouterr().out
    assert "steps 3 to 4, 7" in said
    assert "still recording" in said
    assert r"[red]\x1b[2J" in said


def test_info_verifies_every_row(run, capsys):
    assert main(["info", str(run), "--verify"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"verified {sum(actlab.open_run(run).attributes['rows'].values())} rows"
    zarr.open_group(run, mode="r+")["valid/mean"][3, 1] = 42.0
    assert main(["info", str(run)]) == 0
    capsys.readouterr()
    assert "'valid' at step 3" in refusal(capsys, "info", run, "--verify")


def test_info_tells_of_size_attempts_and_where_a_run_comes_from(run, capsys):
    actlab.branch(run, "branch.zarr", step=9)
    axis = actlab.open_run(run).axis
    RunWriter("branch.zarr", axis=axis, attributes={}, resume=True, resume_step=5).close()
    actlab.compact("branch.zarr", "small2.zarr")
    assert main(["info", "small2.zarr"]) == 0
    said = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    size = sum(file.stat().st_size for file in Path("small2.zarr").rglob("*") if file.is_file())
    assert f"{size / 1000:.1f} kB, compacted" in said["size"]
    assert "2, begun at train_step 0, 5" in said["attempts"]
    assert main(["info", "small2.zarr", "--verify"]) == 0
    everything = actlab.open_run("branch.zarr", all_attempts=True)
    rows = sum(everything[split].sizes["step"] for split in everything.splits)
    assert capsys.readouterr().out.endswith(f"\nverified {rows} rows, of every attempt and rank\n")
    assert f"{run.resolve()}, branched off at train_step 9" in said["parent"]


def test_repair_says_what_it_did(run, capsys):
    assert main(["repair", str(run)]) == 0
    assert capsys.readouterr().out == "nothing to repair\n"
    (run / ".0123abcd.partial").write_bytes(b"half")
    (run / "train" / "zarr.json").unlink()
    assert main(["repair", str(run)]) == 0
    said = capsys.readouterr().out
    assert said == "removed 1 half-written file\nbrought 1 zarr.json below the root up to it\n"
    (run / "train" / "counts" / "c.0.0.0").write_bytes(b"nonsense")
    said = refusal(capsys, "repair", run)
    assert said.startswith("small.zarr: steps 0 to ")
    assert "of train: the chunk 'train/counts/c.0.0.0' is damaged" in said


@pytest.mark.parametrize("verb", ["compact", "pack", "branch"])
def test_a_new_run_is_written_beside_the_old_one(run, capsys, verb):
    assert main([verb, str(run), "-o", "new"]) == 0
    assert capsys.readouterr().out == "Wrote new\n"
    assert actlab.open_run("new", verify="rows").splits == actlab.open_run(run).splits
    assert "overwrite" in refusal(capsys, verb, run, "-o", "new")
    assert main([verb, str(run), "-o", "new", "--overwrite"]) == 0
    capsys.readouterr()
    assert "is the run itself" in refusal(capsys, verb, run, "-o", run)
    assert "no such run" in refusal(capsys, verb, "none.zarr", "-o", "other")
    assert "Missing option" in refusal(capsys, verb, run)


def test_a_branch_begins_at_a_step(run, capsys):
    assert main(["branch", str(run), "-o", "new", "--step", "9"]) == 0
    assert capsys.readouterr().out.startswith("Wrote ")
    assert actlab.open_run("new")["train"].sizes["step"] == 9
    assert "no 99 to branch at" in refusal(capsys, "branch", run, "-o", "other", "--step", "99")


@pytest.mark.parametrize(
    "words",
    [
        "--h-min -2 --h-max 2 --n-bins 40 --epochs 0 --width 200 --height 100",
        "--chart twin_peaks --epochs last --n-bins 20",
        "--chart wall --layer *,!input --width 40 --height 40",
        "--chart per_class --epochs 0 --n-bins 20 --width 60 --height 40",
    ],
)
def test_export_writes_a_figure_and_says_so(run, capsys, words):
    assert main(["export", str(run), "-o", "figures/a.svg", *words.split()]) == 0
    assert capsys.readouterr().out == "Wrote figures/a.svg\n"
    assert Path("figures/a.svg").read_text().startswith("<?xml")
    said = refusal(capsys, "export", run, "-o", "figures/a.svg")
    assert said == "figures/a.svg: exists already; overwrite=True or --overwrite replaces it"


def test_export_refuses_what_it_cannot_draw(run, capsys):
    assert "ends in .png or .svg" in refusal(capsys, "export", run, "-o", "a.gif")
    assert "did you mean 'wall'" in refusal(capsys, "export", run, "-o", "a.png", "--chart", "walls")
    assert "no layer 'nothing'" in refusal(capsys, "export", run, "-o", "a.png", "--layer", "nothing")
    words = ["--chart", "per_class", "--layer", "1"]
    said = "--layer: per_class draws the classes of the head, and takes no layer"
    assert refusal(capsys, "export", run, "-o", "a.png", *words) == said


def test_progress_is_not_drawn_into_a_file(capsys):
    with progress_bars() as progress:
        progress("drawing", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_is_drawn_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bars() as progress:
        progress("drawing", 1, 2)
        progress("drawing", 2, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert "drawing" in said.err
    assert "100%" in said.err


def test_help_names_every_option():
    result = CliRunner().invoke(app, ["report", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for option in (
        "--h-min",
        "--h-max",
        "--n-bins",
        "--layers",
        "--epochs",
        "--recipe",
        "--output",
        "--overwrite",
    ):
        assert option in result.output


def test_no_arguments_show_the_help(capsys):
    assert main([]) == 0
    assert "report" in capsys.readouterr().out


def actlab_process(*arguments):
    """Run `python -m actlab` as a user would."""
    command = [sys.executable, "-m", "actlab", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"}
    )


def test_the_process_itself_returns_the_code_and_one_line(run):
    fine = actlab_process("--version")
    assert (fine.returncode, fine.stdout, fine.stderr) == (0, f"actlab {actlab.__version__}\n", "")
    bad = actlab_process("report", run, "--n-bins", "0")
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.splitlines() == ["actlab: n_bins should be greater than or equal to 1, got 0"]
    info = actlab_process("info", run)
    assert (info.returncode, info.stderr) == (0, "")
