"""What a page is asked to show: the recipe, and the options of each chart by the chart's own model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from actlab.errors import RecipeError, nearest
from actlab.recipe import Recipe, load_recipe, merge, validated

__all__ = ["read_options", "read_recipe"]


def read_recipe(
    recipe: str | Path | Recipe | None, *, layers: str | Sequence[str] | None, **changes: Any
) -> tuple[Recipe, str]:
    """Read a recipe, and put the options of a call over it.

    Parameters
    ----------
    recipe : str, pathlib.Path, Recipe or None
        A file or a recipe; None for nothing but the options.
    layers : str or sequence of str, optional
        Patterns of layer names.
    **changes
        Other fields of `Recipe`; None leaves a field as it is.

    Returns
    -------
    recipe : Recipe
    where : str
        What an error about it starts with: the file, if there is one.

    Raises
    ------
    RecipeError
        If the recipe or an option is wrong.
    """
    where, wish = "", recipe or Recipe()
    if not isinstance(wish, Recipe):
        where, wish = f"recipe {recipe}: ", load_recipe(wish)
    lists = {
        name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in changes.items()
    }
    patterns = [layers] if isinstance(layers, str) else None if layers is None else list(layers)
    return merge(wish, layers=patterns, **lists), where


def read_options(recipe: Recipe, models: Mapping[str, type[BaseModel]], where: str) -> dict[str, Any]:
    """Check the options of each chart by its own model.

    Parameters
    ----------
    recipe : Recipe
        What is wanted.
    models : mapping of str to type of pydantic.BaseModel
        The charts that the page knows.
    where : str
        What an error starts with; may be empty.

    Returns
    -------
    dict of str to pydantic.BaseModel
        By chart, the defaults where the recipe says nothing.

    Raises
    ------
    RecipeError
        For an unknown chart, a wrong option, or the width of a chart that fills the window.
    """
    for name in recipe.charts:
        if name not in models:
            raise RecipeError(f"{where}unknown chart {name!r} ({nearest(name, models)})")
        if "width" in recipe.charts[name] and "width" in models[name].model_fields:
            said = "on a page it fills the window; leave width out"
            raise RecipeError(f"{where}charts.{name}: width is for pictures in notebooks and papers, {said}")
    return {
        name: validated(model, recipe.charts.get(name, {}), f"{where}charts.{name}")
        for name, model in models.items()
    }
