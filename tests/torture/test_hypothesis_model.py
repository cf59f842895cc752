"""The state machine: its quick form, and that it sees what is wrong."""

import shutil

import pytest

from tests.torture import hypothesis_model


def test_the_run_holds_what_the_writer_said():
    (result,) = hypothesis_model.run(long=False, seed=1)
    assert result.passed, result.notes


@pytest.fixture
def machine():
    made = hypothesis_model.Recording()
    made.append(12)
    made.flush()
    yield made
    made.writer.close()
    shutil.rmtree(made.folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda machine: machine.acked.append(("train", 0, 99)),
        lambda machine: machine.acked.reverse(),
        lambda machine: machine.starts.append(3),
    ],
    ids=["a row is lost", "rows change places", "an attempt is lost"],
)
def test_a_run_that_differs_from_the_list_is_found(change, machine):
    machine.visible()
    change(machine)
    machine.root = b""
    with pytest.raises(AssertionError):
        machine.visible()
