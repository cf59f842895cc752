"""The recipe: a TOML file that says how a run becomes a page.

The envelope is checked here; the options of a chart belong to the chart's own model, which
`validated` reads in the same words.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shorten
from typing import Annotated, Any, Final, Self, TypeVar

import numpy as np
import tomlkit
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from actlab.axis import MAX_BINS, LinearAxis
from actlab.errors import RecipeError, nearest

__all__ = ["MAX_SIZE", "SECTIONS", "Recipe", "dump_recipe", "load_recipe", "merge", "read_toml", "validated"]

Model = TypeVar("Model", bound=BaseModel)

MAX_SIZE: Final = 7.0
"""Megabytes of a page that any mail takes."""

SECTIONS: Final = (
    "verdict",
    "wall",
    "detail",
    "twin_peaks",
    "per_class",
    "how_to_read",
    "numbers",
    "provenance",
)
"""The sections of a page below its title, in their usual order."""


def _plain(value: object) -> object:
    """Return numpy's scalars as Python's, so that `h_min=array.min()` works."""
    return value.item() if isinstance(value, np.generic) else value


def _known(names: list[str]) -> list[str]:
    """Refuse sections that there are not, or not once."""
    for name in names:
        if name not in SECTIONS:
            raise ValueError(f"unknown section {name!r} ({nearest(name, SECTIONS)})")
        if names.count(name) > 1:
            raise ValueError(f"section {name!r} is named twice")
    return names


_Float = Annotated[FiniteFloat, BeforeValidator(_plain)]
_Int = Annotated[int, BeforeValidator(_plain)]


class Recipe(BaseModel):
    """What the page shall show. Whatever is left out is decided by the run.

    Parameters
    ----------
    title : str, optional
        Heading of the page; else the name of the run.
    notes : str, optional
        A few sentences shown under the title, as Markdown; HTML in it stays text, and pictures are left out.
    h_min, h_max : float, optional
        Range of the histograms, in units of the activation; else a range that holds all but
        0.1 % of the values on each side.
    n_bins : int
        Number of bins, 1 to 10^6.
    layers : list of str, optional
        Patterns of layer names as in `fnmatch`; `!` in front excludes. Else all layers.
    epochs : list of int, optional
        Epoch labels to show, -1 for the evaluation before any training. Else all epochs.
    sections : list of str, optional
        Which of `SECTIONS` the page has below its title, and in which order. Else all of them, as far as
        the run has what they show.
    max_size : float
        The page has at most so many megabytes (10^6 bytes): they decide how many batches a column holds,
        and how fine its counts are.
    charts : dict
        Options of each chart, checked by the chart itself.
    limits : dict
        Thresholds of the rules of the verdict, checked by the rule itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: str | None = None
    notes: str | None = None
    h_min: _Float | None = None
    h_max: _Float | None = None
    n_bins: Annotated[_Int, Field(ge=1, le=MAX_BINS)] = 200
    layers: list[str] | None = None
    epochs: list[_Int] | None = None
    sections: Annotated[list[str], AfterValidator(_known)] | None = None
    max_size: Annotated[_Float, Field(gt=0)] = MAX_SIZE
    charts: dict[str, dict[str, Any]] = {}
    limits: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _range(self) -> Self:
        """Let the axis itself refuse an empty or too narrow range."""
        self.bins()
        return self

    def bins(self) -> LinearAxis | None:
        """Return the bins, where the recipe names both ends of the range; None where the run decides."""
        if self.h_min is None or self.h_max is None:
            return None
        return LinearAxis(self.h_min, self.h_max, self.n_bins)


def validated(model: type[Model], values: Mapping[str, Any], where: str = "") -> Model:
    """Check values against a pydantic model, and say in one line what is wrong.

    Parameters
    ----------
    model : type of pydantic.BaseModel
        The model to make.
    values : mapping
        Its fields.
    where : str
        What an error starts with, such as ``"recipe report.toml"``; may be empty.

    Returns
    -------
    pydantic.BaseModel
        An instance of `model`.

    Raises
    ------
    RecipeError
        For an unknown key (with the nearest valid one) or a wrong value (with what was expected).
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        # An unknown key explains a value that is missing elsewhere, so it is named first.
        details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        said = _explain(model, details[0])
        raise RecipeError(f"{where}: {said}" if where else said) from None


def _explain(model: type[BaseModel], detail: Mapping[str, Any]) -> str:
    """Put one of pydantic's errors into words that name the key."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key!r} ({nearest(key, model.model_fields)})"
    if detail["type"] == "value_error":
        reason = str(detail["ctx"]["error"])
        return f"{key}: {reason}" if key else reason
    expected = str(detail["msg"]).removeprefix("Input ").removeprefix("Field ")
    got = "" if detail["type"] == "missing" else f", got {shorten(detail['input'])}"
    return f"{key} {expected}{got}"


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read the tables of a recipe, or of its variants, unchecked.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Raises
    ------
    RecipeError
        If there is no such file, or it is not TOML.
    """
    where = f"recipe {path}"
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{where}: not a text file in UTF-8") from None
    except OSError as error:
        raise RecipeError(f"{where}: {error.strerror or error}") from None


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    Recipe

    Raises
    ------
    RecipeError
        If there is no such file, it is not TOML, or a key or value is wrong.
    """
    return validated(Recipe, read_toml(path), f"recipe {path}")


def merge(recipe: Recipe, **changes: Any) -> Recipe:
    """Put other values over those of a recipe.

    Parameters
    ----------
    recipe : Recipe
        What holds where nothing else is said.
    **changes
        Fields of `Recipe`; None leaves a field as it is.

    Returns
    -------
    Recipe
        A new recipe, checked as a whole.

    Raises
    ------
    RecipeError
        If a changed value is wrong, or does not fit the rest.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    return validated(Recipe, recipe.model_dump(exclude_unset=True) | given)


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as TOML.

    Parameters
    ----------
    recipe : Recipe
        Any recipe; fields that were not given, or have no value, are left out.

    Returns
    -------
    str
        Text that `load_recipe` reads back to an equal recipe.
    """
    values = recipe.model_dump(exclude_none=True, exclude_unset=True, exclude={"charts", "limits"})
    charts = {
        chart: {name: value for name, value in options.items() if value is not None}
        for chart, options in recipe.charts.items()
    }
    tables = {"charts": charts, "limits": recipe.limits}
    return tomlkit.dumps(values | {name: table for name, table in tables.items() if table})
