"""One tree of errors, one clear line each."""

import pytest

import actlab
from actlab import errors
from actlab.errors import ActlabError, SelectionError, nearest, nearest_number, with_nearest

BUILTIN = {
    "AxisError": ValueError,
    "StoreError": OSError,
    "RecipeError": ValueError,
    "SelectionError": KeyError,
    "MissingDependencyError": ImportError,
}


@pytest.mark.parametrize(("name", "builtin"), BUILTIN.items())
def test_every_error_is_ours_and_a_builtin_one_and_speaks_plainly(name, builtin):
    kind = getattr(errors, name)
    assert issubclass(kind, ActlabError)
    assert issubclass(kind, builtin)
    assert str(kind("no layer 'fd'")) == "no layer 'fd'"  # a KeyError alone would quote it
    assert str(kind()) == name


def test_the_table_above_names_every_error():
    kinds = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert kinds - {"ActlabError"} == BUILTIN.keys()


def test_errors_are_caught_as_their_builtin():
    with pytest.raises(KeyError):
        raise SelectionError("nothing there")


@pytest.mark.parametrize(
    ("name", "known", "answer"),
    [
        ("fd", ["fc", "conv1"], "did you mean 'fc'?"),
        ("FC", ["fc", "conv1"], "did you mean 'fc'?"),
        ("Conv", ["conv1", "conv2"], "did you mean 'conv1' or 'conv2'?"),
        ("xyz", ["fc", "conv1"], "valid names: 'fc', 'conv1'"),
        (
            "xyz",
            [f"{i:03}" for i in range(9)],
            "valid names: '000', '001', '002', '003', '004', '005', '006', '007', ...",
        ),
        ("xyz", [], "there are none"),
    ],
)
def test_nearest_names(name, known, answer):
    found = nearest(name, known)
    assert sorted(found) == sorted(answer)
    assert found.split("'")[0] == answer.split("'")[0]


@pytest.mark.parametrize(
    ("number", "known", "answer"),
    [
        (9, [0, 1, 2], "did you mean 2? known: 0 to 2"),
        (-9, [2, -1, 0], "did you mean -1? known: -1 to 2"),
        (5, range(0, 100, 3), "did you mean 3 or 6? known: 0 to 99"),
        (5, [7, 7], "did you mean 7? known: 7"),
        (5, [], "there are none"),
    ],
)
def test_nearest_numbers(number, known, answer):
    assert nearest_number(number, known) == answer


def test_an_unknown_keyword_gets_the_nearest():
    @with_nearest
    def draw(run, *, h_min=None):
        """Draw."""
        return run, h_min

    assert draw("a", h_min=2) == draw(run="a", h_min=2) == ("a", 2)
    assert draw.__doc__ == "Draw."
    with pytest.raises(TypeError, match=r"^draw\(\) has no option 'hmin': did you mean 'h_min'\?$"):
        draw("a", hmin=2)


@pytest.mark.parametrize("name", ["report", "compare_report"])
def test_pages_name_the_nearest_of_their_options(name):
    with pytest.raises(TypeError, match="did you mean 'h_min'"):
        getattr(actlab, name)("a.zarr", hmin=-1)
