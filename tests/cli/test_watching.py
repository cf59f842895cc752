"""`actlab watch`: bad input, Ctrl-C, and the terminal."""

import io
import signal
import socket
import subprocess
import sys
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from actlab.cli import main
from actlab.cli.watching import draw
from actlab.live.watched import Watched


@pytest.fixture
def watch_cli(capsys):
    """Return a function that runs `actlab watch` and returns exit code, output and errors."""

    def run(*arguments):
        code = main(["watch", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(autouse=True)
def _as_usual(monkeypatch):
    """The tests go on as fast as they were."""
    monkeypatch.setattr("os.nice", lambda _: 0)


def test_a_closed_run_is_told_in_lines(watch_cli, small_run):
    code, out, err = watch_cli(small_run.path, "--text")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("untrained: valid 3 batches")
    assert [line.split(":")[0] for line in lines[1:4]] == ["epoch 0", "epoch 1", "epoch 2"]
    assert "train 9 batches, loss " in lines[1]
    assert "YES and NO" in lines[1]
    assert any(line.startswith("error: ") and "wild" in line for line in lines)
    assert lines[-1] == f"{small_run.path}: closed"


@pytest.mark.parametrize("width", [80, 40])
def test_the_terminal_is_filled_and_no_more(small_run, width):
    watched = Watched(small_run.path)
    assert any([*watched.look()])
    while not watched.is_over:
        time.sleep(0.05)
    file = io.StringIO()
    console = Console(file=file, width=width, height=30, color_system=None, markup=False, highlight=False)
    console.print(draw(console, watched))
    watched.stop()
    lines = file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    assert lines[0].startswith("run")
    assert any(line.startswith("validation") for line in lines)
    assert any("\N{FULL BLOCK}" in line for line in lines)
    assert any(line.startswith("body.relu") for line in lines)
    assert "wild" in file.getvalue()


def test_a_terminal_without_such_letters_is_drawn_in_ascii(small_run):
    watched = Watched(small_run.path)
    assert any([*watched.look()])
    watched.stop()
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", errors="replace")
    console = Console(file=file, width=80, height=30, color_system=None)
    console.print(draw(console, watched))
    file.flush()
    assert b"##" in raw.getvalue()


class TestBadInput:
    def test_a_file(self, watch_cli, tmp_path):
        (tmp_path / "run.zarr").write_text("x")
        for option in ((), ("--text",)):
            code, out, err = watch_cli(tmp_path / "run.zarr", *option)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert "is a file, expected the directory of a run" in err

    def test_a_port_in_use_names_the_next_step(self, watch_cli, small_run):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            code, out, err = watch_cli(small_run.path, "--port", port)
        assert (code, out) == (2, "")
        said = "is in use; name another one, or --port 0 for any that is free"
        assert err == f"actlab: port {port} {said}\n"

    def test_a_port_that_is_none(self, watch_cli, small_run):
        code, out, err = watch_cli(small_run.path, "--port", 70000)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "--port" in err


@pytest.mark.parametrize("option", [(), ("--port", "0")])
def test_ctrl_c_while_waiting_ends_it_quietly(tmp_path, option):
    words = [sys.executable, "-m", "actlab", "watch", *(option or ("--text",)), str(tmp_path / "later.zarr")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert "is not there yet" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=30)
    assert (watching.returncode, err) == (0, "")
